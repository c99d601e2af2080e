use half::{bf16, f16};

use super::*;
use crate::{Input, Matrix, Pool, Product, matrix::multiply_at};

fn noise(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + 13) % 1009) as f32 / 504.5 - 1.0).collect()
}

fn bytes(float: Float, values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|x| match float {
            Float::F32 => x.to_le_bytes().to_vec(),
            Float::F16 => f16::from_f32(*x).to_le_bytes().to_vec(),
            Float::BF16 => bf16::from_f32(*x).to_le_bytes().to_vec(),
        })
        .collect()
}

#[test]
fn products_are_right_and_alone() {
    for float in [Float::F32, Float::F16, Float::BF16] {
        for (rows, columns, count) in [(1, 1, 1), (15, 3, 2), (16, 64, 3), (17, 33, 6), (50, 70, 13)] {
            let mut pool = Pool::new("test", 2).unwrap();
            let file = bytes(float, &noise(rows * columns));
            let values = float.to_f32(&file);
            // In heads where rows are enough for some, so that rows change places.
            let order = if rows % 10 == 0 { Order::Unpaired { head: 10 } } else { Order::Stored };
            let matrix = DenseMatrix::pack(&mut pool, float, rows, columns, &file, order).unwrap();
            assert_eq!(matrix.bytes() as u64, float.packed_bytes(rows as u64, columns as u64));
            let matrix = Matrix::Dense(matrix);
            let mut input = Input::default();
            input.start(count, columns).copy_from_slice(&noise(count * columns));
            input.ready(&mut pool, [&matrix]);
            let mut row_held = vec![0.0; columns];
            for level in Level::here() {
                let mut out = vec![0.0; count * rows];
                multiply_at(level, &mut pool, &mut [Product::new(&matrix, &input, &mut out)]);
                for row in 0..rows {
                    let value = &values[order.from(row) * columns..][..columns];
                    matrix.row(row, &mut row_held);
                    assert_eq!(row_held, value);
                    for n in 0..count {
                        let x = input.row(n);
                        let expected: f64 =
                            x.iter().zip(value).map(|(x, v)| f64::from(*x) * f64::from(*v)).sum();
                        let off = (f64::from(out[n * rows + row]) - expected).abs();
                        assert!(off < 1e-5, "{float:?} {level:?} {row},{n}: {off}");
                    }
                }
                let mut alone = Input::default();
                alone.start(1, columns).copy_from_slice(input.row(count - 1));
                let mut one = vec![0.0; rows];
                multiply_at(level, &mut pool, &mut [Product::new(&matrix, &alone, &mut one)]);
                assert_eq!(one, out[(count - 1) * rows..]);
            }
        }
    }
}
