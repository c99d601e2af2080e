//! Calls of tools in what a model writes: each family has a notation of its own, all become OpenAI's.
//!
//! A call is told as it comes: its name once that is known to be one of the request's tools, its arguments piece
//! by piece. What only looks like a call stays text. Nothing of a call that was begun is taken back, so a call is
//! begun late: not before its name is whole and its arguments have opened.

mod bind;
mod gemma;
mod generic;
mod json;
mod named;
mod notation;
mod parser;
mod xml;

pub(crate) use bind::{Choice, bind, escape};
pub(crate) use generic::rewrite;
pub(crate) use notation::Notation;
#[cfg(any(test, fuzzing))]
pub(crate) use parser::fuzz;
pub(crate) use parser::{Parser, Piece};

use serde_json::{Map, Value};

/// A tool as a request defines it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tool {
    pub(crate) name: String,
    /// JSON schema of its arguments.
    pub(crate) parameters: Value,
    pub(crate) strict: bool,
}

impl Tool {
    /// Whether an argument is a text by the tool's schema, so that what is written for it is not read as JSON.
    fn is_text(&self, argument: &str) -> bool {
        self.parameters["properties"][argument]["type"] == "string"
    }
}

/// How far a call has come with one more character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    More,
    Done,
    /// It is no call.
    Failed,
}

/// The JSON object of a text, if it is one.
fn object(text: &str) -> Option<Map<String, Value>> {
    serde_json::from_str(text).ok()
}
