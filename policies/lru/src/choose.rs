//! The judgement, free of WebAssembly.

use crate::settings::Settings;
use alloc::vec::Vec;
use core::cmp::Reverse;

/// A model that may go.
#[derive(Debug, Clone, Copy)]
pub struct Resident<'a> {
    /// MiB freed on each device.
    pub frees_mb: &'a [u64],
    /// Seconds since its last request; `u32::MAX` = not known, which counts as never used.
    pub idle_s: u32,
    /// Milliseconds that loading it back took the last time; `u32::MAX` = not known.
    pub load_ms: u32,
}

/// Victims in order, idle longest first; of two equally idle ones the one that is back sooner. Those used
/// within `min_idle_s` are spared. Empty where the rest does not free enough.
pub fn plan(settings: &Settings, short_mb: &[u64], residents: &[Resident]) -> Vec<usize> {
    let mut order: Vec<_> = residents
        .iter()
        .enumerate()
        .filter(|(_, r)| r.idle_s >= settings.min_idle_s)
        .map(|(i, r)| (Reverse(r.idle_s), r.load_ms, i))
        .collect();
    policy_kit::sort(&mut order);
    let order = order.iter().map(|&(.., i)| i);
    let frees = |i: usize| residents.get(i).map_or(&[][..], |r| r.frees_mb);
    policy_victims::cover(order, frees, short_mb).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn resident(idle_s: u32) -> Resident<'static> {
        Resident { frees_mb: &[10], idle_s, load_ms: u32::MAX }
    }

    fn planned(short: u64, residents: &[Resident]) -> Vec<usize> {
        plan(&Settings::DEFAULT, &[short], residents)
    }

    #[test]
    fn the_longest_idle_goes_first() {
        let residents = [resident(5), resident(50), resident(1)];
        assert_eq!(planned(10, &residents), [1]);
        assert_eq!(planned(15, &residents), [1, 0]);
        assert_eq!(planned(31, &residents), [] as [usize; 0]);
        assert_eq!(planned(0, &residents), [] as [usize; 0]);
    }

    #[test]
    fn equally_idle_the_quicker_load_goes() {
        let slow = Resident { load_ms: 9_000, ..resident(7) };
        let quick = Resident { load_ms: 500, ..resident(7) };
        assert_eq!(planned(1, &[slow, quick]), [1]);
    }

    #[test]
    fn the_lately_used_are_spared_even_if_that_is_not_enough() {
        let settings = Settings { min_idle_s: 60 };
        let residents = [resident(59), resident(60), resident(u32::MAX)];
        assert_eq!(plan(&settings, &[20], &residents), [2, 1]);
        assert_eq!(plan(&settings, &[21], &residents), [] as [usize; 0]);
    }

    proptest! {
        /// Of equal sizes, no survivor that could have gone is idle for longer than a victim.
        #[test]
        fn never_spares_an_older_one(
            idle in prop::collection::vec(0u32..1000, 1..40),
            short in 1u64..400,
            min_idle_s in 0u32..500,
        ) {
            let residents: Vec<Resident> = idle.iter().map(|&s| resident(s)).collect();
            let victims = plan(&Settings { min_idle_s }, &[short], &residents);
            let can_go = idle.iter().filter(|s| **s >= min_idle_s).count() as u64;
            prop_assert_eq!(victims.is_empty(), can_go * 10 < short);
            if let Some(youngest) = victims.iter().map(|&v| idle[v]).min() {
                prop_assert_eq!(victims.len() as u64, short.div_ceil(10));
                prop_assert!(youngest >= min_idle_s);
                for survivor in (0..idle.len()).filter(|i| !victims.contains(i)) {
                    prop_assert!(idle[survivor] <= youngest);
                }
            }
        }
    }
}
