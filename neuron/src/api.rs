//! The HTTP API. Requests are read, checked and turned into text here; computing is the device's.

mod answer;
mod body;
mod chat;
mod completions;
mod embeddings;
mod error;
mod fields;
mod layers;
mod lifecycle;
mod meta;
mod params;
mod remember;
mod sse;
mod tokenize;
mod tokens;
mod watch;

use std::{net::SocketAddr, sync::Arc, time::Instant};

use axum::{
    Router, middleware,
    routing::{get, post},
};
use neuron_protocol::Discovery;
use sha2::{Digest, Sha256};
use tokio::sync::watch::Receiver;

use crate::{config::Token, engine::GuideThreads, registry::Registry, shelf::Shelf};

/// Where other nodes fetch models from, over the hub's API.
const HUB: &str = "/hub";

/// What every handler has.
pub(crate) struct App {
    pub(crate) registry: Arc<Registry>,
    pub(crate) discovery: Discovery,
    /// Where this daemon listens, as it tells others.
    pub(crate) url: String,
    pub(crate) started: Instant,
    /// By SHA-256 of each: equal lengths compare in equal time.
    tokens: Vec<([u8; 32], Token)>,
    tokenizing: tokens::Tokenizing,
    guides: GuideThreads,
    watchers: watch::Watchers,
    /// Whether the daemon stops.
    stopped: Receiver<bool>,
}

impl App {
    pub(crate) fn new(
        registry: Arc<Registry>,
        bound: SocketAddr,
        stopped: Receiver<bool>,
    ) -> std::io::Result<Arc<Self>> {
        let digest = |token: &Token| (Sha256::digest(&token.secret).into(), token.clone());
        let tokens = registry.config.tokens.iter().map(digest).collect();
        // Nobody can connect to "any address"; loopback means the host that was asked.
        let ip = if bound.ip().is_unspecified() { [127, 0, 0, 1].into() } else { bound.ip() };
        let url = format!("http://{}", SocketAddr::new(ip, bound.port()));
        let discovery = meta::discover(&registry);
        let (started, tokenizing) = (Instant::now(), tokens::Tokenizing::new());
        let watchers = watch::Watchers::new();
        // One core goes on computing.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let guides = GuideThreads::start((cores / 2).max(1))?;
        Ok(Arc::new(Self {
            registry,
            discovery,
            url,
            started,
            tokens,
            tokenizing,
            guides,
            watchers,
            stopped,
        }))
    }
}

/// All routes. The chain, outermost first: an id for the request, so that even a refusal has one; the
/// token; then the handler.
pub(crate) fn router(app: Arc<App>) -> Router {
    let config = &app.registry.config;
    let caches =
        config.sources.values().filter(|source| source.roots.is_empty()).map(|source| &source.cache_dir);
    let mut router = Router::new();
    if config.share_models {
        router = router.nest_service(HUB, Shelf::routes(HUB, caches));
    }
    router
        .route("/", get(meta::root))
        .route("/version", get(meta::version))
        .route("/discovery", get(meta::discovery))
        .route("/health", get(meta::health))
        .route("/models", get(meta::models))
        .route("/watch", get(watch::watch))
        .route("/models/load", post(lifecycle::load))
        .route("/models/preflight", post(lifecycle::preflight))
        .route("/models/unload", post(lifecycle::unload))
        .route("/models/park", post(lifecycle::park))
        .route("/models/wake", post(lifecycle::wake))
        .route("/models/{*path}", get(lifecycle::about))
        .route("/defrag", post(lifecycle::defrag))
        .route("/tokenize", post(tokenize::tokenize))
        .route("/detokenize", post(tokenize::detokenize))
        .route("/v1/chat/completions", post(chat::chat))
        .route("/v1/completions", post(completions::completions))
        .route("/v1/embeddings", post(embeddings::embeddings))
        .fallback(error::no_such_path)
        .method_not_allowed_fallback(error::wrong_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&app), layers::authenticate))
        .layer(middleware::from_fn(layers::name_request))
        .with_state(app)
}
