// Many rows of activations times a matrix, by the tensor cores; quantised matrices are widened a tile at a time, on the
// way from memory to the cores. Where cuBLAS is there, matrices of floats are multiplied by it.
#include "mma.cuh"
#include "weights.cuh"

struct Gemm {
    Weights w;
    const void* x;  // [tokens, columns]
    float* out;     // [tokens, out_stride]
    int64_t out_stride;
    int32_t tokens;
};

constexpr int GEMM_THREADS = 256;
constexpr int STEP = 32;       // columns at a time
constexpr int PADDED = 40;     // so that a warp's rows begin in banks of their own
constexpr int WIDE = 128;      // rows of the matrix a block

// Sixteen columns of a row of the matrix, as two vectors; beyond the matrix zeros.
template <class T, class W>
struct Tile {
    // Of floats, as they are.
    __device__ static void fetch(const Weights& w, int row, int column, uint4 (&out)[2]) {
        for (int i = 0; i < 2; i++) {
            bool there = row < w.rows && column + i * 8 < w.columns;
            out[i] = there ? *(const uint4*)((const T*)w.low + int64_t(row) * w.columns + column + i * 8) : uint4{0, 0, 0, 0};
        }
    }
};

template <class T, int BITS, int GROUPS, bool MIN, int OFFSET>
struct Tile<T, Quant<BITS, GROUPS, MIN, OFFSET>> {
    __device__ static void fetch(const Weights& w, int row, int column, uint4 (&out)[2]) {
        using Q = Quant<BITS, GROUPS, MIN, OFFSET>;
        if (row >= w.rows || column >= w.columns) {
            out[0] = out[1] = uint4{0, 0, 0, 0};
            return;
        }
        Group<GROUPS> group = Q::load(w, int64_t(row) * (w.columns / 32) + column / 32);
        uint32_t words[8];
        int half = column % 32 / 16, part = GROUPS == 2 ? half : 0;
        for (int i = 0; i < 4; i++) {
            int q = half ? group.q[4 + i] : group.q[i];
            float x[4];
            for (int j = 0; j < 4; j++) {
                float scale = part ? group.scale[GROUPS - 1] : group.scale[0], min = part ? group.min[GROUPS - 1] : group.min[0];
                x[j] = scale * float(int8_t(q >> (8 * j))) + min;
            }
            words[2 * i] = pair<T>(x[0], x[1]), words[2 * i + 1] = pair<T>(x[2], x[3]);
        }
        out[0] = uint4{words[0], words[1], words[2], words[3]};
        out[1] = uint4{words[4], words[5], words[6], words[7]};
    }
};

// A block: TALL tokens and WIDE rows of the matrix; its eight warps are DOWN times 8 / DOWN.
template <class T, class W, int TALL, int DOWN>
__device__ void gemm(const Gemm& p) {
    constexpr int ACROSS = 8 / DOWN, DOWN_TILES = TALL / DOWN / 16, ACROSS_TILES = WIDE / ACROSS / 8;
    constexpr int X_VECTORS = (TALL * STEP / 8 + GEMM_THREADS - 1) / GEMM_THREADS;
    SHARED(T, left, TALL * PADDED);
    SHARED(T, right, WIDE * PADDED);
    int thread = threadIdx.x, lane = thread % 32, warp = thread / 32, g = lane / 4, t = lane % 4;
    int token = blockIdx.y * TALL, row = blockIdx.x * WIDE, columns = p.w.columns;
    int down = warp / ACROSS * (TALL / DOWN), across = warp % ACROSS * (WIDE / ACROSS);
    float sums[DOWN_TILES][ACROSS_TILES][4] = {};
    uint4 x[X_VECTORS], w[2];

    auto fetch = [&](int column) {
        for (int i = 0; i < X_VECTORS; i++) {
            int vector = thread + i * GEMM_THREADS, own = token + vector / 4, at = column + vector % 4 * 8;
            bool there = vector < TALL * 4 && own < p.tokens && at < columns;
            x[i] = there ? *(const uint4*)((const T*)p.x + int64_t(own) * columns + at) : uint4{0, 0, 0, 0};
        }
        Tile<T, W>::fetch(p.w, row + thread / 2, column + thread % 2 * 16, w);
    };
    auto store = [&]() {
        for (int i = 0; i < X_VECTORS; i++) {
            int vector = thread + i * GEMM_THREADS;
            if (vector < TALL * 4) *(uint4*)(left + vector / 4 * PADDED + vector % 4 * 8) = x[i];
        }
        for (int i = 0; i < 2; i++) *(uint4*)(right + thread / 2 * PADDED + thread % 2 * 16 + i * 8) = w[i];
    };

    fetch(0);
    for (int column = 0; column < columns; column += STEP) {
        store();
        __syncthreads();
        // The next tile is on its way while this one is multiplied.
        if (column + STEP < columns) fetch(column + STEP);
        for (int k = 0; k < STEP; k += 16) {
            uint32_t a[DOWN_TILES][4], b[ACROSS_TILES][2];
#pragma unroll
            for (int m = 0; m < DOWN_TILES; m++)
                for (int i = 0; i < 4; i++)
                    a[m][i] = *(const uint32_t*)(left + (down + m * 16 + g + i % 2 * 8) * PADDED + k + i / 2 * 8 + 2 * t);
            for (int n = 0; n < ACROSS_TILES; n++)
                for (int i = 0; i < 2; i++)
                    b[n][i] = *(const uint32_t*)(right + (across + n * 8 + g) * PADDED + k + i * 8 + 2 * t);
#pragma unroll
            for (int m = 0; m < DOWN_TILES; m++)
                for (int n = 0; n < ACROSS_TILES; n++) mma<T>(sums[m][n], a[m], b[n]);
        }
        __syncthreads();
    }
#pragma unroll
    for (int m = 0; m < DOWN_TILES; m++)
        for (int n = 0; n < ACROSS_TILES; n++)
            for (int i = 0; i < 4; i++) {
                int own = token + down + m * 16 + g + i / 2 * 8, at = row + across + n * 8 + 2 * t + i % 2;
                if (own < p.tokens && at < p.w.rows) p.out[own * p.out_stride + at] = sums[m][n][i];
            }
}

#define GEMM(NAME, T, W)                                                 \
    KERNEL(gemm_##NAME##_32, Gemm, GEMM_THREADS, gemm<T, W, 32, 1>)   \
    KERNEL(gemm_##NAME##_128, Gemm, GEMM_THREADS, gemm<T, W, 128, 2>)
#define GEMM_QUANT(NAME, TYPE) GEMM(NAME, bf16, TYPE)
GEMM(f16, f16, f16)
GEMM(bf16, bf16, bf16)
EACH_QUANT(GEMM_QUANT)

// Floats of 32 bits, in full.
__device__ void gemm_full(const Gemm& p) {
    SHARED(float, left, 16 * 65);
    SHARED(float, right, 16 * 65);
    int thread = threadIdx.x, down = thread / 16 * 4, across = thread % 16 * 4;
    int token = blockIdx.y * 64, row = blockIdx.x * 64, columns = p.w.columns;
    float sums[4][4] = {};
    for (int column = 0; column < columns; column += 16) {
        for (int i = thread; i < 64 * 16; i += GEMM_THREADS) {
            int own = i / 16, at = column + i % 16;
            bool in = at < columns;
            left[i % 16 * 65 + own] = in && token + own < p.tokens ? ((const float*)p.x)[int64_t(token + own) * columns + at] : 0.f;
            right[i % 16 * 65 + own] = in && row + own < p.w.rows ? ((const float*)p.w.low)[int64_t(row + own) * columns + at] : 0.f;
        }
        __syncthreads();
        for (int k = 0; k < 16; k++)
            for (int m = 0; m < 4; m++)
                for (int n = 0; n < 4; n++) sums[m][n] += left[k * 65 + down + m] * right[k * 65 + across + n];
        __syncthreads();
    }
    for (int m = 0; m < 4; m++)
        for (int n = 0; n < 4; n++) {
            int own = token + down + m, at = row + across + n;
            if (own < p.tokens && at < p.w.rows) p.out[own * p.out_stride + at] = sums[m][n];
        }
}
KERNEL(gemm_f32, Gemm, GEMM_THREADS, gemm_full)
