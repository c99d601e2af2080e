//! What operators see: `/admin/*` on a listener of its own, and metrics on another.

mod authorise;
mod operate;

use crate::config::Role;
use crate::fleet::pinned_too_large;
use crate::gateway::Gateway;
use crate::policy::limits;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router, middleware};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;

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
/// `/admin/plan-load`, `/admin/unload`, `/admin/drain`, `/admin/pin`; `PUT /admin/policies/{name}`
pub fn admin_router(gateway: &Arc<Gateway>) -> Router {
    // A path has its methods in one role's routes, or axum would let one of them in the place of the other.
    let of = |role: Role, routes: Router<Arc<Gateway>>| {
        let state = (gateway.clone(), role);
        routes.route_layer(middleware::from_fn_with_state(state, authorise::authorise))
    };
    let seen = Router::new()
        .route("/admin/status", get(async |State(gateway): State<Arc<Gateway>>| Json(status(&gateway))))
        .route(
            "/admin/requests",
            get(async |State(gateway): State<Arc<Gateway>>| Json(gateway.recent.list())),
        )
        .route("/admin/requests/{id}", get(request))
        .route("/admin/usage", get(async |State(gateway): State<Arc<Gateway>>| Json(usage(&gateway))))
        .route("/admin/policies", get(async |State(gateway): State<Arc<Gateway>>| Json(policies(&gateway))));
    let done = Router::new()
        .route("/admin/load", post(operate::load))
        .route("/admin/plan-load", post(operate::plan_load))
        .route("/admin/unload", post(operate::unload))
        .route("/admin/drain", post(operate::drain))
        .route("/admin/pin", post(operate::pin));
    let uploaded = Router::new()
        .route("/admin/policies/{name}", put(operate::upload))
        .layer(DefaultBodyLimit::max(limits::COMPONENT_AT_MOST as usize));
    of(Role::Viewer, seen)
        .merge(of(Role::Operator, done))
        .merge(of(Role::PolicyUpload, uploaded))
        .with_state(gateway.clone())
}

/// `{"error": {"message": …}}` with its status.
struct Refused(StatusCode, String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, Json(json!({"error": {"message": self.1}}))).into_response()
    }
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
            let models: Vec<Value> = view
                .models
                .iter()
                .map(|info| {
                    let load = view.health.models.iter().find(|m| m.id == info.id);
                    json!({"id": info.id, "status": info.status, "devices": info.devices,
                           "pinned": gateway.is_pinned(&info.id),
                           "vram_used_mb": info.vram_used_mb, "servable": info.servable,
                           "in_flight": load.map(|l| l.in_flight), "queue_depth": load.map(|l| l.queue_depth)})
                })
                .collect();
            json!({"name": view.node.name, "endpoint": view.node.peer.endpoint, "state": view.state,
                   "draining": view.node.draining(),
                   "left_alone_secs": view.node.left_alone_for().map(|time| time.as_secs_f64()), "error": view.error, "uptime_secs": view.health.uptime_secs,
                   "hostname": view.discovery.hostname, "devices": devices(view), "models": models,
                   "cuda_unavailable_reason": view.discovery.cuda_unavailable_reason})
        })
        .collect();
    let mut doubts = config.doubts();
    doubts.extend(pinned_too_large(&fleet, &config));
    let reload = gateway.last_reload().map(|outcome| match outcome {
        Ok(changed) => json!({"ok": true, "changed": changed}),
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
        "policies": gateway.policies.table().status(),
        "models": config.catalogue.models().map(|m| &m.id).collect::<Vec<_>>(),
    })
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

fn devices(view: &crate::fleet::NodeView) -> Vec<Value> {
    let health = |index| view.health.devices.iter().find(|d| d.index == index);
    view.discovery
        .devices
        .iter()
        .map(|device| {
            let now = health(device.index);
            json!({"index": device.index, "name": device.name, "vram_total_mb": device.vram_total_mb,
                   "vram_used_mb": now.map(|d| d.vram_used_mb), "vram_free_mb": now.map(|d| d.vram_free_mb),
                   "state": now.and_then(|d| d.state), "reason": now.and_then(|d| d.reason.as_deref())})
        })
        .collect()
}
