//! A real neuron with a real model behind a real cortex, and the official SDKs in front.

use crate::support::processes::{
    ALIAS, MODEL, Pair, cortex, node, python, start_cortex, start_cortex_with, start_neuron,
    start_neuron_with, until_up,
};
use crate::support::{Client, gateway::built_policy, node::spawn, until};
use serde_json::{Value, json};

fn ask(max_tokens: u32) -> Value {
    json!({"model": ALIAS, "stream": true, "max_tokens": max_tokens, "temperature": 0,
        "messages": [{"role": "user", "content": "Tell a long story about the sea."}]})
}

fn succeeds(output: &std::process::Output) {
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", said(&output.stdout), said(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_sdks() {
    let pair = Pair::start();
    pair.until_up().await;
    // Nothing is loaded: the first test that asks loads the model.
    let mut unittest = python(
        &["-m", "unittest", "-v", "test_openai", "test_anthropic", "test_responses", "test_asked"],
        &pair.url,
    );
    succeeds(&tokio::task::block_in_place(|| unittest.output()).unwrap());
    succeeds(
        &tokio::task::block_in_place(|| node(&["--test", "real.test.mts"], &pair.url).output()).unwrap(),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sdks_retry_while_no_neuron_is_up() {
    let dir = tempfile::tempdir().unwrap();
    let (_cortex, url, admin) = start_cortex(dir.path(), "127.0.0.1:9");
    succeeds(&tokio::task::block_in_place(|| python(&["retry.py", "never"], &url).output()).unwrap());
    let requests = Client::new(&admin).get("/admin/requests").await.json();
    let refused = |dialect: &str| {
        let all = requests.as_array().unwrap().iter();
        all.filter(|r| r["dialect"] == dialect && r["status"] == 503).count()
    };
    // The first try and two more.
    assert_eq!((refused("openai"), refused("anthropic")), (3, 3), "{requests:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sdks_get_their_answer_once_the_neuron_is_up() {
    let dir = tempfile::tempdir().unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (_cortex, url, admin) = start_cortex(dir.path(), &free);
    let sdks = python(&["retry.py", "soon"], &url).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let admin = Client::new(&admin);
    let asked = async || admin.get("/admin/requests").await.json().as_array().unwrap().len() >= 2;
    until("both SDKs have asked", asked).await;
    let _neuron = start_neuron(dir.path(), &free);
    succeeds(&tokio::task::block_in_place(|| sdks.wait_with_output()).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neuron_that_is_killed_mid_stream() {
    let mut pair = Pair::start();
    pair.until_up().await;
    let mut native = pair.client.stream("/v1/chat/completions", &ask(400)).await;
    // The other one waits its turn in the neuron. Not waited for: a fast neuron would be done with the first.
    let client = pair.client.clone();
    let translated = spawn(async move {
        let mut stream = client.stream("/v1/messages", &ask(40)).await;
        let rest = stream.rest().await;
        // It has said nothing yet and is asked again once it is back; or it broke off, and its dialect's event says it.
        assert!(
            rest.contains("event: message_stop") || rest.contains("event: error"),
            "{}: {rest}",
            stream.status
        );
    });
    native.next().await.unwrap();
    pair.neuron.kill();
    let rest = native.rest().await;
    let last = rest.trim_end().rsplit("\n\n").next().unwrap().to_owned();
    assert!(last.starts_with("data: {\"error\""), "{rest}");
    // The gateway lives, and waits with the next request for the neuron to be back.
    let address = pair.neuron_client.base.trim_start_matches("http://").to_owned();
    let client = pair.client.clone();
    let next = spawn(async move {
        let said = client.post("/v1/chat/completions", &ask(4)).await;
        assert!(said.text().ends_with("data: [DONE]\n\n"), "{}", said.text());
    });
    let admin = Client::new(&pair.admin_url);
    let state = async || admin.get("/admin/status").await.json()["nodes"][0]["state"].clone();
    until("it is seen to be gone", async || state().await == "down").await;
    assert!(!next.is_finished());
    let _again = start_neuron(pair.dir.path(), &address);
    translated.await.unwrap();
    next.await.unwrap();
}

/// As an upgrade of its package does it: what it has begun comes to its end, and nobody is refused while it is away.
#[tokio::test(flavor = "multi_thread")]
async fn a_neuron_that_is_restarted_under_requests_refuses_nobody() {
    let mut pair = Pair::start();
    pair.until_up().await;
    let whole = |answer: &str| assert!(answer.ends_with("data: [DONE]\n\n"), "{answer}");
    whole(&pair.client.post("/v1/chat/completions", &ask(2)).await.text());
    let address = pair.neuron_client.base.trim_start_matches("http://").to_owned();
    // A whole answer that takes longer than polls take to miss the neuron.
    let mut long = ask(150);
    long["stream"] = false.into();
    let (client, mut begun) = (pair.client.clone(), tokio::task::JoinSet::new());
    begun.spawn(async move { client.post("/v1/chat/completions", &long).await });
    let neuron = pair.neuron_client.clone();
    let in_flight =
        async || neuron.get("/health").await.json()["models"][0]["in_flight"].as_u64().unwrap_or(0);
    until("it has begun", async || in_flight().await == 1).await;
    let enough = tokio_util::sync::CancellationToken::new();
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (client, enough) = (pair.client.clone(), enough.clone());
        clients.spawn(async move {
            while !enough.is_cancelled() {
                whole(&client.post("/v1/chat/completions", &ask(2)).await.text());
            }
        });
    }
    let admin = Client::new(&pair.admin_url);
    let under_way = async || admin.get("/admin/status").await.json()["traffic"]["under_way"].clone();
    let state = async || admin.get("/admin/status").await.json()["nodes"][0]["state"].clone();
    for _ in 0..2 {
        until("others have begun", async || in_flight().await >= 2).await;
        let mut before = pair.neuron;
        assert!(tokio::task::spawn_blocking(move || before.terminate()).await.unwrap());
        while let Some(long) = begun.join_next().await {
            let long = long.unwrap();
            assert_eq!(long.status, 200, "{}", long.text());
        }
        until("it is seen to be gone", async || state().await == "down").await;
        until("all wait", async || under_way().await == 4).await;
        let (dir, address) = (pair.dir.path().to_owned(), address.clone());
        pair.neuron = tokio::task::spawn_blocking(move || start_neuron(&dir, &address).0).await.unwrap();
        whole(&pair.client.post("/v1/chat/completions", &ask(2)).await.text());
    }
    enough.cancel();
    clients.join_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_is_tokens_and_tokens_are_a_text() {
    let pair = Pair::start();
    pair.until_up().await;
    let text = "Tell a long story: été 海";
    let said = pair.client.post("/tokenize", &json!({"model": ALIAS, "prompt": text})).await;
    assert_eq!(said.status, 200, "{}", said.text());
    let tokens = said.json()["tokens"].clone();
    assert_eq!(said.json()["count"], tokens.as_array().unwrap().len());
    let said = pair.client.post("/detokenize", &json!({"model": ALIAS, "tokens": tokens})).await;
    assert_eq!((said.status, said.json()["prompt"].as_str()), (200, Some(text)), "{}", said.text());
    let said = pair.client.post("/tokenize", &json!({"model": ALIAS})).await;
    assert!(said.status == 400 && said.text().contains("or a prompt"), "{}", said.text());
    let said = pair.client.post("/detokenize", &json!({"model": ALIAS, "tokens": "x"})).await;
    assert_eq!(said.status, 400, "{}", said.text());
    // Neither loads the model.
    assert_eq!(pair.neuron_client.get("/models").await.json(), json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_stops_the_neuron() {
    let pair = Pair::start();
    pair.until_up().await;
    let mut stream = pair.client.stream("/v1/chat/completions", &ask(2000)).await;
    stream.next().await.unwrap();
    let in_flight = async || pair.neuron_client.get("/health").await.json()["models"][0]["in_flight"].clone();
    assert_eq!(in_flight().await, 1);
    drop(stream);
    until("the neuron has stopped", async || in_flight().await == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_model_is_refused_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    // A hub cache whose file is cut short.
    let repo = dir.path().join("hub/models--QuantFactory--SmolLM2-135M-Instruct-GGUF");
    let snapshot = repo.join("snapshots/cut");
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(repo.join("refs")).unwrap();
    std::fs::write(repo.join("refs/main"), "cut").unwrap();
    let mut whole = std::fs::File::open(model_file()).unwrap();
    let mut cut = std::fs::File::create(snapshot.join("SmolLM2-135M-Instruct.Q4_1.gguf")).unwrap();
    std::io::copy(&mut std::io::Read::take(&mut whole, 5 << 20), &mut cut).unwrap();
    let hub = dir.path().join("hub");
    let config = format!("[neuron]\nlisten = \"127.0.0.1:0\"\n[sources.huggingface]\ncache_dir = {hub:?}\n");
    let (_neuron, address) = start_neuron_with(dir.path(), &config, &[]);
    let (_cortex, url, _admin) = start_cortex(dir.path(), &address);
    let client = Client::new(&url);
    until_up(&client).await;
    let answer = client.post("/v1/chat/completions", &ask(4)).await;
    assert_eq!(answer.status, 422, "{}", answer.text());
    assert_eq!(answer.json()["error"]["code"], "invalid_file");
    let answer = client.post("/v1/messages", &ask(4)).await;
    assert_eq!((answer.status, answer.json()["type"].as_str()), (422, Some("error")));
}

fn model_file() -> std::path::PathBuf {
    let repo = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../target/models")
        .join(format!("models--{}", MODEL.replace('/', "--")));
    let revision = std::fs::read_to_string(repo.join("refs/main")).expect("run `cargo xtask setup` first");
    repo.join("snapshots").join(revision.trim()).join("SmolLM2-135M-Instruct.Q4_1.gguf")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_operators_type() {
    let mut pair = Pair::start();
    pair.until_up().await;
    let status = cortex(&["status", "--url", &pair.admin_url]);
    succeeds(&status);
    let shown = String::from_utf8(status.stdout).unwrap();
    assert!(shown.contains("only") && shown.contains("affinity") && shown.contains("serving"), "{shown}");
    let json = cortex(&["status", "--json", "--url", &pair.admin_url]);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["nodes"][0]["state"], "up");

    // What it would take, before it is loaded and after.
    let plan = |args: &[&str]| cortex(&[&["plan-load", ALIAS, "--url", &pair.admin_url], args].concat());
    let planned = plan(&[]);
    succeeds(&planned);
    let planned = String::from_utf8(planned.stdout).unwrap();
    assert!(planned.contains("only  fits on device 0:") && planned.contains("for 8192 tokens"), "{planned}");
    let planned: Value = serde_json::from_slice(&plan(&["--json"]).stdout).unwrap();
    let looked = &planned["nodes"][0]["preflight"];
    assert!(looked["weights_mb"].as_u64() > Some(80) && looked["text_mb"].as_u64() > Some(0), "{planned}");
    assert_eq!(pair.neuron_client.get("/models").await.json(), json!([]));
    succeeds(&cortex(&["load", ALIAS, "--url", &pair.admin_url]));
    let planned = String::from_utf8(plan(&["--node", "only"]).stdout).unwrap();
    assert!(planned.contains("it is loaded there"), "{planned}");
    let unknown = cortex(&["plan-load", "nothing", "--url", &pair.admin_url]);
    assert!(!unknown.status.success());

    // As documented: by the service's own configuration, without the service's secrets.
    let theirs = pair.dir.path().join("theirs.toml");
    let admin = pair.admin_url.strip_prefix("http://").unwrap();
    let secret = "[[keys]]\nname = \"k\"\nkey_env = \"NOT_SET_FOR_THE_TEST\"\n";
    std::fs::write(&theirs, format!("[gateway]\nadmin_listen = \"{admin}\"\n{secret}")).unwrap();
    let status = cortex(&["status", "--config", theirs.to_str().unwrap()]);
    succeeds(&status);
    assert!(String::from_utf8(status.stdout).unwrap().contains("affinity"));

    let config = pair.dir.path().join("cortex.toml");
    succeeds(&cortex(&["check", "--config", config.to_str().unwrap()]));
    std::fs::write(
        pair.dir.path().join("models.toml"),
        "[[models]]\nid = \"o/a\"\n[[models]]\nid = \"o/b\"\nresidency_priority = 7\n",
    )
    .unwrap();
    let checked = String::from_utf8(cortex(&["check", "--config", config.to_str().unwrap()]).stdout).unwrap();
    assert!(checked.contains("o/b is of class 7"), "{checked}");
    std::fs::write(&config, "[gatway]\n").unwrap();
    let refused = cortex(&["check", "--config", config.to_str().unwrap()]);
    assert!(!refused.status.success());
    assert!(String::from_utf8(refused.stderr).unwrap().contains("did you mean `gateway`"));

    let policy = built_policy("anthropic");
    let checked = cortex(&["policy", "check", policy.to_str().unwrap()]);
    succeeds(&checked);
    assert!(String::from_utf8(checked.stdout).unwrap().contains("serves POST /v1/messages"));
    let refused = cortex(&["policy", "check", config.to_str().unwrap()]);
    assert!(String::from_utf8(refused.stderr).unwrap().contains("not a WebAssembly file"));

    assert!(pair.cortex.terminate(), "cortex did not end well");
    assert!(pair.neuron.terminate(), "neuron did not end well");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_reloads() {
    let dir = tempfile::tempdir().unwrap();
    let (mut gateway, _url, admin) = start_cortex(dir.path(), "127.0.0.1:9");
    let file = dir.path().join("cortex.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("[policies]", "max_wait_secs = 7.0\n[policies]")).unwrap();
    gateway.hang_up();
    let admin = Client::new(&admin);
    let reload = async || admin.get("/admin/status").await.json()["config"]["last_reload"]["changed"].clone();
    until("it is reloaded", async || reload().await == "gateway.max_wait_secs").await;
    assert!(gateway.terminate(), "cortex did not end well");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neuron_that_wants_a_token_gets_it_from_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    let config = "[neuron]\nlisten = \"127.0.0.1:0\"\ntoken_env = \"ITS_TOKEN\"\n";
    let (_neuron, address) = start_neuron_with(dir.path(), config, &[("ITS_TOKEN", "s3cret")]);
    let mut neurons = String::new();
    for (name, token) in
        [("right", "token_env = \"RIGHT\""), ("wrong", "token_env = \"WRONG\""), ("none", "")]
    {
        neurons += &format!("[[neurons]]\nname = \"{name}\"\nendpoint = \"http://{address}\"\n{token}\n");
    }
    let env = [("RIGHT", "s3cret"), ("WRONG", "guess")];
    let (_cortex, _url, admin) = start_cortex_with(dir.path(), &neurons, &env);
    let admin = Client::new(&admin);
    let nodes = async || admin.get("/admin/status").await.json()["nodes"].clone();
    until("the one with the right token is up", async || nodes().await[0]["state"] == "up").await;
    for other in [1, 2] {
        until("it is refused", async || {
            let node = nodes().await[other].clone();
            node["state"] == "down" && node["error"].as_str().unwrap().contains("401")
        })
        .await;
    }
}

/// Two neurons that both have the model: whose cache holds a conversation is heard over /watch, and counts for
/// more than the session's home.
#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_goes_on_where_its_beginning_is_cached() {
    let dir = tempfile::tempdir().unwrap();
    let (_a, first) = start_neuron(dir.path(), "127.0.0.1:0");
    let (_b, second) = start_neuron(dir.path(), "127.0.0.1:0");
    for address in [&first, &second] {
        let neuron = Client::new(&format!("http://{address}"));
        let loaded = neuron.post("/models/load", &json!({"model_id": MODEL})).await;
        assert_eq!(loaded.status, 200);
    }
    let record = dir.path().join("decisions.jsonl");
    let nodes = format!(
        "record = {record:?}\n[[neurons]]\nname = \"a\"\nendpoint = \"http://{first}\"\n\
         [[neurons]]\nname = \"b\"\nendpoint = \"http://{second}\"\n"
    );
    let (_cortex, url, admin) = start_cortex_with(dir.path(), &nodes, &[]);
    let (client, admin) = (Client::new(&url), Client::new(&admin));
    until("both are up", async || client.get("/health").await.json()["nodes_up"] == 2).await;

    let system = "You know everything of the sea, its winds, its tides and its ships. ".repeat(30);
    let turn = |user: usize, more: Option<&Value>| {
        let mut messages = vec![
            json!({"role": "system", "content": system}),
            json!({"role": "user", "content": "What is a tide?"}),
        ];
        if let Some(answer) = more {
            messages.push(answer.clone());
            messages.push(json!({"role": "user", "content": format!("And number {user}?")}));
        }
        json!({"model": ALIAS, "max_tokens": 8, "temperature": 0, "user": format!("u{user}"), "messages": messages})
    };
    let answer = client.post("/v1/chat/completions", &turn(0, None)).await.json();
    let records = admin.get("/admin/requests").await.json();
    let home = records.as_array().unwrap().last().unwrap()["node"].clone();
    assert!(home.is_string(), "{records}");
    let answer = json!({"role": "assistant", "content": answer["choices"][0]["message"]["content"]});

    let place = usize::from(home == "b");
    let last = || {
        let lines = std::fs::read_to_string(&record).unwrap_or_default();
        lines.lines().last().and_then(|line| serde_json::from_str::<Value>(line).ok()).unwrap_or_default()
    };

    // Each of these has another session, and so by itself another home.
    let known = async || {
        let status = client.post("/v1/chat/completions", &turn(1, Some(&answer))).await.status;
        assert_eq!(status, 200);
        last()["node_facts"]["prefix_tokens"][place].as_u64() > Some(400)
    };
    until("the gateway knows whose cache it is", known).await;
    for user in 2..8 {
        let body = client.post("/v1/chat/completions", &turn(user, Some(&answer))).await.json();
        assert!(body["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64() > Some(400), "{body}");
    }
    // Of another conversation nothing is cached.
    let other = json!({"model": ALIAS, "max_tokens": 1, "messages": [{"role": "user", "content": "Hello"}]});
    client.post("/v1/chat/completions", &other).await;
    until("the record has it", async || last()["node_facts"]["prefix_tokens"] == json!([0, 0])).await;
}
