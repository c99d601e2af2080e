//! A hub that does what no hub should.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::{StreamExt, stream};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::{net::TcpListener, task::JoinSet};

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// Bytes of a chunk on the wire.
const CHUNK: usize = 64 << 10;

/// What is wrong with it, so many times or until it is told otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Every connection breaks after so many bytes.
    Breaks(usize),
    /// Every answer's end is missing, as if that were all.
    EndsEarly,
    /// Nothing comes after so many bytes.
    Stalls(usize),
    /// This answer instead of a file, so many times, with so many seconds to wait where there are any.
    Answers(u16, u64, Option<u64>),
    /// The file is said to have so many bytes.
    SaysSize(u64),
    /// One byte is another.
    WrongByte,
    /// A range is answered with the whole.
    NoRanges,
    /// A range is, but for the file's beginning.
    SomeRanges,
    /// The file is kept elsewhere: on another host, which says nothing of commits, and whose etag is its own.
    Elsewhere,
    /// Leads to itself.
    Loops,
    /// The model does not exist, or the revision does not.
    NoRepo,
    NoRevision,
    /// A file's name leads out of the model.
    Climbs,
}

pub(crate) struct FaultyHub {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

struct Shared {
    name: String,
    file: Bytes,
    etag: String,
    fault: Mutex<Fault>,
    /// Bytes of the file that have been sent.
    sent: AtomicU64,
    answered: AtomicU64,
}

impl FaultyHub {
    /// With one file, of the model `test/model`.
    pub(crate) async fn start(name: &str, file: Vec<u8>) -> Self {
        let etag = Sha256::digest(&file).iter().map(|byte| format!("{byte:02x}")).collect();
        let (fault, sent, answered) = (Mutex::new(Fault::None), AtomicU64::new(0), AtomicU64::new(0));
        let shared =
            Arc::new(Shared { name: name.to_owned(), file: file.into(), etag, fault, sent, answered });
        let router = Router::new()
            .route("/api/models/{org}/{name}/tree/{revision}", get(list))
            .route("/{org}/{name}/resolve/{revision}/{*file}", get(resolve))
            .route("/elsewhere", get(elsewhere))
            .with_state(Arc::clone(&shared));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, shared, tasks }
    }

    pub(crate) fn set(&self, fault: Fault) {
        *self.shared.fault.lock().unwrap() = fault;
        self.shared.answered.store(0, Relaxed);
        self.shared.sent.store(0, Relaxed);
    }

    /// Bytes of the file that have been sent since a fault was set.
    pub(crate) fn sent(&self) -> u64 {
        self.shared.sent.load(Relaxed)
    }

    pub(crate) fn etag(&self) -> &str {
        &self.shared.etag
    }

    /// It is gone.
    pub(crate) async fn stop(&mut self) {
        self.tasks.shutdown().await;
    }
}

fn refusal(status: StatusCode, code: &'static str) -> Response {
    (status, [("x-error-code", code)]).into_response()
}

async fn list(State(hub): State<Arc<Shared>>) -> Response {
    let name = match *hub.fault.lock().unwrap() {
        Fault::Answers(status, ..) if [401, 403].contains(&status) => {
            return StatusCode::from_u16(status).unwrap().into_response();
        }
        Fault::NoRepo => return refusal(StatusCode::NOT_FOUND, "RepoNotFound"),
        Fault::NoRevision => return refusal(StatusCode::NOT_FOUND, "RevisionNotFound"),
        Fault::Climbs => format!("../../../{}", hub.name),
        _ => hub.name.clone(),
    };
    let file = |path: &str| json!({ "type": "file", "oid": "o", "size": 1, "path": path });
    Json(json!([file("README.md"), file(&name)])).into_response()
}

async fn resolve(
    State(hub): State<Arc<Shared>>,
    Path((_, _, _, file)): Path<(String, String, String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let fault = *hub.fault.lock().unwrap();
    assert_eq!(file, hub.name, "only what was chosen is asked for");
    let is_head = method == Method::HEAD;
    match fault {
        Fault::Loops => {
            let place = format!("/test/model/resolve/main/{file}");
            return (StatusCode::FOUND, [(header::LOCATION, place)]).into_response();
        }
        Fault::Answers(status, times, after) if !is_head && hub.answered.fetch_add(1, Relaxed) < times => {
            let status = StatusCode::from_u16(status).unwrap();
            return match after {
                Some(secs) => (status, [(header::RETRY_AFTER, secs.to_string())]).into_response(),
                None => status.into_response(),
            };
        }
        _ => {}
    }
    if fault == Fault::Elsewhere {
        let host = headers["host"].to_str().unwrap().replace("127.0.0.1", "localhost");
        let place = [(header::LOCATION, format!("http://{host}/elsewhere"))];
        let head = [
            ("x-linked-etag", format!("\"{}\"", hub.etag)),
            ("x-linked-size", hub.file.len().to_string()),
            ("x-repo-commit", COMMIT.to_owned()),
        ];
        return (StatusCode::FOUND, place, head).into_response();
    }
    send(&hub, fault, is_head, &headers)
}

/// Where hubs keep what is large.
async fn elsewhere(State(hub): State<Arc<Shared>>, method: Method, headers: HeaderMap) -> Response {
    assert!(!headers.contains_key(header::AUTHORIZATION), "the token is the hub's alone");
    let mut answer = send(&hub, Fault::None, method == Method::HEAD, &headers);
    answer.headers_mut().remove("x-repo-commit");
    answer.headers_mut().insert("etag", "\"of-its-own\"".parse().unwrap());
    answer
}

fn send(hub: &Arc<Shared>, fault: Fault, is_head: bool, headers: &HeaderMap) -> Response {
    let size = match fault {
        Fault::SaysSize(size) => size,
        _ => hub.file.len() as u64,
    };
    let head = [("etag", format!("\"{}\"", hub.etag)), ("x-repo-commit", COMMIT.to_owned())];
    if is_head {
        return (head, [(header::CONTENT_LENGTH, size.to_string())]).into_response();
    }
    let range = headers.get(header::RANGE).filter(|_| fault != Fault::NoRanges);
    let range = range.map(|range| {
        let (from, to) = range.to_str().unwrap().strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        let end = to.parse::<usize>().unwrap() + 1;
        from.parse::<usize>().unwrap()..end.min(hub.file.len())
    });
    let range = range.filter(|range| fault != Fault::SomeRanges || range.start == 0);
    let status = if range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let range = range.unwrap_or(0..hub.file.len());
    if range.start >= range.end {
        return StatusCode::RANGE_NOT_SATISFIABLE.into_response();
    }
    let len = range.len();
    let mut bytes = hub.file.slice(range);
    if fault == Fault::WrongByte {
        let mut other = bytes.to_vec();
        other[len / 2] ^= 1;
        bytes = other.into();
    }
    let limit = match fault {
        Fault::Breaks(limit) | Fault::Stalls(limit) => limit.min(len),
        Fault::EndsEarly => len.saturating_sub(1000),
        _ => len,
    };
    let chunks: Vec<Bytes> =
        (0..limit).step_by(CHUNK).map(|at| bytes.slice(at..(at + CHUNK).min(limit))).collect();
    let counted = Arc::clone(hub);
    let chunks = stream::iter(chunks).map(move |chunk| {
        counted.sent.fetch_add(chunk.len() as u64, Relaxed);
        Ok::<_, io::Error>(chunk)
    });
    let body = match fault {
        Fault::Breaks(_) if limit < len => {
            Body::from_stream(chunks.chain(stream::iter([Err(io::Error::other("broken"))])))
        }
        Fault::Stalls(_) if limit < len => Body::from_stream(chunks.chain(stream::pending())),
        _ => Body::from_stream(chunks),
    };
    let length = if fault == Fault::EndsEarly { limit } else { len };
    (status, head, [(header::CONTENT_LENGTH, length.to_string())], body).into_response()
}

/// Bytes that look like nothing.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..len.div_ceil(8)).flat_map(|_| next()).take(len).collect()
}
