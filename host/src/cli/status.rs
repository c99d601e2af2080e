use super::exit;
use super::screen::{self, Colour, Drawn, paint, plain, sparkline};
use super::target::Target;
use serde_json::Value;
use std::fmt::Write as _;
use std::time::Duration;

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    target: Target,
    /// Again every second, until it is interrupted; at a terminal arrows move it and q ends it
    #[arg(long)]
    watch: bool,
}

/// How often `--watch` looks.
const EVERY: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(5);

pub(super) fn run(args: &Args, json: bool) -> anyhow::Result<()> {
    let ask = || args.target.get("/admin/status", LIMIT);
    let colours = screen::has_colours();
    if !args.watch {
        let status = ask()?;
        match json {
            true => super::print_json(&status)?,
            false => print!("{}", table(&plain(&status), colours)),
        }
        return Ok(());
    }
    screen::stay(EVERY, || match ask() {
        // It may come back. A key that it does not know, or a file that is not there, does not mend itself.
        Err(error) if exit::code(&error) != exit::NO_ANSWER => Drawn::Over(error),
        // A line each, for programs that follow.
        Err(error) if json => Drawn::Text(format!("{}\n", exit::as_json(&error))),
        Err(error) => Drawn::Text(screen::shown(&format!("{error:#}; trying again"), &[]) + "\n"),
        Ok(status) if json => Drawn::Text(format!("{status}\n")),
        Ok(status) => {
            let status = plain(&status);
            Drawn::Text(table(&status, colours) + &lately(&status))
        }
    })
}

/// For a person.
fn table(status: &Value, colours: bool) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _infallible = render(&mut out, status, colours);
    out
}

/// The last minute, and the last loads and evictions.
fn lately(status: &Value) -> String {
    let samples = list(&status["traffic"]["samples"]);
    let series = |name: &'static str| samples.iter().map(move |sample| sample[name].as_f64().unwrap_or(0.0));
    let now = |name: &str| samples.last().and_then(|sample| sample[name].as_f64()).unwrap_or(0.0);
    let first = samples.iter().rev().find_map(|sample| sample["first_token_p50_s"].as_f64());
    let first = first.map(|s| format!(", first token after {s:.2} s")).unwrap_or_default();
    let mut out = format!(
        "\n{:>8.0} tok/s     {}\n{:>8.0} requests  {}  {} wait{first}\n",
        now("tokens"),
        sparkline(series("tokens")),
        now("under_way"),
        sparkline(series("under_way")),
        now("waiting"),
    );
    for event in list(&status["events"]).iter().rev().take(5) {
        let took = event["seconds"].as_f64().map(|s| format!(" in {s:.1} s")).unwrap_or_default();
        let (what, model) = (text(&event["what"]).replace('_', " "), text(&event["model"]));
        let _infallible =
            writeln!(out, "{what}: {model} on {}{took}, {}", text(&event["node"]), text(&event["why"]));
    }
    out
}

/// How the state of a node or a policy is painted, and the heads of columns.
fn colour(cell: &str) -> Option<Colour> {
    const HEADS: [&str; 10] =
        ["NODE", "STATE", "DEVICE", "MEMORY", "MODELS", "POLICY", "KIND", "VERSION", "SHA256", "CALLS"];
    match cell {
        "up" | "serving" => Some(Colour::Good),
        "down" => Some(Colour::Bad),
        "suspect" | "draining" | "failing" => Some(Colour::Warn),
        head if HEADS.contains(&head) => Some(Colour::Soft),
        state if state.starts_with("not serving") || state.starts_with("switched off") => Some(Colour::Bad),
        state if state.starts_with("rolled back") || state.starts_with("serving, ") => Some(Colour::Warn),
        _ => None,
    }
}

fn render(out: &mut String, status: &Value, colours: bool) -> std::fmt::Result {
    let uptime = status["uptime_secs"].as_u64().unwrap_or(0);
    writeln!(out, "cortex {}, up {}", text(&status["version"]), duration(uptime))?;
    let reload = &status["config"]["last_reload"];
    if reload["ok"] == false {
        writeln!(out, "last reload failed, the old configuration is in force: {}", text(&reload["error"]))?;
    }
    for doubt in list(&status["doubts"]) {
        writeln!(out, "note: {}", text(doubt))?;
    }
    let mut rows = vec![["NODE", "STATE", "DEVICE", "MEMORY", "MODELS"].map(String::from)];
    let (draining, failing) = (Value::from("draining"), Value::from("failing"));
    for node in list(&status["nodes"]) {
        let models: Vec<String> = list(&node["models"]).iter().map(model).collect();
        let mut models = if models.is_empty() { vec!["-".to_owned()] } else { models };
        if let Some(error) = node["error"].as_str() {
            models = vec![error.to_owned()];
        }
        let none = [Value::Null];
        let devices = Some(list(&node["devices"])).filter(|d| !d.is_empty()).unwrap_or(&none);
        for (at, device) in devices.iter().enumerate() {
            let head = |value: &Value| if at == 0 { text(value) } else { String::new() };
            let shown = if at == 0 { models.join(", ") } else { String::new() };
            let state = match node {
                node if !node["draining"].is_null() => &draining,
                node if !node["left_alone_secs"].is_null() => &failing,
                node => &node["state"],
            };
            let memory = match device["state"].as_str() {
                None => memory(device),
                Some(state) => format!("{state}: {}", text(&device["reason"])),
            };
            rows.push([head(&node["name"]), head(state), text(&device["name"]), memory, shown]);
        }
    }
    columns(out, &rows, colours)?;
    for load in list(&status["loads"]) {
        writeln!(out, "{}", under_way(load))?;
    }
    for queue in list(&status["queues"]) {
        let oldest = queue["oldest_secs"].as_f64().unwrap_or(0.0);
        writeln!(
            out,
            "{} wait for {}, the first for {oldest:.0} s",
            queue["waiting"],
            text(&queue["model"])
        )?;
    }
    writeln!(out)?;
    let mut rows = vec![["POLICY", "KIND", "VERSION", "SHA256", "CALLS", "STATE"].map(String::from)];
    for policy in list(&status["policies"]) {
        let serving = &policy["serving"];
        let sha: String = text(&serving["sha256"]).chars().take(12).collect();
        let [kind, version, calls] = ["kind", "version", "calls"].map(|key| text(&serving[key]));
        rows.push([text(&policy["name"]), kind, version, sha, calls, policy_state(policy)]);
    }
    columns(out, &rows, colours)?;
    for key in ["routing_policy", "eviction_policy"] {
        let name = text(&status[key]);
        let there =
            list(&status["policies"]).iter().any(|p| p["name"] == name.as_str() && !p["serving"].is_null());
        if !there {
            writeln!(out, "{} {name:?} is not there: the built-in serves", key.replace('_', " "))?;
        }
    }
    Ok(())
}

fn policy_state(policy: &Value) -> String {
    let (serving, refused) = (&policy["serving"], &policy["refused"]);
    let back_to = &serving["rolled_back_to"];
    let strikes = serving["strikes"].as_u64().unwrap_or(0);
    let mut state = match serving["breaker"].as_str() {
        None if serving.is_null() => "not serving".to_owned(),
        Some("open" | "half-open") if !back_to.is_null() => {
            let sha: String = text(&back_to["sha256"]).chars().take(12).collect();
            format!("rolled back to {} {sha}: {}", text(&back_to["version"]), text(&serving["last"]))
        }
        // A dialect has no built-in.
        Some("open" | "half-open") if serving["kind"] == "translation" || serving["kind"] == "upstream" => {
            format!("serving, though it keeps failing, last: {}", text(&serving["last"]))
        }
        Some("open") => format!("switched off: {}", text(&serving["last"])),
        Some("half-open") => format!("tried again after: {}", text(&serving["last"])),
        _ if strikes > 0 => format!("serving, {strikes} strikes, last: {}", text(&serving["last"])),
        _ => "serving".to_owned(),
    };
    if !refused.is_null() {
        let _infallible = write!(
            state,
            "; newest file refused at {}: {}",
            text(&refused["stage"]),
            text(&refused["error"])
        );
    }
    state
}

fn under_way(load: &Value) -> String {
    let seconds = load["seconds"].as_f64().unwrap_or(0.0);
    let on = match load["node"].as_str() {
        None | Some("") => String::new(),
        Some(node) => format!(" on {node}"),
    };
    let progress = &load["progress"];
    let moved = match (progress["bytes_done"].as_u64(), progress["bytes_total"].as_u64()) {
        (Some(done), Some(total)) if total > 0 => format!(" {}", bar(done, total)),
        _ => String::new(),
    };
    let left = progress["seconds_left"].as_f64().map(|s| format!(", {s:.0} s left")).unwrap_or_default();
    let speed = progress["bytes_per_sec"].as_f64();
    let speed = speed.map(|bytes| format!(", {:.1} MB/s", bytes / 1e6)).unwrap_or_default();
    let phase = progress["phase"].as_str().or(load["doing"].as_str()).unwrap_or("loading");
    format!(
        "{}{on}: {phase}{moved}{speed}{left}, {seconds:.0} s, {} waiting",
        text(&load["model"]),
        load["waiters"]
    )
}

/// Ten cells and a percentage.
fn bar(done: u64, total: u64) -> String {
    let part = (done.min(total) * 100 / total.max(1)) as usize;
    format!("[{}{}] {part} %", "#".repeat(part / 10), ".".repeat(10 - part / 10))
}

fn model(model: &Value) -> String {
    let busy = model["in_flight"].as_u64().unwrap_or(0) + model["queue_depth"].as_u64().unwrap_or(0);
    let busy = if busy > 0 { format!(", {busy} requests") } else { String::new() };
    let pinned = if model["pinned"] == true { ", pinned" } else { "" };
    let why = model["servable"]["reason"].as_str().map(|why| format!(", {why}")).unwrap_or_default();
    format!("{} ({}{busy}{pinned}{why})", text(&model["id"]), text(&model["status"]))
}

fn memory(device: &Value) -> String {
    match (device["vram_used_mb"].as_u64(), device["vram_total_mb"].as_u64()) {
        (Some(used), Some(total)) => format!("{} {used} of {total} MiB{}", bar(used, total), heat(device)),
        _ => "-".into(),
    }
}

/// How busy and how warm it is, where the node knows.
fn heat(device: &Value) -> String {
    let part = |name: &str, unit: &str| {
        device[name].as_u64().filter(|&n| n > 0).map(|n| format!(", {n} {unit}")).unwrap_or_default()
    };
    part("utilization_pct", "%") + &part("temp_c", "°C")
}

fn duration(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Every column but the last as wide as its widest cell.
fn columns<const N: usize>(out: &mut String, rows: &[[String; N]], colours: bool) -> std::fmt::Result {
    let width = |column: usize| rows.iter().map(|r| r[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    for row in rows {
        let cell = |(cell, &width): (&String, &usize)| {
            let blank = " ".repeat(width - cell.chars().count());
            match colour(cell).filter(|_| colours) {
                Some(colour) => paint(colour, cell) + &blank,
                None => cell.clone() + &blank,
            }
        };
        let cells = row.iter().zip(&widths).map(cell);
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_person_can_read_it() {
        let status = json!({
            "version": "0.1.0", "uptime_secs": 3700, "routing_policy": "affinity", "eviction_policy": "lru",
            "config": {"last_reload": {"ok": false, "error": "cortex.toml:2: unknown field"}},
            "nodes": [
                {"name": "a", "state": "up", "devices": [{"name": "H200", "vram_used_mb": 1, "vram_total_mb": 9, "utilization_pct": 87, "temp_c": 61}],
                 "models": [{"id": "m", "status": "loaded", "in_flight": 2, "pinned": true}]},
                {"name": "c", "state": "up", "draining": "operator", "devices": [], "models": []},
                {"name": "d", "state": "up", "devices": [{"name": "H200", "state": "recovering", "reason": "an illegal address"}], "models": []},
                {"name": "b", "state": "down", "error": "not reachable", "devices": [], "models": []}],
            "loads": [{"model": "x", "node": "a", "doing": "loading", "seconds": 3.2, "waiters": 2,
                       "progress": {"phase": "reading", "bytes_done": 3, "bytes_total": 9, "bytes_per_sec": 2_500_000, "seconds_left": 6.0}},
                      {"model": "y", "node": "", "doing": "waiting for room", "seconds": 1.0, "waiters": 0}],
            "queues": [{"model": "x", "waiting": 2, "oldest_secs": 3.1}],
            "policies": [
                {"name": "affinity", "serving": {"kind": "routing", "version": "1", "sha256": "0123456789abcdef",
                 "calls": 7, "strikes": 0, "breaker": "closed"}, "refused": {"stage": "imports", "error": "wasi"}},
                {"name": "bad", "serving": null, "refused": {"stage": "component", "error": "not wasm"}}],
        });
        insta::assert_snapshot!(table(&status, false));
        let painted = table(&status, true);
        assert!(
            painted.contains("\x1b[32mup\x1b[0m") && painted.contains("\x1b[31mdown\x1b[0m"),
            "{painted}"
        );
    }
}
