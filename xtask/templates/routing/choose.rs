//! The judgement, free of WebAssembly: `cargo test -p policy-NAME` covers it.

use alloc::{string::String, vec::Vec};

/// Facts of a node that are read (docs/facts.md), in the order of a [`Row`].
pub const NODE_FACTS: [&str; 3] = ["state", "running", "queued"];

/// One node's facts; `u32::MAX` = not known.
pub type Row = [u32; NODE_FACTS.len()];

/// From `[policies.settings.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// What a waiting request weighs, where a running one weighs 1.
    pub queued_weight: u32,
}

/// JSON Schema of the settings.
pub const SCHEMA: &str = r#"{"type":"object","additionalProperties":false,"properties":{
"queued_weight":{"type":"integer","minimum":0,"maximum":1000,"default":1}}}"#;

impl Settings {
    pub const DEFAULT: Self = Self { queued_weight: 1 };

    /// An error is a sentence for the operator.
    pub fn parse(json: &str) -> Result<Self, String> {
        let mut settings = Self::DEFAULT;
        policy_kit::settings::read(json, &["queued_weight"], &mut |_, value| {
            settings.queued_weight = value.integer(0..=1000, "a whole number from 0 to 1000")?;
            Ok(())
        })?;
        Ok(settings)
    }
}

/// Node indices, best first: the readiest, of equally ready ones the least loaded. State 0 cannot serve.
pub fn choose(settings: &Settings, nodes: &[Row]) -> Vec<u16> {
    let known = |n: u32| if n == u32::MAX { 0 } else { u64::from(n) };
    let mut order: Vec<_> = nodes
        .iter()
        .enumerate()
        .filter(|(_, [state, ..])| known(*state) > 0)
        .map(|(i, &[state, running, queued])| {
            (u32::MAX - state, known(running) + known(queued) * u64::from(settings.queued_weight), i)
        })
        .collect();
    policy_kit::sort(&mut order);
    order.into_iter().map(|(.., i)| i as u16).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readiest_and_least_loaded_comes_first() {
        let nodes = [[2, 0, 0], [5, 9, 0], [0, 0, 0], [5, 1, 3], [u32::MAX, 0, 0]];
        assert_eq!(choose(&Settings::DEFAULT, &nodes), [3, 1, 0]);
        assert_eq!(choose(&Settings { queued_weight: 100 }, &nodes), [1, 3, 0]);
    }

    #[test]
    fn settings_are_checked() {
        assert_eq!(Settings::parse(r#"{"queued_weight": 3}"#), Ok(Settings { queued_weight: 3 }));
        assert!(Settings::parse(r#"{"queued_wieght": 3}"#).is_err_and(|e| e.contains("queued_weight")));
    }
}
