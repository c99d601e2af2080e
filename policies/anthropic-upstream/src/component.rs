//! Glue between the contract and [`crate::session`].

use crate::session::Session as Inner;
use crate::settings::{SCHEMA, Settings};
use bindings::cortex::policy::types::{Message, PolicyError, Reply};
use bindings::exports::cortex::policy::{
    lifecycle::{self, Metadata},
    upstream_dialect,
};
use std::cell::RefCell;

#[expect(unsafe_code, reason = "generated: the canonical ABI passes raw pointers")]
mod bindings {
    wit_bindgen::generate!({ world: "upstream-policy", path: "../../wit" });
    export!(Component with_types_in self);

    use super::Component;
}

struct Component;
struct Session(RefCell<Inner>);

thread_local! {
    static SETTINGS: RefCell<Settings> = RefCell::new(Settings::default());
}

impl lifecycle::Guest for Component {
    fn describe() -> Metadata {
        Metadata {
            name: "anthropic-upstream".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            config_schema: SCHEMA.into(),
        }
    }

    fn configure(json: String) -> Result<(), PolicyError> {
        let settings = Settings::read(&json).map_err(PolicyError::InvalidRequest)?;
        SETTINGS.replace(settings);
        Ok(())
    }

    fn self_test() -> Result<(), PolicyError> {
        let body = br#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
        let made = Inner::new(Settings::default()).request("/v1/chat/completions", body);
        match made.map_err(PolicyError::Internal)?.0.as_str() {
            "/v1/messages" => Ok(()),
            other => Err(PolicyError::Internal(other.to_owned())),
        }
    }
}

impl upstream_dialect::Guest for Component {
    type Session = Session;
}

impl upstream_dialect::GuestSession for Session {
    fn new(_seed: u64) -> Self {
        Self(RefCell::new(Inner::new(SETTINGS.with_borrow(Clone::clone))))
    }

    fn request(&self, message: Message) -> Result<Message, PolicyError> {
        let made = self.0.borrow_mut().request(&message.path, &message.body);
        let (path, headers, body) = made.map_err(PolicyError::InvalidRequest)?;
        Ok(Message { path, headers, body, query: String::new(), ..message })
    }

    fn response(&self, reply: Reply) -> Result<Reply, PolicyError> {
        let made = self.0.borrow().response(reply.status, &reply.body);
        let (status, body) = made.map_err(PolicyError::Internal)?;
        Ok(Reply { status, body, ..reply })
    }

    fn events(&self, sse: Vec<u8>) -> Result<Vec<u8>, PolicyError> {
        Ok(self.0.borrow_mut().events(&sse))
    }

    fn finish(&self, _clean: bool) -> Result<Vec<u8>, PolicyError> {
        Ok(self.0.borrow_mut().finish())
    }
}
