//! How long calls take, in a fixed table: observing is one atomic add, and nothing is ever allocated.

use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets to an octave: a quantile is at most an eighth above the truth.
const STEPS: u32 = 8;
/// Enough for 2^40 ns, eighteen minutes; what is longer counts as that.
const BUCKETS: usize = 38 * STEPS as usize;

/// Durations of calls, by quantile.
pub(super) struct Latency(Box<[AtomicU64]>);

/// Nanoseconds; `None` before the first call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Quantiles {
    pub p50_ns: Option<u64>,
    pub p99_ns: Option<u64>,
    pub max_ns: Option<u64>,
}

impl Latency {
    pub(super) fn new() -> Self {
        Self((0..BUCKETS).map(|_| AtomicU64::new(0)).collect())
    }

    pub(super) fn observe(&self, nanos: u64) {
        // Relaxed: figures for people.
        self.0[bucket(nanos)].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn quantiles(&self) -> Quantiles {
        let counts: Vec<u64> = self.0.iter().map(|c| c.load(Ordering::Relaxed)).collect();
        let total: u64 = counts.iter().sum();
        let at = |permille: u64| {
            let rank = (total * permille).div_ceil(1000).max(1);
            let mut seen = 0;
            let reached = counts.iter().position(|&count| {
                seen += count;
                seen >= rank
            });
            reached.map(upper_bound)
        };
        if total == 0 {
            return Quantiles::default();
        }
        Quantiles { p50_ns: at(500), p99_ns: at(990), max_ns: at(1000) }
    }
}

/// Below [`STEPS`] each value has a bucket of its own; above, the three bits after the first choose one.
fn bucket(nanos: u64) -> usize {
    if nanos < u64::from(STEPS) {
        return nanos as usize;
    }
    let octave = nanos.ilog2();
    let step = (nanos >> (octave - STEPS.ilog2())) as usize & (STEPS as usize - 1);
    let octaves_above = (octave - STEPS.ilog2() + 1) as usize;
    (octaves_above * STEPS as usize + step).min(BUCKETS - 1)
}

/// The largest value of a bucket.
fn upper_bound(bucket: usize) -> u64 {
    let (octaves_above, step) = (bucket / STEPS as usize, (bucket % STEPS as usize) as u64);
    match octaves_above {
        0 => step,
        above => ((u64::from(STEPS) + step + 1) << (above - 1)) - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantiles_of_a_known_set() {
        let latency = Latency::new();
        assert_eq!(latency.quantiles(), Quantiles::default());
        (1..=1000).for_each(|n| latency.observe(n));
        let Quantiles { p50_ns, p99_ns, max_ns } = latency.quantiles();
        let near = |got: Option<u64>, want: u64| (want..=want + want / 8).contains(&got.unwrap());
        assert!(near(p50_ns, 500) && near(p99_ns, 990) && near(max_ns, 1000));
    }

    proptest! {
        #[test]
        fn a_bucket_holds_its_values(nanos in 0u64..1 << 39) {
            let bound = upper_bound(bucket(nanos));
            prop_assert!(bound >= nanos && bound <= nanos + nanos / 8);
        }
    }
}
