//! Against candle-transformers' own encoders, with random weights.

use std::{collections::HashMap, path::Path, sync::Arc};

use candle_core::{DType, Device, Tensor};
use candle_nn::{VarBuilder, VarMap};
use candle_transformers::models as m;
use serde_json::{Value, json};

use super::*;
use crate::{
    engine::{Backend, Blueprint, CpuBackend, KvFormat, Part, Room, Rows, ShapeError, Weights},
    safetensors::Safetensors,
};

const TEXT_LENS: [usize; 4] = [1, 7, 16, 30];
const VOCAB: usize = 50;

/// States of texts by candle, one text at a time: `[tokens, hidden]` each.
type Reference = Box<dyn Fn(&[u32]) -> Vec<f32>>;

/// A file's name for a tensor, by candle's.
type Name = fn(&str) -> String;

fn numbers(model_type: &str) -> Value {
    json!({
        "model_type": model_type, "vocab_size": VOCAB, "max_position_embeddings": 40, "pad_token_id": 1,
        "type_vocab_size": 2, "layer_norm_eps": 1e-12, "hidden_act": "gelu",
        // candle takes the tanh form for this one's gelu, where transformers does not.
        "activation": "relu",
        "num_hidden_layers": 3, "hidden_size": 48, "num_attention_heads": 4, "intermediate_size": 70,
        "n_layers": 3, "dim": 48, "n_heads": 4, "hidden_dim": 70,
        "initializer_range": 0.02, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
        "bos_token_id": 0, "eos_token_id": 2, "use_cache": false, "position_embedding_type": "absolute",
    })
}

fn flat(states: candle_core::Result<Tensor>) -> Vec<f32> {
    states.and_then(|states| states.flatten_all()?.to_vec1()).unwrap()
}

fn ids(tokens: &[u32]) -> Tensor {
    Tensor::new(tokens, &Device::Cpu).and_then(|ids| ids.unsqueeze(0)).unwrap()
}

/// candle's model of that type, its weights made up as it asks for them.
fn reference(config: &Value, weights: &VarMap) -> Reference {
    let vb = VarBuilder::from_varmap(weights, DType::F32, &Device::Cpu);
    let text = config.to_string();
    match config["model_type"].as_str().unwrap() {
        "bert" => {
            let model = m::bert::BertModel::load(vb, &serde_json::from_str(&text).unwrap()).unwrap();
            Box::new(move |tokens| {
                let ids = ids(tokens);
                flat(model.forward(&ids, &ids.zeros_like().unwrap(), None))
            })
        }
        "distilbert" => {
            let model =
                m::distilbert::DistilBertModel::load(vb, &serde_json::from_str(&text).unwrap()).unwrap();
            Box::new(move |tokens| {
                let n = tokens.len();
                flat(model.forward(&ids(tokens), &Tensor::zeros((n, n), DType::U8, &Device::Cpu).unwrap()))
            })
        }
        "xlm-roberta" => {
            let config = serde_json::from_str(&text).unwrap();
            let model = m::xlm_roberta::XLMRobertaModel::new(&config, vb).unwrap();
            Box::new(move |tokens| {
                let ids = ids(tokens);
                let (ones, zeros) = (ids.ones_like().unwrap(), ids.zeros_like().unwrap());
                flat(model.forward(&ids, &ones, &zeros, None, None, None))
            })
        }
        other => panic!("{other}"),
    }
}

/// Random weights, in the files that ours are read from.
fn save(dir: &Path, config: &Value, weights: &VarMap, name: impl Fn(&str) -> String, dtype: DType) {
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let mut tensors = HashMap::new();
    for (candle, var) in weights.data().lock().unwrap().iter() {
        let spread = Tensor::randn(0f32, 0.4, var.shape(), &Device::Cpu).unwrap();
        // What both compute with.
        let stored = spread.to_dtype(dtype).unwrap();
        var.set(&stored.to_dtype(DType::F32).unwrap()).unwrap();
        tensors.insert(name(candle), stored);
    }
    candle_core::safetensors::save(&tensors, dir.join("model.safetensors")).unwrap();
}

fn open(dir: &Path) -> Result<(Arc<Safetensors>, Blueprint), ShapeError> {
    let files = Arc::new(Safetensors::open(dir)?);
    let plan = Blueprint::from_safetensors(&files)?;
    Ok((files, plan))
}

fn load(dir: &Path) -> Box<dyn Model> {
    let (files, plan) = open(dir).unwrap();
    assert!(plan.encodes() && !plan.is_batched());
    let mut backend = CpuBackend { threads: 2, kv: KvFormat::F32, sequences: 2 };
    let room = Room { context: plan.context(0), cached: 0 };
    backend.load(&Weights::safetensors(files), &plan, room).unwrap()
}

fn states(model: &mut dyn Model, texts: &[Vec<u32>]) -> Vec<Vec<f32>> {
    let part = |text: &Vec<u32>| Part { len: text.len(), position: 0, blocks: &[0], rows: Rows::States };
    let parts: Vec<_> = texts.iter().map(part).collect();
    let logits = model.forward(&Batch { tokens: &texts.concat(), parts: &parts }).unwrap();
    let mut rest = logits.states;
    let mut next = |text: &Vec<u32>| {
        let (states, others) = rest.split_at(text.len() * logits.width);
        rest = others;
        states.to_vec()
    };
    texts.iter().map(&mut next).collect()
}

fn texts() -> Vec<Vec<u32>> {
    let token = |n: usize| u32::try_from(2 + n * n * 7 % (VOCAB - 2)).unwrap();
    TEXT_LENS.iter().map(|len| (0..*len).map(|n| token(n + len)).collect()).collect()
}

#[test]
fn states_are_those_of_candle_and_each_texts_own() {
    let old: Name = |name| {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    };
    let within: Name = |name| format!("bert.{name}");
    let cases: [(&str, Name, DType); 6] = [
        ("bert", str::to_owned, DType::F32),
        ("bert", old, DType::F32),
        ("bert", within, DType::F16),
        ("distilbert", str::to_owned, DType::F32),
        ("xlm-roberta", str::to_owned, DType::F32),
        ("xlm-roberta", str::to_owned, DType::BF16),
    ];
    for (model_type, name, dtype) in cases {
        let (dir, config, weights) = (tempfile::tempdir().unwrap(), numbers(model_type), VarMap::new());
        let reference = reference(&config, &weights);
        save(dir.path(), &config, &weights, name, dtype);
        let (mut model, texts) = (load(dir.path()), texts());
        let together = states(&mut *model, &texts);
        for (text, ours) in texts.iter().zip(&together) {
            let expected = reference(text);
            assert_eq!(ours.len(), expected.len());
            for (ours, expected) in ours.iter().zip(&expected) {
                assert!((ours - expected).abs() < 1e-4, "{model_type} {dtype:?}: {ours} and not {expected}");
            }
            assert_eq!(*ours, states(&mut *model, std::slice::from_ref(text))[0], "{model_type} alone");
        }
    }
}

#[test]
fn activations_are_told_apart() {
    let mut all = Vec::new();
    for activation in ["gelu", "gelu_new", "relu"] {
        let (dir, mut config, weights) = (tempfile::tempdir().unwrap(), numbers("bert"), VarMap::new());
        config["hidden_act"] = json!(if activation == "gelu_new" { "gelu" } else { activation });
        let reference = reference(&config, &weights);
        save(dir.path(), &config, &weights, str::to_owned, DType::F32);
        config["hidden_act"] = json!(activation);
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let texts = vec![texts()[2].clone()];
        let (ours, expected) = (states(&mut *load(dir.path()), &texts), reference(&texts[0]));
        let off = ours[0].iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        all.push(off);
    }
    // The tanh form is near its definition, but it is another function.
    assert!(all[0] < 1e-5 && all[2] < 1e-5, "{all:?}");
    assert!(all[1] > 1e-5 && all[1] < 1e-2, "{all:?}");
}

#[test]
fn what_is_wrong_is_said() {
    let check = |model_type: &str, change: &dyn Fn(&mut Value, &mut HashMap<String, Tensor>), words: &str| {
        let (dir, mut config, weights) = (tempfile::tempdir().unwrap(), numbers(model_type), VarMap::new());
        drop(reference(&config, &weights));
        save(dir.path(), &config, &weights, str::to_owned, DType::F32);
        let file = dir.path().join("model.safetensors");
        let mut tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
        change(&mut config, &mut tensors);
        candle_core::safetensors::save(&tensors, &file).unwrap();
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let error = open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(words), "{error:?} has no {words:?}");
    };
    let tensor = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
    check("bert", &|c, _| c["hidden_act"] = json!("swish"), "bert with the activation \"swish\"");
    check("bert", &|c, _| c["position_embedding_type"] = json!("relative_key"), "position_embedding_type");
    check("bert", &|c, _| c["is_decoder"] = json!(true), "is_decoder");
    check("bert", &|c, _| c["num_attention_heads"] = json!(5), "48 dimensions over 5 heads");
    check("bert", &|c, _| c["num_hidden_layers"] = json!(1u64 << 40), "at most 4096");
    check("bert", &|c, _| c["num_hidden_layers"] = json!(0), "num_hidden_layers is 0");
    check("bert", &|c, _| c["vocab_size"] = json!(VOCAB + 1), "embeddings.word_embeddings.weight has the");
    check("xlm-roberta", &|c, _| c["pad_token_id"] = json!(40), "leave none");
    let missing = "encoder.layer.2.output.dense.bias";
    check("bert", &|_, t| drop(t.remove(missing)), missing);
    let other = "encoder.layer.2.output.dense.lora";
    check(
        "bert",
        &|_, t| drop(t.insert(other.to_owned(), tensor(&[2]))),
        "bert with the tensor encoder.layer.2",
    );
    let wrong = "encoder.layer.0.attention.self.key.weight";
    check("bert", &|_, t| drop(t.insert(wrong.to_owned(), tensor(&[48, 47]))), "impossible shape");
}

#[test]
fn tokens_that_no_table_has_are_errors() {
    let (dir, config, weights) = (tempfile::tempdir().unwrap(), numbers("bert"), VarMap::new());
    drop(reference(&config, &weights));
    save(dir.path(), &config, &weights, str::to_owned, DType::F32);
    let mut model = load(dir.path());
    for (tokens, words) in [(vec![VOCAB as u32], "the token 50"), (vec![1; 41], "40 positions")] {
        let parts = [Part { len: tokens.len(), position: 0, blocks: &[0], rows: Rows::States }];
        let error = model.forward(&Batch { tokens: &tokens, parts: &parts }).unwrap_err();
        assert!(error.0.contains(words), "{error}");
    }
}
