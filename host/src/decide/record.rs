//! Decisions as lines of JSON: what was known, and what was answered. Never a prompt: a session is a
//! hash, a tenant the name of a key.

use crate::facts::{
    NODE_FACTS, NodeFacts, REQUEST_FACTS, RESIDENT_FACTS, RequestFacts, ResidentFacts, UNKNOWN,
};
use crate::policy::{Decision, Demand, KvRead, Resident, RouteRequest, Topology};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Bytes of a file before the next one is begun.
const FILE_BYTES: u64 = 64 << 20;
/// Older files that are kept: PATH.1 is the newest of them.
const KEPT: usize = 3;

/// By fact, one value for each node or resident; `null` = not known.
pub(super) type Columns = BTreeMap<String, Vec<Option<u32>>>;

/// One decision.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// Milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// Who answered; `None`: the built-in.
    pub policy: Option<String>,
    pub sha256: Option<String>,
    pub seed: u64,
    pub model: String,
    #[serde(flatten)]
    pub asked: Asked,
    /// What the policy read from its store for this.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reads: Vec<(String, Option<Vec<u8>>)>,
    /// Why the policy had no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// What was asked, and the answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Asked {
    Route {
        epoch: u64,
        nodes: Vec<String>,
        tenant: String,
        session: Option<u64>,
        node_facts: Columns,
        request_facts: BTreeMap<String, Option<u32>>,
        answer: Option<Answer>,
    },
    Plan {
        class: u32,
        device_mb: Vec<u64>,
        waiters: u32,
        residents: Vec<(String, Vec<u64>)>,
        facts: Columns,
        answer: Vec<usize>,
    },
}

/// A routing decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// Node indices, best first.
    Pick(Vec<usize>),
    /// Milliseconds.
    Wait(u64),
    /// HTTP status.
    Reject(u16),
}

impl From<&Decision> for Answer {
    fn from(decision: &Decision) -> Self {
        match decision {
            Decision::Pick(order) => Self::Pick(order.clone()),
            Decision::Wait(time) => Self::Wait(time.as_millis() as u64),
            Decision::Reject(status, _) => Self::Reject(*status),
        }
    }
}

/// Who answered, with what at hand.
#[derive(Debug, Clone, Default)]
pub struct By {
    pub policy: Option<String>,
    pub sha256: Option<String>,
    pub reads: Vec<KvRead>,
    pub problem: Option<String>,
}

fn known(value: u32) -> Option<u32> {
    (value != UNKNOWN).then_some(value)
}

/// The record of a routing decision.
pub(super) fn route(
    by: By,
    topology: &Topology,
    asked: &RouteRequest,
    nodes: &[NodeFacts],
    of_request: &RequestFacts,
    answer: Option<Answer>,
) -> Record {
    let column = |value: fn(&NodeFacts) -> u32| nodes.iter().map(|facts| known(value(facts))).collect();
    Record {
        now_ms: asked.now_ms,
        policy: by.policy,
        sha256: by.sha256,
        seed: asked.seed,
        model: asked.model.clone(),
        reads: by.reads,
        problem: by.problem,
        asked: Asked::Route {
            epoch: topology.epoch,
            nodes: topology.names.clone(),
            tenant: asked.tenant.clone(),
            session: asked.session,
            node_facts: NODE_FACTS
                .iter()
                .map(|(name, _, value)| ((*name).to_owned(), column(*value)))
                .collect(),
            request_facts: REQUEST_FACTS
                .iter()
                .map(|(name, _, value)| ((*name).to_owned(), known(value(of_request))))
                .collect(),
            answer,
        },
    }
}

/// The record of an eviction plan.
pub(super) fn plan(
    by: By,
    demand: &Demand,
    residents: &[Resident],
    facts: &[ResidentFacts],
    answer: Vec<usize>,
) -> Record {
    let column = |value: fn(&ResidentFacts) -> u32| facts.iter().map(|facts| known(value(facts))).collect();
    Record {
        now_ms: demand.now_ms,
        policy: by.policy,
        sha256: by.sha256,
        seed: demand.seed,
        model: demand.model.clone(),
        reads: by.reads,
        problem: by.problem,
        asked: Asked::Plan {
            class: demand.class,
            device_mb: demand.device_mb.clone(),
            waiters: demand.waiters,
            residents: residents.iter().map(|r| (r.model.clone(), r.device_mb.clone())).collect(),
            facts: RESIDENT_FACTS
                .iter()
                .map(|(name, _, value)| ((*name).to_owned(), column(*value)))
                .collect(),
            answer,
        },
    }
}

/// Appends records to a file, which it replaces by a new one when it is full.
pub(super) struct Writer {
    path: PathBuf,
    file: File,
    bytes: u64,
    limit: u64,
}

impl Writer {
    pub(super) fn open(path: &Path) -> std::io::Result<Self> {
        Self::with_limit(path, FILE_BYTES)
    }

    fn with_limit(path: &Path, limit: u64) -> std::io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, bytes, limit })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// One line, whole or not at all as far as the file system allows.
    pub(super) fn write(&mut self, record: &Record) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        if self.bytes > 0 && self.bytes + line.len() as u64 > self.limit {
            self.rotate()?;
        }
        self.file.write_all(&line)?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> std::io::Result<()> {
        let numbered = |n: usize| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{n}"));
            PathBuf::from(name)
        };
        for n in (1..KEPT).rev() {
            match std::fs::rename(numbered(n), numbered(n + 1)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        std::fs::rename(&self.path, numbered(1))?;
        *self = Self::with_limit(&self.path, self.limit)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_bounded_and_the_newest_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("decisions.jsonl");
        let mut writer = Writer::with_limit(&path, 2000).unwrap();
        let mut last = 0;
        for n in 0..100 {
            let asked = RouteRequest { model: "m".into(), now_ms: n, ..RouteRequest::default() };
            let answer = Some(Answer::Pick(vec![0]));
            let nodes = [NodeFacts::default()];
            let topology = Topology { epoch: 1, names: vec!["n".into()] };
            let record = route(By::default(), &topology, &asked, &nodes, &RequestFacts::default(), answer);
            writer.write(&record).unwrap();
            last = n;
        }
        let mut names: Vec<String> =
            std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["decisions.jsonl", "decisions.jsonl.1", "decisions.jsonl.2", "decisions.jsonl.3"]);
        let mut seen = Vec::new();
        for name in names.iter().skip(1).rev().chain(names.first()) {
            let text = std::fs::read_to_string(dir.path().join(name)).unwrap();
            assert!(text.len() <= 2000);
            seen.extend(text.lines().map(|l| serde_json::from_str::<Record>(l).unwrap().now_ms));
        }
        let first = seen[0];
        assert_eq!(seen, (first..=last).collect::<Vec<_>>(), "no line is lost or doubled at a turn");
    }
}
