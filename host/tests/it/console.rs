//! What stands behind the console: its files, its events, and who may have them.

use crate::support::gateway::TestGateway;
use crate::support::node::{Reply, TestNode, chat, ending, spawn};
use crate::support::{Client, hex, http, until};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(flavor = "multi_thread")]
async fn the_page_and_its_files_are_for_everybody_and_bound_to_this_address() {
    let gateway = TestGateway::start_locked(&[], "", &keys(&[("ops", "operator")]), "ops").await;
    let nobody = Client::new(&gateway.admin.base);
    let to = nobody.get("/").await;
    assert_eq!((to.status, to.header("location")), (303, "/console/"));
    let page = nobody.get("/console/").await;
    assert!(page.status == 200 && page.text().contains("app.js"), "{}", page.text());
    let policy = page.header("content-security-policy").to_owned();
    for part in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"] {
        assert!(policy.contains(part) && !policy.contains("unsafe"), "{policy}");
    }
    let script = nobody.get("/console/app.js").await;
    assert!(script.header("content-type").starts_with("text/javascript"));
    let tag = script.header("etag").to_owned();
    let again = nobody.call("GET", "/console/app.js", &[("if-none-match", &tag)], Vec::new()).await;
    assert_eq!((again.status, again.text().len()), (304, 0));
    for path in ["/console/../cortex.toml", "/console/%2e%2e%2fcortex.toml", "/console/nothing.js"] {
        assert_eq!(nobody.get(path).await.status, 404, "{path}");
    }
    assert_eq!(nobody.get("/admin/events").await.status, 401);
    assert_eq!(nobody.get("/admin/whoami").await.status, 401);
    let me = gateway.admin.get("/admin/whoami").await.json();
    assert_eq!((&me["name"], &me["roles"]), (&json!("ops"), &json!(["viewer", "operator"])));
}

fn keys(of: &[(&str, &str)]) -> String {
    let key = |(secret, role): &(&str, &str)| {
        let sha256 = hex(&cortex::config::digest(secret.as_bytes()));
        format!("[[admin_keys]]\nname = \"{secret}\"\nsha256 = \"{sha256}\"\nroles = [\"{role}\"]\n")
    };
    of.iter().map(key).collect()
}

/// The first event after which `holds` is true of everything that was told.
async fn told(stream: &mut http::Events, known: &mut Value, holds: impl Fn(&Value) -> bool) {
    while !holds(known) {
        let (name, data) = stream.next().await.unwrap();
        if name == "all" {
            *known = data["set"].clone();
        } else {
            for (key, value) in data["set"].as_object().unwrap() {
                known[key] = value.clone();
            }
            for key in data["gone"].as_array().unwrap() {
                known.as_object_mut().unwrap().remove(key.as_str().unwrap());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_tell_everything_once_and_then_what_changes() {
    let node = TestNode::with_model().await;
    let gateway =
        TestGateway::start(&[&node], &["affinity"], "", "[[models]]\nid = \"m\"\nvram_mb = 5\n").await;
    let mut stream = gateway.admin.events("/admin/events").await;
    let mut known = json!({});
    told(&mut stream, &mut known, |k| k["node/n0"]["state"] == "up").await;
    assert_eq!(known["policy/affinity"]["serving"]["kind"], "routing");
    assert_eq!(known["model/m"]["on"][0]["node"], "n0");
    assert_eq!(known["gateway"]["routing"]["policy"], "affinity");
    let settings = known["config"]["settings"].as_array().unwrap();
    let poll = settings.iter().find(|s| s["key"] == "gateway.poll_interval_secs").unwrap();
    assert_eq!((&poll["value"], &poll["from"]), (&json!(0.1), &json!("file")));

    // A request that hangs is under way, phase by phase, until it has ended.
    node.reply(Reply::Never);
    let client = gateway.client.clone();
    let ask =
        json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": "secret words"}]});
    let asking = spawn(async move { drop(client.try_post("/v1/chat/completions", ask.to_string()).await) });
    let live = |k: &Value| {
        k.as_object()
            .unwrap()
            .iter()
            .find(|(key, _)| key.starts_with("live/"))
            .map(|(_, value)| value.clone())
    };
    told(&mut stream, &mut known, |k| live(k).is_some_and(|l| l["phase"] == "forward")).await;
    let request = live(&known).unwrap();
    assert_eq!((&request["model"], &request["node"]), (&json!("m"), &json!("n0")));
    let begun: Vec<&String> = request["phases"].as_object().unwrap().keys().collect();
    assert_eq!(begun, ["read", "route", "acquire", "forward"]);
    asking.abort();
    told(&mut stream, &mut known, |k| live(k).is_none()).await;
    let id = format!("request/{}", request["id"].as_str().unwrap());
    assert_eq!(known[&id]["status"], 499);
    assert!(!known.to_string().contains("secret words"), "{known}");

    // A drain, and a policy that goes.
    gateway.admin.post("/admin/drain", &json!({"node": "n0"})).await;
    std::fs::remove_file(gateway.policies().join("affinity.wasm")).unwrap();
    told(&mut stream, &mut known, |k| {
        !k["node/n0"]["draining"].is_null() && k.get("policy/affinity").is_none()
    })
    .await;
    // Samples come by the second.
    let first = known["sample"]["at_ms"].clone();
    told(&mut stream, &mut known, |k| k["sample"]["at_ms"] != first).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_taken_back_sees_no_more() {
    let gateway =
        TestGateway::start_locked(&[], "", &keys(&[("stays", "viewer"), ("goes", "viewer")]), "stays").await;
    let leaver = gateway.admin.with_key("goes");
    let (mut stays, mut goes) =
        (gateway.admin.events("/admin/events").await, leaver.events("/admin/events").await);
    assert_eq!((stays.next().await.unwrap().0, goes.next().await.unwrap().0), ("all".into(), "all".into()));
    let path = gateway.dir.path().join("cortex.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace(&keys(&[("goes", "viewer")]), "")).unwrap();
    while goes.next().await.unwrap().0 != "over" {}
    assert_eq!(goes.next().await, None, "the stream has ended");
    assert_eq!(stays.next().await.unwrap().0, "some");
    assert_eq!(leaver.get("/admin/whoami").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn consoles_are_bounded_and_end_with_the_gateway() {
    let gateway = TestGateway::start(&[], &[], "", "").await;
    let mut open = Vec::new();
    for _ in 0..64 {
        open.push(gateway.admin.events("/admin/events").await);
    }
    let more = gateway.admin.get("/admin/events").await;
    assert!(more.status == 503 && more.text().contains("64 consoles"), "{}", more.text());
    drop(open.split_off(1));
    until("there is room again", async || gateway.admin.events("/admin/events").await.status() == 200).await;
    gateway.gateway.shutdown.cancel();
    while open[0].next().await.is_some() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_keys_are_slowed_down_and_other_sites_are_refused() {
    let both = keys(&[("ops", "operator"), ("sees", "viewer"), ("stays", "viewer")]);
    let gateway = TestGateway::start_locked(&[], "", &both, "ops").await;
    let before = gateway.admin.with_key("stays");
    assert_eq!(before.get("/admin/status").await.status, 200);
    let guess = |n: u32| gateway.admin.with_key(&format!("guess {n}"));
    for n in 0..10 {
        assert_eq!(guess(n).get("/admin/status").await.status, 401);
    }
    let limited = guess(10).get("/admin/status").await;
    assert_eq!((limited.status, limited.header("retry-after")), (429, "6"));
    // Also with the right one: whoever guesses must not learn that it was.
    assert_eq!(gateway.admin.get("/admin/status").await.status, 429);
    assert_eq!(gateway.admin.with_key("sees").get("/admin/status").await.status, 429);
    // Whoever was in before is not kept out by others.
    assert_eq!(before.get("/admin/status").await.status, 200);
    // No key is no guess.
    assert_eq!(Client::new(&gateway.admin.base).get("/admin/status").await.status, 401);

    let open = TestGateway::start(&[], &[], "", "").await;
    let from = async |headers: &[(&str, &str)]| {
        open.admin.call("POST", "/admin/pin", headers, b"{}".to_vec()).await.status
    };
    assert_eq!(from(&[("origin", "http://evil.example")]).await, 403);
    assert_eq!(from(&[("sec-fetch-site", "cross-site")]).await, 403);
    assert_eq!(from(&[("host", "rebound.example")]).await, 403);
    // Its own page may: what it says is wrong is another matter.
    assert_eq!(from(&[("origin", &open.admin.base), ("sec-fetch-site", "same-origin")]).await, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gigabyte_is_refused_before_it_is_sent() {
    let gateway = TestGateway::start(&[], &["affinity"], "", "").await;
    for (method, path) in [("PUT", "/admin/policies/affinity"), ("POST", "/admin/load")] {
        let head =
            format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1073741824\r\n\r\n");
        let mut stream = http::raw(&gateway.admin.base, &head).await;
        stream.write_all(&[0; 1024]).await.unwrap();
        let mut said = [0; 12];
        tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut said)).await.unwrap().unwrap();
        assert_eq!(&said, b"HTTP/1.1 413", "{method} {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_tries_goes_the_way_of_every_request() {
    let node = TestNode::with_model().await;
    let more = keys(&[("ops", "operator"), ("sees", "viewer")])
        + "[[keys]]\nname = \"alice\"\nsha256 = \"2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90\"\n";
    let gateway = TestGateway::start_locked(&[&node], "", &more, "ops").await;
    gateway.until("it is up", |s| s["nodes"][0]["state"] == "up").await;
    node.reply(Reply::Whole(200, chat("m", "well said")));
    let ask = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
    let said = gateway.admin.post("/admin/try/v1/chat/completions", &ask).await;
    assert!(said.status == 200 && said.text().contains("well said"), "{}", said.text());
    let record = gateway.last_request().await;
    assert_eq!((&record["key"], &record["status"]), (&json!("console:ops"), &json!(200)));
    let phases: Vec<&String> = record["phases"].as_object().unwrap().keys().collect();
    assert_eq!(phases, ["read", "route", "acquire", "forward"]);

    node.reply(Reply::Pieces(ending("m")));
    let mut streamed = ask.clone();
    streamed["stream"] = true.into();
    let said = gateway.admin.post("/admin/try/v1/chat/completions", &streamed).await;
    assert!(
        said.header("content-type").starts_with("text/event-stream") && said.text().contains("[DONE]"),
        "{}",
        said.text()
    );

    let viewer = gateway.admin.with_key("sees");
    assert_eq!(viewer.post("/admin/try/v1/chat/completions", &ask).await.status, 403);
    assert_eq!(gateway.admin.post("/admin/try/v1/nothing", &ask).await.status, 404);
    // The clients' address still wants a client's key, and an admin key is none.
    assert_eq!(gateway.client.with_key("ops").post("/v1/chat/completions", &ask).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_goes_back_to_what_it_was() {
    let gateway = TestGateway::start(&[], &[], "", "").await;
    let built = |name: &str| std::fs::read(crate::support::gateway::built_policy(name)).unwrap();
    let put = async |bytes: Vec<u8>| gateway.admin.call("PUT", "/admin/policies/judge", &[], bytes).await;
    let back = async || gateway.admin.call("POST", "/admin/policies/judge/rollback", &[], Vec::new()).await;
    assert_eq!(back().await.status, 409);
    let first = put(built("lru")).await.json();
    assert_eq!(first["stages"].as_array().unwrap().last().unwrap()["stage"], "prewarm");
    assert_eq!(back().await.status, 409, "there was nothing before");
    // Once more the same is nothing to go back to.
    put(built("lru")).await;
    assert_eq!(back().await.status, 409);
    let second = put(built("priority")).await.json();
    let serving = async || gateway.status().await["policies"][0]["serving"]["sha256"].clone();
    assert_eq!(serving().await, second["sha256"]);
    let said = back().await;
    assert_eq!((said.status, serving().await), (200, first["sha256"].clone()));
    assert_eq!(said.json()["policy"]["serving"]["sha256"], first["sha256"]);
    back().await;
    assert_eq!(serving().await, second["sha256"], "back from going back");
    // What was replaced by nothing is nothing to go back to.
    std::fs::remove_file(gateway.policies().join("judge.wasm")).unwrap();
    put(built("affinity")).await;
    assert_eq!(back().await.status, 409);
    let refused = put(b"nonsense".to_vec()).await;
    assert_eq!(
        (refused.status, &refused.json()["error"]["report"]["refused"][0]),
        (422, &json!("component"))
    );
}
