//! What a node's refusal to load a model says.

use super::LoadFailure;
use crate::config::Model;
use crate::fleet::Node;
use crate::fleet::plan::Need;
use crate::upstream::UpstreamError;
use http::StatusCode;
use neuron_protocol::LoadError;

/// A node's refusal as every waiter gets it. A 422 is about the model, the rest about the node; so is one that passes.
pub(in crate::fleet) fn failure(node: &Node, model: &Model, error: &UpstreamError) -> LoadFailure {
    let UpstreamError::Status { status, body } = error else {
        return LoadFailure {
            status: StatusCode::SERVICE_UNAVAILABLE,
            code: "node_unavailable".into(),
            message: format!("node {} could not load {}: {error}", node.name, model.id),
            elsewhere: true,
        };
    };
    let said: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    let inner = &said["error"];
    let text = inner["message"].as_str().or(inner.as_str()).unwrap_or(body);
    let code =
        inner["kind"].as_str().or(said["code"].as_str()).or(inner["code"].as_str()).unwrap_or("load_failed");
    let known: Option<LoadError> = serde_json::from_value(inner.clone()).ok();
    let passes = known.is_some_and(|error| error.passes_in().is_some());
    let status = match *status {
        StatusCode::UNPROCESSABLE_ENTITY if !passes => StatusCode::UNPROCESSABLE_ENTITY,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    LoadFailure {
        status,
        code: code.to_owned(),
        message: format!("node {}: {text}", node.name),
        elsewhere: true,
    }
}

/// What the model needs, where a node refused it with a 507 that says how much it wants and has.
pub(in crate::fleet) fn need(error: &UpstreamError) -> Option<Need> {
    let UpstreamError::Status { status: StatusCode::INSUFFICIENT_STORAGE, body } = error else { return None };
    let said: serde_json::Value = serde_json::from_str(body).ok()?;
    let [required, free] = ["required_mb", "free_mb"].map(|key| said["error"][key].as_u64());
    let (required, free) = (required?, free?);
    // Of what a device shows as free the node can use less, or its figure is wrong.
    Some(Need { mb: required, at_least: required.saturating_sub(free).max(1) })
}
