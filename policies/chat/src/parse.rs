//! A body into a type, with errors for the one who wrote the body.

use serde::Deserialize;
use serde_path_to_error::Segment;

/// The error names the field, `messages.0.content.1.text: …`, and what is wrong there.
///
/// The path is looked for in a second pass: bodies are right nearly always, and keeping it costs.
pub fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| explain::<T>(body, &error))
}

/// A field that was kept as it came; `field` is its path in the body.
pub fn part<'a, T: Deserialize<'a>>(field: &str, json: &'a str) -> Result<T, String> {
    parse(json.as_bytes()).map_err(|error| match error.strip_prefix(WHOLE) {
        Some(what) => format!("{field}{what}"),
        None => format!("{field}.{error}"),
    })
}

/// What is said to be wrong where no field of it is.
const WHOLE: &str = "the request body";

#[cold]
fn explain<'a, T: Deserialize<'a>>(body: &'a [u8], error: &serde_json::Error) -> String {
    if !error.is_data() {
        return format!("the request body is not valid JSON: {error}");
    }
    let from = &mut serde_json::Deserializer::from_slice(body);
    let Err(found) = serde_path_to_error::deserialize::<_, T>(from) else { return error.to_string() };
    let mut path: Vec<String> = found.path().iter().filter_map(name).collect();
    let mut what = found.inner().to_string();
    // The field is said by name; line and column of a body on one line help nobody.
    what.truncate(what.rfind(" at line ").unwrap_or(what.len()));
    for (serde, ours) in
        [("missing field `", "this field is required"), ("duplicate field `", "this field is given twice")]
    {
        if let Some(field) = what.strip_prefix(serde) {
            path.push(field.trim_end_matches('`').to_owned());
            what = ours.into();
        }
    }
    if let Some(at) = what.find("expected struct ") {
        what.replace_range(at.., "expected an object");
    }
    match path.is_empty() {
        true => format!("{WHOLE}: {what}"),
        false => format!("{}: {what}", path.join(".")),
    }
}

fn name(segment: &Segment) -> Option<String> {
    match segment {
        Segment::Seq { index } => Some(index.to_string()),
        Segment::Map { key } => Some(key.clone()),
        Segment::Enum { .. } | Segment::Unknown => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Text;
    use crate::text::OrList;

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only its errors are looked at")]
    struct Body<'a> {
        #[serde(borrow)]
        model: Text<'a>,
        #[serde(borrow, default)]
        list: Vec<Inner<'a>>,
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only its errors are looked at")]
    struct Inner<'a> {
        #[serde(borrow)]
        content: OrList<'a, Text<'a>>,
    }

    #[test]
    fn errors_say_where() {
        let check = |body: &str, want: &str| {
            let got = parse::<Body<'_>>(body.as_bytes()).unwrap_err();
            assert!(got.starts_with(want), "{got}");
        };
        check(r#"{"model":5}"#, "model: invalid type: integer `5`, expected a string");
        check(
            r#"{"model":"m","list":[{"content":"a"},{"content":["a",{}]}]}"#,
            "list.1.content.1: invalid type: map",
        );
        check(
            r#"{"model":"m","list":[{"content":5}]}"#,
            "list.0.content: invalid type: integer `5`, expected a string or a list",
        );
        check(r#"{"model":"m","list":[{}]}"#, "list.0.content: this field is required");
        check("{}", "model: this field is required");
        check("[]", "the request body: invalid length 0, expected an object");
        check(r#"{"model":"a","model":"b"}"#, "model: this field is given twice");
        check(r#"{"model""#, "the request body is not valid JSON: EOF");
    }

    #[test]
    fn errors_of_a_part() {
        let check = |json: &str, want: &str| {
            let got = part::<Body<'_>>("a.b", json).unwrap_err();
            assert!(got.starts_with(want), "{got}");
        };
        check("5", "a.b: invalid type: integer `5`, expected an object");
        check(r#"{"model":5}"#, "a.b.model: invalid type");
    }

    #[test]
    fn text_is_borrowed_where_it_can_be() {
        let check = |body: &str, borrowed| {
            let body: Body<'_> = parse(body.as_bytes()).unwrap();
            assert_eq!(matches!(body.model.0, std::borrow::Cow::Borrowed(_)), borrowed);
        };
        check(r#"{"model":"é"}"#, true);
        check(r#"{"model":"\n"}"#, false);
    }
}
