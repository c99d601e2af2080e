//! `neuron bench-sampling`: what it costs to choose a token, to bind an answer, and to make a vector of a text.

use std::{
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use axum::body::Body;
use http::Request;
use http_body_util::BodyExt;
use serde_json::{Map, Value, json};

use crate::{
    config::{Config, process_env},
    engine::{Sampler, Sampling, Scratch},
    grammar::{Bound, Form, Grammars},
    preflight,
    server::Server,
    sources,
};

/// What to measure with.
#[derive(Debug, clap::Args)]
pub struct SamplingArgs {
    /// Configuration whose cache holds both models.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// A model that writes.
    #[arg(long)]
    pub model: String,
    /// A model that makes vectors.
    #[arg(long)]
    pub embedder: String,
    /// JSON: a list of schemas, and a list of texts.
    #[arg(long, value_name = "FILE")]
    pub data: PathBuf,
    #[arg(long, default_value_t = 7)]
    pub rounds: usize,
    /// A program, with its arguments, that makes vectors of the same texts whenever a line comes, and says how
    /// many it made in a second.
    #[arg(long, num_args = 1.., value_name = "PROGRAM")]
    pub peer: Vec<String>,
}

/// Logits of a large vocabulary.
const VOCAB: usize = 151_936;
const DRAWS: usize = 400;
/// Tokens of a schema's answer that are gone through, and of an answer that is timed.
const STEPS: usize = 80;
const ANSWER: usize = 160;

/// Measures and prints one line of JSON.
pub fn run(args: &SamplingArgs) -> anyhow::Result<()> {
    let config = Config::load(&args.config, &process_env)?;
    let data: Value = serde_json::from_slice(&std::fs::read(&args.data)?)?;
    let mut figures = Map::new();
    for (name, sampling) in chains() {
        figures.insert(format!("{name}_us"), json!(draw_us(&sampling)));
    }
    masks(&config, args, &data["schemas"], &mut figures)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(whole(config, args, &data, &mut figures))?;
    println!("{}", Value::Object(figures));
    Ok(())
}

fn chains() -> Vec<(&'static str, Sampling)> {
    let plain = Sampling { seed: Some(1), ..Sampling::default() };
    let bias: Vec<(u32, f32)> = (0..16).map(|n| (n * 1009, -1.0)).collect();
    vec![
        ("greedy", Sampling { temperature: 0.0, ..plain.clone() }),
        ("temperature", plain.clone()),
        ("top_k", Sampling { top_k: 40, ..plain.clone() }),
        ("top_p", Sampling { top_p: 0.95, ..plain.clone() }),
        ("min_p", Sampling { min_p: 0.05, ..plain.clone() }),
        (
            "full_chain",
            Sampling {
                temperature: 0.8,
                top_k: 40,
                top_p: 0.95,
                min_p: 0.05,
                repetition_penalty: 1.1,
                presence_penalty: 0.5,
                frequency_penalty: 0.5,
                logit_bias: bias.into(),
                ..plain
            },
        ),
    ]
}

/// Median microseconds of a draw, the copy of the logits not counted.
fn draw_us(sampling: &Sampling) -> f64 {
    let logits = logits();
    // Of the penalties, a conversation of 2,000 tokens.
    let prompt: Vec<u32> = (0..2000).map(|n| n * 71).collect();
    let mut sampler = Sampler::new(sampling.clone(), &prompt);
    let (mut scratch, mut row) = (Scratch::default(), logits.clone());
    let times = (0..DRAWS).map(|_| {
        row.copy_from_slice(&logits);
        let started = Instant::now();
        std::hint::black_box(sampler.sample(&mut row, &mut scratch));
        started.elapsed()
    });
    quantile_us(times.collect(), 0.5)
}

/// Spread as a model's are: a wide bell, and a few that stand out of it.
fn logits() -> Vec<f32> {
    let mut random = 1u64;
    let mut unit = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 40) as f32 / (1u64 << 24) as f32
    };
    let mut logits: Vec<f32> =
        (0..VOCAB).map(|_| ((0..6).map(|_| unit()).sum::<f32>() - 3.0) * 4.0).collect();
    for (n, logit) in logits.iter_mut().step_by(VOCAB / 50).enumerate() {
        *logit = 14.0 - n as f32 * 0.15;
    }
    logits
}

/// What the tokens that may come next cost, for each token of answers to the schemas.
fn masks(
    config: &Config,
    args: &SamplingArgs,
    schemas: &Value,
    figures: &mut Map<String, Value>,
) -> anyhow::Result<()> {
    let resolved = sources::resolve_cached(config, &args.model).map_err(|e| anyhow::anyhow!(e.message()))?;
    let resolved = resolved.with_context(|| format!("{} is not in the cache", args.model))?;
    let text =
        preflight::check_text(&args.model, &resolved.path).map_err(|e| anyhow::anyhow!(e.message()))?;
    let started = Instant::now();
    let grammars = Grammars::new(&text.tokenizer)?;
    figures.insert("vocabulary_ms".to_owned(), json!(started.elapsed().as_secs_f64() * 1e3));
    let (mut compiled, mut steps) = (Vec::new(), Vec::new());
    let mut random = 7usize;
    for schema in schemas.as_array().context("schemas")? {
        let form = Form::Schema { schema: schema.to_string(), strict: true };
        let started = Instant::now();
        let mut grammar = grammars.compile(&Bound { form, after: None })?;
        compiled.push(started.elapsed());
        for _ in 0..STEPS {
            let started = Instant::now();
            let allowed = grammar.allowed().map_err(anyhow::Error::msg)?;
            steps.push(started.elapsed());
            let Some(bits) = allowed else { break };
            let set = |id: &u32| bits[*id as usize / 32] >> (id % 32) & 1 == 1;
            let all: Vec<u32> = (0..text.tokenizer.vocab_size() as u32).filter(set).collect();
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let token = all[(random >> 33) % all.len()];
            if text.tokenizer.end_ids().contains(&token) {
                break;
            }
            grammar.accept(token).map_err(anyhow::Error::msg)?;
        }
    }
    figures.insert("compile_ms_p50".to_owned(), json!(quantile_us(compiled, 0.5) / 1e3));
    figures.insert("mask_us_p50".to_owned(), json!(quantile_us(steps.clone(), 0.5)));
    figures.insert("mask_us_p99".to_owned(), json!(quantile_us(steps, 0.99)));
    Ok(())
}

/// Answers and vectors by the API.
async fn whole(
    config: Config,
    args: &SamplingArgs,
    data: &Value,
    figures: &mut Map<String, Value>,
) -> anyhow::Result<()> {
    let server = Server::in_process(config)?;
    for model in [&args.model, &args.embedder] {
        post(&server, "/models/load", &json!({ "model_id": model })).await?;
    }
    let plain = json!({ "model": args.model, "prompt": "Numbers:", "max_tokens": ANSWER, "ignore_eos": true, "temperature": 0 });
    let mut bound = plain.clone();
    bound["structured_outputs"] =
        json!({ "json": { "type": "array", "items": { "type": "integer" }, "minItems": 900 } });
    let (mut rates, mut ratios) = ([Vec::new(), Vec::new()], Vec::new());
    for round in 0..=args.rounds {
        let mut pair = [0.0; 2];
        for (rate, body) in pair.iter_mut().zip([&plain, &bound]) {
            let started = Instant::now();
            let answer = post(&server, "/v1/completions", body).await?;
            ensure!(answer["usage"]["completion_tokens"] == ANSWER, "the answer ended early: {answer}");
            *rate = ANSWER as f64 / started.elapsed().as_secs_f64();
        }
        // The first only warms up.
        if round > 0 {
            ratios.push(pair[1] / pair[0]);
            rates.iter_mut().zip(pair).for_each(|(rates, rate)| rates.push(rate));
        }
    }
    let [plain, bound] = rates.map(median);
    figures.insert("plain_tok_s".to_owned(), json!(plain));
    figures.insert("structured_tok_s".to_owned(), json!(bound));
    figures.insert("structured_over_plain".to_owned(), json!(median(ratios)));
    let texts = data["texts"].as_array().context("texts")?;
    let body = json!({ "model": args.embedder, "input": texts, "truncate_prompt_tokens": -1, "encoding_format": "base64" });
    let (mut rates, mut peers, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let mut peer = args.peer.split_first().map(|(program, args)| Peer::start(program, args)).transpose()?;
    for round in 0..=args.rounds {
        let started = Instant::now();
        post(&server, "/v1/embeddings", &body).await?;
        let rate = texts.len() as f64 / started.elapsed().as_secs_f64();
        // Turn by turn: whatever else the machine does, it does to both.
        let other = peer.as_mut().map(Peer::rate).transpose()?;
        if round > 0 {
            rates.push(rate);
            peers.extend(other);
            ratios.extend(other.map(|other| rate / other));
        }
    }
    figures.insert("embeddings_per_s".to_owned(), json!(median(rates)));
    if peer.is_some() {
        figures.insert("peer_embeddings_per_s".to_owned(), json!(median(peers)));
        figures.insert("embeddings_over_peer".to_owned(), json!(median(ratios)));
    }
    server.stop().await;
    Ok(())
}

/// Another program that makes vectors.
struct Peer {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    fn start(program: &str, args: &[String]) -> anyhow::Result<Self> {
        let mut child =
            Command::new(program).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let answers = BufReader::new(child.stdout.take().context("the peer's answers")?);
        Ok(Self { child, answers })
    }

    /// Vectors in a second.
    fn rate(&mut self) -> anyhow::Result<f64> {
        writeln!(self.child.stdin.as_mut().context("the peer's input")?, "go")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        line.trim().parse().with_context(|| format!("the peer said {line:?}"))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It ends by itself when nothing more comes.
        drop(self.child.stdin.take());
        self.child.wait().ok();
    }
}

async fn post(server: &Server, path: &str, body: &Value) -> anyhow::Result<Value> {
    let request = Request::post(path).body(Body::from(body.to_string()))?;
    let response = server.answer(request).await;
    let status = response.status();
    let bytes = response.into_body().collect().await?.to_bytes();
    ensure!(status.is_success(), "{path}: {status}: {}", String::from_utf8_lossy(&bytes));
    Ok(serde_json::from_slice(&bytes)?)
}

fn quantile_us(mut times: Vec<Duration>, share: f64) -> f64 {
    times.sort_unstable();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
    let at = ((times.len() as f64 - 1.0) * share).round() as usize;
    times.get(at).map_or(0.0, |time| time.as_secs_f64() * 1e6)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
