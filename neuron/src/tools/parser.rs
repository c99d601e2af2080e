//! Finds calls in a text that comes in pieces.

use super::{
    Progress, Tool,
    gemma::GemmaCall,
    json::JsonCall,
    named::NamedCall,
    notation::{Kind, Notation},
    xml::XmlCall,
};
use crate::text::overlap;

/// A part of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    Text(String),
    /// A call of this tool, whose arguments follow.
    Begin(String),
    /// More of the arguments, JSON.
    Arguments(String),
    /// The call is whole.
    End,
}

/// Reads one answer.
#[derive(Debug, Clone)]
pub(crate) struct Parser {
    notation: Notation,
    tools: Vec<Tool>,
    state: State,
    /// Since the last piece of text, as it came: it is text again if it turns out to be no call.
    raw: String,
    /// Nothing but space has come.
    at_start: bool,
    called: bool,
}

#[derive(Debug, Clone)]
enum State {
    /// `raw` may be the start of a mark.
    Text,
    /// A mark has opened a call; what comes first tells its form.
    Opened(Kind),
    /// Whether it has begun for the one who reads: then there is no way back.
    Call(Call, bool),
    /// After a call; `raw` may be the start of what closes it, or of the next one's mark.
    After,
}

#[derive(Debug, Clone)]
enum Call {
    Object(JsonCall),
    Named(NamedCall),
    Xml(XmlCall),
    Gemma(GemmaCall),
}

impl Call {
    fn push(&mut self, c: char, tools: &[Tool], out: &mut Vec<Piece>) -> Progress {
        match self {
            Self::Object(call) => call.push(c, tools, out),
            Self::Named(call) => call.push(c, tools, out),
            Self::Xml(call) => call.push(c, tools, out),
            Self::Gemma(call) => call.push(c, tools, out),
        }
    }
}

impl Parser {
    pub(crate) fn new(notation: Notation, tools: Vec<Tool>) -> Self {
        Self { notation, tools, state: State::Text, raw: String::new(), at_start: true, called: false }
    }

    /// Whether there was a call, begun at least.
    pub(crate) fn has_called(&self) -> bool {
        self.called
    }

    /// What more of the text tells.
    pub(crate) fn push(&mut self, text: &str) -> Vec<Piece> {
        let mut out = Vec::new();
        text.chars().for_each(|c| self.take(c, &mut out));
        joined(out)
    }

    /// The text is over.
    pub(crate) fn finish(&mut self) -> Vec<Piece> {
        let mut out = Vec::new();
        match std::mem::replace(&mut self.state, State::Text) {
            State::Call(_, true) => out.push(Piece::End),
            State::After if self.raw.trim().is_empty() => {}
            // Behind a call, another that was cut off before it began.
            State::Opened(_) | State::Call(..) if self.called => {}
            State::After if self.may_come() => {}
            _ => out.push(Piece::Text(std::mem::take(&mut self.raw))),
        }
        self.raw.clear();
        out.retain(|piece| *piece != Piece::Text(String::new()));
        out
    }

    fn take(&mut self, c: char, out: &mut Vec<Piece>) {
        match &mut self.state {
            State::Text => {
                self.raw.push(c);
                self.text(out);
            }
            State::Opened(kind) => {
                let kind = *kind;
                self.raw.push(c);
                self.opened(kind, c, out);
            }
            State::Call(call, begun) => {
                if !*begun {
                    self.raw.push(c);
                }
                let before = out.len();
                let progress = call.push(c, &self.tools, out);
                if out.len() > before && !*begun {
                    *begun = true;
                    self.raw.clear();
                    self.called = true;
                }
                match progress {
                    Progress::More => {}
                    Progress::Done => self.state = State::After,
                    // What went wrong after its arguments is not worth a word.
                    Progress::Failed if *begun => {
                        out.push(Piece::End);
                        self.state = State::After;
                        self.raw.push(c);
                        self.after(out);
                    }
                    Progress::Failed => self.give_up(out),
                }
            }
            State::After => {
                self.raw.push(c);
                self.after(out);
            }
        }
    }

    /// All of `raw` is text.
    fn give_up(&mut self, out: &mut Vec<Piece>) {
        self.state = State::Text;
        self.at_start &= self.raw.trim().is_empty();
        out.push(Piece::Text(std::mem::take(&mut self.raw)));
    }

    fn text(&mut self, out: &mut Vec<Piece>) {
        if self.at_start
            && let Some((mark, kind)) = self.notation.opens_at_start()
            && self.raw.trim_start() == mark
        {
            return self.open(kind, out, true);
        }
        let mut found = None;
        let mut kept = 0;
        for (mark, kind) in self.notation.opens() {
            if self.raw.ends_with(mark) {
                found = Some((mark.len(), *kind));
            }
            kept = kept.max(overlap(&self.raw, mark));
        }
        let is_space =
            self.at_start && self.notation.opens_at_start().is_some() && self.raw.trim().is_empty();
        if is_space && found.is_none() {
            return;
        }
        let text = self.raw.len() - found.map_or(kept, |(length, _)| length);
        let rest = self.raw.split_off(text);
        let text = std::mem::replace(&mut self.raw, rest);
        self.at_start &= text.trim().is_empty();
        if !text.is_empty() {
            out.push(Piece::Text(text));
        }
        if let Some((_, kind)) = found {
            self.open(kind, out, false);
        }
    }

    /// `with_mark`: the mark is the call's first character.
    fn open(&mut self, kind: Kind, out: &mut Vec<Piece>, with_mark: bool) {
        self.state = match kind {
            Kind::Group => State::After,
            kind => State::Opened(kind),
        };
        if kind == Kind::Group {
            self.raw.clear();
        } else if with_mark {
            self.opened(kind, '{', out);
        }
    }

    /// The first character after a mark that is no space.
    fn opened(&mut self, kind: Kind, c: char, out: &mut Vec<Piece>) {
        if c.is_whitespace() {
            return;
        }
        let call = match (kind, c) {
            (Kind::Listed, '[') => {
                // Its objects come as those of a bare sequence do.
                self.state = State::Opened(Kind::Object);
                return;
            }
            (Kind::Tagged | Kind::Object | Kind::Listed, '{') => Call::Object(JsonCall::default()),
            (Kind::Tagged, '<') => Call::Xml(XmlCall::default()),
            (Kind::Listed | Kind::Named, _) => Call::Named(NamedCall::default()),
            (Kind::Gemma, _) => Call::Gemma(GemmaCall::default()),
            _ => return self.give_up(out),
        };
        self.state = State::Call(call, false);
        // It is in `raw` already.
        let length = self.raw.len() - c.len_utf8();
        self.raw.truncate(length);
        self.take(c, out);
    }

    /// Whether `raw` may be the start of what stands after a call.
    fn may_come(&self) -> bool {
        let raw = self.raw.trim_start();
        let opens = self.notation.opens().iter().copied().chain(self.notation.opens_after());
        let marks = opens.map(|(mark, _)| mark).chain(self.notation.closes().iter().copied());
        raw.is_empty() || marks.into_iter().any(|mark| mark.starts_with(raw))
    }

    fn after(&mut self, out: &mut Vec<Piece>) {
        let raw = self.raw.trim_start();
        let mut opens = self.notation.opens().iter().copied().chain(self.notation.opens_after());
        if let Some((mark, kind)) = opens.find(|(mark, _)| raw == *mark) {
            let is_first = self.notation.opens_after().is_some_and(|(first, _)| first == mark);
            return self.open(kind, out, is_first);
        }
        if self.notation.closes().contains(&raw) {
            self.raw.clear();
        } else if !self.may_come() {
            self.state = State::Text;
            self.at_start = false;
            // It is text, but the start of a mark may be within.
            let raw = std::mem::take(&mut self.raw);
            raw.chars().for_each(|c| self.take(c, out));
        }
    }
}

/// Pieces of one kind that follow each other, as one.
fn joined(pieces: Vec<Piece>) -> Vec<Piece> {
    let mut out: Vec<Piece> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        match (out.last_mut(), piece) {
            (Some(Piece::Text(last)), Piece::Text(text)) => last.push_str(&text),
            (Some(Piece::Arguments(last)), Piece::Arguments(text)) => last.push_str(&text),
            (_, piece) => out.push(piece),
        }
    }
    out
}

/// Any text as what a model writes, in a notation and cut as `how` says; for fuzzing.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(how: u8, text: &str) {
    const ALL: [Notation; 7] = [
        Notation::Hermes,
        Notation::Llama,
        Notation::Mistral,
        Notation::MistralNamed,
        Notation::DeepSeek,
        Notation::DeepSeekPlain,
        Notation::Gemma,
    ];
    let (notation, length) = (ALL[usize::from(how) % ALL.len()], 1 + usize::from(how) / ALL.len());
    let parameters = serde_json::json!({ "properties": { "place": { "type": "string" } } });
    let tool = |name: &str| Tool { name: name.to_owned(), parameters: parameters.clone(), strict: false };
    let read = |length: usize| {
        let mut parser = Parser::new(notation, vec![tool("weather"), tool("time")]);
        let all: Vec<char> = text.chars().collect();
        let mut pieces: Vec<Piece> = all
            .chunks(length.max(1))
            .flat_map(|some| parser.push(&some.iter().collect::<String>()))
            .collect();
        pieces.extend(parser.finish());
        joined(pieces)
    };
    let pieces = read(text.len());
    assert_eq!(pieces, read(length), "how it is cut changes nothing");
    let mut open = false;
    for piece in &pieces {
        match piece {
            Piece::Begin(_) => assert!(!std::mem::replace(&mut open, true), "a call in a call"),
            Piece::End => assert!(std::mem::replace(&mut open, false), "an end without a call"),
            Piece::Arguments(_) => assert!(open, "arguments of no call"),
            Piece::Text(said) => assert!(!open && !said.is_empty(), "text in a call"),
        }
    }
    assert!(!open, "a call without an end");
}

#[cfg(test)]
mod tests;
