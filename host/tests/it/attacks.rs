//! Policies that pass the gate and then turn on the gateway, while clients keep asking: every request
//! is answered, and the status says why.

use crate::support::guest::{DEEP, EAT, Guest, LOOP, TRAP, every};
use crate::support::load::Load;
use crate::support::{TestGateway, TestNode};
use serde_json::Value;

async fn gateway() -> (TestNode, TestGateway) {
    let node = TestNode::with_model().await;
    let gateway = TestGateway::start(&[&node], &[], "", "").await;
    (node, gateway)
}

fn put(gateway: &TestGateway, name: &str, bytes: &[u8]) {
    let (part, path) = (gateway.policies().join("part"), gateway.policies().join(format!("{name}.wasm")));
    std::fs::write(&part, bytes).unwrap();
    std::fs::rename(part, path).unwrap();
}

fn serving(status: &Value) -> &Value {
    &status["policies"][0]["serving"]
}

/// Under load: the policy is put in place, is found sick, and is not asked any more.
async fn survives(route: &str, reason: &str) {
    let (node, gateway) = gateway().await;
    let load = Load::start(&gateway, &node, None);
    load.more(5).await;
    put(&gateway, "affinity", &Guest::routing().sick(route).component());
    let status = gateway.until("the breaker is open", |s| serving(s)["breaker"] == "open").await;
    assert!(serving(&status)["last"].as_str().unwrap().contains(reason), "{status:#}");
    assert!(serving(&status)["strikes"].as_u64().unwrap() <= 6, "a few at once at most: {status:#}");
    load.more(20).await;
    // A better file makes a new start.
    put(&gateway, "affinity", &Guest::routing().padded(1, 0).component());
    gateway
        .until("the new policy serves", |s| serving(s)["breaker"] == "closed" && serving(s)["calls"] != 0)
        .await;
    load.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_on_every_call() {
    survives(TRAP, "trapped").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_infinite_loop() {
    survives(LOOP, "ran longer than its 5ms").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_bomb() {
    survives(EAT, "more memory").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stack_overflow() {
    survives(DEEP, "stack").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_out_of_range() {
    // Node 9 of 1.
    survives("(i32.store16 (i32.const 96) (i32.const 9))", "node 9 of 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_million_answers() {
    // More than its memory holds.
    survives("(i32.store (i32.const 76) (i32.const 10000000))", "trapped").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_at_all() {
    survives("(i32.store (i32.const 76) (i32.const 0))", "no node that can serve").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_now_and_then_is_made_good() {
    let (node, gateway) = gateway().await;
    let guest = Guest::routing().with("router#route", &format!("{} (i32.const 64)", every(60, TRAP)));
    put(&gateway, "affinity", &guest.component());
    let load = Load::start(&gateway, &node, None);
    let status = gateway.until("a trap was met", |s| serving(s)["retried"].as_u64() > Some(0)).await;
    assert_eq!((&serving(&status)["strikes"], &serving(&status)["breaker"]), (&0.into(), &"closed".into()));
    load.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn traps_too_often_and_the_last_good_version_is_back() {
    let (node, gateway) = gateway().await;
    put(&gateway, "affinity", &Guest::routing().component());
    let good = gateway.until("the good one serves", |s| serving(s)["calls"] == 0).await;
    let load = Load::start(&gateway, &node, None);
    load.more(5).await;
    let guest = Guest::routing().padded(2, 0);
    let guest = guest.with("router#route", &format!("{} (i32.const 64)", every(4, TRAP)));
    put(&gateway, "affinity", &guest.component());
    let status = gateway.until("rolled back", |s| !serving(s)["rolled_back_to"].is_null()).await;
    let back = &serving(&status)["rolled_back_to"];
    assert_eq!(back["sha256"], serving(&good)["sha256"]);
    let calls = back["calls"].as_u64().unwrap();
    load.more(20).await;
    let now = gateway.status().await;
    assert!(serving(&now)["rolled_back_to"]["calls"].as_u64().unwrap() > calls, "the good one decides again");
    load.end().await;
}

/// Translation has no built-in: the dialect's own requests fail, with an error in the dialect, and
/// nothing else does.
async fn a_sick_dialect(guest: Guest, reason: &str) {
    let (node, gateway) = gateway().await;
    put(&gateway, "p", &guest.component());
    gateway.until("the dialect is live", |s| serving(s)["kind"] == "translation").await;
    let load = Load::start(&gateway, &node, None);
    let body =
        serde_json::json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": "x"}]});
    for _ in 0..5 {
        let mut stream = gateway.client.stream("/v1/p", &body).await;
        let text = stream.rest().await;
        assert!(stream.status == 500 || text.contains("translation"), "{}: {text}", stream.status);
    }
    let status = gateway.status().await;
    assert!(serving(&status)["last"].as_str().unwrap().contains(reason), "{status:#}");
    load.more(5).await;
    load.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dialects_that_loop() {
    // Only where the input is not the gate's own: its bodies are short.
    for (export, length) in [("request", 10), ("events", 2)] {
        let name: &'static str = match export {
            "request" => "translator#[method]session.request",
            _ => "translator#[method]session.events",
        };
        let usual = Guest::translation();
        let sick =
            format!("(if (i32.gt_u (local.get {length}) (i32.const 4)) (then {LOOP})) (i32.const 1000)");
        a_sick_dialect(usual.with(name, &sick), "ran longer").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dialects_that_trap() {
    a_sick_dialect(Guest::translation().with("translator#[method]session.request", TRAP), "trapped").await;
    a_sick_dialect(Guest::translation().with("translator#[method]session.events", TRAP), "trapped").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_mid_stream_is_taken_up_by_a_fresh_session() {
    let (node, gateway) = gateway().await;
    // The third batch of an instance's events traps: a fresh instance starts its count with a repetition.
    let usual = "(i32.store (i32.const 1000) (i32.const 0))
         (i32.store (i32.const 1004) (local.get 1)) (i32.store (i32.const 1008) (local.get 2))
         (i32.const 1000)";
    // Counted in the store, which all instances share: the first session alone is struck, once.
    let imports = r#"(import "cortex:policy/host@0.1.0" "counter-add" (func $count (param i32 i32 i64)))
        (import "cortex:policy/host@0.1.0" "kv-get" (func $get (param i32 i32 i32)))
        (import "cortex:policy/host@0.1.0" "kv-set" (func $set (param i32 i32 i32 i32 i32) (result i32)))"#;
    // Three batches in, and the key "g" not there yet: set it and trap.
    let sick = format!(
        "(i32.store (i32.const 8000) (i32.add (i32.load (i32.const 8000)) (i32.const 1)))
         (call $get (i32.const 192) (i32.const 1) (i32.const 8016))
         (if (i32.and (i32.eq (i32.load (i32.const 8000)) (i32.const 2)) (i32.eqz (i32.load8_u (i32.const 8016))))
           (then (drop (call $set (i32.const 192) (i32.const 1) (i32.const 1) (i32.const 192) (i32.const 1))) unreachable))
         {usual}"
    );
    let guest = Guest::translation().importing(imports).with("translator#[method]session.events", &sick);
    put(&gateway, "p", &guest.component());
    gateway.until("the dialect is live", |s| serving(s)["kind"] == "translation").await;
    let load = Load::start(&gateway, &node, Some("/v1/p"));
    load.more(10).await;
    let status = gateway.until("it was struck", |s| serving(s)["strikes"].as_u64() > Some(0)).await;
    assert!(serving(&status)["last"].as_str().unwrap().contains("trapped"), "{status:#}");
    // Every stream was whole, the struck one too.
    load.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_log_lines_and_a_store_that_overflows() {
    let (node, gateway) = gateway().await;
    let imports = r#"(import "cortex:policy/host@0.1.0" "log" (func $log (param i32 i32 i32)))
        (import "cortex:policy/host@0.1.0" "kv-set" (func $set (param i32 i32 i32 i32 i32) (result i32)))
        (import "cortex:policy/host@0.1.0" "counter-add" (func $count (param i32 i32 i64)))"#;
    // 200 lines, 60 kB under the next of 25 keys, and one count where the store says no.
    let flood = "(local $n i32)
        (loop $again
          (call $log (i32.const 1) (i32.const 224) (i32.const 4))
          (local.set $n (i32.add (local.get $n) (i32.const 1)))
          (br_if $again (i32.lt_u (local.get $n) (i32.const 200))))
        (i32.store (i32.const 8000) (i32.rem_u (i32.add (i32.load (i32.const 8000)) (i32.const 1)) (i32.const 25)))
        (i32.store8 (i32.const 8004) (i32.add (i32.const 97) (i32.load (i32.const 8000))))
        (if (i32.eqz (call $set (i32.const 8004) (i32.const 1) (i32.const 1) (i32.const 0) (i32.const 60000)))
          (then (call $count (i32.const 224) (i32.const 4) (i64.const 1))))
        (i32.const 64)";
    let guest = Guest::routing().importing(imports).with("router#route", flood);
    put(&gateway, "affinity", &guest.component());
    let load = Load::start(&gateway, &node, None);
    load.more(60).await;
    load.end().await;
    let status = gateway.status().await;
    assert_eq!(serving(&status)["strikes"], 0, "{status:#}");
    let metrics = gateway.metrics.get("/metrics").await.text();
    let refused = metrics.lines().find(|l| l.starts_with("cortex_policy_counter_total{counter=\"POST\""));
    assert!(refused.is_some(), "the store was never full:\n{metrics}");
}
