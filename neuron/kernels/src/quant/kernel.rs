//! The vector kernels: one body, compiled for each set of instructions and each layout.
//!
//! Integers first: values are unsigned and at most 15 (4 bits), 31 or 63, activations at most 127, so
//! that 16-bit sums of 8, 4 or 2 products of pairs cannot overflow (2 * 15 * 127 * 8 = 30,480). Eight-bit
//! values are taken as two nibbles for the same reason. VNNI sums in 32 bits and needs none of that.

use super::{Layout, MOST, PANEL, portable};
use crate::{acts::Row, cpu::Level};

/// See [`super::QuantMatrix::panel_times`].
pub(super) fn panel_times(
    level: Level,
    layout: Layout,
    panel: &[u8],
    x: &[Row<'_>],
    out: &mut [[f32; PANEL]; MOST],
) {
    #[cfg(target_arch = "x86_64")]
    match level {
        Level::Portable => {}
        // SAFETY: the level says that this machine has the instructions.
        Level::Avx2 => return unsafe { avx2::panel_times(layout, panel, x, out) },
        // SAFETY: as above.
        Level::Avx512 => return unsafe { avx512::panel_times(layout, panel, x, out) },
    }
    let _only_on_x86 = level;
    for (x, out) in x.iter().zip(out) {
        *out = portable::panel_times(layout, panel, *x);
    }
}

/// What a kernel reads of one row of activations.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Pointers {
    values: *const i8,
    scales: *const f32,
    sums: *const f32,
}

#[cfg(target_arch = "x86_64")]
macro_rules! kernels {
    ($name:ident, $features:literal, $vnni:tt) => {
        mod $name {
            use std::arch::x86_64::*;

            use super::{Layout, MOST, PANEL, Pointers};
            use crate::acts::Row;

            const VNNI: bool = $vnni;

            /// # Safety
            /// The machine must have the instructions; a panel's length is a multiple of its records'.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn panel_times(
                layout: Layout,
                panel: &[u8],
                x: &[Row<'_>],
                out: &mut [[f32; PANEL]; MOST],
            ) {
                macro_rules! with {
                    ($bits:literal, $group:literal, $min:literal) => {
                        match *x {
                            [a] => unsafe { run::<$bits, $group, $min, 1>(layout, panel, [a], out) },
                            [a, b] => unsafe { run::<$bits, $group, $min, 2>(layout, panel, [a, b], out) },
                            [a, b, c] => unsafe {
                                run::<$bits, $group, $min, 3>(layout, panel, [a, b, c], out)
                            },
                            [a, b, c, d] => unsafe {
                                run::<$bits, $group, $min, 4>(layout, panel, [a, b, c, d], out)
                            },
                            _ => {}
                        }
                    };
                }
                match (layout.bits, layout.group, layout.min) {
                    (4, 32, true) => with!(4, 32, true),
                    (4, 32, false) => with!(4, 32, false),
                    (4, 16, true) => with!(4, 16, true),
                    (4, 16, false) => with!(4, 16, false),
                    (5, 32, true) => with!(5, 32, true),
                    (5, 32, false) => with!(5, 32, false),
                    (6, 16, false) => with!(6, 16, false),
                    (8, 32, false) => with!(8, 32, false),
                    _ => unreachable!("no such layout: {layout:?}"),
                }
            }

            /// # Safety
            /// As for `panel_times`; each row has the panel's number of blocks.
            #[target_feature(enable = $features)]
            unsafe fn run<const BITS: usize, const GROUP: usize, const MIN: bool, const N: usize>(
                layout: Layout,
                panel: &[u8],
                x: [Row<'_>; N],
                out: &mut [[f32; PANEL]; MOST],
            ) {
                let record_len = layout.record();
                let blocks = panel.len() / record_len;
                let x = x.map(|row| {
                    let sums = if GROUP == 32 { row.sums } else { row.half_sums };
                    assert!(
                        row.scales.len() == blocks
                            && row.values.len() == blocks * 32
                            && sums.len() == blocks * (32 / GROUP)
                    );
                    Pointers {
                        values: row.values.as_ptr(),
                        scales: row.scales.as_ptr(),
                        sums: sums.as_ptr(),
                    }
                });
                let groups = const { 32 / GROUP };
                let head = groups * PANEL * 2;
                let values = if MIN { head * 2 } else { head };
                let offset = _mm256_set1_ps(-f32::from(layout.offset));
                let mut sums = [_mm256_setzero_ps(); N];
                for block in 0..blocks {
                    // SAFETY: inside the panel, whose length the record's divides; and inside the rows.
                    unsafe {
                        let record = panel.as_ptr().add(block * record_len);
                        for group in 0..groups {
                            let scale = _mm256_cvtph_ps(_mm_loadu_si128(record.add(group * 16).cast()));
                            let min = if MIN {
                                _mm256_cvtph_ps(_mm_loadu_si128(record.add(head + group * 16).cast()))
                            } else {
                                _mm256_mul_ps(scale, offset)
                            };
                            let q: [*const i8; N] =
                                std::array::from_fn(|n| x[n].values.add(block * 32 + group * GROUP));
                            let dots = match BITS {
                                4 => four::<GROUP, N>(record.add(values), group, q),
                                5 => five::<N>(record.add(values), q),
                                6 => six::<N>(record.add(values), group, q),
                                _ => eight::<N>(record.add(values), q),
                            };
                            for n in 0..N {
                                let dot = _mm256_cvtepi32_ps(dots[n]);
                                let by = _mm256_mul_ps(scale, _mm256_broadcast_ss(&*x[n].scales.add(block)));
                                sums[n] = _mm256_fmadd_ps(dot, by, sums[n]);
                                let sum = _mm256_broadcast_ss(&*x[n].sums.add(block * groups + group));
                                sums[n] = _mm256_fmadd_ps(min, sum, sums[n]);
                            }
                        }
                    }
                }
                for (sum, out) in sums.into_iter().zip(out) {
                    // SAFETY: eight floats.
                    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), sum) };
                }
            }

            /// Sums in progress: 16 bits that are widened in time, or 32 bits.
            #[inline]
            #[target_feature(enable = $features)]
            fn step(sum: __m256i, values: __m256i, q: __m256i) -> __m256i {
                if VNNI { dot4(sum, values, q) } else { _mm256_add_epi16(sum, _mm256_maddubs_epi16(values, q)) }
            }

            /// To 32 bits.
            #[inline]
            #[target_feature(enable = $features)]
            fn widen(sum: __m256i) -> __m256i {
                if VNNI { sum } else { _mm256_madd_epi16(sum, _mm256_set1_epi16(1)) }
            }

            /// Four activations, repeated.
            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn quad(q: *const i8) -> __m256i {
                // SAFETY: the caller's four bytes.
                _mm256_set1_epi32(unsafe { q.cast::<i32>().read_unaligned() })
            }

            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn four<const GROUP: usize, const N: usize>(
                values: *const u8,
                group: usize,
                q: [*const i8; N],
            ) -> [__m256i; N] {
                let nibble = _mm256_set1_epi8(15);
                let mut sums = [_mm256_setzero_si256(); N];
                for pair in 0..const { GROUP / 8 } {
                    // SAFETY: two quads of columns to a vector, all inside the group.
                    unsafe {
                        let v = _mm256_loadu_si256(values.add((group * (GROUP / 8) + pair) * 32).cast());
                        let low = _mm256_and_si256(v, nibble);
                        let high = _mm256_and_si256(_mm256_srli_epi16::<4>(v), nibble);
                        for n in 0..N {
                            sums[n] = step(sums[n], low, quad(q[n].add(pair * 8)));
                            sums[n] = step(sums[n], high, quad(q[n].add(pair * 8 + 4)));
                        }
                    }
                }
                sums.map(|sum| widen(sum))
            }

            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn five<const N: usize>(values: *const u8, q: [*const i8; N]) -> [__m256i; N] {
                let (nibble, fifth) = (_mm256_set1_epi8(15), _mm256_set1_epi8(16));
                // SAFETY: the vector behind the four of the nibbles.
                let bits = unsafe { _mm256_loadu_si256(values.add(128).cast()) };
                let mut dots = [_mm256_setzero_si256(); N];
                for half in 0..2 {
                    // Bits 0 to 3 of each byte are brought to bit 4 from below, 4 to 7 from above.
                    let mut bits = if half == 0 { _mm256_slli_epi16::<4>(bits) } else { bits };
                    let mut sums = [_mm256_setzero_si256(); N];
                    for pair in half * 2..half * 2 + 2 {
                        // SAFETY: two quads of columns to a vector.
                        unsafe {
                            let v = _mm256_loadu_si256(values.add(pair * 32).cast());
                            let low = _mm256_and_si256(v, nibble);
                            let low = _mm256_or_si256(low, _mm256_and_si256(bits, fifth));
                            bits = _mm256_srli_epi16::<1>(bits);
                            let high = _mm256_and_si256(_mm256_srli_epi16::<4>(v), nibble);
                            let high = _mm256_or_si256(high, _mm256_and_si256(bits, fifth));
                            bits = _mm256_srli_epi16::<1>(bits);
                            for n in 0..N {
                                sums[n] = step(sums[n], low, quad(q[n].add(pair * 8)));
                                sums[n] = step(sums[n], high, quad(q[n].add(pair * 8 + 4)));
                            }
                        }
                    }
                    for n in 0..N {
                        dots[n] = _mm256_add_epi32(dots[n], widen(sums[n]));
                    }
                }
                dots
            }

            /// Half a block: 16 columns.
            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn six<const N: usize>(
                values: *const u8,
                group: usize,
                q: [*const i8; N],
            ) -> [__m256i; N] {
                let (nibble, above) = (_mm256_set1_epi8(15), _mm256_set1_epi8(48));
                // SAFETY: two vectors behind the four of the nibbles, one for each half.
                let bits = unsafe { _mm256_loadu_si256(values.add(128 + group * 32).cast()) };
                let tops = [
                    _mm256_slli_epi16::<4>(bits),
                    _mm256_slli_epi16::<2>(bits),
                    bits,
                    _mm256_srli_epi16::<2>(bits),
                ];
                let mut dots = [_mm256_setzero_si256(); N];
                for pair in 0..2 {
                    // SAFETY: two quads of columns to a vector, all inside the group.
                    unsafe {
                        let v = _mm256_loadu_si256(values.add((group * 2 + pair) * 32).cast());
                        let low = _mm256_and_si256(v, nibble);
                        let low = _mm256_or_si256(low, _mm256_and_si256(tops[pair * 2], above));
                        let high = _mm256_and_si256(_mm256_srli_epi16::<4>(v), nibble);
                        let high = _mm256_or_si256(high, _mm256_and_si256(tops[pair * 2 + 1], above));
                        for n in 0..N {
                            let sum = step(_mm256_setzero_si256(), low, quad(q[n].add(pair * 8)));
                            let sum = step(sum, high, quad(q[n].add(pair * 8 + 4)));
                            dots[n] = _mm256_add_epi32(dots[n], widen(sum));
                        }
                    }
                }
                dots
            }

            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn eight<const N: usize>(values: *const u8, q: [*const i8; N]) -> [__m256i; N] {
                let nibble = _mm256_set1_epi8(15);
                let mut sums = [[_mm256_setzero_si256(); 2]; N];
                for at in 0..8 {
                    // SAFETY: a quad of columns to a vector.
                    unsafe {
                        let v = _mm256_loadu_si256(values.add(at * 32).cast());
                        if VNNI {
                            for n in 0..N {
                                sums[n][0] = step(sums[n][0], v, quad(q[n].add(at * 4)));
                            }
                            continue;
                        }
                        let low = _mm256_and_si256(v, nibble);
                        let high = _mm256_and_si256(_mm256_srli_epi16::<4>(v), nibble);
                        for n in 0..N {
                            let q = quad(q[n].add(at * 4));
                            sums[n] = [step(sums[n][0], low, q), step(sums[n][1], high, q)];
                        }
                    }
                }
                sums.map(|[low, high]| {
                    if VNNI {
                        return low;
                    }
                    // A high nibble counts sixteenfold.
                    let high = _mm256_madd_epi16(high, _mm256_set1_epi16(16));
                    _mm256_add_epi32(widen(low), high)
                })
            }

            kernels!(@dot4 $features, $vnni);
        }
    };
    (@dot4 $features:literal, true) => {
        #[inline]
        #[target_feature(enable = $features)]
        fn dot4(sum: __m256i, values: __m256i, q: __m256i) -> __m256i {
            _mm256_dpbusd_epi32(sum, values, q)
        }
    };
    (@dot4 $features:literal, false) => {
        fn dot4(_: __m256i, _: __m256i, _: __m256i) -> __m256i {
            unreachable!("only with VNNI")
        }
    };
}

#[cfg(target_arch = "x86_64")]
kernels!(avx2, "avx2,fma,f16c", false);
#[cfg(target_arch = "x86_64")]
kernels!(avx512, "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni", true);
