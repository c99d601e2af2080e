use neuron_cuda::{Act, Device, Format, Matrix, ops};
use neuron_kernels::{
    Order, Pool,
    dense::Float,
    quant::{Planes, Recipe, Target, widen},
};

use crate::support::{Out, Random, device, narrow, read, widen as widen_floats};

/// Every way in which a matrix is held: random blocks of every format of GGUF's, floats, and floats that are quantised.
fn recipes() -> Vec<Recipe> {
    let sources = neuron_kernels::quant::Source::ALL.into_iter().map(Recipe::Quant);
    let floats = [Float::F32, Float::F16, Float::BF16].into_iter().map(Recipe::Float);
    let fits = Target::ALL.into_iter().map(|target| Recipe::Fit(Float::F32, target));
    sources.chain(floats).chain(fits).collect()
}

/// A `[rows, columns]` matrix as a file has it.
fn stored(random: &mut Random, recipe: Recipe, rows: usize, columns: usize) -> Vec<u8> {
    match recipe {
        Recipe::Float(float) | Recipe::Fit(float, _) => narrow(float, &random.floats(rows * columns)),
        Recipe::Quant(source) => {
            let (elements, len) = source.block();
            let mut bytes: Vec<u8> =
                (0..rows * columns / elements * len).map(|_| random.below(256) as u8).collect();
            // Scales that are numbers, and small ones: wherever halves may stand in a block.
            let small = half::f16::from_f32(0.01).to_le_bytes();
            for block in bytes.chunks_exact_mut(len) {
                let places: &[usize] = match len {
                    18 | 22 | 34 => &[0],
                    20 | 24 => &[0, 2],
                    84 => &[80, 82],
                    110 => &[108],
                    144 | 176 => &[0, 2],
                    _ => &[208],
                };
                places.iter().for_each(|at| block[*at..at + 2].copy_from_slice(&small));
            }
            bytes
        }
    }
}

struct Held {
    matrix: Matrix,
    /// `[count * rows, columns]`
    values: Vec<f32>,
}

fn held(device: &Device, random: &mut Random, recipe: Recipe, [count, rows, columns]: [usize; 3]) -> Held {
    let format = recipe.layout().map_or_else(
        || match recipe {
            Recipe::Float(float) => Format::Float(float),
            _ => unreachable!(),
        },
        Format::Quant,
    );
    let bytes = stored(random, recipe, count * rows, columns);
    let mut pool = Pool::new("test", 1).unwrap();
    let planes = Planes::read(&mut pool, recipe, [count * rows, columns], &bytes, Order::Stored).unwrap();
    let values = match format {
        Format::Quant(layout) => widen(layout, &planes, columns),
        Format::Float(float) => widen_floats(float, &planes.low),
    };
    let matrix = Matrix::new(device, format, [count, rows, columns]).unwrap();
    assert_eq!(matrix.bytes() as u64, format.bytes((count * rows) as u64, columns as u64));
    // In two parts, as large ones come.
    let cut = rows / 2;
    for (from, to) in [(0, cut), (cut, count * rows)] {
        let each = format.row_bytes(columns);
        let part = |plane: &[u8], each: usize| plane[from * each..to * each].to_vec();
        let planes = Planes {
            low: part(&planes.low, each[0]),
            high: part(&planes.high, each[1]),
            scales: part(&planes.scales, each[2]),
        };
        matrix.write(from, &planes).unwrap();
    }
    Held { matrix, values }
}

/// Every output is as near to the sum in 64 bits as its inputs allow: by what was rounded, `scale` is of the largest product.
fn check(
    ours: &[f32],
    x: &[f32],
    values: &[f32],
    [rows, columns]: [usize; 2],
    [offset, stride]: [usize; 2],
    what: &str,
    off: f64,
) {
    for (token, x) in x.chunks_exact(columns).enumerate() {
        for (row, w) in values.chunks_exact(columns).take(rows).enumerate() {
            let products = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
            let (sum, size) = products.fold((0.0, 0.0), |(sum, size): (f64, f64), p| (sum + p, size + p * p));
            let got = f64::from(ours[token * stride + offset + row]);
            assert!(
                (got - sum).abs() <= off * (size.sqrt() + 1e-3),
                "{what}: {got} for {sum} at {token}, {row}"
            );
        }
    }
}

#[test]
fn every_format_times_every_number_of_rows() {
    let (device, mut random) = (device(), Random(4));
    for recipe in recipes() {
        for (tokens, rows, columns) in
            [(1, 5, 256), (3, 17, 512), (7, 8, 256), (8, 2, 256), (9, 130, 256), (33, 3, 512), (70, 129, 256)]
        {
            let Held { matrix, values } = held(&device, &mut random, recipe, [1, rows, columns]);
            let act = matrix.format().act(tokens);
            let x = Out::of(&device, act, &random.floats(tokens * columns), columns);
            let (offset, stride) = (3, rows + 5);
            let out = device.upload(&vec![f32::NAN; tokens * stride]).unwrap();
            ops::multiply(&device, &matrix, &x.acts(), &out, [offset, stride]).unwrap();
            let out: Vec<f32> = read(&out);
            // What is beside it is not touched.
            let beside = |i: usize| !(offset..offset + rows).contains(&(i % stride));
            assert!((0..out.len()).filter(|i| beside(*i)).all(|i| out[i].is_nan()));
            // The tensor cores' form of a quantised matrix has eight bits.
            let values = match act == Act::BF16 && recipe.layout().is_some() {
                true => widen_floats(Float::BF16, &narrow(Float::BF16, &values)),
                false => values,
            };
            let what = format!("{recipe:?} {tokens} {rows}x{columns}");
            check(&out, &x.floats(), &values, [rows, columns], [offset, stride], &what, 1e-5);
        }
    }
}

#[test]
fn columns_need_not_fill_a_step() {
    let (device, mut random) = (device(), Random(5));
    for (float, columns) in [(Float::F32, 20), (Float::F16, 24), (Float::BF16, 40), (Float::BF16, 8)] {
        for tokens in [1, 2, 11, 130] {
            let Held { matrix, values } = held(&device, &mut random, Recipe::Float(float), [1, 6, columns]);
            let x = Out::of(&device, matrix.format().act(tokens), &random.floats(tokens * columns), columns);
            let out = device.alloc(tokens * 6 * 4).unwrap();
            ops::multiply(&device, &matrix, &x.acts(), &out, [0, 6]).unwrap();
            check(
                &read::<f32>(&out),
                &x.floats(),
                &values,
                [6, columns],
                [0, 6],
                &format!("{float:?} {columns}"),
                1e-5,
            );
        }
    }
    for (format, columns) in [(Format::Float(Float::F16), 12), (Format::Float(Float::F32), 6)] {
        let error = Matrix::new(&device, format, [1, 4, columns]).unwrap_err();
        assert!(error.text.contains("multiple of"), "{error}");
    }
}

#[test]
fn tokens_are_rows_of_the_matrix() {
    let (device, mut random) = (device(), Random(6));
    for recipe in recipes() {
        let (rows, columns) = (9, 512);
        let Held { matrix, values } = held(&device, &mut random, recipe, [1, rows, columns]);
        let tokens = [8, 0, 3, 3];
        let x = device.alloc(tokens.len() * columns * 4).unwrap();
        let ids: Vec<i32> = tokens.to_vec();
        ops::embed(&device, &matrix, &device.upload(&ids).unwrap(), tokens.len(), 2.0, &x).unwrap();
        let x: Vec<f32> = read(&x);
        for (x, token) in x.chunks_exact(columns).zip(tokens) {
            let row = &values[token as usize * columns..][..columns];
            assert!(x.iter().zip(row).all(|(x, w)| (x - 2.0 * w).abs() <= 1e-5 * w.abs()), "{recipe:?}");
        }
    }
}

#[test]
fn each_row_may_have_a_matrix_of_its_own() {
    let (device, mut random) = (device(), Random(7));
    for recipe in recipes() {
        for (tokens, shared_by) in [(1, 2), (4, 3), (12, 1)] {
            let (count, rows, columns) = (5, 6, 256);
            let Held { matrix, values } = held(&device, &mut random, recipe, [count, rows, columns]);
            let act = matrix.format().act(1);
            let x = Out::of(&device, act, &random.floats(tokens * columns), columns);
            let chosen: Vec<i32> = (0..tokens * shared_by).map(|_| random.below(count) as i32).collect();
            let out = device.alloc(tokens * shared_by * rows * 4).unwrap();
            ops::experts(&device, &matrix, &x.acts(), &device.upload(&chosen).unwrap(), shared_by, &out)
                .unwrap();
            let (out, x): (Vec<f32>, _) = (read(&out), x.floats());
            for (n, expert) in chosen.iter().enumerate() {
                let x = &x[n / shared_by * columns..][..columns];
                let of = &values[*expert as usize * rows * columns..][..rows * columns];
                check(
                    &out[n * rows..][..rows],
                    x,
                    of,
                    [rows, columns],
                    [0, rows],
                    &format!("{recipe:?} {n}"),
                    1e-5,
                );
            }
        }
    }
}
