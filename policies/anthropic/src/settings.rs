//! `[policies.settings.anthropic]`

use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Pass on the `x-anthropic-billing-header` text that coding agents put first. It changes with every
    /// request, so it would defeat every prefix cache; by default it is dropped.
    pub keep_billing_header: bool,
    /// Models by the names that clients ask for; a `*` at the end stands for any rest.
    pub aliases: BTreeMap<String, String>,
    /// `reasoning_effort` where the client says nothing of it.
    pub default_effort: Option<String>,
}

/// JSON Schema of the settings.
#[cfg(any(target_family = "wasm", test))]
pub(crate) const SCHEMA: &str = r#"{"type":"object","additionalProperties":false,"properties":{
"keep_billing_header":{"type":"boolean","default":false},
"aliases":{"type":"object","additionalProperties":{"type":"string"},"default":{}},
"default_effort":{"type":"string"}}}"#;

impl Settings {
    /// The error says what is wrong, for the operator.
    pub fn read(json: &str) -> Result<Self, String> {
        let settings: Self = serde_json::from_str(json).map_err(|e| e.to_string())?;
        let (from, to) = (settings.aliases.keys(), settings.aliases.values());
        if let Some(wrong) =
            from.clone().find(|name| name.trim_end_matches('*').contains('*') || name.is_empty())
        {
            return Err(format!("aliases: {wrong:?} may have one * and only at its end"));
        }
        match from.zip(to).find(|(_, to)| to.is_empty() || to.contains('*')) {
            Some((from, to)) => Err(format!("aliases.{from}: {to:?} is no model's name")),
            None => Ok(settings),
        }
    }

    /// What a client's name stands for: itself, the alias that is the same, or the longest that fits.
    pub(crate) fn model<'a>(&'a self, name: &'a str) -> &'a str {
        if let Some(exact) = self.aliases.get(name) {
            return exact;
        }
        let fits = self.aliases.iter().filter(|(alias, _)| {
            alias.strip_suffix('*').is_some_and(|beginning| name.starts_with(beginning))
        });
        fits.max_by_key(|(alias, _)| alias.len()).map_or(name, |(_, model)| model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases() {
        let json =
            r#"{"aliases":{"claude-*":"big","claude-haiku-*":"small","claude-haiku-4":"exact","*":"any"}}"#;
        let settings = Settings::read(json).unwrap();
        let check = |name, want| assert_eq!(settings.model(name), want);
        check("claude-opus-4", "big");
        check("claude-haiku-3", "small");
        check("claude-haiku-4", "exact");
        check("other", "any");
        assert_eq!(Settings::default().model("other"), "other");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let check = |json, part: &str| {
            let error = Settings::read(json).unwrap_err();
            assert!(error.contains(part), "{error}");
        };
        check(r#"{"alias":{}}"#, "unknown field `alias`");
        check(r#"{"aliases":{"a*b":"c"}}"#, "\"a*b\"");
        check(r#"{"aliases":{"a":""}}"#, "aliases.a");
    }

    #[test]
    fn the_schema_is_json_and_names_every_setting() {
        let schema: serde_json::Value = serde_json::from_str(SCHEMA).unwrap();
        let named: Vec<&String> = schema["properties"].as_object().unwrap().keys().collect();
        assert_eq!(named, ["keep_billing_header", "aliases", "default_effort"]);
    }
}
