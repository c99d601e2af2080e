//! Fetching from hubs that break off, lie and refuse.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use neuron::{config::Config, sources};
use neuron_protocol::LoadError;
use serde_json::json;

use crate::support::{COMMIT, Daemon, Fault, FaultyHub, model_file, noise};

/// Three pieces.
const SIZE: usize = 50 << 20;
/// What a sensible download may ask for beside the file itself.
const SLACK: u64 = 4 << 20;
const ID: &str = "mirror:test/model";

fn toml(hub: &FaultyHub, cache: &Path, more: &str) -> String {
    format!(
        "[sources.mirror]\nendpoint = \"http://{}\"\ncache_dir = {cache:?}\nstall_secs = 1\n{more}",
        hub.address
    )
}

fn config(hub: &FaultyHub, cache: &Path) -> Config {
    let env = |name: &str| (name == "TOKEN").then(|| "secret".to_owned());
    Config::parse(&toml(hub, cache, ""), "test.toml", &env).unwrap()
}

fn snapshot(cache: &Path) -> std::path::PathBuf {
    cache.join(format!("models--test--model/snapshots/{COMMIT}/m.Q4_0.gguf"))
}

/// Names of what is in a cache's blobs.
fn blobs(cache: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(cache.join("models--test--model/blobs")).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

fn kind(error: &LoadError) -> String {
    serde_json::to_value(error).unwrap()["kind"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_file_comes_in_pieces_and_is_what_it_should_be() {
    let (file, cache) = (noise(SIZE), tempfile::tempdir().unwrap());
    let mut hub = FaultyHub::start("m.Q4_0.gguf", file.clone()).await;
    let config = config(&hub, cache.path());
    let resolved = sources::resolve(&config, ID, None).await.unwrap();
    assert_eq!(resolved.path, snapshot(cache.path()));
    assert!(std::fs::read(&resolved.path).unwrap() == file);
    assert_eq!(blobs(cache.path()), [hub.etag()]);
    assert_eq!(hub.sent(), SIZE as u64);
    // The cache is enough from now on.
    hub.stop().await;
    assert_eq!(sources::resolve(&config, ID, None).await.unwrap(), resolved);
}

#[tokio::test]
async fn what_broke_off_goes_on_where_it_was() {
    let file = noise(SIZE);
    let hub = FaultyHub::start("m.Q4_0.gguf", file.clone()).await;
    for tenths in 1..=9 {
        let cache = tempfile::tempdir().unwrap();
        hub.set(Fault::Breaks(SIZE / 10 * tenths));
        let resolved = sources::resolve(&config(&hub, cache.path()), ID, None).await.unwrap();
        assert!(std::fs::read(resolved.path).unwrap() == file, "{tenths}");
        // What the hub had sent when it broke may be lost on the way, the rest is not asked for again.
        assert!(hub.sent() < (SIZE as u64) * 5 / 4 + SLACK, "{tenths}: {} bytes", hub.sent());
    }
}

#[tokio::test]
async fn a_killed_process_loses_next_to_nothing() {
    let (file, cache) = (noise(SIZE), tempfile::tempdir().unwrap());
    let hub = FaultyHub::start("m.Q4_0.gguf", file.clone()).await;
    let path = cache.path().join("neuron.toml");
    std::fs::write(&path, toml(&hub, cache.path(), "max_mb_per_sec = 25\n")).unwrap();
    let mut complete = false;
    let mut kills = 0;
    while !complete {
        let mut pull = Command::new(env!("CARGO_BIN_EXE_neuron"));
        let pull = pull.args(["pull", ID, "--config"]).arg(&path).stdout(Stdio::null());
        let mut pull = pull.spawn().unwrap();
        let before = hub.sent();
        // Some megabytes later, wherever it is then.
        let status = loop {
            match pull.try_wait().unwrap() {
                Some(status) => break Some(status),
                None if kills < 4 && hub.sent() > before + (7 << 20) => break None,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        if let Some(status) = status {
            assert!(status.success());
            complete = true;
        } else {
            pull.kill().unwrap();
            pull.wait().unwrap();
            kills += 1;
            assert!(!snapshot(cache.path()).exists(), "a half file looks like a whole one");
        }
    }
    assert_eq!(kills, 4);
    assert!(std::fs::read(snapshot(cache.path())).unwrap() == file);
    // At each kill, what was on its way in four connections is lost.
    assert!(hub.sent() < SIZE as u64 + 4 * 4 * SLACK, "{} bytes", hub.sent());
}

#[tokio::test]
async fn refusals_are_told_apart() {
    let hub = FaultyHub::start("m.Q4_0.gguf", noise(1000)).await;
    let check = async |fault: Fault, more: &str, expected: &str, words: &str| {
        let cache = tempfile::tempdir().unwrap();
        hub.set(fault);
        let env = |name: &str| (name == "TOKEN").then(|| "secret".to_owned());
        let config = Config::parse(&toml(&hub, cache.path(), more), "test.toml", &env).unwrap();
        let error = sources::resolve(&config, ID, None).await.unwrap_err();
        assert_eq!(kind(&error), expected, "{fault:?}: {}", error.message());
        assert!(error.message().contains(words), "{fault:?}: {}", error.message());
        assert!(!snapshot(cache.path()).exists());
        assert!(!blobs(cache.path()).iter().any(|blob| blob == hub.etag()), "{fault:?}");
    };
    check(Fault::Answers(401, 99, None), "", "unauthorized", "only to those with a token").await;
    check(
        Fault::Answers(403, 99, None),
        "auth_env = \"TOKEN\"",
        "unauthorized",
        "to the token that was sent",
    )
    .await;
    check(Fault::NoRepo, "", "repo_not_found", "correct the id").await;
    check(Fault::NoRevision, "", "revision_not_found", "\"main\"").await;
    check(Fault::Answers(404, 99, None), "", "repo_fetch_failed", "not found").await;
    check(Fault::Answers(429, 99, Some(3600)), "", "rate_limited", "in 3600 s").await;
    check(Fault::Answers(500, 99, None), "", "repo_fetch_failed", "500").await;
    check(Fault::Loops, "", "repo_fetch_failed", "redirects").await;
    check(Fault::EndsEarly, "", "repo_fetch_failed", "ended at byte").await;
    check(Fault::Stalls(0), "", "repo_fetch_failed", "sent nothing of m.Q4_0.gguf for 1 s").await;
    check(Fault::SaysSize(2000), "", "repo_fetch_failed", "fewer bytes there than the 2000").await;
    check(Fault::SaysSize(900), "", "corrupt_download", "its hash is").await;
    check(Fault::WrongByte, "", "corrupt_download", "its hash is").await;
    check(Fault::SaysSize(1 << 60), "", "insufficient_disk", "MiB are free").await;
    check(Fault::Climbs, "", "repo_fetch_failed", "leads out of the cache").await;
}

#[tokio::test]
async fn what_is_kept_elsewhere_is_fetched_there_and_is_the_hubs() {
    let (file, cache) = (noise(SIZE), tempfile::tempdir().unwrap());
    let hub = FaultyHub::start("m.Q4_0.gguf", file.clone()).await;
    hub.set(Fault::Elsewhere);
    let text = toml(&hub, cache.path(), "auth_env = \"TOKEN\"");
    let env = |name: &str| (name == "TOKEN").then(|| "secret".to_owned());
    let config = Config::parse(&text, "test.toml", &env).unwrap();
    let resolved = sources::resolve(&config, ID, None).await.unwrap();
    assert!(std::fs::read(&resolved.path).unwrap() == file);
    assert_eq!((resolved.path, hub.sent()), (snapshot(cache.path()), SIZE as u64));
    assert_eq!(blobs(cache.path()), [hub.etag()]);
}

#[tokio::test]
async fn what_passes_is_waited_for() {
    let file = noise(SIZE);
    let hub = FaultyHub::start("m.Q4_0.gguf", file.clone()).await;
    for fault in
        [Fault::Answers(503, 2, None), Fault::Answers(429, 1, Some(1)), Fault::NoRanges, Fault::SomeRanges]
    {
        let cache = tempfile::tempdir().unwrap();
        hub.set(fault);
        let resolved = sources::resolve(&config(&hub, cache.path()), ID, None).await.unwrap();
        assert!(std::fs::read(resolved.path).unwrap() == file, "{fault:?}");
    }
    // After a download that came out wrong, the next one is right.
    let cache = tempfile::tempdir().unwrap();
    hub.set(Fault::WrongByte);
    assert_eq!(
        kind(&sources::resolve(&config(&hub, cache.path()), ID, None).await.unwrap_err()),
        "corrupt_download"
    );
    assert_eq!(blobs(cache.path()), [] as [&str; 0]);
    hub.set(Fault::None);
    sources::resolve(&config(&hub, cache.path()), ID, None).await.unwrap();
}

#[tokio::test]
async fn two_that_want_one_model_fetch_it_once() {
    let (file, cache) = (noise(SIZE), tempfile::tempdir().unwrap());
    let hub = FaultyHub::start("m.Q4_0.gguf", file).await;
    let path = cache.path().join("neuron.toml");
    std::fs::write(&path, toml(&hub, cache.path(), "max_mb_per_sec = 50\n")).unwrap();
    let pull = || {
        let mut pull = Command::new(env!("CARGO_BIN_EXE_neuron"));
        pull.args(["pull", ID, "--config"]).arg(&path).stdout(Stdio::null());
        async move { tokio::task::spawn_blocking(move || pull.status().unwrap()).await.unwrap() }
    };
    let (a, b, c) = tokio::join!(pull(), pull(), pull());
    assert!(a.success() && b.success() && c.success());
    assert_eq!(hub.sent(), SIZE as u64);
}

#[tokio::test]
async fn a_look_does_not_wait_for_a_download() {
    let cache = tempfile::tempdir().unwrap();
    let hub = FaultyHub::start("m.Q4_0.gguf", std::fs::read(model_file()).unwrap()).await;
    let repo = cache.path().join("models--test--model");
    std::fs::create_dir_all(&repo).unwrap();
    let fetching = std::fs::File::create(repo.join("fetching.lock")).unwrap();
    fetching.lock().unwrap();
    let daemon = Daemon::configured(&toml(&hub, cache.path(), ""), &[]).await;
    let ask = async || {
        let reply = daemon.client().post("/models/preflight", json!({ "model_id": ID })).await;
        (reply.status.as_u16(), reply.headers.contains_key("retry-after"), reply.json())
    };
    let (status, has_retry_after, error) = ask().await;
    assert_eq!((status, has_retry_after, &error["error"]["kind"]), (422, true, &json!("repo_fetch_failed")));
    assert!(error["error"]["message"].as_str().unwrap().contains("being fetched now"), "{error}");
    fetching.unlock().unwrap();
    assert_eq!(ask().await.0, 200);
}

#[tokio::test]
async fn what_cannot_be_loaded_is_not_fetched() {
    let cache = tempfile::tempdir().unwrap();
    let hub = FaultyHub::start("m.Q4_0.gguf", std::fs::read(model_file()).unwrap()).await;
    let more = "[engine]\ndevice_memory_mb = 90\n";
    let daemon = Daemon::configured(&toml(&hub, cache.path(), more), &[]).await;
    let reply = daemon.client().post("/models/load", json!({ "model_id": ID })).await;
    assert_eq!(
        (reply.status.as_u16(), &reply.json()["error"]["kind"]),
        (507, &json!("insufficient_vram")),
        "{:?}",
        reply.body
    );
    assert!(hub.sent() <= 8 << 20, "{} bytes", hub.sent());
    let path = cache.path().join("neuron.toml");
    std::fs::write(&path, toml(&hub, cache.path(), "")).unwrap();
    let mut preflight = Command::new(env!("CARGO_BIN_EXE_neuron"));
    preflight.args(["preflight", ID, "--json", "--config"]).arg(&path);
    let preflight = tokio::task::spawn_blocking(move || preflight.output().unwrap()).await.unwrap();
    let report: serde_json::Value = serde_json::from_slice(&preflight.stdout).unwrap();
    assert_eq!((&report["architecture"], &report["engine"]), (&json!("llama"), &json!("batched")));
    assert!(report["weights_mb"].as_u64() > Some(80), "{report}");
    assert!(hub.sent() <= 8 << 20, "{} bytes", hub.sent());
    // What has come is not asked for again.
    let resolved = sources::resolve(&config(&hub, cache.path()), ID, None).await.unwrap();
    assert_eq!(hub.sent(), std::fs::metadata(resolved.path).unwrap().len());
}
