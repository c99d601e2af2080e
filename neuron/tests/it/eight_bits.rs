//! Weights in eight bits (E4M3) with scales, against the same numbers as floats: what is computed is the same bit for bit
//! once both are quantised alike, whole and in parts, on the CPU and on the emulated GPU.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use neuron::{
    engine::{
        Backend, Batch, Blueprint, Communicator, CpuBackend, GpuBackend, GpuOptions, KvFormat, Loopback,
        Model, Part, Room, Rows, Shard, Weights,
    },
    safetensors::Safetensors,
};
use neuron_kernels::quant::Target;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::references::{folder, reference};

/// Where a scale is, for how much.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Scaled {
    /// transformers' `fp8`: blocks, by config.json's size.
    Blocks,
    /// llm-compressor's: a row.
    Rows,
    /// ModelOpt's: all of it.
    Whole,
}

const BLOCK: usize = 16;

/// Rows, columns and numbers of every tensor; a vector has no rows.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn read(folder: &Path) -> Tensors {
    let mut all = Tensors::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|end| end != "safetensors") {
            continue;
        }
        let bytes = std::fs::read(path).unwrap();
        let len = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
        let header: BTreeMap<String, Value> = serde_json::from_slice(&bytes[8..8 + len]).unwrap();
        for (name, tensor) in header.into_iter().filter(|(name, _)| name != "__metadata__") {
            let at = |end: usize| usize::try_from(tensor["data_offsets"][end].as_u64().unwrap()).unwrap();
            let data = &bytes[8 + len + at(0)..8 + len + at(1)];
            let two = |b: &[u8]| u16::from_le_bytes(b.try_into().unwrap());
            let floats: Vec<f32> = match tensor["dtype"].as_str().unwrap() {
                "F16" => data.chunks_exact(2).map(|b| half::f16::from_bits(two(b)).to_f32()).collect(),
                "BF16" => data.chunks_exact(2).map(|b| half::bf16::from_bits(two(b)).to_f32()).collect(),
                _ => data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
            };
            let dims = tensor["shape"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap() as usize);
            all.insert(name, (dims.collect(), floats));
        }
    }
    all
}

/// By its definition: no table of ours.
fn e4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    let magnitude =
        if exponent == 0 { mantissa * 2f32.powi(-9) } else { (8.0 + mantissa) * 2f32.powi(exponent - 10) };
    if byte & 0x80 == 0 { magnitude } else { -magnitude }
}

fn nearest(value: f32) -> u8 {
    let finite = (0..=255u8).filter(|byte| byte & 0x7f != 0x7f);
    finite.min_by(|a, b| (e4m3(*a) - value).abs().total_cmp(&(e4m3(*b) - value).abs())).unwrap()
}

/// A model's folder with its layers' matrices in eight bits, and one with the numbers that these stand for.
fn twins(name: &str, how: Scaled) -> [TempDir; 2] {
    let (mut eight, mut floats) = (Vec::new(), Vec::new());
    for (name, (dims, values)) in read(&folder(name)) {
        let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let is_matrix = dims.len() == 2 && name.contains("_proj");
        if !is_matrix {
            for list in [&mut eight, &mut floats] {
                list.push((name.clone(), "F32", dims.clone(), bytes(&values)));
            }
            continue;
        }
        let (rows, columns) = (dims[0], dims[1]);
        let [r, c] = match how {
            Scaled::Blocks => [BLOCK, BLOCK],
            Scaled::Rows => [1, columns],
            Scaled::Whole => [rows, columns],
        };
        let (down, across) = (rows.div_ceil(r), columns.div_ceil(c));
        let mut largest = vec![0f32; down * across];
        let block = |at: usize| at / columns / r * across + at % columns / c;
        values.iter().enumerate().for_each(|(at, v)| largest[block(at)] = largest[block(at)].max(v.abs()));
        let scales: Vec<f32> = largest.iter().map(|most| most / 448.0).collect();
        let packed: Vec<u8> =
            values.iter().enumerate().map(|(at, v)| nearest(v / scales[block(at)])).collect();
        let meant: Vec<f32> = packed.iter().enumerate().map(|(at, b)| e4m3(*b) * scales[block(at)]).collect();
        let (end, shape) = match how {
            Scaled::Blocks => ("_scale_inv", vec![down, across]),
            Scaled::Rows => ("_scale", vec![rows, 1]),
            Scaled::Whole => ("_scale", vec![]),
        };
        eight.push((name.clone(), "F8_E4M3", dims.clone(), packed));
        eight.push((format!("{name}{end}"), "F32", shape, bytes(&scales)));
        if how != Scaled::Blocks {
            let input = format!("{}.input_scale", name.strip_suffix(".weight").unwrap());
            eight.push((input, "F32", vec![], bytes(&[1.0])));
        }
        floats.push((name, "F32", dims, bytes(&meant)));
    }
    let method = match how {
        Scaled::Blocks => json!({ "quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK] }),
        Scaled::Rows => json!({ "quant_method": "compressed-tensors", "format": "float-quantized" }),
        Scaled::Whole => json!({ "quant_method": "modelopt", "quant_algo": "FP8" }),
    };
    [write(name, &eight, Some(method)), write(name, &floats, None)]
}

fn write(name: &str, tensors: &[(String, &str, Vec<usize>, Vec<u8>)], method: Option<Value>) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let from = data.len();
        data.extend(bytes);
        header.insert(
            name.clone(),
            json!({ "dtype": dtype, "shape": shape, "data_offsets": [from, data.len()] }),
        );
    }
    let header = Value::Object(header).to_string();
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
    std::fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
    let config = std::fs::read_to_string(folder(name).join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    if let Some(method) = method {
        config["quantization_config"] = method;
    }
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    dir
}

const ROOM: Room = Room { context: 64, cached: 256 };
const CPU: CpuBackend = CpuBackend { threads: 1, kv: KvFormat::F32, sequences: 2 };

fn open(dir: &TempDir, in_situ: Option<Target>) -> (Weights, Blueprint) {
    let files = Arc::new(Safetensors::open(dir.path()).unwrap());
    let plan = Blueprint::from_safetensors(&files).unwrap();
    (Weights::safetensors(files).quantised(in_situ), plan)
}

fn logits(model: &mut dyn Model, prompt: &[u32]) -> Vec<f32> {
    let part = Part { len: prompt.len(), position: 0, blocks: &[5, 2, 9], rows: Rows::Last };
    model.forward(&Batch { tokens: prompt, parts: &[part] }).unwrap().data.to_vec()
}

fn on_cpu(dir: &TempDir, in_situ: Option<Target>, prompt: &[u32]) -> Vec<f32> {
    let (weights, plan) = open(dir, in_situ);
    let mut backend = CPU;
    logits(&mut *backend.load(&weights, &plan, ROOM).unwrap(), prompt)
}

fn on_gpu(dir: &TempDir, in_situ: Option<Target>, prompt: &[u32]) -> Vec<f32> {
    let (weights, plan) = open(dir, in_situ);
    let device = crate::gpu::device(1 << 30, &Arc::default());
    let mut backend = GpuBackend::new(device, CPU, GpuOptions { park_bytes: 0, nccl: false });
    logits(&mut *backend.load(&weights, &plan, ROOM).unwrap(), prompt)
}

/// Of both ranks, who say the same.
fn in_parts(dir: &TempDir, in_situ: Option<Target>, prompt: &[u32]) -> Vec<f32> {
    let run = |rank: usize, communicator: Box<dyn Communicator>| {
        let (weights, plan) = open(dir, in_situ);
        let Blueprint::Decoder(shape) = plan else { panic!() };
        let plan = Blueprint::Decoder(shape.sharded(2).unwrap());
        let mut backend = CPU;
        let shard = Shard { rank, size: 2, communicator };
        logits(&mut *backend.load_shard(&weights, &plan, ROOM, shard).unwrap(), prompt)
    };
    let seen: Vec<_> = std::thread::scope(|scope| {
        let ranks = Loopback::ranks(2, Duration::from_secs(60)).into_iter().enumerate();
        let run = &run;
        let ranks: Vec<_> =
            ranks.map(|(rank, comm)| scope.spawn(move || run(rank, Box::new(comm)))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    assert_eq!(seen[0], seen[1]);
    seen[0].clone()
}

#[test]
fn eight_bits_are_the_numbers_that_they_stand_for() {
    for (name, how) in [
        ("llama", Scaled::Blocks),
        ("llama", Scaled::Whole),
        ("qwen3", Scaled::Rows),
        ("qwen3_moe", Scaled::Blocks),
        ("gemma3", Scaled::Rows),
    ] {
        let [eight, floats] = twins(name, how);
        let prompt = reference(name).prompt;
        for target in [Target::Q8_0, Target::Q4K] {
            let same = [on_cpu(&eight, Some(target), &prompt), on_cpu(&floats, Some(target), &prompt)];
            assert_eq!(same[0], same[1], "{name}, {how:?}, {target:?}");
        }
        // By themselves they are held in the eight bits of GGUF.
        let exact = on_cpu(&floats, None, &prompt);
        let largest = exact.iter().fold(0f32, |most, logit| most.max(logit.abs()));
        let error =
            |got: &[f32]| got.iter().zip(&exact).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest;
        let held = error(&on_cpu(&eight, None, &prompt));
        println!("{name}, {how:?}: {held:.1e}");
        assert!(held > 0.0 && held < 0.03, "{name}, {how:?}: {held}");
        let gpu = error(&on_gpu(&eight, None, &prompt));
        assert!(gpu < 0.03, "{name}, {how:?}: {gpu} on the GPU");
        if name == "llama" {
            let parts = [&eight, &floats].map(|dir| in_parts(dir, Some(Target::Q8_0), &prompt));
            assert_eq!(parts[0], parts[1], "{name}, {how:?}, in parts");
            assert!(error(&in_parts(&eight, None, &prompt)) < 0.03, "{name}, {how:?}, in parts");
        }
    }
}

#[test]
fn scales_that_are_missing_or_do_not_fit_are_refused_by_name() {
    let [eight, _] = twins("llama", Scaled::Rows);
    let path = eight.path().join("model.safetensors");
    let whole = std::fs::read(&path).unwrap();
    let name = "model.layers.1.mlp.down_proj.weight";
    let refused = |change: &dyn Fn(&mut Value)| {
        let len = usize::try_from(u64::from_le_bytes(whole[..8].try_into().unwrap())).unwrap();
        let mut header: Value = serde_json::from_slice(&whole[8..8 + len]).unwrap();
        change(&mut header);
        let header = header.to_string();
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &whole[8 + len..]].concat();
        std::fs::write(&path, bytes).unwrap();
        let files = Arc::new(Safetensors::open(eight.path()).unwrap());
        Blueprint::from_safetensors(&files).unwrap_err().to_string()
    };
    let scales = format!("{name}_scale");
    let said = refused(&|header| {
        let of = header.as_object_mut().unwrap().remove(&scales).unwrap();
        header[format!("{name}_other")] = of;
    });
    assert!(said.contains(name) && said.contains("scale"), "{said}");
    let said = refused(&|header| header[&scales]["shape"] = json!([2, 32]));
    assert!(said.contains(&scales), "{said}");
    let said = refused(&|header| header[&scales]["dtype"] = json!("I32"));
    assert!(said.contains(&scales) && said.contains("I32"), "{said}");
    let said = refused(&|header| header[name]["dtype"] = json!("F8_E5M2"));
    assert!(said.contains(name) && said.contains("F8_E5M2"), "{said}");
}
