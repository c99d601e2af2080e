//! What a model says, in blocks: one is open at a time, and calls that come mixed wait for their turn.

use super::object::Object;
use super::{Kind, NewCall, Writer};
use crate::answer::{CallPiece, made_id};
use crate::error::NativeError;

/// Calls of one answer; a stream with more is no model's.
const MOST_CALLS: usize = 1024;
/// Bytes of arguments that wait for their turn, of all calls together.
const MOST_HELD: usize = 4 << 20;

pub(super) struct Blocks {
    seed: u64,
    open: Option<Open>,
    calls: Vec<Call>,
    /// Calls before this one have had their blocks.
    current: usize,
    held: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    Prose(Kind),
    /// Position in `calls`.
    Call(usize),
}

/// A call as it arrives.
struct Call {
    native_index: u64,
    id: String,
    name: String,
    held: String,
    /// What was said of its arguments.
    said: Object,
}

impl Open {
    fn kind(self) -> Kind {
        match self {
            Self::Prose(kind) => kind,
            Self::Call(_) => Kind::Call,
        }
    }
}

impl Blocks {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, open: None, calls: Vec::new(), current: 0, held: 0 }
    }

    pub(super) fn called(&self) -> bool {
        self.calls.iter().any(|call| !call.name.is_empty())
    }

    pub(super) fn say(&mut self, kind: Kind, text: &str, to: &mut impl Writer, out: &mut Vec<u8>) {
        if self.open != Some(Open::Prose(kind)) {
            self.drain_calls(to, out);
            self.close(to, out);
            to.open(kind, None, out);
            self.open = Some(Open::Prose(kind));
        }
        to.delta(kind, text, out);
    }

    /// One entry of a delta's `tool_calls`, `at` its place there, which serves where it has no index.
    pub(super) fn call(
        &mut self,
        piece: &CallPiece<'_>,
        at: usize,
        to: &mut impl Writer,
        out: &mut Vec<u8>,
    ) -> Result<(), NativeError> {
        let slot = self.slot(piece, at);
        if slot == self.calls.len() {
            if slot == MOST_CALLS {
                return Err(too_much("calls"));
            }
            let native_index = piece.index.unwrap_or(at as u64);
            let (id, name, held) = (String::new(), String::new(), String::new());
            self.calls.push(Call { native_index, id, name, held, said: Object::default() });
        }
        let call = &mut self.calls[slot];
        if let Some(id) = piece.id.as_ref().filter(|_| call.id.is_empty()) {
            call.id.push_str(id);
        }
        let Some(function) = &piece.function else { return Ok(()) };
        if let Some(name) = function.name.as_ref().filter(|_| call.name.is_empty()) {
            call.name.push_str(name);
        }
        let arguments = function.arguments();
        // What usually comes: more of the call that is open.
        if self.open == Some(Open::Call(slot)) && call.held.is_empty() {
            if !arguments.is_empty() {
                call.said.push(&arguments);
                to.delta(Kind::Call, &arguments, out);
            }
            self.go_on(to, out);
            return Ok(());
        }
        if slot < self.current && !arguments.trim().is_empty() {
            // Its block is closed: what it says now has nowhere to go.
            return Err(NativeError::unreadable());
        }
        call.held.push_str(&arguments);
        self.held += arguments.len();
        if self.held > MOST_HELD {
            return Err(too_much("arguments"));
        }
        self.advance(to, out);
        self.go_on(to, out);
        Ok(())
    }

    /// Which call a piece is of: by its index, and where it has none by its id, and without that the last one.
    fn slot(&self, piece: &CallPiece<'_>, at: usize) -> usize {
        let found = match (piece.index, piece.id.as_deref().filter(|id| !id.is_empty())) {
            // A new id and a name under an index that was had: a new call.
            (Some(index), id) => {
                let last = self.calls.iter().rposition(|call| call.native_index == index);
                last.filter(|&slot| !is_another(&self.calls[slot], id, piece))
            }
            (None, Some(id)) => self.calls.iter().position(|call| call.id == id),
            (None, None) if at == 0 => self.calls.len().checked_sub(1),
            (None, None) => self.calls.iter().position(|call| call.native_index == at as u64),
        };
        found.unwrap_or(self.calls.len())
    }

    /// To the next call, once the one before it is whole.
    fn go_on(&mut self, to: &mut impl Writer, out: &mut Vec<u8>) {
        while self.current + 1 < self.calls.len() && self.calls[self.current].said.is_whole() {
            self.current += 1;
            self.advance(to, out);
        }
    }

    /// Says what the current call holds.
    fn advance(&mut self, to: &mut impl Writer, out: &mut Vec<u8>) {
        let slot = self.current;
        if self.calls.get(slot).is_none_or(|call| call.name.is_empty()) {
            return;
        }
        if self.open != Some(Open::Call(slot)) {
            self.close(to, out);
            let call = &mut self.calls[slot];
            if call.id.is_empty() {
                call.id = made_id(self.seed, slot);
            }
            to.open(Kind::Call, Some(NewCall { id: &call.id, name: &call.name }), out);
            self.open = Some(Open::Call(slot));
        }
        let held = std::mem::take(&mut self.calls[slot].held);
        self.held -= held.len();
        if !held.is_empty() {
            self.calls[slot].said.push(&held);
            to.delta(Kind::Call, &held, out);
        }
    }

    /// Gives every call that came so far its block.
    fn drain_calls(&mut self, to: &mut impl Writer, out: &mut Vec<u8>) {
        while self.current < self.calls.len() {
            self.advance(to, out);
            self.current += 1;
        }
    }

    /// At the end of the answer; `cut` where it came to its length.
    pub(super) fn close_all(&mut self, cut: bool, to: &mut impl Writer, out: &mut Vec<u8>) {
        self.drain_calls(to, out);
        if let Some(open) = self.open.take() {
            to.close(open.kind(), cut, out);
        }
    }

    fn close(&mut self, to: &mut impl Writer, out: &mut Vec<u8>) {
        if let Some(open) = self.open.take() {
            to.close(open.kind(), false, out);
        }
    }
}

fn is_another(call: &Call, id: Option<&str>, piece: &CallPiece<'_>) -> bool {
    let named = piece.function.as_ref().and_then(|f| f.name.as_ref()).is_some_and(|name| !name.is_empty());
    named && id.is_some_and(|id| !call.id.is_empty() && call.id != id)
}

fn too_much(what: &str) -> NativeError {
    let message = format!("the model's stream held too many {what}");
    NativeError { message, ..NativeError::broken() }
}
