//! `[telemetry]`.

use super::raw;

/// Where spans go.
#[derive(Debug, Clone, PartialEq)]
pub struct Telemetry {
    /// `http://HOST:PORT` of a collector; empty: nowhere.
    pub otlp_endpoint: String,
    pub service_name: String,
    /// The share of requests that are traced whose clients do not say.
    pub sample: f64,
}

impl Telemetry {
    pub fn is_on(&self) -> bool {
        !self.otlp_endpoint.is_empty()
    }

    /// An error is a sentence.
    pub(super) fn new(raw: raw::Telemetry) -> Result<Self, String> {
        let raw::Telemetry { otlp_endpoint, service_name, sample } = raw;
        let endpoint = otlp_endpoint.trim_end_matches('/').to_owned();
        let is_plain = |uri: http::Uri| uri.scheme_str() == Some("http") && uri.authority().is_some();
        if !endpoint.is_empty() && !endpoint.parse().is_ok_and(is_plain) {
            let hint = "expected http://HOST:PORT of an OTLP/HTTP collector, port 4318 most often";
            return Err(format!("telemetry.otlp_endpoint: {endpoint:?}, {hint}"));
        }
        if !(0.0..=1.0).contains(&sample) {
            return Err(format!("telemetry.sample: {sample} is no share; 0 to 1 is"));
        }
        Ok(Self { otlp_endpoint: endpoint, service_name, sample })
    }
}
