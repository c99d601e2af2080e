//! `neuron bench`: the engine's speed on one file, without a server around it.

mod gpu;
mod sampling;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context;
use serde_json::json;

use crate::{
    engine::{Backend, Batch, CpuBackend, KvFormat, Model, Part, Room, Rows},
    preflight,
};

pub use gpu::{GpuArgs, run as run_gpu};
pub use sampling::{SamplingArgs, run as run_sampling};

/// What to measure.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// GGUF file.
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// Threads that compute.
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Tokens of the prompt.
    #[arg(long, default_value_t = 256)]
    pub prefill: usize,
    /// Tokens that are drawn after it, one by one.
    #[arg(long, default_value_t = 0)]
    pub decode: usize,
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
}

/// Measures and prints one line of JSON: tokens a second of each round, bytes of the weights as they are
/// held, and bytes of the process in memory.
pub fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let checked =
        preflight::check("bench", &args.model, None, 0).map_err(|e| anyhow::anyhow!(e.message()))?;
    let tokens = (args.prefill + args.decode) as u64;
    let mut backend = CpuBackend { threads: args.threads, kv: KvFormat::F16, sequences: 1 };
    let room = Room { context: tokens, cached: tokens };
    let mut model = backend.load(&checked.weights, &checked.plan, room)?;
    crate::memory::give_back();
    let vocab = u32::try_from(checked.plan.vocab()).context("the vocabulary")?;
    let prompt: Vec<u32> = (0..args.prefill as u32).map(|i| (i * 7919 + 1) % vocab).collect();
    let blocks: Vec<u32> = (0..model.limits().blocks as u32).collect();
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    for round in 0..=args.rounds {
        let (first, filled) = timed(|| fill(model.as_mut(), &prompt, &blocks))?;
        let (_, drawn) = timed(|| draw(model.as_mut(), args, first, &blocks))?;
        // The first only warms up.
        if round > 0 {
            prefill.push(args.prefill as f64 / filled.as_secs_f64());
            decode.push(args.decode as f64 / drawn.as_secs_f64());
        }
    }
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let resident = pages.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 4096;
    let weights = model.weights_bytes();
    println!(
        "{}",
        json!({
            "prefill_tok_s": prefill, "decode_tok_s": decode, "weights_bytes": weights, "rss_bytes": resident,
        })
    );
    Ok(())
}

fn timed<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(T, Duration)> {
    let started = Instant::now();
    let out = work()?;
    Ok((out, started.elapsed()))
}

/// Runs the prompt; the likeliest next token.
fn fill(model: &mut dyn Model, prompt: &[u32], blocks: &[u32]) -> anyhow::Result<u32> {
    let most = model.limits().tokens;
    let mut next = 0;
    for (n, tokens) in prompt.chunks(most).enumerate() {
        let position = n * most;
        let last = position + tokens.len() == prompt.len();
        let parts =
            [Part { len: tokens.len(), position, blocks, rows: if last { Rows::Last } else { Rows::None } }];
        let logits = model.forward(&Batch { tokens, parts: &parts })?;
        if last {
            next = likeliest(logits.data);
        }
    }
    Ok(next)
}

fn draw(model: &mut dyn Model, args: &BenchArgs, first: u32, blocks: &[u32]) -> anyhow::Result<()> {
    let mut next = first;
    for n in 0..args.decode {
        let parts = [Part { len: 1, position: args.prefill + n, blocks, rows: Rows::Last }];
        next = likeliest(model.forward(&Batch { tokens: &[next], parts: &parts })?.data);
    }
    Ok(())
}

fn likeliest(logits: &[f32]) -> u32 {
    let max = neuron_kernels::ops::largest(logits);
    logits.iter().position(|logit| *logit == max).unwrap_or(0) as u32
}
