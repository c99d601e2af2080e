//! `cortex explain`: one request's story, for a person.

use super::screen::{plain, shown};
use super::target::Target;
use serde_json::Value;
use std::fmt::Write as _;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(5);
/// Nodes of one decision that are shown, those that can serve first.
const SHOWN: usize = 8;

#[derive(clap::Args)]
pub(super) struct Args {
    /// The request's id, as its answer says it in x-request-id
    id: String,
    #[command(flatten)]
    target: Target,
}

pub(super) fn run(args: &Args, json: bool) -> anyhow::Result<()> {
    // Other characters are in no id, and would make another path of it.
    let id: String = args.id.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    let record = args.target.get(&format!("/admin/requests/{id}"), LIMIT)?;
    match json {
        true => println!("{}", serde_json::to_string_pretty(&record)?),
        false => {
            // Its words have lines.
            let mut told = plain(&record);
            told["transcript"] = record["transcript"].clone();
            print!("{}", story(&told));
        }
    }
    Ok(())
}

fn story(record: &Value) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _infallible = tell(&mut out, record);
    out
}

fn tell(out: &mut String, record: &Value) -> std::fmt::Result {
    let by = match text(&record["key"]) {
        "" => "no key".to_owned(),
        key => format!("key {key}"),
    };
    let (dialect, model) = (text(&record["dialect"]), text(&record["model"]));
    writeln!(out, "{}: {dialect}, model {model}, {by}", text(&record["id"]))?;
    if let Some(trace) = record["trace_id"].as_str() {
        writeln!(out, "  trace {trace}")?;
    }
    line(out, 0.0, "arrived")?;
    for step in record["steps"].as_array().into_iter().flatten() {
        let at = step["at_s"].as_f64().unwrap_or(0.0);
        match text(&step["step"]) {
            "decided" => decided(out, at, step)?,
            "sent" => line(out, at, &sent(step))?,
            _ => line(out, at, &format!("{} did not answer: {}", text(&step["node"]), text(&step["why"])))?,
        }
    }
    if let Some(first) = record["time_to_first_token_s"].as_f64() {
        line(out, first, "first token")?;
    }
    let count = |name: &str| record[name].as_u64().unwrap_or(0);
    let mut end = format!("{}", count("status"));
    if count("prompt_tokens") + count("completion_tokens") > 0 {
        let (prompt, cached) = (count("prompt_tokens"), count("cached_prompt_tokens"));
        write!(end, ", {prompt} tokens in ({cached} cached), {} out", count("completion_tokens"))?;
    }
    if let Some(rate) = record["tokens_per_second"].as_f64() {
        write!(end, ", {rate:.1} tok/s")?;
    }
    if let Some(error) = record["error"].as_str() {
        write!(end, ": {error}")?;
    }
    line(out, record["duration_s"].as_f64().unwrap_or(0.0), &end)?;
    words(out, &record["transcript"])
}

/// What was asked and answered, where the gateway keeps it.
fn words(out: &mut String, transcript: &Value) -> std::fmt::Result {
    for name in ["asked", "reasoning", "answered", "refusal"] {
        part(out, name, &transcript[name])?;
    }
    for call in transcript["calls"].as_object().into_iter().flat_map(|calls| calls.values()) {
        part(out, &format!("called {}", shown(text(&call["name"]), &[])), &call["arguments"])?;
    }
    Ok(())
}

fn part(out: &mut String, name: &str, part: &Value) -> std::fmt::Result {
    let bytes = part["bytes"].as_u64().unwrap_or(0);
    if bytes == 0 {
        return Ok(());
    }
    let cut = if part["cut"] == true { ", of which the beginning" } else { "" };
    writeln!(out, "{name}, {bytes} bytes{cut}:")?;
    for line in shown(text(&part["text"]), &['\n', '\t']).lines() {
        writeln!(out, "    {line}")?;
    }
    Ok(())
}

fn decided(out: &mut String, at: f64, step: &Value) -> std::fmt::Result {
    let order: Vec<&str> = step["order"].as_array().into_iter().flatten().map(text).collect();
    line(out, at, &format!("{} chose {}", text(&step["by"]), order.join(", then ")))?;
    let all = step["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let (chosen, others): (Vec<&Value>, Vec<&Value>) =
        all.iter().partition(|node| order.contains(&text(&node["node"])));
    for node in chosen.iter().chain(&others).take(SHOWN) {
        let facts =
            node.as_object().into_iter().flatten().filter(|(name, _)| *name != "node" && *name != "state");
        let facts: Vec<String> = facts.map(|(name, value)| format!("{name} {value}")).collect();
        let state = match node["state"].as_u64() {
            Some(5) => "loaded",
            Some(4) => "parked",
            Some(3) => "loading",
            Some(2) => "fits",
            Some(1) => "fits after an eviction",
            _ => "cannot",
        };
        writeln!(out, "{:14}{}: {state}; {}", "", text(&node["node"]), facts.join(", "))?;
    }
    match all.len().saturating_sub(SHOWN) {
        0 => Ok(()),
        more => writeln!(out, "{:14}and {more} more", ""),
    }
}

fn sent(step: &Value) -> String {
    let mut line = format!("sent to {}", text(&step["node"]));
    match (step["cold_s"].as_f64(), step["waited_s"].as_f64().unwrap_or(0.0)) {
        (Some(cold), _) => line += &format!(", after {cold:.3} s for the model to be there"),
        (None, waited) if waited >= 0.001 => line += &format!(", after {waited:.3} s for a place"),
        _ => {}
    }
    line
}

fn line(out: &mut String, at: f64, what: &str) -> std::fmt::Result {
    writeln!(out, "{at:>10.3} s  {what}")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
