// Attention of many tokens of a sequence at once, over blocks of keys and values, by the tensor cores. No matrix of scores
// is ever written: the weights of a tile are made and used in registers.
#pragma once
#include "mma.cuh"

struct Prefill {
    const float* qkv;          // [tokens, stride], a token's queries first: [heads, dim]
    const int32_t* tiles;      // first token and how many, up to 64: [tiles, 2]
    const int32_t* positions;  // [tokens]
    const int32_t* starts;     // where a token's blocks begin in `tables`: [tokens]
    const int32_t* tables;     // blocks of 16 positions
    const void* keys;          // [blocks, kv_heads, 16, dim]
    const void* values;
    void* out;  // [tokens, heads * dim]
    int64_t stride;
    int32_t heads, kv_heads, dim;
    int32_t window;  // positions that are seen; 0: all
    float scale;
};

constexpr int PREFILL_THREADS = 128;
constexpr int PREFILL_TOKENS = 64;

// Eight of what is stored, as what is computed with.
template <class S, class C>
struct Eight {
    __device__ static uint4 of(const S* from) { return *(const uint4*)from; }
};
template <class C>
struct Eight<f8, C> {
    __device__ static uint4 of(const f8* from) {
        alignas(8) f8 held[8];
        *(uint2*)held = *(const uint2*)from;
        uint32_t words[4];
#pragma unroll
        for (int i = 0; i < 4; i++) words[i] = pair<C>(wide(held[2 * i]), wide(held[2 * i + 1]));
        return uint4{words[0], words[1], words[2], words[3]};
    }
};

// A block: 64 tokens of one head, sixteen a warp. S: keys and values as they are stored; C: what is computed with.
template <class S, class C, class A, int DIM, int TILE>
__device__ void prefill(const Prefill& p) {
    constexpr int STRIDE = DIM + 8, STEPS = DIM / 16;
    SHARED(C, keys, TILE * STRIDE);
    SHARED(C, values, TILE * STRIDE);
    int thread = threadIdx.x, lane = thread % 32, g = lane / 4, t = lane % 4;
    int first = p.tiles[blockIdx.x * 2], count = p.tiles[blockIdx.x * 2 + 1];
    int head = blockIdx.y, kv_head = head / (p.heads / p.kv_heads);
    int row = thread / 32 * 16 + g, start = p.positions[first], end = start + count;
    const int32_t* table = p.tables + p.starts[first];

    uint32_t queries[STEPS][4];
#pragma unroll
    for (int step = 0; step < STEPS; step++)
        for (int i = 0; i < 4; i++) {
            int own = row + i % 2 * 8, at = step * 16 + i / 2 * 8 + 2 * t;
            const float* x = p.qkv + (first + own) * p.stride + int64_t(head) * p.dim + at;
            queries[step][i] = own < count && at < p.dim ? pair<C>(x[0], x[1]) : 0;
        }
    float sums[DIM / 8][4] = {}, largest[2] = {-INF, -INF}, weights[2] = {0.f, 0.f};

    int from = p.window > 0 ? max(0, start + 1 - p.window) / TILE * TILE : 0;
    for (int tile = from; tile < end; tile += TILE) {
        __syncthreads();
        for (int i = thread; i < TILE * DIM / 8; i += PREFILL_THREADS) {
            int at = i / (DIM / 8), column = i % (DIM / 8) * 8, position = tile + at;
            uint4 key = {0, 0, 0, 0}, value = {0, 0, 0, 0};
            if (position < end && column < p.dim) {
                int64_t place = (int64_t(table[position / 16]) * p.kv_heads + kv_head) * 16 + position % 16;
                key = Eight<S, C>::of((const S*)p.keys + place * p.dim + column);
                value = Eight<S, C>::of((const S*)p.values + place * p.dim + column);
            }
            *(uint4*)(keys + at * STRIDE + column) = key;
            *(uint4*)(values + at * STRIDE + column) = value;
        }
        __syncthreads();

        float scores[TILE / 8][4] = {};
#pragma unroll
        for (int n = 0; n < TILE / 8; n++)
#pragma unroll
            for (int step = 0; step < STEPS; step++) {
                const C* key = keys + (n * 8 + g) * STRIDE + step * 16 + 2 * t;
                uint32_t b[2] = {*(const uint32_t*)key, *(const uint32_t*)(key + 8)};
                mma<C>(scores[n], queries[step], b);
            }
        float most[2] = {largest[0], largest[1]};
#pragma unroll
        for (int n = 0; n < TILE / 8; n++)
            for (int i = 0; i < 4; i++) {
                int query = start + row + i / 2 * 8, key = tile + n * 8 + 2 * t + i % 2;
                bool seen = key <= query && (p.window == 0 || key > query - p.window);
                scores[n][i] = seen ? scores[n][i] * p.scale : -INF;
                most[i / 2] = fmaxf(most[i / 2], scores[n][i]);
            }
        float shrink[2];
        for (int half = 0; half < 2; half++) {
            most[half] = fmaxf(most[half], __shfl_xor_sync(EVERY_LANE, most[half], 1));
            most[half] = fmaxf(most[half], __shfl_xor_sync(EVERY_LANE, most[half], 2));
            // Of a row that has seen nothing yet nothing is kept.
            shrink[half] = most[half] == -INF ? 0.f : expf(largest[half] - most[half]);
            largest[half] = most[half];
            weights[half] *= shrink[half];
        }
#pragma unroll
        for (int n = 0; n < TILE / 8; n++)
            for (int i = 0; i < 4; i++) {
                scores[n][i] = most[i / 2] == -INF ? 0.f : expf(scores[n][i] - most[i / 2]);
                weights[i / 2] += scores[n][i];
            }
#pragma unroll
        for (int n = 0; n < DIM / 8; n++)
            for (int i = 0; i < 4; i++) sums[n][i] *= shrink[i / 2];
#pragma unroll
        for (int step = 0; step < TILE / 16; step++) {
            uint32_t a[4];
            for (int i = 0; i < 4; i++) {
                const float* of = scores[step * 2 + i / 2];
                a[i] = pair<C>(of[i % 2 * 2], of[i % 2 * 2 + 1]);
            }
#pragma unroll
            for (int n = 0; n < DIM / 8; n++) {
                const C* value = values + (step * 16 + 2 * t) * STRIDE + n * 8 + g;
                uint32_t b[2];
                for (int i = 0; i < 2; i++)
                    b[i] = uint32_t(value[i * 8 * STRIDE].bits) | (uint32_t(value[(i * 8 + 1) * STRIDE].bits) << 16);
                mma<C>(sums[n], a, b);
            }
        }
    }
    for (int half = 0; half < 2; half++) {
        weights[half] += __shfl_xor_sync(EVERY_LANE, weights[half], 1);
        weights[half] += __shfl_xor_sync(EVERY_LANE, weights[half], 2);
    }
#pragma unroll
    for (int n = 0; n < DIM / 8; n++)
        for (int i = 0; i < 4; i++) {
            int own = row + i / 2 * 8, at = n * 8 + 2 * t + i % 2;
            if (own >= count || at >= p.dim) continue;
            A* out = (A*)p.out + (int64_t(first + own) * p.heads + head) * p.dim;
            out[at] = narrow<A>(sums[n][i] / weights[i / 2]);
        }
}

#define PREFILL_AS(NAME, TYPE, WITH, AS, OUT)                                                          \
    KERNEL(prefill_##NAME##_##AS##_64, Prefill, PREFILL_THREADS, prefill<TYPE, WITH, OUT, 64, 64>)   \
    KERNEL(prefill_##NAME##_##AS##_128, Prefill, PREFILL_THREADS, prefill<TYPE, WITH, OUT, 128, 64>) \
    KERNEL(prefill_##NAME##_##AS##_256, Prefill, PREFILL_THREADS, prefill<TYPE, WITH, OUT, 256, 32>)
#define PREFILL(NAME, TYPE, WITH)            \
    PREFILL_AS(NAME, TYPE, WITH, f32, float) \
    PREFILL_AS(NAME, TYPE, WITH, f16, f16)   \
    PREFILL_AS(NAME, TYPE, WITH, bf16, bf16)
