// What every kernel stands on: 16-bit floats by their bits, reductions, and the macro that gives kernels their names.
//
// Kernels are CUDA C++ and nothing else. Where EMULATED is defined a C++ compiler builds them for the host, where
// emulated/cuda.h stands in for what nvcc and the device have.
#pragma once
#include <stdint.h>
#ifdef EMULATED
#include "emulated/cuda.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define SHARED(TYPE, NAME, COUNT) __shared__ __align__(16) TYPE NAME[COUNT]
#define EXPORT(NAME, PARAMS)
#endif

#define EVERY_LANE 0xffffffffu
#define INF __builtin_inff()

// A kernel takes one argument, a struct; the Rust side has one of the same shape under the same name.
#define KERNEL(NAME, PARAMS, THREADS, ...)                                                       \
    extern "C" __global__ void __launch_bounds__(THREADS) NAME(const PARAMS p) { __VA_ARGS__(p); } \
    EXPORT(NAME, PARAMS)

struct bf16 {
    uint16_t bits;
};
struct f16 {
    uint16_t bits;
};

// Four bits of exponent, three of mantissa, no infinity (E4M3); the largest is 448.
struct f8 {
    uint8_t bits;
};

__device__ inline float wide(float x) { return x; }
__device__ inline float wide(bf16 x) {
    uint32_t bits = uint32_t(x.bits) << 16;
    float out;
    memcpy(&out, &bits, 4);
    return out;
}

template <class T>
__device__ T narrow(float x);
template <>
__device__ inline float narrow<float>(float x) { return x; }

#ifdef EMULATED
__device__ inline float wide(f16 x) { return emulated::half_to_float(x.bits); }
template <>
__device__ inline f16 narrow<f16>(float x) {
    return f16{x != x ? uint16_t(0x7e00) : emulated::float_to_half(fminf(fmaxf(x, -65504.f), 65504.f))};
}
template <>
__device__ inline bf16 narrow<bf16>(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if (x != x) return bf16{0x7fc0};
    return bf16{uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}
#else
__device__ inline float wide(f16 x) { return __half2float(__ushort_as_half(x.bits)); }
// What is too large is held as the largest: an infinity would become no number in the next product. What is none stays so.
template <>
__device__ inline f16 narrow<f16>(float x) {
    return f16{x != x ? uint16_t(0x7e00) : __half_as_ushort(__float2half_rn(fminf(fmaxf(x, -65504.f), 65504.f)))};
}
template <>
__device__ inline bf16 narrow<bf16>(float x) { return bf16{__bfloat16_as_ushort(__float2bfloat16_rn(x))}; }
#endif

__device__ inline float wide(f8 x) {
    // As a half its exponent is eight too small, in every case.
    if ((x.bits & 0x7f) == 0x7f) return wide(f16{0x7e00});
    return wide(f16{uint16_t(((x.bits & 0x80) << 8) | ((x.bits & 0x7f) << 7))}) * 256.f;
}
template <>
__device__ inline f8 narrow<f8>(float x) {
    uint32_t bits;
    float size = fminf(fabsf(x), 448.f);
    memcpy(&bits, &x, 4);
    uint8_t sign = uint8_t(bits >> 31) << 7;
    if (x != x) return f8{uint8_t(sign | 0x7f)};
    // Below 2^-6 steps are 2^-9.
    if (size < 0.015625f) return f8{uint8_t(sign | uint8_t(rintf(size * 512.f)))};
    memcpy(&bits, &size, 4);
    bits += 0x7ffff + ((bits >> 20) & 1);
    return f8{uint8_t(sign | (((bits >> 23) - 120) << 3) | ((bits >> 20) & 7))};
}

// Two 16-bit floats in a word, the first in the lower half.
template <class T>
__device__ inline uint32_t pair(float first, float second) {
    return uint32_t(narrow<T>(first).bits) | (uint32_t(narrow<T>(second).bits) << 16);
}
template <class T>
__device__ inline void unpair(uint32_t word, float& first, float& second) {
    first = wide(T{uint16_t(word & 0xffff)});
    second = wide(T{uint16_t(word >> 16)});
}

__device__ inline float warp_sum(float x) {
    for (int lanes = 16; lanes > 0; lanes /= 2) x += __shfl_xor_sync(EVERY_LANE, x, lanes);
    return x;
}
__device__ inline float warp_max(float x) {
    for (int lanes = 16; lanes > 0; lanes /= 2) x = fmaxf(x, __shfl_xor_sync(EVERY_LANE, x, lanes));
    return x;
}

// Over all threads of the block, for each of them; `scratch` has 32 places, and may be used again after it.
__device__ inline float block_sum(float x, float* scratch) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = (blockDim.x + 31) / 32;
    x = warp_sum(x);
    if (lane == 0) scratch[warp] = x;
    __syncthreads();
    x = warp_sum(lane < warps ? scratch[lane] : 0.f);
    __syncthreads();
    return x;
}
__device__ inline float block_max(float x, float* scratch) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = (blockDim.x + 31) / 32;
    x = warp_max(x);
    if (lane == 0) scratch[warp] = x;
    __syncthreads();
    x = warp_max(lane < warps ? scratch[lane] : -INF);
    __syncthreads();
    return x;
}

// Activations in 8 bits: x = scale * q for each 32. Beside the scale lie scale * sum of q of the first and of the second
// sixteen, which the minima of weights are multiplied with.
struct Rounded {
    float scale, sum[2], unused;
};

// Where a row of activations goes, element by element; every lane of a warp calls with neighbours of one group of 32.
template <class A>
struct Sink {
    A* out;
    __device__ Sink(void* out, void*, int64_t row, int64_t width) : out((A*)out + row * width) {}
    __device__ void put(int i, float x) { out[i] = narrow<A>(x); }
};
template <>
struct Sink<int8_t> {
    int8_t* out;
    Rounded* groups;
    __device__ Sink(void* out, void* groups, int64_t row, int64_t width)
        : out((int8_t*)out + row * width), groups((Rounded*)groups + row * (width / 32)) {}
    __device__ void put(int i, float x) {
        float most = warp_max(fabsf(x));
        float scale = most / 127.f, inverse = most > 0.f ? 127.f / most : 0.f;
        int q = int(rintf(x * inverse));
        float sum = float(q);
        for (int lanes = 8; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(EVERY_LANE, sum, lanes);
        float second = __shfl_sync(EVERY_LANE, sum, 16);
        out[i] = int8_t(q);
        if (i % 32 == 0) groups[i / 32] = Rounded{scale, {scale * sum, scale * second}, 0.f};
    }
};
