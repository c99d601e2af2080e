// Attention of single tokens over blocks of keys and values, the positions split over thread blocks: a split's part is
// what it saw, and `merge` puts the parts of a head together.
#include "base.cuh"

struct Decode {
    const float* qkv;          // [tokens, stride], a token's queries first: [heads, dim]
    const int32_t* rows;       // which tokens: [rows]
    const int32_t* positions;  // [tokens]
    const int32_t* starts;     // where a token's blocks begin in `tables`: [tokens]
    const int32_t* tables;     // blocks of 16 positions
    const void* keys;          // [blocks, kv_heads, 16, dim]
    const void* values;
    float* parts;  // [rows, heads, splits, dim + 2]: sum, then the largest score and the sum of weights
    int64_t stride;
    int32_t heads, kv_heads, dim;
    int32_t window;  // positions that are seen; 0: all
    int32_t splits;
    float scale;
};

constexpr int DECODE_THREADS = 128;
constexpr int TILE = 64;
constexpr int MOST_HEADS = 8;

// The positions of one split: [from, to).
__device__ inline void split_range(int position, int window, int splits, int split, int& from, int& to) {
    int end = position + 1, start = window > 0 ? max(0, end - window) : 0;
    int each = ((end - start + splits - 1) / splits + TILE - 1) / TILE * TILE;
    from = start + split * each;
    to = min(end, from + each);
}

// A block: one split, up to MOST_HEADS heads that share keys and values, one token.
template <class C, int DIM>
__device__ void decode(const Decode& p) {
    constexpr int VECTOR = 16 / sizeof(C);
    SHARED(float, queries, MOST_HEADS * DIM);
    SHARED(float, scores, MOST_HEADS * TILE);
    SHARED(float, largest, MOST_HEADS);
    SHARED(float, weight, MOST_HEADS);
    SHARED(float, shrink, MOST_HEADS);
    int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    int each = p.heads / p.kv_heads, chunks = (each + MOST_HEADS - 1) / MOST_HEADS;
    int kv_head = blockIdx.y / chunks, first = blockIdx.y % chunks * MOST_HEADS;
    int count = min(MOST_HEADS, each - first), head = kv_head * each + first;
    int token = p.rows[blockIdx.z], from, to;
    split_range(p.positions[token], p.window, p.splits, blockIdx.x, from, to);
    float* parts = p.parts + ((int64_t(blockIdx.z) * p.heads + head) * p.splits + blockIdx.x) * (p.dim + 2);
    int64_t next_head = int64_t(p.splits) * (p.dim + 2);
    if (from >= to) {
        if (thread < count) parts[thread * next_head + p.dim] = -INF, parts[thread * next_head + p.dim + 1] = 0.f;
        return;
    }
    const float* own = p.qkv + token * p.stride + int64_t(head) * p.dim;
    for (int i = thread; i < count * p.dim; i += DECODE_THREADS) queries[i] = own[i];
    if (thread < count) largest[thread] = -INF, weight[thread] = 0.f;
    __syncthreads();

    const int32_t* table = p.tables + p.starts[token];
    int pairs = p.dim / 2, teams = DECODE_THREADS / pairs, team = thread / pairs, column = thread % pairs * 2;
    float sums[MOST_HEADS][2] = {};
    for (int tile = from; tile < to; tile += TILE) {
        // Eight lanes a position.
        for (int at = thread / 8; at < TILE; at += DECODE_THREADS / 8) {
            int position = tile + at;
            float dots[MOST_HEADS] = {};
            if (position < to) {
                int64_t place = (int64_t(table[position / 16]) * p.kv_heads + kv_head) * 16 + position % 16;
                const C* key = (const C*)p.keys + place * p.dim;
                for (int i = lane % 8 * VECTOR; i < p.dim; i += 8 * VECTOR) {
                    alignas(16) C held[VECTOR];
                    *(uint4*)held = *(const uint4*)(key + i);
                    for (int j = 0; j < VECTOR; j++) {
                        float x = wide(held[j]);
                        for (int h = 0; h < MOST_HEADS; h++)
                            if (h < count) dots[h] += x * queries[h * p.dim + i + j];
                    }
                }
            }
            for (int h = 0; h < MOST_HEADS; h++) {
                if (h >= count) break;
                for (int lanes = 4; lanes > 0; lanes /= 2) dots[h] += __shfl_xor_sync(EVERY_LANE, dots[h], lanes);
                if (lane % 8 == 0) scores[h * TILE + at] = position < to ? dots[h] * p.scale : -INF;
            }
        }
        __syncthreads();
        for (int h = warp; h < count; h += DECODE_THREADS / 32) {
            float* of = scores + h * TILE;
            float before = largest[h], now = fmaxf(before, warp_max(fmaxf(of[lane], of[lane + 32])));
            float a = expf(of[lane] - now), b = expf(of[lane + 32] - now), total = warp_sum(a + b);
            of[lane] = a, of[lane + 32] = b;
            if (lane == 0) {
                shrink[h] = expf(before - now);
                weight[h] = weight[h] * shrink[h] + total;
                largest[h] = now;
            }
        }
        __syncthreads();
        if (team < teams) {
            for (int h = 0; h < MOST_HEADS; h++)
                if (h < count) sums[h][0] *= shrink[h], sums[h][1] *= shrink[h];
            for (int at = team; at < min(TILE, to - tile); at += teams) {
                int position = tile + at;
                int64_t place = (int64_t(table[position / 16]) * p.kv_heads + kv_head) * 16 + position % 16;
                const C* value = (const C*)p.values + place * p.dim + column;
                float x = wide(value[0]), y = wide(value[1]);
                for (int h = 0; h < MOST_HEADS; h++)
                    if (h < count) sums[h][0] += scores[h * TILE + at] * x, sums[h][1] += scores[h * TILE + at] * y;
            }
        }
        __syncthreads();
    }
    // The teams' sums, one team after the other, where the queries were.
    for (int turn = 0; turn < teams; turn++) {
        if (team == turn)
            for (int h = 0; h < count; h++) {
                float* sum = queries + h * p.dim + column;
                sum[0] = (turn ? sum[0] : 0.f) + sums[h][0];
                sum[1] = (turn ? sum[1] : 0.f) + sums[h][1];
            }
        __syncthreads();
    }
    for (int h = 0; h < count; h++) {
        for (int i = thread; i < p.dim; i += DECODE_THREADS) parts[h * next_head + i] = queries[h * p.dim + i];
        if (thread == 0) parts[h * next_head + p.dim] = largest[h], parts[h * next_head + p.dim + 1] = weight[h];
    }
}

#define DECODE(NAME, TYPE)                                             \
    KERNEL(decode_##NAME##_64, Decode, DECODE_THREADS, decode<TYPE, 64>)   \
    KERNEL(decode_##NAME##_128, Decode, DECODE_THREADS, decode<TYPE, 128>) \
    KERNEL(decode_##NAME##_256, Decode, DECODE_THREADS, decode<TYPE, 256>)
DECODE(f32, float)
DECODE(f16, f16)
DECODE(bf16, bf16)
DECODE(f8, f8)

struct Merge {
    const float* parts;   // [rows, heads, splits, dim + 2]
    const int32_t* rows;  // [rows]
    void* out;            // [tokens, heads * dim]
    void* groups;         // where out is in 8 bits: Rounded [tokens, heads * dim / 32]
    int32_t heads, dim, splits;
};

template <class A>
__device__ void merge(const Merge& p) {
    int width = p.heads * p.dim, at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= width) return;
    int head = at / p.dim, i = at % p.dim;
    const float* parts = p.parts + (int64_t(blockIdx.y) * p.heads + head) * p.splits * (p.dim + 2);
    float largest = -INF, sum = 0.f, weights = 0.f;
    for (int s = 0; s < p.splits; s++) largest = fmaxf(largest, parts[s * (p.dim + 2) + p.dim]);
    for (int s = 0; s < p.splits; s++) {
        const float* part = parts + s * (p.dim + 2);
        // What an empty split has for a sum was never written.
        if (part[p.dim + 1] == 0.f) continue;
        float scale = expf(part[p.dim] - largest);
        sum += scale * part[i];
        weights += scale * part[p.dim + 1];
    }
    Sink<A> sink(p.out, p.groups, p.rows[blockIdx.y], width);
    sink.put(at, sum / weights);
}

KERNEL(merge_f32, Merge, 128, merge<float>)
KERNEL(merge_f16, Merge, 128, merge<f16>)
KERNEL(merge_bf16, Merge, 128, merge<bf16>)
KERNEL(merge_q8, Merge, 128, merge<int8_t>)
