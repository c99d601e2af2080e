//! JSON objects whose keys are checked as they are asked for.

use serde_json::{Map, Value};

use super::{FolderError, Problem};

/// A file that is one JSON object.
#[derive(Debug, Clone)]
pub(crate) struct Json {
    file: &'static str,
    value: Value,
}

/// An object of a file. A key that holds null is absent: that is how Python writes "none".
#[derive(Debug, Clone)]
pub(crate) struct Object<'a> {
    file: &'static str,
    /// Keys on the way here, each with a dot.
    path: String,
    map: &'a Map<String, Value>,
}

impl Json {
    pub(super) fn parse(file: &'static str, bytes: &[u8]) -> Result<Self, FolderError> {
        match serde_json::from_slice(bytes).or_else(|e| serde_json::from_slice(&finite(bytes).ok_or(e)?)) {
            Ok(value @ Value::Object(_)) => Ok(Self { file, value }),
            Ok(_) => Err(Problem::NotJson("it is no object".to_owned()).of(file)),
            Err(e) => Err(Problem::NotJson(e.to_string()).of(file)),
        }
    }

    pub(crate) fn value(&self) -> &Value {
        &self.value
    }

    pub(crate) fn root(&self) -> Object<'_> {
        let Value::Object(map) = &self.value else { unreachable!("parse lets nothing else pass") };
        Object { file: self.file, path: String::new(), map }
    }
}

/// Python writes numbers that JSON has not: they become null. `None`: there are none.
fn finite(bytes: &[u8]) -> Option<Vec<u8>> {
    const WORDS: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];
    let (mut out, mut found) = (Vec::with_capacity(bytes.len()), false);
    let (mut rest, mut in_text) = (bytes, false);
    while let Some((&byte, after)) = rest.split_first() {
        let word = WORDS.iter().find(|word| !in_text && rest.starts_with(word));
        if let Some(word) = word {
            out.extend_from_slice(b"null");
            rest = &rest[word.len()..];
            found = true;
            continue;
        }
        out.push(byte);
        rest = after;
        match byte {
            b'"' => in_text = !in_text,
            // What follows is no end of a text.
            b'\\' if in_text => {
                if let Some((&escaped, after)) = rest.split_first() {
                    out.push(escaped);
                    rest = after;
                }
            }
            _ => {}
        }
    }
    found.then_some(out)
}

impl<'a> Object<'a> {
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// It is there, and says that there is none.
    pub(crate) fn says_none(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(Value::is_null)
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.map.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// A required text.
    pub(crate) fn text(&self, key: &str) -> Result<&'a str, FolderError> {
        self.optional_text(key)?.ok_or_else(|| self.missing(key))
    }

    pub(crate) fn optional_text(&self, key: &str) -> Result<Option<&'a str>, FolderError> {
        self.typed(key, "a text", Value::as_str)
    }

    pub(crate) fn optional_number(&self, key: &str) -> Result<Option<u64>, FolderError> {
        self.typed(key, "a whole number", Value::as_u64)
    }

    /// A required number above zero.
    pub(crate) fn positive(&self, key: &str) -> Result<f32, FolderError> {
        self.optional_positive(key)?.ok_or_else(|| self.missing(key))
    }

    pub(crate) fn optional_positive(&self, key: &str) -> Result<Option<f32>, FolderError> {
        // As the model's floats are: what rounds to zero or to infinity would do harm as both.
        let number = |value: &Value| value.as_f64().map(|x| x as f32).filter(|x| x.is_finite() && *x > 0.0);
        self.typed(key, "a number above zero", number)
    }

    pub(crate) fn optional_flag(&self, key: &str) -> Result<Option<bool>, FolderError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub(crate) fn optional_array(&self, key: &str) -> Result<Option<&'a [Value]>, FolderError> {
        self.typed(key, "an array", |value| value.as_array().map(Vec::as_slice))
    }

    pub(crate) fn optional_object(&self, key: &str) -> Result<Option<Self>, FolderError> {
        let map = self.typed(key, "an object", Value::as_object)?;
        Ok(map.map(|map| Self { file: self.file, path: format!("{}{key}.", self.path), map }))
    }

    pub(crate) fn missing(&self, key: &str) -> FolderError {
        Problem::Missing(format!("{}{key}", self.path)).of(self.file)
    }

    pub(crate) fn inconsistent(&self, text: String) -> FolderError {
        Problem::Inconsistent(text).of(self.file)
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &'static str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, FolderError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wrong = || Problem::WrongType { key: format!("{}{key}", self.path), expected }.of(self.file);
        read(value).map(Some).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_json_has_not_are_null_and_texts_stay() {
        let text = br#"{"limit": [0.0, Infinity], "low":-Infinity, "n":NaN, "s": "NaN \"Infinity"}"#;
        let json = Json::parse("config.json", text).unwrap();
        let expected =
            serde_json::json!({"limit": [0.0, null], "low": null, "n": null, "s": "NaN \"Infinity"});
        assert_eq!(*json.value(), expected);
        assert!(Json::parse("config.json", br#"{"a": Infinit}"#).is_err());
        assert!(Json::parse("config.json", br#"{"a": NaN"#).is_err());
    }
}
