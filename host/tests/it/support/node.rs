//! A node whose every answer the test decides, for what a real one does too seldom: to break off, to
//! refuse, to lie. It speaks neuron's API over a real socket.

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use axum::{Json, Router, routing};
use futures_util::StreamExt;
use neuron_protocol::{
    Activation, Device, DeviceCondition, DeviceHealth, Discovery, Health, LoadRequest, ModelInfo,
    ModelStatus, UnloadRequest,
};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// What an inference call gets.
#[derive(Clone)]
pub enum Reply {
    Whole(u16, Value),
    /// Pieces of the body, then its end.
    Pieces(Vec<String>),
    /// The same, cut anywhere.
    Bytes(Vec<Vec<u8>>),
    /// Pieces of the body, then the connection breaks.
    Broken(Vec<String>),
    /// Pieces as the test sends them.
    Fed(Arc<tokio::sync::Mutex<mpsc::Receiver<String>>>),
    /// Nothing, on a connection that stays open.
    Never,
    /// The head of a whole answer, and then nothing.
    Head,
}

#[derive(Default)]
pub struct Inner {
    pub models: Vec<ModelInfo>,
    pub replies: VecDeque<Reply>,
    /// What an inference call gets where no reply is set for it.
    pub always: Option<Reply>,
    /// The same, by what it asks and how often that was asked before.
    pub script: Option<fn(&Value, usize) -> Reply>,
    /// Path and body of every inference call.
    pub asked: Vec<(String, Value)>,
    /// What stood behind the question mark.
    pub queries: Vec<String>,
    /// Their headers.
    pub headers: Vec<http::HeaderMap>,
    pub loads: Vec<LoadRequest>,
    pub unloads: Vec<String>,
    /// Refuses loads with this.
    pub load_error: Option<(u16, Value)>,
    pub load_takes: Duration,
    pub devices: u32,
    /// What the machine and its devices call themselves.
    pub called: String,
    /// How busy its devices are, in percent, and how warm, in degrees.
    pub heat: (u32, u32),
    /// Why it is not up, and why it has no GPU.
    pub reason: Option<String>,
    /// A device on which nothing runs any more.
    pub lost: Option<u32>,
    /// MiB of each device.
    pub total_mb: u64,
    /// What a loaded model takes.
    pub model_mb: u64,
    /// Its models are listed without their memory.
    pub silent: bool,
    /// `/health` is refused: the next polls are missed.
    pub sick: bool,
    pub health_takes: Duration,
    /// What `/watch` says before it ends; without it there is none.
    pub watch: Option<String>,
    /// It does not end then.
    pub watch_stays: bool,
    /// What it can beyond the first block of the API.
    pub features: Vec<String>,
    /// Unloads are refused with this 409.
    pub still_needed: Option<Value>,
    /// Bodies of `/models/unload` as they came.
    pub unload_bodies: Vec<Value>,
    /// What was asked of parks.
    pub park_bodies: Vec<Value>,
    /// Models that were parked and woken, in order.
    pub shifts: Vec<String>,
    pub defrags: u32,
    /// Calls of `/watch`.
    pub watched: u32,
    /// Calls of `/health` that run, and the most that ran at once.
    pub asking: (u32, u32),
    /// What it says that it will load by itself.
    pub activation: Activation,
    stopped: CancellationToken,
}

impl Inner {
    fn free_mb(&self, device: u32) -> u64 {
        let on = |m: &&ModelInfo| m.devices.contains(&device);
        let share = |m: &ModelInfo| m.vram_used_mb.unwrap_or(0) / m.devices.len() as u64;
        self.total_mb.saturating_sub(self.models.iter().filter(on).map(share).sum())
    }

    /// Where a model is to go that was given no devices.
    fn emptiest(&self) -> u32 {
        (0..self.devices).max_by_key(|&d| (self.free_mb(d), std::cmp::Reverse(d))).unwrap()
    }
}

#[derive(Clone)]
pub struct TestNode {
    pub inner: Arc<Mutex<Inner>>,
    pub address: SocketAddr,
    stop: CancellationToken,
}

pub fn info(id: &str, mb: u64) -> ModelInfo {
    info_on(id, mb, &[0])
}

/// A loaded model that takes `mb` on those devices together.
pub fn info_on(id: &str, mb: u64, devices: &[u32]) -> ModelInfo {
    ModelInfo {
        id: id.into(),
        harness: "candle".into(),
        status: ModelStatus::Loaded,
        devices: devices.to_vec(),
        vram_used_mb: Some(mb),
        ..ModelInfo::default()
    }
}

/// A whole chat answer.
pub fn chat(model: &str, text: &str) -> Value {
    json!({"id": "c", "object": "chat.completion", "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}})
}

/// One streamed chunk.
pub fn chunk(model: &str, text: &str) -> String {
    let chunk = json!({"id": "c", "object": "chat.completion.chunk", "model": model,
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}]});
    format!("data: {chunk}\n\n")
}

/// The end of a stream: finish reason, usage, closing mark.
pub fn ending(model: &str) -> Vec<String> {
    let finish = json!({"model": model, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
    let usage = json!({"model": model, "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}});
    vec![format!("data: {finish}\n\n"), format!("data: {usage}\n\n"), "data: [DONE]\n\n".into()]
}

impl TestNode {
    pub async fn start() -> Self {
        Self::start_at("127.0.0.1:0").await
    }

    /// In the place of one that was killed.
    pub async fn start_at(address: &str) -> Self {
        let stop = CancellationToken::new();
        let inner = Arc::new(Mutex::new(Inner {
            stopped: stop.clone(),
            devices: 1,
            called: "test".into(),
            total_mb: 1000,
            model_mb: 300,
            ..Inner::default()
        }));
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .route("/discovery", routing::get(discovery))
            .route("/watch", routing::get(watch))
            .route("/health", routing::get(health))
            .route("/models", routing::get(models))
            .route("/v1/models", routing::get(listed))
            .route("/models/load", routing::post(load))
            .route("/models/unload", routing::post(unload))
            .route("/models/park", routing::post(park))
            .route("/models/wake", routing::post(wake))
            .route("/defrag", routing::post(defrag))
            .fallback(infer)
            .with_state(inner.clone());
        let ended = stop.clone();
        let server = async move {
            tokio::select! {
                served = axum::serve(listener, router).into_future() => served.unwrap(),
                () = ended.cancelled() => {}
            }
        };
        spawn(server);
        Self { inner, address, stop }
    }

    /// A node that has the model `m` loaded.
    pub async fn with_model() -> Self {
        let node = Self::start().await;
        node.lock().models.push(info("m", 300));
        node
    }

    pub fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// The next inference call gets this.
    pub fn reply(&self, reply: Reply) -> &Self {
        self.lock().replies.push_back(reply);
        self
    }

    /// Answers nothing any more; loads that are under way break off.
    pub fn kill(&self) {
        self.stop.cancel();
    }
}

type Shared = State<Arc<Mutex<Inner>>>;

async fn discovery(State(inner): Shared) -> Json<Discovery> {
    let inner = inner.lock().unwrap();
    let device = |index| Device {
        index,
        name: inner.called.clone(),
        vram_total_mb: inner.total_mb,
        compute_capability: "8.9".into(),
    };
    let devices = (0..inner.devices).map(device).collect();
    let features = inner.features.clone();
    let (hostname, harnesses) = (inner.called.clone(), vec!["candle".into()]);
    let reason = inner.reason.clone();
    let versions = reason.clone();
    Json(Discovery {
        hostname,
        harnesses,
        devices,
        features,
        cuda_unavailable_reason: reason,
        driver_version: versions.clone(),
        cuda_version: versions,
        ..Discovery::default()
    })
}

async fn watch(State(inner): Shared) -> Response {
    let mut inner = inner.lock().unwrap();
    inner.watched += 1;
    match &inner.watch {
        None => whole(404, &json!({"error": "no such path"})),
        Some(events) if inner.watch_stays => {
            let said = futures_util::stream::iter([Ok::<_, std::io::Error>(Bytes::from(events.clone()))]);
            stream(Body::from_stream(said.chain(futures_util::stream::pending())))
        }
        Some(events) => stream(Body::from(events.clone())),
    }
}

async fn health(State(inner): Shared) -> Response {
    let takes = {
        let mut inner = inner.lock().unwrap();
        let now = inner.asking.0 + 1;
        inner.asking = (now, inner.asking.1.max(now));
        inner.health_takes
    };
    tokio::time::sleep(takes).await;
    let mut inner = inner.lock().unwrap();
    inner.asking.0 -= 1;
    if inner.sick {
        return whole(500, &json!({"error": "sick"}));
    }
    let device = |index| DeviceHealth {
        index,
        vram_used_mb: inner.total_mb - inner.free_mb(index),
        vram_free_mb: if inner.lost == Some(index) { 0 } else { inner.free_mb(index) },
        utilization_pct: inner.heat.0,
        temp_c: inner.heat.1,
        state: inner.lost.filter(|lost| *lost == index).map(|_| DeviceCondition::Recovering),
        reason: inner.reason.clone(),
    };
    let devices = (0..inner.devices).map(device).collect();
    let activation = inner.activation.clone();
    let health = Health { uptime_secs: 1, devices, activation, ..Health::default() };
    whole(200, &serde_json::to_value(health).unwrap())
}

async fn models(State(inner): Shared) -> Json<Vec<ModelInfo>> {
    let inner = inner.lock().unwrap();
    let shown =
        |m: &ModelInfo| ModelInfo { vram_used_mb: m.vram_used_mb.filter(|_| !inner.silent), ..m.clone() };
    Json(inner.models.iter().map(shown).collect())
}

/// As servers list them that are no neurons.
async fn listed(State(inner): Shared) -> Response {
    let inner = inner.lock().unwrap();
    let data: Vec<Value> = inner.models.iter().map(|m| json!({"id": m.id, "object": "model"})).collect();
    whole(if inner.sick { 500 } else { 200 }, &json!({"object": "list", "data": data}))
}

/// Takes the memory at once, as a real one does, and is loaded after `load_takes`.
async fn load(State(inner): Shared, Json(request): Json<LoadRequest>) -> Response {
    let (takes, stopped) = {
        let mut inner = inner.lock().unwrap();
        inner.loads.push(request.clone());
        let there = inner.models.iter().any(|m| m.id == request.model_id);
        if !there && inner.load_error.is_none() {
            let devices = request.devices.clone().unwrap_or_else(|| vec![inner.emptiest()]);
            let each = inner.model_mb / devices.len() as u64;
            if let Some(&full) = devices.iter().find(|&&d| inner.free_mb(d) < each) {
                let free = inner.free_mb(full);
                let error = json!({"kind": "insufficient_vram", "model_id": request.model_id, "message": "no room",
                                   "required_mb": each, "free_mb": free, "device": full});
                return whole(507, &json!({"error": error}));
            }
            let begun = info_on(&request.model_id, inner.model_mb, &devices);
            inner.models.push(ModelInfo { status: ModelStatus::Loading, ..begun });
        }
        (inner.load_takes, inner.stopped.clone())
    };
    tokio::select! {
        () = tokio::time::sleep(takes) => {}
        () = stopped.cancelled() => return sse(Vec::new(), true),
    }
    let mut inner = inner.lock().unwrap();
    if let Some((status, error)) = inner.load_error.clone() {
        return whole(status, &error);
    }
    inner.models.iter_mut().filter(|m| m.id == request.model_id).for_each(|m| m.status = ModelStatus::Loaded);
    whole(200, &json!({"status": "loaded"}))
}

async fn unload(State(inner): Shared, Json(body): Json<Value>) -> Response {
    let mut inner = inner.lock().unwrap();
    inner.unload_bodies.push(body.clone());
    let request: UnloadRequest = serde_json::from_value(body).unwrap();
    if let Some(error) = &inner.still_needed {
        return whole(409, error);
    }
    let Some(at) = inner.models.iter().position(|m| m.id == request.model_id) else {
        return whole(404, &json!({"error": format!("{} is not loaded", request.model_id)}));
    };
    inner.models.remove(at);
    inner.unloads.push(request.model_id);
    whole(200, &json!({"status": "unloaded"}))
}

async fn park(state: Shared, body: Json<Value>) -> Response {
    shift(state, body, "park", ModelStatus::Parked)
}

async fn wake(state: Shared, body: Json<Value>) -> Response {
    shift(state, body, "wake", ModelStatus::Loaded)
}

/// A parked model takes no memory of a device.
fn shift(State(inner): Shared, Json(body): Json<Value>, what: &str, status: ModelStatus) -> Response {
    let mut inner = inner.lock().unwrap();
    let (mb, id) = (inner.model_mb, body["model_id"].as_str().unwrap().to_owned());
    if what == "park" {
        inner.park_bodies.push(body);
        if let Some(error) = &inner.still_needed {
            return whole(409, error);
        }
    }
    let Some(model) = inner.models.iter_mut().find(|m| m.id == id) else {
        return whole(404, &json!({"error": "no such model"}));
    };
    model.status = status;
    model.vram_used_mb = Some(if status == ModelStatus::Parked { 0 } else { mb });
    inner.shifts.push(format!("{what} {id}"));
    whole(200, &json!({"status": what}))
}

async fn defrag(State(inner): Shared) -> Response {
    inner.lock().unwrap().defrags += 1;
    whole(200, &json!({"free_before_mb": 1, "free_after_mb": 2}))
}

async fn infer(State(inner): Shared, request: Request) -> Response {
    let (path, headers) = (request.uri().path().to_owned(), request.headers().clone());
    let query = request.uri().query().unwrap_or_default().to_owned();
    let body = axum::body::to_bytes(request.into_body(), 64 << 20).await.unwrap();
    let reply = {
        let mut inner = inner.lock().unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let before = inner.asked.iter().filter(|(_, asked)| *asked == body).count();
        let scripted = inner.script.map(|script| script(&body, before));
        inner.asked.push((path, body));
        inner.headers.push(headers);
        inner.queries.push(query);
        inner
            .replies
            .pop_front()
            .or(scripted)
            .or_else(|| inner.always.clone())
            .unwrap_or(Reply::Whole(500, json!({"error": {"message": "no reply was set"}})))
    };
    match reply {
        Reply::Whole(status, body) => whole(status, &body),
        Reply::Never => std::future::pending().await,
        Reply::Head => {
            let nothing = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
            let response = Response::builder().header("content-type", "application/json");
            response.body(Body::from_stream(nothing)).unwrap()
        }
        Reply::Pieces(pieces) => sse(bytes(pieces), false),
        Reply::Bytes(pieces) => sse(pieces, false),
        Reply::Broken(pieces) => sse(bytes(pieces), true),
        Reply::Fed(receiver) => {
            let pieces = futures_util::stream::unfold(receiver, |receiver| async move {
                let piece = receiver.lock().await.recv().await?;
                Some((Ok::<_, std::io::Error>(Bytes::from(piece)), receiver))
            });
            stream(Body::from_stream(pieces))
        }
    }
}

fn whole(status: u16, body: &Value) -> Response {
    let response = Response::builder().status(status).header("content-type", "application/json");
    response.body(Body::from(body.to_string())).unwrap()
}

fn bytes(pieces: Vec<String>) -> Vec<Vec<u8>> {
    pieces.into_iter().map(String::into_bytes).collect()
}

fn sse(pieces: Vec<Vec<u8>>, breaks: bool) -> Response {
    let end = breaks.then(|| Err(std::io::Error::other("broken on purpose")));
    let pieces = pieces.into_iter().map(|p| Ok(Bytes::from(p))).chain(end);
    // One at a time, so that each goes out by itself.
    let paced = futures_util::stream::unfold(pieces, |mut pieces| async move {
        let piece = pieces.next()?;
        tokio::time::sleep(Duration::from_millis(5)).await;
        Some((piece, pieces))
    });
    stream(Body::from_stream(paced))
}

fn stream(body: Body) -> Response {
    Response::builder().header("content-type", "text/event-stream").body(body).unwrap()
}

/// Ends with the test's runtime.
pub fn spawn(future: impl Future<Output = ()> + Send + 'static) -> tokio::task::JoinHandle<()> {
    tokio::runtime::Handle::current().spawn(future)
}
