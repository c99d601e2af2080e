// Rows of a matrix that tokens stand for, and what experts are chosen.
#include "weights.cuh"

struct Embed {
    Weights w;              // [vocab, width]
    const int32_t* tokens;  // [tokens]
    float* x;               // [tokens, width]
    float scale;
};

template <class T>
__device__ void embed_dense(const Embed& p) {
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= p.w.columns) return;
    int64_t row = p.tokens[blockIdx.y];
    p.x[int64_t(blockIdx.y) * p.w.columns + at] = wide(((const T*)p.w.low)[row * p.w.columns + at]) * p.scale;
}

template <class Q>
__device__ void embed_quant(const Embed& p) {
    int group = blockIdx.x * blockDim.x + threadIdx.x, groups = p.w.columns / 32;
    if (group >= groups) return;
    Group<Q::GROUPS> of = Q::load(p.w, int64_t(p.tokens[blockIdx.y]) * groups + group);
    float* x = p.x + int64_t(blockIdx.y) * p.w.columns + group * 32;
    for (int i = 0; i < 32; i++) x[i] = Q::value(of, i) * p.scale;
}

#define EMBED_QUANT(NAME, TYPE) KERNEL(embed_##NAME, Embed, 128, embed_quant<TYPE>)
KERNEL(embed_f32, Embed, 128, embed_dense<float>)
KERNEL(embed_f16, Embed, 128, embed_dense<f16>)
KERNEL(embed_bf16, Embed, 128, embed_dense<bf16>)
EACH_QUANT(EMBED_QUANT)

struct Route {
    const float* scores;  // [tokens, experts]
    int32_t* chosen;      // [tokens, used]
    float* weights;       // [tokens, used]
    int32_t experts, used;
    int32_t normalized;  // 1: a token's weights add up to one
};

// A warp a token. Of equal scores the first expert comes first.
__device__ void choose(const Route& p) {
    int64_t token = blockIdx.x;
    int lane = threadIdx.x;
    const float* scores = p.scores + token * p.experts;
    float most = -INF;
    for (int i = lane; i < p.experts; i += 32) most = fmaxf(most, scores[i]);
    most = warp_max(most);
    float total = 0.f;
    for (int i = lane; i < p.experts; i += 32) total += expf(scores[i] - most);
    total = warp_sum(total);
    // The last that was chosen: others come after it.
    float last = INF, sum = 0.f;
    int last_at = -1;
    for (int n = 0; n < p.used; n++) {
        float best = -INF;
        int at = p.experts;
        for (int i = lane; i < p.experts; i += 32) {
            bool left = scores[i] < last || (scores[i] == last && i > last_at);
            if (left && (scores[i] > best || at == p.experts)) best = scores[i], at = i;
        }
        for (int lanes = 16; lanes > 0; lanes /= 2) {
            float other = __shfl_xor_sync(EVERY_LANE, best, lanes);
            int other_at = __shfl_xor_sync(EVERY_LANE, at, lanes);
            if (other_at < p.experts && (at == p.experts || other > best || (other == best && other_at < at)))
                best = other, at = other_at;
        }
        last = best, last_at = at;
        float weight = expf(best - most);
        sum += weight;
        // Scores that are no numbers choose nobody; the logits say so.
        if (lane == 0) p.chosen[token * p.used + n] = min(at, p.experts - 1), p.weights[token * p.used + n] = weight;
    }
    __syncwarp();
    if (lane < p.used)
        for (int n = lane; n < p.used; n += 32) p.weights[token * p.used + n] /= p.normalized ? sum : total;
}
KERNEL(route, Route, 32, choose)

struct Combine {
    const float* made;     // of the chosen experts: [tokens, used, width]
    const float* weights;  // [tokens, used]
    float* out;            // [tokens, width]
    int32_t width, used;
};

__device__ void add_up(const Combine& p) {
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= p.width) return;
    int64_t token = blockIdx.y;
    float sum = 0.f;
    for (int n = 0; n < p.used; n++)
        sum += p.weights[token * p.used + n] * p.made[(token * p.used + n) * p.width + at];
    p.out[token * p.width + at] = sum;
}
KERNEL(combine, Combine, 128, add_up)
