//! What the fleet asks of a node beside inference: a seam, so that hundreds of simulated nodes can be behind
//! the same code.

use super::listen::{Deaf, Listener};
use super::{Node, offer};
use crate::upstream::{Upstream, UpstreamError};
use neuron_protocol::{
    Defragged, Discovery, Health, LoadRequest, LoadResponse, ModelInfo, Preflight, UnloadRequest,
    UnloadResponse,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::future::{Future, ready};
use std::pin::Pin;
use std::time::Duration;

/// One question of a poll; a node that takes longer has missed it.
const POLL_LIMIT: Duration = Duration::from_secs(3);
/// What a node gets to give all cached memory back.
const DEFRAG_LIMIT: Duration = Duration::from_secs(60);

/// What is still to come from a node.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, UpstreamError>> + Send + 'a>>;

/// The nodes, as their API is.
pub trait Hosts: Send + Sync + 'static {
    fn health<'a>(&'a self, node: &'a Node) -> Answer<'a, Health>;
    fn discovery<'a>(&'a self, node: &'a Node) -> Answer<'a, Discovery>;
    fn models<'a>(&'a self, node: &'a Node) -> Answer<'a, Vec<ModelInfo>>;
    fn load<'a>(
        &'a self,
        node: &'a Node,
        request: &'a LoadRequest,
        limit: Duration,
    ) -> Answer<'a, LoadResponse>;
    /// What a load would take.
    fn preflight<'a>(
        &'a self,
        node: &'a Node,
        request: &'a LoadRequest,
        limit: Duration,
    ) -> Answer<'a, Preflight>;
    fn unload<'a>(
        &'a self,
        node: &'a Node,
        request: &'a UnloadRequest,
        limit: Duration,
    ) -> Answer<'a, UnloadResponse>;
    /// `park` takes the weights of a model to the host's memory, on the conditions of an unload; `wake` brings them back, and
    /// looks at the model's name alone.
    fn shift<'a>(
        &'a self,
        node: &'a Node,
        what: Shift,
        request: &'a UnloadRequest,
        limit: Duration,
    ) -> Answer<'a, serde_json::Value>;
    fn defrag<'a>(&'a self, node: &'a Node) -> Answer<'a, Defragged>;
    /// Opens `/watch`.
    fn listen<'a>(
        &'a self,
        node: &'a Node,
    ) -> Pin<Box<dyn Future<Output = Result<Listener, Deaf>> + Send + 'a>>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shift {
    Park,
    Wake,
}

impl Hosts for Upstream {
    fn health<'a>(&'a self, node: &'a Node) -> Answer<'a, Health> {
        match node.offer() {
            Some(_) => Box::pin(ready(Ok(Health::default()))),
            None => Box::pin(self.get(&node.control, "/health", POLL_LIMIT)),
        }
    }

    fn discovery<'a>(&'a self, node: &'a Node) -> Answer<'a, Discovery> {
        match node.offer() {
            Some(_) => Box::pin(ready(Ok(Discovery::default()))),
            None => Box::pin(self.get(&node.control, "/discovery", POLL_LIMIT)),
        }
    }

    fn models<'a>(&'a self, node: &'a Node) -> Answer<'a, Vec<ModelInfo>> {
        match node.offer() {
            Some(offer) => Box::pin(offer::models(self, node, offer, POLL_LIMIT)),
            None => Box::pin(self.get(&node.control, "/models", POLL_LIMIT)),
        }
    }

    fn load<'a>(
        &'a self,
        node: &'a Node,
        request: &'a LoadRequest,
        limit: Duration,
    ) -> Answer<'a, LoadResponse> {
        told(self, node, "/models/load", request, limit)
    }

    fn preflight<'a>(
        &'a self,
        node: &'a Node,
        request: &'a LoadRequest,
        limit: Duration,
    ) -> Answer<'a, Preflight> {
        told(self, node, "/models/preflight", request, limit)
    }

    fn unload<'a>(
        &'a self,
        node: &'a Node,
        request: &'a UnloadRequest,
        limit: Duration,
    ) -> Answer<'a, UnloadResponse> {
        told(self, node, "/models/unload", request, limit)
    }

    fn shift<'a>(
        &'a self,
        node: &'a Node,
        what: Shift,
        request: &'a UnloadRequest,
        limit: Duration,
    ) -> Answer<'a, serde_json::Value> {
        let path = match what {
            Shift::Park => "/models/park",
            Shift::Wake => "/models/wake",
        };
        told(self, node, path, request, limit)
    }

    fn defrag<'a>(&'a self, node: &'a Node) -> Answer<'a, Defragged> {
        told(self, node, "/defrag", json!({}), DEFRAG_LIMIT)
    }

    fn listen<'a>(
        &'a self,
        node: &'a Node,
    ) -> Pin<Box<dyn Future<Output = Result<Listener, Deaf>> + Send + 'a>> {
        match node.offer() {
            Some(_) => Box::pin(ready(Err(Deaf::Unknown))),
            None => Box::pin(Listener::open(self, &node.control)),
        }
    }
}

/// What changes something there.
fn told<'a, T: DeserializeOwned + Send + 'a>(
    upstream: &'a Upstream,
    node: &'a Node,
    path: &'static str,
    body: impl Serialize + Send + Sync + 'a,
    limit: Duration,
) -> Answer<'a, T> {
    match node.offer() {
        Some(_) => Box::pin(ready(Err(offer::not_ours(node)))),
        None => Box::pin(async move { upstream.post(&node.control, path, &body, limit).await }),
    }
}
