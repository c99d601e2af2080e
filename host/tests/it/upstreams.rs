//! Servers of others beside neurons.

use crate::support::gateway::TestGateway;
use crate::support::node::{Reply, TestNode, chat, chunk, ending, info};
use crate::support::processes::{
    ALIAS, MODEL, Process, python, start_cortex, start_cortex_with, start_neuron, until_up,
};
use crate::support::until;
use serde_json::{Value, json};

fn ask(model: &str, stream: bool) -> Value {
    json!({"model": model, "stream": stream, "messages": [{"role": "user", "content": "x"}]})
}

fn upstream(node: &TestNode, more: &str) -> String {
    format!("[[upstreams]]\nname = \"other\"\nendpoint = \"http://{}/v1\"\n{more}", node.address)
}

#[tokio::test(flavor = "multi_thread")]
async fn it_serves_under_our_names_with_its_key_and_headers() {
    let server = TestNode::start().await;
    let more =
        "key_env = \"PATH\"\nheaders = { \"x-team\" = \"blue\" }\nmodels = { \"org/ours\" = \"theirs\" }\n";
    let models = "[[models]]\nid = \"org/ours\"\n[aliases]\nshort = \"org/ours\"\n";
    let gateway = TestGateway::start_with(&[], &[], "", models, &upstream(&server, more)).await;
    server.reply(Reply::Whole(200, chat("theirs", "hi")));
    let said = gateway.client.post("/v1/chat/completions", &ask("short", false)).await;
    // The name that the client used.
    assert_eq!((said.status, &said.json()["model"]), (200, &"short".into()), "{}", said.text());
    // Some answer under yet another name.
    let streamed = [vec![chunk("/data/theirs.gguf", "hi")], ending("theirs")].concat();
    server.reply(Reply::Pieces(streamed));
    let mut stream = gateway.client.stream("/v1/chat/completions", &ask("org/ours", true)).await;
    let text = stream.rest().await;
    assert!(text.contains("org/ours") && !text.contains("theirs"), "{text}");
    let inner = server.lock();
    assert!(
        inner.asked.iter().all(|(path, body)| path == "/v1/chat/completions" && body["model"] == "theirs")
    );
    let headers = &inner.headers[0];
    assert_eq!(headers["authorization"], format!("Bearer {}", std::env::var("PATH").unwrap()).as_str());
    assert_eq!(headers["x-team"], "blue");
    assert!(!headers.contains_key("x-cortex-tenant"), "whose request it is stays here");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_lists_is_served_beside_the_neurons_and_either_stands_in_for_the_other() {
    let (server, neuron) = (TestNode::start().await, TestNode::with_model().await);
    server.lock().models = vec![info("m", 0), info("only-there", 0)];
    for node in [&server, &neuron] {
        node.lock().always = Some(Reply::Whole(200, chat("m", "hi")));
    }
    let gateway = TestGateway::start_with(&[&neuron], &[], "", "", &upstream(&server, "")).await;
    let listed = gateway.client.get("/v1/models").await.json();
    let ids: Vec<&str> =
        listed["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert!(ids.contains(&"m") && ids.contains(&"only-there"), "{ids:?}");
    let said = gateway.client.post("/v1/chat/completions", &ask("only-there", false)).await;
    assert_eq!(said.status, 200, "{}", said.text());
    assert_eq!(gateway.last_request().await["node"], "other");
    neuron.lock().always = Some(Reply::Whole(503, json!({"error": {"message": "busy"}})));
    for _ in 0..4 {
        assert_eq!(gateway.client.post("/v1/chat/completions", &ask("m", false)).await.status, 200);
    }
    neuron.lock().always = Some(Reply::Whole(200, chat("m", "hi")));
    server.lock().always = Some(Reply::Whole(404, json!({"error": {"message": "no such model"}})));
    for _ in 0..4 {
        assert_eq!(gateway.client.post("/v1/chat/completions", &ask("m", false)).await.status, 200);
    }
    // What it does not have says nothing against it.
    for _ in 0..6 {
        assert_eq!(gateway.client.post("/v1/chat/completions", &ask("only-there", false)).await.status, 502);
    }
    assert!(
        gateway.status().await["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .all(|node| node["left_alone_secs"].is_null())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn it_gets_as_many_at_once_as_it_may() {
    let server = TestNode::start().await;
    server.lock().models = vec![info("m", 0)];
    let gateway = TestGateway::start_with(&[], &[], "", "", &upstream(&server, "max_concurrent = 2\n")).await;
    let (mut feeds, mut clients) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let (feed, fed) = tokio::sync::mpsc::channel(4);
        server.reply(Reply::Fed(std::sync::Arc::new(tokio::sync::Mutex::new(fed))));
        feed.send(chunk("m", "one")).await.unwrap();
        feeds.push(feed);
        let client = gateway.client.clone();
        clients.push(crate::support::node::spawn(async move {
            let mut stream = client.stream("/v1/chat/completions", &ask("m", true)).await;
            assert!(stream.rest().await.contains("one"));
        }));
    }
    until("two run and one waits", async || {
        server.lock().asked.len() == 2 && gateway.status().await["queues"][0]["waiting"] == 1
    })
    .await;
    for feed in feeds {
        for piece in ending("m") {
            feed.send(piece).await.unwrap();
        }
    }
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(server.lock().asked.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_loaded_or_unloaded_there_and_tokens_are_not_counted() {
    let server = TestNode::start().await;
    server.lock().models = vec![info("org/m", 0)];
    let models = "[[models]]\nid = \"org/m\"\nidle_ttl = 0\n[[models]]\nid = \"org/absent\"\n";
    let gateway = TestGateway::start_with(&[], &[], "", models, &upstream(&server, "")).await;
    let said = gateway.client.post("/v1/chat/completions", &ask("org/absent", false)).await;
    assert!(said.status == 503 && said.text().contains("upstream that does not have it"), "{}", said.text());
    for (path, body, part) in [
        ("/admin/load", json!({"model": "org/absent", "node": "other"}), "its own to load"),
        ("/admin/unload", json!({"model": "org/m"}), "its own to unload"),
    ] {
        let said = gateway.admin.post(path, &body).await;
        assert!(said.status == 409 && said.text().contains(part), "{path}: {}", said.text());
    }
    let said = gateway.client.post("/tokenize", &ask("org/m", false)).await;
    assert!(said.status == 501 && said.text().contains("counts tokens"), "{}", said.text());
    let inner = server.lock();
    assert!(inner.asked.is_empty() && inner.loads.is_empty() && inner.unloads.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_is_the_operators_to_mend_and_is_said_in_the_status() {
    let server = TestNode::start().await;
    server.lock().sick = true;
    let gateway = TestGateway::start_unready(&upstream(&server, "")).await;
    let status =
        gateway.until("it was asked", |s| s["nodes"][0]["error"].as_str() != Some("not asked yet")).await;
    let error = status["nodes"][0]["error"].as_str().unwrap();
    assert!(error.contains("it answered 500"), "{error}");
}

/// Another cortex with a real model, under another name.
#[tokio::test(flavor = "multi_thread")]
async fn a_real_server_and_the_official_sdk() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (_neuron, address) = start_neuron(dirs[0].path(), "127.0.0.1:0");
    let (_behind, behind, _) = start_cortex(dirs[0].path(), &address);
    until_up(&crate::support::Client::new(&behind)).await;
    let upstream = format!(
        "[[upstreams]]\nname = \"other\"\nendpoint = \"{behind}/v1\"\nmodels = {{ \"{MODEL}\" = \"{ALIAS}\" }}\n"
    );
    let (_front, url, _) = start_cortex_with(dirs[1].path(), &upstream, &[]);
    until_up(&crate::support::Client::new(&url)).await;
    sdk(&url).await;
}

/// llama.cpp's server, where this machine has one.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs llama.cpp: LLAMA_SERVER=/path/to/llama-server LLAMA_MODEL=/path/to/smollm2.gguf"]
async fn llama_server_and_the_official_sdk() {
    let [server, model] = ["LLAMA_SERVER", "LLAMA_MODEL"].map(|name| std::env::var(name).expect(name));
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let args = ["-m", &model, "--host", "127.0.0.1", "--port", &port, "--api-key", "secret", "-c", "2048"];
    let _llama = Process::spawn(&server, &args);
    let upstream = format!(
        "[[upstreams]]\nname = \"llama\"\nendpoint = \"http://127.0.0.1:{port}\"\nkey_env = \"LLAMA_KEY\"\n\
         models = {{ \"{MODEL}\" = \"any\" }}\n"
    );
    let dir = tempfile::tempdir().unwrap();
    let (_front, url, _) = start_cortex_with(dir.path(), &upstream, &[("LLAMA_KEY", "secret")]);
    let client = crate::support::Client::new(&url);
    until("it is up and has its model", async || {
        client.get("/health").await.json()["nodes_up"] == 1
            && client.post("/v1/chat/completions", &ask(MODEL, false)).await.status == 200
    })
    .await;
    sdk(&url).await;
}

async fn sdk(url: &str) {
    let tests = [
        "plain",
        "the_alias_is_what_comes_back",
        "streamed_equals_plain",
        "streamed_usage_on_request",
        "stop",
    ]
    .map(|test| format!("test_openai.OpenAi.test_{test}"));
    let args: Vec<&str> =
        ["-m", "unittest", "-v"].into_iter().chain(tests.iter().map(String::as_str)).collect();
    let output = tokio::task::block_in_place(|| python(&args, url).output()).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
