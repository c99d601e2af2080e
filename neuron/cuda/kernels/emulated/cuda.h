// CUDA on the host, for tests: the threads of a block are fibers of one thread of the host, and blocks run one after the
// other. What holds on a device holds here: shared memory begins with garbage (no numbers), threads run in an order that
// nobody may rely on, and a barrier that some thread never reaches is found.
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <new>
#include <utility>

#define __device__
#define __global__
#define __launch_bounds__(...)
#define __forceinline__ inline
#define __restrict__ __restrict

struct uint2 {
    uint32_t x, y;
};
struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

namespace emulated {
struct Dim {
    uint32_t x, y, z;
};
struct Thread {
    Dim index;
};
extern thread_local Thread* now;
extern thread_local Dim block_index, block_size, grid_size;

void sync_block();
// Gives every lane of the warp what all lanes brought: [32][64 bytes].
const unsigned char* gather(const void* brought, size_t bytes);
// Memory of the block for one place in a kernel's text.
void* shared(const void* place, size_t bytes);
float half_to_float(uint16_t bits);
uint16_t float_to_half(float x);

using Run = void (*)(const void* params);
struct Registered {
    Registered(const char* name, size_t params, Run run);
};

template <class T>
T lane_of(T x, int lane) {
    T out;
    memcpy(&out, gather(&x, sizeof x) + 64 * lane, sizeof x);
    return out;
}
}  // namespace emulated

#define threadIdx (emulated::now->index)
#define blockIdx (emulated::block_index)
#define blockDim (emulated::block_size)
#define gridDim (emulated::grid_size)
#define __syncthreads() emulated::sync_block()
#define __syncwarp() ((void)emulated::lane_of(0, 0))

template <class T>
T __shfl_xor_sync(uint32_t, T x, int lanes) {
    return emulated::lane_of(x, int(threadIdx.x % 32) ^ lanes);
}
template <class T>
T __shfl_sync(uint32_t, T x, int lane) {
    return emulated::lane_of(x, lane % 32);
}

inline int __dp4a(int a, int b, int sum) {
    for (int i = 0; i < 4; i++) sum += int(int8_t(a >> (8 * i))) * int(int8_t(b >> (8 * i)));
    return sum;
}
inline float __ldg(const float* at) { return *at; }
inline uint32_t atomicAdd(uint32_t* at, uint32_t x) {
    uint32_t before = *at;
    *at += x;
    return before;
}
inline unsigned long long atomicAdd(unsigned long long* at, unsigned long long x) {
    unsigned long long before = *at;
    *at += x;
    return before;
}
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }

#define SHARED(TYPE, NAME, COUNT)   \
    static const char NAME##_place = 0; \
    TYPE* NAME = (TYPE*)emulated::shared(&NAME##_place, sizeof(TYPE) * (COUNT))
#define EXPORT(NAME, PARAMS)                                                                             \
    static emulated::Registered NAME##_registered(                                                       \
        #NAME, sizeof(PARAMS), [](const void* params) { NAME(*static_cast<const PARAMS*>(params)); });
