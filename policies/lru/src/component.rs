//! Glue between the contract and [`crate::choose`].

use crate::choose::{self, Resident as Candidate};
use crate::settings::{SCHEMA, Settings};
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

/// In the order of a row.
const FACTS: [&str; 2] = ["last_used_s", "load_ms"];

impl lifecycle::Guest for Component {
    fn describe() -> Metadata {
        Metadata {
            name: "lru".into(),
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
        let resident = |idle_s| Candidate { frees_mb: &[10], idle_s, load_ms: u32::MAX };
        match choose::plan(&Settings::DEFAULT, &[5], &[resident(1), resident(9)])[..] {
            [1] => Ok(()),
            _ => Err(PolicyError::Internal("of two, the longer idle one did not go".into())),
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
            .map(|(r, &[idle_s, load_ms])| Candidate { frees_mb: &r.device_mb, idle_s, load_ms })
            .collect();
        let victims = SETTINGS.with(|s| choose::plan(s, &demand.device_mb, &candidates));
        Ok(victims.into_iter().map(|i| i as u32).collect())
    }
}
