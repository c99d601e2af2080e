//! A streamed answer: chunks in, blocks out, one after the other, however the chunks mix them.

mod blocks;
mod object;

use crate::answer::{Choice, Completion, Finish, Usage};
use crate::error::NativeError;
use crate::sse;
use blocks::Blocks;

/// What a block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Thoughts,
    Words,
    Call,
}

/// A call whose name is known.
#[derive(Debug, Clone, Copy)]
pub struct NewCall<'a> {
    /// Made where the server sent none.
    pub id: &'a str,
    pub name: &'a str,
}

/// What the first chunk tells.
#[derive(Debug, Clone, Copy, Default)]
pub struct First {
    /// As far as it is known.
    pub usage: Usage,
    /// Seconds since the Unix epoch; 0 where the server does not tell.
    pub created: u64,
}

/// How a dialect writes a stream. The order of calls is that of a grammar:
/// `begin (open delta* close)* (end | fail)`; `fail` may come at any time, also first, and is the last.
pub trait Writer {
    fn begin(&mut self, first: First, out: &mut Vec<u8>);
    /// `call` where the block is one.
    fn open(&mut self, kind: Kind, call: Option<NewCall<'_>>, out: &mut Vec<u8>);
    /// `text` is not empty; of a call it is a piece of its arguments.
    fn delta(&mut self, kind: Kind, text: &str, out: &mut Vec<u8>);
    /// `cut`: the answer came to its length inside the block.
    fn close(&mut self, kind: Kind, cut: bool, out: &mut Vec<u8>);
    fn end(&mut self, finish: &Finish, usage: &Usage, out: &mut Vec<u8>);
    fn fail(&mut self, error: &NativeError, out: &mut Vec<u8>);
}

/// Reads a native stream.
pub struct Stream<W> {
    pub writer: W,
    state: State,
    blocks: Blocks,
    /// Held until the usage is known.
    finish: Option<Finish>,
    usage: Option<Usage>,
}

#[derive(PartialEq)]
enum State {
    Waiting,
    Open,
    Ended,
}

impl<W: Writer> Stream<W> {
    /// `seed`: for the ids of calls that have none.
    pub fn new(writer: W, seed: u64) -> Self {
        Self { writer, state: State::Waiting, blocks: Blocks::new(seed), finish: None, usage: None }
    }

    /// Whole native events.
    pub fn events(&mut self, events: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(events.len() + events.len() / 2);
        sse::each(events, |data| self.event(data, &mut out));
        out
    }

    /// The native stream is over: well if the model had ended, else with an error. Whether it broke off is seen by that.
    pub fn finish(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        self.end(&mut out);
        out
    }

    fn event(&mut self, data: &[u8], out: &mut Vec<u8>) {
        if self.state == State::Ended {
            return;
        }
        if data == b"[DONE]" {
            return self.end(out);
        }
        match serde_json::from_slice::<Completion<'_>>(data) {
            Ok(Completion { error: Some(error), .. }) => {
                let otherwise = NativeError::broken().message;
                self.fail(&NativeError::of_event(error.get(), &otherwise), out);
            }
            Ok(chunk) => self.chunk(chunk, out),
            Err(_) => self.fail(&NativeError::unreadable(), out),
        }
    }

    fn chunk(&mut self, chunk: Completion<'_>, out: &mut Vec<u8>) {
        if self.state == State::Waiting {
            self.state = State::Open;
            let first = First { usage: chunk.usage.unwrap_or_default(), created: chunk.created };
            self.writer.begin(first, out);
        }
        // On the last chunk, on one of its own, or on every one: the last counts.
        self.usage = chunk.usage.or(self.usage);
        let of_first = |choice: &Choice<'_>| choice.index.unwrap_or(0) == 0;
        if let Some(choice) = chunk.choices.into_iter().flatten().find(of_first)
            && let Err(error) = self.choice(&choice, out)
        {
            return self.fail(&error, out);
        }
        if self.finish.is_some() && chunk.usage.is_some() {
            self.end(out);
        }
    }

    /// Thoughts, words, calls, the end: one chunk may hold all of them.
    fn choice(&mut self, choice: &Choice<'_>, out: &mut Vec<u8>) -> Result<(), NativeError> {
        let Self { writer, blocks, .. } = self;
        if let Some(said) = &choice.delta {
            if let Some(thoughts) = said.thoughts() {
                blocks.say(Kind::Thoughts, thoughts, writer, out);
            }
            if let Some(words) = said.words() {
                blocks.say(Kind::Words, words, writer, out);
            }
            for (at, piece) in said.tool_calls.iter().flatten().enumerate() {
                blocks.call(piece, at, writer, out)?;
            }
        }
        if let Some(finish) = Finish::of(choice, blocks.called()) {
            self.finish = Some(finish);
        }
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        if self.state == State::Ended {
            return;
        }
        let Some(finish) = self.finish.take() else { return self.fail(&NativeError::broken(), out) };
        self.blocks.close_all(finish == Finish::Length, &mut self.writer, out);
        self.writer.end(&finish, &self.usage.unwrap_or_default(), out);
        self.state = State::Ended;
    }

    fn fail(&mut self, error: &NativeError, out: &mut Vec<u8>) {
        self.writer.fail(error, out);
        self.state = State::Ended;
    }
}

#[cfg(test)]
mod tests;
