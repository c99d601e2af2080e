//! The account of a request: opened when it arrives, settled once, whatever happens.

use super::acquire::{Notes, Slot};
use super::relay::Usage;
use super::resolve::Target;
use super::story::Told;
use super::trace::Trace;
use super::transcript::Transcript;
use super::{now_ms, seed};
use crate::accounts::{Admission, Counts, cost};
use crate::gateway::Gateway;
use crate::policy::{Outcome, Reply};
use crate::refusal::Refusal;
use crate::telemetry;
use crate::traffic::{Phase, Phases, Underway};
use http::{HeaderMap, HeaderValue};
use neuron_protocol::Cost;
use serde::Serialize;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Requests that `/admin/requests` remembers.
const REMEMBERED: usize = 256;
/// A client that left has no status; proxies have long used this one.
const CLIENT_LEFT: u16 = 499;

/// What came of one request.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RequestRecord {
    pub id: String,
    /// Milliseconds since the Unix epoch.
    pub arrived_ms: u64,
    /// Name of the caller's key; empty without one.
    pub key: String,
    pub dialect: String,
    pub model: String,
    pub node: Option<String>,
    pub status: u16,
    pub error: Option<String>,
    pub streamed: bool,
    pub attempts: u32,
    pub duration_s: f64,
    /// From its arrival to its first token, streams only.
    pub time_to_first_token_s: Option<f64>,
    /// After the first token, streams only.
    pub tokens_per_second: Option<f64>,
    pub cold_wait_s: Option<f64>,
    /// For its seat, the model being there or not.
    pub queue_wait_s: f64,
    /// Tokens of the prompt that the node's cache was taken to hold; `None` where nothing was known of it.
    pub predicted_prompt_tokens: Option<u32>,
    pub prompt_tokens: u64,
    pub cached_prompt_tokens: u64,
    pub completion_tokens: u64,
    /// The node did not say what the request used: at four bytes a token, and a token a chunk.
    pub estimated: bool,
    /// When each of its phases began.
    pub phases: Phases,
    pub cost_usd: Option<f64>,
    /// The W3C trace that it is part of, hexadecimal.
    pub trace_id: Option<String>,
    /// What happened on its way; left out of lists.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Told>,
    /// Where it is kept; left out of lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transcript: Option<Box<Transcript>>,
}

/// The last requests, newest last.
#[derive(Default)]
pub struct Recent {
    records: Mutex<VecDeque<Kept>>,
}

/// A record without what lists leave out, and that.
#[derive(Clone)]
struct Kept {
    record: Arc<RequestRecord>,
    steps: Arc<Vec<Told>>,
    transcript: Option<Arc<Transcript>>,
}

impl Recent {
    /// Without their steps.
    pub fn list(&self) -> Vec<Arc<RequestRecord>> {
        self.lock().iter().map(|kept| kept.record.clone()).collect()
    }

    pub fn get(&self, id: &str) -> Option<RequestRecord> {
        let found = self.lock().iter().find(|kept| kept.record.id == id).cloned();
        found.map(|Kept { record, steps, transcript }| RequestRecord {
            steps: steps.to_vec(),
            transcript: transcript.map(|words| Box::new(Transcript::clone(&words))),
            ..RequestRecord::clone(&record)
        })
    }

    /// `keeps_prompts` is asked while nobody can be made to forget.
    fn add(&self, mut record: RequestRecord, keeps_prompts: impl FnOnce() -> bool) {
        let steps = Arc::new(std::mem::take(&mut record.steps));
        let transcript: Option<Arc<Transcript>> = record.transcript.take().map(Arc::from);
        let record = Arc::new(record);
        let mut records = self.lock();
        // Dropped after the lock.
        let _oldest = (records.len() == REMEMBERED).then(|| records.pop_front());
        let transcript = transcript.filter(|_| keeps_prompts());
        records.push_back(Kept { record, steps, transcript });
        drop(records);
    }

    /// What was asked and answered is not to be kept any more: the configuration says so already.
    pub fn forget_transcripts(&self) {
        for kept in self.lock().iter_mut() {
            kept.transcript = None;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Kept>> {
        self.records.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// One request's account. Dropped unsettled, it says that the client left.
pub(super) struct Ledger {
    gateway: Arc<Gateway>,
    pub(super) id: String,
    pub(super) seed: u64,
    pub(super) dialect: String,
    pub(super) key: String,
    model: String,
    price: Option<Cost>,
    admission: Option<Admission>,
    /// Bytes of the request.
    asked: usize,
    arrived: Instant,
    arrived_ms: u64,
    notes: Notes,
    pub(super) slot: Slot,
    usage: Usage,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    /// Of its model; looked up once.
    gaps: Option<prometheus::Histogram>,
    /// Chunks that said something: what is counted where a node sends no usage.
    chunks: u64,
    error: Option<String>,
    /// Kept where the configuration says so.
    pub(super) transcript: Option<Box<Transcript>>,
    settled: bool,
    /// As others see it while it lasts.
    pub(super) underway: Arc<Underway>,
    pub(super) trace: Option<Trace>,
    /// Path of the API that was asked, and the kind of work, where it is one.
    pub(super) route: Cow<'static, str>,
    pub(super) operation: Option<&'static str>,
}

impl Ledger {
    pub(super) fn open(gateway: &Arc<Gateway>, headers: &HeaderMap) -> Self {
        let seed = seed();
        let trace = Trace::of(
            headers,
            gateway.telemetry.as_ref().map(|_| gateway.config.load().telemetry.sample),
            seed,
        );
        let (id, arrived, arrived_ms) = (format!("req_{seed:016x}"), Instant::now(), now_ms());
        let underway = gateway.traffic.opened(seed, &id, arrived, arrived_ms);
        let mut ledger = Self::blank(gateway, seed, underway);
        (ledger.id, ledger.trace, ledger.arrived, ledger.arrived_ms) = (id, trace, arrived, arrived_ms);
        ledger
    }

    fn blank(gateway: &Arc<Gateway>, seed: u64, underway: Arc<Underway>) -> Self {
        Self {
            gateway: gateway.clone(),
            id: String::new(),
            seed,
            dialect: "openai".into(),
            key: String::new(),
            model: String::new(),
            price: None,
            admission: None,
            asked: 0,
            arrived: Instant::now(),
            arrived_ms: 0,
            notes: Notes::default(),
            slot: Slot::default(),
            usage: Usage::default(),
            first_token: None,
            last_token: None,
            gaps: None,
            chunks: 0,
            error: None,
            transcript: None,
            settled: false,
            underway,
            trace: None,
            route: Cow::Borrowed(""),
            operation: None,
        }
    }

    /// Moves the account out; what is left behind is settled.
    pub(super) fn take(&mut self) -> Self {
        let mut left = Self::blank(&self.gateway, self.seed, self.underway.clone());
        left.settled = true;
        std::mem::replace(self, left)
    }

    pub(super) fn target(&mut self, target: &Target) {
        self.model.clone_from(&target.label);
        self.underway.about(&self.key, &self.dialect, &self.model);
        self.price.clone_from(&target.model.cost);
    }

    /// `bytes`: of the request.
    pub(super) fn admitted(&mut self, admission: Admission, bytes: usize) {
        (self.admission, self.asked) = (Some(admission), bytes);
    }

    /// Takes what the work has noted, once it has ended or was dropped.
    pub(super) fn note(&mut self) {
        let noted = self.slot.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        self.notes = noted.unwrap_or_else(|| std::mem::take(&mut self.notes));
    }

    /// The newest count is the whole one.
    pub(super) fn usage(&mut self, usage: Usage) {
        self.usage = usage;
    }

    /// A chunk that said something has passed.
    pub(super) fn token(&mut self) {
        let now = Instant::now();
        match self.last_token {
            None => {
                self.first_token = Some(now);
                self.underway.enter(Phase::Relay);
            }
            Some(last) => {
                let series = &self.gateway.metrics.inter_token_latency;
                let gaps = self.gaps.get_or_insert_with(|| series.with_label_values(&[self.model.as_str()]));
                gaps.observe((now - last).as_secs_f64());
            }
        }
        self.last_token = Some(now);
        self.chunks += 1;
        self.underway.token();
        self.gateway.traffic.samples.token();
    }

    /// `status` is what the client was told, after any translation.
    pub(super) fn refused(&mut self, refusal: &Refusal, status: u16) {
        self.error.get_or_insert_with(|| refusal.message.clone());
        self.settle(status);
    }

    /// The body of a whole answer, as the client gets it.
    pub(super) fn words(&mut self, body: &[u8]) {
        if let Some(transcript) = &mut self.transcript {
            transcript.answered(body);
        }
    }

    /// A whole answer; `native` is its status before it was translated.
    pub(super) fn answered(&mut self, native: u16, status: u16) {
        if native < 400 && status >= 400 {
            self.error.get_or_insert_with(|| "the answer could not be translated".into());
        }
        self.settle(status);
    }

    /// A stream that had begun did not end well.
    pub(super) fn broke(&mut self, cause: &str) {
        self.error.get_or_insert_with(|| cause.to_owned());
        self.settle(502);
    }

    /// Books the request; only the first time counts.
    pub(super) fn settle(&mut self, status: u16) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        self.note();
        let record = self.record(status);
        self.gateway.metrics.request(&record, self.notes.priority.name());
        self.book(&record);
        self.export(&record);
        tracing::info!(
            id = record.id,
            trace = record.trace_id,
            key = record.key,
            dialect = record.dialect,
            model = record.model,
            node = record.node,
            status,
            error = record.error,
            seconds = record.duration_s,
            ttft = record.time_to_first_token_s,
            cold_wait = record.cold_wait_s,
            prompt_tokens = record.prompt_tokens,
            completion_tokens = record.completion_tokens,
            "request"
        );
        if let Some(node) = &record.node {
            self.gateway.decider.outcome(self.notes.arm, || self.outcome(node, &record), status);
        }
        self.gateway.traffic.settled(self.seed, &record);
        self.gateway.recent.add(record, || self.gateway.config.load().keep_prompts);
    }

    /// Work is worth a span; a look at the list of models is not.
    fn export(&self, record: &RequestRecord) {
        if let (Some(exporter), Some(operation), Some(trace)) =
            (&self.gateway.telemetry, self.operation, self.trace.as_ref().filter(|trace| trace.sampled))
        {
            exporter.export(&telemetry::Request { trace, record, route: &self.route, operation });
        }
    }

    /// What was answered counts against the key, also the part that a client took before it left.
    fn book(&mut self, record: &RequestRecord) {
        let Some(admission) = self.admission.take() else { return };
        if record.status < 400 || record.prompt_tokens + record.completion_tokens > 0 {
            let used = Counts {
                requests: 1,
                prompt_tokens: record.prompt_tokens,
                cached_tokens: record.cached_prompt_tokens,
                completion_tokens: record.completion_tokens,
                nano_usd: record.cost_usd.map_or(0, |usd| (usd * 1e9).round() as u64),
            };
            admission.settle(&record.model, used);
        }
    }

    /// What a policy that learns is told.
    fn outcome(&self, node: &str, record: &RequestRecord) -> Outcome {
        let dispatched = self.notes.dispatched.map(tokio::time::Instant::into_std);
        let ttft =
            self.first_token.zip(dispatched).map(|(first, sent)| first.saturating_duration_since(sent));
        let count = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        Outcome {
            seed: self.seed,
            node: node.to_owned(),
            ttft_ms: ttft.map(|time| count(time.as_millis() as u64)),
            prompt_tokens: count(record.prompt_tokens),
            cached_prompt_tokens: count(record.cached_prompt_tokens),
            completion_tokens: count(record.completion_tokens),
            status: record.status,
        }
    }

    fn record(&mut self, status: u16) -> RequestRecord {
        let completion_tokens = match self.usage.completion_tokens {
            0 => self.chunks,
            counted => counted,
        };
        // A node that streamed and was not heard to the end, or counts nothing.
        let estimated = self.usage.prompt_tokens == 0 && (self.chunks > 0 || status < 400) && self.asked > 0;
        let prompt_tokens = match estimated {
            true => (self.asked / 4).max(1) as u64,
            false => self.usage.prompt_tokens,
        };
        let cached_prompt_tokens = self.usage.prompt_tokens_details.unwrap_or_default().cached_tokens;
        let price = self.price.as_ref();
        let nano_usd = cost(price, prompt_tokens, cached_prompt_tokens, completion_tokens);
        let pace = self.first_token.zip(self.last_token).map(|(first, last)| last - first);
        let pace = pace.filter(|time| completion_tokens > 1 && !time.is_zero());
        RequestRecord {
            id: self.id.clone(),
            arrived_ms: self.arrived_ms,
            key: self.key.clone(),
            dialect: self.dialect.clone(),
            model: self.model.clone(),
            node: self.notes.node.clone(),
            status,
            error: self.error.clone(),
            streamed: self.first_token.is_some(),
            attempts: self.notes.attempts,
            duration_s: self.arrived.elapsed().as_secs_f64(),
            time_to_first_token_s: self.first_token.map(|at| (at - self.arrived).as_secs_f64()),
            tokens_per_second: pace.map(|time| (completion_tokens - 1) as f64 / time.as_secs_f64()),
            cold_wait_s: self.notes.cold_wait.map(|wait| wait.as_secs_f64()),
            queue_wait_s: self.notes.queue_wait.as_secs_f64(),
            predicted_prompt_tokens: self.notes.predicted,
            prompt_tokens,
            cached_prompt_tokens,
            completion_tokens,
            estimated,
            phases: self.underway.phases(),
            cost_usd: price.is_some().then_some(nano_usd as f64 / 1e9),
            trace_id: self.trace.as_ref().map(|trace| format!("{:032x}", trace.id)),
            steps: std::mem::take(&mut self.notes.story).told(self.arrived),
            transcript: self.transcript.take(),
        }
    }

    /// Tells the translation which request it answers.
    pub(super) fn name(&self, mut reply: Reply) -> Reply {
        reply.headers.push(("x-request-id".into(), self.id.clone()));
        reply
    }

    /// Which request it is, and where asked for by whom it was served.
    pub(super) fn stamp(&self, headers: &mut HeaderMap) {
        stamp(&self.id, headers);
        if !self.gateway.config.load().route_header {
            return;
        }
        let Notes { node: Some(node), by, queue_wait, cold_wait, attempts, .. } = &self.notes else { return };
        let text = format!(
            "node={node}; by={by}; wait_ms={}; cold_ms={}; attempts={attempts}",
            queue_wait.as_millis(),
            cold_wait.unwrap_or_default().as_millis()
        );
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert("x-cortex-route", value);
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        if !self.settled {
            self.error.get_or_insert_with(|| "the client left".into());
            self.settle(CLIENT_LEFT);
        }
    }
}

/// OpenAI's SDKs read `x-request-id`, Anthropic's `request-id`.
fn stamp(id: &str, headers: &mut HeaderMap) {
    if let Ok(value) = HeaderValue::try_from(id) {
        headers.insert("x-request-id", value.clone());
        headers.insert("request-id", value);
    }
}
