//! The arithmetic between the matrices, row by row. Plain Rust, compiled for each set of instructions.
//!
//! Sums go over sixteen lanes and then in a fixed order, so that a row's result depends on nothing but the row.

use crate::cpu::Level;

const LANES: usize = 16;

/// a * b + c; rounded once where the machine does so at no cost.
#[inline(always)]
pub(crate) fn fma(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) { a.mul_add(b, c) } else { a * b + c }
}

#[inline(always)]
fn fma_if<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { fma(a, b, c) }
}

/// Compiles a body with and without vector instructions and picks at run time.
macro_rules! versions {
    ($(#[$about:meta])* $vis:vis fn $name:ident($($arg:ident: $kind:ty),* $(,)?) $(-> $out:ty)? = $body:ident) => {
        $(#[$about])*
        $vis fn $name($($arg: $kind),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            if Level::best() >= Level::Avx512 {
                #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
                unsafe fn with_avx512($($arg: $kind),*) $(-> $out)? {
                    $body::<true>($($arg),*)
                }
                // SAFETY: the level says that this machine has the instructions.
                return unsafe { with_avx512($($arg),*) };
            }
            #[cfg(target_arch = "x86_64")]
            if Level::best() >= Level::Avx2 {
                #[target_feature(enable = "avx2,fma,f16c")]
                unsafe fn with_avx2($($arg: $kind),*) $(-> $out)? {
                    $body::<true>($($arg),*)
                }
                // SAFETY: the level says that this machine has the instructions.
                return unsafe { with_avx2($($arg),*) };
            }
            $body::<false>($($arg),*)
        }
    };
}
pub(crate) use versions;

/// e^x to about two units in the last place; exactly 0 below -87.3 and never more than e^88.
///
/// The usual reduction to 2^n * e^r with |r| <= ln(2)/2, and Cephes' polynomial for e^r.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    /// 1.5 * 2^23: adding it rounds to a whole number, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.3, 88.0);
    let shifted = fma_if::<FMA>(clamped, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    // ln 2 in two parts, so that n * ln 2 is exact to far below the last place.
    let r = fma_if::<FMA>(n, -0.693_359_4, clamped);
    let r = fma_if::<FMA>(n, 2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4;
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1] {
        p = fma_if::<FMA>(p, r, c);
    }
    let e = fma_if::<FMA>(p * r, r, r) + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    if x < -87.3 { 0.0 } else { e * power }
}

#[inline(always)]
pub(crate) fn sum(lanes: [f32; LANES]) -> f32 {
    let mut half: [f32; 8] = std::array::from_fn(|i| lanes[i] + lanes[i + 8]);
    for width in [4, 2, 1] {
        for i in 0..width {
            half[i] += half[i + width];
        }
    }
    half[0]
}

#[inline(always)]
fn square_sum<const FMA: bool>(x: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = fma_if::<FMA>(*x, *x, *lane);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane = fma_if::<FMA>(*x, *x, *lane);
    }
    sum(lanes)
}

#[inline(always)]
fn rms_norm_body<const FMA: bool>(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    let scale = 1.0 / (square_sum::<FMA>(x) / x.len() as f32 + epsilon).sqrt();
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * weight;
    }
}
versions! {
    /// x / sqrt(mean(x^2) + epsilon) * weight; all of one length.
    pub fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) = rms_norm_body
}

#[inline(always)]
fn rms_norm_in_place_body<const FMA: bool>(x: &mut [f32], weight: &[f32], epsilon: f32) {
    let scale = 1.0 / (square_sum::<FMA>(x) / x.len() as f32 + epsilon).sqrt();
    for (x, weight) in x.iter_mut().zip(weight) {
        *x = *x * scale * weight;
    }
}
versions! {
    /// As [`rms_norm`], over itself.
    pub fn rms_norm_in_place(x: &mut [f32], weight: &[f32], epsilon: f32) = rms_norm_in_place_body
}

#[inline(always)]
fn add_body<const FMA: bool>(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}
versions! {
    /// x += y
    pub fn add(x: &mut [f32], y: &[f32]) = add_body
}

#[inline(always)]
fn add_scaled_body<const FMA: bool>(x: &mut [f32], y: &[f32], by: f32) {
    for (x, y) in x.iter_mut().zip(y) {
        *x = fma_if::<FMA>(*y, by, *x);
    }
}
versions! {
    /// x += y * by
    pub fn add_scaled(x: &mut [f32], y: &[f32], by: f32) = add_scaled_body
}

#[inline(always)]
fn scale_body<const FMA: bool>(x: &mut [f32], by: f32) {
    x.iter_mut().for_each(|x| *x *= by);
}
versions! {
    /// x *= by
    pub fn scale(x: &mut [f32], by: f32) = scale_body
}

#[inline(always)]
fn silu_times_body<const FMA: bool>(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + exp::<FMA>(-*gate)) * up;
    }
}
versions! {
    /// gate = silu(gate) * up
    pub fn silu_times(gate: &mut [f32], up: &[f32]) = silu_times_body
}

/// tanh by its exponential; for |x| > 10 it is 1 in f32.
#[inline(always)]
fn tanh<const FMA: bool>(x: f32) -> f32 {
    let e = exp::<FMA>(2.0 * x.clamp(-10.0, 10.0));
    (e - 1.0) / (e + 1.0)
}

#[inline(always)]
fn gelu_by_tanh<const FMA: bool>(x: f32) -> f32 {
    /// sqrt(2 / pi)
    const ROOT: f32 = 0.797_884_6;
    let inner = ROOT * x * fma_if::<FMA>(0.044_715 * x, x, 1.0);
    0.5 * x * (1.0 + tanh::<FMA>(inner))
}

#[inline(always)]
fn gelu_times_body<const FMA: bool>(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = gelu_by_tanh::<FMA>(*gate) * up;
    }
}
versions! {
    /// gate = gelu(gate) * up, by gelu's tanh form.
    pub fn gelu_times(gate: &mut [f32], up: &[f32]) = gelu_times_body
}

#[inline(always)]
fn gelu_body<const FMA: bool>(x: &mut [f32]) {
    // erf(z) = 1 - (a1 t + ... + a5 t^5) e^(-z^2) with t = 1 / (1 + p z) for z >= 0, to 1.5e-7: Abramowitz and
    // Stegun, Handbook of Mathematical Functions, 7.1.26.
    const P: f32 = 0.327_591_1;
    for x in x {
        let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
        let t = 1.0 / fma_if::<FMA>(P, z, 1.0);
        let mut poly = 1.061_405_4;
        for a in [-1.453_152_1, 1.421_413_8, -0.284_496_72, 0.254_829_6] {
            poly = fma_if::<FMA>(poly, t, a);
        }
        let tail = poly * t * exp::<FMA>(-z * z);
        // The half of the tail that is beyond |x|, and what is before it.
        *x *= if *x < 0.0 { 0.5 * tail } else { 1.0 - 0.5 * tail };
    }
}
versions! {
    /// x = gelu(x), by its definition: x times the normal distribution's share below x.
    pub fn gelu(x: &mut [f32]) = gelu_body
}

#[inline(always)]
fn gelu_tanh_body<const FMA: bool>(x: &mut [f32]) {
    x.iter_mut().for_each(|x| *x = gelu_by_tanh::<FMA>(*x));
}
versions! {
    /// x = gelu(x), by its tanh form.
    pub fn gelu_tanh(x: &mut [f32]) = gelu_tanh_body
}

#[inline(always)]
fn relu_body<const FMA: bool>(x: &mut [f32]) {
    x.iter_mut().for_each(|x| *x = if *x < 0.0 { 0.0 } else { *x });
}
versions! {
    /// x = max(x, 0)
    pub fn relu(x: &mut [f32]) = relu_body
}

#[inline(always)]
fn layer_norm_body<const FMA: bool>(x: &mut [f32], weight: &[f32], bias: &[f32], epsilon: f32) {
    let n = x.len() as f32;
    let mut lanes = [0.0; LANES];
    let chunks = x.chunks_exact(LANES);
    for (lane, x) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane += x;
    }
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += x;
        }
    }
    let mean = sum(lanes) / n;
    x.iter_mut().for_each(|x| *x -= mean);
    let scale = 1.0 / (square_sum::<FMA>(x) / n + epsilon).sqrt();
    for ((x, weight), bias) in x.iter_mut().zip(weight).zip(bias) {
        *x = fma_if::<FMA>(*x * scale, *weight, *bias);
    }
}
versions! {
    /// x = (x - mean) / sqrt(variance + epsilon) * weight + bias; all of one length.
    pub fn layer_norm(x: &mut [f32], weight: &[f32], bias: &[f32], epsilon: f32) = layer_norm_body
}

#[inline(always)]
fn softcap_body<const FMA: bool>(x: &mut [f32], cap: f32) {
    x.iter_mut().for_each(|x| *x = cap * tanh::<FMA>(*x / cap));
}
versions! {
    /// x = cap * tanh(x / cap)
    pub fn softcap(x: &mut [f32], cap: f32) = softcap_body
}

#[inline(always)]
fn rotate_body<const FMA: bool>(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (a, b) = head.split_at_mut(cos.len());
    for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    }
}
versions! {
    /// Rotates dimension i with dimension i + n of a head, n being the length of `cos` and of `sin`.
    pub fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32]) = rotate_body
}

#[inline(always)]
fn exp_minus_body<const FMA: bool>(x: &mut [f32], max: f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let mut chunks = x.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *x = exp::<FMA>(*x - max);
            *lane += *x;
        }
    }
    for (lane, x) in lanes.iter_mut().zip(chunks.into_remainder()) {
        *x = exp::<FMA>(*x - max);
        *lane += *x;
    }
    sum(lanes)
}
versions! {
    /// x = e^(x - max); returns the sum. What is negative infinity becomes exactly 0.
    pub(crate) fn exp_minus(x: &mut [f32], max: f32) -> f32 = exp_minus_body
}

/// e^x as the kernels compute it.
pub(crate) fn exp_of(x: f32) -> f32 {
    let mut one = [x];
    exp_minus(&mut one, 0.0)
}

#[inline(always)]
fn largest_body<const FMA: bool>(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = if *x > *lane { *x } else { *lane };
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane = if *x > *lane { *x } else { *lane };
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
}
versions! {
    /// The largest; what is no number does not count; negative infinity where there is none.
    pub fn largest(x: &[f32]) -> f32 = largest_body
}

#[inline(always)]
fn rounding_body<const FMA: bool>(x: &[f32], out: &mut [f32]) {
    const ROUND: f32 = 12_582_912.0;
    for (x, out) in x.chunks(32).zip(out.chunks_mut(32)) {
        let max = x.iter().fold(0.0f32, |max, x| if x.abs() > max { x.abs() } else { max });
        let by = if max > 0.0 { 127.0 / max } else { 0.0 };
        let scale = max / 127.0;
        for (x, out) in x.iter().zip(out) {
            *out = x - (x * by + ROUND - ROUND) * scale;
        }
    }
}
versions! {
    /// What eight bits lose of each activation, see [`crate::Input`]: multiplied as well, it makes the product
    /// as exact as sixteen bits would.
    pub fn rounding(x: &[f32], out: &mut [f32]) = rounding_body
}

#[inline(always)]
fn quantize_body<const FMA: bool>(
    from: &[f32],
    values: &mut [i8],
    scales: &mut [f32],
    sums: &mut [f32],
    half_sums: &mut [f32],
) {
    const ROUND: f32 = 12_582_912.0;
    let blocks = values.chunks_exact_mut(32).zip(scales).zip(sums).zip(half_sums.chunks_exact_mut(2));
    for (n, (((values, scale), sum), halves)) in blocks.enumerate() {
        let from = &from[(n * 32).min(from.len())..((n + 1) * 32).min(from.len())];
        let mut block = [0.0f32; 32];
        block[..from.len()].copy_from_slice(from);
        let mut lanes = [0.0f32; 8];
        for chunk in block.chunks_exact(8) {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                let x = x.abs();
                *lane = if x > *lane { x } else { *lane };
            }
        }
        let max = lanes.into_iter().fold(0.0, f32::max);
        let by = if max > 0.0 { 127.0 / max } else { 0.0 };
        *scale = max / 127.0;
        let mut ints = [0i32; 32];
        for (int, x) in ints.iter_mut().zip(&block) {
            // Rounded to the nearest; the whole number is in the low bits.
            *int = (x * by + ROUND).to_bits().wrapping_sub(ROUND.to_bits()).cast_signed();
        }
        for (value, int) in values.iter_mut().zip(&ints) {
            *value = *int as i8;
        }
        let half: [i32; 2] = [ints[..16].iter().sum(), ints[16..].iter().sum()];
        halves[0] = half[0] as f32 * *scale;
        halves[1] = half[1] as f32 * *scale;
        *sum = (half[0] + half[1]) as f32 * *scale;
        // What is no number must not come out as one.
        if !from.iter().all(|x| x.is_finite()) {
            *scale = f32::NAN;
        }
    }
}
versions! {
    /// See [`crate::acts::Acts::fill`].
    pub(crate) fn quantize(
        from: &[f32],
        values: &mut [i8],
        scales: &mut [f32],
        sums: &mut [f32],
        half_sums: &mut [f32],
    ) = quantize_body
}

/// Sixteen-bit floats to thirty-two; lengths are equal.
pub(crate) fn widen_f16(from: &[u16], to: &mut [f32]) {
    use half::slice::HalfFloatSliceExt;
    // The library has the machine's own instruction for it, asked for at run time.
    let from: &[half::f16] = half::slice::HalfBitsSliceExt::reinterpret_cast(from);
    from.convert_to_f32_slice(to);
}

#[cfg(test)]
mod tests;
