//! Prometheus metrics, `cortex_*`, in base units. Label values come from the catalogue and the
//! configuration, never from a client.

use crate::request::RequestRecord;
use prometheus::core::{Collector, Desc};
use prometheus::{
    CounterVec, Encoder, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry,
    TextEncoder,
};
use std::cell::RefCell;

/// Every metric, with the registry that lists them.
pub struct Metrics {
    registry: Registry,
    /// Names and labels of all of them, observed yet or not.
    pub described: Vec<Desc>,
    /// {model, node, dialect, status}
    pub requests: IntCounterVec,
    /// {model, dialect}, seconds
    pub request_duration: HistogramVec,
    /// {model}, seconds from a request's arrival to its first token
    pub time_to_first_token: HistogramVec,
    /// {model}
    pub inter_token_latency: HistogramVec,
    /// {model}, one answer's tokens a second after its first token
    pub tokens_per_second: HistogramVec,
    /// {model}
    pub prompt_tokens: IntCounterVec,
    /// {model}
    pub cached_prompt_tokens: IntCounterVec,
    /// {model}
    pub completion_tokens: IntCounterVec,
    /// {model, priority}, seconds that requests waited for a seat
    pub queue_wait: HistogramVec,
    /// {model}: requests that wait
    pub queue_depth: IntGaugeVec,
    /// {model}: predicted minus actual tokens of a prompt that a cache held
    pub prefix_prediction_error: HistogramVec,
    /// {model}, seconds that requests waited for a load
    pub cold_wait: HistogramVec,
    /// {model, node, outcome}
    pub loads: IntCounterVec,
    /// {model}, seconds
    pub load_duration: HistogramVec,
    /// {reason}
    pub evictions: IntCounterVec,
    /// {node}: 1 up, 0 not
    pub node_up: IntGaugeVec,
    /// {node, device, kind}, kind is used or free
    pub device_memory: IntGaugeVec,
    /// {policy, outcome}
    pub policy_calls: IntCounterVec,
    /// {policy}, seconds
    pub policy_call_duration: HistogramVec,
    /// {outcome}
    pub policy_swaps: IntCounterVec,
    /// {policy, outcome}, outcome is same, differs, failed or dropped: a shadow's decisions
    pub policy_shadow: IntCounterVec,
    /// {policy, reason}: canaries that were taken back
    pub canary_withdrawn: IntCounterVec,
    /// {outcome}: written, or dropped because the disk is slower than the decisions
    pub decisions_recorded: IntCounterVec,
    /// {policy, counter}: what policies count themselves
    pub policy_counters: IntCounterVec,
    /// {outcome}
    pub config_reloads: IntCounterVec,
    /// {node}: 1 while its answers keep failing and it gets nothing, or one request at a time
    pub node_breaker_open: IntGaugeVec,
    /// {outcome}, outcome is tried, budget (too many were) or poison (nodes break over it)
    pub retries: IntCounterVec,
    /// {key}: requests that were answered
    pub key_requests: IntCounterVec,
    /// {key, kind}, kind is prompt, cached (of the prompt's) or completion
    pub key_tokens: IntCounterVec,
    /// {key}, US dollars
    pub key_cost: CounterVec,
    /// {key, limit}, limit is requests, tokens, concurrent, cap, balance or model
    pub key_refused: IntCounterVec,
}

/// What is counted at every call of a policy.
#[derive(Clone)]
pub struct PolicyMeters {
    /// Seconds.
    pub duration: prometheus::Histogram,
    pub ok: IntCounter,
    pub declined: IntCounter,
    pub fault: IntCounter,
    pub host: IntCounter,
}

/// Seconds; from a cached answer to a long one.
const SECONDS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];
/// Seconds; a decision takes microseconds.
const DECISION_SECONDS: &[f64] = &[1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 1e-3, 5e-3, 5e-2];
/// Seconds between tokens; from a small model on a fast device to a stall.
const GAPS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.25, 2.5, 5.0, 10.0];
/// Tokens more, and fewer, than predicted.
const TOKENS_OFF: &[f64] = &[-1024.0, -128.0, -16.0, 0.0, 16.0, 128.0, 1024.0, 8192.0];
/// Tokens a second of one stream.
const RATES: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0, 80.0, 120.0, 160.0, 240.0, 480.0];

/// What has been registered.
#[derive(Default)]
struct Table {
    registry: Registry,
    described: RefCell<Vec<Desc>>,
}

impl Table {
    fn add<M: Collector + Clone + 'static>(&self, metric: M) -> prometheus::Result<M> {
        self.described.borrow_mut().extend(metric.desc().into_iter().cloned());
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }
}

impl Metrics {
    /// Errors only where two metrics have one name.
    #[expect(clippy::too_many_lines, reason = "a table: name, help, labels of each metric")]
    pub fn new() -> prometheus::Result<Self> {
        let table = Table::default();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            table.add(IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            table.add(IntGaugeVec::new(Opts::new(name, help), labels)?)
        };
        let histogram = |name: &str, help: &str, labels: &[&str], buckets: &[f64]| {
            table.add(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)?)
        };
        Ok(Self {
            requests: counter(
                "cortex_requests_total",
                "Requests by outcome.",
                &["model", "node", "dialect", "status"],
            )?,
            request_duration: histogram(
                "cortex_request_duration_seconds",
                "From a request's arrival to its last byte.",
                &["model", "dialect"],
                SECONDS,
            )?,
            time_to_first_token: histogram(
                "cortex_time_to_first_token_seconds",
                "From a streamed request's arrival to its first token.",
                &["model"],
                SECONDS,
            )?,
            inter_token_latency: histogram(
                "cortex_inter_token_latency_seconds",
                "From one token's event of a stream to the next.",
                &["model"],
                GAPS,
            )?,
            tokens_per_second: histogram(
                "cortex_tokens_per_second",
                "Tokens a second of one streamed answer after its first token.",
                &["model"],
                RATES,
            )?,
            prompt_tokens: counter("cortex_prompt_tokens_total", "Tokens of prompts.", &["model"])?,
            cached_prompt_tokens: counter(
                "cortex_cached_prompt_tokens_total",
                "Tokens of prompts that a cache held.",
                &["model"],
            )?,
            completion_tokens: counter("cortex_completion_tokens_total", "Tokens of answers.", &["model"])?,
            queue_wait: histogram(
                "cortex_queue_wait_seconds",
                "What requests waited for a seat at a model.",
                &["model", "priority"],
                SECONDS,
            )?,
            queue_depth: gauge("cortex_queue_depth", "Requests that wait for a seat.", &["model"])?,
            prefix_prediction_error: histogram(
                "cortex_prefix_prediction_error_tokens",
                "Tokens of a prompt that a cache was taken to hold, less those that it held.",
                &["model"],
                TOKENS_OFF,
            )?,
            cold_wait: histogram(
                "cortex_cold_wait_seconds",
                "What requests waited for a model to load.",
                &["model"],
                SECONDS,
            )?,
            loads: counter("cortex_cold_starts_total", "Loads by outcome.", &["model", "node", "outcome"])?,
            load_duration: histogram(
                "cortex_load_duration_seconds",
                "Loads that succeeded.",
                &["model"],
                SECONDS,
            )?,
            evictions: counter("cortex_evictions_total", "Models unloaded to make room.", &["reason"])?,
            node_up: gauge("cortex_node_up", "1 where the node answers.", &["node"])?,
            device_memory: gauge(
                "cortex_device_memory_bytes",
                "Device memory.",
                &["node", "device", "kind"],
            )?,
            policy_calls: counter(
                "cortex_policy_calls_total",
                "Policy calls by outcome.",
                &["policy", "outcome"],
            )?,
            policy_call_duration: histogram(
                "cortex_policy_call_duration_seconds",
                "One decision of a policy.",
                &["policy"],
                DECISION_SECONDS,
            )?,
            policy_swaps: counter("cortex_policy_swaps_total", "Policy files by outcome.", &["outcome"])?,
            policy_shadow: counter(
                "cortex_policy_shadow_total",
                "A shadow policy's decisions beside the live one's.",
                &["policy", "outcome"],
            )?,
            canary_withdrawn: counter(
                "cortex_policy_canary_withdrawn_total",
                "Canaries taken back.",
                &["policy", "reason"],
            )?,
            decisions_recorded: counter(
                "cortex_policy_decisions_recorded_total",
                "Decisions for replay.",
                &["outcome"],
            )?,
            policy_counters: counter(
                "cortex_policy_counter_total",
                "What policies count themselves.",
                &["policy", "counter"],
            )?,
            config_reloads: counter("cortex_config_reloads_total", "Reloads by outcome.", &["outcome"])?,
            node_breaker_open: gauge(
                "cortex_node_breaker_open",
                "1 while a node's answers keep failing and it gets nothing, or one request at a time.",
                &["node"],
            )?,
            retries: counter(
                "cortex_retries_total",
                "Requests that a node failed, by whether another was tried.",
                &["outcome"],
            )?,
            key_requests: counter("cortex_key_requests_total", "Answered requests of a key.", &["key"])?,
            key_tokens: counter("cortex_key_tokens_total", "Tokens of a key's requests.", &["key", "kind"])?,
            key_cost: {
                let about =
                    Opts::new("cortex_key_cost_usd_total", "What a key's requests cost, by the catalogue.");
                table.add(CounterVec::new(about, &["key"])?)?
            },
            key_refused: counter(
                "cortex_key_refused_total",
                "Requests refused because of what their key may have.",
                &["key", "limit"],
            )?,
            registry: table.registry,
            described: table.described.into_inner(),
        })
    }

    /// Series that count what seldom happens begin at 0, or nobody would see the first time.
    pub(crate) fn begin(&self) {
        for (counters, outcomes) in [
            (&self.config_reloads, &["ok", "refused"][..]),
            (&self.policy_swaps, &["ok", "refused", "removed"]),
            (&self.retries, &["tried", "budget", "poison"]),
            (&self.evictions, &["memory", "idle", "operator", "defrag"]),
        ] {
            outcomes.iter().for_each(|outcome| counters.with_label_values(&[outcome]).inc_by(0));
        }
    }

    /// The meters of one policy, looked up once: a lookup takes as long as a decision.
    pub fn policy_meters(&self, policy: &str) -> PolicyMeters {
        let calls = |outcome: &str| self.policy_calls.with_label_values(&[policy, outcome]);
        PolicyMeters {
            duration: self.policy_call_duration.with_label_values(&[policy]),
            ok: calls("ok"),
            declined: calls("declined"),
            fault: calls("fault"),
            host: calls("host"),
        }
    }

    /// Everything that is counted of a request when it is settled. `priority`: of its key.
    pub fn request(&self, record: &RequestRecord, priority: &str) {
        let (model, dialect) = (record.model.as_str(), record.dialect.as_str());
        let node = record.node.as_deref().unwrap_or("");
        self.requests.with_label_values(&[model, node, dialect, &record.status.to_string()]).inc();
        self.request_duration.with_label_values(&[model, dialect]).observe(record.duration_s);
        if model.is_empty() {
            return; // refused before a model was known
        }
        let observe = |metric: &HistogramVec, value: Option<f64>| {
            if let Some(value) = value {
                metric.with_label_values(&[model]).observe(value);
            }
        };
        observe(&self.time_to_first_token, record.time_to_first_token_s);
        observe(&self.tokens_per_second, record.tokens_per_second);
        observe(&self.cold_wait, record.cold_wait_s);
        if record.attempts > 0 {
            let labels = [model, priority];
            self.queue_wait.with_label_values(&labels).observe(record.queue_wait_s);
        }
        let answered = record.status < 400 && record.prompt_tokens > 0 && !record.estimated;
        let off = |predicted: u32| f64::from(predicted) - record.cached_prompt_tokens as f64;
        observe(&self.prefix_prediction_error, record.predicted_prompt_tokens.filter(|_| answered).map(off));
        self.prompt_tokens.with_label_values(&[model]).inc_by(record.prompt_tokens);
        self.cached_prompt_tokens.with_label_values(&[model]).inc_by(record.cached_prompt_tokens);
        self.completion_tokens.with_label_values(&[model]).inc_by(record.completion_tokens);
    }

    /// In Prometheus' text format.
    pub fn render(&self) -> String {
        let mut out = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut out) {
            Ok(()) => String::from_utf8_lossy(&out).into_owned(),
            Err(error) => format!("# {error}\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Names and labels that queries in a file use, in the order of their coming.
    fn used(text: &str) -> Vec<(String, BTreeSet<String>)> {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let words = |text: &str| -> BTreeSet<String> {
            text.split(|c: char| !is_word(c)).filter(|w| !w.is_empty()).map(str::to_owned).collect()
        };
        let mut found = Vec::new();
        for (at, _) in text.match_indices("cortex_") {
            let rest = &text[at..];
            let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            let (name, after) = rest.split_at(end);
            let labels = match after.strip_prefix('{') {
                Some(matchers) => {
                    let matchers = &matchers[..matchers.find('}').unwrap()];
                    let labels = matchers.split(',').filter_map(|m| m.split(['=', '!']).next());
                    labels.map(|label| label.trim().to_owned()).filter(|label| !label.is_empty()).collect()
                }
                None => BTreeSet::new(),
            };
            // `by (…)` stands before the series that it is about.
            let line = &text[text[..at].rfind(['\n', '/']).map_or(0, |n| n + 1)..at];
            let by = line.rsplit_once("by (").map_or("", |(_, by)| by.split(')').next().unwrap_or_default());
            let by = words(by).into_iter().filter(|label| label != "le");
            found.push((name.to_owned(), labels.into_iter().chain(by).collect()));
        }
        found
    }

    #[test]
    fn dashboards_and_alerts_are_about_series_that_there_are() {
        let metrics = Metrics::new().unwrap();
        let dashboard: serde_json::Value =
            serde_json::from_str(include_str!("../../packaging/grafana/cortex.json")).unwrap();
        let panels = dashboard["panels"].as_array().unwrap().iter();
        let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
        let mut queries: Vec<String> = targets.map(|t| t["expr"].as_str().unwrap().to_owned()).collect();
        let count = queries.len();
        let rules = include_str!("../../packaging/prometheus/cortex.rules.yml");
        queries.push(rules.lines().filter(|line| !line.contains("summary")).collect::<Vec<_>>().join("\n"));
        let used: Vec<_> = queries.iter().flat_map(|query| used(query)).collect();
        assert!(count > 25 && used.len() > 45, "{count} queries, {} series", used.len());
        for (name, labels) in &used {
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let is_it = |desc: &&Desc| desc.fq_name == *name || Some(desc.fq_name.as_str()) == base;
            let desc = metrics.described.iter().find(is_it);
            let desc = desc.unwrap_or_else(|| panic!("there is no {name}"));
            for label in labels {
                assert!(desc.variable_labels.contains(label), "{name} has no label {label}");
            }
        }
        // And nothing is measured in vain.
        for desc in &metrics.described {
            let seldom = [
                "cortex_policy_shadow",
                "cortex_policy_canary",
                "cortex_policy_decisions",
                "cortex_policy_counter",
            ];
            let is_shown = used.iter().any(|(name, _)| name.starts_with(&desc.fq_name));
            let is_seldom = seldom.iter().any(|name| desc.fq_name.starts_with(name));
            assert!(is_shown || is_seldom || desc.fq_name == "cortex_key_requests_total", "{}", desc.fq_name);
        }
    }
}
