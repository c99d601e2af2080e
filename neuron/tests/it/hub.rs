//! Fetching, against a hub made here.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Instant};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::{StreamExt, stream};
use serde_json::json;
use tokio::{net::TcpListener, task::JoinSet};

use crate::support::{Daemon, Gguf};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A hub with one model, `test/tiny`, that wants a token.
async fn hub(tasks: &mut JoinSet<()>) -> SocketAddr {
    let file = Arc::new(Gguf::tiny("llama").bytes());
    let router = Router::new()
        .route("/api/models/{org}/{name}/tree/{revision}", get(list))
        .route("/{org}/{name}/resolve/{revision}/{file}", get(resolve))
        .with_state(file);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

fn allowed(headers: &HeaderMap, org: &str) -> Result<(), Response> {
    match headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()) {
        Some("Bearer mirror") if org == "test" => Ok(()),
        Some("Bearer mirror") => {
            Err((StatusCode::NOT_FOUND, [("x-error-code", "RepoNotFound")]).into_response())
        }
        _ => Err(StatusCode::UNAUTHORIZED.into_response()),
    }
}

async fn list(
    Path((org, _, _)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Result<Response, Response> {
    allowed(&headers, &org)?;
    let file = |path: &str| json!({ "type": "file", "oid": "o", "size": 1, "path": path });
    Ok(Json(json!([file("README.md"), file("tiny.Q8_0.gguf"), file("tiny.Q2_K.gguf")])).into_response())
}

async fn resolve(
    State(bytes): State<Arc<Vec<u8>>>,
    Path((org, name, _, file)): Path<(String, String, String, String)>,
    headers: HeaderMap,
) -> Result<Response, Response> {
    allowed(&headers, &org)?;
    assert_eq!(file, "tiny.Q8_0.gguf", "only the chosen file is fetched");
    let head = [("etag", "\"e1\""), ("x-repo-commit", COMMIT)];
    if name == "stalls" {
        // The start of the file, and then nothing.
        let start = stream::iter([Ok::<_, Infallible>(bytes[..1000].to_vec())]).chain(stream::pending());
        let length = ("content-length", bytes.len().to_string());
        return Ok((head, [length], Body::from_stream(start)).into_response());
    }
    Ok((head, bytes.as_ref().clone()).into_response())
}

fn source(address: SocketAddr, cache: &std::path::Path) -> String {
    format!("[sources.mirror]\nendpoint = \"http://{address}\"\nauth_env = \"M\"\ncache_dir = {cache:?}")
}

#[tokio::test]
async fn a_missing_model_is_fetched_once_and_then_needs_no_hub() {
    let (mut tasks, cache) = (JoinSet::new(), tempfile::tempdir().unwrap());
    let toml = source(hub(&mut tasks).await, cache.path());
    let env = [("M", "mirror"), ("HOME", "/nonexistent")];
    let daemon = Daemon::configured(&toml, &env).await;
    daemon.load("mirror:test/tiny").await;
    let snapshot = cache.path().join(format!("models--test--tiny/snapshots/{COMMIT}/tiny.Q8_0.gguf"));
    assert!(snapshot.exists());

    tasks.shutdown().await;
    let again = Daemon::configured(&toml, &env).await;
    again.load("mirror:test/tiny").await;
}

#[tokio::test]
async fn what_a_hub_refuses_is_told() {
    let (mut tasks, cache) = (JoinSet::new(), tempfile::tempdir().unwrap());
    let address = hub(&mut tasks).await;
    let check = async |token: &str, body: serde_json::Value, kind: &str| {
        let daemon =
            Daemon::configured(&source(address, cache.path()), &[("M", token), ("HOME", "/nonexistent")])
                .await;
        let reply = daemon.client().post("/models/load", body).await;
        assert_eq!(
            (reply.status.as_u16(), &reply.json()["error"]["kind"]),
            (422, &json!(kind)),
            "{:?}",
            reply.body
        );
    };
    check("wrong", json!({ "model_id": "mirror:test/tiny" }), "unauthorized").await;
    check("mirror", json!({ "model_id": "mirror:other/tiny" }), "repo_not_found").await;
    check("mirror", json!({ "model_id": "mirror:test/tiny", "quant": "Q6_K" }), "quant_not_found").await;
}

#[tokio::test]
async fn a_download_that_stalls_fails_and_blocks_nothing() {
    let (mut tasks, cache) = (JoinSet::new(), tempfile::tempdir().unwrap());
    let toml = format!("{}\nstall_secs = 1", source(hub(&mut tasks).await, cache.path()));
    let daemon = Daemon::configured(&toml, &[("M", "mirror"), ("HOME", "/nonexistent")]).await;
    let client = daemon.client();
    for _ in 0..2 {
        let load = client.post("/models/load", json!({ "model_id": "mirror:test/stalls" }));
        let reply = tokio::time::timeout(std::time::Duration::from_secs(20), load).await.expect("it fails");
        let error = &reply.json()["error"];
        assert_eq!((reply.status.as_u16(), &error["kind"]), (422, &json!("repo_fetch_failed")), "{error}");
        assert!(
            error["cause"].as_str().unwrap().contains("sent nothing of tiny.Q8_0.gguf for 1 s"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_hub_that_is_not_there_fails_fast() {
    let cache = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let daemon =
        Daemon::configured(&source(address, cache.path()), &[("M", "m"), ("HOME", "/nonexistent")]).await;
    let started = Instant::now();
    let reply = daemon.client().post("/models/load", json!({ "model_id": "mirror:a/b" })).await;
    let error = &reply.json()["error"];
    assert_eq!((reply.status.as_u16(), &error["kind"]), (422, &json!("offline_and_not_cached")), "{error}");
    assert!(started.elapsed().as_secs() < 10);
}
