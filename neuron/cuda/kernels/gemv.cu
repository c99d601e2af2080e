// A few rows of activations times a matrix: as fast as the matrix can be read.
#include "weights.cuh"

struct Gemv {
    Weights w;
    const void* x;       // [batch, columns]
    const void* groups;  // where x is in 8 bits: Rounded [batch, columns / 32]
    float* out;          // [batch, out_stride]
    int64_t out_stride;
    // Where each row of x has a matrix of its own: its number, [batch]; null: all have the one.
    const int32_t* experts;
    // Rows that share a row of x.
    int32_t shared_by;
};

constexpr int ROWS_A_WARP = 2;

template <class T, int BATCH>
__device__ void dense_rows(const Weights& w, const T* x, int row, float (&sums)[ROWS_A_WARP][BATCH]) {
    constexpr int VECTOR = 16 / sizeof(T);
    int lane = threadIdx.x % 32;
    const T* rows[ROWS_A_WARP];
    for (int r = 0; r < ROWS_A_WARP; r++)
        rows[r] = (const T*)w.low + int64_t(min(row + r, w.rows - 1)) * w.columns;
    for (int at = lane * VECTOR; at < w.columns; at += 32 * VECTOR) {
        float left[ROWS_A_WARP][VECTOR];
        for (int r = 0; r < ROWS_A_WARP; r++) {
            alignas(16) T held[VECTOR];
            *(uint4*)held = *(const uint4*)(rows[r] + at);
            for (int i = 0; i < VECTOR; i++) left[r][i] = wide(held[i]);
        }
        for (int b = 0; b < BATCH; b++) {
            alignas(16) T held[VECTOR];
            *(uint4*)held = *(const uint4*)(x + int64_t(b) * w.columns + at);
            for (int i = 0; i < VECTOR; i++) {
                float right = wide(held[i]);
                for (int r = 0; r < ROWS_A_WARP; r++) sums[r][b] += left[r][i] * right;
            }
        }
    }
}

template <class Q, int BATCH>
__device__ void quant_rows(const Weights& w, const int8_t* x, const Rounded* groups, int row,
                           float (&sums)[ROWS_A_WARP][BATCH]) {
    constexpr int PARTS = Q::GROUPS;
    int lane = threadIdx.x % 32, count = w.columns / 32;
    for (int at = lane; at < count; at += 32) {
        Group<PARTS> left[ROWS_A_WARP];
        for (int r = 0; r < ROWS_A_WARP; r++)
            left[r] = Q::load(w, int64_t(min(row + r, w.rows - 1)) * count + at);
        for (int b = 0; b < BATCH; b++) {
            const uint4* held = (const uint4*)(x + int64_t(b) * w.columns + at * 32);
            uint4 first = held[0], second = held[1];
            int q[8] = {int(first.x),  int(first.y),  int(first.z),  int(first.w),
                        int(second.x), int(second.y), int(second.z), int(second.w)};
            Rounded of = groups[int64_t(b) * count + at];
            for (int r = 0; r < ROWS_A_WARP; r++) {
                int dots[2] = {0, 0};
                for (int i = 0; i < 8; i++) dots[i / 4] = __dp4a(left[r].q[i], q[i], dots[i / 4]);
                float sum;
                if (PARTS == 1) {
                    sum = left[r].scale[0] * of.scale * float(dots[0] + dots[1]);
                    if (Q::HAS_MIN) sum += left[r].min[0] * (of.sum[0] + of.sum[1]);
                } else {
                    sum = of.scale * (left[r].scale[0] * float(dots[0]) + left[r].scale[PARTS - 1] * float(dots[1]));
                    if (Q::HAS_MIN) sum += left[r].min[0] * of.sum[0] + left[r].min[PARTS - 1] * of.sum[1];
                }
                sums[r][b] += sum;
            }
        }
    }
}

template <int BATCH>
__device__ void put_sums(const Gemv& p, int64_t first, int rows, int row, float (&sums)[ROWS_A_WARP][BATCH]) {
    for (int r = 0; r < ROWS_A_WARP; r++)
        for (int b = 0; b < BATCH; b++) {
            float sum = warp_sum(sums[r][b]);
            if (threadIdx.x % 32 == 0 && row + r < rows) p.out[(first + b) * p.out_stride + row + r] = sum;
        }
}

template <class T, int BATCH>
__device__ void gemv_dense(const Gemv& p) {
    int row = (blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32) * ROWS_A_WARP;
    if (row >= p.w.rows) return;
    int64_t first = int64_t(blockIdx.y) * BATCH;
    Weights w = p.w;
    if (p.experts) w.low = (const T*)w.low + int64_t(p.experts[first]) * w.rows * w.columns;
    float sums[ROWS_A_WARP][BATCH] = {};
    dense_rows<T, BATCH>(w, (const T*)p.x + first / p.shared_by * w.columns, row, sums);
    put_sums<BATCH>(p, first, w.rows, row, sums);
}

template <class Q, int BATCH>
__device__ void gemv_quant(const Gemv& p) {
    int row = (blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32) * ROWS_A_WARP;
    if (row >= p.w.rows) return;
    int64_t first = int64_t(blockIdx.y) * BATCH, from = first / p.shared_by;
    Weights w = p.w;
    if (p.experts) {
        // Each plane has the experts one after the other.
        int64_t groups = int64_t(p.experts[first]) * w.rows * (w.columns / 32);
        Planes of = Q::planes();
        w.low = (const char*)w.low + groups * of.low;
        w.high = (const char*)w.high + groups * of.high;
        w.scales = (const char*)w.scales + groups * of.scales;
    }
    float sums[ROWS_A_WARP][BATCH] = {};
    quant_rows<Q, BATCH>(w, (const int8_t*)p.x + from * w.columns, (const Rounded*)p.groups + from * (w.columns / 32), row, sums);
    put_sums<BATCH>(p, first, w.rows, row, sums);
}

#define DENSE_OF(NAME, TYPE, BATCH) KERNEL(gemv_##NAME##_##BATCH, Gemv, 128, gemv_dense<TYPE, BATCH>)
#define QUANT_OF(NAME, TYPE, BATCH) KERNEL(gemv_##NAME##_##BATCH, Gemv, 128, gemv_quant<TYPE, BATCH>)
#define DENSE(NAME, TYPE) DENSE_OF(NAME, TYPE, 1) DENSE_OF(NAME, TYPE, 2) DENSE_OF(NAME, TYPE, 4) DENSE_OF(NAME, TYPE, 8)
#define QUANT(NAME, TYPE) QUANT_OF(NAME, TYPE, 1) QUANT_OF(NAME, TYPE, 2) QUANT_OF(NAME, TYPE, 4) QUANT_OF(NAME, TYPE, 8)

DENSE(f32, float)
DENSE(f16, f16)
DENSE(bf16, bf16)
EACH_QUANT(QUANT)
