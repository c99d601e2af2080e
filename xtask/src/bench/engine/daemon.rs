//! What is asked of neuron alone: memory, idleness, the second turn of a long chat.

use super::chat::Chat;
use super::{Bench, figures::Figures, machine, server::Server, weights::Weights};
use anyhow::{Context, Result, bail};
use std::time::Duration;

const NAMES: [&str; 3] = ["rss_over_weights", "idle_cpu_percent", "ttft_turn2_over_turn1"];
/// What follows a request is not idleness.
const SETTLE: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_secs(5);
/// Words of the long chat's first question: about as many tokens, most words being one.
const WORDS: u32 = 1950;
/// What passes as 2,000 tokens.
const LONG: std::ops::Range<u64> = 1900..2100;
const ANSWER: u64 = 32;

/// All three of a file.
pub(super) fn measure(bench: &Bench, weights: &Weights, figures: &mut Figures) {
    let [rss, idle, turns] = NAMES.map(|name| weights.figure(name));
    if !NAMES.iter().any(|name| bench.wants(&weights.figure(name))) {
        return;
    }
    let mut loaded = None;
    figures.attempt(&rss, |figures| {
        let server = Server::neuron(bench)?;
        let empty = machine::rss(server.pid())?;
        server.load(weights)?;
        let server = loaded.insert(server);
        figures.ours(&rss, &[rss_over_weights(server, empty)?]);
        Ok(())
    });
    let Some(server) = loaded else { return };
    figures.attempt(&idle, |figures| {
        figures.ours(&idle, &[idle_cpu_percent(server.pid())?]);
        Ok(())
    });
    figures.attempt(&turns, |figures| {
        for chat in 0..bench.rounds {
            figures.ours(&turns, &[turn2_over_turn1(&server, chat)?]);
        }
        Ok(())
    });
}

/// After the load and one request: what the model added to the `empty` daemon, without the KV cache, by the
/// bytes of weights that it holds.
fn rss_over_weights(server: &Server, empty: f64) -> Result<f64> {
    Chat::new(&server.url, "").ask("Good morning!", ANSWER)?;
    let loaded = machine::rss(server.pid())?;
    let held = held(server)?;
    Ok((loaded - empty - held.kv) / held.weights)
}

/// Bytes, as neuron counts them.
struct Held {
    weights: f64,
    kv: f64,
}

/// `GET /health`: `models[].weights_bytes`, and `models[].kv_used_bytes`, which is the resident part of the cache.
fn held(server: &Server) -> Result<Held> {
    let health = server.health()?;
    let model = &health["models"][0];
    let bytes = |key: &str| {
        model[key].as_f64().with_context(|| format!("/health says no {key} of the model: {health}"))
    };
    Ok(Held { weights: bytes("weights_bytes")?, kv: bytes("kv_used_bytes")? })
}

/// Of one core.
fn idle_cpu_percent(pid: u32) -> Result<f64> {
    std::thread::sleep(SETTLE);
    let before = machine::cpu_time(pid)?;
    std::thread::sleep(IDLE);
    Ok((machine::cpu_time(pid)? - before) / IDLE.as_secs_f64() * 100.0)
}

/// Time to the first word of the second turn by that of the first, whose question is 2,000 tokens long and
/// another for each `chat`, so that no cache knows it.
fn turn2_over_turn1(server: &Server, chat: u32) -> Result<f64> {
    let mut conversation = Chat::new(&server.url, "");
    let first = conversation.ask(&question(chat), ANSWER)?;
    if !LONG.contains(&first.prompt_tokens) {
        bail!("the long question has {} tokens, not {LONG:?}", first.prompt_tokens);
    }
    let second = conversation.ask("And which of them came last?", ANSWER)?;
    Ok(second.ttft / first.ttft)
}

/// Common words, which no two chats have in the same order.
fn question(chat: u32) -> String {
    let words = [
        "time",
        "year",
        "people",
        "way",
        "day",
        "man",
        "thing",
        "woman",
        "life",
        "child",
        "world",
        "school",
        "state",
        "family",
        "student",
        "group",
        "country",
        "problem",
        "hand",
        "part",
        "place",
        "case",
        "week",
        "company",
        "system",
        "program",
        "question",
        "work",
        "government",
        "number",
        "night",
        "point",
    ];
    let mut state = chat.wrapping_add(1).wrapping_mul(2_654_435_761);
    let mut text = String::from("Here is a list of words:");
    for _ in 0..WORDS {
        // Numerical Recipes' generator; its upper bits are the better ones.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        text.push(' ');
        text.push_str(words[(state >> 27) as usize]);
    }
    text + ". Which of them came first?"
}
