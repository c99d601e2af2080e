//! `neuron registry`: a folder of models that neuron itself, and others, fetch from.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
};

use neuron::{
    config::Config,
    shelf::{Serving, Shelf},
    sources,
};
use neuron_protocol::LoadError;
use serde_json::Value;

use crate::support::{Daemon, Gguf, MODEL, hub, noise};

async fn serve(dir: &Path, token: Option<&str>) -> Serving {
    let free: SocketAddr = "127.0.0.1:0".parse().unwrap();
    Shelf::new(dir.to_owned(), token).unwrap().serve(free).await.unwrap()
}

fn toml(from: &Serving, cache: &Path) -> String {
    format!(
        "default_source = \"shelf\"\n[sources.shelf]\nendpoint = \"http://{}\"\nauth_env = \"T\"\ncache_dir = {cache:?}\n",
        from.address()
    )
}

fn config(from: &Serving, cache: &Path, token: &str) -> Config {
    let env = |name: &str| (name == "T").then(|| token.to_owned());
    Config::parse(&toml(from, cache), "test.toml", &env).unwrap()
}

fn put(dir: &Path, name: &str, bytes: &[u8]) {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn models_come_out_of_a_folder_and_answer() {
    let (dir, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    put(dir.path(), "test/tiny/tiny.Q8_0.gguf", &Gguf::tiny("llama").bytes());
    let from = serve(dir.path(), Some("secret")).await;
    let daemon = Daemon::configured(&toml(&from, cache.path()), &[("T", "secret")]).await;
    let client = daemon.load("test/tiny").await;
    let body = serde_json::json!({ "model": "test/tiny", "prompt": "a", "max_tokens": 2 });
    assert_eq!(client.post("/v1/completions", body).await.status, 200);
    // Whatever the case of the name: it leads to the one that is here.
    sources::resolve(&config(&from, cache.path(), "secret"), "Test/Tiny", None).await.unwrap();
    let error = sources::resolve(&config(&from, cache.path(), "other"), "test/else", None).await.unwrap_err();
    assert!(matches!(error, LoadError::Unauthorized { has_token: true, .. }), "{error:?}");
    let config = config(&from, cache.path(), "secret");
    let error = sources::resolve(&config, "test/else", None).await.unwrap_err();
    assert!(matches!(error, LoadError::RepoNotFound { .. }), "{error:?}");
    let error = sources::resolve(&config, "test/tiny@old", None).await.unwrap_err();
    assert!(matches!(error, LoadError::RevisionNotFound { .. }), "{error:?}");
}

#[tokio::test]
async fn a_model_in_parts_comes_whole() {
    let (dir, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (name, bytes) in Gguf::tiny("llama").parts("tiny-F32", 3) {
        put(dir.path(), &format!("test/parts/{name}"), &bytes);
    }
    let from = serve(dir.path(), None).await;
    let daemon = Daemon::configured(&toml(&from, cache.path()), &[("T", "any")]).await;
    let client = daemon.load("test/parts").await;
    let body = serde_json::json!({ "model": "test/parts", "prompt": "a", "max_tokens": 2 });
    assert_eq!(client.post("/v1/completions", body).await.status, 200);
    // A cache with one of them gone is filled up again.
    let config = config(&from, cache.path(), "any");
    let resolved = sources::resolve(&config, "test/parts", None).await.unwrap();
    let second = resolved.path.with_file_name("tiny-F32-00002-of-00003.gguf");
    std::fs::remove_file(second.canonicalize().unwrap()).unwrap();
    assert_eq!(sources::resolve(&config, "test/parts", None).await.unwrap(), resolved);
    assert!(second.exists());
}

#[tokio::test]
async fn a_folder_in_shards_comes_whole_and_equal_files_once() {
    let (dir, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/references/qwen3");
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let name = format!("test/shards/{}", entry.file_name().to_str().unwrap());
        put(dir.path(), &name, &std::fs::read(entry.path()).unwrap());
    }
    for name in ["generation_config.json", "special_tokens_map.json", "tokenizer.json"] {
        put(dir.path(), &format!("test/shards/{name}"), b"{}");
    }
    let from = serve(dir.path(), None).await;
    let resolved = sources::resolve(&config(&from, cache.path(), "any"), "test/shards", None).await.unwrap();
    for entry in std::fs::read_dir(dir.path().join("test/shards")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() == "logits.f32" {
            continue;
        }
        let fetched = std::fs::read(resolved.path.join(entry.file_name()));
        assert!(fetched.unwrap() == std::fs::read(entry.path()).unwrap(), "{:?}", entry.file_name());
    }
}

#[tokio::test]
async fn a_cache_is_given_on_as_it_is() {
    let cache = tempfile::tempdir().unwrap();
    let from = serve(&hub(), None).await;
    let resolved = sources::resolve(&config(&from, cache.path(), "any"), MODEL, None).await.unwrap();
    let offline = format!("[sources.huggingface]\noffline = true\ncache_dir = {:?}", hub());
    let offline = Config::parse(&offline, "test.toml", &|_| None).unwrap();
    let there = sources::resolve(&offline, MODEL, None).await.unwrap();
    assert!(std::fs::read(&resolved.path).unwrap() == std::fs::read(&there.path).unwrap());
    // Commit and all.
    let commit = |path: &Path| path.parent().unwrap().file_name().unwrap().to_owned();
    assert_eq!(commit(&resolved.path), commit(&there.path));
}

#[tokio::test]
async fn what_is_not_in_the_folder_is_not_given_out() {
    let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    put(outside.path(), "secret.txt", b"secret");
    put(dir.path(), "o/m/config.json", b"{}");
    put(dir.path(), "o/m/.hidden", b"hidden");
    put(dir.path(), "datasets--o--d/snapshots/abc/secret.csv", b"secret");
    std::os::unix::fs::symlink(outside.path().join("secret.txt"), dir.path().join("o/m/link.txt")).unwrap();
    let from = serve(dir.path(), None).await;
    let client = crate::support::Client::new(from.address());
    for path in [
        "/o/m/resolve/main/../../../../etc/passwd",
        "/o/m/resolve/main/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/o/m/resolve/main/..%2f..%2fetc%2fpasswd",
        "/o/m/resolve/main/link.txt",
        "/o/m/resolve/main/.hidden",
        "/../m/resolve/main/config.json",
        "/%2e%2e/m/resolve/main/config.json",
        "/o/..%2f..%2fetc/resolve/main/passwd",
        "/o/m/resolve/..%2f..%2f/config.json",
        "/api/models/%2e%2e/etc",
        "/api/models/o/m/revision/%2Fdev%2Fzero",
        "/api/models/o/none/revision/%2Fdev%2Fzero",
        "/api/models/datasets--o--d/snapshots/tree/main",
        "/o/m/resolve/main/",
    ] {
        let reply = client.get(path).await;
        assert!([400, 404].contains(&reply.status.as_u16()), "{path}: {} {:?}", reply.status, reply.body);
    }
    assert_eq!(client.get("/o/m/resolve/main/config.json").await.body, "{}");
    let listed: Value = client.json("/api/models/o/m/tree/main").await;
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
}

#[test]
fn the_programs_that_keep_house() {
    let (dir, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    put(dir.path(), "test/big/big.Q4_0.gguf", &noise(9 << 20));
    struct Running(std::process::Child);
    impl Drop for Running {
        fn drop(&mut self) {
            self.0.kill().ok();
            self.0.wait().ok();
        }
    }
    let registry = Command::new(env!("CARGO_BIN_EXE_neuron"))
        .args(["registry", "--listen", "127.0.0.1:0"])
        .arg(dir.path())
        .stderr(Stdio::piped())
        .env_remove("RUST_LOG")
        .spawn()
        .unwrap();
    use std::io::BufRead;
    let mut registry = Running(registry);
    let mut said = std::io::BufReader::new(registry.0.stderr.take().unwrap()).lines();
    let line = said.next().unwrap().unwrap();
    let (_, address) = line.split_once("http://").unwrap();
    let address = address.split_whitespace().next().unwrap();
    let config = home.path().join("neuron.toml");
    let cache = home.path().join("cache");
    std::fs::write(
        &config,
        format!("default_source = \"shelf\"\n[sources.shelf]\nendpoint = \"http://{address}\"\ncache_dir = {cache:?}\n"),
    )
    .unwrap();
    let run = |args: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_neuron")).args(args).arg("--config").arg(&config).output();
        let output = output.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    };
    assert!(run(&["list"]).1.contains("no models yet"));
    assert!(run(&["rm", "test/big"]).2.contains("is not in the cache"));
    let (fetched, path, said) = run(&["pull", "test/big"]);
    assert!(fetched, "{said}");
    assert!(path.trim().ends_with("big.Q4_0.gguf") && Path::new(path.trim()).exists());
    let (_, listed, _) = run(&["list"]);
    assert!(listed.contains("test/big") && listed.contains("9.4 MB"), "{listed}");
    assert!(run(&["verify"]).1.starts_with("1 files are what they should be, 0 are not"));
    let blob = Path::new(path.trim()).canonicalize().unwrap();
    let mut bytes = std::fs::read(&blob).unwrap();
    bytes[5000] ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    let (is_well, said, advice) = run(&["verify", "test/big"]);
    assert!(!is_well && said.contains("is damaged") && advice.contains("neuron pull"), "{said} {advice}");
    // It is no model at all.
    let (can_be_loaded, report, _) = run(&["preflight", "test/big", "--json"]);
    let report: Value = serde_json::from_str(&report).unwrap();
    assert!(!can_be_loaded && report["error"]["kind"] == "invalid_file", "{report}");
    assert!(run(&["rm", "test/big"]).1.contains("9.4 MB are free again"));
    assert!(!blob.exists());
    let (is_gone_again, said, error) = run(&["rm", "test/big", "--json"]);
    let error: Value = serde_json::from_str(error.lines().last().unwrap()).unwrap();
    assert!(!is_gone_again && said.is_empty() && error["error"]["exit_status"] == 1, "{said} {error}");
}

#[tokio::test]
async fn a_node_takes_a_model_from_its_sibling() {
    let (away, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let tokens = "[[neuron.tokens]]\nname = \"sibling\"\ntoken_env = \"S\"\nscopes = [\"files\"]\n\
                  [[neuron.tokens]]\nname = \"reader\"\ntoken_env = \"R\"\nscopes = [\"registry\"]\n";
    let shares = format!(
        "[neuron]\nshare_models = true\n{tokens}[sources.huggingface]\noffline = true\ncache_dir = {:?}\n",
        hub()
    );
    let sibling = Daemon::configured(&shares, &[("S", "of-siblings"), ("R", "of-readers")]).await;
    // The first of them is not there, the second has nothing, the third has it.
    let empty = serve(away.path(), None).await;
    let gone = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let text = format!(
        "[sources.neuron]\nendpoints = [\"http://{gone}/hub\", \"http://{}\", \"http://{}/hub\"]\nauth_env = \"T\"\n\
         cache_dir = {:?}\n",
        empty.address(),
        sibling.address(),
        cache.path()
    );
    let config = |token: &'static str| {
        Config::parse(&text, "test.toml", &|name| (name == "T").then(|| token.to_owned())).unwrap()
    };
    let id = format!("neuron:{MODEL}");
    let error = sources::resolve(&config("of-readers"), &id, None).await.unwrap_err();
    assert!(matches!(error, LoadError::Unauthorized { .. }), "{error:?}");
    let resolved = sources::resolve(&config("of-siblings"), &id, None).await.unwrap();
    assert_eq!(
        std::fs::metadata(&resolved.path).unwrap().len(),
        std::fs::metadata(crate::support::model_file()).unwrap().len()
    );
    // Nothing but files, and nobody who was not told to share does.
    let mut client = sibling.client();
    client.token = Some("of-siblings");
    assert_eq!(client.get("/models").await.status, 403);
    let plain = Daemon::start(&hub(), "").await;
    assert_eq!(plain.client().get(&format!("/hub/api/models/{MODEL}")).await.status, 404);
}

/// What others do with a registry, as they do it.
const PYTHON: &str = r#"
import os
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

model = os.environ["MODEL"]
info = HfApi().model_info(model)
files = HfApi().list_repo_files(model)
assert [sibling.rfilename for sibling in info.siblings] == files, info
weights = next(file for file in files if file.endswith(".gguf"))
one = hf_hub_download(model, weights)
assert hf_hub_download(model, weights) == one and info.sha in one
assert os.path.samefile(os.path.join(snapshot_download(model), weights), one)

def raises(kind, what):
    try:
        what()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")

raises(EntryNotFoundError, lambda: hf_hub_download(model, "none.bin"))
raises(RepositoryNotFoundError, lambda: hf_hub_download("o/none", "config.json"))
raises(RevisionNotFoundError, lambda: HfApi().model_info(model, revision="none"))
error = raises(HfHubHTTPError, lambda: HfApi(token="wrong").model_info(model))
assert error.response.status_code == 401, error
print(one)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn huggingface_hub_fetches_from_it() {
    let home = tempfile::tempdir().unwrap();
    let from = serve(&hub(), Some("secret")).await;
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/venv/bin/python");
    assert!(python.exists(), "target/venv is missing: run `cargo xtask setup` first");
    let mut client = Command::new(python);
    client.args(["-c", PYTHON]).env("MODEL", MODEL).env("HF_TOKEN", "secret").env("HF_HOME", home.path());
    client.env("HF_ENDPOINT", format!("http://{}", from.address())).env("NO_PROXY", "127.0.0.1");
    client.env("HF_HUB_DISABLE_TELEMETRY", "1").env("PYTHONDONTWRITEBYTECODE", "1");
    let output = tokio::task::spawn_blocking(move || client.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let fetched = String::from_utf8(output.stdout).unwrap();
    assert!(std::fs::read(fetched.trim()).unwrap() == std::fs::read(crate::support::model_file()).unwrap());
    // What it has put into its cache is what neuron reads.
    let text = format!("[sources.huggingface]\noffline = true\ncache_dir = {:?}", home.path().join("hub"));
    let config = Config::parse(&text, "test.toml", &|_| None).unwrap();
    let resolved = sources::resolve(&config, MODEL, None).await.unwrap();
    assert_eq!(resolved.path, Path::new(fetched.trim()));
}
