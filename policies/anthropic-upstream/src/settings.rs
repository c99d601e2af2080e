//! `[policies.settings.anthropic-upstream]`

use serde::Deserialize;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// `max_tokens` where the client gives none: Messages needs one.
    pub default_max_tokens: u64,
    /// `anthropic-version` that is sent.
    pub version: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self { default_max_tokens: 8192, version: "2023-06-01".into() }
    }
}

/// JSON Schema of the settings.
#[cfg(any(target_family = "wasm", test))]
pub(crate) const SCHEMA: &str = r#"{"type":"object","additionalProperties":false,"properties":{
"default_max_tokens":{"type":"integer","minimum":1,"default":8192},
"version":{"type":"string","default":"2023-06-01"}}}"#;

impl Settings {
    /// The error says what is wrong, for the operator.
    pub fn read(json: &str) -> Result<Self, String> {
        let settings: Self = serde_json::from_str(json).map_err(|e| e.to_string())?;
        match settings.default_max_tokens {
            0 => Err("default_max_tokens: a positive integer is expected".into()),
            _ => Ok(settings),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_and_mistakes() {
        assert_eq!(Settings::read("{}").unwrap().default_max_tokens, 8192);
        assert!(Settings::read(r#"{"default_max_tokens":0}"#).unwrap_err().contains("default_max_tokens"));
        assert!(Settings::read(r#"{"max":1}"#).unwrap_err().contains("unknown field `max`"));
        let schema: serde_json::Value = serde_json::from_str(SCHEMA).unwrap();
        assert_eq!(schema["properties"]["version"]["default"], Settings::default().version);
    }
}
