//! What operators see: `/admin/*` on a listener of its own, and metrics on another.

mod attempts;
mod authorise;
mod operate;

pub use attempts::Attempts;
pub(crate) use authorise::Operator;

use crate::config::Role;
use crate::console;
use crate::fleet::{NodeView, pinned_too_large};
use crate::gateway::Gateway;
use crate::policy::limits;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router, middleware};
use neuron_protocol::ModelInfo;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Where a request comes from, as its listener says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct From(pub(crate) IpAddr);

/// `GET /metrics`
pub fn metrics_router(gateway: &Arc<Gateway>) -> Router {
    let render = async |State(gateway): State<Arc<Gateway>>| {
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], gateway.metrics.render())
    };
    Router::new().route("/metrics", get(render)).with_state(gateway.clone())
}

/// `GET /admin/status`, `/admin/requests`, `/admin/requests/{id}`, `/admin/policies`, `/admin/usage`; `POST /admin/load`,
/// `/admin/plan-load`, `/admin/unload`, `/admin/drain`, `/admin/pin`; `PUT /admin/policies/{name}`; and the console.
pub fn admin_router(gateway: &Arc<Gateway>) -> Router {
    // A path has its methods in one role's routes, or axum would let one of them in the place of the other.
    let of = |role: Option<Role>, routes: Router<Arc<Gateway>>| {
        let state = (gateway.clone(), role);
        routes.route_layer(middleware::from_fn_with_state(state, authorise::authorise))
    };
    let seen = Router::new()
        .route("/admin/status", get(async |State(gateway): State<Arc<Gateway>>| Json(status(&gateway))))
        .route("/admin/requests", get(async |State(gateway): State<Arc<Gateway>>| Json(requests(&gateway))))
        .route("/admin/requests/{id}", get(request))
        .route("/admin/usage", get(async |State(gateway): State<Arc<Gateway>>| Json(usage(&gateway))))
        .route("/admin/policies", get(async |State(gateway): State<Arc<Gateway>>| Json(policies(&gateway))))
        .route("/admin/plan-load", post(operate::plan_load));
    let done = Router::new()
        .route("/admin/load", post(operate::load))
        .route("/admin/unload", post(operate::unload))
        .route("/admin/drain", post(operate::drain))
        .route("/admin/pin", post(operate::pin));
    let uploaded = Router::new()
        .route("/admin/policies/{name}", put(operate::upload))
        .route("/admin/policies/{name}/rollback", post(operate::roll_back))
        .layer(DefaultBodyLimit::max(limits::COMPONENT_AT_MOST as usize));
    let announced = middleware::from_fn(refuse_what_is_too_large);
    of(Some(Role::Viewer), seen.merge(console::seen()))
        .merge(of(Some(Role::Operator), done.route_layer(announced.clone()).merge(console::done())))
        .merge(of(Some(Role::PolicyUpload), uploaded.route_layer(announced)))
        .merge(of(None, console::known()))
        .merge(console::pages())
        .with_state(gateway.clone())
}

/// By what its head says, before any of it is taken.
async fn refuse_what_is_too_large(request: Request, next: Next) -> Response {
    let length =
        request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    match length {
        Some(length) if length > limits::COMPONENT_AT_MOST => {
            let message = format!(
                "{length} bytes are announced, and no more than {} are taken",
                limits::COMPONENT_AT_MOST
            );
            Refused(StatusCode::PAYLOAD_TOO_LARGE, message).into_response()
        }
        _ => next.run(request).await,
    }
}

/// `{"error": {"message": …}}` with its status.
pub(crate) struct Refused(pub(crate) StatusCode, pub(crate) String);

impl Refused {
    /// 429.
    fn for_now(wait: Duration, why: &str) -> Self {
        let seconds = wait.as_secs() + 1;
        Self(StatusCode::TOO_MANY_REQUESTS, format!("{why}; try again in {seconds} s"))
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut response = (self.0, Json(json!({"error": {"message": self.1}}))).into_response();
        if self.0 == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("6"));
        }
        response
    }
}

/// The last ones, without their steps.
fn requests(gateway: &Gateway) -> Value {
    let records = gateway.recent.list();
    serde_json::to_value(records.iter().map(|record| &**record).collect::<Vec<_>>()).unwrap_or_default()
}

async fn request(State(gateway): State<Arc<Gateway>>, Path(id): Path<String>) -> Response {
    match gateway.recent.get(&id) {
        Some(record) => Json(record).into_response(),
        None => {
            Refused(StatusCode::NOT_FOUND, format!("no request {id} among the last ones")).into_response()
        }
    }
}

/// Everything that `cortex status` shows.
pub fn status(gateway: &Gateway) -> Value {
    let (config, fleet) = (gateway.config.load_full(), gateway.fleet.now());
    let nodes: Vec<Value> = fleet
        .nodes
        .iter()
        .map(|view| {
            let id = |name: &str| config.catalogue.id_of(name).to_owned();
            let mut node = node(view, &|name| (id(name), gateway.is_pinned(name)));
            node["uptime_secs"] = view.health.uptime_secs.into();
            node
        })
        .collect();
    let mut doubts = config.doubts();
    doubts.extend(pinned_too_large(&fleet, &config));
    let reload = gateway.last_reload().map(|outcome| match outcome {
        Ok(reloaded) => json!({"ok": true, "changed": reloaded.changed}),
        Err(error) => json!({"ok": false, "error": error.to_string()}),
    });
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_secs": gateway.started.elapsed().as_secs(),
        "config": {"files": config.files, "last_reload": reload},
        "routing_policy": config.routing_policy,
        "eviction_policy": config.eviction_policy,
        "doubts": doubts,
        "nodes": nodes,
        "loads": gateway.loads.status(),
        "queues": gateway.loads.crowded().iter().map(|desk| json!({
            "model": desk.model(), "waiting": desk.waiting(),
            "oldest_secs": desk.longest_wait().map(|wait| wait.as_secs_f64()),
        })).collect::<Vec<_>>(),
        "pins": &*gateway.fleet.pins(),
        "traffic": {"under_way": gateway.traffic.count(), "samples": last(gateway.traffic.samples.list(), 60)},
        "events": last(gateway.loads.chronicle.list(), 20),
        "policies": gateway.policies.table().status(),
        "models": config.catalogue.models().map(|m| &m.id).collect::<Vec<_>>(),
    })
}

fn last<T>(mut all: Vec<T>, most: usize) -> Vec<T> {
    all.split_off(all.len().saturating_sub(most))
}

/// What each key has used, beside what it may.
pub fn usage(gateway: &Gateway) -> Value {
    let config = gateway.config.load();
    gateway.accounts.report(|name| config.keys.named(name).map(|key| key.limits.clone()))
}

/// Policies with their figures, and the trial of a canary.
pub fn policies(gateway: &Gateway) -> Value {
    let config = gateway.config.load();
    json!({
        "routing": {"policy": config.routing_policy, "shadow": config.shadow_policy, "canary": gateway.decider.trial()},
        "eviction": {"policy": config.eviction_policy},
        "dirs": gateway.policies.dirs(),
        "policies": gateway.policies.table().status(),
    })
}

/// A node as it is known here, but for what changes with every second. `known`: of a model, by the node's name for it, the
/// catalogue's id and whether it is pinned.
pub(crate) fn node(view: &NodeView, known: &dyn Fn(&str) -> (String, bool)) -> Value {
    let model = |info: &ModelInfo| {
        let load = view.health.models.iter().find(|m| m.id == info.id);
        let (id, pinned) = known(&info.id);
        json!({"id": info.id, "model": id, "status": info.status, "devices": info.devices,
               "pinned": pinned,
               "vram_used_mb": info.vram_used_mb, "servable": info.servable,
               "in_flight": load.map(|l| l.in_flight), "queue_depth": load.map(|l| l.queue_depth)})
    };
    json!({"name": view.node.name, "endpoint": view.node.peer.endpoint, "state": view.state,
           "upstream": view.node.offer().is_some(), "draining": view.node.draining(),
           "left_alone_secs": view.node.left_alone_for().map(|time| time.as_secs_f64().ceil()), "error": view.error,
           "hostname": view.discovery.hostname, "devices": devices(view),
           "models": view.models.iter().map(model).collect::<Vec<_>>(),
           "in_flight": view.node.in_flight(), "driver_version": view.discovery.driver_version,
           "cuda_version": view.discovery.cuda_version,
           "cuda_unavailable_reason": view.discovery.cuda_unavailable_reason})
}

fn devices(view: &NodeView) -> Vec<Value> {
    let health = |index| view.health.devices.iter().find(|d| d.index == index);
    view.discovery
        .devices
        .iter()
        .map(|device| {
            let now = health(device.index);
            json!({"index": device.index, "name": device.name, "vram_total_mb": device.vram_total_mb,
                   "compute_capability": device.compute_capability,
                   "vram_used_mb": now.map(|d| d.vram_used_mb), "vram_free_mb": now.map(|d| d.vram_free_mb),
                   "utilization_pct": now.map(|d| d.utilization_pct), "temp_c": now.map(|d| d.temp_c),
                   "state": now.and_then(|d| d.state), "reason": now.and_then(|d| d.reason.as_deref())})
        })
        .collect()
}
