//! Thoughts in front of an answer, told apart from it.

/// What opens a model's thoughts, and what ends them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Marks {
    pub(crate) start: &'static str,
    pub(crate) end: &'static str,
}

const KNOWN: [Marks; 3] = [
    Marks { start: "<think>", end: "</think>" },
    Marks { start: "[THINK]", end: "[/THINK]" },
    Marks { start: "<seed:think>", end: "</seed:think>" },
];

impl Marks {
    /// By what the template writes of them.
    pub(crate) fn of_template(source: &str) -> Option<Self> {
        KNOWN.into_iter().find(|marks| source.contains(marks.start) || source.contains(marks.end))
    }

    /// Whether a prompt has opened them.
    pub(crate) fn are_open(self, prompt: &str) -> bool {
        prompt.trim_end().ends_with(self.start)
    }
}

/// A part of what a model writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    Thought(String),
    Answer(String),
}

/// Splits one answer.
#[derive(Debug, Clone)]
pub(crate) struct Splitter {
    marks: Option<Marks>,
    at: At,
    /// May be the start of a mark, or space that a mark follows.
    held: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Nothing but space has come.
    Start,
    /// Right after the mark: its line ends with it.
    Opened,
    Thoughts,
    /// Space between thoughts and answer belongs to neither.
    Ended,
    Answer,
}

impl Splitter {
    /// `None`: a model that has no such thing. `open`: the prompt has opened them.
    pub(crate) fn new(marks: Option<Marks>, open: bool) -> Self {
        let at = match marks {
            None => At::Answer,
            Some(_) if open => At::Opened,
            Some(_) => At::Start,
        };
        Self { marks, at, held: String::new() }
    }

    /// Whether what came last is thought.
    pub(crate) fn is_thinking(&self) -> bool {
        matches!(self.at, At::Opened | At::Thoughts)
    }

    pub(crate) fn push(&mut self, text: &str) -> Vec<Part> {
        let Some(marks) = self.marks.filter(|_| self.at != At::Answer) else {
            return part(Part::Answer, text.to_owned());
        };
        self.held.push_str(text);
        let mut out = Vec::new();
        loop {
            let before = self.at;
            match self.at {
                At::Start => {
                    let came = self.held.trim_start();
                    if let Some(rest) = came.strip_prefix(marks.start) {
                        self.held = rest.to_owned();
                        self.at = At::Opened;
                    } else if !marks.start.starts_with(came) {
                        self.at = At::Answer;
                    }
                }
                At::Opened | At::Ended => {
                    self.held = self.held.trim_start().to_owned();
                    if !self.held.is_empty() {
                        self.at = if before == At::Opened { At::Thoughts } else { At::Answer };
                    }
                }
                At::Thoughts => out.extend(self.thoughts(marks)),
                At::Answer => out.extend(part(Part::Answer, std::mem::take(&mut self.held))),
            }
            if self.at == before {
                return out;
            }
        }
    }

    fn thoughts(&mut self, marks: Marks) -> Vec<Part> {
        if let Some(at) = self.held.find(marks.end) {
            let thought = self.held[..at].trim_end().to_owned();
            self.held = self.held[at + marks.end.len()..].to_owned();
            self.at = At::Ended;
            return part(Part::Thought, thought);
        }
        let starts = |end: &&str| self.held.ends_with(*end);
        let mark = (1..marks.end.len()).rev().filter_map(|len| marks.end.get(..len)).find(starts);
        let kept = self.held[..self.held.len() - mark.map_or(0, str::len)].trim_end().len();
        let rest = self.held.split_off(kept);
        part(Part::Thought, std::mem::replace(&mut self.held, rest))
    }

    /// The text is over.
    pub(crate) fn finish(&mut self) -> Vec<Part> {
        let held = std::mem::take(&mut self.held);
        match self.at {
            At::Opened | At::Thoughts => part(Part::Thought, held.trim_end().to_owned()),
            At::Start | At::Ended | At::Answer => part(Part::Answer, held),
        }
    }
}

fn part(kind: impl Fn(String) -> Part, text: String) -> Vec<Part> {
    if text.is_empty() { Vec::new() } else { vec![kind(text)] }
}

/// Any text as what a model writes, with marks and cut as `how` says; for fuzzing.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(how: u8, text: &str) {
    let marks = KNOWN.get(usize::from(how) % 4).copied();
    let (open, length) = (how & 4 != 0, 1 + usize::from(how >> 3));
    let read = |length: usize| {
        let mut splitter = Splitter::new(marks, open);
        let all: Vec<char> = text.chars().collect();
        let mut parts: Vec<Part> = all
            .chunks(length.max(1))
            .flat_map(|some| splitter.push(&some.iter().collect::<String>()))
            .collect();
        parts.extend(splitter.finish());
        parts.into_iter().fold((String::new(), String::new()), |(thoughts, answer), part| match part {
            Part::Thought(text) => (thoughts + &text, answer),
            Part::Answer(text) => (thoughts, answer + &text),
        })
    };
    let whole = read(text.len());
    assert!(whole.0.len() + whole.1.len() <= text.len(), "nothing is said twice");
    assert_eq!(whole, read(length), "how it is cut changes nothing");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const THINK: Option<Marks> = Some(KNOWN[0]);

    /// Thoughts and answer of a text that comes in these pieces.
    fn split(marks: Option<Marks>, open: bool, pieces: &[&str]) -> (String, String) {
        let mut splitter = Splitter::new(marks, open);
        let mut parts: Vec<Part> = pieces.iter().flat_map(|piece| splitter.push(piece)).collect();
        parts.extend(splitter.finish());
        let mut out = (String::new(), String::new());
        for part in parts {
            match part {
                Part::Thought(text) => out.0 += &text,
                Part::Answer(text) => out.1 += &text,
            }
        }
        out
    }

    fn check(marks: Option<Marks>, open: bool, text: &str, thoughts: &str, answer: &str) {
        let expected = (thoughts.to_owned(), answer.to_owned());
        assert_eq!(split(marks, open, &[text]), expected, "{text}");
        let single: Vec<String> = text.chars().map(String::from).collect();
        let single: Vec<&str> = single.iter().map(String::as_str).collect();
        assert_eq!(split(marks, open, &single), expected, "{text}, character by character");
    }

    #[test]
    fn thoughts_stand_apart() {
        check(THINK, false, "<think>\na b\n\n</think>\n\nc\n", "a b", "c\n");
        check(THINK, false, "\n <think>a</think>b", "a", "b");
        check(THINK, true, "a\n</think>\nb", "a", "b");
        check(THINK, true, "a </thin b </think>c", "a </thin b", "c");
        check(THINK, true, "<think>a</think>c", "<think>a", "c");
        // Cut short.
        check(THINK, true, "a b </thi", "a b </thi", "");
        check(THINK, false, "<thin", "", "<thin");
        // An empty span, as models write it that are told not to think.
        check(THINK, false, "<think>\n\n</think>\n\nc", "", "c");
    }

    #[test]
    fn what_is_no_thought_is_untouched() {
        check(THINK, false, "  a <think>b</think>", "", "  a <think>b</think>");
        check(THINK, false, "a", "", "a");
        check(None, false, "<think>a</think>b", "", "<think>a</think>b");
        check(THINK, false, "<think>a</think> b <think>c</think>", "a", "b <think>c</think>");
    }

    proptest! {
        #[test]
        fn cutting_changes_nothing(parts in prop::collection::vec("(<think>|</think>|[<>/thinka \n日])", 0..20), open: bool, cuts in prop::collection::vec(0usize..30, 0..8)) {
            let text: String = parts.concat();
            let mut at: Vec<usize> = cuts.into_iter().map(|at| at.min(text.len())).filter(|at| text.is_char_boundary(*at)).collect();
            at.sort_unstable();
            let ends = at.iter().copied().chain([text.len()]);
            let pieces: Vec<&str> = [0].into_iter().chain(at.iter().copied()).zip(ends).map(|(a, b)| &text[a..b]).collect();
            prop_assert_eq!(split(THINK, open, &pieces), split(THINK, open, &[&text]));
        }
    }
}
