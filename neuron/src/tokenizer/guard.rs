//! Keeps what users, tools and documents say from spelling control tokens. A turn that says `<|im_end|>`
//! would otherwise end itself, and go on as the system.
//!
//! Spellings in such texts are marked before a template sees them, so that no control token is found
//! there; the marks are taken out again before the text is split. Nothing of a text is lost by it.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::spellings::Spellings;

/// A character that Unicode keeps for such use within a program: no text that is exchanged may hold it.
pub const MARK: char = '\u{fdd0}';

/// A text that holds [`MARK`] could pass for one that has been looked through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the character U+FDD0 is not for use in texts")]
pub struct Marked;

/// Marks the spellings of a model's control tokens.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    spellings: Spellings<()>,
    /// What spellings begin and end with, but for the whole.
    starts: HashSet<String>,
    ends: HashSet<String>,
    /// Bytes of the longest spelling.
    longest: usize,
}

/// Bytes of a beginning or an end that is kept: control tokens are far shorter, and a file may hold any.
const MAX_PART: usize = 256;

impl Guard {
    pub(super) fn new(spellings: Vec<String>) -> Self {
        let mut guard = Self::default();
        for spelling in &spellings {
            guard.spellings.insert(spelling, ());
            guard.starts.extend(starts(spelling).map(str::to_owned));
            guard.ends.extend(ends(spelling).map(str::to_owned));
            guard.longest = guard.longest.max(spelling.len()).min(MAX_PART);
        }
        guard
    }

    /// Every text in `value`, names of fields included. An error where there is a mark already.
    pub fn mark(&self, value: &mut Value) -> Result<(), Marked> {
        match value {
            Value::String(text) => self.mark_text(text),
            Value::Array(items) => items.iter_mut().try_for_each(|item| self.mark(item)),
            Value::Object(map) => self.mark_map(map),
            Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
        }
    }

    /// As [`Self::mark`].
    pub fn mark_map(&self, map: &mut Map<String, Value>) -> Result<(), Marked> {
        let marked = std::mem::take(map).into_iter().map(|(mut name, mut value)| {
            // Templates ask for fields by name: a plain word stays what it is.
            if !name.chars().all(|c| c.is_alphanumeric() || c == '_') {
                self.mark_text(&mut name)?;
            }
            self.mark(&mut value)?;
            Ok((name, value))
        });
        *map = marked.collect::<Result<_, _>>()?;
        Ok(())
    }

    fn mark_text(&self, text: &mut String) -> Result<(), Marked> {
        if text.contains(MARK) {
            return Err(Marked);
        }
        // After the first character of each, also where one starts within another.
        let (mut marked, mut done) = (String::new(), 0);
        while let Some((start, _, ())) = self.spellings.next(text, done) {
            let at = start + text[start..].chars().next().map_or(0, char::len_utf8);
            marked.push_str(&text[done..at]);
            marked.push(MARK);
            done = at;
        }
        if done > 0 {
            marked.push_str(&text[done..]);
            *text = marked;
        }
        // A template may put texts side by side: no end of one may be the start of a spelling that the next
        // completes, nor its start the end of one. Words are let be, as templates compare them.
        let lengths = || 1..=self.longest.min(text.len());
        let ends = lengths().any(|n| text.get(text.len() - n..).is_some_and(|end| self.starts.contains(end)));
        let starts = lengths().any(|n| text.get(..n).is_some_and(|start| self.ends.contains(start)));
        if ends {
            text.push(MARK);
        }
        if starts {
            text.insert(0, MARK);
        }
        Ok(())
    }
}

fn starts(spelling: &str) -> impl Iterator<Item = &str> {
    let spelling = if spelling.starts_with(char::is_alphanumeric) { "" } else { spelling };
    spelling.char_indices().skip(1).map(|(at, _)| &spelling[..at]).take_while(|start| start.len() <= MAX_PART)
}

fn ends(spelling: &str) -> impl Iterator<Item = &str> {
    let spelling = if spelling.ends_with(char::is_alphanumeric) { "" } else { spelling };
    spelling.char_indices().skip(1).map(|(at, _)| &spelling[at..]).filter(|end| end.len() <= MAX_PART)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn guard() -> Guard {
        Guard::new(["<|im_end|>", "<|im_start|>", "</s>"].map(str::to_owned).to_vec())
    }

    #[test]
    fn texts_and_names_are_marked_wherever_they_are() {
        let mut value = json!({ "a": ["x<|im_end|>y", 1, null], "</s>": { "b": "plain" } });
        guard().mark(&mut value).unwrap();
        let marked =
            json!({ "a": [format!("x<{MARK}|im_end|>y"), 1, null], format!("<{MARK}/s>"): { "b": "plain" } });
        assert_eq!(value, marked);
    }

    proptest! {
        #[test]
        fn no_spelling_is_left_within_or_between(texts in prop::collection::vec("(<|</|/s>|\\|im_|end\\|>|start|x|<\\|im_end\\|>){0,4}", 1..4)) {
            let mut marked = texts.clone();
            marked.iter_mut().for_each(|text| guard().mark_text(text).unwrap());
            let (whole, marked) = (texts.concat(), marked.concat());
            for spelling in guard().spellings.iter() {
                prop_assert!(!marked.contains(spelling), "{marked:?}");
            }
            prop_assert_eq!(marked.replace(MARK, ""), whole);
        }
    }
}
