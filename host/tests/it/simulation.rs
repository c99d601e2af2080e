//! Hundreds of nodes and models in simulated time, through the same code as in the gateway.

#[path = "../simulation/hosts.rs"]
mod hosts;
#[path = "../simulation/world.rs"]
mod world;

use cortex::fleet::Priority;
use futures_util::future::join_all;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use world::{Outcome, Went, World, able, model, node, outcomes};

const FAST: &str =
    "[gateway]\nmax_wait_secs = 300.0\npoll_interval_secs = 1.0\n[eviction]\npatience_secs = 5.0\n";

/// Requests, each after its time from the start.
async fn play(world: &Arc<World>, requests: Vec<(Duration, String, String, Duration)>) -> Vec<Went> {
    let start = Instant::now();
    let run = |(at, model, tenant, service): (Duration, String, String, Duration)| {
        let world = world.clone();
        async move {
            tokio::time::sleep_until(start + at).await;
            world.request(&model, &tenant, Priority::Normal, service).await
        }
    };
    join_all(requests.into_iter().map(run)).await
}

async fn rest(world: &World) {
    for _ in 0..1000 {
        if world.is_at_rest() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("somebody still holds a seat or a place");
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[tokio::test(start_paused = true)]
async fn five_hundred_who_ask_for_a_cold_model_share_one_load() {
    let nodes = (0..3).map(|n| (format!("n{n}"), node(&[1000], 100))).collect();
    let world = Arc::new(World::start(nodes, &[model("o/a", 500, "")], FAST, None).await);
    let requests = (0..500).map(|_| (Duration::ZERO, "o/a".into(), "t".into(), Duration::from_millis(50)));
    let went = play(&world, requests.collect()).await;
    assert_eq!(outcomes(&went).get("Served"), Some(&500), "{:?}", outcomes(&went));
    assert_eq!(world.hosts.tally().loads, 1);
    rest(&world).await;
}

/// A light caller beside a flood waits no longer than a few of the flood's requests take.
#[tokio::test(start_paused = true)]
async fn a_flood_does_not_drown_a_light_caller() {
    let world = Arc::new(
        World::start(vec![("n".into(), node(&[1000], 1000))], &[model("o/a", 500, "")], FAST, None).await,
    );
    // Of 200 to 600 ms, so that they do not all end at once.
    let service = |n: u64| Duration::from_millis(200 + n * 37 % 400);
    let mut requests = vec![(Duration::ZERO, "o/a".to_owned(), "light".to_owned(), service(0))];
    requests.extend(
        (0..2000).map(|n| (seconds(2) + Duration::from_millis(n), "o/a".into(), "flood".into(), service(n))),
    );
    requests
        .extend((0..100).map(|n| {
            (seconds(4) + Duration::from_millis(700 * n), "o/a".into(), "light".into(), service(n))
        }));
    let went = play(&world, requests).await;
    let mut light: Vec<Duration> =
        went.iter().filter(|w| w.tenant == "light").skip(1).map(|w| w.waited).collect();
    light.sort();
    // Eight run at once: a place is free every 50 ms, and every other one may be the light caller's.
    assert!(light[98] <= Duration::from_millis(300), "p99 {:?}", light[98]);
    let flood = went.iter().filter(|w| w.tenant == "flood").map(|w| w.waited).max().unwrap();
    assert!(flood > seconds(60), "there was no flood");
    rest(&world).await;
}

/// Two models that take turns on one node's memory: each stays for its time, and nobody waits without end.
#[tokio::test(start_paused = true)]
async fn demand_that_alternates_is_collated() {
    let models = [model("o/a", 800, "min_residency = 20"), model("o/b", 800, "min_residency = 20")];
    let world = Arc::new(World::start(vec![("n".into(), node(&[1000], 400))], &models, FAST, None).await);
    let turn = |n: u64| if n.is_multiple_of(2) { "o/a" } else { "o/b" };
    let requests =
        (0..300).map(|n| (seconds(n), turn(n).to_owned(), "t".to_owned(), Duration::from_millis(300)));
    let went = play(&world, requests.collect()).await;
    assert_eq!(outcomes(&went).get("Served"), Some(&300), "{:?}", outcomes(&went));
    let tally = world.hosts.tally();
    assert!(tally.breaches.is_empty(), "{:?}", tally.breaches);
    // 300 s in turns of at least 20 s and a load of 2 s; one swap a request would be 300.
    assert!(tally.loads <= 16, "{} loads", tally.loads);
    let longest = went.iter().map(|w| w.waited).max().unwrap();
    assert!(longest < seconds(40), "{longest:?}");
    rest(&world).await;
}

/// What is never idle is drained for who has waited for long, and comes back.
#[tokio::test(start_paused = true)]
async fn a_model_in_use_is_drained_for_who_waits() {
    let models = [model("o/a", 800, ""), model("o/b", 800, "")];
    let world = Arc::new(World::start(vec![("n".into(), node(&[1000], 800))], &models, FAST, None).await);
    let mut requests: Vec<_> = (0..600)
        .map(|n| (Duration::from_millis(100 * n), "o/a".to_owned(), "t".to_owned(), seconds(2)))
        .collect();
    requests.push((seconds(10), "o/b".into(), "u".into(), seconds(1)));
    let went = play(&world, requests).await;
    assert_eq!(outcomes(&went).get("Served"), Some(&601), "{:?}", outcomes(&went));
    let b = went.iter().find(|w| w.model == "o/b").unwrap();
    assert!((seconds(5)..seconds(12)).contains(&b.waited), "{:?}", b.waited);
    assert!(world.hosts.tally().breaches.is_empty(), "{:?}", world.hosts.tally().breaches);
    rest(&world).await;
}

/// A hot model gets a second copy once, and it goes when it is not needed.
#[tokio::test(start_paused = true)]
async fn a_hot_model_gets_a_second_copy_and_no_more() {
    let models = [model("o/hot", 500, "replicas = { min = 0, max = 2 }\nidle_ttl = 60")];
    let nodes = (0..4).map(|n| (format!("n{n}"), node(&[1000], 100))).collect();
    let world = Arc::new(World::start(nodes, &models, FAST, None).await);
    // Twelve at once where eight run.
    let requests =
        (0..3000).map(|n| (Duration::from_millis(80 * n), "o/hot".to_owned(), "t".to_owned(), seconds(1)));
    let between = async {
        tokio::time::sleep(seconds(60)).await;
        world.copies("o/hot")
    };
    let (went, copies) = tokio::join!(play(&world, requests.collect()), between);
    assert_eq!(copies, 2);
    assert_eq!(outcomes(&went).get("Served"), Some(&3000));
    assert_eq!(world.hosts.tally().loads, 2, "it went up and down");
    tokio::time::sleep(seconds(200)).await;
    assert_eq!(world.copies("o/hot"), 0, "idle for longer than its time");
    rest(&world).await;
}

#[tokio::test(start_paused = true)]
async fn what_the_catalogue_wants_there_is_there_and_comes_back() {
    let models = [
        model("o/kept", 300, "replicas = { min = 2, max = 2 }"),
        model("o/first", 300, "preload = true"),
        model("o/idle", 300, "idle_ttl = 30"),
    ];
    let nodes = (0..2).map(|n| (format!("n{n}"), node(&[1000], 100))).collect();
    let world = Arc::new(World::start(nodes, &models, FAST, None).await);
    tokio::time::sleep(seconds(20)).await;
    assert_eq!((world.copies("o/kept"), world.copies("o/first"), world.copies("o/idle")), (2, 1, 0));
    world.request("o/idle", "t", Priority::Normal, seconds(1)).await;
    assert_eq!(world.copies("o/idle"), 1);
    tokio::time::sleep(seconds(40)).await;
    assert_eq!(world.copies("o/idle"), 0);
    for name in ["n0", "n1"] {
        world.hosts.kill(name);
    }
    tokio::time::sleep(seconds(20)).await;
    for name in ["n0", "n1"] {
        world.hosts.revive(name);
    }
    tokio::time::sleep(seconds(30)).await;
    assert_eq!((world.copies("o/kept"), world.copies("o/first")), (2, 1));
    assert!(world.hosts.tally().breaches.is_empty(), "{:?}", world.hosts.tally().breaches);
}

#[tokio::test(start_paused = true)]
async fn a_nodes_memory_is_put_in_order_between_requests() {
    let models: Vec<_> = ["o/a", "o/b"].map(|id| model(id, 800, "")).into();
    let settings = FAST.replace("[eviction]", "[eviction]\ndefrag_after_cycles = 4");
    let world =
        Arc::new(World::start(vec![("n".into(), node(&[1000], 800))], &models, &settings, None).await);
    for n in 0..4 {
        let went = world.request(["o/a", "o/b"][n % 2], "t", Priority::Normal, seconds(1)).await;
        assert_eq!(went.outcome, Outcome::Served);
        tokio::time::sleep(seconds(2)).await;
    }
    tokio::time::sleep(seconds(20)).await;
    assert_eq!(world.hosts.nodes()["n"].defrags, 1);
    assert_eq!(world.copies("o/b"), 1, "it comes back by itself");
    assert!(world.hosts.tally().breaches.is_empty(), "{:?}", world.hosts.tally().breaches);
    assert_eq!(world.request("o/b", "t", Priority::Normal, seconds(1)).await.waited, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_load_that_fails_everywhere_tells_all_and_is_not_tried_without_end() {
    let nodes = (0..3).map(|n| (format!("n{n}"), node(&[1000], 1000))).collect();
    let world = Arc::new(World::start(nodes, &[model("o/a", 500, "")], FAST, None).await);
    for node in world.hosts.nodes().values_mut() {
        node.spoiled.insert("o/a".into());
    }
    let ask = |n: u64| (Duration::from_millis(n), "o/a".to_owned(), "t".to_owned(), seconds(1));
    let went = play(&world, (0..20).map(ask).collect()).await;
    assert!(
        went.iter().all(|w| w.outcome == Outcome::Refused("load_failed".into())),
        "{:?}",
        outcomes(&went)
    );
    // While it is held against them, the answer comes at once.
    let at_once = world.request("o/a", "t", Priority::Normal, seconds(1)).await;
    assert!(at_once.waited < Duration::from_millis(100), "{:?}", at_once.waited);
    world.hosts.nodes().values_mut().for_each(|node| node.spoiled.clear());
    tokio::time::sleep(seconds(60)).await;
    assert_eq!(world.request("o/a", "t", Priority::Normal, seconds(1)).await.outcome, Outcome::Served);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_lies_about_its_memory_serves_what_it_can() {
    let models: Vec<_> = ["o/a", "o/b", "o/c"].map(|id| model(id, 600, "")).into();
    let world = Arc::new(World::start(vec![("n".into(), node(&[1000], 1000))], &models, FAST, None).await);
    world.hosts.nodes().get_mut("n").unwrap().lies = true;
    for n in 0..6 {
        let id = ["o/a", "o/b", "o/c"][n % 3];
        assert_eq!(world.request(id, "t", Priority::Normal, seconds(1)).await.outcome, Outcome::Served);
        tokio::time::sleep(seconds(2)).await;
    }
    assert!(world.hosts.tally().breaches.is_empty(), "{:?}", world.hosts.tally().breaches);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_keeps_going_down_has_to_prove_itself() {
    let nodes = (0..2).map(|n| (format!("n{n}"), node(&[1000], 1000))).collect();
    let world = Arc::new(World::start(nodes, &[model("o/a", 500, "")], FAST, None).await);
    let is_up = |world: &World| world.fleet.node_is_up("n0");
    for _ in 0..3 {
        world.hosts.kill("n0");
        tokio::time::sleep(seconds(8)).await;
        world.hosts.revive("n0");
        tokio::time::sleep(seconds(3)).await;
    }
    assert!(!is_up(&world), "three times down within a minute each, and trusted at once");
    tokio::time::sleep(seconds(15)).await;
    assert!(is_up(&world));
}

/// Everything at random, hundreds of nodes and models.
#[tokio::test(start_paused = true)]
async fn a_large_fleet_keeps_its_rules() {
    let outcome = random_world(7, 120, 300, 2500, 400, 20).await;
    assert!(outcome.get("Served").copied().unwrap_or(0) > 2_000, "{outcome:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_rules_are_kept(
        seed in any::<u64>(), nodes in 1u64..8, models in 1u64..14, requests in 1u64..250, faults in 0u64..8,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.unwrap().block_on(random_world(seed, nodes, models, requests, 200, faults));
    }
}

type Draw<'a> = dyn FnMut(u64) -> u64 + 'a;

/// Draws a fleet, a catalogue, requests and faults, plays them, and checks what must hold.
async fn random_world(
    seed: u64,
    nodes: u64,
    models: u64,
    requests: u64,
    span: u64,
    faults: u64,
) -> BTreeMap<String, usize> {
    let mut state = seed | 1;
    let draw: &mut Draw<'_> = &mut move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) % below.max(1)
    };
    let world = Arc::new(random_fleet(draw, nodes, models).await);
    let plan: Vec<_> = (0..requests)
        .map(|_| {
            // A few models have most of the requests.
            let which = draw(models).min(draw(models));
            let at = Duration::from_millis(draw(span * 1000));
            let service = Duration::from_millis(50 + draw(4000));
            (at, format!("o/m{which}"), format!("t{}", draw(3)), service)
        })
        .collect();
    let mischief: Vec<_> = (0..faults)
        .map(|_| {
            let (at, node) = (seconds(draw(span)), format!("n{}", draw(nodes)));
            (at, node, draw(4), format!("o/m{}", draw(models)), seconds(1 + draw(30)))
        })
        .collect();
    let faulty = join_all(mischief.into_iter().map(|fault| afflict(&world, fault)));
    let (went, _) = tokio::join!(play(&world, plan), faulty);
    let tally = world.hosts.tally();
    assert!(tally.breaches.is_empty(), "{:?}", tally.breaches);
    for one in &went {
        assert!(one.waited <= seconds(121), "{one:?}");
        // Whom nobody can serve is told at once.
        let hopeless = one.outcome == Outcome::Refused("no_node".into()) && faults == 0;
        assert!(!hopeless || !able(&world.facts(&one.model)), "{one:?}");
    }
    rest(&world).await;
    outcomes(&went)
}

async fn random_fleet(draw: &mut Draw<'_>, nodes: u64, models: u64) -> World {
    let fleet = (0..nodes).map(|n| {
        let devices: Vec<u64> = (0..1 + draw(3)).map(|_| 1000 + 500 * draw(6)).collect();
        (format!("n{n}"), node(&devices, 200 + draw(2000)))
    });
    let fleet: Vec<_> = fleet.collect();
    let lines = [
        "",
        "",
        "",
        "min_residency = 10",
        "idle_ttl = 20",
        "replicas = { min = 1, max = 2 }",
        "replicas = { min = 0, max = 3 }",
        "preload = true",
        "pinned = true",
        "residency_priority = 200",
    ];
    let entry = |n| model(&format!("o/m{n}"), 200 + 100 * draw(20), lines[draw(lines.len() as u64) as usize]);
    let catalogue: Vec<_> = (0..models).map(entry).collect();
    World::start(fleet, &catalogue, &FAST.replace("300.0", "120.0"), None).await
}

/// A node dies, a model on it is spoiled, it lies, or it hangs, for a while.
async fn afflict(world: &World, fault: (Duration, String, u64, String, Duration)) {
    let (at, name, what, model, lasts) = fault;
    tokio::time::sleep(at).await;
    match what {
        0 => world.hosts.kill(&name),
        3 => world.hosts.nodes().get_mut(&name).unwrap().hangs = true,
        1 => drop(world.hosts.nodes().get_mut(&name).unwrap().spoiled.insert(model.clone())),
        _ => world.hosts.nodes().get_mut(&name).unwrap().lies = true,
    }
    tokio::time::sleep(lasts).await;
    world.hosts.revive(&name);
    let mut nodes = world.hosts.nodes();
    let node = nodes.get_mut(&name).unwrap();
    node.spoiled.remove(&model);
    (node.lies, node.hangs) = (false, false);
}
