//! What the host keeps for one instance: its limits, and the answers to what it may ask.

use super::bindings::{host, types};
use super::engine::TICK;
use super::footprint::Footprint;
use super::shared::{KvRead, Shared};
use rustix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::time::{Duration, Instant};
use wasmtime::{ResourceLimiter, UpdateDeadline};

pub(super) struct HostState {
    shared: Arc<Shared>,
    footprint: Arc<Footprint>,
    memory_limit: usize,
    /// Bytes of linear memory now.
    pub(super) memory: usize,
    /// What the guest read from its store, while somebody wants to know.
    pub(super) reads: Option<Vec<KvRead>>,
    /// Set once the guest asked for more memory than it may have: tells why it trapped.
    pub(super) memory_refused: bool,
    deadline: Deadline,
    /// Set once the guest was stopped: tells why it trapped.
    pub(super) overran: bool,
}

/// A call's bound. Machines stall, so wall time alone does not stop a guest before ten times its limit.
struct Deadline {
    limit: Duration,
    /// Wall clock and the thread's CPU time at the first tick: reading clocks on every call would cost
    /// as much as the call.
    first_tick: Option<(Instant, Duration)>,
}

impl HostState {
    pub(super) fn new(shared: Arc<Shared>, footprint: Arc<Footprint>, memory_limit: usize) -> Self {
        footprint.came();
        let deadline = Deadline { limit: Duration::ZERO, first_tick: None };
        Self {
            shared,
            footprint,
            memory_limit,
            memory: 0,
            reads: None,
            memory_refused: false,
            deadline,
            overran: false,
        }
    }

    /// Starts the clock of the next call.
    pub(super) fn arm(&mut self, limit: Duration) {
        self.deadline = Deadline { limit, first_tick: None };
    }

    /// Called at every tick while the guest runs.
    pub(super) fn tick(&mut self) -> UpdateDeadline {
        let (now, cpu) = (Instant::now(), thread_cpu());
        let deadline = &mut self.deadline;
        let (began, cpu_then) = *deadline.first_tick.get_or_insert((now, cpu));
        // Up to a tick went by before the first one, and up to one more before this is looked at: with
        // the first taken for whole, a call ends within a tick of its limit, on either side.
        let used = cpu.saturating_sub(cpu_then) + TICK;
        self.overran = used >= deadline.limit || now - began >= deadline.limit * 10;
        if self.overran { UpdateDeadline::Interrupt } else { UpdateDeadline::Continue(1) }
    }

    pub(super) fn memory_limit(&self) -> usize {
        self.memory_limit
    }
}

impl Drop for HostState {
    fn drop(&mut self) {
        self.footprint.went(self.memory);
    }
}

fn thread_cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
}

impl ResourceLimiter for HostState {
    fn memory_growing(&mut self, now: usize, to: usize, _max: Option<usize>) -> wasmtime::Result<bool> {
        let allowed = to <= self.memory_limit;
        self.memory_refused |= !allowed;
        if allowed {
            self.memory += to - now;
            self.footprint.grew(to - now);
        }
        Ok(allowed)
    }

    fn table_growing(&mut self, _now: usize, to: usize, _max: Option<usize>) -> wasmtime::Result<bool> {
        // Function tables of policies have a few hundred entries.
        Ok(to <= 20_000)
    }
}

impl types::Host for HostState {}

impl host::Host for HostState {
    fn log(&mut self, level: host::Level, message: String) {
        let Some((line, dropped)) = self.shared.admit_line(message) else { return };
        let policy = self.shared.name.as_str();
        match level {
            host::Level::Debug => tracing::debug!(policy, dropped, "{line}"),
            host::Level::Info => tracing::info!(policy, dropped, "{line}"),
            host::Level::Warn => tracing::warn!(policy, dropped, "{line}"),
            host::Level::Error => tracing::error!(policy, dropped, "{line}"),
        }
    }

    fn kv_get(&mut self, key: String) -> Option<Vec<u8>> {
        let value = self.shared.kv_get(&key);
        if let Some(reads) = &mut self.reads {
            reads.push((key, value.clone()));
        }
        value
    }

    fn kv_set(&mut self, key: String, value: Option<Vec<u8>>) -> bool {
        self.shared.kv_set(key, value)
    }

    fn counter_add(&mut self, name: String, by: u64) {
        self.shared.count(name, by);
    }
}
