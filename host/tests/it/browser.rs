//! The console in a real browser: before the real pair of daemons, and before a fleet that means harm.

use crate::support::browser::Browser;
use crate::support::gateway::{TestGateway, built_policy};
use crate::support::node::{TestNode, info};
use crate::support::processes::{MODEL, Process, start_neuron};
use crate::support::{hex, until};
use serde_json::{Value, json};
use std::path::Path;

const KEY: &str = "an operator's key";
const NODE: &str = "article[data-node=only]";

/// A gateway on ports that it has again when it is started once more.
struct Gateway {
    process: Process,
    admin: String,
    dir: tempfile::TempDir,
}

impl Gateway {
    fn start(neuron: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        std::fs::copy(root.join("packaging/models.example.toml"), dir.path().join("models.toml")).unwrap();
        std::fs::create_dir(dir.path().join("policies")).unwrap();
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (listen, admin) = (free(), free());
        let sha256 = hex(&cortex::config::digest(KEY.as_bytes()));
        let built = root.join("target/policies");
        let config = format!(
            "[gateway]\nkeep_prompts = false\nlisten = \"{listen}\"\nmetrics_listen = \"127.0.0.1:0\"\nadmin_listen = \"{admin}\"\n\
             poll_interval_secs = 0.2\n[policies]\ndirs = [{built:?}, \"policies\"]\n\
             [[neurons]]\nname = \"only\"\nendpoint = \"http://{neuron}\"\n\
             [[admin_keys]]\nname = \"ops\"\nsha256 = \"{sha256}\"\nroles = [\"operator\", \"policy-upload\"]\n"
        );
        std::fs::write(dir.path().join("cortex.toml"), config).unwrap();
        let process = Self::run(dir.path());
        Self { process, admin: format!("http://{admin}"), dir }
    }

    fn run(dir: &Path) -> Process {
        let mut process = Process::serve(Path::new(env!("CARGO_BIN_EXE_cortex")), &dir.join("cortex.toml"));
        process.address("admin on http://");
        process
    }

    fn again(&mut self) {
        self.process = Self::run(self.dir.path());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_at_the_console() {
    let Some(browser) = Browser::start().await else { return };
    let dir = tempfile::tempdir().unwrap();
    let (_neuron, address) = start_neuron(dir.path(), "127.0.0.1:0");
    let mut gateway = Gateway::start(&address);

    log_in(&browser, &gateway.admin).await;
    load_a_model(&browser).await;
    talk_to_it(&browser).await;
    look_at_traffic(&browser).await;
    swap_policies(&browser, gateway.dir.path()).await;
    drain_the_node(&browser).await;
    look_at_the_rest(&browser).await;
    keep_prompts(&browser, gateway.dir.path()).await;
    let mut complaints = browser.complaints().await;
    // The policy that was refused.
    complaints.retain(|said| !said.contains("422"));
    assert_eq!(complaints, Vec::<String>::new());
    lose_the_connection(&browser, &mut gateway).await;
    browser.end().await;
}

async fn log_in(browser: &Browser, admin: &str) {
    browser.go(admin).await;
    browser.write("#key", "a guess").await;
    browser.click("form.login button").await;
    browser.until("[role=alert]", "not known here").await;
    browser.write("#key", KEY).await;
    browser.click("form.login button").await;
    browser.until("#state", "live").await;
    browser.until(NODE, "up").await;
    // The one that was refused.
    let complaints = browser.complaints().await;
    assert!(complaints.iter().all(|said| said.contains("401")), "{complaints:?}");
}

async fn load_a_model(browser: &Browser) {
    browser.click(&format!("{NODE} [data-do=load]")).await;
    browser.until("dialog", "Model").await;
    browser.click("dialog [data-confirm]").await;
    browser.until("dialog", &format!("Load {MODEL}?")).await;
    browser.until("dialog .plan", "fits").await;
    browser.click("dialog [data-confirm]").await;
    browser.until("#notices", "is being loaded").await;
    browser.until(&format!("{NODE} ul.models"), "loaded").await;
    browser.until("#notices", "is loaded").await;
    browser.picture("fleet").await;
    browser.go_to("models").await;
    browser.until(".events", "an operator asked for it").await;
    browser.click(&format!("[data-do=choose][data-model='{MODEL}']")).await;
    browser.until(".detail", "smollm2").await;
    browser.click("[data-do=foresee]").await;
    browser.until(".plan", "only: is there").await;
    browser.picture("models").await;
}

async fn talk_to_it(browser: &Browser) {
    browser.go_to("playground").await;
    browser.write("#max_tokens", "24").await;
    browser.write("#temperature", "0").await;
    for (turn, dialect) in ["openai", "anthropic", "responses"].into_iter().enumerate() {
        browser.click(&format!("#dialect option[value={dialect}]")).await;
        browser.write("#prompt", "What is the capital of France?\n").await;
        browser.find(&format!(".turn[data-key='{}'] [data-speed]", 2 * turn + 1)).await;
        let said = browser.text(&format!(".turn[data-key='{}'] p.text", 2 * turn + 1)).await;
        assert!(said.len() > 10, "{dialect}: {said:?}");
    }
    browser.click("details.code summary").await;
    browser.until("details.code", "client.responses.create(").await;
    browser.until("details.code", "curl -N http://127.0.0.1:").await;
    browser.picture("playground").await;
}

async fn look_at_traffic(browser: &Browser) {
    browser.go_to("traffic").await;
    browser.write("input[type=search]", "anthropic").await;
    browser.until(".list", "only").await;
    browser.click(".list .pick").await;
    browser.until(".detail .steps", "sent to only").await;
    browser.until(".detail dl", "console:ops").await;
    let said = browser.text("body").await;
    assert!(!said.contains("capital of France"), "what was asked is not kept: {said}");
    browser.until(".chart", "Tokens a second").await;
    browser.picture("traffic").await;
}

async fn swap_policies(browser: &Browser, dir: &Path) {
    browser.go_to("policies").await;
    browser.until("article[data-policy=affinity]", "serving").await;
    let bad = dir.join("affinity.wasm");
    let whole = std::fs::read(built_policy("affinity")).unwrap();
    std::fs::write(&bad, &whole[..whole.len() / 2]).unwrap();
    browser.write("#wasm", bad.to_str().unwrap()).await;
    browser.until("[data-outcome=refused]", "Component").await;
    browser.find(".stages .bad").await;
    browser.until("article[data-policy=affinity]", "serving").await;
    std::fs::write(&bad, &whole).unwrap();
    browser.write("#wasm", bad.to_str().unwrap()).await;
    browser.until("[data-outcome=live]", "is live").await;
    assert!(dir.join("policies/affinity.wasm").exists());
    browser.picture("policies").await;
    browser.click("article[data-policy=affinity] [data-do=back]").await;
    browser.click("dialog [data-confirm]").await;
    browser.until("#notices", "again.").await;
    assert!(!dir.join("policies/affinity.wasm").exists(), "the one of the other directory serves");
}

async fn drain_the_node(browser: &Browser) {
    browser.go_to("fleet").await;
    browser.click(&format!("{NODE} [data-do=drain]")).await;
    browser.until("dialog", "no new requests and no loads").await;
    browser.until("dialog", MODEL).await;
    browser.click("dialog [data-confirm]").await;
    browser.until(&format!("{NODE} .pill"), "draining").await;
    browser.click(&format!("{NODE} [data-do=drain]")).await;
    browser.click("dialog [data-confirm]").await;
    browser.until(&format!("{NODE} .pill"), "up").await;
}

async fn look_at_the_rest(browser: &Browser) {
    browser.go_to("config").await;
    browser.until("table", "gateway.poll_interval_secs").await;
    browser.picture("config").await;
    // As on a telephone: nothing is wider than the window.
    browser.page.set_window_size(400, 800).await.unwrap();
    for view in ["fleet", "models", "traffic", "policies", "playground", "config"] {
        browser.go_to(view).await;
        let wide = browser.run("return document.documentElement.scrollWidth > innerWidth").await;
        assert_eq!(wide, false, "{view} does not fit a narrow window");
        browser.picture(&format!("phone-{view}")).await;
    }
    browser.page.set_window_size(1280, 900).await.unwrap();
    // For everybody, by day and by night.
    let mut barriers = Vec::new();
    for scheme in ["light", "dark"] {
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        browser.devtools("Emulation.setEmulatedMedia", media).await;
        for view in ["fleet", "models", "traffic", "policies", "playground", "config"] {
            browser.go_to(view).await;
            browser.find("main h1").await;
            barriers
                .extend(browser.barriers().await.into_iter().map(|one| format!("{view}, {scheme}: {one}")));
            if scheme == "dark" {
                browser.picture(&format!("dark-{view}")).await;
            }
        }
    }
    let media = json!({"features": [{"name": "prefers-color-scheme", "value": "light"}]});
    browser.devtools("Emulation.setEmulatedMedia", media).await;
    assert!(barriers.is_empty(), "{barriers:#?}");
    browser.go_to("fleet").await;
}

/// Switched on while everything runs, and said where it is looked for.
async fn keep_prompts(browser: &Browser, dir: &Path) {
    let file = dir.join("cortex.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, config.replace("keep_prompts = false", "keep_prompts = true")).unwrap();
    browser.go_to("traffic").await;
    browser.until("body", "kept for it").await;
    browser.go_to("playground").await;
    browser.write("#max_tokens", "8").await;
    browser.write("#prompt", "What is the capital of Peru?\n").await;
    // The fourth turn of the conversation.
    browser.find(".turn[data-key='7'] [data-speed]").await;
    browser.go_to("traffic").await;
    browser.click(".list .pick").await;
    browser.click("[data-part=asked] summary").await;
    browser.until("[data-part=asked] pre", "capital of Peru").await;
    browser.click("[data-part=answered] summary").await;
    browser.find("[data-part=answered] pre").await;
    assert_eq!(browser.barriers().await, Vec::<String>::new());
    browser.picture("story-with-prompts").await;
    std::fs::write(&file, config).unwrap();
    let is_gone = async || browser.run("return document.querySelectorAll('[data-part]').length").await == 0;
    until("what was asked is not shown any more", is_gone).await;
    browser.go_to("fleet").await;
}

async fn lose_the_connection(browser: &Browser, gateway: &mut Gateway) {
    gateway.process.kill();
    browser.until("#state", "connection lost").await;
    browser.until(NODE, "up").await;
    gateway.again();
    browser.until("#state", "live").await;
    browser.until("#notices", "Connected again").await;
}

impl Browser {
    /// By the link at the top, as a person goes there.
    async fn go_to(&self, view: &str) {
        self.click(&format!("#nav a[href='#{view}']")).await;
        self.find(&format!("#nav a[href='#{view}'][aria-current]")).await;
    }
}

/// Markup as an attacker would put it where a name goes.
const MARKUP: &str = "<img src=x onerror=\"window.harmed=1\">";

#[tokio::test(flavor = "multi_thread")]
async fn names_full_of_markup_are_text() {
    let Some(browser) = Browser::start().await else { return };
    let node = TestNode::start().await;
    {
        let mut inner = node.lock();
        inner.called = MARKUP.into();
        inner.models = vec![info(&format!("o/{MARKUP}"), 100)];
        inner.models[0].servable = serde_json::from_value(json!({"ok": false, "reason": MARKUP})).unwrap();
    }
    let quoted = MARKUP.replace('"', "\\\"");
    let key = hex(&cortex::config::digest(b"k"));
    let more = format!(
        "[[neurons]]\nname = \"{quoted}\"\nendpoint = \"http://127.0.0.1:9\"\n\
         [[keys]]\nname = \"{quoted}\"\nsha256 = \"{key}\"\n"
    );
    let gateway = TestGateway::start_locked(&[&node], "", &more, "").await;
    let client = gateway.client.with_key("k");
    let ask = json!({"model": MARKUP, "messages": [{"role": "user", "content": MARKUP}]});
    client.post("/v1/chat/completions", &ask).await;
    std::fs::write(gateway.policies().join(format!("{}.wasm", MARKUP.replace('/', "|"))), b"nonsense")
        .unwrap();
    gateway.until("the node is known", |s| s["nodes"][0]["models"][0]["id"].is_string()).await;
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
    for _ in 0..20 {
        nodes.push(TestNode::with_model().await);
    }
    let models: String =
        (0..500).map(|n| format!("[[models]]\nid = \"org/model-{n:03}\"\nvram_mb = 1000\n")).collect();
    let many: String = (0..80)
        .map(|n| format!("[[neurons]]\nname = \"gone{n}\"\nendpoint = \"http://127.0.0.1:9\"\n"))
        .collect();
    let all: Vec<&TestNode> = nodes.iter().collect();
    let gateway = TestGateway::start_many(&all, &models, &many).await;
    gateway
        .until("they are up", |s| {
            s["nodes"].as_array().unwrap().iter().filter(|n| n["state"] == "up").count() == 20
        })
        .await;
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
    browser.until(".summary", "20 of 100 nodes up").await;
    browser.picture("fleet-of-100").await;
    // What an update costs: only what has changed is drawn anew.
    let took = browser
        .run(
            "const nodes = [...document.querySelectorAll('.card')]; await new Promise((go) => setTimeout(go, 2500)); \
             const now = [...document.querySelectorAll('.card')]; return nodes.filter((card, at) => card === now[at]).length",
        )
        .await;
    assert_eq!(took, 100, "cards stay the elements that they are");
    browser.end().await;
}

/// Whoever has the page open for long has no more than the last of everything.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_stays_open_does_not_grow() {
    let Some(browser) = Browser::start().await else { return };
    let node = TestNode::with_model().await;
    let gateway = TestGateway::start(&[&node], &[], "", "").await;
    browser.go(&format!("{}/console/#traffic", gateway.admin.base)).await;
    browser.until("#state", "live").await;
    let ask = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
    for _ in 0..600 {
        gateway.client.post("/v1/chat/completions", &ask).await;
    }
    let last = gateway.last_request().await["id"].clone();
    let items = async || -> Value {
        browser
            .run("const { state } = await import('/console/feed.js'); return [...state.items.keys()]")
            .await
    };
    let is_told = async || {
        items().await.as_array().unwrap().contains(&json!(format!("request/{}", last.as_str().unwrap())))
    };
    until("the last request is told", is_told).await;
    let kept = items().await;
    let requests = kept.as_array().unwrap().iter().filter(|k| k.as_str().unwrap().starts_with("request/"));
    assert_eq!(requests.count(), 256);
    let samples =
        browser.run("const { state } = await import('/console/feed.js'); return state.samples.length").await;
    assert!(samples.as_u64().unwrap() <= 600);
    browser.end().await;
}
