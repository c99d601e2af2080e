use half::{bf16, f16};
use neuron_cuda::{
    Act, Buffer, Device,
    ops::{Acts, KvFloat},
};
use neuron_kernels::dense::Float;

/// The emulated one, or this machine's first GPU where `NEURON_TEST_DEVICE` says `cuda`.
pub(crate) fn device() -> Device {
    match std::env::var("NEURON_TEST_DEVICE").as_deref() {
        Ok("cuda") => Device::open(0).unwrap(),
        _ => Device::emulated(1 << 30),
    }
}

/// The same numbers on every run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.unit() * n as f64) as usize
    }

    /// Between -1 and 1, most of them small.
    pub(crate) fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| ((self.unit() + self.unit() + self.unit()) * 2.0 / 3.0 - 1.0) as f32).collect()
    }
}

pub(crate) fn read<T: neuron_cuda::Plain + Default>(buffer: &Buffer) -> Vec<T> {
    let mut out = vec![T::default(); buffer.len() / size_of::<T>()];
    buffer.read(0, &mut out).unwrap();
    out
}

/// As a device holds it.
pub(crate) fn narrow(float: Float, x: &[f32]) -> Vec<u8> {
    match float {
        Float::F32 => x.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Float::F16 => x.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
        Float::BF16 => x.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
    }
}

pub(crate) fn widen(float: Float, bytes: &[u8]) -> Vec<f32> {
    match float {
        Float::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
        Float::F16 => {
            bytes.chunks_exact(2).map(|b| f16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect()
        }
        Float::BF16 => {
            bytes.chunks_exact(2).map(|b| bf16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect()
        }
    }
}

/// Keys or values as a device holds them.
pub(crate) fn narrow_kv(float: KvFloat, x: &[f32]) -> Vec<u8> {
    match float {
        KvFloat::F32 => narrow(Float::F32, x),
        KvFloat::F16 => narrow(Float::F16, x),
        KvFloat::BF16 => narrow(Float::BF16, x),
        KvFloat::F8 => x.iter().map(|x| to_f8(*x)).collect(),
    }
}

pub(crate) fn widen_kv(float: KvFloat, bytes: &[u8]) -> Vec<f32> {
    match float {
        KvFloat::F32 => widen(Float::F32, bytes),
        KvFloat::F16 => widen(Float::F16, bytes),
        KvFloat::BF16 => widen(Float::BF16, bytes),
        KvFloat::F8 => bytes.iter().map(|bits| of_f8(*bits)).collect(),
    }
}

/// E4M3, by its definition.
pub(crate) fn of_f8(bits: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f32::from(bits & 7));
    let size = match (exponent, bits & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa / 8.0 * 2f32.powi(-6),
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    };
    if bits >> 7 == 1 { -size } else { size }
}

/// The nearest of all, of two that are as near the even one.
pub(crate) fn to_f8(x: f32) -> u8 {
    if x.is_nan() {
        return 0x7f;
    }
    let off = |bits: &u8| (f64::from(of_f8(*bits)) - f64::from(x.abs())).abs();
    let nearest = (0..0x7f).min_by(|a: &u8, b: &u8| off(a).total_cmp(&off(b)).then((a & 1).cmp(&(b & 1))));
    nearest.unwrap_or(0) | if x.is_sign_negative() { 0x80 } else { 0 }
}

/// Activations on a device that nothing was written to, and what they are then.
pub(crate) struct Out {
    pub(crate) act: Act,
    data: Buffer,
    groups: Buffer,
    rows: usize,
    width: usize,
}

impl Out {
    pub(crate) fn new(device: &Device, act: Act, [rows, width]: [usize; 2]) -> Self {
        let groups = if act == Act::Q8 { rows * width / 32 * 16 } else { 0 };
        let (data, groups) = (device.alloc(rows * act.bytes(width)).unwrap(), device.alloc(groups).unwrap());
        Self { act, data, groups, rows, width }
    }

    /// These floats in that form.
    pub(crate) fn of(device: &Device, act: Act, x: &[f32], width: usize) -> Self {
        let out = Self::new(device, act, [x.len() / width, width]);
        neuron_cuda::ops::convert(device, &device.upload(x).unwrap(), &out.acts()).unwrap();
        out
    }

    pub(crate) fn acts(&self) -> Acts<'_> {
        Acts { act: self.act, data: &self.data, groups: &self.groups, rows: self.rows, width: self.width }
    }

    /// What it stands for.
    pub(crate) fn floats(&self) -> Vec<f32> {
        let bytes: Vec<u8> = read(&self.data);
        match self.act {
            Act::F32 => widen(Float::F32, &bytes),
            Act::F16 => widen(Float::F16, &bytes),
            Act::BF16 => widen(Float::BF16, &bytes),
            Act::Q8 => {
                let groups: Vec<f32> = read(&self.groups);
                let of = |(i, byte): (usize, &u8)| f32::from(byte.cast_signed()) * groups[i / 32 * 4];
                // The sums that lie beside the scales are those of the values.
                for (n, group) in groups.chunks_exact(4).enumerate() {
                    for half in 0..2 {
                        let values = &bytes[n * 32 + half * 16..][..16];
                        let sum: i32 = values.iter().map(|b| i32::from(b.cast_signed())).sum();
                        assert!((group[1 + half] - group[0] * sum as f32).abs() <= 1e-4 * group[0].abs());
                    }
                }
                bytes.iter().enumerate().map(of).collect()
            }
        }
    }

    /// By how much one of them may be off, where the largest of its 32 neighbours is `most`.
    pub(crate) fn step(&self, most: f64) -> f64 {
        most * match self.act {
            Act::F32 => 1e-5,
            Act::F16 => 1e-3,
            Act::BF16 => 8e-3,
            Act::Q8 => 0.6 / 127.0,
        }
    }
}

pub(crate) const ACTS: [Act; 4] = [Act::F32, Act::F16, Act::BF16, Act::Q8];

/// Every number is as near to what is expected as its form allows, in rows of `width`.
pub(crate) fn assert_near(out: &Out, expected: &[f64], what: &str) {
    let floats = out.floats();
    assert_eq!(floats.len(), expected.len(), "{what}");
    for (n, (ours, theirs)) in floats.chunks(32).zip(expected.chunks(32)).enumerate() {
        let most = theirs.iter().fold(1e-6, |most: f64, x| most.max(x.abs()));
        for (a, b) in ours.iter().zip(theirs) {
            assert!((f64::from(*a) - b).abs() <= out.step(most), "{what}: {a} for {b} in group {n}");
        }
    }
}
