//! Several devices in one daemon, and what becomes of them when one is lost.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use http::Method;
use http_body_util::{BodyExt, Full};
use neuron::{
    config::Config,
    device::MakeBackend,
    engine::{
        Backend, Batch, Blueprint, CpuBackend, Limits, Logits, Lost, Model, ModelError, Room, Shard, Weights,
    },
    server::Server,
};
use serde_json::{Value, json};

use crate::{
    references,
    support::{Client, Daemon, TINY, tiny_hub},
};

/// What a test does to a device.
#[derive(Default)]
struct Switches {
    /// Every forward fails, and goes on failing.
    broken: AtomicBool,
    /// Every forward takes its time.
    slow: AtomicBool,
    /// It cannot be set up again.
    missing: AtomicBool,
    /// Times that it was set up.
    made: AtomicUsize,
}

/// The CPU's own, until it is broken.
struct Breakable {
    real: CpuBackend,
    switches: Arc<Switches>,
}

struct BreakableModel {
    real: Box<dyn Model>,
    switches: Arc<Switches>,
}

const WORDS: &str = "an illegal memory access was encountered";

impl Backend for Breakable {
    fn load(
        &mut self,
        weights: &Weights,
        plan: &Blueprint,
        room: Room,
    ) -> Result<Box<dyn Model>, ModelError> {
        let real = self.real.load(weights, plan, room)?;
        Ok(Box::new(BreakableModel { real, switches: Arc::clone(&self.switches) }))
    }

    fn load_shard(
        &mut self,
        weights: &Weights,
        plan: &Blueprint,
        room: Room,
        shard: Shard,
    ) -> Result<Box<dyn Model>, ModelError> {
        let real = self.real.load_shard(weights, plan, room, shard)?;
        Ok(Box::new(BreakableModel { real, switches: Arc::clone(&self.switches) }))
    }

    fn lost(&mut self) -> Option<Lost> {
        let broken = self.switches.broken.load(SeqCst);
        broken.then(|| Lost { reason: WORDS.to_owned(), may_drop: true })
    }
}

impl Model for BreakableModel {
    fn limits(&self) -> Limits {
        self.real.limits()
    }

    fn forward(&mut self, batch: &Batch<'_>) -> Result<Logits<'_>, ModelError> {
        if self.switches.slow.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(20));
        }
        match self.switches.broken.load(SeqCst) {
            true => Err(ModelError(WORDS.to_owned())),
            false => self.real.forward(batch),
        }
    }

    fn weights_bytes(&self) -> u64 {
        self.real.weights_bytes()
    }
}

/// A daemon with two devices that can be broken.
struct Two {
    server: Server,
    client: Client,
    /// Of the first.
    switches: Arc<Switches>,
    /// Of the second.
    others: Arc<Switches>,
    _hub: tempfile::TempDir,
}

impl Two {
    async fn start() -> Self {
        let hub = tiny_hub();
        for name in ["qwen3", "gemma3", "falcon"] {
            references::install(hub.path(), name);
        }
        let cache = hub.path();
        let text = format!(
            "[engine]\ncpu_devices = 2\ndevice_memory_mb = 4000\n[sources.huggingface]\ncache_dir = {cache:?}\noffline = true\n"
        );
        let config = Config::parse(&text, "test.toml", &|_| None).unwrap();
        let config = config.listening_on("127.0.0.1:0".parse().unwrap()).unwrap();
        let (switches, others) = (Arc::new(Switches::default()), Arc::new(Switches::default()));
        let both = [Arc::clone(&switches), Arc::clone(&others)];
        let make = move |index: usize, real: CpuBackend| -> MakeBackend {
            let switches = Arc::clone(&both[index]);
            Arc::new(move || {
                if switches.missing.load(SeqCst) {
                    return Err("no such device".to_owned());
                }
                switches.made.fetch_add(1, SeqCst);
                Ok(Box::new(Breakable { real, switches: Arc::clone(&switches) }))
            })
        };
        let server = Server::start_with(config, &make).await.unwrap();
        let client = Client::new(server.address());
        Self { server, client, switches, others, _hub: hub }
    }

    async fn load(&self, body: Value) -> (u16, Value) {
        let reply = self.client.post("/models/load", body).await;
        (reply.status.as_u16(), reply.json())
    }

    async fn until(&self, what: &str, is: impl AsyncFn() -> bool) {
        for _ in 0..4000 {
            if is().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{what}: {}", self.client.json("/health").await);
    }
}

fn ask(model: &str, max_tokens: u32) -> Value {
    json!({ "model": model, "max_tokens": max_tokens, "ignore_eos": true, "temperature": 0,
        "messages": [{ "role": "user", "content": "hello" }] })
}

#[tokio::test]
async fn models_go_where_the_load_says_or_where_there_is_room() {
    let two = Two::start().await;
    let discovery = two.client.json("/discovery").await;
    let total = |at: usize| discovery["devices"][at]["vram_total_mb"].clone();
    assert_eq!((total(0), total(1), &discovery["devices"][2]), (json!(4000), json!(4000), &Value::Null));
    assert_eq!(two.load(json!({ "model_id": TINY, "devices": [1] })).await.0, 200);
    // The first is the emptier one now.
    assert_eq!(two.load(json!({ "model_id": "test/qwen3" })).await.0, 200);
    let models = two.client.json("/models").await;
    let on = |model: &str| {
        let models = models.as_array().unwrap();
        models.iter().find(|info| info["id"] == model).unwrap()["devices"].clone()
    };
    assert_eq!((on(TINY), on("test/qwen3")), (json!([1]), json!([0])));
    let devices = two.client.json("/health").await["devices"].clone();
    assert!(devices[0]["vram_used_mb"].as_u64() > Some(0) && devices[1]["vram_used_mb"].as_u64() > Some(0));
    assert!(devices[0].get("state").is_none(), "{devices}");
    for model in [TINY, "test/qwen3"] {
        let answer = two.client.post("/v1/chat/completions", ask(model, 3)).await;
        assert_eq!(answer.json()["usage"]["completion_tokens"], 3);
    }
    let (status, error) = two.load(json!({ "model_id": "test/qwen3", "devices": [2] })).await;
    assert!(status == 400 && error["error"].as_str().unwrap().contains("there are 0 to 1"), "{error}");
    two.server.stop().await;
}

#[tokio::test]
async fn a_device_that_is_lost_takes_nothing_else_with_it_and_comes_back() {
    let two = Two::start().await;
    assert_eq!(two.load(json!({ "model_id": "test/qwen3", "devices": [0] })).await.0, 200);
    assert_eq!(two.load(json!({ "model_id": TINY, "devices": [1] })).await.0, 200);
    two.switches.missing.store(true, SeqCst);
    two.switches.broken.store(true, SeqCst);

    // Who is on it hears at once.
    let answer = two.client.post("/v1/chat/completions", ask("test/qwen3", 200)).await;
    let error = answer.json()["error"].clone();
    assert_eq!((answer.status.as_u16(), &error["code"]), (503, &json!("device_lost")), "{error}");
    assert!(error["message"].as_str().unwrap().contains(WORDS), "{error}");
    assert!(answer.headers.contains_key("retry-after"));

    // So does who comes.
    let health = two.client.json("/health").await["devices"].clone();
    assert!(["poisoned", "recovering"].contains(&health[0]["state"].as_str().unwrap()), "{health}");
    assert_eq!((&health[0]["reason"], &health[0]["vram_free_mb"]), (&json!(WORDS), &json!(0)));
    let models = two.client.json("/models").await;
    let lost = models.as_array().unwrap().iter().find(|info| info["id"] == "test/qwen3").unwrap();
    assert_eq!((&lost["status"], &lost["servable"]["reason"]), (&json!("unloaded"), &json!("device_lost")));
    assert_eq!(two.client.post("/v1/chat/completions", ask("test/qwen3", 2)).await.status, 503);
    // What is lost can be unloaded all the same.
    let gone = two.client.post("/models/unload", json!({ "model_id": "test/qwen3", "mode": "now" })).await;
    assert_eq!((gone.status.as_u16(), gone.json()), (200, json!({ "status": "unloaded" })));

    let (status, error) = two.load(json!({ "model_id": "test/qwen3", "devices": [0] })).await;
    assert_eq!((status, &error["code"]), (503, &json!("device_unavailable")), "{error}");

    // The other device goes on.
    let answer = two.client.post("/v1/chat/completions", ask(TINY, 3)).await;
    assert_eq!(answer.json()["usage"]["completion_tokens"], 3);
    assert_eq!(health[1].get("state"), None);

    // It is set up again as soon as it can be, and has nothing on it then.
    two.switches.broken.store(false, SeqCst);
    two.switches.missing.store(false, SeqCst);
    two.until("it is up again", async || {
        two.client.json("/health").await["devices"][0].get("state").is_none()
    })
    .await;
    assert_eq!(two.switches.made.load(SeqCst), 2);
    two.until("its model is forgotten", async || {
        two.client.json("/models").await.as_array().unwrap().len() == 1
    })
    .await;
    assert_eq!(two.load(json!({ "model_id": "test/qwen3", "devices": [0] })).await.0, 200);
    let answer = two.client.post("/v1/chat/completions", ask("test/qwen3", 3)).await;
    assert_eq!(answer.json()["usage"]["completion_tokens"], 3);
    two.server.stop().await;
}

#[tokio::test]
async fn parts_on_one_device_have_one_leader() {
    let hub = tiny_hub();
    for name in ["qwen3", "llama", "qwen2"] {
        references::install(hub.path(), name);
    }
    let daemon = Daemon::start(hub.path(), "[engine]\ndevices = \"cpu\"\ncpu_devices = 3\n").await;
    let client = daemon.client();
    let load = async |model: &str, devices: [u32; 2]| {
        let body = json!({ "model_id": model, "tensor_parallel": 2, "devices": devices });
        let reply = client.post("/models/load", body).await;
        (reply.status.as_u16(), reply.json())
    };
    assert_eq!(load("test/qwen3", [1, 0]).await.0, 200);
    let (status, error) = load("test/llama", [1, 2]).await;
    assert!(status == 400 && error["error"].as_str().unwrap().contains("test/qwen3 is in parts"), "{error}");
    // Led by the same, it may share both.
    assert_eq!(load("test/llama", [0, 1]).await.0, 200);
    assert_eq!(load("test/qwen2", [2, 0]).await.0, 200);
    let asked = ["test/qwen3", "test/llama", "test/qwen2"].map(|model| {
        let client = &client;
        async move {
            for _ in 0..5 {
                let answer = client.post("/v1/chat/completions", ask(model, 12)).await;
                assert_eq!(answer.status, 200, "{}", answer.json());
            }
        }
    });
    futures_util::future::join_all(asked).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_stream_hears_that_its_device_is_lost() {
    let two = Two::start().await;
    assert_eq!(two.load(json!({ "model_id": "test/qwen3", "devices": [0] })).await.0, 200);
    two.switches.slow.store(true, SeqCst);
    let mut body = ask("test/qwen3", 100_000);
    body["stream"] = json!(true);
    body["max_tokens"] = json!(null);
    let request = two.client.request(Method::POST, "/v1/chat/completions");
    let mut answer = two.client.open(request.body(Full::new(body.to_string().into())).unwrap()).await;
    answer.body_mut().frame().await.expect("it has begun").unwrap();
    two.switches.broken.store(true, SeqCst);
    let rest = answer.into_body().collect().await.unwrap().to_bytes();
    let last = String::from_utf8_lossy(&rest).into_owned();
    assert!(last.contains("device_lost") && last.contains(WORDS), "{last}");
    two.server.stop().await;
}

#[tokio::test]
async fn a_model_in_parts_answers_as_the_whole_one_does() {
    let two = Two::start().await;
    let answer = async || {
        let answer = two.client.post("/v1/chat/completions", ask("test/qwen3", 24)).await;
        assert_eq!(answer.status, 200, "{}", answer.json());
        answer.json()["choices"][0]["message"]["content"].clone()
    };
    let unload = async || {
        let gone = two.client.post("/models/unload", json!({ "model_id": "test/qwen3" })).await;
        assert_eq!(gone.status, 200);
    };
    assert_eq!(two.load(json!({ "model_id": "test/qwen3" })).await.0, 200);
    let whole = answer().await;
    unload().await;
    assert_eq!(two.load(json!({ "model_id": "test/qwen3", "tensor_parallel": 2 })).await.0, 200);
    let models = two.client.json("/models").await;
    assert_eq!((&models[0]["devices"], &models[0]["engine"]), (&json!([0, 1]), &json!("batched")));
    assert_eq!(answer().await, whole);
    // Several at once, beside a model of the second device alone.
    assert_eq!(two.load(json!({ "model_id": TINY, "devices": [1] })).await.0, 200);
    let others = (0..4).map(|_| two.client.post("/v1/chat/completions", ask(TINY, 12)));
    let answers = (0..4).map(|_| answer());
    let (answers, others) =
        tokio::join!(futures_util::future::join_all(answers), futures_util::future::join_all(others));
    assert!(answers.iter().all(|answer| *answer == whole), "{answers:?}");
    assert!(others.iter().all(|answer| answer.status == 200));
    unload().await;
    // Quantised as it is cut.
    let body = json!({ "model_id": "test/qwen3", "tensor_parallel": 2, "quant": "q8_0" });
    assert_eq!(two.load(body).await.0, 200);
    answer().await;
    let looked =
        two.client.post("/models/preflight", json!({ "model_id": "test/qwen3", "tensor_parallel": 2 }));
    assert_eq!(looked.await.status, 200);
    let (status, error) = two.load(json!({ "model_id": "test/gemma3", "tensor_parallel": 2 })).await;
    let of = |error: &Value| (error["error"]["kind"].clone(), error["error"]["cause"].to_string());
    assert_eq!((status, of(&error).0), (422, json!("tp_unsupported")), "{error}");
    assert!(of(&error).1.contains("1 heads of keys"), "{error}");
    let (status, error) = two.load(json!({ "model_id": "test/falcon", "tensor_parallel": 2 })).await;
    assert!(status == 422 && of(&error).1.contains("not computed in parts"), "{error}");
    let (status, error) = two.load(json!({ "model_id": "test/gemma3", "tensor_parallel": 3 })).await;
    assert!(status == 400 && error["error"].as_str().unwrap().contains("2 devices"), "{error}");
    two.server.stop().await;
}

#[tokio::test]
async fn a_model_in_parts_goes_with_any_of_its_devices() {
    let two = Two::start().await;
    for (leads, broken) in [(true, &two.switches), (false, &two.others)] {
        assert_eq!(two.load(json!({ "model_id": "test/qwen3", "tensor_parallel": 2 })).await.0, 200);
        broken.broken.store(true, SeqCst);
        let answer = two.client.post("/v1/chat/completions", ask("test/qwen3", 8)).await;
        assert!(answer.status.is_server_error(), "{leads}: {}", answer.json());
        broken.broken.store(false, SeqCst);
        two.until("both are up", async || {
            let devices = two.client.json("/health").await["devices"].clone();
            devices.as_array().unwrap().iter().all(|device| device.get("state").is_none())
        })
        .await;
        two.until("it is loaded again", async || {
            two.load(json!({ "model_id": "test/qwen3", "tensor_parallel": 2 })).await.0 == 200
        })
        .await;
        let answer = two.client.post("/v1/chat/completions", ask("test/qwen3", 8)).await;
        assert_eq!(answer.status, 200, "{leads}: {}", answer.json());
        let gone = two.client.post("/models/unload", json!({ "model_id": "test/qwen3" })).await;
        assert_eq!(gone.status, 200);
    }
    two.server.stop().await;
}
