//! Prometheus metrics, `cortex_*`, in base units. Label values come from the catalogue and the
//! configuration, never from a client.

use prometheus::{
    CounterVec, Encoder, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

/// Every metric, with the registry that lists them.
pub struct Metrics {
    registry: Registry,
    /// {model, node, dialect, status}
    pub requests: IntCounterVec,
    /// {model, dialect}, seconds
    pub request_duration: HistogramVec,
    /// {model}, seconds from a request's arrival to its first token
    pub time_to_first_token: HistogramVec,
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
/// Tokens more, and fewer, than predicted.
const TOKENS_OFF: &[f64] = &[-1024.0, -128.0, -16.0, 0.0, 16.0, 128.0, 1024.0, 8192.0];
/// Tokens a second of one stream.
const RATES: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0, 80.0, 120.0, 160.0, 240.0, 480.0];

impl Metrics {
    /// Errors only where two metrics have one name.
    #[expect(clippy::too_many_lines, reason = "a table: name, help, labels of each metric")]
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let histogram = |name: &str, help: &str, labels: &[&str], buckets: &[f64]| {
            let metric = HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
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
                let metric = CounterVec::new(about, &["key"])?;
                registry.register(Box::new(metric.clone()))?;
                metric
            },
            key_refused: counter(
                "cortex_key_refused_total",
                "Requests refused because of what their key may have.",
                &["key", "limit"],
            )?,
            registry,
        })
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

    /// In Prometheus' text format.
    pub fn render(&self) -> String {
        let mut out = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut out) {
            Ok(()) => String::from_utf8_lossy(&out).into_owned(),
            Err(error) => format!("# {error}\n"),
        }
    }
}
