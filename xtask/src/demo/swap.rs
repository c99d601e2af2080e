//! A policy replaced while a stream runs.

use super::ask;
use super::fleet::Fleet;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::fs;
use std::time::{Duration, Instant};

pub(super) fn run(fleet: &Fleet) -> Result<()> {
    println!("\n> Replacing the routing policy's .wasm while a stream runs.");
    let before = serving(fleet)?;
    let body = json!({"model": fleet.model, "stream": true, "max_tokens": 160, "temperature": 0,
        "messages": [{"role": "user", "content": "Tell a story about a lighthouse."}]});
    let (mut tokens, mut swapped_at, mut live_at, mut finished) = (0_usize, None, None, false);
    let started = Instant::now();
    ask::open(fleet, "/v1/chat/completions", &body, |_, event| {
        tokens +=
            usize::from(event["choices"][0]["delta"]["content"].as_str().is_some_and(|t| !t.is_empty()));
        finished |= event["choices"][0]["finish_reason"].is_string();
        if tokens == 5 && swapped_at.is_none() {
            replace(fleet)?;
            swapped_at = Some((tokens, Instant::now()));
        }
        if let (Some((_, at)), None) = (swapped_at, live_at)
            && serving(fleet)?.0 != before.0
        {
            live_at = Some((tokens, at.elapsed()));
        }
        Ok(())
    })?;
    let Some((at, _)) = swapped_at else { bail!("the stream ended before the policy could be replaced") };
    if !finished {
        bail!("the stream was cut");
    }
    let (live_token, took) = match live_at {
        Some(live) => live,
        None => (tokens, wait_for_other(fleet, &before.0)?),
    };
    let after = serving(fleet)?;
    println!(
        "  replaced at token {at}, live {} ms later at token {live_token}; the stream went on to token {tokens}, {:.1} s in all",
        took.as_millis(),
        started.elapsed().as_secs_f64()
    );
    println!("  sha256 {:.12} -> {:.12}", before.0, after.0);

    let body = json!({"model": fleet.model, "stream": true, "max_tokens": 4,
        "messages": [{"role": "user", "content": "Hi"}]});
    ask::open(fleet, "/v1/chat/completions", &body, |_, _| Ok(()))?;
    let decided = serving(fleet)?.1;
    if decided == 0 {
        bail!("the new policy was not asked");
    }
    println!("  the new policy serves: {decided} decision(s)");
    Ok(())
}

/// The same judgement with a mark in it: a custom section, so that the file is another one.
fn replace(fleet: &Fleet) -> Result<()> {
    let path = fleet.policies.join("affinity.wasm");
    let mut bytes = fs::read(&path)?;
    let mark = format!("\x04demo{:?}", std::time::SystemTime::now());
    let length = u8::try_from(mark.len()).context("the mark is too long")?;
    bytes.extend([&[0, length], mark.as_bytes()].concat());
    let part = path.with_extension("part");
    fs::write(&part, bytes)?;
    Ok(fs::rename(part, path)?)
}

fn wait_for_other(fleet: &Fleet, sha256: &str) -> Result<Duration> {
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(10) {
        if serving(fleet)?.0 != sha256 {
            return Ok(started.elapsed());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("the new policy is not live after 10 s")
}

/// The routing policy's sha256 and how often it decided.
fn serving(fleet: &Fleet) -> Result<(String, u64)> {
    let status = ask::get(&format!("{}/admin/status", fleet.admin))?;
    let policies = status["policies"].as_array().cloned().unwrap_or_default();
    let policy =
        policies.iter().find(|p| p["name"] == "affinity").map_or(Value::Null, |p| p["serving"].clone());
    let sha256 = policy["sha256"].as_str().context("the routing policy does not serve")?;
    Ok((sha256.to_owned(), policy["calls"].as_u64().unwrap_or(0)))
}
