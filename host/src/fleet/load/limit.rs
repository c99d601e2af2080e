//! How long a load may take, by what there is to load and how fast it went before.

use crate::config::Model;
use crate::fleet::Node;
use std::time::Duration;

/// Slower than any disk that models are kept on, and as slow as downloads get.
const SLOWEST_MB_S: u64 = 10;
/// For what does not depend on the size.
const AT_LEAST: Duration = Duration::from_secs(300);
/// Where nothing is known of its size.
const UNKNOWN: Duration = Duration::from_secs(4 * 3600);
/// The last load may have come out of the page cache.
const SLOWER_THAN_LAST: u32 = 20;

/// A load that takes longer is given up.
pub(super) fn load_limit(model: &Model, node: &Node) -> Duration {
    let usage = node.usage(&model.id);
    let Some(mb) = usage.measured_mb().or(model.vram_mb) else { return UNKNOWN };
    let by_size = Duration::from_secs(mb / SLOWEST_MB_S);
    let by_last = usage.load_ms().map(|ms| Duration::from_millis(u64::from(ms)) * SLOWER_THAN_LAST);
    AT_LEAST + by_size.max(by_last.unwrap_or_default())
}
