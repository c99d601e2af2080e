// The tensor cores' product of a warp: c[16, 8] += a[16, 16] * b[16, 8], 16-bit floats, sums in 32 bits.
//
// With g = lane / 4 and t = lane % 4 a lane holds, two neighbours a word,
//   a[0..4]: (g, 2t) (g + 8, 2t) (g, 2t + 8) (g + 8, 2t + 8)     rows of a, along k
//   b[0..2]: (2t, g) (2t + 8, g)                                 along k, a column of b
//   c[0..4]: (g, 2t) (g, 2t + 1) (g + 8, 2t) (g + 8, 2t + 1)     floats
#pragma once
#include "base.cuh"

#ifdef EMULATED
template <class T>
__device__ void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    struct Held {
        uint32_t a[4], b[2];
    } own;
    memcpy(own.a, a, sizeof a);
    memcpy(own.b, b, sizeof b);
    const unsigned char* all = emulated::gather(&own, sizeof own);
    auto half = [](uint32_t word, int k) { return wide(T{uint16_t(k % 2 ? word >> 16 : word)}); };
    auto held = [&](int lane) { return reinterpret_cast<const Held*>(all + 64 * lane); };
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    for (int i = 0; i < 4; i++) {
        int row = g + i / 2 * 8, column = 2 * t + i % 2;
        for (int k = 0; k < 16; k++) {
            float left = half(held(row % 8 * 4 + k % 8 / 2)->a[row / 8 + k / 8 * 2], k);
            float right = half(held(column * 4 + k % 8 / 2)->b[k / 8], k);
            c[i] += left * right;
        }
    }
}
#else
template <class T>
__device__ void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
template <>
__device__ inline void mma<bf16>(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <>
__device__ inline void mma<f16>(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif
