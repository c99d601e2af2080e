//! Hashes of conversation prefixes, by which a gateway finds the node that already holds a conversation.
//!
//! A chain of xxh3-64: it starts from a salt (tenant, model, revision) and whatever else changes the
//! rendering (tools, template arguments), then takes in one message after another. Entry `i` stands for
//! everything up to and including message `i`, so two conversations share exactly the entries of the
//! messages that they share.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Bytes of a tenant's name that count; of a longer one the rest does not.
const MAX_TENANT: usize = 256;

/// A tenant's name as it counts, from what came in the header `x-cortex-tenant`.
pub fn tenant(name: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(&name[..name.len().min(MAX_TENANT)])
}

/// The chain of one conversation while it grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrefixChain(u64);

impl PrefixChain {
    /// `revision` is empty where it is unknown. The parts are length-prefixed, so none can pose as another.
    pub fn new(tenant: &str, model: &str, revision: &str) -> Self {
        Self(0).then(tenant.as_bytes()).then(model.as_bytes()).then(revision.as_bytes())
    }

    /// The chain of a chat request before its first message. `tools` and `template_arguments` are JSON text
    /// as it came in `tools` and `chat_template_kwargs`; `None` where the field is absent or null, and for
    /// tools also where `tool_choice` is `"none"`, for then they are not rendered.
    pub fn of_request(
        tenant: &str,
        model: &str,
        revision: &str,
        tools: Option<&str>,
        template_arguments: Option<&str>,
    ) -> Self {
        let salted = Self::new(tenant, model, revision);
        salted.then_json(tools.unwrap_or_default()).then_json(template_arguments.unwrap_or_default())
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

    /// The same, as it goes over the wire.
    pub fn hash(self) -> PrefixHash {
        PrefixHash(self.0)
    }
}

/// An entry's hash. On the wire 16 hexadecimal digits: JSON's numbers are exact only to 2^53.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PrefixHash(pub u64);

impl Serialize for PrefixHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:016x}", self.0))
    }
}

impl<'de> Deserialize<'de> for PrefixHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <Cow<'de, str>>::deserialize(deserializer)?;
        let plain = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let value = plain.then(|| u64::from_str_radix(&text, 16).ok()).flatten();
        value.map(Self).ok_or_else(|| D::Error::custom(format!("{text:?} is not 16 hexadecimal digits")))
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
    fn vectors_of_whole_requests() {
        let plain = PrefixChain::of_request("", "org/model", "", None, None);
        let full = PrefixChain::of_request("t", "org/model", "main", Some(r#"[ {"a":1} ]"#), Some("{}"));
        let message = r#"{ "role": "user", "content": "Zürich \u00e9" }"#;
        let got = [plain, plain.then_json(message), full, full.then_json(message)];
        let got = got.map(|chain| format!("{:016x}", chain.value()));
        assert_eq!(got, ["1b3c0f88096cc6b4", "e5b4e36a1c9eac3e", "ad9fc3fc717649ec", "191391bc6f26c29e"]);
    }

    #[test]
    fn a_hash_is_16_digits_and_nothing_else() {
        let hash: PrefixHash = serde_json::from_str(r#""00ff00000000000a""#).unwrap();
        assert_eq!(hash, PrefixHash(0x00ff_0000_0000_000a));
        assert_eq!(serde_json::to_string(&hash).unwrap(), r#""00ff00000000000a""#);
        for bad in ["5", r#""""#, r#""ff""#, r#""+0ff00000000000a""#, r#""00ff00000000000g""#] {
            assert!(serde_json::from_str::<PrefixHash>(bad).is_err(), "{bad}");
        }
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
