//! What happens beside decisions: shadows, canaries, records, what policies learn.

use crate::support::guest::{Guest, TRAP};
use crate::support::load::always_whole;
use crate::support::{Reply, TestGateway, TestNode};
use serde_json::{Value, json};
use std::time::Duration;

/// Two nodes with the model, the guests in the policy directory, `routing` in the configuration.
async fn fleet(guests: &[(&str, Guest)], routing: &str) -> (TestNode, TestNode, TestGateway) {
    let (a, b) = (TestNode::with_model().await, TestNode::with_model().await);
    always_whole(&a);
    always_whole(&b);
    let gateway = TestGateway::start_with(&[&a, &b], &[], "", "", routing).await;
    for (name, guest) in guests {
        std::fs::write(gateway.policies().join(format!("{name}.wasm")), guest.component()).unwrap();
    }
    gateway.until("the policies are live", |s| s["policies"].as_array().unwrap().len() == guests.len()).await;
    (a, b, gateway)
}

async fn ask(gateway: &TestGateway, times: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for n in 0..times {
        let body = json!({"model": "m", "messages": [{"role": "user", "content": format!("question {n}")}]});
        statuses.push(gateway.client.post("/v1/chat/completions", &body).await.status);
    }
    statuses
}

fn second_node() -> Guest {
    Guest::routing().sick("(i32.store16 (i32.const 96) (i32.const 1))")
}

async fn metric(gateway: &TestGateway, start: &str) -> f64 {
    for _ in 0..100 {
        let text = gateway.metrics.get("/metrics").await.text();
        if let Some(line) = text.lines().find(|l| l.starts_with(start)) {
            return line.rsplit(' ').next().unwrap().parse().unwrap();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no metric {start}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_is_counted_and_never_followed() {
    let routing = "[routing]\npolicy = \"live\"\nshadow = \"next\"\n";
    let (a, b, gateway) = fleet(&[("live", Guest::routing()), ("next", second_node())], routing).await;
    assert_eq!(ask(&gateway, 10).await, [200; 10]);
    assert_eq!((a.lock().asked.len(), b.lock().asked.len()), (10, 0));
    for _ in 0..100 {
        if metric(&gateway, "cortex_policy_shadow_total{outcome=\"differs\",policy=\"next\"}").await >= 10.0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the shadow was not asked ten times");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_gets_its_share() {
    let routing = "[routing]\npolicy = \"live\"\ncanary = { policy = \"next\", percent = 30 }\n";
    let (a, b, gateway) = fleet(&[("live", Guest::routing()), ("next", second_node())], routing).await;
    ask(&gateway, 200).await;
    let (live, canary) = (a.lock().asked.len(), b.lock().asked.len());
    assert!(live + canary == 200 && (30..95).contains(&canary), "{live} and {canary}");
    let trial = gateway.admin.get("/admin/policies").await.json()["routing"]["canary"].clone();
    assert_eq!((&trial["policy"], &trial["withdrawn"]), (&json!("next"), &Value::Null));
    assert_eq!(trial["canary"]["answers"], canary);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_traps_is_taken_back_at_once() {
    let routing = "[routing]\npolicy = \"live\"\ncanary = { policy = \"next\", percent = 50 }\n";
    let guests = [("live", Guest::routing()), ("next", Guest::routing().sick(TRAP))];
    let (a, _b, gateway) = fleet(&guests, routing).await;
    assert_eq!(ask(&gateway, 40).await, [200; 40]);
    assert_eq!(a.lock().asked.len(), 40);
    let policies = gateway.admin.get("/admin/policies").await.json();
    let trial = &policies["routing"]["canary"];
    assert!(trial["withdrawn"].as_str().unwrap().contains("trapped"), "{policies:#}");
    let next = policies["policies"].as_array().unwrap().iter().find(|p| p["name"] == "next").unwrap();
    assert_eq!(next["serving"]["calls"], 1, "{policies:#}");
    assert_eq!(metric(&gateway, "cortex_policy_canary_withdrawn_total").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_whose_requests_fail_is_taken_back() {
    let routing = "[routing]\npolicy = \"live\"\ncanary = { policy = \"next\", percent = 50 }\n";
    let (_a, b, gateway) = fleet(&[("live", Guest::routing()), ("next", second_node())], routing).await;
    // The node that the canary prefers has too much to do, which opens no breaker.
    b.lock().always = Some(Reply::Whole(503, json!({"error": {"message": "busy"}})));
    for _ in 0..40 {
        ask(&gateway, 10).await;
        let policies = gateway.admin.get("/admin/policies").await.json();
        if let Some(why) = policies["routing"]["canary"]["withdrawn"].as_str() {
            assert!(why.contains("answers failed"), "{why}");
            assert_eq!(ask(&gateway, 20).await, [200; 20]);
            return;
        }
    }
    panic!("the canary was not taken back after 400 requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_are_recorded_and_a_candidate_is_held_against_them() {
    let (_a, _b, gateway) = fleet(&[("affinity", Guest::routing())], "").await;
    let path = gateway.dir.path().join("decisions.jsonl");
    let config = gateway.dir.path().join("cortex.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let with_record = text.replace("[policies]\n", &format!("[policies]\nrecord = {path:?}\n"));
    std::fs::write(&config, with_record).unwrap();
    gateway.until("the configuration is reloaded", |s| s["config"]["last_reload"]["ok"] == true).await;
    ask(&gateway, 5).await;
    let mut lines = String::new();
    for _ in 0..250 {
        lines = std::fs::read_to_string(&path).unwrap_or_default();
        if lines.lines().count() == 5 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(lines.lines().count(), 5, "{lines}");
    let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!((&first["policy"], &first["answer"]["pick"]), (&json!("affinity"), &json!([0])));
    assert_eq!(first["node_facts"]["state"], json!([5, 5]), "{first:#}");
    assert!(!lines.contains("question"), "no prompt is written down");

    let replay = |guest: Guest, more: &str| {
        let file = gateway.dir.path().join("candidate.wasm");
        std::fs::write(&file, guest.component()).unwrap();
        std::fs::write(&path, format!("{lines}{more}")).unwrap();
        let args =
            ["policy", "replay", file.to_str().unwrap(), "--json", "--decisions", path.to_str().unwrap()];
        let output = crate::support::processes::cortex(&args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let same = replay(Guest::routing(), "");
    assert_eq!(
        (&same["decisions"], &same["same"], &same["differ"]),
        (&json!(5), &json!(5), &json!(0)),
        "{same:#}"
    );
    let other = replay(second_node(), "{\"half a li\n");
    assert_eq!((&other["differ"], &other["unreadable"]), (&json!(5), &json!(1)), "{other:#}");
    assert_eq!(other["differences"][0]["was"], "nodes [0]");
    let sick = replay(Guest::routing().sick(TRAP), "");
    assert_eq!(sick["failed"], 5, "{sick:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_learns_is_told() {
    let imports = r#"(import "cortex:policy/host@0.1.0" "counter-add" (func $count (param i32 i32 i64)))"#;
    let told = "(call $count (i32.const 224) (i32.const 4) (i64.extend_i32_u (local.get 1)))";
    let guest = Guest::learning().importing(imports).with("learner#on-outcomes", told);
    let (_a, _b, gateway) = fleet(&[("affinity", guest)], "").await;
    ask(&gateway, 6).await;
    for _ in 0..100 {
        let start = "cortex_policy_counter_total{counter=\"POST\",policy=\"affinity\"}";
        if metric(&gateway, start).await == 6.0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("six outcomes were not told");
}
