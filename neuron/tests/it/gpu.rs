//! The GPU's engine on the emulated device, which runs the very kernels: the same logits as transformers' and as the CPU's.

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use neuron::{
    config::Config,
    device::MakeBackend,
    engine::{
        Backend, Batch, Blueprint, Communicator, CpuBackend, Draw, GpuBackend, GpuOptions, KvFormat,
        Loopback, Model, Part, Room, Rows, Shard, Weights,
    },
    server::Server,
};
use neuron_cuda::{Device, Faults};
use neuron_kernels::quant::Target;
use serde_json::{Value, json};

use crate::{
    references::{self, MODELS, folder, in_chunks, reference},
    support::{self, Client, Gguf, Meta, Runner},
};

/// The emulated one, or this machine's first GPU where `NEURON_TEST_DEVICE` says `cuda`: that counts nothing and fails only
/// by itself.
pub(crate) fn device(bytes: u64, faults: &Arc<Faults>) -> Device {
    if on_gpu() { Device::open(0).unwrap() } else { Device::emulated_with(bytes, Arc::clone(faults)) }
}

fn on_gpu() -> bool {
    let on_gpu = std::env::var("NEURON_TEST_DEVICE").is_ok_and(|device| device == "cuda");
    println!("on {}", if on_gpu { "this machine's first GPU" } else { "the emulated device" });
    on_gpu
}

/// Pinned memory for parked models is one piece, so one of the small ones. Ranks would meet by NCCL where there is one.
const OPTIONS: GpuOptions = GpuOptions { park_bytes: 64 << 20, nccl: true };

const HOST: CpuBackend = CpuBackend { threads: 1, kv: KvFormat::F32, sequences: 4 };

fn load(name: &str, kv: KvFormat, in_situ: Option<Target>) -> (Box<dyn Model>, Arc<Faults>) {
    let files = Arc::new(neuron::safetensors::Safetensors::open(&folder(name)).unwrap());
    let plan = Blueprint::from_safetensors(&files).unwrap();
    let faults = Arc::new(Faults::default());
    let device = device(1 << 30, &faults);
    let mut backend = GpuBackend::new(device, CpuBackend { kv, ..HOST }, OPTIONS);
    let weights = Weights::safetensors(files).quantised(in_situ);
    (backend.load(&weights, &plan, Room { context: 64, cached: 256 }).unwrap(), faults)
}

fn on_cpu(name: &str, target: Target) -> Box<dyn Model> {
    let files = Arc::new(neuron::safetensors::Safetensors::open(&folder(name)).unwrap());
    let plan = Blueprint::from_safetensors(&files).unwrap();
    let weights = Weights::safetensors(files).quantised(Some(target));
    let mut host = HOST;
    host.load(&weights, &plan, Room { context: 64, cached: 256 }).unwrap()
}

/// The files hold 16-bit floats, and so do the activations that they are multiplied with here.
#[test]
fn logits_are_those_of_transformers() {
    for (name, ..) in MODELS {
        let reference = reference(name);
        let len = reference.prompt.len();
        for (kv, bound) in [(KvFormat::F32, 4e-3), (KvFormat::F16, 4e-3), (KvFormat::F8, 0.1)] {
            // Eight bits want heads of a multiple of 16.
            if kv == KvFormat::F8 && matches!(name, "mistral" | "qwen3") {
                continue;
            }
            let (mut model, faults) = load(name, kv, None);
            let model = &mut *model;
            let whole = in_chunks(model, &reference, &[len], None);
            let single = in_chunks(model, &reference, &[1; 10], Some(&[9, 1, 1, 1, 1, 1, 3]));
            let ragged = in_chunks(model, &reference, &[1, 7, 16, 3, 13], Some(&[5, 1, 30, 1, 1]));
            println!("{name}, {kv:?}: {whole:.1e} whole, {single:.1e} one by one, {ragged:.1e} in chunks");
            assert!(whole.max(single).max(ragged) < bound, "{name}, {kv:?}: {whole} {single} {ragged}");
            // Of the steps of one token a sequence all but the first of each size ran out of a recording.
            assert!(on_gpu() || faults.replays.load(SeqCst) == 6, "{name}");
        }
    }
}

/// The same values as on the CPU: what differs is how activations are rounded, which random weights make much of.
#[test]
fn weights_quantised_as_they_are_loaded_are_those_of_the_cpu() {
    for (name, ..) in MODELS {
        let prompt = reference(name).prompt;
        for target in Target::ALL {
            let (gpu, _) = load(name, KvFormat::F32, Some(target));
            let (mut gpu, mut cpu) = (Runner::new(gpu), Runner::new(on_cpu(name, target)));
            // By the tensor cores' form, and by the one in 8 bits.
            let (long, short) = ((0, 0, &prompt[..20]), (0, 20, &prompt[20..23]));
            for piece in [long, short] {
                let (ours, theirs) = (gpu.run(&[piece]).remove(0), cpu.run(&[piece]).remove(0));
                let largest = theirs.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                let off = ours.iter().zip(&theirs).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
                println!("{name}, {target:?}: {:.3}", off / largest);
                assert!(off / largest < 0.1, "{name}, {target:?}: {off} of {largest}");
            }
        }
    }
}

/// Floats of 32 bits are computed with as they are.
#[test]
fn it_computes_what_the_cpu_computes() {
    for architecture in ["llama", "qwen2", "qwen3", "qwen3moe", "gemma3"] {
        let hub = tempfile::tempdir().unwrap();
        Gguf::tiny(architecture).install(hub.path(), "m");
        let path = hub.path().join("models--test--m/snapshots/one/m.F32.gguf");
        let checked = neuron::preflight::check("test/m", &path, None, 0).unwrap();
        let room = Room { context: 256, cached: 1024 };
        let mut on_gpu = GpuBackend::new(device(1 << 30, &Arc::default()), HOST, OPTIONS);
        let mut host = HOST;
        let mut gpu = Runner::new(on_gpu.load(&checked.weights, &checked.plan, room).unwrap());
        let mut cpu = Runner::new(host.load(&checked.weights, &checked.plan, room).unwrap());
        let tokens: Vec<u32> = (0..120).map(|i| (i * 7) % 256).collect();
        let batches: [&[(usize, usize, &[u32])]; 6] = [
            &[(0, 0, &tokens[..100])],
            &[(1, 0, &tokens[..3]), (0, 100, &tokens[100..101]), (2, 0, &tokens[50..51])],
            &[(1, 3, &tokens[3..4]), (0, 101, &tokens[101..102])],
            &[(1, 4, &tokens[4..5]), (0, 102, &tokens[102..103])],
            &[(1, 5, &tokens[5..6]), (0, 103, &tokens[103..104])],
            &[(2, 1, &tokens[..60]), (3, 0, &tokens[..20])],
        ];
        for (n, batch) in batches.into_iter().enumerate() {
            let (ours, theirs) = (gpu.run(batch), cpu.run(batch));
            for (ours, theirs) in ours.iter().flatten().zip(theirs.iter().flatten()) {
                assert!((ours - theirs).abs() < 2e-4, "{architecture}, batch {n}: {ours} for {theirs}");
            }
        }
        // Every row's logits, more than are computed at once; and states.
        let blocks: Vec<u32> = (0..16).collect();
        for rows in [Rows::All, Rows::States] {
            let part = Part { len: 100, position: 0, blocks: &blocks, rows };
            let batch = Batch { tokens: &tokens[..100], parts: &[part] };
            let of = |model: &mut dyn Model| {
                let logits = model.forward(&batch).unwrap();
                [logits.data.to_vec(), logits.states.to_vec()].concat()
            };
            let (ours, theirs) = (of(&mut *gpu.model), of(&mut *cpu.model));
            assert_eq!(ours.len(), theirs.len());
            assert!(!ours.is_empty());
            assert!(ours.iter().zip(&theirs).all(|(a, b)| (a - b).abs() < 3e-4), "{architecture}, {rows:?}");
        }
        // Parts of which none wants logits, and tokens that there are not.
        let none = Part { len: 1, position: 0, blocks: &blocks, rows: Rows::None };
        let forward = |model: &mut dyn Model, token: u32| {
            let parts = [none, Part { rows: Rows::Last, blocks: &[20], ..none }];
            let forward = model.forward(&Batch { tokens: &[token, 5], parts: &parts });
            forward.map(|logits| logits.data.to_vec()).map_err(|e| e.to_string())
        };
        let (ours, theirs) = (forward(&mut *gpu.model, 3).unwrap(), forward(&mut *cpu.model, 3).unwrap());
        assert_eq!(ours.len(), theirs.len());
        assert!(ours.iter().zip(&theirs).all(|(a, b)| (a - b).abs() < 2e-4), "{architecture}");
        assert!(forward(&mut *gpu.model, 9999).unwrap_err().contains("token 9999"));
    }
}

/// Tokens that are drawn on the device are those of its logits; only rows that are wanted leave it.
#[test]
fn tokens_are_drawn_where_the_logits_are() {
    let hub = tempfile::tempdir().unwrap();
    Gguf::tiny("llama").install(hub.path(), "m");
    let path = hub.path().join("models--test--m/snapshots/one/m.F32.gguf");
    let checked = neuron::preflight::check("test/m", &path, None, 0).unwrap();
    let load = || {
        let mut backend = GpuBackend::new(device(1 << 30, &Arc::default()), HOST, OPTIONS);
        backend.load(&checked.weights, &checked.plan, Room { context: 256, cached: 1024 }).unwrap()
    };
    let (mut model, mut plain) = (load(), load());
    assert!(model.limits().draws);
    let cold = Draw { temperature: 0.0, top_p: 1.0, top_k: 0, min_p: 0.0, unit: 0.0 };
    let second = Draw { temperature: 1.0, top_k: 2, unit: 0.999_999, ..cold };
    // Steps that are recorded, after the first of its kind; one with a prompt beside it.
    for (position, lens) in
        [(0, [3, 3, 3, 3]), (3, [1, 1, 1, 1]), (4, [1, 1, 1, 1]), (5, [1, 1, 1, 1]), (6, [1, 30, 1, 1])]
    {
        let blocks: Vec<Vec<u32>> = (0..4).map(|n| (n * 4..n * 4 + 4).collect()).collect();
        let tokens: Vec<u32> =
            (0..lens.iter().sum::<usize>()).map(|n| (n as u32 * 37 + position as u32) % 256).collect();
        let rows = [Rows::Drawn(cold), Rows::Last, Rows::None, Rows::Drawn(second)];
        let part = |n: usize, rows: Rows| Part { len: lens[n], position, blocks: &blocks[n], rows };
        let mixed: Vec<Part<'_>> = (0..4).map(|n| part(n, rows[n])).collect();
        let all: Vec<Part<'_>> = (0..4).map(|n| part(n, Rows::Last)).collect();
        let logits = plain.forward(&Batch { tokens: &tokens, parts: &all }).unwrap();
        assert!(logits.drawn.is_empty());
        let of: Vec<Vec<f32>> = logits.data.chunks(logits.vocab).map(<[f32]>::to_vec).collect();
        let best = |row: &[f32], nth: usize| {
            let mut order: Vec<usize> = (0..row.len()).collect();
            order.sort_by(|a, b| row[*b].total_cmp(&row[*a]).then(a.cmp(b)));
            order[nth] as u32
        };
        let mixed = model.forward(&Batch { tokens: &tokens, parts: &mixed }).unwrap();
        // The two of largest logits are drawn of in the vocabulary's order: the later one comes last.
        let two = [best(&of[3], 0), best(&of[3], 1)];
        assert_eq!(mixed.drawn, [Some(best(&of[0], 0)), two.into_iter().max()], "at {position}");
        assert_eq!(mixed.data, of[1]);
    }
}

/// The same request gives the same text on both: the random numbers are the request's, whoever draws. (Where top_k or top_p
/// select, the CPU lines up what is left by weight and a GPU by the vocabulary: the same shares, in another order.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_gives_the_same_text_as_on_the_cpu() {
    let hub = tempfile::tempdir().unwrap();
    Gguf::tiny("llama").install(hub.path(), "m");
    let (server, gpu, _) = daemon(4 << 30, hub.path(), "max_sequences = 4\nkv_cache = \"f32\"\n").await;
    let on_cpu =
        support::Daemon::start(hub.path(), "[engine]\ndevices = \"cpu\"\nkv_cache = \"f32\"\n").await;
    let cpu = on_cpu.load("test/m").await;
    gpu.post("/models/load", json!({ "model_id": "test/m" })).await;
    for more in [
        json!({ "temperature": 0 }),
        json!({ "temperature": 1, "seed": 5 }),
        // What the device does not draw itself.
        json!({ "temperature": 1, "seed": 7, "presence_penalty": 1.0, "logit_bias": { "65": 3 } }),
        json!({ "temperature": 1, "seed": 8, "logprobs": 2 }),
        json!({ "temperature": 1, "seed": 9, "ignore_eos": true }),
    ] {
        let mut body = json!({ "model": "test/m", "prompt": "hello there", "max_tokens": 12 });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (ours, theirs) =
            tokio::join!(gpu.post("/v1/completions", body.clone()), cpu.post("/v1/completions", body));
        let (ours, theirs) = (ours.json(), theirs.json());
        assert_eq!(ours["choices"][0]["text"], theirs["choices"][0]["text"], "{more}");
        assert_eq!(ours["usage"], theirs["usage"], "{more}");
    }
    server.stop().await;
    on_cpu.stop().await;
}

/// A real model with quantised weights: what it would say next, token by token, is what the CPU would say.
#[test]
fn a_real_model_says_the_same() {
    let path = support::model_file();
    let checked = neuron::preflight::check(support::MODEL, &path, None, 0).unwrap();
    let room = Room { context: 256, cached: 256 };
    let host = CpuBackend { threads: 2, kv: KvFormat::F16, sequences: 4 };
    let mut on_gpu = GpuBackend::new(device(2 << 30, &Arc::default()), host, OPTIONS);
    let mut gpu = Runner::new(on_gpu.load(&checked.weights, &checked.plan, room).unwrap());
    let mut on_cpu = host;
    let mut cpu = Runner::new(on_cpu.load(&checked.weights, &checked.plan, room).unwrap());
    let mut tokens = checked.text.tokenizer.encode("The capital of France is");
    let first = |logits: &[f32]| {
        let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap();
        u32::try_from(best.0).unwrap()
    };
    let mut at = 0;
    for _ in 0..3 {
        let piece = [(0, at, &tokens[at..])];
        let (ours, theirs) = (gpu.run(&piece).remove(0), cpu.run(&piece).remove(0));
        let largest = theirs.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let off = ours.iter().zip(&theirs).fold(0.0f32, |most, (a, b)| most.max((a - b).abs())) / largest;
        // Both round activations to eight bits, each in its own way, thirty layers deep.
        assert!(off < 8e-2, "{off}");
        assert_eq!(first(&ours), first(&theirs));
        at = tokens.len();
        tokens.push(first(&ours));
    }
    let said = checked.text.tokenizer.decode(&tokens[tokens.len() - 3..]);
    assert!(said.contains("Paris"), "{said}");
}

/// Two ranks on two devices: both have the logits of the whole.
#[test]
fn a_model_in_parts_is_the_whole_model() {
    let files = Arc::new(neuron::safetensors::Safetensors::open(&folder("qwen3_moe")).unwrap());
    let Blueprint::Decoder(whole) = Blueprint::from_safetensors(&files).unwrap() else { panic!() };
    let shape = whole.sharded(2).unwrap();
    let reference = reference("qwen3_moe");
    let run = |rank: usize, communicator: Box<dyn Communicator>| {
        let mut backend = GpuBackend::new(device(1 << 30, &Arc::default()), HOST, OPTIONS);
        let plan = Blueprint::Decoder(shape.clone());
        let (room, shard) = (Room { context: 64, cached: 256 }, Shard { rank, size: 2, communicator });
        let weights = Weights::safetensors(Arc::clone(&files));
        let model = &mut *backend.load_shard(&weights, &plan, room, shard).unwrap();
        assert!(model.weights_bytes() < files.bytes());
        // A number of sequences that is recorded by none, of which the ranks want different rows: as many tokens for both.
        let (ids, blocks): (Vec<u32>, Vec<[u32; 1]>) = (0..9).map(|n| (n * 7, [n])).unzip();
        let rows = [Rows::None, Rows::All][1 - rank];
        let parts = blocks.iter().map(|blocks| Part { len: 1, position: 0, blocks, rows });
        let parts: Vec<Part<'_>> = parts.collect();
        let logits = model.forward(&Batch { tokens: &ids, parts: &parts }).unwrap();
        assert_eq!(logits.data.len(), if rank == 0 { 9 * logits.vocab } else { 0 });
        in_chunks(model, &reference, &[1, 1, 1, 7, reference.prompt.len() - 10], Some(&[5, 1, 3]))
    };
    let ranks = Loopback::ranks(2, Duration::from_secs(60));
    std::thread::scope(|scope| {
        let run = &run;
        let ranks = ranks.into_iter().enumerate();
        let ranks: Vec<_> =
            ranks.map(|(rank, comm)| scope.spawn(move || run(rank, Box::new(comm)))).collect();
        for rank in ranks {
            let error = rank.join().unwrap();
            assert!(error < 4e-3, "{error}");
        }
    });
}

/// A daemon whose first device is an emulated GPU of so many bytes.
async fn daemon(bytes: u64, hub: &std::path::Path, more: &str) -> (Server, Client, Arc<Faults>) {
    let text = format!(
        "[sources.huggingface]\ncache_dir = {hub:?}\noffline = true\n[neuron]\nlisten = \"127.0.0.1:0\"\n[engine]\n{more}"
    );
    let config = Config::parse(&text, "test.toml", &|_| None).unwrap();
    let faults = Arc::new(Faults::default());
    let seen = Arc::clone(&faults);
    let make = move |_: usize, host: CpuBackend| -> MakeBackend {
        let faults = Arc::clone(&faults);
        Arc::new(move || {
            // After it was lost it is another one.
            faults.lost.store(false, SeqCst);
            let device = Device::emulated_with(bytes, Arc::clone(&faults));
            Ok(Box::new(GpuBackend::new(device, host, OPTIONS)) as Box<dyn Backend>)
        })
    };
    let server = Server::start_with(config, &make).await.unwrap();
    let client = Client::new(server.address());
    (server, client, seen)
}

async fn free_mb(client: &Client) -> u64 {
    client.json("/health").await["devices"][0]["vram_free_mb"].as_u64().unwrap()
}

fn ask(model: &str, stream: bool) -> Value {
    json!({ "model": model, "max_tokens": 6, "ignore_eos": true, "temperature": 0, "stream": stream,
        "messages": [{ "role": "user", "content": "hello" }] })
}

/// Everything that the daemon does with a device, on one with memory of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_serves_from_a_gpus_memory() {
    let hub = tempfile::tempdir().unwrap();
    for name in ["qwen3", "gemma3", "falcon"] {
        references::install(hub.path(), name);
    }
    let (server, client, _) = daemon(4 << 30, hub.path(), "max_sequences = 4\n").await;
    assert_eq!(free_mb(&client).await, 4096);
    let whole = client.json("/discovery").await;
    assert_eq!(whole["devices"][0]["vram_total_mb"], 4096, "{whole}");

    let report = client.post("/models/preflight", json!({ "model_id": "test/qwen3" })).await.json();
    let required = report["required_mb"].as_u64().unwrap();
    let text = report["text_mb"].as_u64().unwrap();
    let parts: u64 =
        ["weights_mb", "cache_mb", "activations_mb"].map(|part| report[part].as_u64().unwrap()).iter().sum();
    // The text side is not in the GPU's memory, and more is to stay free there.
    assert_eq!(required, parts + 1024, "{report} {text}");
    for model in ["test/qwen3", "test/gemma3"] {
        let before = free_mb(&client).await;
        let report = client.post("/models/preflight", json!({ "model_id": model })).await.json();
        let estimate = report["required_mb"].as_u64().unwrap() - 1024;
        let loaded = client.post("/models/load", json!({ "model_id": model })).await;
        assert_eq!(loaded.status.as_u16(), 200, "{}", loaded.text());
        let taken = before - free_mb(&client).await;
        // Never under what the load takes; small buffers are rounded up here as a driver rounds them.
        assert!(taken <= estimate && estimate <= taken + taken / 10 + 8, "{model}: {taken} of {estimate}");
    }
    // One that candle computes runs on the host, and takes nothing here.
    let before = free_mb(&client).await;
    assert_eq!(client.post("/models/load", json!({ "model_id": "test/falcon" })).await.status.as_u16(), 200);
    assert_eq!(free_mb(&client).await, before);

    let mut said = Vec::new();
    for _ in 0..2 {
        let both = tokio::join!(
            client.post("/v1/chat/completions", ask("test/qwen3", false)),
            client.post("/v1/chat/completions", ask("test/gemma3", false)),
        );
        for answer in [both.0, both.1] {
            let answer = answer.json();
            assert_eq!(answer["usage"]["completion_tokens"], 6, "{answer}");
            said.push(answer["choices"][0]["message"]["content"].clone());
        }
    }
    assert_eq!(said[..2], said[2..]);
    let streamed = client.post("/v1/chat/completions", ask("test/qwen3", true)).await;
    assert!(streamed.text().ends_with("data: [DONE]\n\n"), "{}", streamed.text());
    assert_eq!(client.post("/v1/chat/completions", ask("test/falcon", false)).await.status.as_u16(), 200);

    for model in ["test/qwen3", "test/gemma3", "test/falcon"] {
        let unloaded = client.post("/models/unload", json!({ "model_id": model })).await;
        assert_eq!(unloaded.status.as_u16(), 200, "{}", unloaded.text());
    }
    assert_eq!(free_mb(&client).await, 4096, "all of it is back");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_gpu_cannot_hold_or_compute_is_refused_before_its_memory_is_touched() {
    let hub = tempfile::tempdir().unwrap();
    references::install(hub.path(), "qwen3");
    // The same matrices as heads of 4 dimensions.
    let mut odd = Gguf::tiny("llama");
    for (key, value) in &mut odd.metadata {
        if let ("llama.attention.head_count" | "llama.attention.head_count_kv", Meta::U32(count)) =
            (key.as_str(), value)
        {
            *count *= 4;
        }
    }
    odd.install(hub.path(), "odd");
    let (server, client, faults) = daemon(1025 << 20, hub.path(), "").await;
    let refused = client.post("/models/load", json!({ "model_id": "test/qwen3" })).await;
    let error = refused.json();
    let error = &error["error"];
    assert_eq!((refused.status.as_u16(), &error["kind"]), (507, &json!("insufficient_vram")), "{error}");
    assert_eq!(error["free_mb"], 1025, "{error}");
    let refused = client.post("/models/load", json!({ "model_id": "test/odd" })).await;
    let error = refused.json();
    let error = &error["error"];
    assert_eq!((refused.status.as_u16(), &error["kind"]), (422, &json!("unsupported_on_device")), "{error}");
    assert!(error["cause"].as_str().unwrap().contains("heads have 4 dimensions"), "{error}");
    assert_eq!((free_mb(&client).await, faults.launches.load(SeqCst)), (1025, 0));
    server.stop().await;
}

/// An illegal address ends what runs on the device, and the device is there again, empty, a moment later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gpu_that_is_lost_comes_back_empty() {
    let hub = tempfile::tempdir().unwrap();
    references::install(hub.path(), "qwen3");
    let (server, client, faults) = daemon(4 << 30, hub.path(), "max_sequences = 4\n").await;
    for round in 0..2 {
        let loaded = client.post("/models/load", json!({ "model_id": "test/qwen3" })).await;
        assert_eq!(loaded.status.as_u16(), 200, "round {round}: {}", loaded.text());
        assert_eq!(client.post("/v1/chat/completions", ask("test/qwen3", false)).await.status.as_u16(), 200);
        faults.lost.store(true, SeqCst);
        let lost = client.post("/v1/chat/completions", ask("test/qwen3", false)).await;
        assert_eq!(lost.status.as_u16(), 503, "{}", lost.text());
        assert!(lost.text().contains("illegal memory access"), "{}", lost.text());
        let up = async {
            while client.json("/health").await["devices"][0].get("state").is_some() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), up).await.unwrap();
        assert_eq!(free_mb(&client).await, 4096);
    }
    server.stop().await;
}

async fn post(client: &Client, path: &str, model: &str) -> (u16, Value) {
    let reply = client.post(path, json!({ "model_id": model })).await;
    (reply.status.as_u16(), reply.json())
}

async fn status_of(client: &Client, model: &str) -> Option<String> {
    let models = client.json("/models").await;
    let found = models.as_array().unwrap().iter().find(|info| info["id"] == model)?;
    Some(found["status"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parked_model_takes_no_memory_of_the_gpu_and_is_back_as_it_was() {
    let hub = tempfile::tempdir().unwrap();
    for name in ["qwen3", "gemma3", "falcon"] {
        references::install(hub.path(), name);
    }
    let (server, client, faults) = daemon(4 << 30, hub.path(), "max_sequences = 4\n").await;
    let features = client.json("/discovery").await["features"].clone();
    assert!(features.as_array().unwrap().contains(&json!("park")), "{features}");
    for model in ["test/qwen3", "test/gemma3", "test/falcon"] {
        assert_eq!(post(&client, "/models/load", model).await.0, 200);
    }
    let loaded = free_mb(&client).await;
    let said = client.post("/v1/chat/completions", ask("test/qwen3", false)).await.json();
    let said = said["choices"][0]["message"]["content"].clone();

    // Twice is as good as once.
    for _ in 0..2 {
        assert_eq!(post(&client, "/models/park", "test/qwen3").await, (200, json!({ "status": "parked" })));
    }
    assert_eq!(status_of(&client, "test/qwen3").await.as_deref(), Some("parked"));
    assert!(free_mb(&client).await > loaded, "its memory is free");
    assert_eq!(client.post("/v1/chat/completions", ask("test/qwen3", false)).await.status.as_u16(), 404);
    assert_eq!(post(&client, "/models/wake", "test/qwen3").await, (200, json!({ "status": "loaded" })));
    assert_eq!(free_mb(&client).await, loaded);
    let again = client.post("/v1/chat/completions", ask("test/qwen3", false)).await.json();
    assert_eq!(again["choices"][0]["message"]["content"], said, "{again}");
    // What the cache held is gone with its memory.
    assert_eq!(again["usage"]["prompt_tokens_details"]["cached_tokens"], 0, "{again}");

    // A load of a parked one wakes it; conditions are those of an unload.
    post(&client, "/models/park", "test/qwen3").await;
    assert_eq!(post(&client, "/models/load", "test/qwen3").await.0, 200);
    assert_eq!(status_of(&client, "test/qwen3").await.as_deref(), Some("loaded"));
    let unmet = json!({ "model_id": "test/qwen3", "mode": "if_idle", "min_idle_ms": 600_000 });
    assert_eq!(client.post("/models/park", unmet).await.status.as_u16(), 409);

    // There is room for one: the other goes.
    post(&client, "/models/park", "test/qwen3").await;
    assert_eq!(post(&client, "/models/park", "test/gemma3").await.0, 200);
    assert_eq!(status_of(&client, "test/qwen3").await, None);
    assert_eq!(status_of(&client, "test/gemma3").await.as_deref(), Some("parked"));
    // What the host computes stays where it is.
    let (status, error) = post(&client, "/models/park", "test/falcon").await;
    assert!(status >= 400 && error.to_string().contains("cannot be parked"), "{status} {error}");
    assert_eq!(status_of(&client, "test/falcon").await.as_deref(), Some("loaded"));
    assert_eq!(client.post("/v1/chat/completions", ask("test/falcon", false)).await.status.as_u16(), 200);

    assert_eq!(post(&client, "/models/unload", "test/gemma3").await.0, 200);
    for path in ["/models/park", "/models/wake", "/models/unload"] {
        assert_eq!(post(&client, path, "test/gemma3").await.0, 404, "{path}");
    }

    // With its device goes what is parked for it.
    assert_eq!(post(&client, "/models/load", "test/qwen3").await.0, 200);
    assert_eq!(post(&client, "/models/load", "test/gemma3").await.0, 200);
    assert_eq!(post(&client, "/models/park", "test/gemma3").await.0, 200);
    faults.lost.store(true, SeqCst);
    assert_eq!(client.post("/v1/chat/completions", ask("test/qwen3", false)).await.status.as_u16(), 503);
    let gone = async {
        while status_of(&client, "test/gemma3").await.is_some() || free_mb(&client).await != 4096 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), gone).await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_finds_no_room_stays_parked() {
    let hub = tempfile::tempdir().unwrap();
    references::install(hub.path(), "qwen3");
    references::install(hub.path(), "gemma3");
    // Room for one of them and the margin, and not for both: windows as short as they are, nothing can be cut.
    let more = "max_sequences = 4\nmax_context = 64\nkv_cache_mb = 1\n";
    let (server, client, _) = daemon(4 << 30, hub.path(), more).await;
    let report = client.post("/models/preflight", json!({ "model_id": "test/qwen3" })).await.json();
    server.stop().await;
    let required = report["required_mb"].as_u64().unwrap();
    let (server, client, _) = daemon((required + 2) << 20, hub.path(), more).await;
    assert_eq!(post(&client, "/models/load", "test/qwen3").await.0, 200);
    assert_eq!(post(&client, "/models/park", "test/qwen3").await.0, 200);
    assert_eq!(post(&client, "/models/load", "test/gemma3").await.0, 200);
    let (status, error) = post(&client, "/models/wake", "test/qwen3").await;
    assert_eq!((status, &error["error"]["kind"]), (507, &json!("insufficient_vram")), "{error}");
    assert_eq!(status_of(&client, "test/qwen3").await.as_deref(), Some("parked"));
    assert_eq!(post(&client, "/models/unload", "test/gemma3").await.0, 200);
    assert_eq!(post(&client, "/models/wake", "test/qwen3").await.0, 200);
    assert_eq!(client.post("/v1/chat/completions", ask("test/qwen3", false)).await.status.as_u16(), 200);
    server.stop().await;
}

/// Nothing is left of any, however often they come and go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_memory_is_back_after_every_unload() {
    let hub = tempfile::tempdir().unwrap();
    references::install(hub.path(), "qwen3");
    let (server, client, _) = daemon(4 << 30, hub.path(), "max_sequences = 4\n").await;
    for round in 0..40 {
        assert_eq!(post(&client, "/models/load", "test/qwen3").await.0, 200);
        if round % 8 == 0 {
            let said = client.post("/v1/chat/completions", ask("test/qwen3", false)).await;
            assert_eq!(said.status.as_u16(), 200);
        }
        if round % 3 == 0 {
            assert_eq!(post(&client, "/models/park", "test/qwen3").await.0, 200);
        }
        assert_eq!(post(&client, "/models/unload", "test/qwen3").await.0, 200);
        assert_eq!(free_mb(&client).await, 4096, "round {round}");
    }
    server.stop().await;
}

/// Weights are parked for the GPU that they were on: a load that names another has them read anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parked_model_goes_where_a_load_says() {
    let hub = tempfile::tempdir().unwrap();
    references::install(hub.path(), "qwen3");
    let (server, client, _) = daemon(4 << 30, hub.path(), "cpu_devices = 2\nmax_sequences = 4\n").await;
    let on = |device: u32| json!({ "model_id": "test/qwen3", "devices": [device] });
    assert_eq!(client.post("/models/load", on(0)).await.status.as_u16(), 200);
    assert_eq!(post(&client, "/models/park", "test/qwen3").await.0, 200);
    assert_eq!(client.post("/models/load", on(0)).await.status.as_u16(), 200);
    let devices = async || client.json("/models").await[0]["devices"].clone();
    assert_eq!(devices().await, json!([0]));
    let generation = client.json("/models").await[0]["generation"].clone();
    assert_eq!(generation, json!(2), "one that is back is another than it was");
    assert_eq!(post(&client, "/models/park", "test/qwen3").await.0, 200);
    assert_eq!(client.post("/models/load", on(1)).await.status.as_u16(), 200);
    assert_eq!(
        (devices().await, status_of(&client, "test/qwen3").await.as_deref()),
        (json!([1]), Some("loaded"))
    );
    assert_eq!(free_mb(&client).await, 4096, "nothing is left on the first");
    assert_eq!(client.post("/v1/chat/completions", ask("test/qwen3", false)).await.status.as_u16(), 200);
    server.stop().await;
}
