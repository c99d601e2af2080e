//! What an answer's tokens say: text as it is complete, thoughts apart from it, stop strings, calls of tools.

use super::{
    Drawn,
    stop::{Matched, StopMatcher},
};
use crate::{
    api::params::{Params, Tools},
    reasoning::{Marks, Part, Splitter},
    tokenizer::{TextStream, Tokenizer},
    tools::{self, Notation, Parser},
};

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::api) enum Piece {
    Text(String),
    Thought(String),
    /// A call of this tool begins; the next pieces but texts are its.
    Call {
        id: String,
        name: String,
    },
    Arguments(String),
}

/// Why nothing more is wanted of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Over {
    /// This stop string was met.
    Stop(String),
    /// The one call that the request takes was made.
    Called,
}

/// What became of a token.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) pieces: Vec<Piece>,
    /// Tokens of the answer that were drawn since there was last something to tell.
    pub(super) tokens: Vec<Drawn>,
    pub(super) over: Option<Over>,
}

/// Makes one answer of its tokens.
#[derive(Debug, Clone)]
pub(super) struct Output {
    text: TextStream,
    splitter: Splitter,
    stops: StopMatcher,
    parser: Option<Parser>,
    /// Control tokens that count as text, by their spellings.
    marks: Vec<&'static str>,
    parallel: bool,
    short_ids: bool,
    thought: usize,
    held: Vec<Drawn>,
}

impl Output {
    pub(super) fn new(
        params: &Params,
        thoughts: Option<(Marks, bool)>,
        tools: Option<(Notation, Tools)>,
    ) -> Self {
        let mut marks: Vec<&'static str> =
            thoughts.iter().flat_map(|(marks, _)| [marks.start, marks.end]).collect();
        marks.extend(tools.iter().flat_map(|(notation, _)| notation.marks()));
        let splitter =
            Splitter::new(thoughts.map(|(marks, _)| marks), thoughts.is_some_and(|(_, open)| open));
        // Its templates take no other ids.
        let short = |notation: Notation| matches!(notation, Notation::Mistral | Notation::MistralNamed);
        let short_ids = tools.as_ref().is_some_and(|(notation, _)| short(*notation));
        let parallel = tools.as_ref().is_none_or(|(_, tools)| tools.parallel);
        Self {
            text: TextStream::default(),
            splitter,
            stops: StopMatcher::new(params.stop.clone()),
            parser: tools.map(|(notation, tools)| Parser::new(notation, tools.all)),
            marks,
            parallel,
            short_ids,
            thought: 0,
            held: Vec::new(),
        }
    }

    /// Tokens so far that were thought.
    pub(super) fn thought(&self) -> usize {
        self.thought
    }

    /// Whether a tool was called, begun at least.
    pub(super) fn has_called(&self) -> bool {
        self.parser.as_ref().is_some_and(Parser::has_called)
    }

    pub(super) fn push(&mut self, tokenizer: &Tokenizer, drawn: Drawn) -> Taken {
        let piece = match tokenizer.piece(drawn.id) {
            [] => {
                let spelling = tokenizer.spelling_of(drawn.id);
                if self.marks.contains(&spelling) { spelling.as_bytes() } else { &[] }
            }
            piece => piece,
        };
        let text = self.text.push(piece);
        let thinking = self.splitter.is_thinking();
        let parts = self.splitter.push(&text);
        if thinking || self.splitter.is_thinking() {
            self.thought += 1;
        }
        self.held.push(drawn);
        let mut taken = self.tell(parts);
        if matches!(taken.over, Some(Over::Stop(_))) {
            self.drop_stop(tokenizer, &taken.pieces);
        }
        if !taken.pieces.is_empty() || taken.over.is_some() {
            taken.tokens.append(&mut self.held);
        }
        taken
    }

    /// Tokens that are the stop string's are told as little as it is.
    fn drop_stop(&mut self, tokenizer: &Tokenizer, told: &[Piece]) {
        let length = |piece: &Piece| match piece {
            Piece::Text(text) => text.len(),
            Piece::Thought(_) | Piece::Call { .. } | Piece::Arguments(_) => 0,
        };
        let mut left: usize = told.iter().map(length).sum();
        let is_told = |drawn: &&Drawn| {
            let bytes = tokenizer.piece(drawn.id).len();
            let fits = (1..=left).contains(&bytes);
            left = left.saturating_sub(bytes);
            fits
        };
        let kept = self.held.iter().take_while(is_told).count();
        self.held.truncate(kept);
    }

    /// The model has said all.
    pub(super) fn finish(&mut self) -> Taken {
        let rest = self.text.finish();
        let mut parts = self.splitter.push(&rest);
        parts.extend(self.splitter.finish());
        let mut taken = self.tell(parts);
        if taken.over.is_none() {
            let rest = self.stops.finish();
            self.answer(rest, &mut taken);
            let pieces = self.parser.as_mut().map(Parser::finish).unwrap_or_default();
            self.calls(pieces, &mut taken);
            // The end of the text is not the end of a call: the engine says how it ended.
            taken.over = None;
        }
        taken.tokens.append(&mut self.held);
        taken
    }

    fn tell(&mut self, parts: Vec<Part>) -> Taken {
        let mut taken = Taken::default();
        for part in parts {
            match part {
                Part::Thought(text) => taken.pieces.push(Piece::Thought(text)),
                // Stop strings are for the answer: what is thought may hold anything.
                Part::Answer(text) => match self.stops.push(&text) {
                    Matched::Text(text) => self.answer(text, &mut taken),
                    Matched::Stop(text, which) => {
                        self.answer(text, &mut taken);
                        let pieces = self.parser.as_mut().map(Parser::finish).unwrap_or_default();
                        self.calls(pieces, &mut taken);
                        taken.over = Some(Over::Stop(self.stops.stop(which).to_owned()));
                    }
                },
            }
            if taken.over.is_some() {
                break;
            }
        }
        taken
    }

    fn answer(&mut self, text: String, taken: &mut Taken) {
        if text.is_empty() {
            return;
        }
        match &mut self.parser {
            None => taken.pieces.push(Piece::Text(text)),
            Some(parser) => {
                let pieces = parser.push(&text);
                self.calls(pieces, taken);
            }
        }
    }

    fn calls(&self, pieces: Vec<tools::Piece>, taken: &mut Taken) {
        for piece in pieces {
            match piece {
                tools::Piece::Text(text) => taken.pieces.push(Piece::Text(text)),
                tools::Piece::Begin(name) => {
                    let id = call_id(self.short_ids);
                    taken.pieces.push(Piece::Call { id, name });
                }
                tools::Piece::Arguments(text) => taken.pieces.push(Piece::Arguments(text)),
                tools::Piece::End if self.parallel => {}
                tools::Piece::End => {
                    taken.over = Some(Over::Called);
                    return;
                }
            }
        }
    }
}

/// Of letters and digits, as every template takes it.
fn call_id(short: bool) -> String {
    let unique = super::super::layers::unique("");
    let digits: String = unique.chars().filter(char::is_ascii_alphanumeric).collect();
    match short {
        // The last ones tell two calls of a moment apart.
        true => digits[digits.len().saturating_sub(9)..].to_owned(),
        false => format!("call_{digits}"),
    }
}
