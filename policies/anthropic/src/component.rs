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
            name: "anthropic".into(),
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
        let body = br#"{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"hi"}]}"#;
        let (path, _) = session.request("/v1/messages", body).map_err(PolicyError::Internal)?;
        if path == "/v1/chat/completions" { Ok(()) } else { Err(PolicyError::Internal(path)) }
    }
}

impl translator::Guest for Component {
    type Session = Session;

    fn endpoints() -> Vec<Endpoint> {
        ENDPOINTS
            .iter()
            .map(|(_, method, path, header)| Endpoint {
                method: (*method).into(),
                path: (*path).into(),
                header: header.map(String::from),
            })
            .collect()
    }
}

impl translator::GuestSession for Session {
    fn new(endpoint: u32, seed: u64) -> Self {
        Self(RefCell::new(Inner::new(endpoint, seed, SETTINGS.with_borrow(Clone::clone))))
    }

    fn request(&self, message: Message) -> Result<Message, PolicyError> {
        let native = self.0.borrow_mut().request(&message.path, &message.body);
        let (path, body) = native.map_err(PolicyError::InvalidRequest)?;
        Ok(Message { path, body, query: String::new(), ..message })
    }

    fn response(&self, reply: Reply) -> Result<Reply, PolicyError> {
        let header = |name| reply.headers.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v.as_str());
        let body = self.0.borrow().response(reply.status, header("x-request-id"), &reply.body);
        Ok(Reply { body: body.map_err(PolicyError::Internal)?, ..reply })
    }

    fn events(&self, sse: Vec<u8>) -> Result<Vec<u8>, PolicyError> {
        Ok(self.0.borrow_mut().events(&sse))
    }

    fn finish(&self, _clean: bool) -> Result<Vec<u8>, PolicyError> {
        Ok(self.0.borrow_mut().finish())
    }

    fn keep_alive(&self) -> Vec<u8> {
        self.0.borrow().keep_alive()
    }
}
