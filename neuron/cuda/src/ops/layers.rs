use super::{Acts, int, names, words};
use crate::{Act, Buffer, Device, Error};

/// `x[rows] += added[rows]`, and `out = norm(x[rows])`.
#[derive(Debug)]
pub struct AddNorm<'a> {
    /// `[tokens, width]`, floats.
    pub x: &'a Buffer,
    /// As `x`, normalised by `post` before it is added where that is there.
    pub added: Option<&'a Buffer>,
    pub post: Option<&'a Buffer>,
    /// `[width]`, floats.
    pub weight: &'a Buffer,
    /// Which tokens, integers; `None`: the first `out.rows`.
    pub rows: Option<&'a Buffer>,
    /// Rows of `x`.
    pub tokens: usize,
    pub epsilon: f32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct AddNormParams {
    x: u64,
    added: u64,
    post: u64,
    weight: u64,
    rows: u64,
    out: u64,
    groups: u64,
    width: i32,
    epsilon: f32,
}

pub fn add_norm(device: &Device, norm: &AddNorm<'_>, out: &Acts<'_>) -> Result<(), Error> {
    let width = out.width;
    let of_all = |buffer: &Buffer| words(buffer, norm.tokens * width);
    let of_width = |buffer: &Buffer| words(buffer, width);
    assert!(norm.rows.is_some() || out.rows <= norm.tokens, "{} rows of {}", out.rows, norm.tokens);
    let [data, groups] = out.addresses();
    let params = AddNormParams {
        x: of_all(norm.x),
        added: norm.added.map_or(0, of_all),
        post: norm.post.map_or(0, of_width),
        weight: of_width(norm.weight),
        rows: norm.rows.map_or(0, |rows| words(rows, out.rows)),
        out: data,
        groups,
        width: int(width),
        epsilon: norm.epsilon,
    };
    device.launch(names::add_norm(out.act), [out.rows, 1, 1], 256, &params)
}

#[repr(C)]
#[derive(Clone, Copy)]
struct GateUpParams {
    gate_up: u64,
    out: u64,
    groups: u64,
    width: i32,
    gelu: i32,
}

/// `out = activation(gates) * ups`; `gate_up`: floats, `[rows, 2 * width]`. `gelu`: by tanh; else SiLU.
pub fn gate_up(device: &Device, gate_up: &Buffer, gelu: bool, out: &Acts<'_>) -> Result<(), Error> {
    let [data, groups] = out.addresses();
    let from = words(gate_up, out.rows * 2 * out.width);
    let params =
        GateUpParams { gate_up: from, out: data, groups, width: int(out.width), gelu: i32::from(gelu) };
    let grid = [out.width.div_ceil(256), out.rows, 1];
    device.launch(names::gate_up(out.act), grid, 256, &params)
}

#[repr(C)]
#[derive(Clone, Copy)]
struct ConvertParams {
    x: u64,
    out: u64,
    groups: u64,
    width: i32,
    unused: i32,
}

/// Floats `[rows, width]` in another form.
pub fn convert(device: &Device, x: &Buffer, out: &Acts<'_>) -> Result<(), Error> {
    let [data, groups] = out.addresses();
    let params = ConvertParams {
        x: words(x, out.rows * out.width),
        out: data,
        groups,
        width: int(out.width),
        unused: 0,
    };
    device.launch(names::convert(out.act), [out.width.div_ceil(256), out.rows, 1], 256, &params)
}

#[repr(C)]
#[derive(Clone, Copy)]
struct RouteParams {
    scores: u64,
    chosen: u64,
    weights: u64,
    experts: i32,
    used: i32,
    normalized: i32,
    unused: i32,
}

/// The `used` experts of the largest scores of each token, and what each counts: `scores` is `[tokens, experts]`, `chosen`
/// and `weights` are `[tokens, used]`. `normalized`: a token's weights add up to one.
pub fn route(
    device: &Device,
    scores: &Buffer,
    [tokens, experts, used]: [usize; 3],
    normalized: bool,
    [chosen, weights]: [&Buffer; 2],
) -> Result<(), Error> {
    assert!(used <= experts, "{used} of {experts} experts");
    let params = RouteParams {
        scores: words(scores, tokens * experts),
        chosen: words(chosen, tokens * used),
        weights: words(weights, tokens * used),
        experts: int(experts),
        used: int(used),
        normalized: i32::from(normalized),
        unused: 0,
    };
    device.launch("route", [tokens, 1, 1], 32, &params)
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CombineParams {
    made: u64,
    weights: u64,
    out: u64,
    width: i32,
    used: i32,
}

/// What the chosen experts made, `[tokens, used, width]`, by their weights: `[tokens, width]`.
pub fn combine(
    device: &Device,
    made: &Buffer,
    weights: &Buffer,
    [tokens, used, width]: [usize; 3],
    out: &Buffer,
) -> Result<(), Error> {
    let params = CombineParams {
        made: words(made, tokens * used * width),
        weights: words(weights, tokens * used),
        out: words(out, tokens * width),
        width: int(width),
        used: int(used),
    };
    device.launch("combine", [width.div_ceil(128), tokens, 1], 128, &params)
}

impl<'a> Acts<'a> {
    /// Floats as they are computed.
    pub fn floats(data: &'a Buffer, [rows, width]: [usize; 2]) -> Self {
        Self { act: Act::F32, data, groups: data, rows, width }
    }
}
