//! Logits against PyTorch transformers': tiny models with random weights, made by tests/data/make_references.py,
//! which computes in float32 on exactly the numbers that the files hold.
//!
//! The error of a model is its largest difference from the reference, as a part of the reference's largest
//! logit, over every position of the prompt and every way to cut it.

use std::{path::PathBuf, sync::Arc};

use neuron::{
    engine::{
        Backend, Batch, Blueprint, Communicator, CpuBackend, KvFormat, Loopback, Model, Part, Room, Rows,
        Shard, Weights,
    },
    gguf::Header,
    safetensors::Safetensors,
    text::TextModel,
};
use neuron_kernels::quant::Target;

use crate::support;

/// Folder, and the error that is allowed with keys and values in F32 and in F16.
pub(crate) const MODELS: [(&str, f32, f32); 6] = [
    ("llama", 2e-6, 1e-3),
    ("mistral", 2e-6, 1e-3),
    ("qwen2", 2e-6, 1e-3),
    ("qwen3", 2e-6, 1e-3),
    ("qwen3_moe", 2e-6, 1e-3),
    ("gemma3", 2e-6, 1e-3),
];

/// Blocks of the sequence that is compared, in no order, and of one that only runs beside it.
const BLOCKS: [&[u32]; 2] = [&[5, 2, 9], &[0, 7, 3]];

/// Folders of models that candle-transformers computes, and the error that is allowed. It adds up in another
/// order; its GELU is the one by tanh, which Falcon's is not; it scales RecurrentGemma's embeddings by what
/// transformers rounds to bfloat16 first.
const SINGLE: [(&str, f32); 21] = [
    ("deepseek_v2", 5e-6),
    ("falcon", 2e-4),
    ("gemma", 5e-6),
    ("gemma2", 5e-6),
    ("glm4", 5e-6),
    ("gpt_bigcode", 5e-6),
    ("granitemoehybrid", 5e-6),
    ("helium", 5e-6),
    ("lfm2", 5e-6),
    ("mamba", 2e-5),
    ("mamba2", 5e-6),
    ("mixtral", 5e-6),
    ("olmo", 5e-6),
    ("olmo2", 5e-6),
    ("phi", 5e-6),
    ("phi3", 5e-6),
    ("qwen2_moe", 5e-6),
    ("recurrent_gemma", 4e-4),
    ("smollm3", 5e-6),
    ("stablelm", 5e-6),
    ("starcoder2", 5e-6),
];

/// Of all folders.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    MODELS.iter().map(|(name, ..)| *name).chain(SINGLE.iter().map(|(name, _)| *name))
}

pub(crate) struct Reference {
    pub(crate) prompt: Vec<u32>,
    vocab: usize,
    /// [tokens, vocab]
    logits: Vec<f32>,
}

pub(crate) fn folder(name: &str) -> PathBuf {
    support::root().join("tests/data/references").join(name)
}

pub(crate) fn reference(name: &str) -> Reference {
    let facts = support::data("references/references.json");
    let bytes = std::fs::read(folder(name).join("logits.f32")).unwrap();
    let logits = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
    let vocab = usize::try_from(facts["vocab"].as_u64().unwrap()).unwrap();
    let reference = Reference { prompt: support::ids(&facts["prompt"]), vocab, logits: logits.collect() };
    assert_eq!(reference.logits.len(), reference.prompt.len() * vocab);
    reference
}

/// The same model out of its GGUF file.
fn load_gguf(name: &str) -> Box<dyn Model> {
    let path = folder(name).join("model.gguf");
    let header = Header::open(&path).unwrap();
    let plan = Blueprint::from_header(&header).unwrap();
    assert!(!plan.is_batched());
    let mut backend = CpuBackend { threads: 2, kv: KvFormat::F32, sequences: 2 };
    let weights = Weights::gguf(path, Arc::new(header));
    backend.load(&weights, &plan, Room { context: 64, cached: 64 }).unwrap()
}

fn load(name: &str, kv: KvFormat) -> Box<dyn Model> {
    load_as(name, kv, None)
}

fn load_as(name: &str, kv: KvFormat, in_situ: Option<Target>) -> Box<dyn Model> {
    let files = Arc::new(Safetensors::open(&folder(name)).unwrap());
    let plan = Blueprint::from_safetensors(&files).unwrap();
    let mut backend = CpuBackend { threads: 2, kv, sequences: 2 };
    let weights = Weights::safetensors(files).quantised(in_situ);
    backend.load(&weights, &plan, Room { context: 64, cached: 256 }).unwrap()
}

/// Logits after the last of `lens[i]` tokens of each sequence, which start where `done[i]` are run.
fn step(model: &mut dyn Model, sequences: [&[u32]; 2], done: [usize; 2], lens: [usize; 2]) -> Vec<Vec<f32>> {
    let running = || (0..2).filter(|i| lens[*i] > 0);
    let tokens: Vec<u32> =
        running().flat_map(|i| &sequences[i][done[i]..done[i] + lens[i]]).copied().collect();
    let part = |i: usize| Part { len: lens[i], position: done[i], blocks: BLOCKS[i], rows: Rows::Last };
    let parts: Vec<Part<'_>> = running().map(part).collect();
    let logits = model.forward(&Batch { tokens: &tokens, parts: &parts }).unwrap();
    logits.data.chunks_exact(logits.vocab).map(<[f32]>::to_vec).collect()
}

/// The error where the prompt is run in chunks of these lengths, beside another sequence where one is given.
pub(crate) fn in_chunks(
    model: &mut dyn Model,
    reference: &Reference,
    lens: &[usize],
    other: Option<&[usize]>,
) -> f32 {
    let beside: Vec<u32> = reference.prompt.iter().rev().copied().collect();
    let (mut done, mut error) = ([0, 0], 0.0);
    let mut others = other.into_iter().flatten().copied();
    for len in lens {
        let lens = [*len, others.next().unwrap_or(0)];
        let logits = step(model, [&reference.prompt, &beside], done, lens);
        done = [done[0] + lens[0], done[1] + lens[1]];
        assert!(logits.iter().flatten().all(|logit| logit.is_finite()));
        error = f32::max(error, reference.error(done[0] - 1, &logits[0]));
    }
    error
}

impl Reference {
    fn error(&self, position: usize, logits: &[f32]) -> f32 {
        let expected = &self.logits[position * self.vocab..(position + 1) * self.vocab];
        assert_eq!(logits.len(), self.vocab);
        let largest = self.logits.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
        logits.iter().zip(expected).fold(0.0, |most: f32, (a, b)| most.max((a - b).abs())) / largest
    }
}

#[test]
fn logits_are_those_of_transformers() {
    for (name, in_f32, in_f16) in MODELS {
        let reference = reference(name);
        let len = reference.prompt.len();
        for (kv, bound) in [(KvFormat::F32, in_f32), (KvFormat::F16, in_f16)] {
            let model = &mut *load(name, kv);
            let whole = (1..=len).map(|len| in_chunks(model, &reference, &[len], None));
            let whole = whole.fold(0.0, f32::max);
            let single = in_chunks(model, &reference, &vec![1; len], Some(&[9, 1, 1, 1, 16, 1, 3]));
            let ragged = in_chunks(model, &reference, &[1, 7, 16, 3, 13], Some(&[5, 1, 30, 1, 1]));
            println!("{name}, {kv:?}: {whole:.1e} whole, {single:.1e} one by one, {ragged:.1e} in chunks");
            let error = whole.max(single).max(ragged);
            assert!(error <= bound, "{name}, {kv:?}: {error} > {bound}");
        }
    }
}

/// Random weights are as hard to quantise as any; more bits are nearer. Matrices whose rows are no whole number of
/// groups stay floats: all of these have some.
#[test]
fn logits_of_weights_quantised_as_they_are_loaded_are_near() {
    let mut wrong = Vec::new();
    for (name, ..) in MODELS {
        let reference = reference(name);
        let len = reference.prompt.len();
        let error = |target| {
            let model = &mut *load_as(name, KvFormat::F32, Some(target));
            let whole = in_chunks(model, &reference, &[len], None);
            // It does not depend on how the prompt is cut.
            assert!(in_chunks(model, &reference, &[len - 3, 3], None) >= whole, "{name}");
            whole
        };
        let errors = Target::ALL.map(error);
        println!("{name}: {errors:.3?}");
        let bounds = [0.35, 0.2, 0.08, 0.05];
        if !errors.iter().zip(bounds).all(|(error, bound)| *error < bound) || errors[0] < errors[3] {
            wrong.push(format!("{name}: {errors:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Two ranks, each a thread with half of the heads and of the feed-forward: both have the logits of the whole, to the
/// same bit.
#[test]
fn logits_of_models_in_parts_are_those_of_transformers() {
    for (name, bound, _) in MODELS {
        let files = Arc::new(Safetensors::open(&folder(name)).unwrap());
        let Blueprint::Decoder(whole) = Blueprint::from_safetensors(&files).unwrap() else {
            panic!("{name}")
        };
        let shape = match whole.sharded(2) {
            Ok(shape) => shape,
            // It has one head of keys and values.
            Err(why) => {
                assert!(name == "gemma3" && why.contains("1 heads of keys and values"), "{name}: {why}");
                continue;
            }
        };
        let reference = reference(name);
        for (in_situ, bound) in [(None, bound), (Some(Target::Q8_0), 0.1)] {
            let run = |rank: usize, communicator: Box<dyn Communicator>| {
                let mut backend = CpuBackend { threads: 1, kv: KvFormat::F32, sequences: 2 };
                let weights = Weights::safetensors(Arc::clone(&files)).quantised(in_situ);
                let (room, shard) =
                    (Room { context: 64, cached: 256 }, Shard { rank, size: 2, communicator });
                let plan = Blueprint::Decoder(shape.clone());
                let model = &mut *backend.load_shard(&weights, &plan, room, shard).unwrap();
                let len = reference.prompt.len();
                let error = in_chunks(model, &reference, &[1, 7, len - 8], Some(&[5, 1, 3]));
                let (whole, parts) = (files.bytes(), model.weights_bytes());
                assert!(in_situ.is_some() || parts < whole, "{parts} of {whole}");
                (error, step(model, [&reference.prompt, &[]], [0, 0], [len, 0]))
            };
            let ranks = Loopback::ranks(2, std::time::Duration::from_secs(60));
            let seen: Vec<_> = std::thread::scope(|scope| {
                let run = &run;
                let ranks = ranks.into_iter().enumerate();
                let ranks: Vec<_> =
                    ranks.map(|(rank, comm)| scope.spawn(move || run(rank, Box::new(comm)))).collect();
                ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
            });
            assert_eq!(seen[0], seen[1], "{name}");
            println!("{name}, {in_situ:?}: {:.1e}", seen[0].0);
            assert!(seen[0].0 <= bound, "{name}, {in_situ:?}: {} > {bound}", seen[0].0);
        }
    }
}

#[test]
fn logits_of_one_at_a_time_are_those_of_transformers() {
    let mut wrong = Vec::new();
    let in_gguf = ["glm4", "lfm2"].map(|name| (name, 5e-6, true));
    for (name, bound, in_gguf) in SINGLE.map(|(name, bound)| (name, bound, false)).into_iter().chain(in_gguf)
    {
        let reference = reference(name);
        let len = reference.prompt.len();
        let model = &mut *if in_gguf { load_gguf(name) } else { load(name, KvFormat::F32) };
        let whole = (1..=len).map(|len| in_chunks(model, &reference, &[len], None));
        let whole = whole.fold(0.0, f32::max);
        let single = in_chunks(model, &reference, &vec![1; len], None);
        let ragged = in_chunks(model, &reference, &[1, 7, 16, 3, 13], None);
        model.rest();
        let again = in_chunks(model, &reference, &[len], None);
        println!(
            "{name}: {whole:.1e} whole, {single:.1e} one by one, {ragged:.1e} in chunks, {again:.1e} anew"
        );
        let error = whole.max(single).max(ragged).max(again);
        if error > bound {
            wrong.push(format!("{name}: {error} > {bound}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_folders_are_whole_models() {
    for name in MODELS.map(|model| model.0).into_iter().chain(SINGLE.map(|model| model.0)) {
        let text = TextModel::from_folder(&folder(name)).unwrap();
        assert_eq!((text.tokenizer.end_ids(), text.tokenizer.eos_text()), (&[256, 258][..], "<|im_end|>"));
        assert_eq!(text.tokenizer.encode_prompt("hé<|im_end|>"), [104, 195, 169, 256], "{name}");
        assert!(text.template.is_some());
    }
}

/// Puts a folder into a hub's cache as `test/NAME`; returns where it lies.
pub(crate) fn install(hub: &std::path::Path, name: &str) -> PathBuf {
    let repo = hub.join(format!("models--test--{name}"));
    let snapshot = repo.join("snapshots/one");
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(repo.join("refs")).unwrap();
    std::fs::write(repo.join("refs/main"), "one").unwrap();
    for file in std::fs::read_dir(folder(name)).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), snapshot.join(file.file_name())).unwrap();
    }
    snapshot
}

/// The same folder behind the API: found in the cache, loaded, counted for, talked to.
#[tokio::test]
async fn a_model_in_safetensors_is_served() {
    let hub = tempfile::tempdir().unwrap();
    install(hub.path(), "qwen3");
    let daemon = support::Daemon::start(hub.path(), "").await;
    let client = daemon.load("test/qwen3").await;
    let body = serde_json::json!({ "model": "test/qwen3", "max_tokens": 5, "ignore_eos": true,
        "messages": [{ "role": "user", "content": "hello" }] });
    let answer = client.post("/v1/chat/completions", body).await.json();
    assert_eq!(answer["usage"]["completion_tokens"], 5, "{answer}");
    assert_eq!(client.json("/models").await[0]["engine"], "batched");
}
