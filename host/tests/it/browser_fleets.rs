//! The console in a real browser, before fleets of stand-ins: at work, large, looked at for long, and meaning harm.

use crate::support::browser::Browser;
use crate::support::gateway::{TestGateway, built_policy};
use crate::support::node::{TestNode, chat, chunk, ending, info};
use crate::support::{Reply, hex, until};
use serde_json::{Value, json};
use std::time::Duration;

const WORK: &str = "[[models]]\nid = \"o/b\"\nvram_mb = 600\n[[models]]\nid = \"o/old\"\nvram_mb = 700\n\
                    [[models]]\nid = \"o/sees\"\nvram_mb = 100\ncapabilities = [\"vision\"]\n";
/// One white pixel.
const PIXEL: &str = "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154\
                     789c63f8ffff3f0005fe02fe0def46b80000000049454e44ae426082";

async fn at_work() -> TestNode {
    let node = TestNode::start().await;
    let progress = json!({"model": "o/b", "phase": "reading", "bytes_done": 300_000_000, "bytes_total": 1_200_000_000,
                          "bytes_per_sec": 50_000_000, "seconds_left": 18.0});
    let mut inner = node.lock();
    inner.heat = (87, 61);
    inner.models = vec![info("o/old", 700)];
    inner.model_mb = 600;
    inner.watch = Some(format!("event: load-progress\ndata: {progress}\n\n"));
    inner.watch_stays = true;
    inner.load_takes = Duration::from_secs(4);
    inner.always = Some(Reply::Whole(200, chat("o/b", "hi")));
    drop(inner);
    node
}

/// Devices, a load with what is left of it, an eviction and whose judgement it was, policies in the shadow and on trial, a
/// reload and one that failed, an image.
#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_at_work() {
    let Some(browser) = Browser::start().await else { return };
    let node = at_work().await;
    let trial = "[routing]\nshadow = \"second\"\ncanary = { policy = \"third\", percent = 50 }\n";
    let gateway =
        TestGateway::start_with(&[&node], &["affinity", "lru"], "max_waiting = 9", WORK, trial).await;
    for name in ["second", "third"] {
        let path = gateway.policies().join(format!("{name}.wasm"));
        std::fs::copy(built_policy("affinity"), path).unwrap();
    }
    gateway.until("both serve", |s| s["policies"].as_array().is_some_and(|all| all.len() == 4)).await;
    browser.go(&gateway.admin.base).await;
    browser.until("article[data-node=n0]", "87 % busy · 61 °C").await;
    let ask = json!({"model": "o/b", "messages": [{"role": "user", "content": "hi"}]});
    let looked = async {
        browser.until(".load", "reading").await;
        browser.until(".load", "50 MB/s · 18.0 s left · 1 wait · for demand").await;
        browser.picture("loading").await;
    };
    let (answer, ()) = tokio::join!(gateway.client.post("/v1/chat/completions", &ask), looked);
    assert_eq!(answer.status, 200, "{}", answer.text());
    for n in 0..20 {
        let other =
            json!({"model": "o/b", "messages": [{"role": "user", "content": format!("conversation {n}")}]});
        gateway.client.post("/v1/chat/completions", &other).await;
    }
    browser.go_to("models").await;
    browser.until(".events", "o/old from n0 to make room for o/b, by the policy lru: idle for").await;
    look_at_trials(&browser).await;
    look_at_reloads(&browser, &gateway).await;
    show_an_image(&browser, &node).await;
    let mut complaints = browser.complaints().await;
    // The policy that was refused.
    complaints.retain(|said| !said.contains("422"));
    assert_eq!(complaints, Vec::<String>::new());
    browser.end().await;
}

async fn look_at_trials(browser: &Browser) {
    browser.go_to("policies").await;
    // Some conversations are its, and the others are not.
    let is_told = async || {
        let said = browser.text("dl").await;
        let said = said.split("third decides for 50 %: ").nth(1).unwrap_or_default();
        let numbers: Vec<u32> =
            said.split_whitespace().filter_map(|word| word.parse().ok()).take(4).collect();
        matches!(numbers[..], [canary, 0, live, 0] if canary > 0 && live > 0 && canary + live == 21)
    };
    until("all answers are counted", is_told).await;
    let said = browser.text("dl").await;
    assert!(said.contains("decisions the same, 0 others, 0 failed, 0 left out"), "{said}");
    browser.picture("trials").await;
    browser
        .run(
            "const data = new DataTransfer(); data.items.add(new File([new Uint8Array([1, 2, 3])], 'bad.wasm')); \
             document.querySelector('.drop').dispatchEvent(new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true}))",
        )
        .await;
    browser.until("[data-outcome=refused]", "refused at component").await;
}

async fn look_at_reloads(browser: &Browser, gateway: &TestGateway) {
    browser.go_to("config").await;
    let file = gateway.policies().with_file_name("cortex.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, config.replace("max_waiting = 9", "max_waiting = 7")).unwrap();
    browser.until(".diff", "gateway.max_waiting 9 -> 7").await;
    browser.picture("reload").await;
    assert_eq!(browser.barriers().await, Vec::<String>::new());
    std::fs::write(&file, config.replace("max_waiting = 9", "max_waiting = \"many\"")).unwrap();
    browser.until("[role=alert]", "The last reload failed").await;
    browser.until("[role=alert]", "gateway.max_waiting: invalid type").await;
    std::fs::write(&file, config).unwrap();
}

async fn show_an_image(browser: &Browser, node: &TestNode) {
    node.lock().load_takes = Duration::ZERO;
    node.lock().model_mb = 100;
    let said: Vec<String> = (0..40).map(|n| chunk("o/sees", &format!(" word{n}"))).collect();
    node.lock().always = Some(Reply::Pieces([said, ending("o/sees")].concat()));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pixel.png");
    let bytes = (0..PIXEL.len()).step_by(2).map(|at| u8::from_str_radix(&PIXEL[at..at + 2], 16).unwrap());
    std::fs::write(&file, bytes.collect::<Vec<u8>>()).unwrap();
    browser.go_to("playground").await;
    browser.click("#model option[value='o/sees']").await;
    browser.until("label[for=image]", "Image").await;
    browser.write("#image", file.to_str().unwrap()).await;
    browser.write("#prompt", "What is it?").await;
    // Who cannot wait says it once all the same.
    browser.run("for (const _ of [1, 2]) document.querySelector('form.play').requestSubmit()").await;
    browser.find(".turn.user img").await;
    browser.run("window.picture = document.querySelector('.turn.user img')").await;
    browser.until(".turn.assistant", "word39").await;
    let kept = browser.run("return window.picture === document.querySelector('.turn.user img')").await;
    assert_eq!(kept, true, "an image is not read anew with every token");
    let asked = node.lock().asked.clone();
    let seen = asked.iter().filter(|(_, body)| body["model"] == "o/sees").collect::<Vec<_>>();
    assert_eq!(seen.len(), 1);
    let url = seen[0].1["messages"][0]["content"][1]["image_url"]["url"].as_str().unwrap();
    assert!(url.starts_with("data:image/png;base64,iVBOR"), "{url}");
    browser.picture("image").await;
}

/// Markup as an attacker would put it where a name goes.
const MARKUP: &str = "<img src=x onerror=\"window.harmed=1\">";

/// A node that says it everywhere.
async fn harmful() -> TestNode {
    let node = TestNode::start().await;
    let progress =
        json!({"model": format!("o/{MARKUP}2"), "phase": MARKUP, "bytes_done": 1, "bytes_total": 2});
    let mut inner = node.lock();
    inner.called = MARKUP.into();
    inner.reason = Some(MARKUP.into());
    inner.devices = 2;
    inner.lost = Some(1);
    inner.features = vec![MARKUP.into()];
    inner.models = vec![info(&format!("o/{MARKUP}"), 100)];
    inner.models[0].servable = serde_json::from_value(json!({"ok": false, "reason": MARKUP})).unwrap();
    inner.models[0].capabilities = vec![MARKUP.into()];
    inner.watch = Some(format!("event: load-progress\ndata: {progress}\n\n"));
    inner.watch_stays = true;
    inner.load_error = Some((422, json!({"error": {"kind": MARKUP, "message": MARKUP}})));
    drop(inner);
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn names_full_of_markup_are_text() {
    let Some(browser) = Browser::start().await else { return };
    let node = harmful().await;
    let quoted = MARKUP.replace('"', "\\\"");
    let key = hex(&cortex::config::digest(b"k"));
    let more = format!(
        "[[neurons]]\nname = \"{quoted}\"\nendpoint = \"http://127.0.0.1:9\"\n\
         [[keys]]\nname = \"{quoted}\"\nsha256 = \"{key}\"\n"
    );
    let models = format!(
        "[[models]]\nid = \"a/m\"\nquant = \"{quoted}\"\ncapabilities = [\"{quoted}\"]\nvram_mb = 5\n\
         [aliases]\n\"alias {quoted}\" = \"a/m\"\n"
    );
    let gateway = TestGateway::start_many(&[&node], "", &models, &more).await;
    gateway.until("the node is known", |s| s["nodes"][0]["models"][0]["id"].is_string()).await;
    let client = gateway.client.with_key("k");
    for model in [MARKUP, "a/m"] {
        let ask = json!({"model": model, "user": MARKUP, "messages": [{"role": "user", "content": MARKUP}]});
        client.post("/v1/chat/completions", &ask).await;
    }
    std::fs::write(gateway.policies().join(format!("{}.wasm", MARKUP.replace('/', "|"))), b"nonsense")
        .unwrap();
    gateway.until("the policy is refused", |s| s["policies"].as_array().is_some_and(|p| !p.is_empty())).await;

    browser.go(&gateway.admin.base).await;
    for view in ["fleet", "models", "traffic", "policies", "playground", "config"] {
        browser.go_to(view).await;
        // What a row has to say besides is in the story beside it.
        let place = match view {
            "models" | "traffic" => {
                browser.click(".list .pick").await;
                ".detail"
            }
            _ => "main",
        };
        browser.until(place, "<img src=x").await;
        if view == "models" {
            browser.until(".events", "<img src=x").await;
            browser.click("[data-do=foresee]").await;
            browser.until(".plan", "<img src=x").await;
        }
        let found = browser
            .run("return [document.querySelectorAll('main img, main script').length, window.harmed ?? 0]")
            .await;
        assert_eq!(found, json!([0, 0]), "{view}");
    }
    assert_eq!(browser.complaints().await, Vec::<String>::new());
    browser.end().await;
}

/// A hundred nodes and five hundred models are as many rows as fit the window.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_fleet_is_a_few_rows_at_a_time() {
    let Some(browser) = Browser::start().await else { return };
    let mut nodes = Vec::new();
    for n in 0..100 {
        let node = TestNode::start().await;
        node.lock().models = (0..5).map(|k| info(&format!("org/model-{:03}", 5 * n + k), 150)).collect();
        nodes.push(node);
    }
    let models: String =
        (0..500).map(|n| format!("[[models]]\nid = \"org/model-{n:03}\"\nvram_mb = 150\n")).collect();
    let all: Vec<&TestNode> = nodes.iter().collect();
    let gateway = TestGateway::start_many(&all, "poll_interval_secs = 2.0", &models, "").await;
    gateway.until("they are up", |s| s["nodes"].as_array().unwrap().iter().all(|n| n["state"] == "up")).await;
    browser.go(&format!("{}/console/#models", gateway.admin.base)).await;
    browser.until(".list", "org/model-000").await;
    let count =
        async || browser.run("return document.querySelectorAll('.list .row').length").await.as_u64().unwrap();
    assert!(count().await < 60, "{}", count().await);
    browser.run("document.querySelector('.list').scrollTop = 1e9").await;
    browser.until(".list", "org/model-499").await;
    assert!(count().await < 60, "{}", count().await);
    browser.write("input[type=search]", "model-250").await;
    browser.until(".list", "org/model-250").await;
    browser.click("#nav a[href='#fleet']").await;
    browser.until(".summary", "100 of 100 nodes up").await;
    browser.picture("fleet-of-100").await;
    // What an update costs: only what has changed is drawn anew. How long frames take is for people to read.
    let took = browser
        .run(
            "const nodes = [...document.querySelectorAll('.card')]; let [last, gaps] = [performance.now(), []]; const until = last + 5000; \
             while (last < until) { const at = await new Promise(requestAnimationFrame); gaps.push(at - last); last = at; scrollBy(0, 40); } \
             gaps.sort((a, b) => a - b); const now = [...document.querySelectorAll('.card')]; \
             return [nodes.filter((card, at) => card === now[at]).length, gaps.length, gaps[gaps.length >> 1], gaps[Math.floor(gaps.length * 0.99)]]",
        )
        .await;
    println!(
        "frames in 5 s while it is scrolled: {}, milliseconds between two: median {}, 99 % {}",
        took[1], took[2], took[3]
    );
    assert_eq!(took[0], 100, "cards stay the elements that they are");
    browser.end().await;
}

/// Whoever has the page open for long has no more than the last of everything.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_stays_open_does_not_grow() {
    let Some(browser) = Browser::start().await else { return };
    let node = TestNode::with_model().await;
    node.lock().always = Some(Reply::Whole(200, chat("m", "hi")));
    let gateway = TestGateway::start(&[&node], &[], "", "").await;
    browser.go(&format!("{}/console/#traffic", gateway.admin.base)).await;
    browser.until("#state", "live").await;
    let items = async || -> Value {
        browser
            .run("const { state } = await import('/console/feed.js'); return [...state.items.keys()]")
            .await
    };
    let some_more = async |count: usize| {
        let ask = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
        for _ in 0..count {
            gateway.client.post("/v1/chat/completions", &ask).await;
        }
        let last = gateway.last_request().await["id"].as_str().unwrap().to_owned();
        let is_told = async || items().await.as_array().unwrap().contains(&json!(format!("request/{last}")));
        until("the last request is told", is_told).await;
    };
    some_more(600).await;
    let (bytes, elements) = browser.memory().await;
    for _ in 0..6 {
        some_more(500).await;
    }
    let later = browser.memory().await;
    println!("{bytes} bytes and {elements} elements after 600 requests, {later:?} after 3600");
    assert!(later.0 < bytes + bytes / 4 + (1 << 20), "{bytes} bytes, then {}", later.0);
    assert!(later.1 < elements + elements / 4 + 500, "{elements} elements, then {}", later.1);
    let kept = items().await;
    let requests = kept.as_array().unwrap().iter().filter(|k| k.as_str().unwrap().starts_with("request/"));
    assert_eq!(requests.count(), 256);
    let samples =
        browser.run("const { state } = await import('/console/feed.js'); return state.samples.length").await;
    assert!(samples.as_u64().unwrap() <= 600);
    browser.end().await;
}
