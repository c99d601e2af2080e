use super::{Acts, int, names, words};
use crate::{Buffer, Device, Error};

/// Positions of a block.
const BLOCK: usize = 16;
/// Heads that share keys and values of which a thread block takes all at once.
const MOST_HEADS: usize = 8;
/// Tokens of a tile of many.
const TILE_TOKENS: usize = 64;

/// How keys and values are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvFloat {
    F32,
    F16,
    BF16,
    /// E4M3: 448 at most, three bits of mantissa.
    F8,
}

impl KvFloat {
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::F8 => 1,
        }
    }

    /// Dimensions of a head come in so many at once.
    pub fn dim_multiple(self) -> usize {
        if self == Self::F8 { 16 } else { 8 }
    }
}

/// How heads, keys and values are laid out.
#[derive(Debug, Clone, Copy)]
pub struct Kv {
    pub heads: usize,
    pub kv_heads: usize,
    /// A multiple of [`KvFloat::dim_multiple`], at most 256.
    pub dim: usize,
    pub float: KvFloat,
    /// Blocks of 16 positions.
    pub blocks: usize,
}

/// Keys and values of a layer, each `[blocks, kv_heads, 16, dim]`.
#[derive(Debug, Clone, Copy)]
pub struct Cache<'a> {
    pub keys: &'a Buffer,
    pub values: &'a Buffer,
}

/// Which tokens there are, and where what is before them lies. Integers.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    /// Floats `[tokens, (heads + 2 * kv_heads) * dim]`: queries, keys, values.
    pub qkv: &'a Buffer,
    pub tokens: usize,
    /// `[tokens]`
    pub positions: &'a Buffer,
    /// Where a token's blocks begin in `tables`: `[tokens]`.
    pub starts: &'a Buffer,
    /// Blocks of all sequences, one after the other. All that a token's position needs must be there.
    pub tables: &'a Buffer,
    /// Positions that are seen; 0: all.
    pub window: usize,
    /// Of scores.
    pub scale: f32,
}

impl Kv {
    /// Floats of a token's queries, keys and values.
    pub fn row(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.dim
    }

    /// Bytes of a layer's keys, or of its values.
    pub fn bytes(&self) -> usize {
        self.blocks * self.kv_heads * BLOCK * self.dim * self.float.bytes()
    }

    fn addresses(&self, cache: &Cache<'_>) -> [u64; 2] {
        let multiple = self.float.dim_multiple();
        assert!(self.dim.is_multiple_of(multiple) && self.dim <= 256, "heads of {} dimensions", self.dim);
        assert!(self.heads.is_multiple_of(self.kv_heads), "{} heads, {} of keys", self.heads, self.kv_heads);
        [cache.keys.at(0, self.bytes()), cache.values.at(0, self.bytes())]
    }
}

/// What becomes of queries, keys and values before they meet.
#[derive(Debug, Clone, Copy)]
pub struct Rope<'a> {
    /// `[(heads + 2 * kv_heads) * dim]`
    pub bias: Option<&'a Buffer>,
    /// `[dim]`
    pub query_norm: Option<&'a Buffer>,
    pub key_norm: Option<&'a Buffer>,
    /// Radians a position: `[dim / 2]`.
    pub frequencies: &'a Buffer,
    /// Block * 16 + place in it: `[tokens]`.
    pub slots: &'a Buffer,
    pub epsilon: f32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct RopeParams {
    qkv: u64,
    bias: u64,
    query_norm: u64,
    key_norm: u64,
    frequencies: u64,
    positions: u64,
    slots: u64,
    keys: u64,
    values: u64,
    heads: i32,
    kv_heads: i32,
    dim: i32,
    epsilon: f32,
}

/// Bias, norms and rotation of `attention.qkv`, of which keys and values are put into their slots.
pub fn rope(
    device: &Device,
    kv: &Kv,
    rope: &Rope<'_>,
    attention: &Attention<'_>,
    cache: &Cache<'_>,
) -> Result<(), Error> {
    let [keys, values] = kv.addresses(cache);
    let heads = kv.heads + 2 * kv.kv_heads;
    let norm = |norm: Option<&Buffer>| norm.map_or(0, |norm| words(norm, kv.dim));
    let params = RopeParams {
        qkv: words(attention.qkv, attention.tokens * kv.row()),
        bias: rope.bias.map_or(0, |bias| words(bias, kv.row())),
        query_norm: norm(rope.query_norm),
        key_norm: norm(rope.key_norm),
        frequencies: words(rope.frequencies, kv.dim / 2),
        positions: words(attention.positions, attention.tokens),
        slots: words(rope.slots, attention.tokens),
        keys,
        values,
        heads: int(kv.heads),
        kv_heads: int(kv.kv_heads),
        dim: int(kv.dim),
        epsilon: rope.epsilon,
    };
    device.launch(names::rope(kv.float), [heads.div_ceil(4), attention.tokens, 1], 128, &params)
}

#[repr(C)]
#[derive(Clone, Copy)]
struct DecodeParams {
    qkv: u64,
    rows: u64,
    positions: u64,
    starts: u64,
    tables: u64,
    keys: u64,
    values: u64,
    parts: u64,
    stride: i64,
    heads: i32,
    kv_heads: i32,
    dim: i32,
    window: i32,
    splits: i32,
    scale: f32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct MergeParams {
    parts: u64,
    rows: u64,
    out: u64,
    groups: u64,
    heads: i32,
    dim: i32,
    splits: i32,
    unused: i32,
}

/// Into how many parts the positions before `rows` tokens are split, so that every unit of the device has work, and floats
/// of all parts.
pub fn splits(device: &Device, kv: &Kv, rows: usize) -> (usize, usize) {
    let blocks = rows * kv.kv_heads * (kv.heads / kv.kv_heads).div_ceil(MOST_HEADS);
    let splits = (2 * device.multiprocessors() as usize / blocks.max(1)).clamp(1, 32);
    (splits, rows * kv.heads * splits * (kv.dim + 2))
}

/// Attention of single tokens, by their numbers in the batch: `rows`, of which there are `count`. `parts`: floats, as many
/// as [`splits`] says. Of `out`, `[tokens, heads * dim]`, their rows are written.
pub fn attend_one(
    device: &Device,
    kv: &Kv,
    attention: &Attention<'_>,
    cache: &Cache<'_>,
    [rows, parts]: [&Buffer; 2],
    count: usize,
    out: &Acts<'_>,
) -> Result<(), Error> {
    let (splits, floats) = splits(device, kv, count);
    let [keys, values] = kv.addresses(cache);
    let params = DecodeParams {
        qkv: words(attention.qkv, attention.tokens * kv.row()),
        rows: words(rows, count),
        positions: words(attention.positions, attention.tokens),
        starts: words(attention.starts, attention.tokens),
        tables: words(attention.tables, 1),
        keys,
        values,
        parts: words(parts, floats),
        stride: kv.row() as i64,
        heads: int(kv.heads),
        kv_heads: int(kv.kv_heads),
        dim: int(kv.dim),
        window: int(attention.window),
        splits: int(splits),
        scale: attention.scale,
    };
    let chunks = (kv.heads / kv.kv_heads).div_ceil(MOST_HEADS);
    device.launch(names::decode(kv.float, kv.dim), [splits, kv.kv_heads * chunks, count], 128, &params)?;
    assert!(out.rows == attention.tokens && out.width == kv.heads * kv.dim, "{out:?}");
    let [data, groups] = out.addresses();
    let params = MergeParams {
        parts: params.parts,
        rows: params.rows,
        out: data,
        groups,
        heads: params.heads,
        dim: params.dim,
        splits: params.splits,
        unused: 0,
    };
    device.launch(names::merge(out.act), [out.width.div_ceil(128), count, 1], 128, &params)
}

#[repr(C)]
#[derive(Clone, Copy)]
struct PrefillParams {
    qkv: u64,
    tiles: u64,
    positions: u64,
    starts: u64,
    tables: u64,
    keys: u64,
    values: u64,
    out: u64,
    stride: i64,
    heads: i32,
    kv_heads: i32,
    dim: i32,
    window: i32,
    scale: f32,
    unused: i32,
}

/// Attention of runs of up to 64 tokens of a sequence: `tiles` has the first token and how many, `count` times. Of `out`,
/// `[tokens, heads * dim]`, their rows are written. `false`: there is no kernel for these formats.
pub fn attend_many(
    device: &Device,
    kv: &Kv,
    attention: &Attention<'_>,
    cache: &Cache<'_>,
    tiles: &Buffer,
    count: usize,
    out: &Acts<'_>,
) -> Result<bool, Error> {
    let Some(kernel) = names::prefill(kv.float, out.act, kv.dim) else { return Ok(false) };
    let [keys, values] = kv.addresses(cache);
    assert!(out.rows == attention.tokens && out.width == kv.heads * kv.dim, "{out:?}");
    let params = PrefillParams {
        qkv: words(attention.qkv, attention.tokens * kv.row()),
        tiles: words(tiles, 2 * count),
        positions: words(attention.positions, attention.tokens),
        starts: words(attention.starts, attention.tokens),
        tables: words(attention.tables, 1),
        keys,
        values,
        out: out.addresses()[0],
        stride: kv.row() as i64,
        heads: int(kv.heads),
        kv_heads: int(kv.kv_heads),
        dim: int(kv.dim),
        window: int(attention.window),
        scale: attention.scale,
        unused: 0,
    };
    device.launch(kernel, [count, kv.heads, 1], 128, &params)?;
    Ok(true)
}

/// Whether [`attend_many`] can.
pub fn tiles(kv: &Kv) -> bool {
    kv.float != KvFloat::F32
}

impl Attention<'_> {
    /// Tokens of a tile of [`attend_many`].
    pub const TILE: usize = TILE_TOKENS;
}
