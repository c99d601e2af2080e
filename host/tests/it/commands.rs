//! The command line as people and programs use it.

use crate::support::gateway::TestGateway;
use crate::support::node::{TestNode, info};
use crate::support::processes::{cortex, cortex_with};
use serde_json::Value;
use std::process::Output;

fn said(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn run(args: &[&str]) -> (i32, String, String) {
    tokio::task::block_in_place(|| said(&cortex(args)))
}

#[tokio::test(flavor = "multi_thread")]
async fn init_writes_what_check_takes() {
    let node = TestNode::start().await;
    node.lock().called = "GPU box 1".into();
    node.lock().models = vec![info("huggingface:o/m", 300), info("o/n", 200)];
    let dir = tempfile::tempdir().unwrap();
    let (folder, policies) = (dir.path().join("etc").display().to_string(), dir.path().join("policies"));
    let policies = policies.to_str().unwrap();
    let address = node.address.to_string();
    let args = [
        "init",
        "--yes",
        "--dir",
        &folder,
        "--neuron",
        &address,
        "--neuron",
        "127.0.0.1:9",
        "--policies",
        policies,
    ];
    let (code, out, err) = run(&[&args[..], &["--client-key", "--admin-key"]].concat());
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("GPU-box-1, GPU box 1 with 1000 MiB, 2 models"), "{out}");
    assert!(out.contains("http://127.0.0.1:9: ") && out.contains("it is in the file all the same"), "{out}");
    let file = format!("{folder}/cortex.toml");
    let (code, out, err) = run(&["check", "--config", &file, "--json"]);
    assert_eq!(code, 0, "{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["nodes"], serde_json::json!(["GPU-box-1", "127.0.0.1"]));
    assert_eq!(report["models"], 2);
    // Nothing is lost.
    let (code, _, err) = run(&args);
    assert!(code == 1 && err.contains("is there already; --force"), "{err}");
    let before = std::fs::read_to_string(&file).unwrap();
    let loopback = ["--force", "--json", "--admin-listen", "[::1]:31315"];
    let (code, out, err) = run(&[&args[..], &loopback].concat());
    assert_eq!(code, 0, "{err}");
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&told["neurons"][0]["name"], &told["admin_key"]), (&"GPU-box-1".into(), &Value::Null));
    assert_eq!(std::fs::read_to_string(format!("{file}.bak")).unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn init_says_what_it_misses() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().to_str().unwrap();
    let init = |more: &[&str]| run(&[&["init", "--yes", "--dir", folder], more].concat());
    let (code, _, err) = init(&[]);
    assert!(code == 1 && err.contains("--neuron HOST"), "{err}");
    let (code, _, err) = init(&["--neuron", "127.0.0.1/31"]);
    assert!(code == 1 && err.contains("no neuron answers"), "{err}");
    let (code, _, err) = init(&["--neuron", "10.0.0.0/8"]);
    assert!(code == 1 && err.contains("too large"), "{err}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_tell_what_went_wrong() {
    let node = TestNode::with_model().await;
    let gateway = TestGateway::start(&[&node], &[], "", "[[models]]\nid = \"m\"\nvram_mb = 5\n").await;
    let url = gateway.admin.base.clone();
    let (code, out, _) = run(&["status", "--url", &url, "--json"]);
    let status: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &status["nodes"][0]["models"][0]["model"]), (0, &"m".into()));
    for command in [
        &["pin", "m"][..],
        &["drain", "n0"],
        &["drain", "n0", "--undo"],
        &["unload", "m"],
        &["load", "m"],
        &["plan-load", "m"],
    ] {
        let (code, out, err) = run(&[command, &["--url", &url, "--json"]].concat());
        assert_eq!(code, 0, "{command:?}: {err}");
        assert!(serde_json::from_str::<Value>(&out).is_ok(), "{command:?}: {out}");
    }
    let (code, _, err) = run(&["unload", "none", "--url", &url]);
    assert!(code == 1 && err.contains("not loaded"), "{err}");
    assert_eq!(run(&["status", "--nonsense"]).0, 2);
    let (code, _, err) = run(&["status", "--url", "http://127.0.0.1:9"]);
    assert!(code == 3 && err.contains("is it running?"), "{err}");
    let locked = TestGateway::start_locked(
        &[],
        "",
        "[[admin_keys]]\nname = \"a\"\nsha256 = \"2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90\"\nroles = [\"viewer\"]\n",
        "",
    )
    .await;
    assert_eq!(run(&["status", "--url", &locked.admin.base]).0, 4);
    let output = tokio::task::block_in_place(|| {
        cortex_with(&["pin", "m", "--url", &locked.admin.base], &[("CORTEX_ADMIN_KEY", "nobody's")])
    });
    assert_eq!(said(&output).0, 4);
    // Neither mends itself.
    let (code, out, err) = run(&["status", "--watch", "--url", &locked.admin.base, "--json"]);
    let error: Value = serde_json::from_str(&err).unwrap();
    assert_eq!((code, out.as_str(), &error["error"]["exit_status"]), (4, "", &4.into()), "{err}");
    let (code, _, err) = run(&["status", "--watch", "--config", "/nonexistent/cortex.toml"]);
    assert!(code == 1 && err.contains("cortex init"), "{err}");
}

/// What nodes and models call themselves is text.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_writes_to_the_terminal() {
    const BAD: &str = "x\u{1b}]0;owned\u{7}\u{1b}[2J\r\nNODE\u{202e}";
    let node = TestNode::start().await;
    {
        let mut inner = node.lock();
        inner.called = BAD.into();
        inner.models = vec![info(BAD, 300)];
        inner.load_error =
            Some((422, serde_json::json!({"error": {"kind": "quant_not_found", "message": BAD}})));
    }
    let gateway = TestGateway::start(&[&node], &[], "", "[[models]]\nid = \"m\"\nvram_mb = 5\n").await;
    let url = gateway.admin.base.clone();
    let address = node.address.to_string();
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().display().to_string();
    gateway
        .client
        .post(
            "/v1/chat/completions",
            &serde_json::json!({"model": "m", "messages": [{"role": "user", "content": "x"}]}),
        )
        .await;
    let request = gateway.last_request().await["id"].as_str().unwrap().to_owned();
    for command in [
        &["status", "--url", &url][..],
        &["load", "m", "--url", &url],
        &["plan-load", "m", "--url", &url],
        &["explain", &request, "--url", &url],
        &["init", "--yes", "--dir", &folder, "--neuron", &address],
    ] {
        let (_, out, err) = run(command);
        let bad = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!out.contains(bad) && !err.contains(bad), "{command:?}: {out:?} {err:?}");
        let all = out + &err;
        assert!(command[0] == "plan-load" || all.contains("x\u{fffd}]0;owned"), "{command:?}: {all:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn completions_and_the_manual_know_every_command() {
    let (_, help, _) = run(&["--help"]);
    assert!(help.contains("Exit status:"), "{help}");
    let commands: Vec<&str> = help
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(commands.contains(&"init") && commands.len() > 12, "{commands:?}");
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, _) = run(&["completions", shell]);
        assert_eq!(code, 0);
        for command in &commands {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let (code, _, err) = run(&["man", dir.path().to_str().unwrap()]);
    assert_eq!(code, 0, "{err}");
    for command in commands.iter().filter(|command| **command != "help") {
        let page = std::fs::read_to_string(dir.path().join(format!("cortex-{command}.1"))).unwrap();
        assert!(page.contains(".SH NAME"), "{page}");
    }
}
