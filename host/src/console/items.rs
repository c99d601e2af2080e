//! What the console shows, as pieces that change one by one.

use crate::admin;
use crate::config::{Config, Model};
use crate::fleet::{Fleet, pinned_too_large};
use crate::gateway::Gateway;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// JSON by a name such as `node/beast`.
pub(super) type Items = BTreeMap<String, Arc<str>>;

/// Requests under way that are shown; how many there are is said beside them.
const SHOWN: usize = 200;

pub(super) fn collect(gateway: &Gateway) -> Items {
    let (config, fleet) = (gateway.config.load_full(), gateway.fleet.now());
    let mut items = Items::new();
    put(&mut items, "gateway".into(), &about(gateway, &config, &fleet));
    put(&mut items, "config".into(), &in_force(gateway, &config));
    let names = Names::new(&config);
    for view in &fleet.nodes {
        let known = |name: &str| {
            let id = names.id(name);
            let pinned = names.model(name).is_some_and(|model| model.pinned) || gateway.fleet.is_pinned(id);
            (id.to_owned(), pinned)
        };
        put(&mut items, format!("node/{}", view.node.name), &admin::node(view, &known));
    }
    for (id, model) in models(gateway, &config, &fleet, &names) {
        put(&mut items, format!("model/{id}"), &model);
    }
    for load in gateway.loads.status() {
        put(&mut items, format!("load/{}", load.model), &load);
    }
    for desk in gateway.loads.crowded() {
        let oldest = desk.longest_wait().map(|wait| wait.as_secs());
        let queue = json!({"model": desk.model(), "waiting": desk.waiting(), "oldest_secs": oldest});
        put(&mut items, format!("queue/{}", desk.model()), &queue);
    }
    for policy in gateway.policies.table().status() {
        put(&mut items, format!("policy/{}", policy.name), &policy);
    }
    for event in gateway.loads.chronicle.list() {
        put(&mut items, format!("event/{:012}", event.number), &event);
    }
    for underway in gateway.traffic.list(SHOWN) {
        put(&mut items, format!("live/{}", underway.id), &underway);
    }
    for record in gateway.recent.list() {
        put(&mut items, format!("request/{}", record.id), &*record);
    }
    if let Some(sample) = gateway.traffic.samples.last() {
        put(&mut items, "sample".into(), &sample);
    }
    items
}

fn put(items: &mut Items, key: String, value: &impl Serialize) {
    if let Ok(text) = serde_json::to_string(value) {
        items.insert(key, text.into());
    }
}

fn about(gateway: &Gateway, config: &Config, fleet: &Fleet) -> Value {
    let mut doubts = config.doubts();
    doubts.extend(pinned_too_large(fleet, config));
    let shadow = config.shadow_policy.as_ref().map(|name| {
        let count = |outcome: &str| {
            gateway.metrics.policy_shadow.with_label_values(&[name.as_str(), outcome]).get()
        };
        json!({"same": count("same"), "differs": count("differs"), "failed": count("failed"), "dropped": count("dropped")})
    });
    json!({
        "version": env!("CARGO_PKG_VERSION"), "started_ms": gateway.started_unix * 1000,
        "listen": config.listen.to_string(), "tls": config.tls.is_some(), "keys": !config.keys.is_empty(),
        "leaving": gateway.is_leaving(), "keeps_prompts": config.keep_prompts, "doubts": doubts, "under_way": gateway.traffic.count(),
        "routing": {"policy": config.routing_policy, "shadow": config.shadow_policy, "shadow_outcomes": shadow,
                    "canary_share": config.canary.as_ref().map(|c| json!({"policy": c.policy, "percent": c.percent})),
                    "canary": gateway.decider.trial()},
        "eviction": {"policy": config.eviction_policy}, "policy_dirs": gateway.policies.dirs(),
    })
}

fn in_force(gateway: &Gateway, config: &Config) -> Value {
    let reload = gateway.last_reload().map(|outcome| match outcome {
        Ok(reloaded) => json!({"ok": true, "changed": reloaded.changed, "lines": reloaded.lines}),
        Err(error) => json!({"ok": false, "error": error.to_string()}),
    });
    json!({"files": config.files, "last_reload": reload, "settings": config.settings})
}

/// The catalogue by what nodes call its models: found without a look at all of them.
struct Names<'a>(HashMap<String, &'a Model>);

impl<'a> Names<'a> {
    fn new(config: &'a Config) -> Self {
        let models = config.catalogue.models();
        Self(models.flat_map(|model| [(model.id.clone(), model), (model.node_id(), model)]).collect())
    }

    fn model(&self, name: &str) -> Option<&'a Model> {
        self.0.get(name).copied()
    }

    fn id<'b>(&self, name: &'b str) -> &'b str
    where
        'a: 'b,
    {
        self.model(name).map_or(name, |model| model.id.as_str())
    }
}

/// Those of the catalogue, and those that nodes have besides.
fn models(gateway: &Gateway, config: &Config, fleet: &Fleet, names: &Names<'_>) -> BTreeMap<String, Value> {
    let mut on: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for view in &fleet.nodes {
        for info in &view.models {
            let load = view.health.models.iter().find(|load| load.id == info.id);
            on.entry(names.id(&info.id).to_owned()).or_default().push(json!({
                "node": view.node.name, "status": info.status, "servable": info.servable,
                "devices": info.devices, "vram_used_mb": info.vram_used_mb,
                "in_flight": load.map(|load| load.in_flight), "queue_depth": load.map(|load| load.queue_depth),
            }));
        }
    }
    let mut aliases: HashMap<&str, Vec<&str>> = HashMap::new();
    for (alias, id) in config.catalogue.aliases() {
        aliases.entry(id).or_default().push(alias);
    }
    let mut all = BTreeMap::new();
    for model in config.catalogue.models() {
        let mut value = serde_json::to_value(model).unwrap_or_default();
        value["catalogued"] = true.into();
        value["class"] = model.class().into();
        value["aliases"] = aliases.get(model.id.as_str()).cloned().unwrap_or_default().into();
        value["pinned_by_operator"] = gateway.fleet.is_pinned(&model.id).into();
        value["on"] = on.remove(&model.id).unwrap_or_default().into();
        all.insert(model.id.clone(), value);
    }
    for (id, places) in on {
        let value = json!({"id": id, "catalogued": false, "aliases": [], "on": places});
        all.insert(id, value);
    }
    all
}
