//! Processes of the benchmark: where they run, and what they use.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A process with all that it starts; ends with its owner.
pub struct Process {
    child: Child,
}

impl Process {
    /// On that core alone.
    pub fn start(core: usize, command: &[String], log: Option<&std::path::Path>) -> Self {
        let mut pinned = Command::new("taskset");
        pinned.args(["-c", &core.to_string()]).args(command).stdin(Stdio::null());
        let sink = || match log {
            Some(path) => Stdio::from(std::fs::File::options().create(true).append(true).open(path).unwrap()),
            None => Stdio::null(),
        };
        let child = pinned.stdout(sink()).stderr(sink()).spawn().unwrap();
        Self { child }
    }

    /// Time on a core so far, of it and of those that it has started.
    pub fn cpu(&self) -> Duration {
        tree(self.child.id()).into_iter().map(cpu_of).sum()
    }

    /// MiB of memory that it has in use.
    pub fn rss_mb(&self) -> f64 {
        let of = |pid: u32| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
            line.split_whitespace().next()?.parse::<f64>().ok()
        };
        tree(self.child.id()).into_iter().filter_map(of).sum::<f64>() / 1024.0
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let all = tree(self.child.id());
        let ids: Vec<String> = all.iter().rev().map(u32::to_string).collect();
        let _already_gone = Command::new("kill").args(ids).stderr(Stdio::null()).status();
        let _reaped = self.child.wait();
    }
}

fn cpu_of(pid: u32) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let run = |task: std::fs::DirEntry| {
        // The first number: nanoseconds on a core.
        let stat = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        stat.split_whitespace().next()?.parse::<u64>().ok()
    };
    Duration::from_nanos(tasks.filter_map(run).sum())
}

/// The process and its descendants.
fn tree(root: u32) -> Vec<u32> {
    let mut all = vec![root];
    let mut at = 0;
    while let Some(&pid) = all.get(at) {
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|c| c.parse::<u32>().ok()));
        }
        at += 1;
    }
    all
}

/// This process and what it starts from now on, on that core alone.
pub fn pin_self(core: usize) {
    let status = Command::new("taskset")
        .args(["-cp", &core.to_string(), &std::process::id().to_string()])
        .stdout(Stdio::null())
        .status();
    assert!(status.unwrap().success(), "taskset is part of util-linux");
}
