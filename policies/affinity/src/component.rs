//! Glue between the contract and [`crate::choose`].

use crate::choose::{self, Asked, NODE_FACTS, Row};
use crate::settings::{SCHEMA, Settings};
use alloc::{string::String, vec::Vec};
use bindings::cortex::policy::types::PolicyError;
use bindings::exports::cortex::policy::{
    lifecycle::{self, Metadata},
    router::{self, Decision, Node, Request, Wanted},
};
use policy_kit::{Local, strings, text};

#[expect(unsafe_code, reason = "generated: the canonical ABI passes raw pointers")]
mod bindings {
    wit_bindgen::generate!({ world: "routing-policy", path: "../../wit" });
    export!(Component with_types_in self);

    use super::Component;
}

policy_kit::runtime!();

struct Component;

struct Memory {
    settings: Settings,
    /// Hashes of the nodes' names: they cross only when the fleet changes.
    names: Vec<u64>,
    /// Used anew by every call.
    keys: Vec<u64>,
}

static MEMORY: Local<Memory> =
    Local::new(Memory { settings: Settings::DEFAULT, names: Vec::new(), keys: Vec::new() });

impl lifecycle::Guest for Component {
    fn describe() -> Metadata {
        Metadata {
            name: "affinity".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            config_schema: SCHEMA.into(),
        }
    }

    fn configure(json: String) -> Result<(), PolicyError> {
        let settings = Settings::parse(&json).map_err(PolicyError::InvalidRequest)?;
        MEMORY.with(|m| m.settings = settings);
        Ok(())
    }

    fn self_test() -> Result<(), PolicyError> {
        let row = |running| [choose::state::LOADED, running, 0, choose::UNKNOWN, 0, 0];
        let asked = Asked { model: "m", session: Some(1), seed: 1, prompt_tokens: 1 };
        let mut picks = Vec::new();
        let rows = [row(90), row(0)];
        choose::choose(&Settings::DEFAULT, &asked, &[1, 2], &rows, &mut Vec::new(), &mut picks);
        match picks[..] {
            [1, 0] => Ok(()),
            _ => Err(PolicyError::Internal("of two nodes, the busy one was preferred".into())),
        }
    }
}

impl router::Guest for Component {
    fn facts() -> Wanted {
        Wanted { node: strings(&NODE_FACTS), request: strings(&["prompt_tokens"]) }
    }

    fn on_topology(_epoch: u64, nodes: Vec<Node>) {
        MEMORY.with(|m| {
            m.names.clear();
            m.names.extend(nodes.iter().map(|n| policy_kit::hash::name(&n.name)));
        });
    }

    fn route(_epoch: u64, request: Request, nodes: Vec<u32>) -> Result<Decision, PolicyError> {
        let (rows, _): (&[Row], _) = nodes.as_chunks();
        let asked = Asked {
            model: &request.model,
            session: request.session,
            seed: request.seed,
            prompt_tokens: request.facts.first().copied().unwrap_or(choose::UNKNOWN),
        };
        let mut picks = Vec::with_capacity(rows.len());
        MEMORY.with(|m| choose::choose(&m.settings, &asked, &m.names, rows, &mut m.keys, &mut picks));
        if picks.is_empty() {
            return Ok(Decision::Reject((503, text(&["no node can serve ", &request.model, " now"]))));
        }
        Ok(Decision::Pick(picks))
    }
}
