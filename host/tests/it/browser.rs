//! The console in a real browser, before the real pair of daemons.

use crate::support::browser::Browser;
use crate::support::gateway::built_policy;
use crate::support::processes::{MODEL, Process, python, start_neuron};
use crate::support::{hex, until};
use serde_json::json;
use std::path::Path;
use std::process::Command;

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
        if turn == 0 {
            browser.click("details.code summary").await;
        }
        browser.until("details.code", "curl -N http://127.0.0.1:").await;
        run_what_it_shows(browser, dialect).await;
    }
    browser.picture("playground").await;
}

/// The request as code does what the playground did.
async fn run_what_it_shows(browser: &Browser, dialect: &str) {
    let shown = browser
        .run("return [...document.querySelectorAll('details.code div')].map((one) => [one.dataset.key, one.querySelector('pre').textContent])")
        .await;
    let dir = tempfile::tempdir().unwrap();
    for pair in shown.as_array().unwrap() {
        let (language, code) = (pair[0].as_str().unwrap(), pair[1].as_str().unwrap().to_owned());
        let mut run = match language {
            "curl" => {
                let mut bash = Command::new("bash");
                bash.args(["-c", &code]).env("NO_PROXY", "127.0.0.1");
                bash
            }
            "Python" => python(&["-c", &code], ""),
            _ => {
                let name = format!("shown-{dialect}.mts");
                let sdk = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/node").join(&name);
                std::fs::write(&sdk, &code).unwrap();
                let mut run = Command::new(sdk.with_file_name("node"));
                run.arg(&sdk).env("NO_PROXY", "127.0.0.1");
                run
            }
        };
        let output = tokio::task::block_in_place(|| run.current_dir(dir.path()).output()).unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{language}, {dialect}: {complaint}\n{code}");
        assert!(
            said.trim().len() > 10 && !said.contains("\"error\":{"),
            "{language}, {dialect}: {said:?} {complaint}"
        );
    }
}

async fn look_at_traffic(browser: &Browser) {
    browser.go_to("traffic").await;
    browser.write("input[type=search]", "console:ops only anthropic").await;
    browser.until(".list", "only").await;
    browser.click(".list .pick").await;
    browser.until(".detail .steps", "sent to only").await;
    browser.until(".detail dl", "console:ops").await;
    let said = browser.text("body").await;
    assert!(!said.contains("capital of France"), "what was asked is not kept: {said}");
    browser.until(".chart", "Tokens a second").await;
    browser.run("document.querySelector('input[type=search]').value = ''").await;
    browser.picture("traffic").await;
    // By keyboard to what is shown, not to another view.
    browser.run("document.querySelector('.skip').click()").await;
    let at =
        browser.run("return [document.activeElement.id, document.querySelector('h1').textContent]").await;
    assert_eq!(at, json!(["main", "Traffic"]));
}

async fn swap_policies(browser: &Browser, dir: &Path) {
    browser.go_to("policies").await;
    browser.until("article[data-policy=affinity]", "serving").await;
    let bad = dir.join("affinity.wasm");
    let whole = std::fs::read(built_policy("affinity")).unwrap();
    std::fs::write(&bad, &whole[..whole.len() / 2]).unwrap();
    browser.write("#wasm", bad.to_str().unwrap()).await;
    browser.until("[data-outcome=refused]", "refused at component").await;
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
    browser.until("dialog [data-moves]", &format!("{MODEL} fits nowhere else")).await;
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
    // What was set before is still there.
    assert_eq!(browser.run("return document.getElementById('max_tokens').value").await, "24");
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
    pub async fn go_to(&self, view: &str) {
        self.click(&format!("#nav a[href='#{view}']")).await;
        self.find(&format!("#nav a[href='#{view}'][aria-current]")).await;
    }
}
