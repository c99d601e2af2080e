use crate::config::Config;
use crate::upstream::{Peer, Upstream};
use anyhow::Context;
use serde_json::Value;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(clap::Args)]
pub(super) struct Args {
    /// cortex.toml, for the admin address
    #[arg(long, default_value = super::DEFAULT_CONFIG)]
    config: PathBuf,
    /// The admin address itself, http://HOST:PORT
    #[arg(long)]
    url: Option<String>,
    /// For machines
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let endpoint = match &args.url {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => format!("http://{}", reachable(admin_address(&args.config)?)),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let peer = Peer { endpoint: endpoint.clone(), authorization: None };
    let limit = Duration::from_secs(5);
    let status: Value = runtime
        .block_on(async { Upstream::default().get(&peer, "/admin/status", limit).await })
        .with_context(|| format!("cortex does not answer at {endpoint}; is it running?"))?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print!("{}", table(&status));
    }
    Ok(())
}

fn admin_address(config: &Path) -> anyhow::Result<SocketAddr> {
    Config::admin_address(config)
        .context("the admin address is not known; give it with --url http://HOST:PORT")
}

/// A listener on all addresses is asked on loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() {
            Ipv4Addr::LOCALHOST.into()
        } else {
            Ipv6Addr::LOCALHOST.into()
        });
    }
    address
}

/// For a person.
fn table(status: &Value) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _infallible = render(&mut out, status);
    out
}

fn render(out: &mut String, status: &Value) -> std::fmt::Result {
    let uptime = status["uptime_secs"].as_u64().unwrap_or(0);
    writeln!(out, "cortex {}, up {}", text(&status["version"]), duration(uptime))?;
    let reload = &status["config"]["last_reload"];
    if reload["ok"] == false {
        writeln!(out, "last reload failed, the old configuration is in force: {}", text(&reload["error"]))?;
    }
    let mut rows = vec![["NODE", "STATE", "DEVICE", "MEMORY", "MODELS"].map(String::from)];
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
            rows.push([
                head(&node["name"]),
                head(&node["state"]),
                text(&device["name"]),
                memory(device),
                shown,
            ]);
        }
    }
    columns(out, &rows)?;
    for load in list(&status["loads"]) {
        let seconds = load["seconds"].as_f64().unwrap_or(0.0);
        writeln!(
            out,
            "loading {} on {}, {seconds:.0} s, {} waiting",
            text(&load["model"]),
            text(&load["node"]),
            load["waiters"]
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
    columns(out, &rows)?;
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

fn model(model: &Value) -> String {
    let busy = model["in_flight"].as_u64().unwrap_or(0) + model["queue_depth"].as_u64().unwrap_or(0);
    let busy = if busy > 0 { format!(", {busy} requests") } else { String::new() };
    format!("{} ({}{busy})", text(&model["id"]), text(&model["status"]))
}

fn memory(device: &Value) -> String {
    match (device["vram_used_mb"].as_u64(), device["vram_total_mb"].as_u64()) {
        (Some(used), Some(total)) => format!("{used} of {total} MiB"),
        _ => "-".into(),
    }
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
fn columns<const N: usize>(out: &mut String, rows: &[[String; N]]) -> std::fmt::Result {
    let width = |column: usize| rows.iter().map(|r| r[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
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
                {"name": "a", "state": "up", "devices": [{"name": "H200", "vram_used_mb": 1, "vram_total_mb": 9}],
                 "models": [{"id": "m", "status": "loaded", "in_flight": 2}]},
                {"name": "b", "state": "down", "error": "not reachable", "devices": [], "models": []}],
            "loads": [{"model": "x", "node": "a", "seconds": 3.2, "waiters": 2}],
            "policies": [
                {"name": "affinity", "serving": {"kind": "routing", "version": "1", "sha256": "0123456789abcdef",
                 "calls": 7, "strikes": 0, "breaker": "closed"}, "refused": {"stage": "imports", "error": "wasi"}},
                {"name": "bad", "serving": null, "refused": {"stage": "component", "error": "not wasm"}}],
        });
        insta::assert_snapshot!(table(&status));
    }
}
