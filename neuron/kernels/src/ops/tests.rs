use super::*;

fn noise(n: usize, scale: f32) -> Vec<f32> {
    let mut random = 7u32;
    let mut next = || {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((random >> 8) as f32 / (1 << 24) as f32 - 0.5) * scale
    };
    (0..n).map(|_| next()).collect()
}

fn near(what: &str, ours: f32, expected: f64, tolerance: f64) {
    let off = (f64::from(ours) - expected).abs() / expected.abs().max(1e-30);
    assert!(off <= tolerance, "{what}: {ours} and not {expected}: {off}");
}

#[test]
fn the_exponential_is_right_to_the_last_places() {
    for i in -8720..=8800 {
        let x = i as f32 / 100.0;
        for ours in [exp::<true>(x), exp::<false>(x), exp_of(x)] {
            near("exp", ours, f64::from(x).exp(), 3e-7);
        }
    }
    assert_eq!((exp_of(f32::NEG_INFINITY), exp_of(-100.0), exp_of(0.0)), (0.0, 0.0, 1.0));
}

#[test]
fn activations_of_gates() {
    let (gate, up) = (noise(37, 20.0), noise(37, 2.0));
    let (mut silu, mut gelu, mut capped) = (gate.clone(), gate.clone(), gate.clone());
    silu_times(&mut silu, &up);
    gelu_times(&mut gelu, &up);
    softcap(&mut capped, 5.0);
    for i in 0..37 {
        let (x, u) = (f64::from(gate[i]), f64::from(up[i]));
        let tanh = (0.797_884_560_8 * (x + 0.044_715 * x * x * x)).tanh();
        assert!((f64::from(silu[i]) - x / (1.0 + (-x).exp()) * u).abs() < 1e-5);
        assert!((f64::from(gelu[i]) - 0.5 * x * (1.0 + tanh) * u).abs() < 1e-5);
        assert!((f64::from(capped[i]) - 5.0 * (x / 5.0).tanh()).abs() < 1e-5);
    }
}

/// The normal distribution's share below x: Simpson's rule over its density, from where nothing is left.
fn below(x: f64) -> f64 {
    let density = |x: f64| (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let (from, steps) = (-12.0, 4000);
    let h = (x - from) / f64::from(steps);
    let at = |k: i32| density(from + h * f64::from(k));
    let inner = (1..steps).map(|k| at(k) * if k % 2 == 1 { 4.0 } else { 2.0 }).sum::<f64>();
    (at(0) + inner + at(steps)) * h / 3.0
}

#[test]
fn activations_without_gates() {
    let x = noise(137, 16.0);
    let (mut exact, mut by_tanh, mut positive, mut gated) = (x.clone(), x.clone(), x.clone(), x.clone());
    gelu(&mut exact);
    gelu_tanh(&mut by_tanh);
    relu(&mut positive);
    gelu_times(&mut gated, &[1.0; 137]);
    assert_eq!(by_tanh, gated);
    for (n, x) in x.iter().enumerate() {
        let expected = f64::from(*x) * below(f64::from(*x));
        assert!((f64::from(exact[n]) - expected).abs() < 1e-6, "{x}: {} and not {expected}", exact[n]);
        assert_eq!(positive[n], x.max(0.0));
    }
    let mut edges = [0.0, f32::INFINITY, -80.0, f32::NAN];
    gelu(&mut edges);
    assert_eq!(edges[..3], [0.0, f32::INFINITY, 0.0]);
    assert!(edges[3].is_nan());
}

/// Whatever the machine's vectors are, what comes out is what one number after the other gives.
#[test]
fn vectors_of_any_width_give_the_same_bits() {
    let x = noise(77, 12.0);
    let (mut vectors, mut one_by_one) = (x.clone(), x.clone());
    gelu(&mut vectors);
    gelu_body::<true>(&mut one_by_one);
    let sums = (exp_minus(&mut vectors, 3.0), exp_minus_body::<true>(&mut one_by_one, 3.0));
    layer_norm(&mut vectors, &x, &x, 1e-5);
    layer_norm_body::<true>(&mut one_by_one, &x, &x, 1e-5);
    if Level::best() > Level::Portable {
        assert_eq!((vectors, sums.0), (one_by_one, sums.1));
    }
}

#[test]
fn layers_are_centred_and_scaled() {
    for n in [1, 15, 16, 17, 384] {
        let (mut x, weight, bias) = (noise(n, 3.0), noise(n, 1.0), noise(n, 0.5));
        x.iter_mut().for_each(|x| *x += 7.0);
        let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / n as f64;
        let variance = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n as f64;
        let mut out = x.clone();
        layer_norm(&mut out, &weight, &bias, 1e-5);
        for i in 0..n {
            let expected = (f64::from(x[i]) - mean) / (variance + 1e-5).sqrt() * f64::from(weight[i])
                + f64::from(bias[i]);
            assert!((f64::from(out[i]) - expected).abs() < 2e-5, "{i} of {n}: {} {expected}", out[i]);
        }
    }
}

#[test]
fn norms_of_any_length() {
    for n in [1, 15, 16, 17, 64, 575, 576] {
        let (x, weight) = (noise(n, 3.0), noise(n, 1.0));
        let mean = x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>() / n as f64;
        let (mut out, mut same) = (vec![0.0; n], x.clone());
        rms_norm(&x, &weight, 1e-5, &mut out);
        rms_norm_in_place(&mut same, &weight, 1e-5);
        assert_eq!(out, same);
        for i in 0..n {
            let expected = f64::from(x[i]) / (mean + 1e-5).sqrt() * f64::from(weight[i]);
            assert!((f64::from(out[i]) - expected).abs() < 1e-5);
        }
    }
}

#[test]
fn rotation_turns_pairs() {
    let mut head = [1.0, 2.0, 3.0, 4.0, 9.0];
    rotate(&mut head[..4], &[0.0, 1.0], &[1.0, 0.0]);
    assert_eq!(head, [-3.0, 2.0, 1.0, 4.0, 9.0]);
}

#[test]
fn softmax_parts() {
    for n in [1, 16, 45] {
        let x = noise(n, 8.0);
        let max = largest(&x);
        assert_eq!(max, x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let mut e = x.clone();
        let sum = exp_minus(&mut e, max);
        near("sum", sum, x.iter().map(|x| f64::from(x - max).exp()).sum(), 1e-6);
    }
    assert_eq!(largest(&[f32::NAN, -1.0]), -1.0);
    assert_eq!(largest(&[f32::NAN]), f32::NEG_INFINITY);
}

#[test]
fn quantised_activations_are_near_and_their_sums_exact() {
    let mut x = noise(70, 6.0);
    x[3] = 0.0;
    let (mut values, mut scales, mut sums, mut halves) = ([0; 96], [0.0; 3], [0.0; 3], [0.0; 6]);
    quantize(&x, &mut values, &mut scales, &mut sums, &mut halves);
    for i in 0..96 {
        let expected = x.get(i).copied().unwrap_or(0.0);
        let ours = f32::from(values[i]) * scales[i / 32];
        assert!((ours - expected).abs() <= scales[i / 32] * 0.5001, "{i}: {ours} {expected}");
    }
    let whole = |from: usize, to: usize| values[from..to].iter().map(|v| i32::from(*v)).sum::<i32>() as f32;
    assert_eq!(sums[1], whole(32, 64) * scales[1]);
    assert_eq!(halves[3], whole(48, 64) * scales[1]);
    for bad in [f32::NAN, f32::INFINITY] {
        x[40] = bad;
        quantize(&x, &mut values, &mut scales, &mut sums, &mut halves);
        assert!(scales[1].is_nan() && !scales[0].is_nan());
    }
    quantize(&[0.0; 96], &mut values, &mut scales, &mut sums, &mut halves);
    assert_eq!((scales, values), ([0.0; 3], [0; 96]));
}
