//! Bearer tokens and their scopes.

use http_body_util::Full;
use serde_json::json;

use crate::support::{Daemon, MODEL, hub};

#[tokio::test]
async fn with_a_token_nothing_is_open() {
    let toml = "[neuron]\ntoken_env = \"T\"\n[sources.huggingface]\noffline = true";
    let daemon = Daemon::configured(toml, &[("T", "secret"), ("HOME", "/nonexistent")]).await;
    let mut client = daemon.client();
    for path in ["/", "/health", "/models", "/nothing"] {
        let reply = client.get(path).await;
        assert_eq!(reply.error(), (401, "invalid_api_key".into()), "{path}");
        assert_eq!(reply.headers["www-authenticate"], "Bearer");
    }
    client.token = Some("wrong");
    assert_eq!(client.get("/health").await.status, 401);
    client.token = Some("secret");
    assert_eq!(client.get("/health").await.status, 200);
}

/// What each of them may, of a call of each kind.
#[tokio::test]
async fn a_token_opens_what_it_is_for() {
    let token = |name: &str, scopes: &str| {
        format!("[[neuron.tokens]]\nname = \"{name}\"\ntoken_env = \"{name}\"\nscopes = {scopes}\n")
    };
    let toml = format!(
        "[neuron]\ntoken_env = \"all\"\n{}{}{}[sources.huggingface]\noffline = true",
        token("asks", "[\"infer\"]"),
        token("loads", "[\"lifecycle\"]"),
        token("looks", "[\"registry\"]"),
    );
    let names = ["all", "asks", "loads", "looks", "HOME"];
    let env = names.map(|name| (name, if name == "HOME" { "/nonexistent" } else { name }));
    let daemon = Daemon::configured(&toml, &env).await;
    let mut client = daemon.client();
    let messages = serde_json::json!([{"role": "user", "content": "x"}]);
    let body = serde_json::json!({"model_id": "a/b", "model": "a/b", "messages": messages});
    for (name, open) in [
        (
            "all",
            &[
                "/health",
                "/v1/chat/completions",
                "/tokenize",
                "/models/unload",
                "/defrag",
                "/models",
                "/discovery",
            ][..],
        ),
        ("asks", &["/health", "/v1/chat/completions", "/tokenize"]),
        ("loads", &["/health", "/models/unload", "/defrag"]),
        ("looks", &["/health", "/models", "/discovery"]),
    ] {
        client.token = Some(name);
        for path in [
            "/health",
            "/v1/chat/completions",
            "/tokenize",
            "/models/unload",
            "/defrag",
            "/models",
            "/discovery",
        ] {
            let reply = match path {
                "/health" | "/models" | "/discovery" => client.get(path).await,
                _ => client.post(path, body.clone()).await,
            };
            let is_closed = reply.status == 403;
            assert_eq!(is_closed, !open.contains(&path), "{name} {path}: {}", reply.status);
            if is_closed {
                assert_eq!(reply.error(), (403, "scope_missing".into()));
            }
        }
    }
}

/// Tokens of the same prompt that the cache held, for whoever asks so.
#[tokio::test]
async fn only_a_gateways_token_says_for_whom_it_asks() {
    let toml = format!(
        "[neuron]\ntoken_env = \"gateways\"\n[[neuron.tokens]]\nname = \"ann\"\ntoken_env = \"anns\"\n\
         scopes = [\"infer\", \"registry\"]\n[sources.huggingface]\ncache_dir = {:?}\noffline = true\n",
        hub()
    );
    let daemon = Daemon::configured(&toml, &[("gateways", "gateways"), ("anns", "anns")]).await;
    let mut client = daemon.client();
    client.token = Some("gateways");
    assert_eq!(client.post("/models/load", json!({"model_id": MODEL})).await.status, 200);
    let text = "Tell a story about the sea, its ships and the people on them. ".repeat(10);
    let body =
        json!({"model": MODEL, "max_tokens": 1, "messages": [{"role": "user", "content": text}]}).to_string();
    let mut cached = async |token: &'static str, tenant: &str| {
        client.token = Some(token);
        let request =
            client.request(http::Method::POST, "/v1/chat/completions").header("x-cortex-tenant", tenant);
        let reply = client.send(request.body(Full::new(body.clone().into())).unwrap()).await;
        assert_eq!(reply.status, 200, "{:?}", reply.body);
        reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
    };
    assert_eq!(cached("gateways", "alice").await, 0);
    assert!(cached("gateways", "alice").await > 0, "alice's own");
    assert_eq!(cached("anns", "alice").await, 0, "ann is not alice, whatever she says");
    assert!(cached("anns", "bob").await > 0, "and finds what was hers");
}
