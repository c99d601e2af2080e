// Runs a grid of the emulated device on the calling thread.
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cuda.h"

namespace emulated {
thread_local Thread* now;
thread_local Dim block_index, block_size, grid_size;

namespace {
constexpr size_t STACK = 128 << 10;

struct Kernel {
    size_t params;
    Run run;
};
std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> all;
    return all;
}

// Those who wait until as many as are wanted have come.
struct Barrier {
    uint32_t come = 0, over = 0;
};

struct Fiber : Thread {
    ucontext_t start;
    jmp_buf here;
    bool begun = false, done = true;
    std::unique_ptr<char[]> stack;
};

struct Warp {
    Barrier barrier;
    uint32_t turns[32];
    unsigned char brought[2][32][64];
};

// Memory of a block for one place in a kernel's text; what an earlier block left is garbage to the next.
struct Shared {
    const void* place;
    uint64_t block;
    std::vector<unsigned char> bytes;
};

// What the calling thread runs blocks with; fibers are used again.
struct Machine {
    std::vector<std::unique_ptr<Fiber>> fibers;
    std::vector<Warp> warps;
    std::vector<Shared> shared;
    uint64_t block = 0;
    Barrier barrier;
    jmp_buf scheduler;
    uint64_t progress = 0;
    Run run = nullptr;
    const void* params = nullptr;
    uint32_t seed = 1;
};
thread_local std::unique_ptr<Machine> machine;

void yield() {
    Fiber* fiber = static_cast<Fiber*>(now);
    if (!_setjmp(fiber->here)) _longjmp(machine->scheduler, 1);
}

void fiber_main() {
    for (;;) {
        machine->run(machine->params);
        static_cast<Fiber*>(now)->done = true;
        machine->progress++;
        yield();
    }
}

void wait(Barrier& barrier, uint32_t wanted) {
    uint32_t over = barrier.over;
    if (++barrier.come == wanted) {
        barrier.come = 0;
        barrier.over++;
        machine->progress++;
    }
    while (barrier.over == over) yield();
}

void resume(Fiber& fiber) {
    now = &fiber;
    if (_setjmp(machine->scheduler)) return;
    if (fiber.begun) _longjmp(fiber.here, 1);
    fiber.begun = true;
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack.get();
    fiber.start.uc_stack.ss_size = STACK;
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, fiber_main, 0);
    setcontext(&fiber.start);
}

uint32_t random_number() {
    uint32_t& x = machine->seed;
    x ^= x << 13, x ^= x >> 17, x ^= x << 5;
    return x;
}

// Whether every thread came to its end.
bool run_block(uint32_t threads) {
    Machine& m = *machine;
    while (m.fibers.size() < threads) {
        m.fibers.push_back(std::make_unique<Fiber>());
        m.fibers.back()->stack.reset(new char[STACK]);
        m.fibers.back()->index = Dim{uint32_t(m.fibers.size() - 1), 0, 0};
    }
    m.warps.resize((threads + 31) / 32);
    for (Warp& warp : m.warps) {
        warp.barrier = Barrier{};
        memset(warp.turns, 0, sizeof warp.turns);
    }
    m.block++;
    m.barrier = Barrier{};
    for (uint32_t i = 0; i < threads; i++) m.fibers[i]->done = false;
    for (;;) {
        uint64_t before = m.progress;
        // Any thread may be the first, and they may run in either direction.
        uint32_t first = random_number() % threads, step = random_number() % 2 ? 1 : threads - 1;
        bool all = true;
        for (uint32_t i = 0; i < threads; i++) {
            Fiber& fiber = *m.fibers[(first + uint64_t(i) * step) % threads];
            if (fiber.done) continue;
            resume(fiber);
            all = all && fiber.done;
        }
        if (all) return true;
        if (m.progress == before) return false;
    }
}
}  // namespace

void sync_block() { wait(machine->barrier, block_size.x); }

const unsigned char* gather(const void* brought, size_t bytes) {
    uint32_t thread = now->index.x, lane = thread % 32;
    Warp& warp = machine->warps[thread / 32];
    // Two sets, so that the next exchange does not overwrite what a slow lane has yet to read.
    uint32_t turn = warp.turns[lane]++ % 2;
    if (bytes > 64) abort();
    memcpy(warp.brought[turn][lane], brought, bytes);
    uint32_t in_warp = block_size.x - thread / 32 * 32;
    wait(warp.barrier, in_warp < 32 ? in_warp : 32);
    return warp.brought[turn][0];
}

void* shared(const void* place, size_t bytes) {
    std::vector<Shared>& all = machine->shared;
    size_t n = 0;
    while (n < all.size() && all[n].place != place) n++;
    if (n == all.size()) all.push_back(Shared{place, 0, {}});
    if (all[n].block != machine->block) {
        all[n].block = machine->block;
        // All ones are no number, in every format of floats.
        all[n].bytes.assign(bytes + 16, 0xff);
    }
    uintptr_t at = reinterpret_cast<uintptr_t>(all[n].bytes.data());
    return reinterpret_cast<void*>((at + 15) / 16 * 16);
}

float half_to_float(uint16_t bits) {
    uint32_t sign = uint32_t(bits & 0x8000) << 16, exponent = (bits >> 10) & 31, mantissa = bits & 1023;
    if (exponent == 0) return (sign ? -1.f : 1.f) * float(mantissa) * 5.9604644775390625e-8f;
    uint32_t wide = sign | ((exponent == 31 ? 255 : exponent + 112) << 23) | (mantissa << 13);
    float out;
    memcpy(&out, &wide, 4);
    return out;
}

uint16_t float_to_half(float x) {
    uint16_t sign = signbit(x) ? 0x8000 : 0;
    x = fabsf(x);
    if (x != x) return 0x7e00;
    if (x == 0.f) return sign;
    if (x >= 65520.f) return sign | 0x7c00;
    int exponent;
    frexpf(x, &exponent);
    int shift = exponent - 1 < -14 ? 24 : 10 - (exponent - 1);
    long mantissa = lrintf(ldexpf(x, shift));
    if (exponent - 1 < -14) return sign | uint16_t(mantissa);
    if (mantissa == 2048) mantissa = 1024, exponent++;
    return sign | uint16_t((exponent + 14) << 10) | uint16_t(mantissa - 1024);
}

Registered::Registered(const char* name, size_t params, Run run) { kernels()[name] = Kernel{params, run}; }
}  // namespace emulated

// 0: done. 1: no such kernel. 2: `bytes` is not the size of its parameters. 3: threads wait for each other.
extern "C" int neuron_emulated_launch(const char* name, const uint32_t grid[3], uint32_t threads, const void* params,
                                      size_t bytes, uint32_t seed) {
    using namespace emulated;
    auto found = kernels().find(name);
    if (found == kernels().end()) return 1;
    if (found->second.params != bytes) return 2;
    if (!machine) machine = std::make_unique<Machine>();
    machine->run = found->second.run;
    machine->params = params;
    machine->shared.clear();
    machine->seed = seed | 1;
    grid_size = Dim{grid[0], grid[1], grid[2]};
    block_size = Dim{threads, 1, 1};
    for (uint32_t z = 0; z < grid[2]; z++)
        for (uint32_t y = 0; y < grid[1]; y++)
            for (uint32_t x = 0; x < grid[0]; x++) {
                block_index = Dim{x, y, z};
                if (!run_block(threads)) {
                    // Its fibers are in the middle of something.
                    machine.reset();
                    return 3;
                }
            }
    return 0;
}

// Bytes of a kernel's parameters; 0: no such kernel.
extern "C" size_t neuron_emulated_params(const char* name) {
    auto found = emulated::kernels().find(name);
    return found == emulated::kernels().end() ? 0 : found->second.params;
}
