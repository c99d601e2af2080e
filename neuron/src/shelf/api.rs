//! The calls of the hub's API that its clients make to list and to fetch.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    Shelf, file,
    models::{Found, Item, Missing},
};

/// Paths of one question.
const MAX_PATHS: usize = 1000;

pub(super) fn router(shelf: Arc<Shelf>) -> Router {
    Router::new()
        .route("/api/models", get(list))
        .route("/api/models/{org}/{name}", get(info_of_main))
        .route("/api/models/{org}/{name}/revision/{revision}", get(info))
        .route("/api/models/{org}/{name}/tree/{revision}", get(tree))
        .route("/api/models/{org}/{name}/paths-info/{revision}", post(paths_info))
        .route("/{org}/{name}/resolve/{revision}/{*file}", get(resolve))
        .layer(middleware::from_fn_with_state(Arc::clone(&shelf), authenticate))
        .with_state(shelf)
}

/// A refusal as the hub's clients read it.
struct Refusal {
    status: StatusCode,
    code: Option<&'static str>,
    message: String,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(json!({ "error": self.message }))).into_response();
        let headers = response.headers_mut();
        if let Some(code) = self.code {
            headers.insert(HeaderName::from_static("x-error-code"), HeaderValue::from_static(code));
        }
        if let Ok(message) = HeaderValue::from_str(&self.message) {
            headers.insert(HeaderName::from_static("x-error-message"), message);
        }
        response
    }
}

async fn authenticate(State(shelf): State<Arc<Shelf>>, request: Request, next: Next) -> Response {
    let Some(wanted) = shelf.token else { return next.run(request).await };
    let sent = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let sent = sent.and_then(|value| value.split_once(' '));
    let sent = sent.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    // Hashes are compared, whose bytes tell nothing of the token's.
    if sent.is_some_and(|(_, token)| Sha256::digest(token.trim())[..] == wanted[..]) {
        return next.run(request).await;
    }
    let message = "a bearer token is needed here, and the right one".to_owned();
    Refusal { status: StatusCode::UNAUTHORIZED, code: None, message }.into_response()
}

async fn found(shelf: &Arc<Shelf>, org: &str, name: &str, revision: &str) -> Result<Found, Refusal> {
    let (shelf, asked) = (Arc::clone(shelf), [org, name, revision].map(str::to_owned));
    let [org, name, revision] = asked.clone();
    let found = tokio::task::spawn_blocking(move || shelf.find(&org, &name, &revision)).await;
    let [org, name, revision] = asked;
    let (code, message) = match found {
        Ok(Ok(found)) => return Ok(found),
        Ok(Err(Missing::Repo)) => ("RepoNotFound", format!("there is no model {org}/{name}")),
        Ok(Err(Missing::Revision)) => {
            ("RevisionNotFound", format!("{org}/{name} has no revision {revision}"))
        }
        Err(e) => {
            return Err(Refusal {
                status: StatusCode::INTERNAL_SERVER_ERROR,
                code: None,
                message: e.to_string(),
            });
        }
    };
    Err(Refusal { status: StatusCode::NOT_FOUND, code: Some(code), message })
}

async fn list(State(shelf): State<Arc<Shelf>>) -> Json<Value> {
    let mut all = tokio::task::spawn_blocking(move || shelf.all()).await.unwrap_or_default();
    all.sort_unstable();
    Json(all.into_iter().map(|id| json!({ "id": id, "modelId": id })).collect())
}

async fn info_of_main(
    state: State<Arc<Shelf>>,
    Path((org, name)): Path<(String, String)>,
) -> Result<Json<Value>, Refusal> {
    info(state, Path((org, name, "main".to_owned()))).await
}

async fn info(
    State(shelf): State<Arc<Shelf>>,
    Path((org, name, revision)): Path<(String, String, String)>,
) -> Result<Json<Value>, Refusal> {
    let found = found(&shelf, &org, &name, &revision).await?;
    let siblings: Vec<Value> = found.files.iter().map(|file| json!({ "rfilename": file.name })).collect();
    Ok(Json(json!({
        "id": found.repo, "modelId": found.repo, "author": org, "sha": found.commit, "private": false,
        "gated": false, "disabled": false, "tags": [], "downloads": 0, "likes": 0, "siblings": siblings,
    })))
}

async fn tree(
    State(shelf): State<Arc<Shelf>>,
    Path((org, name, revision)): Path<(String, String, String)>,
) -> Result<Json<Value>, Refusal> {
    let found = found(&shelf, &org, &name, &revision).await?;
    Ok(Json(Value::Array(found.files.iter().map(|item| entry(&found, item)).collect())))
}

/// A file in a listing. It is not read for that: its name stands for its hash where that is not known.
fn entry(found: &Found, item: &Item) -> Value {
    let oid = found.etag_by_name(item).unwrap_or_else(|| found.commit.clone());
    json!({ "type": "file", "oid": oid, "size": item.size, "path": item.name })
}

#[derive(Deserialize)]
struct Paths {
    paths: Vec<String>,
}

async fn paths_info(
    State(shelf): State<Arc<Shelf>>,
    Path((org, name, revision)): Path<(String, String, String)>,
    Json(Paths { paths }): Json<Paths>,
) -> Result<Json<Value>, Refusal> {
    let found = found(&shelf, &org, &name, &revision).await?;
    if paths.len() > MAX_PATHS {
        let message = format!("{} paths, where at most {MAX_PATHS} are answered at a time", paths.len());
        return Err(Refusal { status: StatusCode::PAYLOAD_TOO_LARGE, code: None, message });
    }
    let files = paths.iter().filter_map(|path| found.file(path));
    Ok(Json(files.map(|item| entry(&found, item)).collect()))
}

async fn resolve(
    State(shelf): State<Arc<Shelf>>,
    Path((org, name, revision, path)): Path<(String, String, String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let found = found(&shelf, &org, &name, &revision).await?;
    if found.repo != format!("{org}/{name}") {
        // As for a model that has been renamed: the name as it is spelled here.
        let before = shelf.at;
        let place = format!("{before}/{}/resolve/{}/{}", found.repo, encoded(&revision), encoded(&path));
        return Ok((StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, place)]).into_response());
    }
    let Some(item) = found.file(&path) else {
        let message = format!("{org}/{name} has no file {path}");
        return Err(Refusal { status: StatusCode::NOT_FOUND, code: Some("EntryNotFound"), message });
    };
    let etag = match found.etag_by_name(item) {
        Some(etag) => etag,
        None => shelf.hashes.of(item).await.map_err(|e| {
            let message = format!("{path} cannot be read: {e}");
            Refusal { status: StatusCode::INTERNAL_SERVER_ERROR, code: None, message }
        })?,
    };
    Ok(file::send(&method, &headers, item, &etag, &found.commit).await)
}

fn encoded(path: &str) -> String {
    let parts = path.split('/').map(|part| {
        percent_encoding::utf8_percent_encode(part, percent_encoding::NON_ALPHANUMERIC).to_string()
    });
    parts.collect::<Vec<_>>().join("/")
}
