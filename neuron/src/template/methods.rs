//! Methods of Python's strings and lists that the engine's own collection lacks.

use minijinja::{
    Error, ErrorKind, State, Value,
    value::{ValueKind, from_args},
};

/// Called for a method that a value does not have itself.
pub(super) fn unknown(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let known = match value.kind() {
        ValueKind::String => text(value.as_str().unwrap_or_default(), method, args)?,
        ValueKind::Seq => list(value, method, args)?,
        ValueKind::Map if method == "copy" => Some(value.clone()),
        _ => None,
    };
    match known {
        Some(known) => Ok(known),
        None => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args),
    }
}

fn text(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let one = || from_args::<(&str,)>(args).map(|(one,)| one);
    let three = |parts: [&str; 3]| Value::from(parts.map(Value::from).to_vec());
    Ok(Some(match method {
        "removeprefix" => Value::from(text.strip_prefix(one()?).unwrap_or(text)),
        "removesuffix" => Value::from(text.strip_suffix(one()?).unwrap_or(text)),
        "partition" => {
            let by = one()?;
            text.split_once(by).map_or_else(|| three([text, "", ""]), |(a, b)| three([a, by, b]))
        }
        "rpartition" => {
            let by = one()?;
            text.rsplit_once(by).map_or_else(|| three(["", "", text]), |(a, b)| three([a, by, b]))
        }
        "rsplit" => rsplit(text, args)?,
        "index" => found(text.find(one()?).map(|at| text[..at].chars().count()))?,
        "rindex" => found(text.rfind(one()?).map(|at| text[..at].chars().count()))?,
        "casefold" => Value::from(text.to_lowercase()),
        "zfill" => {
            let (width,): (usize,) = from_args(args)?;
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['-', '+'])));
            let zeros = width.min(MOST).saturating_sub(text.chars().count());
            Value::from(format!("{sign}{}{digits}", "0".repeat(zeros)))
        }
        "ljust" | "rjust" => {
            let (width, fill): (usize, Option<char>) = from_args(args)?;
            let missing = width.min(MOST).saturating_sub(text.chars().count());
            let fill = String::from_iter(std::iter::repeat_n(fill.unwrap_or(' '), missing));
            Value::from(if method == "ljust" { format!("{text}{fill}") } else { format!("{fill}{text}") })
        }
        _ => return Ok(None),
    }))
}

/// Characters that a text is filled up to at most: a template is foreign.
const MOST: usize = 1 << 16;

fn rsplit(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (by, most): (Option<&str>, Option<i64>) = from_args(args)?;
    let most = most.and_then(|most| usize::try_from(most).ok());
    let mut parts: Vec<&str> = match (by, most) {
        (Some(by), Some(most)) => text.rsplitn(most.saturating_add(1), by).collect(),
        (Some(by), None) => text.rsplit(by).collect(),
        (None, most) => spaced_from_the_end(text, most.unwrap_or(usize::MAX)),
    };
    parts.reverse();
    Ok(parts.into_iter().map(Value::from).collect())
}

/// Words, the last first; with what is left in front as it is once there are enough.
fn spaced_from_the_end(text: &str, most: usize) -> Vec<&str> {
    let (mut words, mut rest) = (Vec::new(), text.trim_end());
    while !rest.is_empty() {
        let word = rest.rsplit(char::is_whitespace).next().unwrap_or(rest);
        if words.len() == most || word.len() == rest.len() {
            words.push(rest);
            break;
        }
        words.push(word);
        rest = rest[..rest.len() - word.len()].trim_end();
    }
    words
}

fn list(value: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    match method {
        "copy" => Ok(Some(value.clone())),
        "index" => {
            let (wanted,): (Value,) = from_args(args)?;
            found(value.try_iter()?.position(|item| item == wanted)).map(Some)
        }
        _ => Ok(None),
    }
}

/// Python raises where it is not there.
fn found(at: Option<usize>) -> Result<Value, Error> {
    at.map(Value::from)
        .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "what was looked for is not there"))
}
