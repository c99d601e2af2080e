//! Recorded decisions, made again by a candidate.

use super::record::{Answer, Asked, Columns, Record};
use crate::facts::UNKNOWN;
use crate::policy::{Demand, Generation, Kind, Problem, Resident, RouteRequest, Topology};
use serde::Serialize;
use std::collections::BTreeSet;
use std::io::BufRead;

/// Bytes of a line; a decision over hundreds of nodes takes some tens of thousands.
const LINE_BYTES: u64 = 4 << 20;
/// Differences that are told one by one.
const SHOWN: usize = 20;

/// What a candidate would have decided otherwise.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Decisions of the candidate's kind.
    pub decisions: u64,
    pub same: u64,
    /// The same first choice, but another order behind it.
    pub same_first: u64,
    pub differ: u64,
    /// Faults and declined calls of the candidate.
    pub failed: u64,
    /// Decisions of another kind.
    pub others: u64,
    /// Lines that are no decision, with the reason for the first.
    pub unreadable: u64,
    pub first_unreadable: Option<String>,
    /// Facts that the candidate reads and some record does not have: without them it may judge otherwise.
    pub missing_facts: BTreeSet<String>,
    /// The first ones.
    pub differences: Vec<Difference>,
}

/// One decision that would be another.
#[derive(Debug, Serialize)]
pub struct Difference {
    /// From 1.
    pub line: u64,
    pub model: String,
    pub was: String,
    pub would_be: String,
}

/// Runs every decision of `lines` through the candidate.
///
/// Errors only where `lines` cannot be read; what is no decision is counted.
pub fn replay(candidate: &Generation, lines: impl BufRead) -> std::io::Result<Report> {
    let mut report = Report::default();
    let mut input = lines;
    for number in 1.. {
        let mut line = String::new();
        let read = std::io::Read::take(&mut input, LINE_BYTES).read_line(&mut line)?;
        if read == 0 {
            break;
        }
        if line.trim().is_empty() {
            continue;
        }
        match serde_json::from_str::<Record>(&line) {
            Ok(record) => one(candidate, &record, number, &mut report),
            Err(error) => {
                report.unreadable += 1;
                report.first_unreadable.get_or_insert_with(|| format!("line {number}: {error}"));
            }
        }
    }
    Ok(report)
}

fn one(candidate: &Generation, record: &Record, line: u64, report: &mut Report) {
    let judged = match (&record.asked, candidate.kind) {
        (Asked::Route { answer, .. }, Kind::Routing) => {
            candidate.preload(&record.reads);
            let would = route(candidate, record).map(|answer| Some(Verdict::Route(answer)));
            (answer.clone().map(Verdict::Route), would)
        }
        (Asked::Plan { answer, .. }, Kind::Eviction) => {
            candidate.preload(&record.reads);
            (Some(Verdict::Plan(answer.clone())), plan(candidate, record).map(|a| Some(Verdict::Plan(a))))
        }
        _ => {
            report.others += 1;
            return;
        }
    };
    report.decisions += 1;
    report.missing_facts.extend(missing(candidate, record));
    let (was, would_be) = judged;
    let would_be = match would_be {
        Ok(answer) => answer,
        Err(problem) => {
            report.failed += 1;
            report.show(line, record, &was, problem.to_string());
            return;
        }
    };
    if was == would_be {
        report.same += 1;
    } else if first(&was).is_some() && first(&was) == first(&would_be) {
        report.same_first += 1;
    } else {
        report.differ += 1;
        report.show(line, record, &was, said(&would_be));
    }
}

#[derive(PartialEq)]
enum Verdict {
    Route(Answer),
    Plan(Vec<usize>),
}

fn said(verdict: &Option<Verdict>) -> String {
    match verdict {
        None => "the built-in's".into(),
        Some(Verdict::Route(Answer::Pick(order))) => format!("nodes {order:?}"),
        Some(Verdict::Route(Answer::Wait(ms))) => format!("wait {ms} ms"),
        Some(Verdict::Route(Answer::Reject(status))) => format!("reject {status}"),
        Some(Verdict::Plan(victims)) => format!("victims {victims:?}"),
    }
}

fn first(verdict: &Option<Verdict>) -> Option<usize> {
    match verdict {
        Some(Verdict::Route(Answer::Pick(order))) => order.first().copied(),
        Some(Verdict::Plan(victims)) => victims.first().copied(),
        _ => None,
    }
}

impl Report {
    fn show(&mut self, line: u64, record: &Record, was: &Option<Verdict>, would_be: String) {
        if self.differences.len() < SHOWN {
            let model = record.model.clone();
            self.differences.push(Difference { line, model, was: said(was), would_be });
        }
    }
}

fn route(candidate: &Generation, record: &Record) -> Result<Answer, Problem> {
    let Asked::Route { epoch, nodes, tenant, session, node_facts, request_facts, .. } = &record.asked else {
        return Err(Problem::Host("not a routing decision".into()));
    };
    let (node_names, request_names) = candidate.routing_facts();
    let rows = rows(node_facts, node_names, nodes.len());
    let value = |name: &String| request_facts.get(name).copied().flatten().unwrap_or(UNKNOWN);
    let asked = RouteRequest {
        model: record.model.clone(),
        tenant: tenant.clone(),
        session: *session,
        seed: record.seed,
        now_ms: record.now_ms,
        facts: request_names.iter().map(value).collect(),
    };
    let topology = Topology { epoch: *epoch, names: nodes.clone() };
    candidate.route(&topology, &asked, &rows, false).map(|decided| Answer::from(&decided.answer))
}

fn plan(candidate: &Generation, record: &Record) -> Result<Vec<usize>, Problem> {
    let Asked::Plan { class, device_mb, waiters, residents, facts, .. } = &record.asked else {
        return Err(Problem::Host("not an eviction plan".into()));
    };
    let offered: Vec<Resident> = residents
        .iter()
        .map(|(model, device_mb)| Resident { model: model.clone(), device_mb: device_mb.clone() })
        .collect();
    let demand = Demand {
        model: record.model.clone(),
        class: *class,
        device_mb: device_mb.clone(),
        waiters: *waiters,
        seed: record.seed,
        now_ms: record.now_ms,
    };
    let rows = rows(facts, candidate.eviction_facts(), offered.len());
    candidate.plan(&demand, &offered, &rows, false).map(|decided| decided.answer)
}

/// Row-major; what was not recorded reads as not known.
fn rows(columns: &Columns, names: &[String], count: usize) -> Vec<u32> {
    let value = |name: &String, row: usize| columns.get(name)?.get(row).copied().flatten();
    (0..count)
        .flat_map(|row| names.iter().map(move |name| value(name, row).unwrap_or(UNKNOWN)))
        .collect::<Vec<u32>>()
}

/// Facts that the candidate reads and the record does not have.
fn missing(candidate: &Generation, record: &Record) -> Vec<String> {
    let known = |name: &str| match &record.asked {
        Asked::Route { node_facts, request_facts, .. } => {
            node_facts.contains_key(name) || request_facts.contains_key(name)
        }
        Asked::Plan { facts, .. } => facts.contains_key(name),
    };
    let (node, request) = candidate.routing_facts();
    let wanted = node.iter().chain(request).chain(candidate.eviction_facts());
    wanted.filter(|name| !known(name)).cloned().collect()
}
