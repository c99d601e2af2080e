//! A call as Qwen3-Coder writes it: `<function=name>` with a `<parameter=key>` for each argument.

use serde_json::Value;

use super::{Piece, Progress, Tool};

/// Bytes of one argument.
const MAX_VALUE: usize = 4 << 20;

/// Reads up to `</function>`, or to whatever stands in its place.
#[derive(Debug, Clone, Default)]
pub(super) struct XmlCall {
    text: String,
    name: Option<String>,
    /// Of the argument that is being read.
    key: Option<String>,
    told: usize,
}

impl XmlCall {
    pub(super) fn push(&mut self, c: char, tools: &[Tool], out: &mut Vec<Piece>) -> Progress {
        self.text.push(c);
        // Every mark ends with this.
        if c != '>' {
            return if self.text.len() > MAX_VALUE { Progress::Failed } else { Progress::More };
        }
        if self.key.is_some() {
            return self.value(tools, out);
        }
        let text = self.text.trim().to_owned();
        self.text.clear();
        let mark = |open: &str| text.strip_prefix(open).and_then(|rest| rest.strip_suffix('>'));
        if self.name.is_none() {
            let name = mark("<function=").unwrap_or_default().trim();
            if !tools.iter().any(|tool| tool.name == name) {
                return Progress::Failed;
            }
            self.name = Some(name.to_owned());
            out.push(Piece::Begin(name.to_owned()));
        } else if let Some(key) = mark("<parameter=") {
            self.key = Some(key.trim().to_owned());
        } else {
            // `</function>`; where that is missing, what was said of the call is whole all the same.
            let rest = if self.told == 0 { "{}" } else { "}" };
            out.extend([Piece::Arguments(rest.to_owned()), Piece::End]);
            return Progress::Done;
        }
        Progress::More
    }

    /// The value may hold anything but the mark that ends it.
    fn value(&mut self, tools: &[Tool], out: &mut Vec<Piece>) -> Progress {
        let Some(value) = self.text.strip_suffix("</parameter>") else { return Progress::More };
        let value = value.strip_prefix('\n').unwrap_or(value);
        let value = value.strip_suffix('\n').unwrap_or(value);
        let key = self.key.take().unwrap_or_default();
        let tool = tools.iter().find(|tool| Some(&tool.name) == self.name.as_ref());
        let is_text = tool.is_some_and(|tool| tool.is_text(&key));
        let json = if is_text { None } else { serde_json::from_str::<Value>(value).ok() };
        let json = json.unwrap_or_else(|| Value::String(value.to_owned()));
        let before = if self.told == 0 { "{" } else { ", " };
        out.push(Piece::Arguments(format!("{before}{}: {json}", Value::String(key))));
        self.told += 1;
        self.text.clear();
        Progress::More
    }
}
