//! Questions to the gateway, their words shown as they come.

use super::fleet::Fleet;
use crate::sse;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::io::Write;
use std::time::{Duration, Instant};

pub(super) struct Answer {
    pub(super) request_id: String,
    pub(super) events: Vec<Value>,
}

fn agent() -> ureq::Agent {
    // A refusal is an answer to be shown, with its body.
    ureq::Agent::config_builder().http_status_as_error(false).build().new_agent()
}

pub(super) fn get(url: &str) -> Result<Value> {
    let mut response = agent().get(url).call().with_context(|| url.to_owned())?;
    let text = response.body_mut().read_to_string()?;
    serde_json::from_str(&text).with_context(|| format!("{url} answered {text}"))
}

/// `word` finds the text in an event.
pub(super) fn streamed(
    fleet: &Fleet,
    path: &str,
    body: &Value,
    word: impl Fn(&Value) -> Option<String>,
) -> Result<Answer> {
    let started = Instant::now();
    let mut answer = Answer { request_id: String::new(), events: Vec::new() };
    let mut shown = String::new();
    open(fleet, path, body, |id, event| {
        if answer.events.is_empty() {
            println!("  (first event after {:.2} s)", started.elapsed().as_secs_f64());
            print!("  ");
            answer.request_id = id.to_owned();
        }
        let text = word(&event).unwrap_or_default();
        print!("{}", text.replace('\n', "\n  "));
        std::io::stdout().flush()?;
        shown.push_str(&text);
        answer.events.push(event);
        Ok(())
    })?;
    println!();
    if shown.trim().is_empty() {
        bail!("the answer has no words");
    }
    Ok(answer)
}

/// Sends a request and hands over each event of the answer, with the request's id.
pub(super) fn open(
    fleet: &Fleet,
    path: &str,
    body: &Value,
    mut each: impl FnMut(&str, Value) -> Result<()>,
) -> Result<()> {
    let request = agent().post(format!("{}{path}", fleet.gateway)).header("content-type", "application/json");
    let mut response = request.send(body.to_string())?;
    let status = response.status();
    if !status.is_success() {
        bail!("{path} answered {status}: {}", response.body_mut().read_to_string()?);
    }
    let id =
        response.headers().get("x-request-id").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    sse::events(response.into_body().into_reader(), |event| each(&id, event))
}

/// What the gateway measured.
pub(super) fn report(fleet: &Fleet, answer: &Answer) -> Result<()> {
    let url = format!("{}/admin/requests/{}", fleet.admin, answer.request_id);
    // The account is settled when the last byte has left, which may be after we have read it.
    let mut record = get(&url)?;
    for _ in 0..50 {
        if record["status"].is_u64() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
        record = get(&url)?;
    }
    let seconds = |key: &str| record[key].as_f64();
    let (Some(first), Some(rate)) = (seconds("time_to_first_token_s"), seconds("tokens_per_second")) else {
        bail!("the gateway has no account of {}: {record}", answer.request_id);
    };
    let cold = seconds("cold_wait_s")
        .map(|s| format!(", of which {s:.2} s for loading the model"))
        .unwrap_or_default();
    println!(
        "  time to first token {first:.2} s{cold}; {rate:.1} tok/s; {} prompt and {} completion tokens; on {}",
        record["prompt_tokens"],
        record["completion_tokens"],
        record["node"].as_str().unwrap_or("?"),
    );
    Ok(())
}
