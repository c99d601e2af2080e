//! Models that run one conversation at a time, behind the API: told apart, in turn, and refused in time.

use std::path::Path;

use neuron_protocol::LoadError;
use serde_json::{Map, Value, json};

use crate::{
    references::install,
    support::{Client, Daemon},
};

fn question(model: &str, words: &str) -> Value {
    json!({ "model": model, "max_tokens": 12, "temperature": 0.8, "seed": 7, "ignore_eos": true,
        "messages": [{ "role": "user", "content": words }] })
}

async fn answer(client: &Client, model: &str, words: &str) -> Value {
    let reply = client.post("/v1/chat/completions", question(model, words)).await;
    assert_eq!(reply.status, 200, "{:?}", reply.body);
    reply.json()["choices"][0]["message"]["content"].clone()
}

#[tokio::test]
async fn conversations_take_turns_and_know_nothing_of_each_other() {
    let hub = tempfile::tempdir().unwrap();
    // One that forgets, one that is built anew, one with a recurrent state.
    for model in ["gemma2", "mixtral", "mamba2"] {
        install(hub.path(), model);
        let id = &format!("test/{model}");
        let daemon = Daemon::start(hub.path(), "").await;
        let client = &daemon.load(id).await;
        let models = client.json("/models").await;
        assert_eq!(models[0]["engine"], "single");
        assert_eq!(client.json("/health").await["models"][0]["max_in_flight"], 1);
        let alone =
            [answer(client, id, "What is the sea?").await, answer(client, id, "And mountains?").await];
        assert_ne!(alone[0], alone[1]);
        let (sea, mountains, again) = tokio::join!(
            answer(client, id, "What is the sea?"),
            answer(client, id, "And mountains?"),
            answer(client, id, "What is the sea?"),
        );
        assert_eq!((&sea, &mountains, &again), (&alone[0], &alone[1], &alone[0]), "{model}");
    }
}

/// What a load is refused with, after the folder was changed.
async fn refused(model: &str, change: impl FnOnce(&Path)) -> LoadError {
    let hub = tempfile::tempdir().unwrap();
    change(&install(hub.path(), model));
    let daemon = Daemon::start(hub.path(), "").await;
    let reply = daemon.client().post("/models/load", json!({ "model_id": format!("test/{model}") })).await;
    assert_eq!(reply.status, 422, "{:?}", reply.body);
    serde_json::from_value(reply.json()["error"].clone()).unwrap()
}

/// With another config.json.
async fn configured(model: &str, change: impl FnOnce(&mut Map<String, Value>)) -> LoadError {
    refused(model, |folder| {
        let path = folder.join("config.json");
        let mut config: Map<String, Value> = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut config);
        std::fs::write(path, serde_json::to_vec(&config).unwrap()).unwrap();
    })
    .await
}

#[tokio::test]
async fn variants_that_are_not_computed_are_refused_by_name() {
    let set = |model: &'static str, key: &'static str, value: Value| async move {
        let error = configured(model, |config| drop(config.insert(key.to_owned(), value))).await;
        let LoadError::UnsupportedArchitecture { architecture, supported, .. } = error else {
            panic!("{model} with {key}: {error:?}")
        };
        assert!(supported.contains(&model.to_owned()) && supported.contains(&"llama".to_owned()));
        architecture
    };
    let yarn = json!({ "rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0 });
    assert_eq!(set("phi3", "rope_parameters", yarn).await, "phi3 with rope scaled by yarn");
    assert_eq!(set("stablelm", "qk_layernorm", json!(true)).await, "stablelm with qk_layernorm = true");
    assert_eq!(set("falcon", "alibi", json!(true)).await, "falcon with alibi = true");
    assert_eq!(set("olmo", "clip_qkv", json!(8.0)).await, "olmo with clip_qkv = 8.0");
    assert_eq!(set("falcon", "rope_theta", json!(5e5)).await, "falcon with rope_theta = 500000");
    assert_eq!(set("phi", "qk_layernorm", json!(true)).await, "phi with qk_layernorm = true");
    let limit = set("mamba2", "time_step_limit", json!([0.0, 0.1])).await;
    assert_eq!(limit, "mamba2 with time_step_limit = [0.0, 0.1]");
    let nowhere = set("granitemoehybrid", "position_embedding_type", Value::Null).await;
    assert_eq!(nowhere, "granitemoehybrid with position_embedding_type = null");
    let grouped = set("deepseek_v2", "topk_method", json!("group_limited_greedy")).await;
    assert_eq!(grouped, "deepseek_v2 with topk_method = \"group_limited_greedy\"");
    let gptq = json!({ "quant_method": "gptq" });
    assert_eq!(set("gemma", "quantization_config", gptq).await, "gemma with quantized weights");
}

#[tokio::test]
async fn files_that_do_not_fit_together_are_refused_before_memory_is_touched() {
    let set = |key: &'static str, value: Value| async move {
        let error = configured("mixtral", |config| drop(config.insert(key.to_owned(), value))).await;
        let LoadError::InvalidFile { file, cause, .. } = error else { panic!("{key}: {error:?}") };
        (file, cause)
    };
    let weights = "model.safetensors".to_owned();
    let (file, cause) = set("num_hidden_layers", json!(3)).await;
    assert_eq!(file, weights);
    assert!(cause.contains("tensor model.layers.2.") && cause.contains("is missing"), "{cause}");
    let (file, cause) = set("intermediate_size", json!(48)).await;
    assert_eq!(file, weights);
    assert!(cause.contains("[40, 32]") || cause.contains("[32, 40]"), "{cause}");
    let (file, cause) = set("rms_norm_eps", Value::Null).await;
    assert!(file == "config.json" && cause.contains("null"), "{file}: {cause}");
    for key in ["max_position_embeddings", "num_hidden_layers", "num_local_experts", "hidden_size"] {
        let (file, cause) = set(key, json!(1u64 << 60)).await;
        assert!(file == "config.json" && cause.starts_with(key) && cause.contains("at most"), "{cause}");
    }
    for part in [json!(1e9), json!(0.0), json!(-1)] {
        let (file, cause) = set("partial_rotary_factor", part).await;
        assert!(file == "config.json" && cause.contains("partial_rotary_factor is"), "{cause}");
    }
    let (file, _) = set("num_attention_heads", json!(0)).await;
    assert_eq!(file, "config.json");
    // Layers that the numbers leave out would be passed over.
    let error =
        configured("mixtral", |config| drop(config.insert("num_hidden_layers".into(), json!(1)))).await;
    let LoadError::UnsupportedArchitecture { architecture, .. } = error else { panic!("{error:?}") };
    assert!(architecture.starts_with("mixtral with the tensor model.layers.1."), "{architecture}");
    let error = configured("mixtral", |config| drop(config.remove("rms_norm_eps"))).await;
    let LoadError::InvalidFile { file, cause, .. } = error else { panic!("{error:?}") };
    assert!(file == "config.json" && cause.contains("missing field `rms_norm_eps`"), "{file}: {cause}");
}

#[tokio::test]
async fn a_head_that_is_not_tied_has_to_be_there() {
    // Its file has none, for it is the embeddings.
    let untied =
        |config: &mut Map<String, Value>| drop(config.insert("tie_word_embeddings".into(), json!(false)));
    let LoadError::InvalidFile { file, cause, .. } = configured("falcon", untied).await else {
        panic!("a file")
    };
    assert_eq!((file.as_str(), cause.as_str()), ("model.safetensors", "tensor lm_head.weight is missing"));
}

#[tokio::test]
async fn a_mask_of_all_positions_is_bounded() {
    let error =
        configured("gpt_bigcode", |config| drop(config.insert("n_positions".into(), json!(1 << 20)))).await;
    let LoadError::InvalidFile { cause, .. } = error else { panic!("{error:?}") };
    assert!(cause.contains("max_position_embeddings says 1048576"), "{cause}");
}

#[tokio::test]
async fn a_model_that_does_not_fit_is_refused_with_both_numbers() {
    let hub = tempfile::tempdir().unwrap();
    install(hub.path(), "phi");
    let daemon = Daemon::start(hub.path(), "[engine]\ndevice_memory_mb = 40").await;
    let reply = daemon.client().post("/models/load", json!({ "model_id": "test/phi" })).await;
    let error: LoadError = serde_json::from_value(reply.json()["error"].clone()).unwrap();
    let LoadError::InsufficientVram { required_mb, free_mb, .. } = error else { panic!("{error:?}") };
    assert!(free_mb == 40 && required_mb > 64, "{required_mb}");
}
