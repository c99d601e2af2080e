//! Items of the output, as JSON.

use crate::custom;
use crate::tools::Stands;
use policy_chat::sse::json as write;
use policy_chat::write::{escaped, string};

/// Before thoughts in `encrypted_content`: that is where clients keep them for the next turn. They belong to whoever
/// asked, so there is nothing to hide.
pub(crate) const PLAIN: &str = "plain:";

/// A text as JSON has it, between the quotes: an answer is said several times, and escaped once.
#[derive(Debug, Default)]
pub(crate) struct Escaped(Vec<u8>);

impl Escaped {
    pub(crate) fn of(text: &str) -> Self {
        let mut escaped = Self::default();
        escaped.push(text);
        escaped
    }

    /// More of it; gives what was added.
    pub(crate) fn push(&mut self, text: &str) -> &[u8] {
        let from = self.0.len();
        escaped(&mut self.0, text);
        &self.0[from..]
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        self.write_behind("", out);
    }

    /// Behind a beginning that needs no escapes.
    fn write_behind(&self, beginning: &str, out: &mut Vec<u8>) {
        out.push(b'"');
        out.extend_from_slice(beginning.as_bytes());
        out.extend_from_slice(&self.0);
        out.push(b'"');
    }
}

/// `text` is absent while it is still being said.
pub(crate) fn reasoning(id: &str, text: Option<&Escaped>, kept: bool, status: &str, out: &mut Vec<u8>) {
    begin(id, "reasoning", status, out);
    out.extend_from_slice(br#","summary":[],"content":["#);
    if let Some(text) = text {
        out.extend_from_slice(br#"{"type":"reasoning_text","text":"#);
        text.write(out);
        out.push(b'}');
    }
    out.push(b']');
    if let Some(text) = text.filter(|_| kept) {
        out.extend_from_slice(br#","encrypted_content":"#);
        text.write_behind(PLAIN, out);
    }
    out.push(b'}');
}

/// `text` is absent while it is still being said.
pub(crate) fn message(id: &str, text: Option<&Escaped>, status: &str, out: &mut Vec<u8>) {
    begin(id, "message", status, out);
    out.extend_from_slice(br#","role":"assistant","content":["#);
    if let Some(text) = text {
        output_text(text, out);
    }
    out.extend_from_slice(b"]}");
}

pub(crate) fn output_text(text: &Escaped, out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"type":"output_text","text":"#);
    text.write(out);
    out.extend_from_slice(br#","annotations":[],"logprobs":[]}"#);
}

fn begin(id: &str, kind: &str, status: &str, out: &mut Vec<u8>) {
    for (name, text) in [(&br#"{"id":"#[..], id), (br#","type":"#, kind), (br#","status":"#, status)] {
        out.extend_from_slice(name);
        string(out, text);
    }
}

/// A call, with what stands behind its name.
pub(crate) struct Called<'a> {
    pub(crate) id: &'a str,
    pub(crate) call_id: &'a str,
    /// As the model said it.
    pub(crate) name: &'a str,
    pub(crate) stands: Option<&'a Stands>,
}

/// What a call is called with.
pub(crate) enum Arguments<'a> {
    /// JSON.
    Said(&'a Escaped),
    /// The text of a custom tool.
    Input(&'a str),
}

impl Called<'_> {
    pub(crate) fn write(&self, arguments: &Arguments<'_>, status: &str, out: &mut Vec<u8>) {
        let is_custom = matches!(arguments, Arguments::Input(_));
        begin(self.id, if is_custom { "custom_tool_call" } else { "function_call" }, status, out);
        let name = self.stands.map_or(self.name, |stands| &stands.name);
        for (field, text) in [(&br#","call_id":"#[..], self.call_id), (br#","name":"#, name)] {
            out.extend_from_slice(field);
            string(out, text);
        }
        match arguments {
            Arguments::Said(escaped) => {
                out.extend_from_slice(br#","arguments":"#);
                escaped.write(out);
            }
            Arguments::Input(input) => {
                out.extend_from_slice(br#","input":"#);
                string(out, input);
            }
        }
        if let Some(namespace) = self.stands.and_then(|stands| stands.namespace.as_ref()) {
            out.extend_from_slice(br#","namespace":"#);
            write(out, namespace);
        }
        out.push(b'}');
    }

    /// Of whole arguments, JSON.
    pub(crate) fn write_whole(&self, arguments: &str, status: &str, out: &mut Vec<u8>) {
        match self.stands.is_some_and(|stands| stands.custom) {
            true => self.write(&Arguments::Input(&custom::whole(arguments)), status, out),
            false => {
                let arguments = if arguments.is_empty() { "{}" } else { arguments };
                self.write(&Arguments::Said(&Escaped::of(arguments)), status, out);
            }
        }
    }
}

/// Ids by kind, of the session's seed and the item's place.
pub(crate) fn id(prefix: &str, seed: u64, at: u64) -> String {
    format!("{prefix}_{}", policy_chat::id::digits(seed, 1 + at))
}
