//! A TOML error as a person wants it: file, line, key, and the nearest key that exists.

/// Names closer than this to a known key are taken for a misspelling of it (1 = equal).
const NEAR: f64 = 0.6;

pub(super) fn explain(file: &str, text: &str, error: &toml::de::Error) -> String {
    let message = error.message();
    let place = match error.span() {
        None => file.to_owned(),
        Some(span) => {
            let before = text.get(..span.start).unwrap_or(text);
            format!("{file}:{}", before.matches('\n').count() + 1)
        }
    };
    match unknown_field(message) {
        Some((key, known)) => {
            let hint = match nearest(key, &known) {
                Some(name) => format!("; did you mean {name:?}?"),
                None => format!("; known are {}", known.join(", ")),
            };
            format!("{place}: unknown key {key:?}{hint}")
        }
        None => match key_at(text, error) {
            Some(key) => format!("{place}: {key}: {message}"),
            None => format!("{place}: {message}"),
        },
    }
}

/// serde writes: unknown field `x`, expected one of `a`, `b`.
fn unknown_field(message: &str) -> Option<(&str, Vec<&str>)> {
    let mut quoted = message.strip_prefix("unknown field")?.split('`').skip(1).step_by(2);
    Some((quoted.next()?, quoted.collect()))
}

fn nearest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    let score = |name: &str| strsim::jaro_winkler(key, name);
    let best = known.iter().copied().max_by(|a, b| score(a).total_cmp(&score(b)))?;
    (score(best) >= NEAR).then_some(best)
}

/// The key of the line on which the error lies.
fn key_at<'a>(text: &'a str, error: &toml::de::Error) -> Option<&'a str> {
    let start = text.get(..error.span()?.start)?.rfind('\n').map_or(0, |at| at + 1);
    let (key, _) = text.get(start..)?.lines().next()?.split_once('=')?;
    Some(key.trim()).filter(|key| !key.is_empty())
}
