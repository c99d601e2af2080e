//! Spellings that are looked for in text: thousands of them may start alike, so text is not searched for one
//! after the other.

use std::collections::HashMap;

/// A value for each spelling.
#[derive(Debug, Clone)]
pub(super) struct Spellings<T> {
    values: HashMap<String, T>,
    /// Bytes of the spellings that start with a character, the longest first: they have few lengths.
    lengths: HashMap<char, Vec<usize>>,
}

impl<T> Default for Spellings<T> {
    fn default() -> Self {
        Self { values: HashMap::new(), lengths: HashMap::new() }
    }
}

impl<T> Spellings<T> {
    /// The empty spelling is nowhere.
    pub(super) fn insert(&mut self, spelling: &str, value: T) {
        let Some(first) = spelling.chars().next() else { return };
        self.values.insert(spelling.to_owned(), value);
        let lengths = self.lengths.entry(first).or_default();
        if let Err(at) = lengths.binary_search_by(|length| spelling.len().cmp(length)) {
            lengths.insert(at, spelling.len());
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// The longest that the text starts with: its bytes and its value.
    pub(super) fn at_start(&self, text: &str) -> Option<(usize, &T)> {
        let lengths = self.lengths.get(&text.chars().next()?)?;
        lengths.iter().find_map(|length| Some((*length, self.values.get(text.get(..*length)?)?)))
    }

    /// The first in the text from `at` on: its start, its end and its value.
    pub(super) fn next(&self, text: &str, at: usize) -> Option<(usize, usize, &T)> {
        text[at..].char_indices().find_map(|(start, _)| {
            let (len, value) = self.at_start(&text[at + start..])?;
            Some((at + start, at + start + len, value))
        })
    }
}
