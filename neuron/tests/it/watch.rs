//! What a gateway hears that watches: models as they come and go, and what their caches hold.

use std::{collections::BTreeMap, time::Duration};

use http::StatusCode;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use neuron_protocol::{
    LoadPhase, ModelStatus, Snapshot, WatchEvent,
    prefix::{PrefixChain, PrefixHash},
};
use serde_json::{Value, json};

use crate::support::{Client, Daemon, Gguf, TINY, tiny_hub};

/// Longer than anything here takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

/// A stream of events as it comes.
struct Watcher {
    body: Incoming,
    text: String,
    /// Tokens by hash, of all models.
    prefixes: BTreeMap<PrefixHash, u64>,
}

impl Watcher {
    async fn join(client: &Client) -> (Self, Snapshot) {
        let request = client.request(http::Method::GET, "/watch").body(Full::default()).unwrap();
        let response = client.open(request).await;
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut watcher = Self { body: response.into_body(), text: String::new(), prefixes: BTreeMap::new() };
        let Some(WatchEvent::Snapshot(snapshot)) = watcher.next().await else { panic!("no snapshot") };
        (watcher, *snapshot)
    }

    /// The next event; `None` at the stream's end.
    async fn next(&mut self) -> Option<WatchEvent> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let lines: Vec<&str> = event.lines().collect();
                let parsed = match lines[..] {
                    [":"] => None,
                    [name, data] => {
                        let name = name.strip_prefix("event: ").unwrap();
                        let data = data.strip_prefix("data: ").unwrap();
                        let data = &mut serde_json::Deserializer::from_str(data);
                        Some(WatchEvent::parse(name, data).unwrap())
                    }
                    _ => panic!("not an event: {event}"),
                };
                self.text = rest.to_owned();
                let Some(event) = parsed else { continue };
                self.keep(&event);
                return Some(event);
            }
            let frame = tokio::time::timeout(LIMIT, self.body.frame()).await.expect("an event");
            let frame = frame?.unwrap().into_data().unwrap();
            self.text.push_str(std::str::from_utf8(&frame).unwrap());
        }
    }

    fn keep(&mut self, event: &WatchEvent) {
        if let WatchEvent::Prefixes(changes) = event {
            self.prefixes.retain(|hash, _| !changes.removed.contains(hash));
            self.prefixes.extend(changes.added.iter().map(|prefix| (prefix.hash, prefix.tokens)));
        }
    }

    /// Reads on until an event is what `wanted` looks for.
    async fn until<T>(&mut self, wanted: impl Fn(&WatchEvent) -> Option<T>) -> T {
        loop {
            let event = self.next().await.expect("the stream goes on");
            if let Some(found) = wanted(&event) {
                return found;
            }
        }
    }

    async fn status(&mut self, wanted: ModelStatus) {
        self.until(|event| matches!(event, WatchEvent::Model(m) if m.status == wanted).then_some(())).await;
    }

    /// Reads on until the hash is known; its tokens.
    async fn tokens(&mut self, hash: PrefixHash) -> u64 {
        while !self.prefixes.contains_key(&hash) {
            self.next().await.expect("the stream goes on");
        }
        self.prefixes[&hash]
    }
}

/// A chat request whose spelling is the test's own, for `tenant`.
async fn chat(client: &Client, tenant: &str, messages: &[&str]) -> Value {
    let body = format!(
        r#"{{ "model": "{TINY}", "temperature": 0, "max_tokens": 40, "messages": [ {} ] }}"#,
        messages.join(" , ")
    );
    let request =
        client.request(http::Method::POST, "/v1/chat/completions").header("x-cortex-tenant", tenant);
    let reply = client.send(request.body(Full::new(body.into())).unwrap()).await;
    assert_eq!(reply.status, 200, "{:?}", reply.body);
    reply.json()
}

fn chain(tenant: &str, messages: &[&str]) -> PrefixHash {
    let start = PrefixChain::of_request(tenant, TINY, "", None, None);
    messages.iter().fold(start, |chain, message| chain.then_json(message)).hash()
}

const SYSTEM: &str = r#"{ "role": "system", "content": "You answer shortly, \u0061lways in English." }"#;
const USER: &str = r#"{"content":"What is it that one should know of the sea?", "role":"user"}"#;
const MORE: &str = r#"{"role":"user","content":"And of the mountains?"}"#;

/// Two turns of a conversation; tokens that were promised for the first, and that the second found.
async fn two_turns(hub: &std::path::Path) -> (u64, u64) {
    let daemon = Daemon::start(hub, "").await;
    let client = daemon.load(TINY).await;
    let (mut watcher, _) = Watcher::join(&client).await;
    let first = chat(&client, "alice", &[SYSTEM, USER]).await;
    let promised = watcher.tokens(chain("alice", &[SYSTEM, USER])).await;
    let answer = json!({"role": "assistant", "content": first["choices"][0]["message"]["content"]});
    let second = chat(&client, "alice", &[SYSTEM, USER, &answer.to_string(), MORE]).await;
    (promised, second["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap())
}

#[tokio::test]
async fn models_are_seen_coming_working_and_going() {
    let hub = tiny_hub();
    let daemon = Daemon::start(hub.path(), "").await;
    let client = daemon.client();
    let (mut watcher, snapshot) = Watcher::join(&client).await;
    assert!(snapshot.models.is_empty() && snapshot.health.devices[0].vram_free_mb > 0);
    daemon.load(TINY).await;
    watcher.status(ModelStatus::Loading).await;
    watcher.status(ModelStatus::Loaded).await;
    let load = |event: &WatchEvent| match event {
        WatchEvent::Load(load) if load.tok_s_decode > 0.0 => Some(load.clone()),
        _ => None,
    };
    chat(&client, "", &[USER]).await;
    assert_eq!(watcher.until(load).await.id, TINY);
    client.post("/models/unload", json!({ "model_id": TINY })).await;
    watcher.status(ModelStatus::Unloaded).await;
    // A failed load leaves nothing behind.
    client.post("/models/load", json!({ "model_id": "test/none" })).await;
    watcher.status(ModelStatus::Unloaded).await;
    assert!(Watcher::join(&client).await.1.models.is_empty());
}

#[tokio::test]
async fn a_conversation_that_ran_is_known_by_the_hash_of_its_messages() {
    let hub = tiny_hub();
    let daemon = Daemon::start(hub.path(), "").await;
    let client = daemon.load(TINY).await;
    let (mut watcher, snapshot) = Watcher::join(&client).await;
    assert!(snapshot.prefixes.iter().all(|changes| changes.added.is_empty()));
    let first = chat(&client, "alice", &[SYSTEM, USER]).await;
    let asked = watcher.tokens(chain("alice", &[SYSTEM, USER])).await;
    let instructions = watcher.tokens(chain("alice", &[SYSTEM])).await;
    let prompt = first["usage"]["prompt_tokens"].as_u64().unwrap();
    assert!(0 < instructions && instructions < asked && asked <= prompt, "{instructions} {asked} {prompt}");
    assert!(asked.is_multiple_of(16) && instructions.is_multiple_of(16));
    // Nobody else's, whatever they say.
    assert!(!watcher.prefixes.contains_key(&chain("bob", &[SYSTEM, USER])));
    // Who joins later is told at once.
    let (_, snapshot) = Watcher::join(&client).await;
    let known = snapshot.prefixes.iter().flat_map(|changes| &changes.added);
    assert!(known.map(|prefix| (prefix.hash, prefix.tokens)).eq(watcher.prefixes.clone()));
}

#[tokio::test]
async fn what_is_promised_is_found() {
    let (promised, found) = two_turns(tiny_hub().path()).await;
    assert!(promised >= 48 && found >= promised, "{found} of {promised}");
}

#[tokio::test]
async fn what_a_template_writes_otherwise_as_history_is_not_promised() {
    let hub = tiny_hub();
    let template = "{% for m in messages %}{{ m.role }}: {% if loop.last %}(now) {% endif %}{{ m.content }}\n\
        {% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";
    Gguf::tiny("llama").with_text("tokenizer.chat_template", template).install(hub.path(), "tiny");
    let (promised, found) = two_turns(hub.path()).await;
    let instructions = "system: You answer shortly, always in English.\nuser: ".len() as u64;
    assert_eq!(promised, instructions / 16 * 16);
    assert!(found >= promised, "{found} of {promised}");
}

#[tokio::test]
async fn what_leaves_the_cache_is_withdrawn() {
    let hub = tiny_hub();
    let daemon = Daemon::start(hub.path(), "[engine]\nkv_cache_mb = 1").await;
    let client = daemon.load(TINY).await;
    let (mut watcher, _) = Watcher::join(&client).await;
    chat(&client, "", &[SYSTEM, USER]).await;
    let first = chain("", &[SYSTEM, USER]);
    watcher.tokens(first).await;
    let removed = |event: &WatchEvent| match event {
        WatchEvent::Prefixes(changes) => changes.removed.contains(&first).then_some(()),
        _ => None,
    };
    let flood = async {
        for i in 0..40 {
            let words = format!(r#"{{"role":"user","content":"{i} {}"}}"#, "what else? ".repeat(30));
            chat(&client, "", &[&words]).await;
        }
    };
    let ((), ()) = tokio::join!(flood, watcher.until(removed));
    client.post("/models/unload", json!({ "model_id": TINY })).await;
    while !watcher.prefixes.is_empty() {
        watcher.next().await.expect("the stream goes on");
    }
}

#[tokio::test]
async fn a_watcher_does_not_keep_the_daemon() {
    let hub = tiny_hub();
    let daemon = Daemon::start(hub.path(), "").await;
    let (mut watcher, _) = Watcher::join(&daemon.client()).await;
    let reading = async { while watcher.next().await.is_some() {} };
    tokio::time::timeout(LIMIT / 2, async { tokio::join!(daemon.stop(), reading) }).await.expect("it ends");
}

#[tokio::test]
async fn watchers_are_bounded() {
    let hub = tiny_hub();
    let daemon = Daemon::start(hub.path(), "").await;
    let client = daemon.client();
    let mut watchers = Vec::new();
    for _ in 0..64 {
        watchers.push(Watcher::join(&client).await.0);
    }
    assert_eq!(client.get("/watch").await.error(), (503, "overloaded".to_owned()));
    watchers.clear();
    tokio::time::timeout(LIMIT, async { while client_is_refused(&client).await {} }).await.expect("a place");
}

/// Whether there is still no place; the daemon notices that a watcher has left when it writes to it.
async fn client_is_refused(client: &Client) -> bool {
    let request = client.request(http::Method::GET, "/watch").body(Full::default()).unwrap();
    client.open(request).await.status() == 503
}

#[tokio::test]
async fn a_load_that_nobody_waits_for_is_heard_of() {
    let hub = tempfile::tempdir().unwrap();
    Gguf::tiny("llama").install(hub.path(), "tiny");
    Gguf::tiny("klingon").install(hub.path(), "bad");
    let daemon = Daemon::start(hub.path(), "").await;
    let client = daemon.client();
    assert!(client.json("/discovery").await["features"].to_string().contains("load-progress"));
    let (mut watcher, snapshot) = Watcher::join(&client).await;
    assert!(snapshot.loads.is_empty());
    for (model, ends) in [(TINY, LoadPhase::Loaded), ("test/bad", LoadPhase::Failed)] {
        let reply = client.post("/models/load", json!({ "model_id": model, "wait": false })).await;
        assert!(
            (reply.status, &reply.json()["status"]) == (StatusCode::ACCEPTED, &json!("loading")),
            "{}",
            reply.json()
        );
        let ended = |event: &WatchEvent| match event {
            WatchEvent::Progress(load) if load.model == model && load.phase == ends => Some(load.clone()),
            _ => None,
        };
        let last = watcher.until(ended).await;
        match ends {
            LoadPhase::Failed => {
                let failure = last.failure.unwrap();
                assert!(
                    failure.status == 422 && failure.body.contains("unsupported_architecture"),
                    "{failure:?}"
                );
            }
            _ => assert_eq!(last.failure, None),
        }
    }
    // What is there already needs no waiting.
    let reply = client.post("/models/load", json!({ "model_id": TINY, "wait": false })).await;
    assert_eq!((reply.status, &reply.json()["status"]), (StatusCode::OK, &json!("loaded")));
}
