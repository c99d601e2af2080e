//! Glue between the contract (wit/) and [`crate::choose`].

use crate::choose::{self, NODE_FACTS, SCHEMA, Settings};
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

static SETTINGS: Local<Settings> = Local::new(Settings::DEFAULT);

impl lifecycle::Guest for Component {
    fn describe() -> Metadata {
        Metadata {
            name: "NAME".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            config_schema: SCHEMA.into(),
        }
    }

    fn configure(json: String) -> Result<(), PolicyError> {
        let settings = Settings::parse(&json).map_err(PolicyError::InvalidRequest)?;
        SETTINGS.with(|s| *s = settings);
        Ok(())
    }

    fn self_test() -> Result<(), PolicyError> {
        match choose::choose(&Settings::DEFAULT, &[[5, 9, 0], [5, 0, 0]])[..] {
            [1, 0] => Ok(()),
            _ => Err(PolicyError::Internal("of two nodes, the busier came first".into())),
        }
    }
}

impl router::Guest for Component {
    fn facts() -> Wanted {
        Wanted { node: strings(&NODE_FACTS), request: Vec::new() }
    }

    /// Names cross here and not in `route`: keep what you need of them.
    fn on_topology(_epoch: u64, _nodes: Vec<Node>) {}

    fn route(_epoch: u64, request: Request, nodes: Vec<u32>) -> Result<Decision, PolicyError> {
        let order = SETTINGS.with(|s| choose::choose(s, nodes.as_chunks().0));
        if order.is_empty() {
            return Ok(Decision::Reject((503, text(&["no node can serve ", &request.model, " now"]))));
        }
        Ok(Decision::Pick(order))
    }
}
