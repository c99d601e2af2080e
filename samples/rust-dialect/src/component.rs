//! Glue between the contract and the mappings.

use crate::{answer, request};
use bindings::cortex::policy::types::{Message, PolicyError, Reply};
use bindings::exports::cortex::policy::{
    lifecycle::{self, Metadata},
    translator::{self, Endpoint},
};
use policy_chat::{error::NativeError, stream::Stream};
use std::cell::RefCell;

mod bindings {
    wit_bindgen::generate!({ world: "translation-policy", path: "../../wit" });
    export!(Component with_types_in self);

    use super::Component;
}

struct Component;

/// One request with its answer.
struct Session {
    endpoint: u32,
    seed: u64,
    stream: RefCell<Stream<answer::Parts>>,
}

const ENDPOINTS: [&str; 3] = [":generateContent", ":streamGenerateContent", ":countTokens"];
const STREAMED: u32 = 1;
const COUNTING: u32 = 2;
const MODELS: &str = "/v1beta/models/";

impl lifecycle::Guest for Component {
    fn describe() -> Metadata {
        Metadata {
            name: "generate-content".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            config_schema: String::new(),
        }
    }

    fn configure(_json: String) -> Result<(), PolicyError> {
        Ok(())
    }

    fn self_test() -> Result<(), PolicyError> {
        let body = br#"{"contents":[{"parts":[{"text":"hi"}]}]}"#;
        request::to_chat("m", body, false).map(drop).map_err(PolicyError::Internal)
    }
}

impl translator::Guest for Component {
    type Session = Session;

    fn endpoints() -> Vec<Endpoint> {
        let endpoint = |verb: &&str| Endpoint {
            method: "POST".into(),
            path: format!("{MODELS}{{model}}{verb}"),
            header: None,
        };
        ENDPOINTS.iter().map(endpoint).collect()
    }
}

impl translator::GuestSession for Session {
    fn new(endpoint: u32, seed: u64) -> Self {
        Self { endpoint, seed, stream: RefCell::new(Stream::new(answer::Parts::default(), seed)) }
    }

    fn request(&self, message: Message) -> Result<Message, PolicyError> {
        let verb = ENDPOINTS.get(self.endpoint as usize).copied().unwrap_or_default();
        let model =
            message.path.strip_prefix(MODELS).and_then(|rest| rest.strip_suffix(verb)).unwrap_or_default();
        let streamed = self.endpoint == STREAMED;
        if streamed && !message.query.split('&').any(|pair| pair == "alt=sse") {
            return Err(PolicyError::InvalidRequest(
                "streams are server-sent events here: add ?alt=sse".into(),
            ));
        }
        let body = request::to_chat(model, &message.body, streamed).map_err(PolicyError::InvalidRequest)?;
        self.stream.borrow_mut().writer.model = model.to_owned();
        let path = if self.endpoint == COUNTING { "/tokenize" } else { "/v1/chat/completions" };
        Ok(Message { path: path.into(), query: String::new(), body, ..message })
    }

    fn response(&self, reply: Reply) -> Result<Reply, PolicyError> {
        let body = if reply.status >= 400 {
            answer::error(&NativeError::of_body(reply.status, &reply.body))
        } else if self.endpoint == COUNTING {
            let counted: serde_json::Value = serde_json::from_slice(&reply.body).unwrap_or_default();
            serde_json::json!({"totalTokens": counted["input_tokens"]})
        } else {
            let model = &self.stream.borrow().writer.model;
            answer::whole(&reply.body, self.seed, model).map_err(PolicyError::Internal)?
        };
        Ok(Reply { body: body.to_string().into_bytes(), ..reply })
    }

    fn events(&self, sse: Vec<u8>) -> Result<Vec<u8>, PolicyError> {
        Ok(self.stream.borrow_mut().events(&sse))
    }

    fn finish(&self, _clean: bool) -> Result<Vec<u8>, PolicyError> {
        Ok(self.stream.borrow_mut().finish())
    }

    fn keep_alive(&self) -> Vec<u8> {
        b": waiting\n\n".to_vec()
    }
}
