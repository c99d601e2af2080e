use neuron_cuda::ops::{self, AddNorm};

use crate::support::{ACTS, Out, Random, assert_near, device, read};

fn rms(x: &[f64], epsilon: f64) -> f64 {
    1.0 / (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + epsilon).sqrt()
}

#[test]
fn what_is_added_is_added_and_normalised() {
    let (device, mut random) = (device(), Random(1));
    for act in ACTS {
        for (tokens, width) in [(1, 32), (3, 96), (2, 576), (5, 1056)] {
            for (added, post, rows) in [
                (false, false, None),
                (true, false, None),
                (true, true, None),
                (true, true, Some(vec![2, 0])),
            ] {
                let rows: Option<Vec<i32>> = rows.filter(|_| tokens > 2);
                let (x, more) = (random.floats(tokens * width), random.floats(tokens * width));
                let (weight, of_more) = (random.floats(width), random.floats(width));
                let [on_device, added_there, weight_there, post_there] =
                    [&x, &more, &weight, &of_more].map(|data| device.upload(data).unwrap());
                let rows_there = rows.as_ref().map(|rows| device.upload(rows).unwrap());
                let which: Vec<usize> = match &rows {
                    Some(rows) => rows.iter().map(|row| *row as usize).collect(),
                    None => (0..tokens).collect(),
                };
                let out = Out::new(&device, act, [which.len(), width]);
                let norm = AddNorm {
                    x: &on_device,
                    added: added.then_some(&added_there),
                    post: post.then_some(&post_there),
                    weight: &weight_there,
                    rows: rows_there.as_ref(),
                    tokens,
                    epsilon: 1e-5,
                };
                ops::add_norm(&device, &norm, &out.acts()).unwrap();
                let mut sums: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
                let mut expected = Vec::new();
                for row in which {
                    let range = row * width..(row + 1) * width;
                    if added {
                        let more: Vec<f64> = more[range.clone()].iter().map(|x| f64::from(*x)).collect();
                        let scale = if post { rms(&more, 1e-5) } else { 1.0 };
                        for (i, x) in sums[range.clone()].iter_mut().enumerate() {
                            *x += more[i] * scale * if post { f64::from(of_more[i]) } else { 1.0 };
                        }
                    }
                    let x = &sums[range];
                    let scale = rms(x, 1e-5);
                    expected.extend(x.iter().zip(&weight).map(|(x, weight)| x * scale * f64::from(*weight)));
                }
                assert_near(&out, &expected, &format!("{act:?} {tokens}x{width} {added} {post}"));
                let left: Vec<f32> = read(&on_device);
                assert!(left.iter().zip(&sums).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-5));
            }
        }
    }
}

#[test]
fn gates_are_activated_and_multiplied() {
    let (device, mut random) = (device(), Random(2));
    for act in ACTS {
        for (tokens, width) in [(1, 32), (3, 288), (2, 1536)] {
            for gelu in [false, true] {
                let x: Vec<f32> = random.floats(tokens * 2 * width).iter().map(|x| x * 8.0).collect();
                let out = Out::new(&device, act, [tokens, width]);
                ops::gate_up(&device, &device.upload(&x).unwrap(), gelu, &out.acts()).unwrap();
                let expected: Vec<f64> = (0..tokens * width)
                    .map(|i| {
                        let at = i / width * 2 * width + i % width;
                        let (x, up) = (f64::from(x[at]), f64::from(x[at + width]));
                        let tanh = (0.797_884_560_802_865_4 * (x + 0.044_715 * x * x * x)).tanh();
                        let active = if gelu { 0.5 * x * (1.0 + tanh) } else { x / (1.0 + (-x).exp()) };
                        active * up
                    })
                    .collect();
                assert_near(&out, &expected, &format!("{act:?} {tokens}x{width} {gelu}"));
            }
        }
    }
}

#[test]
fn sixteen_bits_hold_what_is_too_large_for_them_as_their_largest() {
    let device = device();
    let mut x = vec![0.0; 32];
    x[..5].copy_from_slice(&[1e9, -1e9, f32::MIN_POSITIVE, 65519.0, f32::NAN]);
    let out = Out::of(&device, neuron_cuda::Act::F16, &x, 32).floats();
    assert_eq!(out[..4], [65504.0, -65504.0, 0.0, 65504.0]);
    assert!(out[4].is_nan() && Out::of(&device, neuron_cuda::Act::BF16, &x, 32).floats()[4].is_nan());
    // Nothing but zeros has no scale.
    let out = Out::of(&device, neuron_cuda::Act::Q8, &[0.0; 64], 64).floats();
    assert!(out.iter().all(|x| *x == 0.0));
}

#[test]
fn experts_are_chosen_and_what_they_make_is_added_up() {
    let (device, mut random) = (device(), Random(3));
    for (tokens, experts, used) in [(1, 4, 1), (5, 8, 2), (3, 128, 8), (2, 40, 40)] {
        for normalized in [false, true] {
            let mut scores = random.floats(tokens * experts);
            // Of equal ones the first comes first.
            scores[1] = scores[0];
            let (chosen, weights) =
                (device.alloc(tokens * used * 4).unwrap(), device.alloc(tokens * used * 4).unwrap());
            let there = device.upload(&scores).unwrap();
            ops::route(&device, &there, [tokens, experts, used], normalized, [&chosen, &weights]).unwrap();
            let (ours, ours_weights): (Vec<i32>, Vec<f32>) = (read(&chosen), read(&weights));
            let width = 70;
            let made = random.floats(tokens * used * width);
            let out = device.alloc(tokens * width * 4).unwrap();
            ops::combine(&device, &device.upload(&made).unwrap(), &weights, [tokens, used, width], &out)
                .unwrap();
            let out: Vec<f32> = read(&out);
            for (token, scores) in scores.chunks_exact(experts).enumerate() {
                let mut order: Vec<usize> = (0..experts).collect();
                order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
                let exps: Vec<f64> = scores.iter().map(|x| f64::from(*x).exp()).collect();
                order.truncate(used);
                let total: f64 =
                    if normalized { order.iter().map(|i| exps[*i]).sum() } else { exps.iter().sum() };
                let of_token = token * used..(token + 1) * used;
                let chosen: Vec<usize> = ours[of_token.clone()].iter().map(|i| *i as usize).collect();
                assert_eq!(chosen, order, "{tokens} {experts} {used}");
                let weights: Vec<f64> = order.iter().map(|i| exps[*i] / total).collect();
                for (a, b) in ours_weights[of_token].iter().zip(&weights) {
                    assert!((f64::from(*a) - b).abs() < 1e-5, "{a} {b}");
                }
                for i in 0..width {
                    let sum: f64 =
                        (0..used).map(|n| weights[n] * f64::from(made[(token * used + n) * width + i])).sum();
                    assert!((f64::from(out[token * width + i]) - sum).abs() < 1e-5);
                }
            }
        }
    }
}

#[test]
fn what_was_recorded_runs_again_on_what_is_there_then() {
    let device = device();
    let x = device.upload(&[1.0f32; 32]).unwrap();
    let out = Out::new(&device, neuron_cuda::Act::F32, [1, 32]);
    let recording = device.record(|| ops::convert(&device, &x, &out.acts())).unwrap();
    assert!(out.floats().iter().all(|x| x.is_nan()), "nothing runs while it is recorded");
    for value in [2.0f32, 3.0] {
        x.write(0, &[value; 32]).unwrap();
        recording.replay().unwrap();
        assert_eq!(out.floats(), [value; 32]);
    }
}
