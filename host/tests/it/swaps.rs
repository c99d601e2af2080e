//! Files that change in every bad way while clients keep asking.

use crate::support::guest::Guest;
use crate::support::load::Load;
use crate::support::{TestGateway, TestNode};
use std::time::Duration;

fn version(mark: u32) -> Vec<u8> {
    Guest::routing().padded(mark, 0).component()
}

async fn running() -> (TestNode, TestGateway, Load) {
    let node = TestNode::with_model().await;
    let gateway = TestGateway::start(&[&node], &[], "", "").await;
    let load = Load::start(&gateway, &node, None);
    (node, gateway, load)
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

async fn until_live(gateway: &TestGateway, bytes: &[u8]) {
    let sha = sha256(bytes);
    gateway.until("that file is live", |s| s["policies"][0]["serving"]["sha256"] == sha).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_replacements() {
    let (_node, gateway, load) = running().await;
    let (a, b) = (version(1), version(2));
    let path = gateway.policies().join("affinity.wasm");
    for n in 0..1000 {
        let part = gateway.policies().join("part");
        std::fs::write(&part, if n % 2 == 0 { &a } else { &b }).unwrap();
        std::fs::rename(&part, &path).unwrap();
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    until_live(&gateway, &b).await;
    load.more(5).await;
    assert!(load.end().await > 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_arrives_in_pieces() {
    let (_node, gateway, load) = running().await;
    let bytes = version(3);
    let path = gateway.policies().join("affinity.wasm");
    for end in [1, bytes.len() / 3, bytes.len() / 2, bytes.len() - 1, bytes.len()] {
        std::fs::write(&path, &bytes[..end]).unwrap();
        // Longer than the watcher waits for quiet: it looks at every piece.
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    until_live(&gateway, &bytes).await;
    load.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn links_that_are_swapped_as_kubernetes_swaps_them() {
    let (_node, gateway, load) = running().await;
    let volume = tempfile::tempdir_in(gateway.dir.path()).unwrap();
    for (name, mark) in [("one", 4), ("two", 5)] {
        std::fs::create_dir(volume.path().join(name)).unwrap();
        std::fs::write(volume.path().join(name).join("affinity.wasm"), version(mark)).unwrap();
    }
    let data = volume.path().join("..data");
    std::os::unix::fs::symlink("one", &data).unwrap();
    let link = gateway.policies().join("affinity.wasm");
    std::os::unix::fs::symlink(data.join("affinity.wasm"), &link).unwrap();
    until_live(&gateway, &version(4)).await;
    let next = volume.path().join("..next");
    std::os::unix::fs::symlink("two", &next).unwrap();
    std::fs::rename(&next, &data).unwrap();
    // Nothing in the watched directory has changed: the slow look finds it.
    until_live(&gateway, &version(5)).await;
    std::fs::remove_file(&link).unwrap();
    gateway.until("nothing serves", |s| s["policies"].as_array().unwrap().is_empty()).await;
    load.more(5).await;
    load.end().await;
}
