//! What the figures were measured on, and what the kernel says of a process.

use super::llama_cpp;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::fs;
use std::process::Command;
use std::time::Duration;

/// Ticks of processor time a second in /proc, whatever the kernel's own clock.
const TICKS: f64 = 100.0;

/// The processor's name for itself.
pub(super) fn cpu() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let named = info.lines().find_map(|line| line.strip_prefix("model name"));
    named.map_or("unknown", |name| name.trim_start_matches([':', ' ', '\t'])).to_owned()
}

pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

pub(super) fn describe() -> String {
    format!("{}, {} cores", cpu(), cores())
}

/// `busy`: what [`busy_percent`] said before each round.
pub(super) fn json(busy: &[f64]) -> Value {
    json!({
        "cpu": cpu(), "cores": cores(), "system": std::env::consts::OS, "arch": std::env::consts::ARCH,
        "llama_cpp": llama_cpp::VERSION, "busy_percent_before_rounds": busy,
    })
}

/// How much of all cores others compute with now, over a second.
pub(super) fn busy_percent() -> Result<f64> {
    let before = processor_ticks()?;
    std::thread::sleep(Duration::from_secs(1));
    let after = processor_ticks()?;
    let (idle, all) = (after.0 - before.0, after.1 - before.1);
    Ok(100.0 * (1.0 - idle / all))
}

/// Idle, and all, since the machine started.
fn processor_ticks() -> Result<(f64, f64)> {
    let stat = fs::read_to_string("/proc/stat")?;
    let first =
        stat.lines().next().and_then(|line| line.strip_prefix("cpu ")).context("no cpu in /proc/stat")?;
    let fields = first.split_whitespace().map(str::parse).collect::<Result<Vec<f64>, _>>()?;
    // user, nice, system, idle, iowait, irq, softirq, steal; what guests take is in user already.
    let idle = fields.iter().skip(3).take(2).sum();
    Ok((idle, fields.iter().take(8).sum()))
}

/// The program on the first `threads` cores alone.
pub(super) fn pinned(program: impl AsRef<OsStr>, threads: u32) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &format!("0-{}", threads - 1)]).arg(program);
    command
}

/// Bytes of memory that a process has resident.
pub(super) fn rss(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim_end_matches("kB").trim().parse::<f64>()? * 1024.0)
}

/// Seconds that all threads of a process have computed.
pub(super) fn cpu_time(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold spaces; user and system time are the 12th and 13th after it.
    let (_, fields) = stat.rsplit_once(") ").context("not a stat line")?;
    let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<f64>).sum::<Result<f64, _>>()?;
    Ok(ticks / TICKS)
}
