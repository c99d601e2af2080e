//! A server that speaks OpenAI and is no neuron: what it has, told as a neuron would tell it. It loads and unloads
//! nothing for us, has no devices that we know of, and cannot be listened to.

use super::Node;
use crate::config::Offer;
use crate::upstream::{Upstream, UpstreamError};
use http::StatusCode;
use neuron_protocol::{ModelInfo, ModelStatus};
use serde::Deserialize;
use std::time::Duration;

/// `GET /models`
#[derive(Deserialize)]
struct Listed {
    data: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    id: String,
}

/// What it lists, or what the configuration says that it has, by the names that clients use.
pub(super) async fn models(
    upstream: &Upstream,
    node: &Node,
    offer: &Offer,
    limit: Duration,
) -> Result<Vec<ModelInfo>, UpstreamError> {
    // Behind a Unix socket there is no path to say where its API begins.
    let path = if node.peer.has_base() { "/models" } else { "/v1/models" };
    let listed = upstream.get::<Listed>(&node.control, path, limit).await;
    let names: Vec<String> = match listed {
        Ok(_) | Err(UpstreamError::Status { status: StatusCode::NOT_FOUND, .. })
            if !offer.models.is_empty() =>
        {
            // Some have more than they list: a name is wrong when a request for it says so.
            offer.models.keys().cloned().collect()
        }
        listed => listed?.data.into_iter().map(|entry| entry.id).collect(),
    };
    let known = |id: String| ModelInfo {
        id,
        harness: "openai".into(),
        status: ModelStatus::Loaded,
        ..ModelInfo::default()
    };
    Ok(names.into_iter().map(known).collect())
}

/// Its own name for what clients ask for.
pub(super) fn name<'a>(offer: &'a Offer, model: &'a str) -> &'a str {
    offer.models.get(model).map_or(model, String::as_str)
}

pub(super) fn not_ours(node: &Node) -> UpstreamError {
    UpstreamError::Malformed(format!("{} is an upstream: it loads and unloads for itself", node.name))
}
