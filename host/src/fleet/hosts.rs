//! What the fleet asks of a node beside inference: a seam, so that hundreds of simulated nodes can be behind
//! the same code.

use super::Node;
use super::listen::{Deaf, Listener};
use crate::upstream::{Upstream, UpstreamError};
use neuron_protocol::{
    Defragged, Discovery, Health, LoadRequest, LoadResponse, ModelInfo, UnloadRequest, UnloadResponse,
};
use serde_json::json;
use std::future::Future;
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
    fn unload<'a>(
        &'a self,
        node: &'a Node,
        request: &'a UnloadRequest,
        limit: Duration,
    ) -> Answer<'a, UnloadResponse>;
    /// `park` takes the weights of a model to the host's memory, `wake` brings them back.
    fn shift<'a>(
        &'a self,
        node: &'a Node,
        what: Shift,
        model: &'a str,
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
        Box::pin(self.get(&node.peer, "/health", POLL_LIMIT))
    }

    fn discovery<'a>(&'a self, node: &'a Node) -> Answer<'a, Discovery> {
        Box::pin(self.get(&node.peer, "/discovery", POLL_LIMIT))
    }

    fn models<'a>(&'a self, node: &'a Node) -> Answer<'a, Vec<ModelInfo>> {
        Box::pin(self.get(&node.peer, "/models", POLL_LIMIT))
    }

    fn load<'a>(
        &'a self,
        node: &'a Node,
        request: &'a LoadRequest,
        limit: Duration,
    ) -> Answer<'a, LoadResponse> {
        Box::pin(self.post(&node.peer, "/models/load", request, limit))
    }

    fn unload<'a>(
        &'a self,
        node: &'a Node,
        request: &'a UnloadRequest,
        limit: Duration,
    ) -> Answer<'a, UnloadResponse> {
        Box::pin(self.post(&node.peer, "/models/unload", request, limit))
    }

    fn shift<'a>(
        &'a self,
        node: &'a Node,
        what: Shift,
        model: &'a str,
        limit: Duration,
    ) -> Answer<'a, serde_json::Value> {
        let path = match what {
            Shift::Park => "/models/park",
            Shift::Wake => "/models/wake",
        };
        Box::pin(async move { self.post(&node.peer, path, &json!({"model_id": model}), limit).await })
    }

    fn defrag<'a>(&'a self, node: &'a Node) -> Answer<'a, Defragged> {
        Box::pin(async move { self.post(&node.peer, "/defrag", &json!({}), DEFRAG_LIMIT).await })
    }

    fn listen<'a>(
        &'a self,
        node: &'a Node,
    ) -> Pin<Box<dyn Future<Output = Result<Listener, Deaf>> + Send + 'a>> {
        Box::pin(Listener::open(self, &node.peer))
    }
}
