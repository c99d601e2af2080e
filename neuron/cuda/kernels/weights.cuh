// Matrices of weights: floats as they are, and values of 4 to 8 bits in planes.
//
// Of a quantised row every 32 columns are a group. One plane has the groups' low bits, one the bits above the fourth, one
// scales (and minima), halves: each a row after the other, so that a warp reads what lies together.
#pragma once
#include "base.cuh"

struct Weights {
    const void* low;     // of floats: all of them
    const void* high;    // null where there are no more than four bits, or eight
    const void* scales;  // [rows, groups, scales a group (, 2 where there are minima)]
    int32_t rows, columns;
};

// Bytes of a group in each plane.
struct Planes {
    int low, high, scales;
};

// x = scale * q + min, for each of GROUPS parts of 32 columns.
template <int GROUPS>
struct Group {
    int q[8];  // 32 values of 8 bits, as they stand
    float scale[GROUPS], min[GROUPS];
};

template <int BITS, int GROUPS_, bool MIN, int OFFSET>
struct Quant {
    static constexpr int GROUPS = GROUPS_;
    static constexpr bool HAS_MIN = MIN;

    __device__ static Group<GROUPS> load(const Weights& w, int64_t group) {
        Group<GROUPS> out;
        if (BITS == 8) {
            const uint4* low = (const uint4*)w.low + group * 2;
            uint4 first = low[0], second = low[1];
            out.q[0] = first.x, out.q[1] = first.y, out.q[2] = first.z, out.q[3] = first.w;
            out.q[4] = second.x, out.q[5] = second.y, out.q[6] = second.z, out.q[7] = second.w;
        } else {
            uint4 low = ((const uint4*)w.low)[group];
            uint32_t words[4] = {low.x, low.y, low.z, low.w};
            for (int i = 0; i < 4; i++) {
                out.q[i] = words[i] & 0x0f0f0f0f;
                out.q[i + 4] = (words[i] >> 4) & 0x0f0f0f0f;
            }
            if (BITS == 5) {
                uint32_t fifths = ((const uint32_t*)w.high)[group];
                for (int i = 0; i < 8; i++) {
                    uint32_t bits = (fifths >> (4 * i)) & 15;
                    out.q[i] |= ((bits * 0x00204081u) & 0x01010101u) << 4;
                }
            }
            if (BITS == 6) {
                uint2 high = ((const uint2*)w.high)[group];
                for (int i = 0; i < 4; i++) {
                    out.q[i] |= ((high.x >> (2 * i)) & 0x03030303) << 4;
                    out.q[i + 4] |= ((high.y >> (2 * i)) & 0x03030303) << 4;
                }
            }
            if (OFFSET > 0) {
                // Four subtractions in one: no byte borrows of the next where its highest bit is set before.
                for (int i = 0; i < 8; i++)
                    out.q[i] = int(((uint32_t(out.q[i]) | 0x80808080u) - OFFSET * 0x01010101u) ^ 0x80808080u);
            }
        }
        const f16* scales = (const f16*)w.scales + group * GROUPS * (MIN ? 2 : 1);
        for (int part = 0; part < GROUPS; part++) {
            out.scale[part] = wide(scales[MIN ? 2 * part : part]);
            out.min[part] = MIN ? wide(scales[2 * part + 1]) : 0.f;
        }
        return out;
    }

    __device__ static Planes planes() {
        return Planes{BITS == 8 ? 32 : 16, BITS == 5 ? 4 : BITS == 6 ? 8 : 0, GROUPS * (MIN ? 4 : 2)};
    }

    __device__ static float value(const Group<GROUPS>& group, int i) {
        int q = int8_t(group.q[i / 4] >> (8 * (i % 4)));
        return group.scale[i * GROUPS / 32] * q + group.min[i * GROUPS / 32];
    }
};

using Q4 = Quant<4, 1, false, 8>;
using Q4Min = Quant<4, 1, true, 0>;
using Q4x16 = Quant<4, 2, false, 4>;
using Q4x16Min = Quant<4, 2, true, 0>;
using Q5 = Quant<5, 1, false, 16>;
using Q5Min = Quant<5, 1, true, 0>;
using Q6x16 = Quant<6, 2, false, 32>;
using Q8 = Quant<8, 1, false, 0>;

#define EACH_QUANT(DO) \
    DO(q4, Q4) DO(q4_min, Q4Min) DO(q4_16, Q4x16) DO(q4_16_min, Q4x16Min) DO(q5, Q5) DO(q5_min, Q5Min) DO(q6_16, Q6x16) DO(q8, Q8)
