//! What the daemon is and how it fares.

use std::sync::Arc;

use axum::{Json, extract::State as Of};
use neuron_protocol::{
    Device, DeviceCondition, DeviceHealth, Discovery, Health, Limit, ModelInfo, ModelLoad, ModelStatus,
    Servable, Version, feature,
};
use serde_json::{Value, json};

use super::App;
use crate::{
    device::{DeviceHandle, DeviceState},
    host,
    registry::{Ready, Registry, State, millis},
};

pub(super) async fn root() -> Json<Value> {
    Json(json!({ "name": "neuron", "version": env!("CARGO_PKG_VERSION") }))
}

pub(super) async fn version() -> Json<Version> {
    let sha = env!("NEURON_GIT_SHA");
    Json(Version {
        package_version: env!("CARGO_PKG_VERSION").to_owned(),
        git_sha: sha.get(..9).unwrap_or(sha).to_owned(),
        git_sha_long: (sha != "unknown").then(|| sha.to_owned()),
        git_dirty: env!("NEURON_GIT_DIRTY") == "true",
    })
}

pub(super) async fn discovery(Of(app): Of<Arc<App>>) -> Json<Discovery> {
    Json(app.discovery.clone())
}

/// Asked once, at start: none of it changes.
pub(super) fn discover(registry: &Registry) -> Discovery {
    let (os, kernel) = host::system();
    Discovery {
        hostname: registry.config.name.clone(),
        os,
        kernel,
        cuda_version: registry.gpus.cuda_version.clone(),
        driver_version: registry.gpus.driver_version.clone(),
        devices: (0u32..)
            .zip(0..registry.devices.len())
            .map(|(index, device)| {
                let gpu = registry.gpus.usable.get(device).map(|gpu| &gpu.found);
                Device {
                    index,
                    name: gpu.map_or_else(host::cpu_name, |gpu| gpu.name.clone()),
                    vram_total_mb: registry.memory(device).total_mb,
                    compute_capability: gpu
                        .map(|gpu| format!("{}.{}", gpu.capability.0, gpu.capability.1))
                        .unwrap_or_default(),
                }
            })
            .collect(),
        harnesses: vec!["candle".to_owned()],
        cuda_unavailable_reason: registry.gpus.reason.clone(),
        max_prompt_tokens: registry.config.engine.max_context,
        features: [
            (feature::WATCH, true),
            (feature::LOAD_PROGRESS, true),
            (feature::CONDITIONAL_UNLOAD, true),
            (feature::PREFLIGHT, true),
            (feature::DEFRAG, true),
            (feature::PARK, registry.parks()),
        ]
        .into_iter()
        .filter(|(_, has)| *has)
        .map(|(name, _)| name.to_owned())
        .collect(),
    }
}

pub(super) async fn health(Of(app): Of<Arc<App>>) -> Json<Health> {
    Json(health_of(&app))
}

/// As it is now.
pub(super) fn health_of(app: &App) -> Health {
    let max_queued = app.registry.config.engine.max_queue_depth;
    let models = app.registry.list().into_iter().filter_map(|(_, state)| match state {
        State::Ready(ready) | State::Unloading(ready) => Some(load_of(&ready, max_queued)),
        _ => None,
    });
    Health {
        uptime_secs: app.started.elapsed().as_secs(),
        devices: (0u32..)
            .zip(&app.registry.devices)
            .map(|(index, device)| device_of(app, index, device))
            .collect(),
        activation: app.registry.activation(),
        models: models.collect(),
    }
}

fn device_of(app: &App, index: u32, device: &DeviceHandle) -> DeviceHealth {
    let memory = app.registry.memory(index as usize);
    let (state, reason) = match device.state() {
        DeviceState::Up => (None, None),
        DeviceState::Poisoned(lost) => (Some(DeviceCondition::Poisoned), Some(lost.reason)),
        DeviceState::Recovering(reason) => (Some(DeviceCondition::Recovering), Some(reason)),
        DeviceState::Gone(reason) => (Some(DeviceCondition::Gone), Some(reason)),
    };
    let (vram_used_mb, vram_free_mb) = (memory.used_mb, memory.free_mb);
    let now = app.registry.gpus.condition(index as usize);
    let (utilization_pct, temp_c) = (now.utilization_percent.unwrap_or(0), now.temperature.unwrap_or(0));
    DeviceHealth { index, vram_used_mb, vram_free_mb, utilization_pct, temp_c, state, reason }
}

fn load_of(ready: &Ready, max_queue_depth: u64) -> ModelLoad {
    let (in_flight, queue_depth) = ready.stats.load();
    let (rejected_queue_full, rejected_timeout) = ready.stats.rejected();
    let (tok_s_prefill, tok_s_decode) = ready.stats.rates();
    let [_, available, total] = ready.stats.blocks();
    let (weights_bytes, kv_used_bytes) = ready.stats.held();
    ModelLoad {
        id: ready.id.clone(),
        in_flight,
        queue_depth,
        max_in_flight: ready.stats.places(),
        max_queue_depth,
        rejected_queue_full,
        rejected_timeout,
        tok_s_prefill,
        tok_s_decode,
        kv_budget_mb: ready.estimate.cache_mb,
        kv_available_mb: ready.estimate.cache_mb * available / total.max(1),
        weights_bytes,
        kv_used_bytes,
        idle_ms: ready.stats.idle().map(millis),
        ..ModelLoad::default()
    }
}

pub(super) async fn models(Of(app): Of<Arc<App>>) -> Json<Vec<ModelInfo>> {
    Json(models_of(&app))
}

/// As they are now.
pub(super) fn models_of(app: &App) -> Vec<ModelInfo> {
    let models = app.registry.list().into_iter().filter_map(|(id, state)| {
        Some(match state {
            State::Loading => info(id, Vec::new(), ModelStatus::Loading),
            State::Ready(ready) => match ready.stats.fault() {
                None => loaded(&ready),
                // It is loaded anew once its device is up.
                Some(fault) if ready.devices.iter().any(|device| !app.registry.devices[*device].is_up()) => {
                    not_servable(info(id, on(&ready), ModelStatus::Unloaded), "device_lost", fault)
                }
                Some(fault) => not_servable(info(id, on(&ready), ModelStatus::Unloaded), "fault", fault),
            },
            State::Unloading(ready) => not_servable(loaded(&ready), "unloading", "its last requests finish"),
            State::Parked(ready) if ready.stats.fault().is_some() => {
                let lost = ready.stats.fault().unwrap_or_default();
                not_servable(info(id, on(&ready), ModelStatus::Unloaded), "device_lost", lost)
            }
            State::Parked(ready) => {
                ModelInfo { status: ModelStatus::Parked, vram_used_mb: Some(0), ..loaded(&ready) }
            }
            State::Failed(_) | State::Gone => return None,
        })
    });
    models.collect()
}

fn info(id: String, devices: Vec<u32>, status: ModelStatus) -> ModelInfo {
    let (harness, capabilities) = ("candle".to_owned(), vec!["text".to_owned()]);
    ModelInfo { id, harness, status, devices, capabilities, ..ModelInfo::default() }
}

fn on(ready: &Ready) -> Vec<u32> {
    ready.devices.iter().filter_map(|device| u32::try_from(*device).ok()).collect()
}

fn loaded(ready: &Ready) -> ModelInfo {
    ModelInfo {
        vram_used_mb: Some(ready.estimate.total_mb() * ready.devices.len() as u64),
        limit: Some(Limit { context: ready.context, input: None, output: ready.context }),
        engine: Some(if ready.batched || ready.encodes { "batched" } else { "single" }.to_owned()),
        generation: Some(ready.generation),
        tool_call: ready.text.template.is_some(),
        reasoning: ready.text.template.as_ref().is_some_and(|template| template.thoughts.is_some()),
        capabilities: capabilities(ready),
        ..info(ready.id.clone(), on(ready), ModelStatus::Loaded)
    }
}

fn not_servable(mut model: ModelInfo, reason: &str, detail: &str) -> ModelInfo {
    model.servable =
        Some(Servable { ok: false, reason: Some(reason.to_owned()), detail: Some(detail.to_owned()) });
    model
}

/// What the model can do.
pub(super) fn capabilities(ready: &Ready) -> Vec<String> {
    let template = ready.text.template.as_ref().filter(|_| !ready.encodes);
    // A template that knows no tools gets them in words, which a model may make nothing of.
    let said = [
        ("text", !ready.encodes),
        ("tools", template.is_some_and(|template| template.takes_tools)),
        ("reasoning", template.is_some_and(|template| template.thoughts.is_some())),
        ("embeddings", ready.embeds().is_some()),
    ];
    said.iter().filter(|(_, can)| *can).map(|(name, _)| (*name).to_owned()).collect()
}
