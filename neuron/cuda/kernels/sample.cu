// From logits to tokens, a block a row, and no sort: what may be drawn is found digit by digit of the logits' bits, by
// counting (top_k) and by weighing (top_p). Weights are added up as integers, so that the same row gives the same token.
//
// The order is that of the sampler on the host: temperature, min_p, top_k, top_p, draw; of equal logits the first ones.
#include "base.cuh"

struct Draw {
    float temperature;  // 0: the first of the largest
    float top_p;        // 1: all
    float min_p;        // 0: all
    float unit;         // a random number in [0, 1)
    int32_t top_k;      // 0: all
};

struct Sample {
    const float* logits;  // [rows, vocab]
    const Draw* draws;    // [rows]
    int32_t* tokens;      // [rows]; -1 where no logit is a number
    int32_t vocab;
};

constexpr int SAMPLE_THREADS = 512;
using Weight = unsigned long long;

// Larger floats have larger keys; what is no number has the least.
__device__ inline uint32_t key_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if (x != x) return 0;
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

// What is left of a row: all keys above `key`, and of those that equal it the first `equals`.
struct Kept {
    uint32_t key;
    Weight equals;
};

struct Search {
    const float* logits;
    int vocab;
    float largest, by;
    Weight* bins;     // [256], shared
    Weight* scratch;  // [3], shared

    __device__ Weight weight(float x) const { return Weight(expf((x - largest) * by) * 1099511627776.f); }

    // Where `wanted`, as a number of tokens or as their weight, is reached from above, within `kept`.
    template <bool WEIGHS>
    __device__ Kept reach(Weight wanted, Kept kept) {
        uint32_t found = 0;
        for (int shift = 24; shift >= 0; shift -= 8) {
            for (int i = threadIdx.x; i < 256; i += blockDim.x) bins[i] = 0;
            __syncthreads();
            uint32_t above = shift == 24 ? 0 : 0xffffffffu << (shift + 8);
            for (int i = threadIdx.x; i < vocab; i += blockDim.x) {
                uint32_t key = key_of(logits[i]);
                // All that equal the last that is kept are counted here, and cut off below.
                if (key == 0 || key < kept.key || (key & above) != found) continue;
                atomicAdd(&bins[(key >> shift) & 255], WEIGHS ? weight(logits[i]) : Weight(1));
            }
            __syncthreads();
            if (threadIdx.x == 0) {
                int bin = 255;
                // The last one takes what rounding leaves.
                for (; bin > 0 && bins[bin] < wanted; bin--) wanted -= bins[bin];
                while (bin < 255 && bins[bin] == 0) bin++;
                scratch[0] = bin, scratch[1] = wanted;
            }
            __syncthreads();
            found |= uint32_t(scratch[0]) << shift;
            wanted = scratch[1];
            __syncthreads();
        }
        Weight each = 1;
        if (WEIGHS) {
            uint32_t bits = found >> 31 ? found & 0x7fffffffu : ~found;
            float x;
            memcpy(&x, &bits, 4);
            each = weight(x);
        }
        Weight equals = each ? (wanted + each - 1) / each : 1;
        if (equals == 0) equals = 1;
        if (found == kept.key && kept.equals < equals) equals = kept.equals;
        return Kept{found, equals};
    }
};

__device__ void draw_row(const Sample& p) {
    SHARED(Weight, bins, 256);
    SHARED(Weight, scratch, 4);
    SHARED(float, floats, 32);
    SHARED(Weight, sums, SAMPLE_THREADS);
    SHARED(int32_t, counts, SAMPLE_THREADS);
    int thread = threadIdx.x;
    Draw draw = p.draws[blockIdx.x];
    const float* logits = p.logits + int64_t(blockIdx.x) * p.vocab;

    float own = -INF;
    int numbers = 0;
    for (int i = thread; i < p.vocab; i += blockDim.x)
        if (logits[i] == logits[i]) own = fmaxf(own, logits[i]), numbers = 1;
    float largest = block_max(own, floats);
    bool any = block_max(float(numbers), floats) > 0.f;
    float by = 1.f / draw.temperature;
    bool cold = draw.temperature <= 0.f || !(fabsf(largest) < INF) || !(by < INF);

    Kept kept{1, ~Weight(0)};
    Search search{logits, p.vocab, largest, by, bins, scratch};
    if (cold) {
        kept = Kept{key_of(largest), 1};
    } else {
        if (draw.min_p > 0.f) kept.key = key_of(fminf(largest + draw.temperature * logf(draw.min_p), largest));
        if (draw.top_k > 0 && draw.top_k < p.vocab) {
            int more = 0;
            for (int i = thread; i < p.vocab; i += blockDim.x) more += key_of(logits[i]) >= kept.key;
            if (block_sum(float(more), floats) > float(draw.top_k)) kept = search.reach<false>(draw.top_k, kept);
        }
    }
    // A thread has neighbours of the vocabulary, so that the first of equal ones are known as such.
    int each = (p.vocab + blockDim.x - 1) / blockDim.x, from = min(p.vocab, thread * each), to = min(p.vocab, from + each);
    for (int pass = 0;; pass++) {
        int equal = 0;
        for (int i = from; i < to; i++) equal += key_of(logits[i]) == kept.key;
        counts[thread] = equal;
        __syncthreads();
        Weight before = 0;
        for (int i = 0; i < thread; i++) before += counts[i];
        Weight sum = 0, rank = before;
        for (int i = from; i < to; i++) {
            uint32_t key = key_of(logits[i]);
            if (key > kept.key || (key == kept.key && key > 0 && rank++ < kept.equals)) sum += cold ? 1 : search.weight(logits[i]);
        }
        sums[thread] = sum;
        __syncthreads();
        if (thread == 0) {
            Weight total = 0;
            for (int i = 0; i < int(blockDim.x); i++) {
                Weight here = sums[i];
                sums[i] = total;
                total += here;
            }
            scratch[3] = total;
        }
        __syncthreads();
        Weight total = scratch[3];
        if (pass == 0 && !cold && draw.top_p < 1.f) {
            __syncthreads();
            Weight wanted = Weight(double(draw.top_p) * double(total));
            kept = search.reach<true>(wanted > 0 ? wanted : 1, kept);
            continue;
        }
        // The one within whose weight the random number falls.
        Weight aim = Weight(double(draw.unit) * double(total));
        if (aim >= total && total > 0) aim = total - 1;
        if (thread == 0 && !any) p.tokens[blockIdx.x] = -1;
        Weight at = sums[thread];
        rank = before;
        if (any && aim >= at && aim < at + sum) {
            for (int i = from; i < to; i++) {
                uint32_t key = key_of(logits[i]);
                if (!(key > kept.key || (key == kept.key && key > 0 && rank++ < kept.equals))) continue;
                at += cold ? 1 : search.weight(logits[i]);
                if (aim < at) {
                    p.tokens[blockIdx.x] = i;
                    break;
                }
            }
        }
        return;
    }
}
KERNEL(sample, Sample, SAMPLE_THREADS, draw_row)
