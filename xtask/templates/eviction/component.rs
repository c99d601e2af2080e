//! Glue between the contract and [`crate::choose`].

use crate::choose::{self, FACTS, Resident as Candidate, SCHEMA, Settings};
use alloc::{string::String, vec::Vec};
use bindings::cortex::policy::types::PolicyError;
use bindings::exports::cortex::policy::{
    evictor::{self, Demand, Resident},
    lifecycle::{self, Metadata},
};
use policy_kit::Local;

#[expect(unsafe_code, reason = "generated: the canonical ABI passes raw pointers")]
mod bindings {
    wit_bindgen::generate!({ world: "eviction-policy", path: "../../wit" });
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
        let resident = |uses| Candidate { frees_mb: &[10], uses, idle_s: 0 };
        match choose::plan(&Settings::DEFAULT, &[5], &[resident(9), resident(1)])[..] {
            [1] => Ok(()),
            _ => Err(PolicyError::Internal("of two, the less used one did not go".into())),
        }
    }
}

impl evictor::Guest for Component {
    fn facts() -> Vec<String> {
        policy_kit::strings(&FACTS)
    }

    fn plan(demand: Demand, residents: Vec<Resident>, facts: Vec<u32>) -> Result<Vec<u32>, PolicyError> {
        let candidates: Vec<Candidate> = residents
            .iter()
            .zip(facts.as_chunks().0)
            .map(|(r, &[uses, idle_s])| Candidate { frees_mb: &r.device_mb, uses, idle_s })
            .collect();
        let victims = SETTINGS.with(|s| choose::plan(s, &demand.device_mb, &candidates));
        Ok(victims.into_iter().map(|i| i as u32).collect())
    }
}
