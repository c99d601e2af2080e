//! What eviction policies share: they differ in the order in which residents go, not in how many must.
//! The gateway's built-in eviction uses it too. This is a library, not a policy.

#![cfg_attr(target_family = "wasm", no_std)]

extern crate alloc;

use alloc::vec::Vec;

/// The residents to unload so that every device gets back what it is short of, in `order`.
///
/// `frees(resident)[device]` and `short[device]` are MiB. Residents that help no device that is still
/// short are passed over, and at the end those that later ones made needless are spared, the last in
/// the order first. `None` where even all of them are not enough.
pub fn cover<'a>(
    order: impl Iterator<Item = usize>,
    frees: impl Fn(usize) -> &'a [u64],
    short: &[u64],
) -> Option<Vec<usize>> {
    let mut victims = Vec::new();
    let mut freed: Vec<u64> = short.iter().map(|_| 0).collect();
    for resident in order {
        if enough(&freed, short) {
            break;
        }
        let frees = frees(resident);
        if freed.iter().zip(short).zip(frees).any(|((freed, short), frees)| freed < short && *frees > 0) {
            freed.iter_mut().zip(frees).for_each(|(freed, frees)| *freed = freed.saturating_add(*frees));
            victims.push(resident);
        }
    }
    if !enough(&freed, short) {
        return None;
    }
    victims.reverse();
    victims.retain(|&victim| {
        let frees = frees(victim);
        let without = |(d, freed): (usize, &u64)| freed - frees.get(d).copied().unwrap_or(0).min(*freed);
        let rest: Vec<u64> = freed.iter().enumerate().map(without).collect();
        let needless = enough(&rest, short);
        if needless {
            freed = rest;
        }
        !needless
    });
    victims.reverse();
    Some(victims)
}

fn enough(freed: &[u64], short: &[u64]) -> bool {
    freed.iter().zip(short).all(|(freed, short)| freed >= short)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn takes_in_order_and_spares_the_needless() {
        let check = |frees: &[&[u64]], short: &[u64], want: Option<&[usize]>| {
            let got = cover(0..frees.len(), |r| frees[r], short);
            assert_eq!(got.as_deref(), want, "{frees:?} short {short:?}");
        };
        check(&[&[4], &[4]], &[0], Some(&[]));
        check(&[&[4], &[4]], &[3], Some(&[0]));
        check(&[&[4], &[4]], &[5], Some(&[0, 1]));
        check(&[&[4], &[8]], &[8], Some(&[1])); // the first became needless
        check(&[&[9, 0], &[0, 9]], &[0, 1], Some(&[1])); // freeing device 0 does not help device 1
        check(&[&[4]], &[5], None);
        check(&[], &[1], None);
        check(&[&[1]], &[1, 1], None); // fewer devices listed than asked for
    }

    proptest! {
        #[test]
        fn covers_and_nothing_is_needless(
            frees in prop::collection::vec(prop::collection::vec(0u64..50, 2), 0..8),
            short in prop::collection::vec(0u64..80, 2),
        ) {
            let order: Vec<usize> = (0..frees.len()).collect();
            let total = |victims: &[usize], d: usize| victims.iter().map(|&v| frees[v][d]).sum::<u64>();
            match cover(0..frees.len(), |r| &frees[r], &short) {
                None => prop_assert!((0..2).any(|d| total(&order, d) < short[d])),
                Some(victims) => {
                    prop_assert!((0..2).all(|d| total(&victims, d) >= short[d]));
                    for spared in &victims {
                        let rest: Vec<usize> = victims.iter().copied().filter(|v| v != spared).collect();
                        prop_assert!((0..2).any(|d| total(&rest, d) < short[d]), "{spared} was needless");
                    }
                }
            }
        }
    }
}
