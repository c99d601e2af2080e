//! What a translation has been given and has said, so that a fresh session can take its place.

use crate::policy::{Fault, Generation, Message, Problem, ReplayBudget, Session};
use bytes::Bytes;
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

/// Bytes that are kept for one session; a longer one cannot be taken up again.
const BYTES: usize = 256 << 10;

/// A session's inputs in their order, and a digest of its outputs.
pub(super) struct History {
    inputs: Vec<Input>,
    bytes: usize,
    said: Said,
    budget: ReplayBudget,
    /// Too long, or no room: nothing is kept any more.
    lost: bool,
}

#[derive(Clone)]
pub(super) enum Input {
    Request(Message),
    Events(Bytes),
    KeepAlive,
}

/// All bytes that went to the client, as far as they have to be compared.
#[derive(Default, Clone)]
struct Said {
    length: usize,
    digest: DefaultHasher,
}

impl Said {
    fn add(&mut self, bytes: &[u8]) {
        self.length += bytes.len();
        self.digest.write(bytes);
    }

    fn is(&self, other: &Self) -> bool {
        self.length == other.length && self.digest.finish() == other.digest.finish()
    }
}

impl Input {
    fn bytes(&self) -> usize {
        match self {
            Self::Request(message) => message.body.len() + 1024,
            Self::Events(bytes) => bytes.len(),
            Self::KeepAlive => 0,
        }
    }
}

impl History {
    pub(super) fn new(budget: ReplayBudget) -> Self {
        Self { inputs: Vec::new(), bytes: 0, said: Said::default(), budget, lost: false }
    }

    /// A message is only copied where there is room for it.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        !self.lost && self.bytes + bytes + 1024 <= BYTES
    }

    /// An input that went well, with what the session said to it.
    pub(super) fn note(&mut self, input: Input, said: &[u8]) {
        if self.lost {
            return;
        }
        let bytes = input.bytes();
        if self.bytes + bytes > BYTES || !self.budget.take(bytes) {
            return self.lose();
        }
        self.bytes += bytes;
        self.inputs.push(input);
        self.said.add(said);
    }

    /// Something that cannot be repeated has happened.
    pub(super) fn lose(&mut self) {
        self.lost = true;
        self.inputs = Vec::new();
        self.budget.give_back(std::mem::take(&mut self.bytes));
    }

    /// A fresh session in the state of the one that failed: it has said the same to the same.
    pub(super) fn repeat(
        &self,
        generation: &Arc<Generation>,
        endpoint: u32,
        seed: u64,
    ) -> Result<Session, Problem> {
        if self.lost {
            return Err(Problem::Host("too much has been said to repeat it".into()));
        }
        let mut session = generation.session(endpoint, seed)?;
        let mut said = Said::default();
        for input in &self.inputs {
            let out = match input.clone() {
                Input::Request(message) => session.request(message).map(|_| Vec::new())?,
                Input::Events(bytes) => session.events(&bytes)?,
                Input::KeepAlive => session.keep_alive()?,
            };
            said.add(&out);
        }
        match said.is(&self.said) {
            true => Ok(session),
            false => Err(Fault::Invalid("it said something else to the same the second time".into()).into()),
        }
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}
