use neuron_kernels::dense::Float;

use super::{Acts, int, names, words};
use crate::{Act, Buffer, Device, Error, Format, Matrix, driver::Product};

/// Rows of activations up to which a matrix is read once for all of them by the kernels for few.
pub const FEW: usize = 8;

#[repr(C)]
#[derive(Clone, Copy)]
struct Weights {
    low: u64,
    high: u64,
    scales: u64,
    rows: i32,
    columns: i32,
}

impl Weights {
    fn of(matrix: &Matrix) -> Self {
        let [low, high, scales] = matrix.addresses();
        Self { low, high, scales, rows: int(matrix.rows), columns: int(matrix.columns) }
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct GemvParams {
    w: Weights,
    x: u64,
    groups: u64,
    out: u64,
    out_stride: i64,
    experts: u64,
    shared_by: i32,
    unused: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct GemmParams {
    w: Weights,
    x: u64,
    out: u64,
    out_stride: i64,
    tokens: i32,
    unused: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct EmbedParams {
    w: Weights,
    tokens: u64,
    x: u64,
    scale: f32,
    unused: i32,
}

/// Rows of the matrix by their numbers, times `scale`: floats, `[tokens, columns]`. A number must be one of a row's.
pub fn embed(
    device: &Device,
    matrix: &Matrix,
    tokens: &Buffer,
    count: usize,
    scale: f32,
    x: &Buffer,
) -> Result<(), Error> {
    let params = EmbedParams {
        w: Weights::of(matrix),
        tokens: words(tokens, count),
        x: words(x, count * matrix.columns),
        scale,
        unused: 0,
    };
    let each = match matrix.format {
        Format::Float(_) => matrix.columns,
        Format::Quant(_) => matrix.columns / 32,
    };
    device.launch(names::embed(matrix.format), [each.div_ceil(128), count, 1], 128, &params)
}

/// `out[token, offset + row] = x[token] * matrix[row]`: `out` is floats, `[tokens, stride]`.
///
/// Panics unless `x` is in the form that [`Format::act`] names for so many rows.
pub fn multiply(
    device: &Device,
    matrix: &Matrix,
    x: &Acts<'_>,
    out: &Buffer,
    [offset, stride]: [usize; 2],
) -> Result<(), Error> {
    let tokens = x.rows;
    assert!(x.act == matrix.format.act(tokens) && x.width == matrix.columns, "{x:?} times {matrix:?}");
    assert!(offset + matrix.rows <= stride && matrix.count == 1, "{matrix:?} at {offset} of {stride}");
    if tokens == 0 {
        return Ok(());
    }
    let [data, groups] = x.addresses();
    let out = out.at(offset * 4, ((tokens - 1) * stride + matrix.rows) * 4);
    if tokens <= FEW {
        return few(device, matrix, [data, groups], tokens, out, stride);
    }
    if let Format::Float(float) = matrix.format {
        let product = Product {
            w: matrix.addresses()[0],
            x: data,
            out,
            tokens,
            rows: matrix.rows,
            columns: matrix.columns,
            out_stride: stride,
            float,
        };
        if device.multiply(&product)? {
            return Ok(());
        }
    }
    let w = Weights::of(matrix);
    let params = GemmParams { w, x: data, out, out_stride: stride as i64, tokens: int(tokens), unused: 0 };
    let (kernel, [tall, wide]) = names::gemm(matrix.format, tokens);
    device.launch(kernel, [matrix.rows.div_ceil(wide), tokens.div_ceil(tall), 1], 256, &params)
}

/// By kernels for exactly 1, 2, 4 and 8 rows: 5 are 4 and 1.
fn few(
    device: &Device,
    matrix: &Matrix,
    [data, groups]: [u64; 2],
    tokens: usize,
    out: u64,
    stride: usize,
) -> Result<(), Error> {
    let row = matrix.format.act(tokens).bytes(matrix.columns) as u64;
    let mut done = 0;
    while done < tokens {
        // The largest power of two that is left.
        let (kernel, batch) = names::gemv(matrix.format, 1 << (tokens - done).ilog2());
        let at = done as u64;
        let params = GemvParams {
            w: Weights::of(matrix),
            x: data + at * row,
            groups: groups + at * (matrix.columns / 32 * super::GROUP) as u64,
            out: out + at * stride as u64 * 4,
            out_stride: stride as i64,
            experts: 0,
            shared_by: 1,
            unused: 0,
        };
        device.launch(kernel, [matrix.rows.div_ceil(8), 1, 1], 128, &params)?;
        done += batch;
    }
    Ok(())
}

/// As [`multiply`], each row of `out` by the matrix whose number `chosen` has: `[x.rows * shared_by]` numbers, the first
/// `shared_by` for the first row of `x`, and so on.
pub fn experts(
    device: &Device,
    matrix: &Matrix,
    x: &Acts<'_>,
    chosen: &Buffer,
    shared_by: usize,
    out: &Buffer,
) -> Result<(), Error> {
    let rows = x.rows * shared_by;
    let wanted = match matrix.format {
        Format::Float(Float::F32) => Act::F32,
        Format::Float(Float::F16) => Act::F16,
        Format::Float(Float::BF16) => Act::BF16,
        Format::Quant(_) => Act::Q8,
    };
    assert!(x.act == wanted && x.width == matrix.columns, "{x:?} times {matrix:?}");
    let [data, groups] = x.addresses();
    let params = GemvParams {
        w: Weights::of(matrix),
        x: data,
        groups,
        out: words(out, rows * matrix.rows),
        out_stride: matrix.rows as i64,
        experts: words(chosen, rows),
        shared_by: int(shared_by),
        unused: 0,
    };
    device.launch(names::gemv(matrix.format, 1).0, [matrix.rows.div_ceil(8), rows, 1], 128, &params)
}
