//! `[policies.settings.responses]`

use serde::Deserialize;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// `reasoning_effort` where the client says nothing of it.
    pub default_effort: Option<String>,
}

/// JSON Schema of the settings.
#[cfg(any(target_family = "wasm", test))]
pub(crate) const SCHEMA: &str = r#"{"type":"object","additionalProperties":false,"properties":{
"default_effort":{"type":"string"}}}"#;

impl Settings {
    /// The error says what is wrong, for the operator.
    pub fn read(json: &str) -> Result<Self, String> {
        serde_json::from_str(json).map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_is_json_and_names_every_setting() {
        let schema: serde_json::Value = serde_json::from_str(SCHEMA).unwrap();
        let named: Vec<&String> = schema["properties"].as_object().unwrap().keys().collect();
        assert_eq!(named, ["default_effort"]);
        assert_eq!(
            Settings::read(r#"{"default_effort":"low"}"#).unwrap().default_effort.as_deref(),
            Some("low")
        );
        assert!(Settings::read(r#"{"effort":"low"}"#).unwrap_err().contains("unknown field `effort`"));
    }
}
