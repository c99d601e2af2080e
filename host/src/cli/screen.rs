//! A terminal: colours where there is one, words of others that cannot steer it, and a view that stays.

mod keys;
mod view;

pub(super) use view::{Drawn, stay};

use serde_json::Value;
use std::io::{IsTerminal, stdout};

/// What a state is painted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    Good,
    Warn,
    Bad,
    Soft,
}

/// Colours are for people at a terminal who have not refused them.
pub(super) fn has_colours() -> bool {
    stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

pub(super) fn paint(colour: Colour, text: &str) -> String {
    let code = match colour {
        Colour::Good => 32,
        Colour::Warn => 33,
        Colour::Bad => 31,
        Colour::Soft => 2,
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// What others wrote, for a terminal that they do not write to: characters that steer it, or turn the direction of
/// writing, are replaced, but for those in `kept`.
pub(super) fn shown(text: &str, kept: &[char]) -> String {
    let turns = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.replace(|c: char| (c.is_control() || turns(c)) && !kept.contains(&c), "\u{fffd}")
}

/// The same for everything that a gateway said, which has it of nodes, models and clients.
pub(super) fn plain(value: &Value) -> Value {
    match value {
        Value::String(text) => shown(text, &[]).into(),
        Value::Array(all) => all.iter().map(plain).collect(),
        Value::Object(all) => all.iter().map(|(name, value)| (shown(name, &[]), plain(value))).collect(),
        other => other.clone(),
    }
}

/// The last values as bars, the highest full.
pub(super) fn sparkline(values: impl Iterator<Item = f64> + Clone) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = values.clone().fold(0.0, f64::max);
    let bar = |value: f64| match most > 0.0 {
        true => BARS[((value / most * 7.0).round() as usize).min(7)],
        false => BARS[0],
    };
    values.map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_writes_to_the_terminal() {
        let bad = "GPU\x1b]0;owned\x07\u{9b}2J\r\nNODE \u{202e}gpj";
        assert_eq!(shown(bad, &['\n']), "GPU\u{fffd}]0;owned\u{fffd}\u{fffd}2J\u{fffd}\nNODE \u{fffd}gpj");
        let said = serde_json::json!({"a\x1b": [bad, 1, {"b": "é\t"}]});
        let text = plain(&said).to_string();
        assert!(!text.contains("\\u00") && !text.contains("\\n") && text.contains("é\u{fffd}"), "{text}");
    }

    #[test]
    fn the_highest_is_full() {
        assert_eq!(sparkline([0.0, 5.0, 10.0].into_iter()), "▁▅█");
        assert_eq!(sparkline([0.0, 0.0].into_iter()), "▁▁");
    }
}
