//! A call as a JSON object: `{"name": …, "arguments": {…}}`, in either order.

use super::{Piece, Progress, Tool, object};

/// Bytes of a name, and of anything in the object that is passed over.
const MAX_WORD: usize = 64 << 10;

/// Goes over the object, character by character.
#[derive(Debug, Clone, Default)]
pub(super) struct JsonCall {
    at: At,
    key: String,
    /// The value that is being read, where it is not told at once.
    value: String,
    nesting: Nesting,
    name: Option<String>,
    /// Arguments that came before the name.
    early: Option<String>,
    begun: bool,
    /// The value that is being read are the arguments, told while they come.
    tells: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum At {
    #[default]
    Start,
    /// Before a key, or the end of the object.
    Key,
    InKey,
    Colon,
    Value,
    InValue,
    After,
}

/// Where a JSON value ends.
#[derive(Debug, Clone, Default)]
pub(super) struct Nesting {
    depth: usize,
    in_text: bool,
    escaped: bool,
}

impl Nesting {
    /// Takes the next character of a value; `true`: it was the last of an object, an array or a text.
    pub(super) fn push(&mut self, c: char) -> bool {
        if self.in_text {
            match c {
                _ if self.escaped => self.escaped = false,
                '\\' => self.escaped = true,
                '"' => {
                    self.in_text = false;
                    return self.depth == 0;
                }
                _ => {}
            }
            return false;
        }
        match c {
            '"' => self.in_text = true,
            '{' | '[' => self.depth += 1,
            '}' | ']' => {
                self.depth = self.depth.saturating_sub(1);
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }
}

impl JsonCall {
    pub(super) fn push(&mut self, c: char, tools: &[Tool], out: &mut Vec<Piece>) -> Progress {
        match self.at {
            At::InKey => self.in_key(c),
            At::InValue => return self.in_value(c, tools, out),
            _ if c.is_whitespace() => {}
            At::Start if c == '{' => self.at = At::Key,
            At::Key if c == '"' => {
                self.key.clear();
                self.nesting = Nesting::default();
                self.nesting.push(c);
                self.key.push(c);
                self.at = At::InKey;
            }
            At::Key | At::After if c == '}' => return self.end(tools, out),
            At::Colon if c == ':' => self.at = At::Value,
            At::Value => return self.begin_value(c, out),
            At::After if c == ',' => self.at = At::Key,
            _ => return Progress::Failed,
        }
        if self.key.len() + self.value.len() > MAX_WORD { Progress::Failed } else { Progress::More }
    }

    fn in_key(&mut self, c: char) {
        self.key.push(c);
        if self.nesting.push(c) {
            self.at = At::Colon;
        }
    }

    fn is_arguments(&self) -> bool {
        matches!(self.key.as_str(), "\"arguments\"" | "\"parameters\"")
    }

    fn begin_value(&mut self, c: char, out: &mut Vec<Piece>) -> Progress {
        self.nesting = Nesting::default();
        self.nesting.push(c);
        self.value.clear();
        self.at = At::InValue;
        if self.is_arguments()
            && c == '{'
            && !self.begun
            && let Some(name) = &self.name
        {
            (self.begun, self.tells) = (true, true);
            out.push(Piece::Begin(name.clone()));
        }
        if self.tells {
            out.push(Piece::Arguments(c.to_string()));
        } else {
            self.value.push(c);
        }
        Progress::More
    }

    fn in_value(&mut self, c: char, tools: &[Tool], out: &mut Vec<Piece>) -> Progress {
        let is_word = self.nesting.depth == 0 && !self.nesting.in_text;
        if is_word && (c == ',' || c == '}' || c.is_whitespace()) {
            // A number, true, false or null ends with what follows it.
            if self.take_value(tools, out) == Progress::Failed {
                return Progress::Failed;
            }
            return self.push(c, tools, out);
        }
        let ends = self.nesting.push(c);
        if self.tells {
            out.push(Piece::Arguments(c.to_string()));
        } else {
            self.value.push(c);
            // Arguments that have to wait for their name, or are a text, may be long; all else may not.
            if self.value.len() > if self.is_arguments() { 16 * MAX_WORD } else { MAX_WORD } {
                return Progress::Failed;
            }
        }
        if ends { self.take_value(tools, out) } else { Progress::More }
    }

    fn take_value(&mut self, tools: &[Tool], out: &mut Vec<Piece>) -> Progress {
        self.at = At::After;
        if std::mem::take(&mut self.tells) {
            return Progress::More;
        }
        let value = std::mem::take(&mut self.value);
        if self.key == "\"name\"" && self.name.is_none() {
            let name: Option<String> = serde_json::from_str(&value).ok();
            match name.filter(|name| tools.iter().any(|tool| tool.name == *name)) {
                Some(name) => self.name = Some(name),
                None => return Progress::Failed,
            }
        } else if self.is_arguments() && !self.begun {
            let Some(arguments) = as_object(&value) else { return Progress::Failed };
            self.early = Some(arguments);
        }
        if let (Some(name), Some(early)) = (&self.name, self.early.take_if(|_| self.name.is_some())) {
            self.begun = true;
            out.extend([Piece::Begin(name.clone()), Piece::Arguments(early)]);
        }
        Progress::More
    }

    fn end(&mut self, tools: &[Tool], out: &mut Vec<Piece>) -> Progress {
        match &self.name {
            Some(_) if self.begun => {}
            // A tool without arguments may be called without any; an object with nothing but a name may be anything.
            Some(name) if tools.iter().any(|tool| tool.name == *name && takes_none(tool)) => {
                out.extend([Piece::Begin(name.clone()), Piece::Arguments("{}".to_owned())]);
            }
            _ => return Progress::Failed,
        }
        out.push(Piece::End);
        Progress::Done
    }
}

fn takes_none(tool: &Tool) -> bool {
    tool.parameters["properties"].as_object().is_none_or(serde_json::Map::is_empty)
}

/// Arguments as some models write them: the object, its text within a text, or null.
fn as_object(value: &str) -> Option<String> {
    if value == "null" {
        return Some("{}".to_owned());
    }
    let text = serde_json::from_str::<String>(value).unwrap_or_else(|_| value.to_owned());
    object(&text).map(|_| text)
}
