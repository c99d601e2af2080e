//! Glue between the contract and [`crate::session`].

use crate::session::{ENDPOINTS, Session as Inner};
use crate::settings::{SCHEMA, Settings};
use bindings::cortex::policy::types::{Message, PolicyError, Reply};
use bindings::exports::cortex::policy::{
    lifecycle::{self, Metadata},
    translator::{self, Endpoint},
};
use std::cell::RefCell;

#[expect(unsafe_code, reason = "generated: the canonical ABI passes raw pointers")]
mod bindings {
    wit_bindgen::generate!({ world: "translation-policy", path: "../../wit" });
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
            name: "responses".into(),
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
        let mut session = Inner::new(0, 1, Settings::default());
        let (path, _) = session.request(br#"{"model":"m","input":"hi"}"#).map_err(PolicyError::Internal)?;
        if path == "/v1/chat/completions" { Ok(()) } else { Err(PolicyError::Internal(path)) }
    }
}

impl translator::Guest for Component {
    type Session = Session;

    fn endpoints() -> Vec<Endpoint> {
        let endpoint = |(_, method, path): &(_, &str, &str)| Endpoint {
            method: (*method).into(),
            path: (*path).into(),
            header: None,
        };
        ENDPOINTS.iter().map(endpoint).collect()
    }
}

impl translator::GuestSession for Session {
    fn new(endpoint: u32, seed: u64) -> Self {
        Self(RefCell::new(Inner::new(endpoint, seed, SETTINGS.with_borrow(Clone::clone))))
    }

    fn request(&self, message: Message) -> Result<Message, PolicyError> {
        let native = self.0.borrow_mut().request(&message.body);
        let (path, body) = native.map_err(PolicyError::InvalidRequest)?;
        Ok(Message { path, body, query: String::new(), ..message })
    }

    fn response(&self, reply: Reply) -> Result<Reply, PolicyError> {
        let body = self.0.borrow().response(reply.status, &reply.body);
        Ok(Reply { body: body.map_err(PolicyError::Internal)?, ..reply })
    }

    fn events(&self, sse: Vec<u8>) -> Result<Vec<u8>, PolicyError> {
        Ok(self.0.borrow_mut().events(&sse))
    }

    fn finish(&self, _clean: bool) -> Result<Vec<u8>, PolicyError> {
        Ok(self.0.borrow_mut().finish())
    }

    /// A comment: the dialect has no event for it.
    fn keep_alive(&self) -> Vec<u8> {
        b": waiting\n\n".to_vec()
    }
}
