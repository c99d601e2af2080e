//! Fetching models in safetensors, against a hub made here.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path as FilePath, PathBuf},
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use neuron::{config::Config, sources};
use neuron_protocol::LoadError;
use serde_json::json;
use tokio::{net::TcpListener, task::JoinSet};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A hub with the model in this folder, and with what of it was asked for: revision and file.
struct Hub {
    folder: PathBuf,
    /// Files that it lists, but fails to send.
    broken: Mutex<BTreeSet<String>>,
    hidden: Option<&'static str>,
    sent: Mutex<Vec<(String, String)>>,
}

async fn hub(tasks: &mut JoinSet<()>, model: &str, hidden: Option<&'static str>) -> (SocketAddr, Arc<Hub>) {
    let folder = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/references").join(model);
    let hub = Arc::new(Hub { folder, broken: Mutex::default(), hidden, sent: Mutex::default() });
    let router = Router::new()
        .route("/api/models/{org}/{name}/tree/{revision}", get(list))
        .route("/{org}/{name}/resolve/{revision}/{file}", get(resolve))
        .with_state(Arc::clone(&hub));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    (address, hub)
}

async fn list(State(hub): State<Arc<Hub>>) -> Response {
    let names =
        std::fs::read_dir(&hub.folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let names =
        names.chain(["README.md", "original/model.safetensors", "flax_model.msgpack"].map(str::to_owned));
    let file = |path: String| json!({ "type": "file", "oid": "o", "size": 1, "path": path });
    Json(names.filter(|name| hub.hidden != Some(name)).map(file).collect::<Vec<_>>()).into_response()
}

async fn resolve(
    State(hub): State<Arc<Hub>>,
    Path((_, _, revision, file)): Path<(String, String, String, String)>,
) -> Response {
    if hub.broken.lock().unwrap().contains(&file) {
        return StatusCode::NOT_FOUND.into_response();
    }
    let bytes = std::fs::read(hub.folder.join(&file)).unwrap();
    hub.sent.lock().unwrap().push((revision, file.clone()));
    // Another tag for each, as blobs are kept by it.
    ([("etag", format!("\"{file}\"")), ("x-repo-commit", COMMIT.to_owned())], bytes).into_response()
}

fn config(address: SocketAddr, cache: &FilePath, offline: bool) -> Config {
    let text = format!(
        "default_source = \"mirror\"\n[sources.mirror]\nendpoint = \"http://{address}\"\n\
         cache_dir = {cache:?}\noffline = {offline}"
    );
    Config::parse(&text, "test", &|_| None).unwrap()
}

#[tokio::test]
async fn a_folder_is_fetched_whole_and_of_one_commit() {
    let (mut tasks, cache) = (JoinSet::new(), tempfile::tempdir().unwrap());
    let (address, hub) = hub(&mut tasks, "qwen3", None).await;
    let resolved = sources::resolve(&config(address, cache.path(), false), "o/m", None).await.unwrap();
    let snapshot = cache.path().join("models--o--m/snapshots").join(COMMIT);
    assert_eq!((&resolved.path, resolved.file().as_str()), (&snapshot, "model.safetensors"));
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        assert!(snapshot.join(file).is_file(), "{file}");
    }
    neuron::safetensors::Safetensors::open(&snapshot).unwrap();
    let sent = hub.sent.lock().unwrap().clone();
    assert!(sent.iter().all(|(revision, file)| revision == COMMIT || file == "config.json"), "{sent:?}");
    assert!(!sent.iter().any(|(_, file)| file == "README.md" || file == "logits.f32"), "{sent:?}");

    tasks.shutdown().await;
    let again = sources::resolve(&config(address, cache.path(), true), "o/m", Some("safetensors")).await;
    assert_eq!(again.unwrap().path, snapshot);
}

#[tokio::test]
async fn a_download_that_was_broken_off_goes_on() {
    let (mut tasks, cache) = (JoinSet::new(), tempfile::tempdir().unwrap());
    let (address, hub) = hub(&mut tasks, "qwen3", None).await;
    let last = "model-00003-of-00003.safetensors".to_owned();
    hub.broken.lock().unwrap().insert(last.clone());
    let online = config(address, cache.path(), false);
    let error = sources::resolve(&online, "o/m", None).await.unwrap_err();
    assert!(matches!(error, LoadError::RepoFetchFailed { .. }), "{error:?}");
    let offline = config(address, cache.path(), true);
    assert!(matches!(sources::resolve_cached(&offline, "o/m"), Ok(None)));

    hub.broken.lock().unwrap().clear();
    hub.sent.lock().unwrap().clear();
    sources::resolve(&online, "o/m", None).await.unwrap();
    let weights = hub
        .sent
        .lock()
        .unwrap()
        .iter()
        .filter(|(_, file)| file.contains("-of-"))
        .cloned()
        .collect::<BTreeSet<_>>();
    assert!(weights.contains(&(COMMIT.to_owned(), last)), "{weights:?}");
    assert!(sources::resolve_cached(&offline, "o/m").unwrap().is_some());
}

#[tokio::test]
async fn without_a_tokenizer_no_weights_are_moved() {
    let (mut tasks, cache) = (JoinSet::new(), tempfile::tempdir().unwrap());
    let (address, hub) = hub(&mut tasks, "llama", Some("tokenizer.json")).await;
    let error = sources::resolve(&config(address, cache.path(), false), "o/m", None).await.unwrap_err();
    assert!(error.message().contains("no tokenizer.json"), "{}", error.message());
    assert!(hub.sent.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_model_in_one_file_needs_no_index() {
    let (mut tasks, cache) = (JoinSet::new(), tempfile::tempdir().unwrap());
    let (address, _) = hub(&mut tasks, "llama", None).await;
    let online = config(address, cache.path(), false);
    let resolved = sources::resolve(&online, "o/m", Some("f16")).await.unwrap();
    neuron::safetensors::Safetensors::open(&resolved.path).unwrap();
    let error = sources::resolve(&online, "o/m", Some("Q4_0")).await.unwrap_err();
    assert!(matches!(error, LoadError::QuantNotFound { .. }), "{error:?}");
}
