//! `[policies.settings.lru]`.

use alloc::string::String;

/// What an operator can change; docs/policies/lru.md describes each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Seconds: a model whose last request ended later than this is spared.
    pub min_idle_s: u32,
}

const KEYS: [&str; 1] = ["min_idle_s"];

/// JSON Schema of the settings.
pub const SCHEMA: &str = r#"{"type":"object","additionalProperties":false,"properties":{
"min_idle_s":{"type":"integer","minimum":0,"maximum":31536000,"default":0,
"description":"Seconds: a model used within this time is spared."}}}"#;

impl Settings {
    /// Nobody is spared: the order alone decides.
    pub const DEFAULT: Self = Self { min_idle_s: 0 };

    /// An error is a sentence for the operator.
    pub fn parse(json: &str) -> Result<Self, String> {
        let mut settings = Self::DEFAULT;
        policy_kit::settings::read(json, &KEYS, &mut |_, value| {
            settings.min_idle_s =
                value.integer(0..=31_536_000, "whole seconds from 0 to 31536000 (a year)")?;
            Ok(())
        })?;
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_read_and_checked() {
        assert_eq!(Settings::parse("{}"), Ok(Settings::DEFAULT));
        assert_eq!(Settings::parse(r#"{"min_idle_s": 90}"#), Ok(Settings { min_idle_s: 90 }));
        let check = |json: &str, part: &str| {
            let error = Settings::parse(json).unwrap_err();
            assert!(error.contains(part), "{error:?} lacks {part:?}");
        };
        check(r#"{"min_idle": 90}"#, r#""min_idle"; the nearest that there is: "min_idle_s""#);
        check(r#"{"min_idle_s": 1.5}"#, "min_idle_s is 1.5, expected whole seconds");
        check(r#"{"min_idle_s": -1}"#, "expected whole seconds from 0");
    }

    #[test]
    fn the_schema_says_the_same() {
        let schema: serde_json::Value = serde_json::from_str(SCHEMA).unwrap();
        let properties = schema["properties"].as_object().unwrap();
        assert_eq!(properties.keys().collect::<Vec<_>>(), KEYS);
        let defaults: serde_json::Map<_, _> =
            properties.iter().map(|(key, about)| (key.clone(), about["default"].clone())).collect();
        assert_eq!(Settings::parse(&serde_json::Value::from(defaults).to_string()), Ok(Settings::DEFAULT));
    }
}
