use neuron_cuda::{
    Act, Buffer, Device,
    ops::{self, Acts, Attention, Cache, Kv, KvFloat, Rope},
};

use crate::support::{Out, Random, assert_near, device, narrow_kv as narrow, read, widen_kv as widen};

/// A batch of parts of sequences, with what each has run before.
struct Case {
    kv: Kv,
    window: usize,
    /// Of each sequence: positions before, and tokens now.
    parts: Vec<(usize, usize)>,
}

struct Batch {
    qkv: Vec<f32>,
    /// Of each token: sequence and position.
    tokens: Vec<(usize, usize)>,
    tables: Vec<Vec<i32>>,
    /// `[blocks, kv_heads, 16, dim]`, as the device holds them.
    keys: Vec<f32>,
    values: Vec<f32>,
    keys_bytes: Vec<u8>,
    values_bytes: Vec<u8>,
}

impl Batch {
    /// Blocks lie in no order, and what no sequence has is no numbers.
    fn new(random: &mut Random, case: &Case) -> Self {
        let Kv { kv_heads, dim, float, blocks, .. } = case.kv;
        let mut free: Vec<i32> = (0..blocks as i32).collect();
        let mut tokens = Vec::new();
        let mut tables = Vec::new();
        let mut used = vec![false; blocks * 16];
        for (sequence, (before, now)) in case.parts.iter().enumerate() {
            let count = (before + now).div_ceil(16);
            let table: Vec<i32> = (0..count).map(|_| free.swap_remove(random.below(free.len()))).collect();
            (0..before + now).for_each(|p| used[table[p / 16] as usize * 16 + p % 16] = true);
            tokens.extend((*before..before + now).map(|position| (sequence, position)));
            tables.push(table);
        }
        let mut fill = || {
            let floats = random.floats(blocks * kv_heads * 16 * dim);
            let at = |i: usize| i / (kv_heads * 16 * dim) * 16 + i / dim % 16;
            let held: Vec<f32> =
                floats.iter().enumerate().map(|(i, x)| if used[at(i)] { *x } else { f32::NAN }).collect();
            let bytes = narrow(float, &held);
            (widen(float, &bytes), bytes)
        };
        let ((keys, keys_bytes), (values, values_bytes)) = (fill(), fill());
        let qkv = random.floats(tokens.len() * case.kv.row()).iter().map(|x| x * 3.0).collect();
        Self { qkv, tokens, tables, keys, values, keys_bytes, values_bytes }
    }

    fn at(&self, case: &Case, sequence: usize, position: usize, kv_head: usize) -> usize {
        let block = self.tables[sequence][position / 16] as usize;
        ((block * case.kv.kv_heads + kv_head) * 16 + position % 16) * case.kv.dim
    }

    /// What attention makes of a token: `[heads * dim]`.
    fn expected(&self, case: &Case, token: usize) -> Vec<f64> {
        let Kv { heads, kv_heads, dim, .. } = case.kv;
        let (sequence, position) = self.tokens[token];
        let from = if case.window == 0 { 0 } else { (position + 1).saturating_sub(case.window) };
        let mut out = Vec::new();
        for head in 0..heads {
            let kv_head = head / (heads / kv_heads);
            let query = &self.qkv[token * case.kv.row() + head * dim..][..dim];
            let scores: Vec<f64> = (from..=position)
                .map(|p| {
                    let key = &self.keys[self.at(case, sequence, p, kv_head)..][..dim];
                    query.iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>() * 0.3
                })
                .collect();
            let most = scores.iter().copied().fold(f64::MIN, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
            let total: f64 = weights.iter().sum();
            let mut sums = vec![0.0; dim];
            for (p, weight) in (from..=position).zip(&weights) {
                let value = &self.values[self.at(case, sequence, p, kv_head)..][..dim];
                sums.iter_mut().zip(value).for_each(|(sum, v)| *sum += weight / total * f64::from(*v));
            }
            out.extend(sums);
        }
        out
    }
}

/// A batch on a device.
struct There {
    qkv: Buffer,
    positions: Buffer,
    starts: Buffer,
    tables: Buffer,
    slots: Buffer,
    keys: Buffer,
    values: Buffer,
}

impl There {
    fn new(device: &Device, batch: &Batch) -> Self {
        let mut starts = Vec::new();
        let mut start = 0;
        for table in &batch.tables {
            starts.push(start);
            start += table.len() as i32;
        }
        let of_token = |of: &dyn Fn(usize, usize) -> i32| -> Vec<i32> {
            batch.tokens.iter().map(|(sequence, position)| of(*sequence, *position)).collect()
        };
        let up = |data: &[i32]| device.upload(data).unwrap();
        Self {
            qkv: device.upload(&batch.qkv).unwrap(),
            positions: up(&of_token(&|_, position| position as i32)),
            starts: up(&of_token(&|sequence, _| starts[sequence])),
            tables: up(&batch.tables.concat()),
            slots: up(&of_token(&|sequence, p| batch.tables[sequence][p / 16] * 16 + (p % 16) as i32)),
            keys: device.upload(&batch.keys_bytes).unwrap(),
            values: device.upload(&batch.values_bytes).unwrap(),
        }
    }

    fn attention(&self, tokens: usize, window: usize) -> Attention<'_> {
        Attention {
            qkv: &self.qkv,
            tokens,
            positions: &self.positions,
            starts: &self.starts,
            tables: &self.tables,
            window,
            scale: 0.3,
        }
    }

    fn cache(&self) -> Cache<'_> {
        Cache { keys: &self.keys, values: &self.values }
    }
}

fn kv(heads: usize, kv_heads: usize, dim: usize, float: KvFloat) -> Kv {
    Kv { heads, kv_heads, dim, float, blocks: 40 }
}

fn cases() -> Vec<Case> {
    use KvFloat::{BF16, F8, F16, F32};
    vec![
        Case { kv: kv(1, 1, 8, F32), window: 0, parts: vec![(0, 1)] },
        Case { kv: kv(4, 2, 16, F16), window: 0, parts: vec![(70, 1), (0, 3), (15, 1), (16, 2)] },
        Case { kv: kv(9, 3, 64, BF16), window: 0, parts: vec![(130, 1), (5, 20)] },
        Case { kv: kv(10, 1, 40, F16), window: 33, parts: vec![(200, 1), (31, 3), (0, 70)] },
        Case { kv: kv(2, 2, 128, F16), window: 0, parts: vec![(0, 65)] },
        Case { kv: kv(2, 1, 256, BF16), window: 100, parts: vec![(120, 40), (3, 1)] },
        Case { kv: kv(3, 1, 96, F32), window: 16, parts: vec![(90, 2)] },
        Case { kv: kv(4, 4, 32, F16), window: 5, parts: vec![(3, 100)] },
        Case { kv: kv(6, 2, 48, F8), window: 0, parts: vec![(40, 1), (5, 20), (0, 2)] },
        Case { kv: kv(2, 1, 128, F8), window: 20, parts: vec![(120, 1), (7, 30)] },
    ]
}

#[test]
fn single_tokens_attend_to_what_is_before_them() {
    let (device, mut random) = (device(), Random(9));
    for case in cases() {
        let batch = Batch::new(&mut random, &case);
        let there = There::new(&device, &batch);
        let tokens = batch.tokens.len();
        let width = case.kv.heads * case.kv.dim;
        for act in [Act::F32, Act::BF16, Act::Q8] {
            if act == Act::Q8 && !width.is_multiple_of(32) {
                continue;
            }
            // All but some, which stay as they are.
            let rows: Vec<i32> = (0..tokens as i32).filter(|row| tokens < 3 || row % 3 != 1).collect();
            let out = Out::new(&device, act, [tokens, width]);
            let (_, floats) = ops::splits(&device, &case.kv, rows.len());
            let parts = device.alloc(floats * 4).unwrap();
            let attention = there.attention(tokens, case.window);
            let rows_there = device.upload(&rows).unwrap();
            let cache = there.cache();
            ops::attend_one(
                &device,
                &case.kv,
                &attention,
                &cache,
                [&rows_there, &parts],
                rows.len(),
                &out.acts(),
            )
            .unwrap();
            compare(&out, &batch, &case, &rows.iter().map(|row| *row as usize).collect::<Vec<_>>());
        }
    }
}

fn compare(out: &Out, batch: &Batch, case: &Case, rows: &[usize]) {
    let width = case.kv.heads * case.kv.dim;
    let (ours, act) = (out.acts(), out.act);
    let floats = if act == Act::Q8 { Vec::new() } else { out.floats() };
    for row in rows {
        let expected = batch.expected(case, *row);
        if act == Act::Q8 {
            continue;
        }
        // Where 16 bits are computed with, weights are rounded to them too.
        let off = match (act, case.kv.float) {
            (Act::F32, KvFloat::F32) => 2e-5,
            (_, KvFloat::BF16) | (Act::BF16, _) => 2e-2,
            _ => 4e-3,
        };
        for (a, b) in floats[row * width..][..width].iter().zip(&expected) {
            assert!((f64::from(*a) - b).abs() < off, "{:?} {act:?} row {row}: {a} for {b}", case.kv);
        }
    }
    if act == Act::Q8 {
        let bytes: Vec<i8> = read(ours.data);
        let groups: Vec<f32> = read(ours.groups);
        for row in rows {
            for (i, b) in batch.expected(case, *row).iter().enumerate() {
                let at = row * width + i;
                let a = f64::from(bytes[at]) * f64::from(groups[at / 32 * 4]);
                assert!((a - b).abs() < 1e-2, "{:?} row {row}: {a} for {b}", case.kv);
            }
        }
    }
    if act != Act::Q8 {
        // Others are as they were: no numbers.
        let others = (0..batch.tokens.len()).filter(|row| !rows.contains(row));
        for row in others {
            assert!(floats[row * width..][..width].iter().all(|x| x.is_nan()));
        }
    }
}

#[test]
fn many_tokens_of_a_sequence_attend_at_once() {
    let (device, mut random) = (device(), Random(10));
    for case in cases() {
        let batch = Batch::new(&mut random, &case);
        let there = There::new(&device, &batch);
        let (tokens, width) = (batch.tokens.len(), case.kv.heads * case.kv.dim);
        let mut tiles: Vec<i32> = Vec::new();
        let mut first = 0;
        for (_, now) in &case.parts {
            for at in (0..*now).step_by(Attention::TILE) {
                tiles.extend([(first + at) as i32, (now - at).min(Attention::TILE) as i32]);
            }
            first += now;
        }
        for act in [Act::F32, Act::F16, Act::BF16] {
            let out = Out::new(&device, act, [tokens, width]);
            let attention = there.attention(tokens, case.window);
            let tiles_there = device.upload(&tiles).unwrap();
            let (cache, count) = (there.cache(), tiles.len() / 2);
            let ran =
                ops::attend_many(&device, &case.kv, &attention, &cache, &tiles_there, count, &out.acts())
                    .unwrap();
            assert_eq!(ran, case.kv.float != KvFloat::F32);
            if ran {
                compare(&out, &batch, &case, &(0..tokens).collect::<Vec<_>>());
            }
        }
    }
}

/// By how much what is stored may be off where it is about 1.
fn step_of(float: KvFloat) -> f64 {
    match float {
        KvFloat::F32 => 1e-4,
        KvFloat::F16 | KvFloat::F8 => 3e-3,
        KvFloat::BF16 => 2e-2,
    }
}

#[test]
fn queries_and_keys_are_turned_and_put_into_their_places() {
    let (device, mut random) = (device(), Random(11));
    for case in cases() {
        let Kv { heads, kv_heads, dim, float, .. } = case.kv;
        for (biased, normed) in [(false, false), (true, false), (false, true), (true, true)] {
            let batch = Batch::new(&mut random, &case);
            let there = There::new(&device, &batch);
            let tokens = batch.tokens.len();
            let frequencies: Vec<f32> =
                (0..dim / 2).map(|i| 1.0 / 1e4f32.powf(2.0 * i as f32 / dim as f32)).collect();
            let (bias, query_norm, key_norm) =
                (random.floats(case.kv.row()), random.floats(dim), random.floats(dim));
            let [f, b, q, k] =
                [&frequencies, &bias, &query_norm, &key_norm].map(|data| device.upload(data).unwrap());
            let rope = Rope {
                bias: biased.then_some(&b),
                query_norm: normed.then_some(&q),
                key_norm: normed.then_some(&k),
                frequencies: &f,
                slots: &there.slots,
                epsilon: 1e-6,
            };
            let attention = there.attention(tokens, 0);
            ops::rope(&device, &case.kv, &rope, &attention, &there.cache()).unwrap();
            let qkv: Vec<f32> = read(&there.qkv);
            let keys = widen(float, &read::<u8>(&there.keys));
            let values = widen(float, &read::<u8>(&there.values));
            for (token, (sequence, position)) in batch.tokens.iter().enumerate() {
                for head in 0..heads + 2 * kv_heads {
                    let at = token * case.kv.row() + head * dim;
                    let mut x: Vec<f64> = (0..dim)
                        .map(|i| {
                            f64::from(batch.qkv[at + i])
                                + if biased { f64::from(bias[head * dim + i]) } else { 0.0 }
                        })
                        .collect();
                    let value = head >= heads + kv_heads;
                    if !value {
                        if normed {
                            let weight = if head < heads { &query_norm } else { &key_norm };
                            let scale =
                                1.0 / (x.iter().map(|x| x * x).sum::<f64>() / dim as f64 + 1e-6).sqrt();
                            x.iter_mut().zip(weight).for_each(|(x, w)| *x *= scale * f64::from(*w));
                        }
                        for i in 0..dim / 2 {
                            let (sin, cos) = f64::from(*position as f32 * frequencies[i]).sin_cos();
                            let (a, b) = (x[i], x[i + dim / 2]);
                            (x[i], x[i + dim / 2]) = (a * cos - b * sin, b * cos + a * sin);
                        }
                    }
                    let (ours, off) = if head < heads {
                        (&qkv[at..at + dim], 1e-4)
                    } else {
                        let place = batch.at(&case, *sequence, *position, (head - heads) % kv_heads);
                        let off = step_of(float);
                        (&(if value { &values } else { &keys })[place..place + dim], off)
                    };
                    for (a, b) in ours.iter().zip(&x) {
                        // Three bits of mantissa.
                        let off =
                            if head >= heads && float == KvFloat::F8 { 2e-3 + b.abs() / 15.9 } else { off };
                        assert!((f64::from(*a) - b).abs() < off, "{:?} {head}: {a} for {b}", case.kv);
                    }
                }
            }
        }
    }
}

#[test]
fn floats_are_activations_as_they_are() {
    let device = device();
    let x = device.upload(&[0.5f32; 64]).unwrap();
    let out = Out::new(&device, Act::F32, [2, 32]);
    ops::convert(&device, Acts::floats(&x, [2, 32]).data, &out.acts()).unwrap();
    assert_near(&out, &[0.5; 64], "halves");
}

/// Every value of eight bits is read as what it is, and every float is stored as the nearest.
#[test]
fn eight_bits_are_rounded_to_the_nearest() {
    let device = device();
    // A head of 16 dimensions that is not turned: position 0.
    let kv = Kv { heads: 1, kv_heads: 1, dim: 16, float: KvFloat::F8, blocks: 1 };
    let mut random = Random(12);
    for round in 0..40 {
        let mut row = random.floats(kv.row());
        let scale = 2f32.powi(round - 16);
        row.iter_mut().for_each(|x| *x *= scale);
        if round == 39 {
            row[16..24].copy_from_slice(&[448.0, -448.0, 1e9, -460.0, 2.0, 0.0, -1.0, 464.1]);
            (row[36], row[37]) = (f32::NAN, f32::NEG_INFINITY);
            row[24..32].copy_from_slice(&[
                2f32.powi(-9),
                2f32.powi(-10),
                1.5 * 2f32.powi(-9),
                0.015,
                0.01562,
                17.0,
                19.0,
                447.0,
            ]);
        }
        let [zero, keys, values] = [16, 256, 256].map(|bytes| device.alloc(bytes).unwrap());
        zero.zero().unwrap();
        let (frequencies, qkv) = (device.upload(&[0f32; 8]).unwrap(), device.upload(&row).unwrap());
        let rope = Rope {
            bias: None,
            query_norm: None,
            key_norm: None,
            frequencies: &frequencies,
            slots: &zero,
            epsilon: 0.0,
        };
        let attention = Attention {
            qkv: &qkv,
            tokens: 1,
            positions: &zero,
            starts: &zero,
            tables: &zero,
            window: 0,
            scale: 1.0,
        };
        ops::rope(&device, &kv, &rope, &attention, &Cache { keys: &keys, values: &values }).unwrap();
        for (stored, x) in [(&keys, &row[16..32]), (&values, &row[32..48])] {
            let ours: Vec<u8> = read::<u8>(stored)[..16].to_vec();
            let theirs = narrow(KvFloat::F8, &x.iter().map(|x| x.clamp(-448.0, 448.0)).collect::<Vec<_>>());
            for ((ours, theirs), x) in ours.iter().zip(&theirs).zip(x) {
                assert_eq!(ours & 0x7f, theirs & 0x7f, "{x}");
                assert!(x.is_nan() || ours == theirs, "{x}");
            }
        }
    }
}
