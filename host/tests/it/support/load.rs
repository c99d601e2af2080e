//! Clients that never stop asking while something happens to the gateway.

use super::node::{Reply, chat, chunk, ending, spawn};
use super::{TestGateway, TestNode};
use serde_json::json;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Requests under way.
pub struct Load {
    stop: Arc<AtomicBool>,
    tally: Arc<Tally>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

/// How requests ended.
#[derive(Default)]
pub struct Tally {
    pub answered: AtomicU64,
    /// Not answered with a 200.
    pub failed: AtomicU64,
    /// Streams that did not come whole.
    pub cut: AtomicU64,
    pub example: Mutex<Option<String>>,
}

impl Load {
    /// Streams, native and, where `dialect` is a path, translated.
    pub fn start(gateway: &TestGateway, node: &TestNode, dialect: Option<&'static str>) -> Self {
        let pieces = [vec![chunk("m", "a"), chunk("m", "b")], ending("m")].concat();
        node.lock().always = Some(Reply::Pieces(pieces));
        let (stop, tally) = (Arc::new(AtomicBool::new(false)), Arc::new(Tally::default()));
        let ask = |path: &'static str| {
            let (stop, tally, client) = (stop.clone(), tally.clone(), gateway.client.clone());
            spawn(async move {
                let body = json!({"model": "m", "stream": true, "max_tokens": 9,
                    "messages": [{"role": "user", "content": "x"}]});
                while !stop.load(Ordering::Relaxed) {
                    let mut stream = client.stream(path, &body).await;
                    tally.count(path, stream.status, &stream.rest().await);
                }
            })
        };
        let mut tasks = vec![ask("/v1/chat/completions"), ask("/v1/chat/completions")];
        tasks.extend(dialect.map(ask));
        Self { stop, tally, tasks }
    }

    pub fn answered(&self) -> u64 {
        self.tally.answered.load(Ordering::Relaxed)
    }

    /// Waits for so many more answers; fails the test after 60 s.
    pub async fn more(&self, count: u64) {
        let until = self.answered() + count;
        for _ in 0..6000 {
            if self.answered() >= until {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} of {until} answers after 60 s; {:?}", self.answered(), self.tally.example);
    }

    /// Ends it and tells how it went.
    pub async fn stop(self) -> Arc<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        self.tally
    }

    /// Ends it; fails the test where one request was not answered well. How many were.
    pub async fn end(self) -> u64 {
        let tally = self.stop().await;
        let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
        assert_eq!((count(&tally.failed), count(&tally.cut)), (0, 0), "{:?}", tally.example.lock().unwrap());
        count(&tally.answered)
    }
}

impl Tally {
    fn count(&self, path: &str, status: u16, text: &str) {
        let whole = text.contains("\"b\"") && text.contains("stop") && !text.contains("\"error\"");
        let slot = match (status, whole) {
            (200, true) => &self.answered,
            (200, false) => &self.cut,
            _ => &self.failed,
        };
        slot.fetch_add(1, Ordering::Relaxed);
        if !(status == 200 && whole) {
            self.example.lock().unwrap().get_or_insert_with(|| format!("{path}: {status} {text}"));
        }
    }
}

/// A whole answer for every request.
pub fn always_whole(node: &TestNode) {
    node.lock().always = Some(Reply::Whole(200, chat("m", "hi")));
}
