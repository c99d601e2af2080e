// What the matrix of queries, keys and values gave: bias, the heads' norms, rotation, and keys and values into their places.
#include "base.cuh"

struct Rope {
    float* qkv;                // [tokens, (heads + 2 * kv_heads) * dim]; queries are written back
    const float* bias;         // [(heads + 2 * kv_heads) * dim]; null: none
    const float* query_norm;   // [dim]; null: none
    const float* key_norm;     // [dim]; null: none
    const float* frequencies;  // radians a position: [dim / 2]
    const int32_t* positions;  // [tokens]
    const int32_t* slots;      // block * 16 + place in it: [tokens]
    void* keys;                // [blocks, kv_heads, 16, dim]
    void* values;
    int32_t heads, kv_heads, dim;
    float epsilon;
};

// A warp a head.
template <class C>
__device__ void rope(const Rope& p) {
    int head = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    int heads = p.heads + 2 * p.kv_heads;
    if (head >= heads) return;
    int64_t token = blockIdx.y;
    float* x = p.qkv + (token * heads + head) * p.dim;
    const float* bias = p.bias ? p.bias + int64_t(head) * p.dim : nullptr;
    bool query = head < p.heads, value = head >= p.heads + p.kv_heads;
    const float* norm = query ? p.query_norm : value ? nullptr : p.key_norm;
    float scale = 1.f;
    if (norm) {
        float squares = 0.f;
        for (int i = lane; i < p.dim; i += 32) {
            float own = x[i] + (bias ? bias[i] : 0.f);
            squares += own * own;
        }
        scale = 1.f / sqrtf(warp_sum(squares) / p.dim + p.epsilon);
    }
    int half = p.dim / 2;
    C* stored = nullptr;
    if (!query) {
        int kv_head = (head - p.heads) % p.kv_heads;
        int64_t block = p.slots[token] / 16, place = p.slots[token] % 16;
        stored = (C*)(value ? p.values : p.keys) + ((block * p.kv_heads + kv_head) * 16 + place) * p.dim;
    }
    for (int i = lane; i < half; i += 32) {
        float first = x[i] + (bias ? bias[i] : 0.f), second = x[i + half] + (bias ? bias[i + half] : 0.f);
        if (norm) first *= scale * norm[i], second *= scale * norm[i + half];
        if (!value) {
            float sine, cosine, angle = float(p.positions[token]) * p.frequencies[i];
            sincosf(angle, &sine, &cosine);
            float turned = first * cosine - second * sine;
            second = second * cosine + first * sine;
            first = turned;
        }
        if (query) {
            x[i] = first, x[i + half] = second;
        } else {
            stored[i] = narrow<C>(first), stored[i + half] = narrow<C>(second);
        }
    }
}

KERNEL(rope_f32, Rope, 128, rope<float>)
KERNEL(rope_f16, Rope, 128, rope<f16>)
KERNEL(rope_bf16, Rope, 128, rope<bf16>)
KERNEL(rope_f8, Rope, 128, rope<f8>)
