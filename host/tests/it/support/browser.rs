//! Chromium without a window, as a person's hands and eyes.

use super::http::Client as Http;
use fantoccini::elements::Element;
use fantoccini::{Client, ClientBuilder, Locator};
use serde_json::{Value, json};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::time::Instant;

/// What a page may take to show what it is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Browser {
    pub page: Client,
    driver: String,
    process: Child,
}

impl Browser {
    /// `None`, and says so, where there is no chromedriver on this machine and nobody insists on it.
    pub async fn start() -> Option<Self> {
        let program = "chromedriver";
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new(program);
        command.arg(format!("--port={port}")).stdout(Stdio::null()).stderr(Stdio::null());
        // With the browser that it starts.
        command.process_group(0);
        let Ok(process) = command.spawn() else {
            assert!(std::env::var_os("CORTEX_BROWSER").is_none(), "chromedriver is not on the PATH");
            println!("passed over: chromedriver is not on the PATH (Debian: apt install chromium-driver)");
            return None;
        };
        let driver = format!("http://127.0.0.1:{port}");
        let args = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--window-size=1280,900",
        ];
        let wanted = json!({"goog:chromeOptions": {"args": args}, "goog:loggingPrefs": {"browser": "ALL"}});
        let Value::Object(wanted) = wanted else { unreachable!() };
        let until = Instant::now() + PATIENCE;
        let page = loop {
            let tried = ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new())
                .capabilities(wanted.clone())
                .connect(&driver)
                .await;
            match tried {
                Ok(page) => break page,
                Err(error) => assert!(Instant::now() < until, "no browser: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        Some(Self { page, driver, process })
    }

    pub async fn go(&self, url: &str) {
        self.page.goto(url).await.unwrap();
    }

    /// The first that fits, once it is there.
    pub async fn find(&self, css: &str) -> Element {
        let wait = self.page.wait().at_most(PATIENCE);
        match wait.for_element(Locator::Css(css)).await {
            Ok(element) => element,
            Err(error) => panic!("{css}: {error}; the page says:\n{}", self.text("body").await),
        }
    }

    pub async fn click(&self, css: &str) {
        // Another frame may have another element in its place.
        for _ in 0..20 {
            if self.find(css).await.click().await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{css} cannot be clicked; the page says:\n{}", self.text("body").await);
    }

    pub async fn write(&self, css: &str, text: &str) {
        self.find(css).await.send_keys(text).await.unwrap();
    }

    /// Of all that fit, as a person reads it.
    pub async fn text(&self, css: &str) -> String {
        let script =
            "return [...document.querySelectorAll(arguments[0])].map((e) => e.innerText).join('\\n')";
        let said = self.page.execute(script, vec![css.into()]).await.unwrap();
        said.as_str().unwrap_or_default().to_owned()
    }

    /// Once `css` says it.
    pub async fn until(&self, css: &str, what: &str) {
        let until = Instant::now() + PATIENCE;
        while !self.text(css).await.contains(what) {
            let now = self.text("body").await;
            assert!(Instant::now() < until, "{css} does not say {what:?}; the page says:\n{now}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub async fn run(&self, script: &str) -> Value {
        self.page.execute(script, Vec::new()).await.unwrap()
    }

    /// A command of Chromium's own protocol.
    pub async fn devtools(&self, command: &str, params: Value) -> Value {
        let session = self.page.session_id().await.unwrap().unwrap();
        let asked = json!({"cmd": command, "params": params});
        let said =
            Http::new(&self.driver).post(&format!("/session/{session}/goog/cdp/execute"), &asked).await;
        assert_eq!(said.status, 200, "{command}: {}", said.text());
        said.json()["value"].clone()
    }

    /// Bytes of its scripts' memory and elements that are in use, after what is not has been given back.
    pub async fn memory(&self) -> (u64, u64) {
        self.devtools("Performance.enable", json!({})).await;
        for _ in 0..2 {
            self.devtools("HeapProfiler.collectGarbage", json!({})).await;
        }
        let said = self.devtools("Performance.getMetrics", json!({})).await;
        let metric = |name: &str| {
            let found = said["metrics"].as_array().unwrap().iter().find(|one| one["name"] == name).unwrap();
            found["value"].as_f64().unwrap() as u64
        };
        (metric("JSHeapUsedSize"), metric("Nodes"))
    }

    /// What axe-core finds at fault with the page for those who use it by keyboard, screen reader or little sight:
    /// rules of WCAG 2.2 A and AA, and good practice.
    pub async fn barriers(&self) -> Vec<String> {
        let axe =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/node/node_modules/axe-core/axe.min.js");
        let axe =
            std::fs::read_to_string(axe).expect("target/node is missing: run `cargo xtask setup` first");
        let tags = r#"["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]"#;
        let run = format!(
            "{axe}; const found = await axe.run(document, {{ runOnly: {tags} }}); \
             return found.violations.flatMap((rule) => rule.nodes.map((node) => \
             `${{rule.id}}: ${{node.target}}: ${{node.failureSummary}}`))"
        );
        let found = self.run(&run).await;
        found.as_array().unwrap().iter().map(|one| one.as_str().unwrap().to_owned()).collect()
    }

    /// Kept in target/console, for people to look at.
    pub async fn picture(&self, name: &str) {
        self.run("document.getElementById('notices').replaceChildren()").await;
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/console");
        std::fs::create_dir_all(&dir).unwrap();
        let path: PathBuf = dir.join(format!("{name}.png"));
        std::fs::write(path, self.page.screenshot().await.unwrap()).unwrap();
    }

    /// What the page complained of: errors of scripts, and what its policy stopped.
    pub async fn complaints(&self) -> Vec<String> {
        let session = self.page.session_id().await.unwrap().unwrap();
        let path = format!("/session/{session}/se/log");
        let said = Http::new(&self.driver).post(&path, &json!({"type": "browser"})).await.json();
        let lines = said["value"].as_array().unwrap().iter().filter(|line| line["level"] == "SEVERE");
        lines.map(|line| line["message"].as_str().unwrap_or_default().to_owned()).collect()
    }

    pub async fn end(self) {
        let _already_gone = self.page.clone().close().await;
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let group = format!("-{}", self.process.id());
        let _already_gone = Command::new("kill").args(["-KILL", "--", &group]).status();
        let _reaped = self.process.wait();
    }
}
