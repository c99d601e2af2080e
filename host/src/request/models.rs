//! What the gateway answers itself: the models, and whether it is there.

use super::resolve::unknown;
use crate::config::{Key, Model};
use crate::facts::state;
use crate::fleet::{Fleet, find, readiness};
use crate::gateway::Gateway;
use crate::policy::Reply;
use crate::refusal::Refusal;
use neuron_protocol::ModelInfo;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// `GET /v1/models`: the catalogue, what nodes have besides, and the aliases.
pub(super) fn list(gateway: &Gateway, key: &Key) -> Reply {
    let data: Vec<Value> = all(gateway, key).into_values().collect();
    reply(&json!({"object": "list", "data": data}))
}

/// `GET /v1/models/{id}`
pub(super) fn one(gateway: &Gateway, key: &Key, id: &str) -> Result<Reply, Refusal> {
    match all(gateway, key).remove(id) {
        Some(model) => Ok(reply(&model)),
        None => Err(unknown(gateway, key, id)),
    }
}

/// Those that the key may use.
fn all(gateway: &Gateway, key: &Key) -> BTreeMap<String, Value> {
    let (config, fleet) = (gateway.config.load_full(), gateway.fleet.now());
    let mut models = BTreeMap::new();
    for model in config.catalogue.models().filter(|model| key.allows(&model.id)) {
        models.insert(model.id.clone(), entry(gateway, &fleet, model, true));
    }
    for info in fleet.nodes.iter().filter(|v| v.reachable()).flat_map(|v| &v.models) {
        let known = config.catalogue.on_node(&info.id).is_some();
        if !known && key.allows(&info.id) && info.can_serve() && !models.contains_key(&info.id) {
            let model = Model::uncatalogued(&info.id);
            models.insert(info.id.clone(), entry(gateway, &fleet, &model, false));
        }
    }
    for (alias, target) in config.catalogue.aliases() {
        if let Some(mut entry) = models.get(target).cloned() {
            entry["id"] = alias.into();
            entry["alias_of"] = target.into();
            models.insert(alias.to_owned(), entry);
        }
    }
    models
}

fn entry(gateway: &Gateway, fleet: &Fleet, model: &Model, catalogued: bool) -> Value {
    // What a node had when it was last heard of is not there while it is down.
    let here: Vec<(&str, &ModelInfo)> = fleet
        .nodes
        .iter()
        .filter(|v| v.reachable())
        .filter_map(|v| Some((v.node.name.as_str(), find(v, model)?.info)))
        .collect();
    let on: Vec<&ModelInfo> = here.iter().map(|(_, info)| *info).collect();
    let able = fleet.nodes.iter().filter(|view| {
        let loading = gateway.loads.running(&view.node, &model.id);
        readiness(view, model, catalogued, loading) > state::CANNOT
    });
    let feasible_on: Vec<&str> = able.map(|view| view.node.name.as_str()).collect();
    let locations: Vec<Value> = here
        .iter()
        .map(|(node, info)| json!({"node": node, "status": info.status, "devices": info.devices}))
        .collect();
    // What a node found in the model itself counts where the catalogue is silent.
    let limit = model.limit.clone().or_else(|| on.iter().find_map(|info| info.limit.clone()));
    let cost = model.cost.clone().or_else(|| on.iter().find_map(|info| info.cost.clone()));
    let mut capabilities = model.capabilities.clone();
    if capabilities.is_empty() {
        capabilities = on.first().map(|info| info.capabilities.clone()).unwrap_or_default();
    }
    let mut entry = json!({
        "id": model.id, "object": "model", "created": gateway.started_unix,
        "owned_by": model.id.split_once('/').map_or("cortex", |(org, _)| org),
        "loaded": on.iter().any(|info| info.can_serve()),
        "locations": locations, "feasible_on": feasible_on, "capabilities": capabilities,
    });
    if let Some(limit) = limit {
        entry["max_model_len"] = limit.context.into();
        entry["limit"] = json!(limit);
    }
    if let Some(cost) = cost {
        entry["cost"] = json!(cost);
    }
    entry
}

/// `GET /`
pub(super) fn alive(_gateway: &Gateway) -> Reply {
    reply(&json!({"name": "cortex", "version": env!("CARGO_PKG_VERSION")}))
}

/// `GET /health`: 200 while the process serves, with how much of the fleet does; 503 once it is about to end.
pub(super) fn health(gateway: &Gateway) -> Reply {
    let fleet = gateway.fleet.now();
    let up = fleet.nodes.iter().filter(|v| v.reachable()).count();
    let leaving = gateway.is_leaving();
    let status = if leaving {
        "shutting down"
    } else if up > 0 {
        "ok"
    } else {
        "no node is up"
    };
    let answer = reply(&json!({"status": status, "nodes": fleet.nodes.len(), "nodes_up": up}));
    Reply { status: if leaving { 503 } else { 200 }, ..answer }
}

fn reply(value: &Value) -> Reply {
    let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    Reply { status: 200, headers, body: value.to_string().into_bytes() }
}
