use super::*;
use proptest::prelude::*;

pub(super) fn node(state: u32, running: u32) -> Row {
    [state, running, 0, UNKNOWN, UNKNOWN, UNKNOWN]
}

/// A loaded node with so many requests and so many tokens cached.
fn loaded(running: u32, cached: u32) -> Row {
    [state::LOADED, running, 0, UNKNOWN, cached, UNKNOWN]
}

fn asked(session: Option<u64>, seed: u64) -> Asked<'static> {
    Asked { model: "m", session, seed, prompt_tokens: UNKNOWN }
}

pub(super) fn order(settings: &Settings, asked: &Asked, rows: &[Row]) -> Vec<u16> {
    let names: Vec<u64> = (0..rows.len()).map(|i| policy_kit::hash::name(&format!("n{i}"))).collect();
    // Left over from another call, on purpose.
    let (mut keys, mut picks) = (vec![7; 3], vec![9]);
    choose(settings, asked, &names, rows, &mut keys, &mut picks);
    picks
}

fn first(asked: &Asked, rows: &[Row]) -> usize {
    usize::from(order(&Settings::DEFAULT, asked, rows)[0])
}

#[test]
fn a_session_stays_home_until_home_is_busy_and_then_goes_to_the_least_loaded() {
    let mut rows = vec![node(state::LOADED, 4); 4];
    let home = first(&asked(Some(42), 1), &rows);
    for seed in 0..50 {
        assert_eq!(first(&asked(Some(42), seed), &rows), home);
    }
    rows[home][1] = 100;
    let least = (home + 2) % 4;
    rows[least][1] = 3;
    assert_eq!(first(&asked(Some(42), 1), &rows), least);
}

#[test]
fn waiting_requests_count_as_running_ones() {
    let mut rows = vec![node(state::LOADED, 0); 2];
    let home = first(&asked(Some(3), 1), &rows);
    rows[home][2] = 5;
    assert_ne!(first(&asked(Some(3), 1), &rows), home);
}

#[test]
fn busy_is_a_share_and_a_slack_while_seats_are_free() {
    // (load at home, seats at home, load elsewhere, stays at home?) of three nodes, slack 2.
    let check = |home_load: u32, seats: u32, elsewhere: u32, stays: bool| {
        let mut rows = vec![node(state::LOADED, elsewhere); 3];
        let home = first(&asked(Some(3), 1), &[node(state::LOADED, 0); 3]);
        rows[home] = [state::LOADED, home_load, 0, seats, UNKNOWN, UNKNOWN];
        let got = first(&asked(Some(3), 1), &rows) == home;
        assert_eq!(got, stays, "{home_load} of {seats} at home, {elsewhere} elsewhere");
    };
    check(0, 1, 0, true);
    check(1, 1, 0, false); // full, and another idles
    check(1, 2, 0, true); // a free seat, within the slack
    check(1, UNKNOWN, 0, true);
    check(2, 8, 0, false); // past the slack: no hot spot while others idle
    check(3, 8, 2, true);
    check(4, 8, 2, false);
    check(11, 11, 10, true); // full: a quarter of the fair share of 32 is 2
    check(12, 11, 10, false);
    check(24, 99, 20, true); // a quarter of the fair share of 65 is 5, more than the slack
    check(25, 99, 20, false);
}

#[test]
fn the_longest_cached_prefix_wins_and_of_equal_ones_the_less_loaded() {
    let rows = [loaded(1, 0), loaded(1, 300), loaded(2, 900), loaded(1, 900)];
    for session in 0..20 {
        assert_eq!(first(&asked(Some(session), session), &rows), 3);
        assert_eq!(first(&asked(None, session), &rows), 3);
    }
}

#[test]
fn a_longer_prefix_is_worth_more_company() {
    let check = |cached: u32, load: u32, seats: u32, stays: bool| {
        let holder = [state::LOADED, load, 0, seats, cached, UNKNOWN];
        let rows = [loaded(0, 0), holder, loaded(0, 0), loaded(0, 0)];
        let got = first(&asked(None, 0), &rows) == 1;
        assert_eq!(got, stays, "{cached} tokens, {load} of {seats}");
    };
    check(1000, 1, 32, true);
    check(1000, 2, 32, false);
    check(3 * 4096, 4, 32, true);
    check(3 * 4096, 5, 32, false);
    check(3 * 4096, 4, 4, false); // no free seat: waiting is worse than prefilling
}

#[test]
fn a_prefix_that_all_have_or_that_is_short_does_not_attract() {
    let idle = [loaded(0, 2000), loaded(0, 2000), loaded(0, 2000)];
    let spread = |rows: &[Row], prompt_tokens: u32| {
        let firsts = (0..64).map(|s| first(&Asked { prompt_tokens, ..asked(Some(s), s) }, rows));
        firsts.collect::<std::collections::BTreeSet<_>>().len()
    };
    assert_eq!(spread(&idle, 2100), 3);
    let one_more = [loaded(0, 2000), loaded(0, 2600), loaded(0, 2000)];
    assert_eq!(spread(&one_more, 2100), 1); // 600 more of 2100
    assert_eq!(spread(&one_more, 9000), 3); // 600 more of 9000 is less than a quarter
    assert_eq!(spread(&one_more, UNKNOWN), 1);
    let too_few = [loaded(0, 0), loaded(0, 63), loaded(0, 0)];
    assert_eq!(spread(&too_few, 70), 3);
}

#[test]
fn losing_a_node_moves_only_its_sessions() {
    let rows = vec![node(state::LOADED, 0); 5];
    let mut moved = 0;
    for session in 0..200 {
        let before = first(&asked(Some(session), 1), &rows);
        let after = first(&asked(Some(session), 1), &rows[..4]);
        assert!(before == after || before == 4, "session {session} moved from {before} to {after}");
        moved += u32::from(before != after);
    }
    assert!((20..60).contains(&moved), "{moved} of 200 lived on one of five nodes");
}

#[test]
fn loaded_before_loading_before_cold_and_never_the_unfit() {
    let rows = [node(1, 0), node(0, 0), node(3, 0), node(state::LOADED, 9), node(UNKNOWN, 0), node(4, 0)];
    assert_eq!(order(&Settings::DEFAULT, &asked(None, 1), &rows), [3, 5, 2, 0]);
    let fits = |free: u32| [2, 0, 0, UNKNOWN, UNKNOWN, free];
    let rows = [fits(100), fits(UNKNOWN), fits(24_000), fits(8_000)];
    assert_eq!(order(&Settings::DEFAULT, &asked(None, 1), &rows), [2, 3, 0, 1]);
}

#[test]
fn equally_free_nodes_load_different_models() {
    let rows = vec![node(2, 0); 4];
    let models = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let homes: std::collections::BTreeSet<usize> =
        models.iter().map(|model| first(&Asked { model, ..asked(None, 1) }, &rows)).collect();
    assert!(homes.len() > 1, "{homes:?}");
}

#[test]
fn two_choices_spread_without_a_session() {
    let rows = vec![node(state::LOADED, 0); 4];
    let mut hits = [0u32; 4];
    for seed in 0..4000 {
        hits[first(&asked(None, mix(seed)), &rows)] += 1;
    }
    assert!(hits.iter().all(|&h| (880..1120).contains(&h)), "{hits:?}");
}

#[test]
fn the_two_choices_are_two() {
    for n in 2..9 {
        for seed in 0..500 {
            let [a, b] = two_of(mix(seed), n);
            assert!(a != b && a < n as usize && b < n as usize, "{a} and {b} of {n}");
        }
    }
    assert_eq!(two_of(u64::MAX, 1), [0, 0]);
}

proptest! {
    /// Every node that can serve is in the list exactly once and no other is; behind the favourite the
    /// readier come first, and of the loaded the less loaded. Any facts at all, also nonsense.
    #[test]
    fn an_ordered_permutation_of_the_able(
        rows in prop::collection::vec(prop::array::uniform6(prop_oneof![0u32..8, 0u32..100_000, any::<u32>()]), 0..40),
        session in any::<Option<u64>>(),
        seed: u64,
        prompt_tokens: u32,
    ) {
        let asked = Asked { model: "m", session, seed, prompt_tokens };
        let got = order(&Settings::DEFAULT, &asked, &rows);
        let mut sorted = got.clone();
        sorted.sort_unstable();
        let able: Vec<u16> = (0..rows.len() as u16).filter(|&i| (1..=5).contains(&rows[usize::from(i)][0])).collect();
        prop_assert_eq!(sorted, able);
        let place = |&i: &u16| {
            let node = Node(&rows[usize::from(i)]);
            let number = if node.state() == state::LOADED { node.load() } else { node.memory_used() };
            (std::cmp::Reverse(node.state()), number.min((1 << NUMBER_BITS) - 1))
        };
        prop_assert!(got.iter().skip(1).map(place).is_sorted(), "{:?}", got);
        prop_assert!(got.iter().map(|i| place(i).0).is_sorted());
    }
}
