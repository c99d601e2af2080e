//! `[policies.settings.affinity]`.

use alloc::string::String;

/// What an operator can change; docs/policies/affinity.md describes each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Thousandths; what is above 1000 is how much of the fair share of the requests in flight a node may be
    /// ahead of the least loaded one before it is busy.
    pub busy_factor_milli: u32,
    /// Requests that a node with a free seat may have more than the least loaded one, whatever its share.
    pub slack: u32,
    /// Each so many cached tokens allow a node with a free seat one request more; 0 = none.
    pub tokens_per_slack: u32,
    /// Tokens of this prompt that a node must have in its cache, more than every node has, to be preferred.
    pub min_prefix_tokens: u32,
    /// The same, as a share of the prompt.
    pub min_prefix_percent: u32,
}

const KEYS: [&str; 5] =
    ["busy_factor", "slack", "tokens_per_slack", "min_prefix_tokens", "min_prefix_percent"];

/// JSON Schema of the settings.
pub const SCHEMA: &str = r#"{"type":"object","additionalProperties":false,"properties":{
"busy_factor":{"type":"number","minimum":1,"maximum":100,"default":1.25,
"description":"1.25 lets a node be a quarter of the fair share of requests ahead of the least loaded one."},
"slack":{"type":"integer","minimum":0,"maximum":10000,"default":2,
"description":"Requests that a node with a free seat may have more than the least loaded one."},
"tokens_per_slack":{"type":"integer","minimum":0,"maximum":1000000,"default":4096,
"description":"Each so many cached tokens allow one request more; 0 = none."},
"min_prefix_tokens":{"type":"integer","minimum":0,"maximum":1000000,"default":64,
"description":"Cached tokens below this do not attract."},
"min_prefix_percent":{"type":"integer","minimum":0,"maximum":100,"default":25,
"description":"Nor do those below this share of the prompt."}}}"#;

impl Settings {
    /// A quarter above the fair share is where consistent hashing with bounded loads is usually set; a block
    /// of cache is 16 tokens or more, and a few blocks are prefilled sooner than a queue passes; 4096 tokens
    /// are about a second of prefill, for which one more request in the batch is a fair price.
    pub const DEFAULT: Self = Self {
        busy_factor_milli: 1250,
        slack: 2,
        tokens_per_slack: 4096,
        min_prefix_tokens: 64,
        min_prefix_percent: 25,
    };

    /// An error is a sentence for the operator.
    pub fn parse(json: &str) -> Result<Self, String> {
        let mut s = Self::DEFAULT;
        policy_kit::settings::read(json, &KEYS, &mut |key, value| {
            match key {
                0 => s.busy_factor_milli = value.thousandths(1000..=100_000, "a number from 1.0 to 100")?,
                1 => s.slack = value.integer(0..=10_000, "a whole number from 0 to 10000")?,
                2 => s.tokens_per_slack = value.integer(0..=1_000_000, TOKENS)?,
                3 => s.min_prefix_tokens = value.integer(0..=1_000_000, TOKENS)?,
                _ => s.min_prefix_percent = value.integer(0..=100, "a whole number from 0 to 100")?,
            }
            Ok(())
        })?;
        Ok(s)
    }
}

const TOKENS: &str = "a whole number from 0 to 1000000";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_read_and_checked() {
        let json = r#"{"busy_factor": 3.5, "slack": 0, "tokens_per_slack": 1, "min_prefix_tokens": 2,
                       "min_prefix_percent": 3}"#;
        let want = Settings {
            busy_factor_milli: 3500,
            slack: 0,
            tokens_per_slack: 1,
            min_prefix_tokens: 2,
            min_prefix_percent: 3,
        };
        assert_eq!(Settings::parse(json), Ok(want));
        assert_eq!(Settings::parse("{}"), Ok(Settings::DEFAULT));
        let check = |json: &str, part: &str| {
            let error = Settings::parse(json).unwrap_err();
            assert!(error.contains(part), "{error:?} lacks {part:?}");
        };
        check(r#"{"busy_factor": 0.5}"#, "busy_factor is 0.5, expected a number from 1.0");
        check(r#"{"bussy_factor": 2}"#, r#""bussy_factor"; the nearest that there is: "busy_factor""#);
        check(r#"{"min_prefix_percent": 101}"#, "expected a whole number from 0 to 100");
    }

    #[test]
    fn the_schema_says_the_same() {
        let schema: serde_json::Value = serde_json::from_str(SCHEMA).unwrap();
        let properties = schema["properties"].as_object().unwrap();
        assert_eq!(properties.keys().collect::<Vec<_>>(), KEYS.iter().collect::<Vec<_>>());
        let defaults: serde_json::Map<_, _> =
            properties.iter().map(|(key, about)| (key.clone(), about["default"].clone())).collect();
        assert_eq!(Settings::parse(&serde_json::Value::from(defaults).to_string()), Ok(Settings::DEFAULT));
        for (key, about) in properties {
            for (bound, step) in [("minimum", -1), ("maximum", 1)] {
                let at = about[bound].as_i64().unwrap();
                let parse = |n: i64| Settings::parse(&format!("{{\"{key}\": {n}}}"));
                assert!(parse(at).is_ok(), "{key}: {bound}");
                assert!(parse(at + step).is_err(), "{key}: past its {bound}");
            }
        }
    }
}
