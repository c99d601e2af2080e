//! What the daemon says of itself.

use std::time::{Duration, Instant};

use neuron_protocol::{Discovery, Health, ModelInfo, ModelStatus, Version};
use serde_json::json;

use crate::support::{Daemon, Gguf, MODEL, shared, tiny_hub};

#[tokio::test]
async fn version_and_name() {
    let client = shared();
    let version: Version = serde_json::from_value(client.json("/version").await).unwrap();
    assert_eq!(version.package_version, env!("CARGO_PKG_VERSION"));
    assert!(!version.git_sha.is_empty());
    assert_eq!(client.json("/").await["name"], "neuron");
}

#[tokio::test]
async fn discovery_has_a_device_to_load_on() {
    let discovery: Discovery = serde_json::from_value(shared().json("/discovery").await).unwrap();
    assert!(!discovery.hostname.is_empty() && !discovery.os.is_empty() && !discovery.kernel.is_empty());
    assert_eq!(discovery.harnesses, ["candle"]);
    let is_gpu = !discovery.devices[0].compute_capability.is_empty();
    assert_eq!(discovery.cuda_unavailable_reason.is_some_and(|reason| !reason.is_empty()), !is_gpu);
    let [device] = &discovery.devices[..] else { panic!("one device: {:?}", discovery.devices) };
    assert!(device.index == 0 && !device.name.is_empty() && device.vram_total_mb > 0);
}

#[tokio::test]
async fn health_and_models_tell_of_the_loaded_model() {
    let client = shared();
    let health: Health = serde_json::from_value(client.json("/health").await).unwrap();
    assert!(health.devices[0].vram_free_mb > 0);
    assert_eq!((health.models[0].id.as_str(), health.models[0].max_queue_depth), (MODEL, 32));
    let models: Vec<ModelInfo> = serde_json::from_value(client.json("/models").await).unwrap();
    let model = &models[0];
    assert!(model.can_serve());
    assert_eq!((model.id.as_str(), model.harness.as_str(), &model.devices[..]), (MODEL, "candle", &[0][..]));
    assert_eq!(model.limit.as_ref().map(|limit| limit.context), Some(8192));
    assert!(model.vram_used_mb.is_some_and(|mb| mb > 100));
    assert_eq!(model.capabilities, ["text"]);
    assert!(model.tool_call && !model.reasoning);
}

#[tokio::test]
async fn what_the_template_knows_is_promised() {
    let hub = tempfile::tempdir().unwrap();
    let template = "{% if tools %}{{ tools }}<think>{% endif %}{{ messages[0].content }}";
    let model = Gguf::tiny("llama").with_text("tokenizer.chat_template", template);
    model.install(hub.path(), "tiny");
    let daemon = Daemon::start(hub.path(), "").await;
    let models = daemon.load("test/tiny").await.json("/models").await;
    assert_eq!((&models[0]["tool_call"], &models[0]["reasoning"]), (&json!(true), &json!(true)));
}

#[tokio::test]
async fn what_is_configured_shows() {
    let hub = tiny_hub();
    let more = "[neuron]\nname = \"n1\"\n[engine]\nmax_context = 100\ndevice_memory_mb = 1000";
    let daemon = Daemon::start(hub.path(), more).await;
    let client = daemon.load("test/tiny").await;
    let discovery = client.json("/discovery").await;
    assert_eq!(discovery["hostname"], "n1");
    assert_eq!(discovery["max_prompt_tokens"], 100);
    assert_eq!(discovery["devices"][0]["vram_total_mb"], 1000);
    let models = client.json("/models").await;
    assert_eq!(models[0]["limit"], json!({ "context": 100, "output": 100 }));
    let device = &client.json("/health").await["devices"][0];
    assert_eq!(device["vram_used_mb"], models[0]["vram_used_mb"]);
    assert_eq!(device["vram_used_mb"].as_u64().unwrap() + device["vram_free_mb"].as_u64().unwrap(), 1000);
}

#[tokio::test]
async fn preloading_is_reported() {
    let hub = tiny_hub();
    let daemon = Daemon::start(hub.path(), "[neuron]\npreload = [\"test/tiny\", \"test/none\"]").await;
    let client = daemon.client();
    let deadline = Instant::now() + Duration::from_secs(20);
    let activation = loop {
        let health: Health = serde_json::from_value(client.json("/health").await).unwrap();
        let activation = health.activation;
        if activation.pending.is_empty() && activation.in_progress.is_none() {
            break activation;
        }
        assert!(Instant::now() < deadline, "{activation:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(activation.completed, ["test/tiny"]);
    assert_eq!(activation.failed[0].model_id, "test/none");
    assert!(activation.failed[0].error.contains("not in the cache"));
    assert_eq!(serde_json::to_value(activation.state).unwrap(), "ready");
    let models: Vec<ModelInfo> = serde_json::from_value(client.json("/models").await).unwrap();
    assert_eq!(models.iter().map(|m| m.status).collect::<Vec<_>>(), [ModelStatus::Loaded]);
}

#[tokio::test]
async fn other_paths_and_methods_are_refused_in_words() {
    let client = shared();
    assert_eq!(client.get("/nothing").await.error(), (404, "not_found".into()));
    assert_eq!(client.get("/v1/chat/completions").await.error(), (405, "method_not_allowed".into()));
    assert_eq!(client.get("/models/a/b/nothing").await.error(), (404, "not_found".into()));
}

#[tokio::test]
async fn a_request_keeps_its_id_or_gets_one() {
    let client = shared();
    let request = client.request(http::Method::GET, "/version").header("x-request-id", "mine");
    let reply = client.send(request.body(http_body_util::Full::default()).unwrap()).await;
    assert_eq!(reply.headers["x-request-id"], "mine");
    let (first, second) = (client.get("/version").await, client.get("/nothing").await);
    assert_ne!(first.headers["x-request-id"], second.headers["x-request-id"]);
}
