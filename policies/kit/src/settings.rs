//! Settings: the flat JSON object that `configure` gets, read without a JSON library.

use crate::text;
use alloc::string::String;
use core::ops::RangeInclusive;

/// One setting: a key that the policy knows, and the text of its value.
pub struct Setting<'a> {
    key: &'a str,
    text: &'a str,
}

/// Calls `set` with the index in `known` and the value of every member of the object. An error is a
/// sentence for the operator: what `set` says, where the text is not a JSON object, or an unknown key.
pub fn read(
    json: &str,
    known: &[&str],
    set: &mut dyn FnMut(usize, Setting) -> Result<(), String>,
) -> Result<(), String> {
    let mut scan = Scan { text: json, at: 0 };
    scan.expect("{")?;
    if !scan.take(b'}') {
        loop {
            let key = scan.string()?;
            scan.expect(":")?;
            let text = scan.value()?;
            let Some(at) = known.iter().position(|k| *k == key) else { return Err(unknown(key, known)) };
            set(at, Setting { key, text })?;
            if !scan.take(b',') {
                break;
            }
        }
        scan.expect("}")?;
    }
    scan.space();
    if scan.at == json.len() { Ok(()) } else { Err(scan.wrong("the end")) }
}

impl Setting<'_> {
    /// A whole number in `range`; `expected` says in words what is, for the error.
    pub fn integer(&self, range: RangeInclusive<u32>, expected: &str) -> Result<u32, String> {
        let thousandths = self.decimal().filter(|n| n % 1000 == 0);
        thousandths
            .and_then(|n| u32::try_from(n / 1000).ok())
            .filter(|n| range.contains(n))
            .ok_or_else(|| self.not(expected))
    }

    /// A number with at most three decimals, in thousandths, in `range` (thousandths too).
    pub fn thousandths(&self, range: RangeInclusive<u32>, expected: &str) -> Result<u32, String> {
        let thousandths = self.decimal().and_then(|n| u32::try_from(n).ok());
        thousandths.filter(|n| range.contains(n)).ok_or_else(|| self.not(expected))
    }

    /// `true` or `false`.
    pub fn flag(&self) -> Result<bool, String> {
        match self.text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(self.not("true or false")),
        }
    }

    #[inline(never)]
    fn not(&self, expected: &str) -> String {
        text(&[self.key, " is ", self.text, ", expected ", expected])
    }

    /// `12`, `1.25`: digits, at most three decimals that are not zero; in thousandths.
    fn decimal(&self) -> Option<u64> {
        let mut value: u64 = 0;
        let mut decimals = None;
        let mut before = b'.';
        for byte in self.text.bytes() {
            match (byte, decimals) {
                (b'.', None) if before != b'.' => decimals = Some(0),
                (b'0', Some(3)) => {}
                (b'0'..=b'9', None | Some(0..3)) => {
                    value = times_ten(value)? + u64::from(byte & 15);
                    decimals = decimals.map(|n| n + 1);
                }
                _ => return None,
            }
            before = byte;
        }
        // Nothing at all, or nothing behind the point.
        if before == b'.' {
            return None;
        }
        (decimals.unwrap_or(0)..3).try_fold(value, |value, _| times_ten(value))
    }
}

/// Far from an overflow and far past every setting.
fn times_ten(value: u64) -> Option<u64> {
    (value < 1 << 56).then_some(value * 10)
}

#[inline(never)]
fn unknown(key: &str, known: &[&str]) -> String {
    match known.iter().min_by_key(|name| distance(key, name)) {
        None => text(&["unknown setting \"", key, "\"; this policy takes none"]),
        Some(name) => text(&["unknown setting \"", key, "\"; the nearest that there is: \"", name, "\""]),
    }
}

/// Letters of a key that are compared; none of ours is longer.
const LONGEST: usize = 48;

/// How many letters to insert, remove or replace (Levenshtein's distance), of the first [`LONGEST`].
fn distance(a: &str, b: &str) -> usize {
    // One row of the table: what turns the beginning of `a` into each beginning of `b`.
    let mut row: [usize; LONGEST] = core::array::from_fn(|i| i + 1);
    let mut answer = b.len().min(LONGEST);
    for (i, x) in a.bytes().take(LONGEST).enumerate() {
        let (mut diagonal, mut left) = (i, i + 1);
        for (above, y) in row.iter_mut().zip(b.bytes()) {
            left = (diagonal + usize::from(x != y)).min(left + 1).min(*above + 1);
            diagonal = *above;
            *above = left;
        }
        answer = left;
    }
    answer
}

struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        self.space();
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn expect(&mut self, punctuation: &str) -> Result<(), String> {
        let there = punctuation.bytes().all(|byte| self.take(byte));
        if there { Ok(()) } else { Err(self.wrong(punctuation)) }
    }

    #[inline(never)]
    fn wrong(&self, expected: &str) -> String {
        let rest = self.text.get(self.at..).unwrap_or_default();
        text(&["the settings are not a JSON object: expected ", expected, " before \"", rest, "\""])
    }

    /// What stands between the quotes, escapes left as they are: no key of ours has one.
    fn string(&mut self) -> Result<&'a str, String> {
        self.expect("\"")?;
        let start = self.at;
        loop {
            match self.peek() {
                None => return Err(self.wrong("\"")),
                Some(b'"') => break,
                Some(b'\\') => self.at += 2,
                Some(_) => self.at += 1,
            }
        }
        self.at += 1;
        Ok(self.text.get(start..self.at - 1).unwrap_or_default())
    }

    /// The text of a value of any kind, nested ones whole.
    fn value(&mut self) -> Result<&'a str, String> {
        self.space();
        let start = self.at;
        let mut depth = 0usize;
        loop {
            match self.peek() {
                None | Some(b',' | b'}' | b']') if depth == 0 => break,
                None => return Err(self.wrong("the end of a value")),
                Some(b'"') => {
                    self.string()?;
                    continue;
                }
                Some(b'{' | b'[') => depth += 1,
                Some(b'}' | b']') => depth -= 1,
                Some(_) => {}
            }
            self.at += 1;
        }
        match self.text.get(start..self.at).map(str::trim_ascii_end) {
            None | Some("") => Err(self.wrong("a value")),
            Some(text) => Ok(text),
        }
    }
}

#[cfg(test)]
mod tests;
