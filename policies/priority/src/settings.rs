//! `[policies.settings.priority]`.

use alloc::string::String;

/// What an operator can change; docs/policies/priority.md describes each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Thousandths of a second of idleness that each second of loading back is worth.
    pub reload_weight_milli: u32,
}

const KEYS: [&str; 1] = ["reload_weight"];

/// JSON Schema of the settings.
pub const SCHEMA: &str = r#"{"type":"object","additionalProperties":false,"properties":{
"reload_weight":{"type":"number","minimum":0,"maximum":1000,"default":0,
"description":"Inside a class, each second that loading a model back takes counts like so many seconds of more recent use."}}}"#;

impl Settings {
    /// Loading back decides only between equally idle ones.
    pub const DEFAULT: Self = Self { reload_weight_milli: 0 };

    /// An error is a sentence for the operator.
    pub fn parse(json: &str) -> Result<Self, String> {
        let mut settings = Self::DEFAULT;
        policy_kit::settings::read(json, &KEYS, &mut |_, value| {
            settings.reload_weight_milli =
                value.thousandths(0..=1_000_000, "a number from 0 to 1000, at most three decimals")?;
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
        assert_eq!(Settings::parse(r#"{"reload_weight": 2.5}"#), Ok(Settings { reload_weight_milli: 2500 }));
        let check = |json: &str, part: &str| {
            let error = Settings::parse(json).unwrap_err();
            assert!(error.contains(part), "{error:?} lacks {part:?}");
        };
        check(r#"{"reload_wieght": 1}"#, r#""reload_wieght"; the nearest that there is: "reload_weight""#);
        check(r#"{"reload_weight": 1001}"#, "reload_weight is 1001, expected a number from 0 to 1000");
        check(r#"{"reload_weight": "2"}"#, "expected a number");
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
