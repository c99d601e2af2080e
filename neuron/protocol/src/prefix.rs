//! Hashes of conversation prefixes, by which a gateway finds the node that already holds a conversation.
//!
//! A chain of xxh3-64: it starts from a salt (tenant, model, revision) and whatever else changes the
//! rendering (tools, template arguments), then takes in one message after another. Entry `i` stands for
//! everything up to and including message `i`, so two conversations share exactly the entries of the
//! messages that they share.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The chain of one conversation while it grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrefixChain(u64);

impl PrefixChain {
    /// `revision` is empty where it is unknown. The parts are length-prefixed, so none can pose as another.
    pub fn new(tenant: &str, model: &str, revision: &str) -> Self {
        Self(0).then(tenant.as_bytes()).then(model.as_bytes()).then(revision.as_bytes())
    }

    /// Takes in the next part: JSON without insignificant whitespace.
    #[must_use]
    pub fn then(self, part: &[u8]) -> Self {
        let length = xxh3_64_with_seed(&(part.len() as u64).to_le_bytes(), self.0);
        Self(xxh3_64_with_seed(part, length))
    }

    /// Takes in JSON text as it came, its insignificant whitespace left out.
    #[must_use]
    pub fn then_json(self, json: &str) -> Self {
        let (mut minified, mut in_string, mut escaped) = (Vec::with_capacity(json.len()), false, false);
        for &byte in json.as_bytes() {
            if in_string {
                in_string = escaped || byte != b'"';
                escaped = !escaped && byte == b'\\';
            } else if byte.is_ascii_whitespace() {
                continue;
            } else {
                in_string = byte == b'"';
            }
            minified.push(byte);
        }
        self.then(&minified)
    }

    /// The hash of everything taken in so far.
    pub fn value(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Test vectors: another implementation must give the same.
    #[test]
    fn vectors() {
        let chain = PrefixChain::new("tenant", "org/model", "");
        let first = chain.then(br#"{"role":"user","content":"hi"}"#);
        let second = first.then(br#"{"role":"assistant","content":"hello"}"#);
        let got = [chain, first, second].map(|c| format!("{:016x}", c.value()));
        assert_eq!(got, ["d4db88ccaae858c5", "064ce3ff1c4f0289", "382bd4daa400971b"]);
    }

    #[test]
    fn salts_and_boundaries_matter() {
        let a = PrefixChain::new("a", "bc", "").value();
        let b = PrefixChain::new("ab", "c", "").value();
        let c = PrefixChain::new("a", "bc", "r").value();
        assert!(a != b && a != c && b != c);
    }

    #[test]
    fn whitespace_outside_strings_does_not_matter() {
        let chain = PrefixChain::new("", "", "");
        let check = |spaced: &str, dense: &str| {
            assert_eq!(chain.then_json(spaced), chain.then(dense.as_bytes()), "{spaced}");
        };
        check("{ \"a\" : 1,\n\t\"b\": [ ] }", r#"{"a":1,"b":[]}"#);
        check(r#"{"a b": "c \" d \\" , "e": 1}"#, r#"{"a b":"c \" d \\","e":1}"#);
    }
}
