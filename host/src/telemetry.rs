//! Spans for an OpenTelemetry collector, by the conventions for HTTP servers and for generative AI. Nothing is done
//! where no collector is configured.

use crate::config::Telemetry;
use crate::request::{RequestRecord, Step, Told, Trace};
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{Protocol, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor};
use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What the last spans get to reach the collector at the end.
const LAST: Duration = Duration::from_secs(3);

/// Sends spans from a thread of its own; its queue is bounded, and what is too much for it is dropped.
pub struct Exporter {
    processor: BatchSpanProcessor,
    scope: InstrumentationScope,
}

/// What a span is of beside the account.
pub(crate) struct Request<'a> {
    pub(crate) trace: &'a Trace,
    pub(crate) record: &'a RequestRecord,
    /// Path of the API that was asked.
    pub(crate) route: &'a str,
    /// `chat`, `text_completion` or `embeddings`.
    pub(crate) operation: &'static str,
}

impl Exporter {
    /// Errors where the collector's address is none.
    pub fn start(config: &Telemetry) -> anyhow::Result<Self> {
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{}/v1/traces", config.otlp_endpoint))
            .build()?;
        let mut processor = BatchSpanProcessor::builder(exporter).build();
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let resource = Resource::builder().with_service_name(config.service_name.clone());
        processor.set_resource(&resource.with_attribute(version).build());
        let scope = InstrumentationScope::builder("cortex").with_version(env!("CARGO_PKG_VERSION")).build();
        Ok(Self { processor, scope })
    }

    /// The request's span and one for each node that it went to.
    pub(crate) fn export(&self, request: &Request<'_>) {
        let Request { trace, record, route, operation } = request;
        let started = UNIX_EPOCH + Duration::from_millis(record.arrived_ms);
        let at = |seconds: f64| started + Duration::from_secs_f64(seconds.max(0.0));
        let failed = |status: u16, error: Option<&String>| match error {
            Some(error) if status >= 500 => Status::error(error.clone()),
            _ => Status::Unset,
        };
        let tries: Vec<&Told> =
            record.steps.iter().filter(|told| !matches!(told.step, Step::Decided(_))).collect();
        for (place, told) in tries.iter().enumerate() {
            let Step::Sent { node, span, waited, cold } = &told.step else { continue };
            let failure = match tries.get(place + 1) {
                Some(Told { at_s, step: Step::Failed { why, .. } }) => Some((*at_s, why)),
                _ => None,
            };
            let mut attributes = vec![
                KeyValue::new("gen_ai.operation.name", *operation),
                KeyValue::new("gen_ai.request.model", record.model.clone()),
                KeyValue::new("server.address", node.clone()),
                KeyValue::new("cortex.queue.seconds", waited.as_secs_f64()),
            ];
            attributes.extend(cold.map(|cold| KeyValue::new("cortex.cold.seconds", cold.as_secs_f64())));
            let status = match failure {
                Some((_, why)) => Status::error(why.clone()),
                None => {
                    attributes.extend(of_answer(record));
                    failed(record.status, record.error.as_ref())
                }
            };
            let (name, end) = (
                format!("{operation} {}", record.model),
                failure.map_or(record.duration_s, |(at_s, _)| at_s),
            );
            let span = (*span, Some(trace.span), SpanKind::Client);
            self.send(trace, span, name.into(), (at(told.at_s), at(end)), attributes, status);
        }
        let mut attributes = vec![
            KeyValue::new("http.request.method", "POST"),
            KeyValue::new("http.route", (*route).to_owned()),
            KeyValue::new("http.response.status_code", i64::from(record.status)),
            KeyValue::new("cortex.request.id", record.id.clone()),
            KeyValue::new("cortex.dialect", record.dialect.clone()),
            KeyValue::new("cortex.attempts", i64::from(record.attempts)),
        ];
        if !record.key.is_empty() {
            attributes.push(KeyValue::new("cortex.key", record.key.clone()));
        }
        if record.status >= 500 {
            attributes.push(KeyValue::new("error.type", record.status.to_string()));
        }
        let (span, status) =
            ((trace.span, trace.parent, SpanKind::Server), failed(record.status, record.error.as_ref()));
        self.send(
            trace,
            span,
            format!("POST {route}").into(),
            (started, at(record.duration_s)),
            attributes,
            status,
        );
    }

    fn send(
        &self,
        trace: &Trace,
        (span, parent, kind): (u64, Option<u64>, SpanKind),
        name: Cow<'static, str>,
        (start_time, end_time): (SystemTime, SystemTime),
        attributes: Vec<KeyValue>,
        status: Status,
    ) {
        let id = |span: u64| SpanId::from_bytes(span.to_be_bytes());
        let trace_id = TraceId::from_bytes(trace.id.to_be_bytes());
        self.processor.on_end(SpanData {
            span_context: SpanContext::new(trace_id, id(span), TraceFlags::SAMPLED, false, TraceState::NONE),
            parent_span_id: parent.map_or(SpanId::INVALID, id),
            parent_span_is_remote: kind == SpanKind::Server,
            span_kind: kind,
            name,
            start_time,
            end_time,
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status,
            instrumentation_scope: self.scope.clone(),
        });
    }

    /// Sends what is left. Blocking.
    pub fn end(&self) {
        if let Err(error) = self.processor.shutdown_with_timeout(LAST) {
            tracing::warn!(%error, "the last spans did not reach the collector");
        }
    }
}

fn of_answer(record: &RequestRecord) -> Vec<KeyValue> {
    let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let mut attributes = vec![
        KeyValue::new("gen_ai.response.model", record.model.clone()),
        KeyValue::new("gen_ai.usage.input_tokens", count(record.prompt_tokens)),
        KeyValue::new("gen_ai.usage.output_tokens", count(record.completion_tokens)),
        KeyValue::new("gen_ai.usage.cache_read.input_tokens", count(record.cached_prompt_tokens)),
    ];
    attributes
        .extend(record.time_to_first_token_s.map(|s| KeyValue::new("gen_ai.server.time_to_first_token", s)));
    attributes
}
