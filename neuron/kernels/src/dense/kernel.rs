//! Sixteen rows times a few rows of activations: one body, compiled for each set of instructions.
//!
//! Each product is one sum over the columns in their order, however many rows of activations there are.

use half::{bf16, f16};

use super::{LANES, MOST, View};
use crate::{cpu::Level, ops::fma};

/// Adds to `out[n * out_stride ..][..16]` the products of sixteen rows with `x[n]`, for each n; the element
/// of lane l in column c lies at `w[c * stride + l]`. Columns: as many as `x[n]` has.
///
/// Panics where `w`, `x` or `out` are too short.
pub(crate) fn panel_times(
    level: Level,
    w: View<'_>,
    stride: usize,
    x: &[&[f32]],
    out: &mut [f32],
    out_stride: usize,
) {
    let Some(columns) = x.first().map(|x| x.len()) else { return };
    let len = match w {
        View::F32(w) => w.len(),
        View::F16(w) | View::BF16(w) => w.len(),
    };
    assert!(columns == 0 || len >= (columns - 1) * stride + LANES, "{len} elements for {columns} columns");
    assert!(x.len() <= MOST && x.iter().all(|x| x.len() == columns));
    assert!(out.len() >= (x.len() - 1) * out_stride + LANES);
    #[cfg(target_arch = "x86_64")]
    match level {
        Level::Portable => {}
        // SAFETY: the level says that this machine has the instructions; lengths are checked above.
        Level::Avx2 => return unsafe { avx2::panel_times(w, stride, x, out, out_stride) },
        // SAFETY: as above.
        Level::Avx512 => return unsafe { avx512::panel_times(w, stride, x, out, out_stride) },
    }
    let _only_on_x86 = level;
    for (n, x) in x.iter().enumerate() {
        let out = &mut out[n * out_stride..][..LANES];
        for (c, x) in x.iter().enumerate() {
            for (lane, out) in out.iter_mut().enumerate() {
                let w = match w {
                    View::F32(w) => w[c * stride + lane],
                    View::F16(w) => f16::from_bits(w[c * stride + lane]).to_f32(),
                    View::BF16(w) => bf16::from_bits(w[c * stride + lane]).to_f32(),
                };
                *out = fma(w, *x, *out);
            }
        }
    }
}

/// Sets `out`, `[2, MOST, 16]`, to the products of two panels with [`MOST`] rows, where the machine has
/// registers for so many sums; `false`, and nothing done: it has not.
///
/// Panics where `w` or `x` are too short.
pub(crate) fn pair_times(level: Level, w: [View<'_>; 2], x: &[&[f32]; MOST], out: &mut [f32]) -> bool {
    let columns = x[0].len();
    assert!(x.iter().all(|x| x.len() == columns) && out.len() >= 2 * MOST * LANES);
    let is_long = |w: View<'_>| match w {
        View::F32(w) => w.len() >= columns * LANES,
        View::F16(w) | View::BF16(w) => w.len() >= columns * LANES,
    };
    assert!(w.into_iter().all(is_long), "two panels of {columns} columns");
    #[cfg(target_arch = "x86_64")]
    if level >= Level::Avx512 {
        // SAFETY: the level says that this machine has the instructions; lengths are checked above.
        unsafe { avx512::pair_times(w, x, out) };
        return true;
    }
    let _only_on_x86 = level;
    false
}

#[cfg(target_arch = "x86_64")]
macro_rules! kernels {
    ($name:ident, $features:literal, $lanes:ident, $pairs:ident) => {
        mod $name {
            use std::arch::x86_64::*;

            use super::super::View;

            $lanes!($features);

            /// # Safety
            /// The machine must have the instructions, and the lengths are as the caller checks them.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn panel_times(
                w: View<'_>,
                stride: usize,
                x: &[&[f32]],
                out: &mut [f32],
                out_stride: usize,
            ) {
                macro_rules! with {
                    ($kind:literal, $w:expr) => {
                        // SAFETY: as the caller's.
                        unsafe {
                            match x.len() {
                                1 => run::<$kind, 1, _>($w.as_ptr(), stride, x, out, out_stride),
                                2 => run::<$kind, 2, _>($w.as_ptr(), stride, x, out, out_stride),
                                3 => run::<$kind, 3, _>($w.as_ptr(), stride, x, out, out_stride),
                                4 => run::<$kind, 4, _>($w.as_ptr(), stride, x, out, out_stride),
                                5 => run::<$kind, 5, _>($w.as_ptr(), stride, x, out, out_stride),
                                6 => run::<$kind, 6, _>($w.as_ptr(), stride, x, out, out_stride),
                                7 => run::<$kind, 7, _>($w.as_ptr(), stride, x, out, out_stride),
                                8 => run::<$kind, 8, _>($w.as_ptr(), stride, x, out, out_stride),
                                9 => run::<$kind, 9, _>($w.as_ptr(), stride, x, out, out_stride),
                                10 => run::<$kind, 10, _>($w.as_ptr(), stride, x, out, out_stride),
                                11 => run::<$kind, 11, _>($w.as_ptr(), stride, x, out, out_stride),
                                12 => run::<$kind, 12, _>($w.as_ptr(), stride, x, out, out_stride),
                                _ => {}
                            }
                        }
                    };
                }
                match w {
                    View::F32(w) => with!(0, w),
                    View::F16(w) => with!(1, w),
                    View::BF16(w) => with!(2, w),
                }
            }

            $pairs!($features);

            #[target_feature(enable = $features)]
            unsafe fn run<const KIND: u8, const N: usize, T>(
                w: *const T,
                stride: usize,
                x: &[&[f32]],
                out: &mut [f32],
                out_stride: usize,
            ) {
                let columns = x[0].len();
                let x: [*const f32; N] = std::array::from_fn(|n| x[n].as_ptr());
                // SAFETY: inside what the caller has checked.
                unsafe {
                    let mut sums: [Lanes; N] =
                        std::array::from_fn(|n| load_f32(out.as_ptr().add(n * out_stride)));
                    for c in 0..columns {
                        let at = w.add(c * stride);
                        let w = match KIND {
                            0 => load_f32(at.cast()),
                            1 => load_f16(at.cast()),
                            _ => load_bf16(at.cast()),
                        };
                        for n in 0..N {
                            sums[n] = add_times(sums[n], w, *x[n].add(c));
                        }
                    }
                    for n in 0..N {
                        store(out.as_mut_ptr().add(n * out_stride), sums[n]);
                    }
                }
            }
        }
    };
}

/// Sixteen registers hold no more than one panel's sums.
#[cfg(target_arch = "x86_64")]
macro_rules! no_pairs {
    ($features:literal) => {};
}

/// Two panels share what is loaded of the activations: half the loads of one.
#[cfg(target_arch = "x86_64")]
macro_rules! pairs {
    ($features:literal) => {
        use super::super::MOST;

        /// # Safety
        /// As of `panel_times`.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn pair_times(w: [View<'_>; 2], x: &[&[f32]; MOST], out: &mut [f32]) {
            // SAFETY: as the caller's.
            unsafe {
                match w {
                    [View::F32(a), View::F32(b)] => pair::<0, _>([a.as_ptr(), b.as_ptr()], x, out),
                    [View::F16(a), View::F16(b)] => pair::<1, _>([a.as_ptr(), b.as_ptr()], x, out),
                    [View::BF16(a), View::BF16(b)] => pair::<2, _>([a.as_ptr(), b.as_ptr()], x, out),
                    _ => unreachable!("panels of one matrix"),
                }
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn pair<const KIND: u8, T>(w: [*const T; 2], x: &[&[f32]; MOST], out: &mut [f32]) {
            let columns = x[0].len();
            let x: [*const f32; MOST] = std::array::from_fn(|n| x[n].as_ptr());
            // SAFETY: inside what the caller has checked.
            unsafe {
                let at = |panel: usize, n: usize| (panel * MOST + n) * super::LANES;
                let mut sums: [[Lanes; MOST]; 2] = [[zero(); MOST]; 2];
                for c in 0..columns {
                    let w = w.map(|w| {
                        let at = w.add(c * super::LANES);
                        match KIND {
                            0 => load_f32(at.cast()),
                            1 => load_f16(at.cast()),
                            _ => load_bf16(at.cast()),
                        }
                    });
                    for n in 0..MOST {
                        let x = *x[n].add(c);
                        sums[0][n] = add_times(sums[0][n], w[0], x);
                        sums[1][n] = add_times(sums[1][n], w[1], x);
                    }
                }
                for panel in 0..2 {
                    for n in 0..MOST {
                        store(out.as_mut_ptr().add(at(panel, n)), sums[panel][n]);
                    }
                }
            }
        }
    };
}

/// Sixteen floats in two vectors.
#[cfg(target_arch = "x86_64")]
macro_rules! two_of_eight {
    ($features:literal) => {
        type Lanes = [__m256; 2];

        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn load_f32(at: *const f32) -> Lanes {
            // SAFETY: the caller's sixteen.
            unsafe { [_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8))] }
        }

        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn load_f16(at: *const u16) -> Lanes {
            // SAFETY: the caller's sixteen.
            unsafe {
                [
                    _mm256_cvtph_ps(_mm_loadu_si128(at.cast())),
                    _mm256_cvtph_ps(_mm_loadu_si128(at.add(8).cast())),
                ]
            }
        }

        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn load_bf16(at: *const u16) -> Lanes {
            // SAFETY: the caller's sixteen.
            let halves = unsafe { [_mm_loadu_si128(at.cast()), _mm_loadu_si128(at.add(8).cast())] };
            halves.map(|half| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(half))))
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn add_times(sum: Lanes, w: Lanes, x: f32) -> Lanes {
            let x = _mm256_set1_ps(x);
            [_mm256_fmadd_ps(w[0], x, sum[0]), _mm256_fmadd_ps(w[1], x, sum[1])]
        }

        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn store(at: *mut f32, sum: Lanes) {
            // SAFETY: the caller's sixteen.
            unsafe {
                _mm256_storeu_ps(at, sum[0]);
                _mm256_storeu_ps(at.add(8), sum[1]);
            }
        }
    };
}

/// Sixteen floats in one vector.
#[cfg(target_arch = "x86_64")]
macro_rules! one_of_sixteen {
    ($features:literal) => {
        type Lanes = __m512;

        #[inline]
        #[target_feature(enable = $features)]
        fn zero() -> Lanes {
            _mm512_setzero_ps()
        }

        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn load_f32(at: *const f32) -> Lanes {
            // SAFETY: the caller's sixteen.
            unsafe { _mm512_loadu_ps(at) }
        }

        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn load_f16(at: *const u16) -> Lanes {
            // SAFETY: the caller's sixteen.
            unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) }
        }

        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn load_bf16(at: *const u16) -> Lanes {
            // SAFETY: the caller's sixteen.
            let halves = unsafe { _mm256_loadu_si256(at.cast()) };
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn add_times(sum: Lanes, w: Lanes, x: f32) -> Lanes {
            _mm512_fmadd_ps(w, _mm512_set1_ps(x), sum)
        }

        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn store(at: *mut f32, sum: Lanes) {
            // SAFETY: the caller's sixteen.
            unsafe { _mm512_storeu_ps(at, sum) };
        }
    };
}

#[cfg(target_arch = "x86_64")]
kernels!(avx2, "avx2,fma,f16c", two_of_eight, no_pairs);
#[cfg(target_arch = "x86_64")]
kernels!(avx512, "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c", one_of_sixteen, pairs);
