//! Loading and unloading.

use serde_json::json;

use crate::support::{Daemon, Gguf, MODEL, TINY, shared, tiny_hub};

#[tokio::test]
async fn a_model_comes_and_goes() {
    let hub = tiny_hub();
    let daemon = Daemon::start(hub.path(), "[engine]\ndevice_memory_mb = 900").await;
    let client = daemon.load(TINY).await;
    // Loaded is loaded, under any spelling of the id.
    daemon.load("huggingface:test/tiny@main").await;
    assert_eq!(client.json("/models").await.as_array().unwrap().len(), 1);

    let unload = client.post("/models/unload", json!({ "model_id": TINY })).await;
    assert_eq!((unload.status.as_u16(), unload.json()), (200, json!({ "status": "unloaded" })));
    assert_eq!(client.json("/models").await, json!([]));
    assert_eq!(client.json("/health").await["devices"][0]["vram_free_mb"], 900);

    let again = client.post("/models/unload", json!({ "model_id": TINY })).await;
    assert_eq!(again.status, 404);
    assert!(again.json()["error"].as_str().unwrap().contains(TINY));
    daemon.load(TINY).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_gateway_finds_a_model_by_either_spelling_of_its_path() {
    let client = shared();
    let encoded = MODEL.replace('/', "%2F");
    for id in [MODEL, &encoded] {
        let url = client.json(&format!("/models/{id}/endpoint")).await;
        assert!(url["url"].as_str().unwrap().starts_with("http://127.0.0.1:"), "{url}");
        let capabilities = client.json(&format!("/models/{id}/capabilities")).await;
        assert_eq!(capabilities, json!({ "capabilities": ["text"] }));
    }
    let missing = client.get("/models/a%2Fb/endpoint").await;
    assert_eq!((missing.status.as_u16(), missing.json()["error"].is_string()), (404, true));
}

#[tokio::test]
async fn what_preflight_refuses_has_a_kind_fields_and_words() {
    let client = shared();
    let check = async |body: serde_json::Value, status: u16, kind: &str, field: &str| {
        let reply = client.post("/models/load", body).await;
        let error = &reply.json()["error"];
        assert_eq!((reply.status.as_u16(), error["kind"].as_str()), (status, Some(kind)), "{error}");
        assert!(error["message"].as_str().is_some_and(|m| m.len() > 20), "{error}");
        assert!(!error[field].is_null(), "{error}");
        // What may pass by itself says when to ask again.
        assert_eq!(reply.headers.contains_key("retry-after"), kind == "offline_and_not_cached", "{error}");
    };
    let other = |quant: &str| json!({ "model_id": format!("{MODEL}@main2"), "quant": quant });
    check(json!({ "model_id": "org/none" }), 422, "offline_and_not_cached", "cause").await;
    check(other("Q4_1"), 422, "offline_and_not_cached", "model_id").await;
    check(json!({ "model_id": "../x" }), 422, "invalid_model_id", "cause").await;
    check(json!({ "model_id": "nas:a/b" }), 422, "unknown_source", "known").await;

    let hub = tiny_hub();
    let daemon = Daemon::start(hub.path(), "").await;
    let client = daemon.client();
    let reply = client.post("/models/load", json!({ "model_id": TINY, "quant": "Q9" })).await;
    let error = &reply.json()["error"];
    assert_eq!((reply.status.as_u16(), &error["kind"]), (422, &json!("quant_not_found")));
    assert_eq!((&error["nearest"], &error["available"]), (&json!("F32"), &json!(["F32"])));
    let reply = client.post("/models/load", json!({ "model_id": TINY, "tensor_parallel": 2 })).await;
    let error = &reply.json()["error"];
    assert_eq!((&error["kind"], &error["gguf_quants"]), (&json!("tp_requires_safetensors"), &json!(["F32"])));
    let good = client.post("/models/load", json!({ "model_id": TINY, "quant": "f32", "devices": [0] })).await;
    assert_eq!(good.status, 200);

    // What is loaded is no reason to take less care.
    let reply = client.post("/models/load", json!({ "model_id": TINY, "tensor_parallel": 2 })).await;
    assert_eq!(reply.json()["error"]["kind"], "tp_requires_safetensors");
    let reply = client.post("/models/load", json!({ "model_id": TINY, "quant": "Q8_0" })).await;
    let words = reply.json()["error"].as_str().unwrap().to_owned();
    assert!(reply.status == 400 && words.contains("F32") && words.contains("Q8_0"), "{words}");
    let same = client.post("/models/load", json!({ "model_id": TINY, "quant": "F32" })).await;
    assert_eq!(same.status, 200);

    // Safetensors could be split, were there devices.
    crate::references::install(hub.path(), "qwen3");
    let reply = client.post("/models/load", json!({ "model_id": "test/qwen3", "tensor_parallel": 2 })).await;
    let words = reply.json()["error"].to_string();
    assert!(reply.status == 400 && words.contains("one device"), "{words}");
}

#[tokio::test]
async fn preflight_says_what_a_load_would_take_and_loads_nothing() {
    let hub = tiny_hub();
    crate::references::install(hub.path(), "qwen3");
    let daemon = Daemon::start(hub.path(), "").await;
    let client = daemon.client();
    let ask = async |body: serde_json::Value| client.post("/models/preflight", body).await;
    let reply = ask(json!({ "model_id": TINY })).await;
    let said = reply.json();
    assert_eq!(reply.status, 200, "{said}");
    assert_eq!((&said["architecture"], &said["engine"]), (&json!("llama"), &json!("batched")));
    let mb = |key: &str| said[key].as_u64().unwrap();
    let parts = mb("weights_mb") + mb("text_mb") + mb("cache_mb") + mb("activations_mb");
    assert!(mb("required_mb") > parts && mb("free_mb") > 0, "{said}");
    assert_eq!(client.json("/models").await, json!([]));

    // As by the load.
    let reply = ask(json!({ "model_id": TINY, "quant": "Q9" })).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["error"]["kind"]), (422, &json!("quant_not_found")));
    assert_eq!(ask(json!({ "model_id": TINY, "tensor_parallel": 2 })).await.status, 422);
    assert_eq!(ask(json!({ "model_id": TINY, "harness": "vllm" })).await.status, 400);
    assert_eq!(ask(json!({ "model_id": "test/qwen3", "quant": "q4k" })).await.status, 200);
}

#[tokio::test]
async fn safetensors_are_quantised_where_the_load_says_so() {
    let hub = tiny_hub();
    for name in ["qwen3", "falcon"] {
        crate::references::install(hub.path(), name);
    }
    let daemon = Daemon::start(hub.path(), "").await;
    let client = daemon.client();
    let load = async |model: &str, quant: &str| {
        let reply = client.post("/models/load", json!({ "model_id": model, "quant": quant })).await;
        (reply.status.as_u16(), reply.json())
    };
    let body = json!({ "model": "test/qwen3", "max_tokens": 4, "ignore_eos": true, "temperature": 0,
        "messages": [{ "role": "user", "content": "hello" }] });
    for quant in ["q4k", "Q5K", "q6k", "q8_0"] {
        assert_eq!(load("test/qwen3", quant).await.0, 200, "{quant}");
        assert_eq!(load("test/qwen3", quant).await.0, 200, "it is what was asked for");
        let (status, error) = load("test/qwen3", "safetensors").await;
        assert!(status == 400 && error["error"].as_str().unwrap().contains("is loaded as q"), "{error}");
        let answer = client.post("/v1/chat/completions", body.clone()).await;
        assert_eq!(answer.json()["usage"]["completion_tokens"], 4, "{quant}");
        let gone = client.post("/models/unload", json!({ "model_id": "test/qwen3" })).await;
        assert_eq!(gone.status, 200);
    }
    // By candle-transformers, which takes weights as they are.
    let (status, error) = load("test/falcon", "q4k").await;
    assert_eq!((status, &error["error"]["kind"]), (422, &json!("quant_not_found")), "{error}");
    assert_eq!(error["error"]["available"], json!(["safetensors"]));
    let (_, error) = load("test/qwen3", "q3k").await;
    assert_eq!(error["error"]["available"], json!(["safetensors", "q4k", "q5k", "q6k", "q8_0"]), "{error}");
}

#[tokio::test]
async fn what_makes_no_sense_is_a_400_in_words() {
    let client = shared();
    let check = async |body: serde_json::Value, expected: &str| {
        let reply = client.post("/models/load", body).await;
        let json = reply.json();
        assert_eq!(reply.status, 400, "{json}");
        assert!(json["error"].as_str().is_some_and(|text| text.contains(expected)), "{json}");
    };
    check(json!({}), "model_id").await;
    check(json!({ "model_id": 5 }), "string").await;
    check(json!({ "model_id": "a/b", "harness": "vllm" }), "no harness \"vllm\"").await;
    check(json!({ "model_id": "a/b", "devices": [1] }), "no device 1").await;
    assert_eq!(client.post_raw("/models/unload", "nonsense").await.status, 400);
}

#[tokio::test]
async fn memory_that_is_not_there_is_a_507() {
    let daemon = Daemon::start(&crate::support::hub(), "[engine]\ndevice_memory_mb = 150").await;
    let reply = daemon.client().post("/models/load", json!({ "model_id": MODEL })).await;
    let error = &reply.json()["error"];
    assert_eq!((reply.status.as_u16(), &error["kind"]), (507, &json!("insufficient_vram")));
    assert!(error["required_mb"].as_u64() > Some(150) && error["free_mb"] == 150, "{error}");
    assert!(reply.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn without_a_configured_window_it_is_as_long_as_memory_allows() {
    let hub = tempfile::tempdir().unwrap();
    let check = async |architecture: &str, context: u32, engine: &str| {
        Gguf::tiny(architecture)
            .with_number(&format!("{architecture}.context_length"), context)
            .install(hub.path(), "tiny");
        let daemon = Daemon::start(hub.path(), &format!("[engine]\ndevice_memory_mb = 200\n{engine}")).await;
        let client = daemon.client();
        let reply = client.post("/models/load", json!({ "model_id": TINY })).await;
        let window = client.json("/models").await[0]["limit"]["context"].as_u64();
        (
            reply.status.as_u16(),
            reply.json()["error"]["message"].as_str().unwrap_or_default().to_owned(),
            window,
        )
    };
    let (status, words, window) = check("qwen3", 1 << 20, "").await;
    let window = window.unwrap_or_else(|| panic!("{words}"));
    assert!(status == 200 && window.is_multiple_of(256), "{window}");
    assert!((1 << 18..1 << 20).contains(&window), "{window}");
    assert_eq!(check("qwen3", 4096, "").await, (200, String::new(), Some(4096)));
    // What is configured is not cut, and what would help is named.
    let (status, words, _) = check("qwen3", 1 << 20, "max_context = 1000000").await;
    assert!(status == 507 && words.contains("engine.max_context"), "{words}");
    // A budget for the cache bounds the window: 10 MiB at 256 bytes a token.
    let (status, words, window) = check("qwen3", 1 << 20, "kv_cache_mb = 10").await;
    assert!(status == 200 && window.is_some_and(|w| (38_000..=41_000).contains(&w)), "{words} {window:?}");
}
