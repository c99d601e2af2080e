//! A call as FunctionGemma writes it: `call:name{key:<escape>text<escape>,other:3}`.

use serde_json::{Map, Value};

use super::{Piece, Progress, Tool};

const END: &str = "<end_function_call>";
const QUOTE: &str = "<escape>";
/// Bytes of a call.
const MAX_CALL: usize = 4 << 20;
/// Objects and arrays within each other.
const MAX_DEPTH: usize = 64;

/// Reads up to the mark that ends the call.
#[derive(Debug, Clone, Default)]
pub(super) struct GemmaCall {
    text: String,
}

impl GemmaCall {
    pub(super) fn push(&mut self, c: char, tools: &[Tool], out: &mut Vec<Piece>) -> Progress {
        self.text.push(c);
        if c == '>'
            && let Some(call) = self.text.strip_suffix(END)
        {
            return told(call.trim(), tools, out).map_or(Progress::Failed, |()| Progress::Done);
        }
        if self.text.len() > MAX_CALL { Progress::Failed } else { Progress::More }
    }
}

fn told(call: &str, tools: &[Tool], out: &mut Vec<Piece>) -> Option<()> {
    let (name, rest) = call.strip_prefix("call:")?.split_once('{')?;
    let name = name.trim();
    let mut reader = Reader { rest };
    let arguments = reader.object(0)?;
    if !reader.rest.trim().is_empty() || !tools.iter().any(|tool| tool.name == name) {
        return None;
    }
    let arguments = Value::Object(arguments).to_string();
    out.extend([Piece::Begin(name.to_owned()), Piece::Arguments(arguments), Piece::End]);
    Some(())
}

/// Reads values from the front of a text.
struct Reader<'t> {
    rest: &'t str,
}

impl<'t> Reader<'t> {
    fn eat(&mut self, mark: &str) -> bool {
        let rest = self.rest.trim_start().strip_prefix(mark);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn until(&mut self, ends: &[char]) -> &'t str {
        let (found, rest) = self.rest.split_at(self.rest.find(ends).unwrap_or(self.rest.len()));
        self.rest = rest;
        found.trim()
    }

    /// After its `{`.
    fn object(&mut self, depth: usize) -> Option<Map<String, Value>> {
        let mut map = Map::new();
        while !self.eat("}") {
            let key = if self.eat(QUOTE) { self.quoted()? } else { self.until(&[':']) };
            if !self.eat(":") {
                return None;
            }
            map.insert(key.to_owned(), self.value(depth + 1)?);
            let more = self.eat(",");
            if !more && !self.rest.trim_start().starts_with('}') {
                return None;
            }
        }
        Some(map)
    }

    fn quoted(&mut self) -> Option<&'t str> {
        let (text, rest) = self.rest.split_once(QUOTE)?;
        self.rest = rest;
        Some(text)
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        if depth > MAX_DEPTH {
            return None;
        }
        if self.eat(QUOTE) {
            return self.quoted().map(|text| Value::String(text.to_owned()));
        }
        if self.eat("{") {
            return self.object(depth).map(Value::Object);
        }
        if self.eat("[") {
            let mut items = Vec::new();
            while !self.eat("]") {
                items.push(self.value(depth + 1)?);
                let more = self.eat(",");
                if !more && !self.rest.trim_start().starts_with(']') {
                    return None;
                }
            }
            return Some(Value::Array(items));
        }
        let word = self.until(&[',', '}', ']']);
        serde_json::from_str(word).ok().or_else(|| (!word.is_empty()).then(|| Value::String(word.to_owned())))
    }
}
