//! From the name that a client asked for to a model of the catalogue, or one that a node has.

use super::read::Asked;
use crate::config::{Key, Model, Resolved, nearest};
use crate::fleet::{NodeView, find, is_coming};
use crate::gateway::Gateway;
use crate::refusal::Refusal;
use http::StatusCode;

/// The model that a request is for.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) model: Model,
    /// Only models of the catalogue are loaded; others are served where a node has them.
    pub(super) catalogued: bool,
    /// For metrics: never a client's own words.
    pub(super) label: String,
}

/// A 404 names the nearest ids.
pub(super) fn resolve(gateway: &Gateway, key: &Key, asked: &Asked) -> Result<Target, Refusal> {
    let config = gateway.config.load();
    let id = match config.catalogue.resolve(&asked.model) {
        Resolved::Catalogued(id) => {
            let model = config.catalogue.get(&id).cloned().unwrap_or_default();
            return Ok(Target { model, catalogued: true, label: id });
        }
        Resolved::Other(id) => id,
    };
    let fleet = gateway.fleet.now();
    let model = Model::uncatalogued(&id);
    let has = |view: &NodeView| find(view, &model).is_some_and(|found| found.info.can_serve());
    if fleet.nodes.iter().any(|view| has(view) || is_coming(view, &model)) {
        return Ok(Target { model, catalogued: false, label: id });
    }
    Err(unknown(gateway, key, &asked.model))
}

/// 404 for a model that nobody has, or that the key does not; names only what the key may use.
pub(super) fn unknown(gateway: &Gateway, key: &Key, asked: &str) -> Refusal {
    let config = gateway.config.load();
    let fleet = gateway.fleet.now();
    let on_nodes = fleet.nodes.iter().flat_map(|view| view.models.iter().map(|m| m.id.as_str()));
    let on_nodes = on_nodes.filter(|name| key.allows(config.catalogue.id_of(name)));
    let aliases = config.catalogue.aliases().filter(|(_, id)| key.allows(id)).map(|(alias, _)| alias);
    let known: std::collections::BTreeSet<&str> = config
        .catalogue
        .models()
        .map(|m| m.id.as_str())
        .filter(|id| key.allows(id))
        .chain(aliases)
        .chain(on_nodes)
        .collect();
    let like = nearest(asked, known.iter().copied(), 3);
    let hint = match (like.is_empty(), known.is_empty()) {
        (false, _) => format!("; nearest: {}", like.join(", ")),
        (true, false) => "; GET /v1/models lists what there is".to_owned(),
        (true, true) => "; the catalogue is empty and no node has a model".to_owned(),
    };
    let shown: String = asked.chars().take(200).collect();
    let message = format!("the model `{shown}` does not exist here{hint}");
    let refusal = Refusal::new(StatusCode::NOT_FOUND, "model_not_found", message);
    Refusal { param: Some("model"), ..refusal }
}
