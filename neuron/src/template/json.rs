//! `tojson`, as the transformers library has it: Python's `json.dumps`, with what it lets a template choose.

use std::fmt::Write;

use minijinja::{
    Error, ErrorKind, Value,
    value::{Kwargs, ValueKind},
};
use serde_json::{Number, Value as Json};

use crate::tokenizer::MARK;

/// How JSON is written.
struct Style {
    /// What a level is moved in by; `None`: all in one line.
    indent: Option<String>,
    between_items: String,
    between_key_and_value: String,
    is_ascii: bool,
    sorts: bool,
}

/// `json.dumps(…, ensure_ascii=False)`: `, ` and `: ` between, no HTML escapes.
pub(super) fn tojson(value: &Value, kwargs: Kwargs) -> Result<Value, Error> {
    let indent: Option<Value> = kwargs.get("indent")?;
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    let style = Style::new(
        indent.as_ref(),
        separators,
        kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    )?;
    kwargs.assert_all_used()?;
    let json =
        serde_json::to_value(value).map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    let mut text = String::new();
    style.dump(&json, 0, &mut text);
    Ok(Value::from_safe_string(text))
}

impl Style {
    fn new(
        indent: Option<&Value>,
        separators: Option<Vec<String>>,
        is_ascii: bool,
        sorts: bool,
    ) -> Result<Self, Error> {
        let wrong = |what: &str| Error::new(ErrorKind::InvalidOperation, format!("tojson: {what}"));
        let indent = match indent {
            None => None,
            Some(none) if none.is_none() || none.is_undefined() => None,
            Some(text) if text.kind() == ValueKind::String => Some(text.to_string()),
            Some(width) => {
                let width = width.as_usize().filter(|width| *width <= 64);
                Some(" ".repeat(width.ok_or_else(|| wrong("indent is neither a text nor a small number"))?))
            }
        };
        let [between_items, between_key_and_value] = match separators {
            None => [if indent.is_some() { "," } else { ", " }, ": "].map(str::to_owned),
            Some(two) => two.try_into().map_err(|_| wrong("separators are not two"))?,
        };
        Ok(Self { indent, between_items, between_key_and_value, is_ascii, sorts })
    }

    fn dump(&self, value: &Json, depth: usize, out: &mut String) {
        match value {
            Json::Array(items) => {
                self.dump_all(['[', ']'], items.iter().map(|item| (None, item)), depth, out);
            }
            Json::Object(map) => {
                let mut items: Vec<_> = map.iter().map(|(key, item)| (Some(key), item)).collect();
                if self.sorts {
                    items.sort_by_key(|(key, _)| *key);
                }
                self.dump_all(['{', '}'], items.into_iter(), depth, out);
            }
            Json::String(text) => self.text(text, out),
            Json::Number(number) => out.push_str(&python_number(number)),
            plain => out.push_str(&plain.to_string()),
        }
    }

    fn dump_all<'j>(
        &self,
        [open, close]: [char; 2],
        items: impl ExactSizeIterator<Item = (Option<&'j String>, &'j Json)>,
        depth: usize,
        out: &mut String,
    ) {
        out.push(open);
        let empty = items.len() == 0;
        let new_line = |depth: usize, out: &mut String| {
            if let Some(indent) = &self.indent {
                out.push('\n');
                (0..depth).for_each(|_| out.push_str(indent));
            }
        };
        for (i, (key, item)) in items.enumerate() {
            if i > 0 {
                out.push_str(&self.between_items);
            }
            new_line(depth + 1, out);
            if let Some(key) = key {
                self.text(key, out);
                out.push_str(&self.between_key_and_value);
            }
            self.dump(item, depth + 1, out);
        }
        if !empty {
            new_line(depth, out);
        }
        out.push(close);
    }

    fn text(&self, text: &str, out: &mut String) {
        let quoted = Json::String(text.to_owned()).to_string();
        if !self.is_ascii {
            out.push_str(&quoted);
            return;
        }
        for c in quoted.chars() {
            // The guard's mark is no part of the text: it goes before anybody reads it.
            if c.is_ascii() || c == MARK {
                out.push(c);
                continue;
            }
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Into a string: it cannot fail.
                write!(out, "\\u{unit:04x}").ok();
            }
        }
    }
}

/// Whole numbers as they are; others with the fewest digits that say which they are, and an exponent from where
/// Python has one.
fn python_number(number: &Number) -> String {
    let Some(float) = number.as_f64().filter(|_| number.is_f64()) else { return number.to_string() };
    let scientific = format!("{float:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    match exponent.parse::<i32>() {
        Ok(exponent @ (..-4 | 16..)) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        _ => format!("{float:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_pythons() {
        let check = |json: &str, expected: &str| {
            assert_eq!(python_number(&serde_json::from_str(json).unwrap()), expected);
        };
        check("21.5", "21.5");
        check("2.0", "2.0");
        check("7", "7");
        check("-18446744073709551615", "-1.8446744073709552e+19");
        check("1e16", "1e+16");
        check("123456789012345.6", "123456789012345.6");
        check("0.0001", "0.0001");
        check("0.00001", "1e-05");
        check("1.5e-7", "1.5e-07");
        check("1e300", "1e+300");
    }
}
