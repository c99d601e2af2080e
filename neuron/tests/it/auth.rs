//! The bearer token.

use crate::support::Daemon;

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
