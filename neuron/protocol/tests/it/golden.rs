//! One `check` for every type: the golden file holds every field, and must survive the way through the
//! type; the least that the wire allows must parse, and give the defaults; unknown fields must not matter.

use std::fmt::Debug;

use neuron_protocol::{
    Activation, ActivationState, ApiError, Capabilities, Cost, Defragged, Discovery, Endpoint, ErrorBody,
    Health, Limit, LoadError, LoadFailure, LoadProgress, LoadRequest, LoadResponse, ModelInfo, ModelLoad,
    ModelStatus, PrefixChanges, Problem, Servable, Snapshot, StillNeeded, TokenCount, UnloadRefused,
    UnloadRefusedBody, UnloadRequest, UnloadResponse, Version,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

fn golden(name: &str) -> Value {
    let path = format!("{}/tests/it/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn parse<T: DeserializeOwned>(json: Value) -> T {
    let text = json.to_string();
    serde_json::from_value(json).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// Golden to type to JSON is golden again, with and without fields that nobody knows; `least` parses and
/// becomes `default`.
fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, least: Value, default: T) {
    let golden = golden(name);
    let typed: T = parse(golden.clone());
    assert_eq!(serde_json::to_value(&typed).unwrap(), golden, "{name}");
    assert_eq!(parse::<T>(with_unknown_fields(golden)), typed, "{name}");
    assert_eq!(parse::<T>(least), default, "{name}");
}

/// Adds a field to every object.
fn with_unknown_fields(mut value: Value) -> Value {
    match &mut value {
        Value::Object(object) => {
            object.values_mut().for_each(|inner| *inner = with_unknown_fields(inner.take()));
            object.insert("of_a_later_version".to_owned(), json!({ "x": [1] }));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| *item = with_unknown_fields(item.take())),
        _ => {}
    }
    value
}

/// The same with every listed field null.
fn with_nulls(mut value: Value, names: &[&str]) -> Value {
    names.iter().for_each(|name| value[name] = Value::Null);
    value
}

#[test]
fn version() {
    check("version", json!({}), Version::default());
    assert_eq!(parse::<Version>(with_nulls(json!({}), &["git_sha_long"])), Version::default());
    assert!(serde_json::to_value(Version::default()).unwrap().get("git_sha_long").is_none());
}

#[test]
fn discovery() {
    check("discovery", json!({}), Discovery::default());
    let nullable = ["cuda_version", "driver_version", "cuda_unavailable_reason"];
    assert_eq!(parse::<Discovery>(with_nulls(json!({}), &nullable)), Discovery::default());
    let device = &parse::<Discovery>(json!({ "devices": [{ "index": 3 }] })).devices[0];
    assert_eq!((device.index, device.vram_total_mb, device.compute_capability.as_str()), (3, 0, ""));
}

#[test]
fn health() {
    check("health", json!({}), Health::default());
    let least: Health = parse(json!({
        "devices": [{ "index": 0, "vram_used_mb": 0, "vram_free_mb": 0, "utilization_pct": 0, "temp_c": 0 }],
        "activation": { "state": "ready", "in_progress": null },
        "models": [{ "id": "m", "in_flight": 0, "queue_depth": 0 }],
    }));
    assert_eq!(least.models, [ModelLoad { id: "m".to_owned(), ..ModelLoad::default() }]);
    assert_eq!(least.activation, Activation { state: ActivationState::Ready, ..Activation::default() });
}

#[test]
fn what_health_requires_is_required() {
    let all = json!({ "index": 0, "vram_used_mb": 0, "vram_free_mb": 0, "utilization_pct": 0, "temp_c": 0 });
    for name in ["index", "vram_used_mb", "vram_free_mb", "utilization_pct", "temp_c"] {
        let mut device = all.clone();
        device.as_object_mut().unwrap().remove(name);
        let health = json!({ "devices": [device] });
        assert!(serde_json::from_value::<Health>(health).is_err(), "{name}");
    }
    assert!(serde_json::from_value::<Health>(json!({ "activation": {} })).is_err());
    for least in [json!({ "in_flight": 0, "queue_depth": 0 }), json!({ "id": "m", "queue_depth": 0 })] {
        assert!(serde_json::from_value::<Health>(json!({ "models": [least] })).is_err());
    }
}

#[test]
fn models() {
    check("models", json!([]), Vec::<ModelInfo>::new());
    let nullable = ["vram_used_mb", "limit", "cost", "engine", "servable"];
    let least: ModelInfo = parse(with_nulls(json!({ "id": "m", "status": "unloaded" }), &nullable));
    assert_eq!(least, ModelInfo { id: "m".to_owned(), ..ModelInfo::default() });
    assert_eq!(
        parse::<Limit>(json!({ "context": 5, "input": null })),
        Limit { context: 5, ..Limit::default() }
    );
    assert_eq!(parse::<Cost>(json!({ "input": null })), Cost::default());
    assert_eq!(
        parse::<Servable>(json!({ "ok": true, "reason": null })),
        Servable { ok: true, ..Servable::default() }
    );
}

#[test]
fn watch() {
    let least = json!({ "health": {}, "models": [] });
    check("watch_snapshot", least, Snapshot::default());
    let least = json!({ "model": "org/a" });
    check("watch_prefixes", least, PrefixChanges { model: "org/a".to_owned(), ..PrefixChanges::default() });
}

#[test]
fn statuses() {
    for (text, status) in [
        ("loaded", ModelStatus::Loaded),
        ("unloaded", ModelStatus::Unloaded),
        ("loading", ModelStatus::Loading),
        ("reloading", ModelStatus::Reloading),
        ("recovering", ModelStatus::Recovering),
    ] {
        assert_eq!(parse::<ModelStatus>(json!(text)), status);
        assert_eq!(serde_json::to_value(status).unwrap(), text);
    }
    assert_eq!(parse::<ModelStatus>(json!("hibernating")), ModelStatus::Unknown);
}

#[test]
fn a_model_serves_when_it_is_loaded_and_nothing_speaks_against_it() {
    let model = |more: Value| {
        let mut json = json!({ "id": "m", "status": "loaded" });
        json.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        parse::<ModelInfo>(json).can_serve()
    };
    assert!(model(json!({})) && model(json!({ "servable": { "ok": true } })));
    assert!(!model(json!({ "servable": { "ok": false } })) && !model(json!({ "status": "recovering" })));
}

#[test]
fn lifecycle() {
    let default = LoadRequest { model_id: "m".into(), harness: "candle".into(), ..LoadRequest::default() };
    check("load_request", json!({ "model_id": "m" }), default.clone());
    let nullable = ["quant", "tensor_parallel", "devices"];
    assert_eq!(parse::<LoadRequest>(with_nulls(json!({ "model_id": "m" }), &nullable)), default);
    assert!(serde_json::from_value::<LoadRequest>(json!({})).is_err());
    check("load_response", json!({ "status": "loaded" }), LoadResponse { status: "loaded".into() });
    check(
        "unload_request",
        json!({ "model_id": "m" }),
        UnloadRequest { model_id: "m".into(), ..UnloadRequest::default() },
    );
    check("unload_response", json!({ "status": "unloaded" }), UnloadResponse { status: "unloaded".into() });
    check(
        "unload_refused",
        json!({ "error": { "kind": "busy", "in_flight": 1 } }),
        UnloadRefused {
            error: UnloadRefusedBody { cause: StillNeeded::Busy { in_flight: 1 }, message: String::new() },
        },
    );
    check(
        "defragged",
        json!({ "free_before_mb": 1, "free_after_mb": 2 }),
        Defragged { free_before_mb: 1, free_after_mb: 2 },
    );
    check(
        "load_progress",
        json!({ "model": "m", "phase": "checking" }),
        LoadProgress { model: "m".into(), ..LoadProgress::default() },
    );
    check("endpoint", json!({ "url": "u" }), Endpoint { url: "u".into() });
    check("capabilities", json!({}), Capabilities::default());
    check("token_count", json!({ "input_tokens": 1 }), TokenCount { input_tokens: 1 });
}

#[test]
fn errors() {
    check("problem", json!({ "error": "e", "code": null }), Problem { error: "e".into(), code: None });
    check("api_error", json!({ "error": {} }), ApiError { error: ErrorBody::default() });
    let nulls = with_nulls(json!({}), &["code", "param", "prompt_len", "max", "free_mb", "required_mb"]);
    assert_eq!(parse::<ErrorBody>(nulls), ErrorBody::default());
    // OpenAI's clients read code and param even where there are none.
    let plain = json!({ "message": "", "type": "", "code": null, "param": null });
    assert_eq!(serde_json::to_value(ErrorBody::default()).unwrap(), plain);
}

#[test]
fn load_errors() {
    check("load_errors", json!([]), Vec::<LoadError>::new());
    let nearest = json!({ "kind": "quant_not_found", "model_id": "m", "requested": "q", "available": [], "nearest": null });
    assert!(matches!(parse(nearest), LoadError::QuantNotFound { nearest: None, .. }));
}

#[test]
fn a_load_error_travels_with_its_message_beside_its_fields() {
    let silent = json!({ "error": { "kind": "empty_repo", "model_id": "org/name" } });
    let mut expected = LoadFailure::from(LoadError::EmptyRepo { model_id: "org/name".into() });
    assert_eq!(parse::<LoadFailure>(golden("load_failure")), expected);
    assert_eq!(serde_json::to_value(&expected).unwrap(), golden("load_failure"));
    expected.error.message.clear();
    check("load_failure", silent, expected);

    for cause in parse::<Vec<LoadError>>(golden("load_errors")) {
        let json = serde_json::to_value(LoadFailure::from(cause.clone())).unwrap();
        let mut fields = serde_json::to_value(&cause).unwrap();
        fields["message"] = json!(cause.message());
        assert_eq!(json["error"], fields);
        assert!(cause.message().contains("org/name"), "{}", cause.message());
    }
}
