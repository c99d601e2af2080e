//! The judgement, free of WebAssembly.

use crate::settings::Settings;
use alloc::vec::Vec;

/// A model that may go.
#[derive(Debug, Clone, Copy)]
pub struct Resident<'a> {
    /// MiB freed on each device.
    pub frees_mb: &'a [u64],
    /// Residency class; `u32::MAX` = not known, which is never displaced.
    pub class: u32,
    /// Seconds since its last request; `u32::MAX` = not known, which counts as never used.
    pub idle_s: u32,
    /// Milliseconds that loading it back took the last time; `u32::MAX` = not known.
    pub load_ms: u32,
}

/// Victims in order: the lowest class first, inside a class the one least worth keeping, of two equal
/// ones the one that is back sooner. Empty where the demand's class and those below free too little.
pub fn plan(settings: &Settings, class: u32, short_mb: &[u64], residents: &[Resident]) -> Vec<usize> {
    let mut order: Vec<_> = residents
        .iter()
        .enumerate()
        .filter(|(_, r)| r.class != u32::MAX && r.class <= class)
        .map(|(i, r)| (r.class, keep(settings, r), r.load_ms, i))
        .collect();
    policy_kit::sort(&mut order);
    let order = order.iter().map(|&(.., i)| i);
    let frees = |i: usize| residents.get(i).map_or(&[][..], |r| r.frees_mb);
    policy_victims::cover(order, frees, short_mb).unwrap_or_default()
}

/// How much a resident is worth keeping inside its class, in microseconds of idleness, negative: each second
/// that loading it back takes makes up for `reload_weight` idle seconds. What was never used is worth
/// least, whatever it costs; a cost that is not known counts as none.
fn keep(settings: &Settings, resident: &Resident) -> i64 {
    if resident.idle_s == u32::MAX {
        return i64::MIN;
    }
    let load_ms = if resident.load_ms == u32::MAX { 0 } else { resident.load_ms };
    i64::from(load_ms) * i64::from(settings.reload_weight_milli) - i64::from(resident.idle_s) * 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NONE: [usize; 0] = [];

    fn resident(class: u32, idle_s: u32) -> Resident<'static> {
        Resident { frees_mb: &[10], class, idle_s, load_ms: u32::MAX }
    }

    fn planned(class: u32, short: u64, residents: &[Resident]) -> Vec<usize> {
        plan(&Settings::DEFAULT, class, &[short], residents)
    }

    #[test]
    fn lowest_class_first_then_longest_idle() {
        let residents = [resident(100, 500), resident(10, 1), resident(10, 2), resident(1000, 9999)];
        assert_eq!(planned(100, 10, &residents), [2]);
        assert_eq!(planned(100, 30, &residents), [2, 1, 0]);
        assert_eq!(planned(100, 31, &residents), NONE); // class 1000 stays
        assert_eq!(planned(10, 20, &residents), [2, 1]); // equal classes displace each other
        assert_eq!(planned(9, 1, &residents), NONE);
    }

    #[test]
    fn a_class_that_is_not_known_stays() {
        assert_eq!(planned(u32::MAX, 1, &[resident(u32::MAX, 9)]), NONE);
    }

    #[test]
    fn loading_back_counts_as_it_is_weighed() {
        let slow = Resident { load_ms: 60_000, ..resident(1, 100) };
        let quick = Resident { load_ms: 1_000, ..resident(1, 50) };
        let check = |reload_weight_milli, want: &[usize]| {
            let settings = Settings { reload_weight_milli };
            assert_eq!(plan(&settings, 1, &[10], &[slow, quick]), want, "weight {reload_weight_milli}");
        };
        check(0, &[0]);
        // 100 s - w x 60 s against 50 s - w x 1 s: equal at w = 50/59.
        check(847, &[0]);
        check(848, &[1]);
        check(1_000_000, &[1]);
        // A lower class goes first, whatever it costs.
        let low = Resident { load_ms: 600_000, ..resident(0, 0) };
        assert_eq!(plan(&Settings { reload_weight_milli: 5000 }, 1, &[10], &[quick, low]), [1]);
        // Never used goes before everything else of its class.
        let never = Resident { load_ms: 600_000, ..resident(1, u32::MAX) };
        assert_eq!(plan(&Settings { reload_weight_milli: 5000 }, 1, &[10], &[quick, never]), [1]);
    }

    prop_compose! {
        fn residents()(rows in prop::collection::vec(
            (0u32..5, 0u32..100, prop::option::of(0u32..90_000)), 0..40)) -> Vec<Resident<'static>>
        {
            rows.into_iter()
                .map(|(class, idle_s, load)| Resident { load_ms: load.unwrap_or(u32::MAX), ..resident(class, idle_s) })
                .collect()
        }
    }

    proptest! {
        /// Of equal sizes: none above the class, as few as suffice, and no survivor of a lower class, nor
        /// one of the same class that is worth less.
        #[test]
        fn classes_hold_and_inside_them_the_worth(
            residents in residents(),
            class in 0u32..5,
            short in 1u64..400,
            reload_weight_milli in 0u32..10_000,
        ) {
            let settings = Settings { reload_weight_milli };
            let victims = plan(&settings, class, &[short], &residents);
            let able = residents.iter().filter(|r| r.class <= class).count() as u64;
            prop_assert_eq!(victims.is_empty(), able * 10 < short);
            let worth = |i: &usize| (residents[*i].class, keep(&settings, &residents[*i]));
            if let Some(dearest) = victims.iter().map(worth).max() {
                prop_assert_eq!(victims.len() as u64, short.div_ceil(10));
                prop_assert!(dearest.0 <= class);
                for survivor in (0..residents.len()).filter(|i| !victims.contains(i)) {
                    prop_assert!(worth(&survivor) >= dearest);
                }
            }
        }

        /// A heavier weight never turns a plan against the one that loads quicker, all else being equal.
        #[test]
        fn the_dearer_never_goes_first(idle in 0u32..1000, a in 0u32..60_000, more in 0u32..60_000, w in 0u32..5000) {
            let cheap = Resident { load_ms: a, ..resident(1, idle) };
            let dear = Resident { load_ms: a + more, ..resident(1, idle) };
            let settings = Settings { reload_weight_milli: w };
            prop_assert_eq!(plan(&settings, 1, &[10], &[cheap, dear]), [0]);
        }
    }
}
