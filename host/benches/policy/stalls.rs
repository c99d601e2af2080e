//! How long past its limit a policy that never returns holds its thread.

use super::Figures;
use super::support::guest::{Guest, LOOP};
use cortex::policy::{Generation, Message, PolicyEngine, Problem, Reply, check_file, limits, measure};
use rustix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::time::Duration;

fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
}

fn gated(engine: &Arc<PolicyEngine>, guest: &Guest) -> Arc<Generation> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.wasm");
    std::fs::write(&file, guest.component()).unwrap();
    let (report, generation) = check_file(engine, &file, "{}");
    generation.unwrap_or_else(|| panic!("{:?}", report.refused))
}

pub fn measure(figures: &mut Figures) {
    let engine = Arc::new(PolicyEngine::new(None, 32 << 20).unwrap());
    let mut worst = f64::MIN;
    let mut over = |name: &str, limit: Duration, call: &mut dyn FnMut() -> Result<(), Problem>| {
        let started = cpu();
        let outcome = call();
        let spent = (cpu() - started).as_secs_f64() - limit.as_secs_f64();
        assert!(matches!(outcome, Err(Problem::Fault(_))), "{name}: {outcome:?}");
        worst = worst.max(spent * 1e3);
    };
    for _ in 0..5 {
        // A breaker that opens would spare the later ones the work: each time a new generation.
        let routing = gated(&engine, &Guest::routing().sick(LOOP));
        let call = measure::Routing::new(&routing, 16);
        over("route", limits::DECIDE, &mut || call.run(&routing));
        let body = vec![b'x'; 200];
        let message = || Message { body: body.clone(), ..Message::default() };
        let reply = || Reply { status: 200, headers: Vec::new(), body: body.clone() };
        let long = |argument: u32| {
            format!("(if (i32.gt_u (local.get {argument}) (i32.const 150)) (then {LOOP})) (i32.const 1000)")
        };
        let sick =
            |export: &'static str, body: &str| gated(&engine, &Guest::translation().with(export, body));
        let request = sick("translator#[method]session.request", &long(10));
        over("request", limits::MESSAGE, &mut || request.session(0, 1)?.request(message()).map(drop));
        let response = sick(
            "translator#[method]session.response",
            &format!(
                "(if (i32.eq (local.get 1) (i32.const 200)) (then {LOOP}))
                 (i32.store (i32.const 1000) (i32.const 0)) (i32.store16 (i32.const 1004) (local.get 1))
                 (i32.store (i32.const 1008) (i32.const 0)) (i32.store (i32.const 1012) (i32.const 0))
                 (i32.store (i32.const 1016) (i32.const 0)) (i32.store (i32.const 1020) (i32.const 0))
                 (i32.const 1000)"
            ),
        );
        over("response", limits::MESSAGE, &mut || response.session(0, 1)?.response(reply()).map(drop));
        let events = sick("translator#[method]session.events", &long(2));
        over("events", limits::EVENTS, &mut || events.session(0, 1)?.events(&body).map(drop));
        let finish = sick("translator#[method]session.finish", LOOP);
        over("finish", limits::EVENTS, &mut || finish.session(0, 1)?.finish(true).map(drop));
        let alive = sick("translator#[method]session.keep-alive", LOOP);
        over("keep-alive", limits::EVENTS, &mut || alive.session(0, 1)?.keep_alive().map(drop));
    }
    figures.insert("stall_over_limit_ms".into(), worst);
}
