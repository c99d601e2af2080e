//! A small fleet that serves what `choose` sends it: what comes of many decisions, not of one.

use super::tests::order;
use super::*;
use proptest::prelude::*;
use std::collections::{HashMap, VecDeque};

/// Requests of conversations that all begin with one system prompt.
#[derive(Debug, Clone)]
struct Traffic {
    nodes: usize,
    seats: u32,
    /// Requests in flight on average.
    in_flight: usize,
    system: u32,
    /// Tokens that each turn adds.
    turn: u32,
    /// Turns of a conversation.
    turns: u64,
    /// Whether clients say (or their openings tell) which conversation it is.
    sessions: bool,
    /// Whether nodes tell what they have cached.
    caches_known: bool,
}

#[derive(Debug, Default)]
struct Outcome {
    /// By how many requests a node was ever past its bound once chosen.
    over_bound: u64,
    /// Of the tokens that were cached somewhere, how many were cached where the request went: permille.
    hits: u64,
    /// Requests that each node got.
    served: Vec<u32>,
}

const REQUESTS: u64 = 4000;

fn run(traffic: &Traffic, settings: &Settings) -> Outcome {
    let mut cached: Vec<HashMap<u64, u32>> = vec![HashMap::new(); traffic.nodes];
    let mut has_system = vec![false; traffic.nodes];
    let mut running: VecDeque<usize> = VecDeque::new();
    let mut load = vec![0u64; traffic.nodes];
    let mut outcome = Outcome { served: vec![0; traffic.nodes], ..Outcome::default() };
    let (mut had, mut best) = (0u64, 0u64);
    let conversations = REQUESTS / traffic.turns;
    for request in 0..REQUESTS {
        // Each conversation has one request a round, in an order that changes.
        let conversation = mix(request) % conversations;
        let turn = request / conversations + 1;
        let prompt = traffic.system + traffic.turn * turn as u32;
        let prefix = |node: usize| {
            let system = if has_system[node] { traffic.system } else { 0 };
            cached[node].get(&conversation).copied().unwrap_or(system).min(prompt - 1)
        };
        let rows: Vec<Row> = (0..traffic.nodes)
            .map(|n| {
                let (running, queued) =
                    (load[n].min(u64::from(traffic.seats)), load[n].saturating_sub(u64::from(traffic.seats)));
                let known = if traffic.caches_known { prefix(n) } else { UNKNOWN };
                [state::LOADED, running as u32, queued as u32, traffic.seats, known, UNKNOWN]
            })
            .collect();
        let session = traffic.sessions.then(|| mix(!conversation));
        let asked = Asked { model: "m", session, seed: mix(request ^ 0xabcd), prompt_tokens: prompt };
        let node = usize::from(order(settings, &asked, &rows)[0]);

        // Said as the documentation says it, not as the code does.
        let fair_share = (load.iter().sum::<u64>() + 1) as f64 / traffic.nodes as f64;
        let by_share = (f64::from(settings.busy_factor_milli) / 1000.0 - 1.0) * fair_share;
        let by_slack = f64::from(settings.slack + prompt / settings.tokens_per_slack);
        let least = *load.iter().min().unwrap() as f64;
        let bound = (least + by_share.max(by_slack).max(1.0) + 1e-9) as u64;
        outcome.over_bound = outcome.over_bound.max((load[node] + 1).saturating_sub(bound));
        had += u64::from(prefix(node));
        best += u64::from((0..traffic.nodes).map(prefix).max().unwrap());
        outcome.served[node] += 1;
        cached[node].insert(conversation, prompt);
        has_system[node] = true;
        load[node] += 1;
        running.push_back(node);
        // Answers differ in length: an early one may go before the eldest.
        if running.len() > traffic.in_flight {
            let done = (mix(request ^ 0x77) as usize) % running.len().min(4);
            load[running.remove(done).unwrap()] -= 1;
        }
    }
    outcome.hits = had * 1000 / best.max(1);
    outcome
}

const SHARED: Traffic = Traffic {
    nodes: 4,
    seats: 8,
    in_flight: 20,
    system: 4000,
    turn: 50,
    turns: 1,
    sessions: true,
    caches_known: true,
};

#[test]
fn one_system_prompt_makes_no_hot_spot() {
    let fair = REQUESTS as u32 / SHARED.nodes as u32;
    for in_flight in [1, 3, 12, 20, 60] {
        for sessions in [true, false] {
            let traffic = Traffic { in_flight, sessions, ..SHARED };
            let outcome = run(&traffic, &Settings::DEFAULT);
            assert_eq!(outcome.over_bound, 0, "{traffic:?} {outcome:?}");
            // With nearly nothing to do, one warm node may do it.
            let even = |&served: &u32| (fair * 4 / 5..fair * 6 / 5).contains(&served);
            assert!(in_flight < 12 || outcome.served.iter().all(even), "{traffic:?} {outcome:?}");
        }
    }
}

#[test]
fn conversations_find_their_cache() {
    let check = |traffic: Traffic, hits: u64| {
        let outcome = run(&traffic, &Settings::DEFAULT);
        assert!(outcome.hits >= hits, "{traffic:?} {outcome:?}, expected {hits} permille");
        let fair = REQUESTS as u32 / traffic.nodes as u32;
        assert!(outcome.served.iter().all(|s| (fair / 2..fair * 2).contains(s)), "{traffic:?} {outcome:?}");
    };
    let long = Traffic { turns: 40, turn: 500, ..SHARED };
    check(Traffic { sessions: false, ..long.clone() }, 950);
    check(long.clone(), 950);
    check(Traffic { caches_known: false, ..long.clone() }, 800);
    check(Traffic { nodes: 16, in_flight: 60, ..long }, 900);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Whatever the traffic: no node gets a request while it has more than the bound allows, and it is
    /// the fair share times the factor, or the least loaded one's requests and the slack.
    #[test]
    fn no_load_past_the_bound(
        nodes in 1usize..24, seats in 1u32..64, in_flight in 0usize..200, system in 0u32..40_000,
        turn in 1u32..2000, turns in 1u64..50, sessions: bool, caches_known: bool,
        busy_factor_milli in 1000u32..3000, slack in 0u32..5,
    ) {
        let traffic = Traffic { nodes, seats, in_flight, system, turn, turns, sessions, caches_known };
        let settings = Settings { busy_factor_milli, slack, ..Settings::DEFAULT };
        let outcome = run(&traffic, &settings);
        prop_assert_eq!(outcome.over_bound, 0, "{:?} {:?}", &traffic, &outcome);
    }
}
