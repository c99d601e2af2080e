use candle_core::{Device, quantized::GgmlDType, quantized::ggml_file::qtensor_from_ggml};
use half::f16;

use super::*;
use crate::{Input, Matrix, Order, Pool, Product, matrix::multiply_at};

/// Random blocks whose scales are small numbers, as in real files.
pub(crate) fn blocks(source: Source, rows: usize, columns: usize, seed: u32) -> Vec<u8> {
    let (elements, bytes) = source.block();
    let mut random = seed;
    let mut next = || {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 24) as u8
    };
    let mut all = Vec::new();
    for _ in 0..rows * columns / elements {
        let mut block: Vec<u8> = (0..bytes).map(|_| next()).collect();
        let scales: &[usize] = match source {
            Source::Q4_0 | Source::Q5_0 | Source::Q8_0 => &[0],
            Source::Q4_1 | Source::Q5_1 | Source::Q4K | Source::Q5K => &[0, 2],
            Source::Q2K => &[80, 82],
            Source::Q3K => &[108],
            Source::Q6K => &[208],
        };
        for at in scales {
            let scale = f16::from_f32((f32::from(next()) - 128.0) / 2000.0);
            block[*at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
        all.extend(block);
    }
    all
}

fn dtype(source: Source) -> GgmlDType {
    match source {
        Source::Q4_0 => GgmlDType::Q4_0,
        Source::Q4_1 => GgmlDType::Q4_1,
        Source::Q5_0 => GgmlDType::Q5_0,
        Source::Q5_1 => GgmlDType::Q5_1,
        Source::Q8_0 => GgmlDType::Q8_0,
        Source::Q2K => GgmlDType::Q2K,
        Source::Q3K => GgmlDType::Q3K,
        Source::Q4K => GgmlDType::Q4K,
        Source::Q5K => GgmlDType::Q5K,
        Source::Q6K => GgmlDType::Q6K,
    }
}

/// Every value of every format is what candle's own reader makes of the block.
#[test]
fn values_are_what_the_blocks_say() {
    let mut pool = Pool::new("test", 2).unwrap();
    for source in Source::ALL {
        let (rows, columns) = (18, 512);
        let order = Order::Unpaired { head: 6 };
        let bytes = blocks(source, rows, columns, 3);
        let reference = qtensor_from_ggml(dtype(source), &bytes, vec![rows, columns], &Device::Cpu).unwrap();
        let reference: Vec<Vec<f32>> = reference.dequantize(&Device::Cpu).unwrap().to_vec2().unwrap();
        let matrix = QuantMatrix::pack(&mut pool, source, rows, columns, &bytes, order).unwrap();
        assert_eq!(matrix.bytes() as u64, source.packed_bytes(rows as u64, columns as u64));
        let mut ours = vec![0.0; columns];
        for row in 0..rows {
            matrix.row(row, &mut ours);
            let theirs = &reference[order.from(row)];
            let largest = theirs.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            for (column, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
                let off = (ours - theirs).abs();
                assert!(off <= largest * 2e-3, "{source:?} {row},{column}: {ours} {theirs}");
            }
        }
    }
}

/// Every layout, on odd shapes, by every set of instructions that this machine has: the products are
/// those of the values held, and no row's product depends on the rows beside it.
#[test]
fn products_are_right_and_alone() {
    for source in Source::ALL {
        let (elements, _) = source.block();
        for (rows, blocks_a_row, count, threads) in
            [(1, 1, 1, 1), (7, 3, 2, 1), (8, 2, 3, 2), (29, 5, 4, 2), (64, 1, 11, 3)]
        {
            let columns = elements * blocks_a_row;
            let mut pool = Pool::new("test", threads).unwrap();
            let bytes = blocks(source, rows, columns, 11);
            let matrix = Matrix::Quant(
                QuantMatrix::pack(&mut pool, source, rows, columns, &bytes, Order::Stored).unwrap(),
            );
            let mut input = Input::default();
            for (i, x) in input.start(count, columns).iter_mut().enumerate() {
                *x = ((i * 37 + 11) % 101) as f32 / 50.0 - 1.0;
            }
            input.ready(&mut pool, [&matrix]);
            let mut value = vec![0.0; columns];
            for level in Level::here() {
                let mut out = vec![0.5; count * rows];
                let product = Product::adding(&matrix, &input, &mut out);
                multiply_at(level, &mut pool, &mut [product]);
                for row in 0..rows {
                    matrix.row(row, &mut value);
                    for n in 0..count {
                        let x = input.row(n);
                        let expected: f64 =
                            x.iter().zip(&value).map(|(x, v)| f64::from(*x) * f64::from(*v)).sum();
                        let size: f64 =
                            x.iter().zip(&value).map(|(x, v)| (f64::from(*x) * f64::from(*v)).abs()).sum();
                        let off = (f64::from(out[n * rows + row]) - 0.5 - expected).abs();
                        assert!(off <= size * 8e-3 + 1e-5, "{source:?} {level:?} {row},{n}: {off} of {size}");
                    }
                }
                let mut alone = Input::default();
                alone.start(1, columns).copy_from_slice(input.row(count - 1));
                alone.ready(&mut pool, [&matrix]);
                let mut one = vec![0.0; rows];
                multiply_at(level, &mut pool, &mut [Product::new(&matrix, &alone, &mut one)]);
                let last = &out[(count - 1) * rows..];
                assert!(one.iter().zip(last).all(|(one, last)| one + 0.5 == *last), "{source:?} {level:?}");
            }
        }
    }
}

#[test]
fn integer_sums_hold_the_largest_values() {
    let mut pool = Pool::new("test", 1).unwrap();
    for layout in Layout::ALL {
        let mut record = vec![0; layout.record()];
        let largest = ((1u32 << layout.bits) - 1) as u8;
        for group in 0..layout.groups() {
            for row in 0..PANEL {
                record[portable::head(layout, group, row, false)].copy_from_slice(&f16::ONE.to_le_bytes());
            }
        }
        for row in 0..PANEL {
            portable::put(layout, &mut record, row, &[largest; BLOCK]);
        }
        let matrix = Matrix::Quant(QuantMatrix { rows: PANEL, columns: BLOCK, layout, data: record });
        let mut input = Input::default();
        input.start(1, BLOCK).fill(-127.0);
        input.ready(&mut pool, [&matrix]);
        let expected = -127.0 * 32.0 * (f32::from(largest) - f32::from(layout.offset));
        for level in Level::here() {
            let mut out = vec![0.0; PANEL];
            multiply_at(level, &mut pool, &mut [Product::new(&matrix, &input, &mut out)]);
            assert!(
                out.iter().all(|out| (out - expected).abs() < 1.0),
                "{layout:?} {level:?}: {out:?} {expected}"
            );
        }
    }
}

#[test]
fn what_is_no_number_stays_none() {
    let mut pool = Pool::new("test", 1).unwrap();
    let bytes = blocks(Source::Q4_1, 8, 64, 5);
    let matrix =
        Matrix::Quant(QuantMatrix::pack(&mut pool, Source::Q4_1, 8, 64, &bytes, Order::Stored).unwrap());
    let mut input = Input::default();
    input.start(1, 64)[40] = f32::NAN;
    input.ready(&mut pool, [&matrix]);
    for level in Level::here() {
        let mut out = vec![0.0; 8];
        multiply_at(level, &mut pool, &mut [Product::new(&matrix, &input, &mut out)]);
        assert!(out.iter().all(|out| out.is_nan()), "{level:?}: {out:?}");
    }
}
