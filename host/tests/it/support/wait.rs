//! Waiting for something that will be.

use std::time::{Duration, Instant};

/// What any state may take to come about; the machine may be slow and busy.
const LIMIT: Duration = Duration::from_secs(60);

/// Looks every 20 ms until it holds; fails the test after 60 s.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < LIMIT, "waited {LIMIT:?} until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
