//! Stop strings, found wherever the text is cut. What might be the start of one is held back.

use crate::text::overlap;

/// Watches an answer for its stop strings.
#[derive(Debug, Clone)]
pub(super) struct StopMatcher {
    stops: Vec<String>,
    /// Text that may still turn out to be the start of a stop string.
    held: String,
}

/// What became of a piece of text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Matched {
    /// This much is surely no part of a stop string.
    Text(String),
    /// The text before it, and the stop string by its place in the request.
    Stop(String, usize),
}

impl StopMatcher {
    pub(super) fn new(stops: Vec<String>) -> Self {
        Self { stops, held: String::new() }
    }

    pub(super) fn push(&mut self, text: &str) -> Matched {
        self.held.push_str(text);
        // The one that starts first; of two at one place, the one given first.
        let found =
            self.stops.iter().enumerate().filter_map(|(i, stop)| Some((self.held.find(stop.as_str())?, i)));
        if let Some((at, which)) = found.min() {
            self.held.truncate(at);
            return Matched::Stop(std::mem::take(&mut self.held), which);
        }
        let keep = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        Matched::Text(std::mem::replace(&mut self.held, rest))
    }

    /// The answer ended: what was held back is text after all.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// The stop string by its place in the request.
    pub(super) fn stop(&self, which: usize) -> &str {
        self.stops.get(which).map_or("", String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What comes out, piece by piece, and the stop string that ended it.
    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, Option<String>) {
        let mut matcher = StopMatcher::new(stops.iter().map(|s| (*s).to_owned()).collect());
        let mut out = Vec::new();
        for piece in pieces {
            match matcher.push(piece) {
                Matched::Text(text) => out.push(text),
                Matched::Stop(text, which) => {
                    out.push(text);
                    return (out, Some(matcher.stop(which).to_owned()));
                }
            }
        }
        out.push(matcher.finish());
        (out, None)
    }

    fn check(stops: &[&str], pieces: &[&str], expected: &[&str], stop: Option<&str>) {
        let expected: Vec<String> = expected.iter().map(|s| (*s).to_owned()).collect();
        assert_eq!(run(stops, pieces), (expected, stop.map(str::to_owned)), "{stops:?} {pieces:?}");
    }

    #[test]
    fn no_part_of_a_stop_string_leaks() {
        check(&["END"], &["a E", "N", "D b"], &["a ", "", ""], Some("END"));
        check(&["END"], &["a E", "N", "d"], &["a ", "", "ENd", ""], None);
        check(&["END"], &["a EN"], &["a ", "EN"], None);
        check(&["\n\n", "b"], &["a\n", "b"], &["a", "\n"], Some("b"));
        check(&["aab"], &["aaab"], &["a"], Some("aab"));
        check(&["日本"], &["x日", "本"], &["x", ""], Some("日本"));
        check(&[], &["any"], &["any", ""], None);
        check(&["bc", "abc"], &["zabc"], &["z"], Some("abc"));
    }

    proptest! {
        #[test]
        fn cutting_changes_nothing(text in "[ab]{0,40}", stops in prop::collection::vec("[ab]{1,5}", 0..3), at in 0usize..40) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let at = at.min(text.len());
            let whole = run(&stops, &[&text]);
            let single: Vec<String> = text.chars().map(String::from).collect();
            let single = run(&stops, &single.iter().map(String::as_str).collect::<Vec<_>>());
            let halves = run(&stops, &[&text[..at], &text[at..]]);
            // However it is cut, nothing that contains a stop string comes out, and without one all of it.
            for (out, stop) in [&whole, &single, &halves] {
                let out = out.concat();
                prop_assert!(text.starts_with(&out));
                prop_assert!(stops.iter().all(|stop| !out.contains(stop)));
                prop_assert_eq!(stop.is_none(), out == text);
            }
        }
    }
}
