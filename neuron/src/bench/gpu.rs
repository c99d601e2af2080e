//! `neuron bench-gpu`: what a GPU copies and multiplies at, and what of that a model gets. Weights are noise of the shape of
//! Llama 3 8B: speed does not depend on what they say.

use std::{io::Write, path::PathBuf, time::Instant};

use anyhow::{Context, anyhow};
use neuron_cuda::{Act, Device, Format, Matrix, ops};
use neuron_kernels::{dense::Float, quant::Source};
use serde::Serialize;

use crate::engine::{
    Architecture, Backend, Batch, Blueprint, CpuBackend, Draw, GpuBackend, GpuOptions, Kind, KvFormat, Model,
    Noise, Part, Room, Rope, Rows, Scaling, Shape, Weights,
};

/// What to measure.
#[derive(Debug, clap::Args)]
pub struct GpuArgs {
    /// The driver's number of the GPU.
    #[arg(long, default_value_t = 0)]
    pub device: usize,
    /// Print JSON instead of a table.
    #[arg(skip)]
    pub json: bool,
}

/// What was measured; rates by the host's clock over work that was waited for.
#[derive(Debug, Default, Serialize)]
struct Figures {
    device: String,
    /// Read and written, GB/s.
    copy_gb_s: f64,
    /// From pinned memory of the host, GB/s.
    host_to_device_gb_s: f64,
    /// bfloat16, sums in 32 bits, 4096 x 8192 x 8192.
    matmul_tflops: f64,
    models: Vec<Model8>,
}

#[derive(Debug, Serialize)]
struct Model8 {
    weights: &'static str,
    weights_gb: f64,
    load_seconds: f64,
    /// One stream after 512 tokens, tokens a second, and as a part of what reading the weights alone allows.
    decode_1: f64,
    decode_1_of_bandwidth: f64,
    /// 64 streams after 512 tokens each, together.
    decode_64: f64,
    /// A prompt of 2048 tokens, tokens a second, and as a part of the matrices' rate.
    prefill_2048: f64,
    prefill_of_matmul: f64,
    /// Seconds to the first token of 8192.
    first_token_8192: f64,
    /// Seconds to park its weights the second time, when the host's memory is pinned already.
    park_seconds: f64,
    /// Waking it, memory taken anew included: GB/s, 0 where it could not be parked, and as a part of what the card takes from the host.
    wake_gb_s: f64,
    wake_of_rate: f64,
    /// Between the end of a step's work on the device and the begin of the next one's: microseconds.
    gap_us: f64,
}

const LAYERS: u64 = 32;

fn llama_8b(layers: u64) -> Shape {
    Shape {
        architecture: Architecture::Llama,
        layers,
        hidden: 4096,
        feed_forward: 14336,
        heads: 32,
        kv_heads: 8,
        head_dim: 128,
        vocab: 128_256,
        trained_context: 16384,
        epsilon: 1e-5,
        rope: Rope { base: 5e5, scaling: Scaling::None, local_base: None },
        experts: None,
        window: None,
        attention_scale: 1.0 / 128f32.sqrt(),
        embedding_scale: 1.0,
        tied: false,
    }
}

/// Prints the figures.
pub fn run(args: &GpuArgs) -> anyhow::Result<()> {
    let all = Device::list().map_err(|e| anyhow!(e.text))?;
    let found = all.get(args.device).with_context(|| format!("there is no GPU {}", args.device))?;
    let device = Device::open(args.device)?;
    let figures = measure(&device, &found.name, &llama_8b(LAYERS), &Work::whole())?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&figures)?);
    } else {
        print(&figures);
    }
    Ok(())
}

fn print(figures: &Figures) {
    println!(
        "{}: copies {:.0} GB/s, takes {:.0} GB/s from the host, multiplies {:.0} TFLOP/s",
        figures.device, figures.copy_gb_s, figures.host_to_device_gb_s, figures.matmul_tflops
    );
    println!(
        "{:<8} {:>6} {:>7} {:>10} {:>6} {:>11} {:>12} {:>6} {:>12} {:>9} {:>7}",
        "weights",
        "GB",
        "load s",
        "1 stream",
        "of",
        "64 streams",
        "prefill 2k",
        "of",
        "first of 8k",
        "wake GB/s",
        "gap us"
    );
    for m in &figures.models {
        println!(
            "{:<8} {:>6.1} {:>7.1} {:>10.1} {:>6.2} {:>11.0} {:>12.0} {:>6.2} {:>10.2} s {:>9.1} {:>7.0}",
            m.weights,
            m.weights_gb,
            m.load_seconds,
            m.decode_1,
            m.decode_1_of_bandwidth,
            m.decode_64,
            m.prefill_2048,
            m.prefill_of_matmul,
            m.first_token_8192,
            m.wake_gb_s,
            m.gap_us
        );
    }
}

/// How much of each.
struct Work {
    copied_mb: usize,
    /// Rows and columns of the matrix that is multiplied.
    matrix: usize,
    tokens: usize,
    steps: usize,
    before: usize,
    streams: usize,
    prefill: usize,
    long: usize,
    park_bytes: u64,
}

impl Work {
    fn whole() -> Self {
        Self {
            copied_mb: 1024,
            matrix: 8192,
            tokens: 4096,
            steps: 64,
            before: 512,
            streams: 64,
            prefill: 2048,
            long: 8192,
            park_bytes: 24 << 30,
        }
    }
}

fn measure(device: &Device, name: &str, shape: &Shape, work: &Work) -> anyhow::Result<Figures> {
    let copy_gb_s = copies(device, work)?;
    let host_to_device_gb_s = from_host(device, work)?;
    let matmul_tflops = products(device, work)?;
    let mut figures = Figures {
        device: name.to_owned(),
        copy_gb_s,
        host_to_device_gb_s,
        matmul_tflops,
        models: Vec::new(),
    };
    let folder = std::env::temp_dir().join(format!("neuron-bench-gpu-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let measured = [("bf16", as_bf16 as fn(&str) -> Kind), ("q4_k_m", as_q4_k_m)].into_iter().try_for_each(
        |(weights, of)| {
            let model = one(device, &folder, shape, (weights, of), work, &figures)?;
            figures.models.push(model);
            Ok::<_, anyhow::Error>(())
        },
    );
    std::fs::remove_dir_all(&folder)?;
    measured?;
    Ok(figures)
}

fn as_bf16(_: &str) -> Kind {
    Kind::Float(Float::BF16)
}

/// As llama.cpp mixes them: more bits for the output, and in half of the layers for values and the last matrix.
fn as_q4_k_m(name: &str) -> Kind {
    let layer = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    let more = match layer {
        None => name == "output.weight",
        Some((layer, part)) => {
            layer.parse::<u64>().is_ok_and(|n| n % 2 == 0)
                && matches!(part, "attn_v.weight" | "ffn_down.weight")
        }
    };
    Kind::Quant(if more { Source::Q6K } else { Source::Q4K })
}

/// Seconds that `run` takes, the best of three after one that warms up.
fn seconds(device: &Device, mut run: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let mut best = f64::MAX;
    for round in 0..4 {
        device.synchronize()?;
        let started = Instant::now();
        run()?;
        device.synchronize()?;
        if round > 0 {
            best = best.min(started.elapsed().as_secs_f64());
        }
    }
    Ok(best)
}

fn copies(device: &Device, work: &Work) -> anyhow::Result<f64> {
    let bytes = work.copied_mb << 20;
    let (from, to) = (device.alloc(bytes)?, device.alloc(bytes)?);
    from.zero()?;
    const WIDTH: usize = 1 << 16;
    let out = ops::Acts::floats(&to, [bytes / 4 / WIDTH, WIDTH]);
    let took = seconds(device, || Ok((0..10).try_for_each(|_| ops::convert(device, &from, &out))?))?;
    Ok(20.0 * bytes as f64 / took / 1e9)
}

fn from_host(device: &Device, work: &Work) -> anyhow::Result<f64> {
    let bytes = work.copied_mb << 20;
    let (mut from, to) = (device.alloc_host(bytes)?, device.alloc(bytes)?);
    let took = seconds(device, || Ok(to.write(0, from.slice::<u8>())?))?;
    Ok(bytes as f64 / took / 1e9)
}

fn products(device: &Device, work: &Work) -> anyhow::Result<f64> {
    let (tokens, size) = (work.tokens, work.matrix);
    let matrix = Matrix::new(device, Format::Float(Float::BF16), [1, size, size])?;
    let (x, out) = (device.alloc(tokens * size * 2)?, device.alloc(tokens * size * 4)?);
    x.zero()?;
    let x = ops::Acts { act: Act::BF16, data: &x, groups: &x, rows: tokens, width: size };
    let took =
        seconds(
            device,
            || Ok((0..4).try_for_each(|_| ops::multiply(device, &matrix, &x, &out, [0, size]))?),
        )?;
    Ok(4.0 * 2.0 * (tokens * size * size) as f64 / took / 1e12)
}

/// Files of noise, each a whole number of blocks.
fn noise(folder: &std::path::Path, shape: &Shape, matrix: fn(&str) -> Kind) -> anyhow::Result<Weights> {
    let mut random = 0x2545_f491_4f6c_dd1du64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let mut files: Vec<(Kind, PathBuf)> = Vec::new();
    for name in shape.tensors().keys() {
        let kind = matrix(name);
        if files.iter().any(|(of, _)| *of == kind) {
            continue;
        }
        let block = match kind {
            Kind::Quant(source) => source.block().1,
            Kind::Float(float) | Kind::InSitu(float, _) => float.bytes(),
        };
        let mut bytes = Vec::with_capacity(17 << 20);
        while bytes.len() < 16 << 20 {
            let mut one: Vec<u8> =
                (0..block.div_ceil(8)).flat_map(|_| next().to_le_bytes()).take(block).collect();
            match kind {
                // Small numbers of either sign.
                Kind::Float(Float::BF16) => one[1] = (one[1] & 0x80) | 0x3c,
                // Scales of about 0.001.
                Kind::Quant(Source::Q4K) => one[..4].copy_from_slice(&[0x00, 0x10, 0x00, 0x10]),
                Kind::Quant(Source::Q6K) => one[208..].copy_from_slice(&[0x00, 0x04]),
                _ => {}
            }
            bytes.extend(one);
        }
        let path = folder.join(format!("noise-{}", files.len()));
        std::fs::File::create(&path)?.write_all(&bytes)?;
        files.push((kind, path));
    }
    let vectors = folder.join("ones");
    std::fs::write(&vectors, 1f32.to_le_bytes().repeat(1 << 16))?;
    Ok(Weights::noise(Noise { dims: shape.tensors(), matrix, files, vectors }))
}

/// Sequences whose blocks lie one after the other.
struct Streams {
    blocks: Vec<Vec<u32>>,
}

impl Streams {
    fn new(count: usize, tokens: usize, block: usize) -> Self {
        let each = tokens.div_ceil(block) as u32;
        Self { blocks: (0..count as u32).map(|n| (n * each..(n + 1) * each).collect()).collect() }
    }

    /// A step of these tokens of one stream.
    fn fill(&self, model: &mut dyn Model, stream: usize, tokens: &[u32], vocab: u32) -> anyhow::Result<()> {
        let most = model.limits().tokens;
        for (n, piece) in tokens.chunks(most).enumerate() {
            let last = (n + 1) * most >= tokens.len();
            let rows = if last { Rows::Last } else { Rows::None };
            let part = Part { len: piece.len(), position: n * most, blocks: &self.blocks[stream], rows };
            let logits = model.forward(&Batch { tokens: piece, parts: &[part] })?;
            anyhow::ensure!(!last || logits.data.len() == vocab as usize, "no logits");
        }
        Ok(())
    }

    /// A step of one token of every stream.
    fn step(&self, model: &mut dyn Model, position: usize) -> anyhow::Result<()> {
        let tokens: Vec<u32> = (0..self.blocks.len() as u32).map(|n| n + 17).collect();
        // As the daemon does: tokens leave the device, not logits.
        let draw = Draw { temperature: 1.0, top_p: 0.95, top_k: 50, min_p: 0.0, unit: 0.5 };
        let part = |blocks| Part { len: 1, position, blocks, rows: Rows::Drawn(draw) };
        let parts: Vec<Part<'_>> = self.blocks.iter().map(|blocks| part(&blocks[..])).collect();
        model.forward(&Batch { tokens: &tokens, parts: &parts })?;
        Ok(())
    }
}

fn one(
    device: &Device,
    folder: &std::path::Path,
    shape: &Shape,
    (name, kind): (&'static str, fn(&str) -> Kind),
    work: &Work,
    so_far: &Figures,
) -> anyhow::Result<Model8> {
    let weights = noise(folder, shape, kind)?;
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let host = CpuBackend { threads, kv: KvFormat::F16, sequences: work.streams };
    let mut backend =
        GpuBackend::new(device.clone(), host, GpuOptions { park_bytes: work.park_bytes, nccl: false });
    let each = work.before + 2 * work.steps + 16;
    let cached = (work.streams * each).max(work.long + 64) as u64;
    let room = Room { context: (work.long + 64) as u64, cached };
    let started = Instant::now();
    let mut model = backend.load(&weights, &Blueprint::Decoder(shape.clone()), room)?;
    let load_seconds = started.elapsed().as_secs_f64();
    let (model, vocab) = (model.as_mut(), u32::try_from(shape.vocab)?);
    let block = model.limits().block;
    let prompt: Vec<u32> = (0..work.long as u32).map(|i| (i * 7919 + 1) % vocab).collect();

    let alone = Streams::new(1, work.long + 64, block);
    let took = seconds(device, || alone.fill(model, 0, &prompt[..work.prefill], vocab))?;
    let prefill_2048 = work.prefill as f64 / took;
    let first_token_8192 = seconds(device, || alone.fill(model, 0, &prompt, vocab))?;
    let of_steps = |model: &mut dyn Model, streams: &Streams| {
        (0..work.steps).try_for_each(|n| streams.step(model, work.before + n))
    };
    alone.fill(model, 0, &prompt[..work.before], vocab)?;
    let step = seconds(device, || of_steps(model, &alone))? / work.steps as f64;
    // What the device alone takes for it: the recorded step, over and over, nothing between.
    let gap_us = model
        .replays(work.steps)
        .transpose()?
        .map_or(0.0, |device_s| (step - device_s / work.steps as f64) * 1e6);
    let many = Streams::new(work.streams, each, block);
    for stream in 0..work.streams {
        many.fill(model, stream, &prompt[..work.before], vocab)?;
    }
    let step_64 = seconds(device, || of_steps(model, &many))? / work.steps as f64;

    let weights_gb = model.weights_bytes() as f64 / 1e9;
    let (mut park_seconds, mut wake_seconds) = (0.0, 0.0);
    for _ in 0..2 {
        let started = Instant::now();
        // A host without so much memory to pin leaves the figures out.
        if !matches!(model.park(), Ok(true)) {
            break;
        }
        park_seconds = started.elapsed().as_secs_f64();
        let started = Instant::now();
        model.wake()?;
        wake_seconds = started.elapsed().as_secs_f64();
    }
    let wake_gb_s = if wake_seconds > 0.0 { weights_gb / wake_seconds } else { 0.0 };
    // A row of the embeddings is read, not all of them.
    let embeddings = kind("token_embd.weight").format().bytes(shape.vocab, shape.hidden) as f64 / 1e9;
    let tensors = shape.tensors();
    let parameters = tensors.iter().filter(|(name, _)| name.starts_with("blk."));
    let parameters: f64 = parameters.map(|(_, dims)| dims.iter().product::<u64>() as f64).sum();
    let prefill_flops = 2.0 * parameters * prefill_2048;
    Ok(Model8 {
        weights: name,
        weights_gb,
        load_seconds,
        decode_1: 1.0 / step,
        decode_1_of_bandwidth: (weights_gb - embeddings) / so_far.copy_gb_s / step,
        decode_64: work.streams as f64 / step_64,
        prefill_2048,
        prefill_of_matmul: prefill_flops / 1e12 / so_far.matmul_tflops,
        first_token_8192,
        park_seconds,
        wake_gb_s,
        wake_of_rate: wake_gb_s / so_far.host_to_device_gb_s,
        gap_us,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On the emulated device, which is far too slow for the whole of it: every part of it runs.
    #[test]
    fn it_measures_what_it_says() {
        let device = Device::emulated(1 << 30);
        let shape = Shape {
            hidden: 256,
            feed_forward: 256,
            heads: 4,
            kv_heads: 2,
            head_dim: 64,
            vocab: 512,
            ..llama_8b(1)
        };
        let work = Work {
            copied_mb: 1,
            matrix: 128,
            tokens: 9,
            steps: 2,
            before: 3,
            streams: 2,
            prefill: 17,
            long: 18,
            park_bytes: 1 << 30,
        };
        let figures = measure(&device, "emulated", &shape, &work).unwrap();
        print(&figures);
        assert_eq!(figures.models.len(), 2);
        for model in &figures.models {
            let all = [
                model.decode_1,
                model.decode_64,
                model.prefill_2048,
                model.first_token_8192,
                model.weights_gb,
            ];
            assert!(all.iter().all(|figure| figure.is_finite() && *figure > 0.0), "{model:?}");
            // The emulated device's clock is the host's: nothing is to be expected of a gap but that it was measured.
            assert!(model.gap_us.abs() > 0.0, "{model:?}");
        }
    }
}
