//! Glue between the contract (wit/) and [`crate::choose`].

use crate::choose::{self, ENDPOINTS};
use bindings::cortex::policy::types::{Message, PolicyError, Reply};
use bindings::exports::cortex::policy::{
    lifecycle::{self, Metadata},
    translator::{self, Endpoint},
};

#[expect(unsafe_code, reason = "generated: the canonical ABI passes raw pointers")]
mod bindings {
    wit_bindgen::generate!({ world: "translation-policy", path: "../../wit" });
    export!(Component with_types_in self);

    use super::Component;
}

struct Component;

/// One request with its answer: keep in it what later calls need, in a `RefCell`.
struct Session;

impl lifecycle::Guest for Component {
    fn describe() -> Metadata {
        Metadata {
            name: "NAME".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            config_schema: String::new(),
        }
    }

    fn configure(json: String) -> Result<(), PolicyError> {
        match json.trim() {
            "{}" => Ok(()),
            _ => Err(PolicyError::InvalidRequest("this policy takes no settings".into())),
        }
    }

    fn self_test() -> Result<(), PolicyError> {
        let native = choose::request(br#"{"model":"m","prompt":"hi"}"#);
        native.map(drop).map_err(PolicyError::Internal)
    }
}

impl translator::Guest for Component {
    type Session = Session;

    fn endpoints() -> Vec<Endpoint> {
        let endpoint = |(method, path): (&str, &str)| Endpoint {
            method: method.into(),
            path: path.into(),
            header: None,
        };
        ENDPOINTS.map(endpoint).into()
    }
}

impl translator::GuestSession for Session {
    fn new(_endpoint: u32, _seed: u64) -> Self {
        Self
    }

    fn request(&self, message: Message) -> Result<Message, PolicyError> {
        let (path, body) = choose::request(&message.body).map_err(PolicyError::InvalidRequest)?;
        Ok(Message { path: path.into(), body, query: String::new(), ..message })
    }

    fn response(&self, reply: Reply) -> Result<Reply, PolicyError> {
        let body = choose::response(reply.status, &reply.body).map_err(PolicyError::Internal)?;
        Ok(Reply { body, ..reply })
    }

    fn events(&self, sse: Vec<u8>) -> Result<Vec<u8>, PolicyError> {
        Ok(choose::events(&sse))
    }

    fn finish(&self, clean: bool) -> Result<Vec<u8>, PolicyError> {
        Ok(choose::finish(clean))
    }

    /// A comment, which every reader of server-sent events skips.
    fn keep_alive(&self) -> Vec<u8> {
        b": waiting\n\n".into()
    }
}
