//! Who may operate the gateway, and what with.

use crate::support::Client;
use crate::support::gateway::{TestGateway, built_policy};
use crate::support::node::TestNode;
use crate::support::processes::cortex_with;
use serde_json::{Value, json};
use std::path::Path;

const ROLES: [(&str, &str); 3] =
    [("sees", "[\"viewer\"]"), ("operates", "[\"operator\"]"), ("uploads", "[\"policy-upload\"]")];

async fn gateway(node: &TestNode) -> TestGateway {
    let keys: String = ROLES
        .map(|(name, roles)| {
            let sha256 = crate::support::hex(&cortex::config::digest(name.as_bytes()));
            format!("[[admin_keys]]\nname = \"{name}\"\nsha256 = \"{sha256}\"\nroles = {roles}\n")
        })
        .concat();
    let gateway = TestGateway::start_locked(&[node], "", &keys, "sees").await;
    gateway.until("it is up", |s| s["nodes"][0]["state"] == "up").await;
    gateway
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_may_what_it_is_for_and_nothing_else() {
    let node = TestNode::with_model().await;
    let gateway = gateway(&node).await;
    let wasm = std::fs::read(built_policy("affinity")).unwrap();
    let drain = json!({"node": "n0"}).to_string().into_bytes();
    let calls: [(&str, &str, &[u8]); 4] = [
        ("GET", "/admin/status", b""),
        ("GET", "/admin/usage", b""),
        ("POST", "/admin/drain", &drain),
        ("PUT", "/admin/policies/affinity", &wasm),
    ];
    // For each key, what each call gets.
    for (key, want) in [
        ("sees", [200, 200, 403, 403]),
        ("operates", [200, 200, 200, 403]),
        ("uploads", [403, 403, 403, 200]),
        ("nobody's", [401; 4]),
    ] {
        for ((method, path, body), want) in calls.iter().zip(want) {
            let bearer = format!("Bearer {key}");
            let headers = [("authorization", bearer.as_str())];
            let said = gateway.admin.call(method, path, &headers, body.to_vec()).await;
            assert_eq!(said.status, want, "{key} {method} {path}: {}", said.text());
        }
    }
    let said = Client::new(&gateway.admin.base).get("/admin/status").await;
    assert!(said.status == 401 && said.text().contains("CORTEX_ADMIN_KEY"), "{}", said.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_is_put_is_live_or_refused_with_its_reason() {
    let node = TestNode::with_model().await;
    let gateway = TestGateway::start(&[&node], &[], "", "").await;
    let put = async |name: &str, bytes: Vec<u8>| {
        let said = gateway.admin.call("PUT", &format!("/admin/policies/{name}"), &[], bytes).await;
        (said.status, said.text())
    };
    let wasm = std::fs::read(built_policy("affinity")).unwrap();
    let (status, said) = put("affinity", wasm.clone()).await;
    assert!(status == 200 && said.contains("\"live\""), "{said}");
    let live = gateway.status().await["policies"][0].clone();
    assert_eq!(live["name"], "affinity");
    let (status, said) = put("affinity", wasm[..wasm.len() / 2].to_vec()).await;
    assert!(status == 422 && said.contains("refused at component"), "{said}");
    assert_eq!(gateway.status().await["policies"][0]["serving"]["sha256"], live["serving"]["sha256"]);
    for name in ["..%2Fescape", "a%2Fb", ".hidden", &"x".repeat(65)] {
        assert_eq!(put(name, wasm.clone()).await.0, 400, "{name}");
    }
    assert_eq!(put("large", vec![0; (4 << 20) + 1]).await.0, 413);
    let files: Vec<_> =
        std::fs::read_dir(gateway.policies()).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert_eq!(files, ["affinity.wasm"], "nothing else is left there");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_sends_its_key() {
    let node = TestNode::with_model().await;
    let gateway = gateway(&node).await;
    let run = |args: &[&str], key: &str| {
        let args = [args, &["--url", &gateway.admin.base]].concat();
        let env: Vec<(&str, &str)> =
            [("CORTEX_ADMIN_KEY", key)].into_iter().filter(|(_, key)| !key.is_empty()).collect();
        let output = tokio::task::block_in_place(|| cortex_with(&args, &env));
        (
            output.status.success(),
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        )
    };
    let (ok, said) = run(&["status"], "sees");
    assert!(ok && said.contains("n0"), "{said}");
    let (ok, said) = run(&["status"], "");
    assert!(!ok && said.contains("an admin key is needed"), "{said}");
    let (ok, said) = run(&["drain", "n0"], "sees");
    assert!(!ok && said.contains("does not have the role operator"), "{said}");
    let policy = built_policy("lru");
    let (ok, said) = run(&["policy", "push", policy.to_str().unwrap()], "uploads");
    assert!(ok && said.contains("lru is live"), "{said}");
    assert!(Path::new(&gateway.policies().join("lru.wasm")).exists());
    let status: Value = gateway.status().await;
    assert!(status["policies"].as_array().unwrap().iter().any(|p| p["name"] == "lru"));
    // Another one of the name, and the first again.
    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join("lru.wasm");
    std::fs::copy(built_policy("priority"), &other).unwrap();
    let (ok, said) = run(&["policy", "push", other.to_str().unwrap()], "uploads");
    assert!(ok && said.contains("lru is live"), "{said}");
    let (ok, said) = run(&["policy", "rollback", "lru"], "uploads");
    assert!(ok && said.contains("is live again, sha256"), "{said}");
    let whole = |path: &Path| std::fs::read(path).unwrap();
    assert_eq!(whole(&gateway.policies().join("lru.wasm")), whole(&policy));
    let (ok, said) = run(&["policy", "rollback", "none"], "uploads");
    assert!(!ok && said.contains("nothing to go back to"), "{said}");
}
