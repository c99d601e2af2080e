//! Settings that stand in for what requests for a model leave out.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// Fields that may be set so, with the least and the most of each.
const FIELDS: [(&str, f64, f64); 9] = [
    ("temperature", 0.0, 2.0),
    ("top_p", 0.0, 1.0),
    ("top_k", -1.0, 4_294_967_295.0),
    ("min_p", 0.0, 1.0),
    ("repetition_penalty", 0.01, 10.0),
    ("presence_penalty", -2.0, 2.0),
    ("frequency_penalty", -2.0, 2.0),
    ("max_tokens", 1.0, 4_294_967_295.0),
    ("reasoning_budget", -1.0, 4_294_967_295.0),
];

/// Fields of native requests, by name.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Defaults(BTreeMap<String, toml::Value>);

impl Defaults {
    /// Errors name the field.
    pub(super) fn check(&self) -> Result<(), String> {
        for (name, value) in &self.0 {
            let Some((_, least, most)) = FIELDS.iter().find(|(known, ..)| known == name) else {
                let known: Vec<&str> = FIELDS.iter().map(|(name, ..)| *name).collect();
                return Err(format!("defaults.{name} is none of {}", known.join(", ")));
            };
            let number = value.as_float().or_else(|| value.as_integer().map(|n| n as f64));
            let counts = ["top_k", "max_tokens", "reasoning_budget"].contains(&name.as_str());
            if counts && value.as_integer().is_none() {
                return Err(format!("defaults.{name}: a whole number is expected"));
            }
            if !number.is_some_and(|number| (*least..=*most).contains(&number)) {
                return Err(format!("defaults.{name}: a number between {least} and {most} is expected"));
            }
        }
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each field's name and its value as JSON.
    pub(crate) fn values(&self) -> impl Iterator<Item = (&str, String)> {
        self.0.iter().map(|(name, value)| {
            let value = match value {
                toml::Value::Integer(number) => Value::from(*number),
                other => Value::from(other.as_float().unwrap_or_default()),
            };
            (name.as_str(), value.to_string())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaults(text: &str) -> Defaults {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn values_are_json() {
        let some = defaults("temperature = 0.6\ntop_k = 20\nmax_tokens = 100");
        assert_eq!(some.check(), Ok(()));
        let values: Vec<_> = some.values().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(values, ["max_tokens=100", "temperature=0.6", "top_k=20"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let said = |text: &str| defaults(text).check().unwrap_err();
        assert!(said("temprature = 1").starts_with("defaults.temprature is none of temperature, top_p"));
        assert_eq!(said("top_p = 1.5"), "defaults.top_p: a number between 0 and 1 is expected");
        assert_eq!(said("min_p = \"x\""), "defaults.min_p: a number between 0 and 1 is expected");
        assert_eq!(said("top_k = 2.5"), "defaults.top_k: a whole number is expected");
    }
}
