use std::{fs, path::Path};

use serde_json::{Map, Value, json};

use super::*;
use crate::engine::shape::{Rope, Scaling, Window};

/// A configuration with what every architecture needs, of four layers of eight dimensions.
fn config(model_type: &str) -> Value {
    let mut config = json!({
        "model_type": model_type, "hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 4,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "vocab_size": 5,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
    });
    if model_type == "qwen3_moe" {
        merge(&mut config, json!({ "num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 2 }));
    }
    config
}

/// Sets keys; those set to "absent" go.
fn merge(config: &mut Value, changes: Value) {
    let map = config.as_object_mut().unwrap();
    for (key, value) in changes.as_object().unwrap() {
        match value.as_str() {
            Some("absent") => drop(map.remove(key)),
            _ => drop(map.insert(key.clone(), value.clone())),
        }
    }
}

fn write(folder: &Path, config: &Value, tensors: &[(String, Vec<u64>)], dtype: &str) {
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let (mut header, mut at) = (Map::new(), 0);
    for (name, dims) in tensors {
        let end = at + dims.iter().product::<u64>() * 2;
        header.insert(name.clone(), json!({ "dtype": dtype, "shape": dims, "data_offsets": [at, end] }));
        at = end;
    }
    let header = Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + usize::try_from(at).unwrap(), 0);
    fs::write(folder.join("model.safetensors"), bytes).unwrap();
}

/// The tensors of a dense model without biases, as the library names them.
fn tensors(norms: &[&str]) -> Vec<(String, Vec<u64>)> {
    let mut all =
        vec![("model.embed_tokens.weight".to_owned(), vec![5, 8]), ("model.norm.weight".to_owned(), vec![8])];
    for layer in 0..4 {
        let mut add = |part: &str, dims: &[u64]| {
            all.push((format!("model.layers.{layer}.{part}.weight"), dims.to_vec()))
        };
        add("self_attn.q_proj", &[8, 8]);
        add("self_attn.k_proj", &[4, 8]);
        add("self_attn.v_proj", &[4, 8]);
        add("self_attn.o_proj", &[8, 8]);
        add("mlp.gate_proj", &[6, 8]);
        add("mlp.up_proj", &[6, 8]);
        add("mlp.down_proj", &[8, 6]);
        norms.iter().for_each(|norm| add(norm, if norm.contains("self_attn") { &[4] } else { &[8] }));
    }
    all
}

const NORMS: [&str; 2] = ["input_layernorm", "post_attention_layernorm"];

fn shape_of(config: &Value, tensors: &[(String, Vec<u64>)], dtype: &str) -> Result<Shape, ShapeError> {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), config, tensors, dtype);
    Shape::from_safetensors(&Safetensors::open(dir.path()).unwrap())
}

/// A part of the shape that does not depend on tensors.
fn read<T>(
    model_type: &str,
    changes: Value,
    part: impl Fn(&Config<'_>) -> Result<T, ShapeError>,
) -> Result<T, String> {
    let mut value = config(model_type);
    merge(&mut value, changes);
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &value, &[], "F16");
    let files = Safetensors::open(dir.path()).unwrap();
    Config::new(files.root()).and_then(|config| part(&config)).map_err(|e| e.to_string())
}

#[test]
fn a_model_is_described_and_its_tensors_are_checked() {
    let with_head = || {
        let mut all = tensors(&NORMS);
        all.push(("lm_head.weight".to_owned(), vec![5, 8]));
        all.push(("model.layers.0.self_attn.rotary_emb.inv_freq".to_owned(), vec![2]));
        all
    };
    let shape = shape_of(&config("llama"), &with_head(), "BF16").unwrap();
    assert_eq!((shape.layers, shape.heads, shape.kv_heads, shape.head_dim, shape.vocab), (4, 2, 1, 4, 5));
    assert_eq!((shape.tied, shape.window, shape.attention_scale), (false, None, 0.5));

    let check = |tensors: &[(String, Vec<u64>)], dtype: &str, words: &str| {
        let error = shape_of(&config("llama"), tensors, dtype).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    check(&tensors(&NORMS), "F16", "tensor lm_head.weight is missing");
    check(&tensors(&NORMS[..1]), "F16", "layers.0.post_attention_layernorm.weight is missing");
    let without = |name: &str| with_head().into_iter().filter(|(known, _)| known != name).collect::<Vec<_>>();
    check(
        &without("model.layers.3.mlp.up_proj.weight"),
        "F16",
        "model.layers.3.mlp.up_proj.weight is missing",
    );
    let mut other = with_head();
    other[2].1 = vec![8, 4];
    check(&other, "F16", "model.layers.0.self_attn.q_proj.weight has the impossible shape [8, 4]");
    check(&with_head(), "I16", "is I16, which neuron cannot compute with");
    let mut biased = with_head();
    biased.push(("model.layers.2.self_attn.q_proj.bias".to_owned(), vec![8]));
    check(&biased, "F16", "llama with the tensor model.layers.2.self_attn.q_proj.bias is not supported");
}

#[test]
fn gemma_within_a_model_that_sees_is_gemma() {
    let norms = [
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
        "self_attn.q_norm",
        "self_attn.k_norm",
    ];
    let inner = |name: &str| name.replace("model.", "language_model.model.");
    let mut all: Vec<_> = tensors(&norms).into_iter().map(|(name, dims)| (inner(&name), dims)).collect();
    all.push(("language_model.lm_head.weight".to_owned(), vec![5, 8]));
    all.push(("vision_tower.vision_model.post_layernorm.bias".to_owned(), vec![3]));
    all.push(("multi_modal_projector.mm_input_projection_weight".to_owned(), vec![3]));
    let mut text = config("gemma3_text");
    merge(
        &mut text,
        json!({ "rope_scaling": { "factor": 8.0, "rope_type": "linear" }, "sliding_window": 16 }),
    );
    merge(&mut text, json!({ "rms_norm_eps": "absent", "max_position_embeddings": "absent" }));
    let shape = shape_of(&json!({ "model_type": "gemma3", "text_config": text }), &all, "BF16").unwrap();
    let rope = Rope { base: 1e6, scaling: Scaling::Linear(8.0), local_base: Some(1e4) };
    assert_eq!((shape.rope, shape.window), (rope, Some(Window { tokens: 16, all_every: 6 })));
    assert_eq!((shape.tied, shape.trained_context, shape.epsilon), (true, 131_072, 1e-6));
    assert_eq!((shape.attention_scale, shape.embedding_scale), (1.0 / 16.0, 8f32.sqrt()));
}

#[test]
fn positions_turn_as_either_way_of_saying_it_says() {
    let check = |model_type: &str, changes: Value, expected: Result<(f32, Scaling, Option<f32>), &str>| {
        let got = read(model_type, changes.clone(), |config| config.rope());
        match expected {
            Ok((base, scaling, local_base)) => {
                assert_eq!(got, Ok(Rope { base, scaling, local_base }), "{changes}")
            }
            Err(words) => assert!(got.clone().unwrap_err().contains(words), "{changes}: {got:?}"),
        }
    };
    check("llama", json!({}), Ok((1e4, Scaling::None, None)));
    check("llama", json!({ "rope_theta": 5e5, "rope_scaling": null }), Ok((5e5, Scaling::None, None)));
    check("llama", json!({ "rope_theta": 500_000 }), Ok((5e5, Scaling::None, None)));
    let linear = json!({ "type": "linear", "factor": 2 });
    check("llama", json!({ "rope_scaling": linear }), Ok((1e4, Scaling::Linear(2.0), None)));
    let mut llama3 = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    });
    let scaling = Scaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192.0 };
    check("llama", json!({ "rope_scaling": llama3, "rope_theta": 5e5 }), Ok((5e5, scaling.clone(), None)));
    llama3["rope_theta"] = json!(5e5);
    check("llama", json!({ "rope_parameters": llama3 }), Ok((5e5, scaling, None)));
    llama3["low_freq_factor"] = json!(4.0);
    check("llama", json!({ "rope_parameters": llama3 }), Err("low_freq_factor is 4"));
    let yarn = json!({ "rope_type": "yarn", "factor": 4.0 });
    check("qwen3", json!({ "rope_scaling": yarn }), Err("qwen3 with rope scaling \"yarn\" is not supported"));
    check("llama", json!({ "rope_scaling": { "type": "linear" } }), Err("rope_scaling.factor is missing"));
    check(
        "llama",
        json!({ "rope_scaling": { "type": "linear", "factor": 0 } }),
        Err("rope_scaling.factor is not a number"),
    );
    check("llama", json!({ "rope_scaling": 1 }), Err("rope_scaling is not an object"));
    check("llama", json!({ "rope_theta": -1.0 }), Err("rope_theta is not a number above zero"));
    check("llama", json!({ "rope_theta": 1e300 }), Err("rope_theta is not a number above zero"));
    check("llama", json!({ "rope_parameters": { "partial_rotary_factor": 0.5 } }), Err("partly rotated"));

    check("gemma3_text", json!({}), Ok((1e6, Scaling::None, Some(1e4))));
    check(
        "gemma3_text",
        json!({ "rope_theta": 2.0, "rope_local_base_freq": 3.0 }),
        Ok((2.0, Scaling::None, Some(3.0))),
    );
    let nested = |local: Value| {
        json!({ "rope_parameters": {
        "full_attention": { "rope_type": "linear", "factor": 8.0, "rope_theta": 5.0 }, "sliding_attention": local,
    } })
    };
    check("gemma3_text", nested(json!({ "rope_theta": 7.0 })), Ok((5.0, Scaling::Linear(8.0), Some(7.0))));
    check(
        "gemma3_text",
        nested(json!({ "rope_type": "linear", "factor": 2.0 })),
        Err("scaled positions in layers"),
    );
}

#[test]
fn windows_are_where_the_architecture_has_them() {
    let check = |model_type: &str, changes: Value, expected: Result<Option<(u64, u64)>, &str>| {
        let got = read(model_type, changes.clone(), |config| config.window(4));
        match expected {
            Ok(window) => {
                let window = window.map(|(tokens, all_every)| Window { tokens, all_every });
                assert_eq!(got, Ok(window), "{model_type} {changes}");
            }
            Err(words) => assert!(got.clone().unwrap_err().contains(words), "{changes}: {got:?}"),
        }
    };
    check("llama", json!({ "sliding_window": 8 }), Ok(None));
    check("mistral", json!({ "sliding_window": 8 }), Ok(Some((8, 0))));
    check("mistral", json!({ "sliding_window": null }), Ok(None));
    check("mistral", json!({}), Ok(Some((4096, 0))));
    check("mistral", json!({ "sliding_window": 0 }), Err("sliding_window is 0"));
    check("mistral", json!({ "sliding_window": "8" }), Err("sliding_window is not a whole number"));
    check("qwen2", json!({ "sliding_window": 8, "use_sliding_window": false }), Ok(None));
    check(
        "qwen3",
        json!({ "sliding_window": 8, "use_sliding_window": true }),
        Err("qwen3 with sliding windows"),
    );
    let (full, sliding) = ("full_attention", "sliding_attention");
    check("qwen2", json!({ "layer_types": [full, full, full, full] }), Ok(None));
    check("qwen2", json!({ "layer_types": [full, full, full, sliding] }), Err("sliding windows"));
    let gemma = |key: &str, value: Value| json!({ "sliding_window": 8, key: value });
    check("gemma3_text", gemma("sliding_window_pattern", json!(2)), Ok(Some((8, 2))));
    check("gemma3_text", gemma("_sliding_window_pattern", json!(3)), Ok(Some((8, 3))));
    check("gemma3_text", gemma("sliding_window_pattern", json!(0)), Err("sliding_window_pattern is 0"));
    check("gemma3_text", gemma("layer_types", json!([sliding, full, sliding, full])), Ok(Some((8, 2))));
    check("gemma3_text", gemma("layer_types", json!([full, full, full, full])), Ok(Some((8, 1))));
    check("gemma3_text", gemma("layer_types", json!([sliding, sliding, sliding, sliding])), Ok(Some((8, 0))));
    check(
        "gemma3_text",
        gemma("layer_types", json!([full, sliding, full, sliding])),
        Err("order of layer_types"),
    );
    check(
        "gemma3_text",
        gemma("layer_types", json!([sliding, full, sliding, "chunked"])),
        Err("order of layer_types"),
    );
    check("gemma3_text", gemma("layer_types", json!([full])), Err("4 layers, but layer_types for 1"));
    check("gemma3_text", json!({ "sliding_window": null }), Err("no sliding_window"));
}

#[test]
fn variants_that_the_forward_does_not_know_are_refused_by_name() {
    let check = |model_type: &str, changes: Value, words: &str| {
        let got = read(model_type, changes.clone(), |config| config.refuse_variants());
        assert!(got.clone().unwrap_err().contains(words), "{changes}: {got:?}");
    };
    check("llama", json!({ "attention_bias": true }), "llama with attention_bias is not supported");
    check("llama", json!({ "mlp_bias": true }), "mlp_bias");
    check("llama", json!({ "mlp_bias": 1 }), "mlp_bias is not true or false");
    check("llama", json!({ "hidden_act": "gelu" }), "the activation \"gelu\"");
    check("gemma3_text", json!({ "hidden_activation": "silu" }), "the activation \"silu\"");
    check("gemma3_text", json!({ "final_logit_softcapping": 30.0 }), "final_logit_softcapping");
    check("gemma3_text", json!({ "use_bidirectional_attention": true }), "use_bidirectional_attention");
    check("qwen3", json!({ "quantization_config": { "quant_method": "awq" } }), "weights quantized by awq");
    for model_type in ["llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "gemma3_text"] {
        assert_eq!(read(model_type, json!({}), |config| config.refuse_variants()), Ok(()));
    }
    check("mamba", json!({}), "mamba is not supported");
    check("llama", json!({ "model_type": "absent" }), "model_type is missing");
}

#[test]
fn numbers_that_are_not_told_are_the_librarys() {
    let llama = |changes| read("llama", changes, |config| Ok((config.head_dim(8, 2)?, config.kv_heads(2)?)));
    assert_eq!(llama(json!({ "head_dim": null, "num_key_value_heads": null })), Ok((4, 2)));
    assert_eq!(llama(json!({ "head_dim": "absent", "num_key_value_heads": "absent" })), Ok((4, 2)));
    let qwen = |changes| read("qwen2", changes, |config| config.kv_heads(2));
    assert_eq!(
        qwen(json!({ "num_key_value_heads": "absent" })),
        Err("num_key_value_heads is missing".into())
    );
    let head_dim =
        |model_type| read(model_type, json!({ "head_dim": "absent" }), |config| config.head_dim(8, 2));
    assert_eq!((head_dim("qwen3"), head_dim("qwen3_moe"), head_dim("gemma3")), (Ok(128), Ok(4), Ok(256)));
    let uneven = read("llama", json!({ "head_dim": null }), |config| config.head_dim(8, 3));
    assert!(uneven.unwrap_err().contains("8 dimensions over 3 heads"));
    let tied = |model_type, changes| read(model_type, changes, |config| config.tied());
    assert_eq!((tied("llama", json!({})), tied("gemma3_text", json!({}))), (Ok(false), Ok(true)));
    assert_eq!(tied("qwen2", json!({ "tie_word_embeddings": true })), Ok(true));
    let missing = read("llama", json!({ "vocab_size": "absent" }), |config| config.number("vocab_size"));
    assert_eq!(missing, Err("vocab_size is missing".into()));
    let wrong = read("llama", json!({ "vocab_size": -1 }), |config| config.number("vocab_size"));
    assert_eq!(wrong, Err("vocab_size is not a whole number".into()));
}

#[test]
fn experts_are_in_every_layer_or_it_is_not_supported() {
    let moe = |changes| read("qwen3_moe", changes, |config| config.experts());
    let experts = |normalized| Ok(Some(Experts { count: 3, used: 2, feed_forward: 2, normalized }));
    assert_eq!(moe(json!({})), experts(false));
    assert_eq!(
        moe(json!({ "norm_topk_prob": true, "mlp_only_layers": [], "decoder_sparse_step": 1 })),
        experts(true)
    );
    assert_eq!(moe(json!({ "num_experts": "absent", "num_local_experts": 3 })), experts(false));
    for changes in [json!({ "mlp_only_layers": [0] }), json!({ "decoder_sparse_step": 2 })] {
        assert!(moe(changes).unwrap_err().contains("layers without experts"));
    }
    assert_eq!(moe(json!({ "num_experts": "absent" })), Err("num_experts is missing".into()));
}
