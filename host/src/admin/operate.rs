//! What operators ask of the fleet: a model loaded or unloaded, a node drained, a model pinned.

use super::Refused;
use crate::config::{Model, Resolved, nearest};
use crate::fleet::{Draining, Node, NodeView, Why, find, why_nobody};
use crate::gateway::Gateway;
use crate::policy::NotTaken;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use futures_util::future::join_all;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::Arc;

type Answer = Result<Json<Value>, Refused>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OfModel {
    model: String,
    /// Absent: wherever the gateway thinks best, or everywhere it is.
    node: Option<String>,
    /// Also what is in use, once that has ended.
    #[serde(default)]
    drain: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Switch {
    #[serde(alias = "model", alias = "node")]
    name: String,
    #[serde(default = "yes")]
    on: bool,
}

fn yes() -> bool {
    true
}

/// `POST /admin/load {model, node?}`: answered when it is there.
pub(super) async fn load(State(gateway): State<Arc<Gateway>>, body: Bytes) -> Answer {
    let asked: OfModel = parse(&body)?;
    let model = catalogued(&gateway, &asked.model)?;
    let nodes = match &asked.node {
        Some(name) => vec![may_have(&*view(&gateway, name)?, &model)?],
        None => gateway.loads.candidates(&model),
    };
    // The job under way may be for another node, or give up sooner than an operator wants: then once more.
    for _ in 0..2 {
        let there = places(&gateway, &model);
        if asked.node.as_ref().map_or(!there.is_empty(), |name| there.contains(name)) {
            break;
        }
        if nodes.is_empty() {
            return Err(Refused(StatusCode::CONFLICT, why_nobody(&gateway.fleet.now(), &model, true)));
        }
        let job = gateway.loads.start(&model, nodes.clone(), Why::Operator);
        let outcome = job.outcome().await;
        if job.why == Why::Operator {
            outcome.map_err(|failure| Refused(failure.status, failure.message))?;
        }
    }
    let there = places(&gateway, &model);
    if asked.node.as_ref().map_or(there.is_empty(), |name| !there.contains(name)) {
        let message =
            format!("{} could not be loaded there; `cortex status` says what is under way", model.id);
        return Err(Refused(StatusCode::CONFLICT, message));
    }
    Ok(Json(json!({"status": "loaded", "model": model.id, "nodes": places(&gateway, &model)})))
}

/// `POST /admin/plan-load {model, node?}`: what a load would take on each neuron, who would leave for it, and on which
/// nodes it would be tried in which order.
pub(super) async fn plan_load(State(gateway): State<Arc<Gateway>>, body: Bytes) -> Answer {
    let asked: OfModel = parse(&body)?;
    let model = catalogued(&gateway, &asked.model)?;
    let nodes: Vec<Arc<Node>> = match &asked.node {
        Some(name) => vec![view(&gateway, name)?.node.clone()],
        None => gateway.fleet.now().nodes.iter().map(|view| view.node.clone()).collect(),
    };
    // Nothing is loaded at an upstream: it has a model or not.
    let fleet = gateway.fleet.now();
    let has = |node: &Arc<Node>| fleet.view(node).is_some_and(|view| find(view, &model).is_some());
    let asking = nodes.iter().filter(|node| node.offer().is_none() || has(node));
    // All at once: a slow one holds nobody up.
    let foreseen = join_all(asking.map(|node| gateway.loads.foresee(node, &model))).await;
    let order = gateway.loads.candidates(&model);
    let could = |node: &&Arc<Node>| foreseen.iter().any(|one| one.node == node.name && one.outcome.is_load());
    let order: Vec<&str> = order.iter().filter(could).map(|node| node.name.as_str()).collect();
    Ok(Json(json!({"model": model.id, "order": order, "nodes": foreseen})))
}

/// `POST /admin/unload {model, node?, drain?}`
pub(super) async fn unload(State(gateway): State<Arc<Gateway>>, body: Bytes) -> Answer {
    let asked: OfModel = parse(&body)?;
    let model = match gateway.config.load().catalogue.resolve(&asked.model) {
        Resolved::Catalogued(_) => catalogued(&gateway, &asked.model)?,
        // What a node has besides the catalogue can go, too.
        Resolved::Other(id) => Model::uncatalogued(&id),
    };
    let fleet = gateway.fleet.now();
    let on: Vec<Arc<Node>> = match &asked.node {
        Some(name) => vec![view(&gateway, name)?.node.clone()],
        None => fleet.nodes.iter().filter(|v| find(v, &model).is_some()).map(|v| v.node.clone()).collect(),
    };
    if !on.iter().any(|node| fleet.view(node).is_some_and(|view| find(view, &model).is_some())) {
        return Err(Refused(StatusCode::NOT_FOUND, format!("{} is not loaded there", model.id)));
    }
    if let Some(node) = on.iter().find(|node| node.offer().is_some()) {
        let message =
            format!("{} is an upstream: what it has is its own to unload; --node names another", node.name);
        return Err(Refused(StatusCode::CONFLICT, message));
    }
    for (done, node) in on.iter().enumerate() {
        let unloaded = gateway.loads.unload(node, &model, asked.drain).await;
        unloaded.map_err(|failure| {
            let gone: Vec<&str> = on[..done].iter().map(|node| node.name.as_str()).collect();
            let gone =
                if gone.is_empty() { String::new() } else { format!("; gone from {}", gone.join(", ")) };
            Refused(StatusCode::CONFLICT, failure.message + &gone)
        })?;
    }
    let nodes: Vec<&str> = on.iter().map(|node| node.name.as_str()).collect();
    Ok(Json(json!({"status": "unloaded", "model": model.id, "nodes": nodes})))
}

/// `POST /admin/drain {node, on?}`: no new requests and no loads there; what runs goes on.
pub(super) async fn drain(State(gateway): State<Arc<Gateway>>, body: Bytes) -> Answer {
    let asked: Switch = parse(&body)?;
    let node = view(&gateway, &asked.name)?.node.clone();
    node.drain(Draining::Operator, asked.on);
    gateway.fleet.touch();
    Ok(Json(json!({"node": node.name, "draining": asked.on, "in_flight": node.in_flight()})))
}

/// `POST /admin/pin {model, on?}`: never unloaded to make room, until the gateway is restarted.
pub(super) async fn pin(State(gateway): State<Arc<Gateway>>, body: Bytes) -> Answer {
    let asked: Switch = parse(&body)?;
    let model = catalogued(&gateway, &asked.name)?;
    gateway.fleet.pin(&model.id, asked.on);
    let by_catalogue = if model.pinned { " and the catalogue pins it" } else { "" };
    let note = format!("until the next restart{by_catalogue}");
    Ok(Json(json!({"model": model.id, "pinned": asked.on || model.pinned, "note": note})))
}

/// `PUT /admin/policies/{name}`, the component as its body: through the gate, then into the directory.
pub(super) async fn upload(
    State(gateway): State<Arc<Gateway>>,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<(StatusCode, Json<Value>), Refused> {
    let policies = gateway.policies.clone();
    let taken = tokio::task::spawn_blocking(move || policies.upload(&name, &body)).await;
    let taken = taken.map_err(|e| Refused(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
    let report = match taken {
        Ok(report) => report,
        Err(NotTaken::Refused(report)) => {
            let message = NotTaken::Refused(report.clone()).to_string();
            let said = json!({"error": {"message": message, "report": report}});
            return Ok((StatusCode::UNPROCESSABLE_ENTITY, Json(said)));
        }
        Err(refused) => return Err(not_taken(&refused)),
    };
    let table = gateway.policies.table();
    let live = table.status().into_iter().find(|policy| policy.name == report.policy);
    let said = json!({"status": "live", "sha256": report.sha256, "stages": report.stages, "policy": live});
    Ok((StatusCode::OK, Json(said)))
}

/// `POST /admin/policies/{name}/rollback`: what the last upload replaced serves again.
pub(super) async fn roll_back(State(gateway): State<Arc<Gateway>>, Path(name): Path<String>) -> Answer {
    let (policies, of) = (gateway.policies.clone(), name.clone());
    let outcome = tokio::task::spawn_blocking(move || policies.roll_back(&of)).await;
    let outcome = outcome.map_err(|e| Refused(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
    outcome.map_err(|refused| not_taken(&refused))?;
    let live = gateway.policies.table().status().into_iter().find(|policy| policy.name == name);
    Ok(Json(json!({"status": "rolled back", "policy": live})))
}

fn not_taken(refused: &NotTaken) -> Refused {
    let status = match refused {
        NotTaken::Name(_) => StatusCode::BAD_REQUEST,
        NotTaken::TooLarge(..) => StatusCode::PAYLOAD_TOO_LARGE,
        NotTaken::Refused(_) => StatusCode::UNPROCESSABLE_ENTITY,
        NotTaken::NoDirectory | NotTaken::Overtaken(_) | NotTaken::NothingBefore(_) => StatusCode::CONFLICT,
        NotTaken::Write { .. } => StatusCode::INSUFFICIENT_STORAGE,
    };
    Refused(status, refused.to_string())
}

/// Whatever content type it comes under: people type it.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refused> {
    serde_json::from_slice(body).map_err(|e| Refused(StatusCode::BAD_REQUEST, format!("the body: {e}")))
}

fn catalogued(gateway: &Gateway, name: &str) -> Result<Model, Refused> {
    let config = gateway.config.load();
    if let Resolved::Catalogued(id) = config.catalogue.resolve(name)
        && let Some(model) = config.catalogue.get(&id)
    {
        return Ok(model.clone());
    }
    let aliases = config.catalogue.aliases().map(|(alias, _)| alias);
    let known = config.catalogue.models().map(|m| m.id.as_str()).chain(aliases);
    Err(Refused(StatusCode::NOT_FOUND, unknown("model", name, nearest(name, known, 1).pop())))
}

fn view(gateway: &Gateway, name: &str) -> Result<Arc<NodeView>, Refused> {
    let fleet = gateway.fleet.now();
    let names = fleet.nodes.iter().map(|view| view.node.name.as_str());
    let like = nearest(name, names, 1).pop();
    let found = fleet.node(name).cloned();
    found.ok_or_else(|| Refused(StatusCode::NOT_FOUND, unknown("neuron", name, like)))
}

/// The node, where the catalogue and the operators let it have the model.
fn may_have(view: &NodeView, model: &Model) -> Result<Arc<Node>, Refused> {
    let refused = |why: &str| Err(Refused(StatusCode::CONFLICT, format!("{} {why}", view.node.name)));
    match view {
        view if view.node.offer().is_some() => refused("is an upstream: what it has is its own to load"),
        view if view.node.draining().is_some() => refused("is being drained: cortex drain --undo"),
        view if !model.allowed_on(&view.node.name) => refused("is not in the model's pinned_on"),
        view => Ok(view.node.clone()),
    }
}

fn unknown(kind: &str, name: &str, like: Option<String>) -> String {
    let hint = like.map(|like| format!("; did you mean {like:?}?")).unwrap_or_default();
    format!("there is no {kind} {name:?}{hint}")
}

fn places(gateway: &Gateway, model: &Model) -> Vec<String> {
    let fleet = gateway.fleet.now();
    let has = |view: &&Arc<NodeView>| find(view, model).is_some_and(|found| found.info.can_serve());
    fleet.nodes.iter().filter(has).map(|view| view.node.name.clone()).collect()
}
