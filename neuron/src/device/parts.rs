//! A model in parts: one device leads, and tells the others what to compute with it.
//!
//! Ranks wait for each other in every step, so all of a device's parts are told what to do by one leader: where two told
//! it in different orders, each might wait for what the other has begun. [`crate::registry`] sees to that.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{Control, ModelKey};
use crate::engine::{Batch, Limits, Logits, Model, ModelError, Part, Rows, Shard};

/// What a device has of a model.
pub(crate) enum Role {
    /// All of it.
    Alone,
    /// A part, and it says what is computed.
    Leads(Shard, Vec<Follower>),
    /// A part, computed as it is told.
    Follows(Shard),
}

/// A device that has another part of a model.
#[derive(Debug, Clone)]
pub(crate) struct Follower {
    pub(super) controls: mpsc::Sender<Control>,
    pub(super) key: ModelKey,
}

/// What all ranks compute together.
#[derive(Debug)]
pub(crate) struct Job {
    tokens: Vec<u32>,
    parts: Vec<OwnedPart>,
}

#[derive(Debug)]
struct OwnedPart {
    len: usize,
    position: usize,
    blocks: Vec<u32>,
}

impl Job {
    fn of(batch: &Batch<'_>) -> Self {
        let part = |part: &Part<'_>| OwnedPart {
            len: part.len,
            position: part.position,
            blocks: part.blocks.to_vec(),
        };
        Self { tokens: batch.tokens.to_vec(), parts: batch.parts.iter().map(part).collect() }
    }

    /// Computes it with a part of the model that nobody wants logits of.
    pub(super) fn run(&self, model: &mut dyn Model) -> Result<(), ModelError> {
        let part = |part: &OwnedPart| (part.len, part.position);
        let parts = self.parts.iter().map(|owned| {
            let (len, position) = part(owned);
            Part { len, position, blocks: &owned.blocks, rows: Rows::None }
        });
        let parts: Vec<Part<'_>> = parts.collect();
        model.forward(&Batch { tokens: &self.tokens, parts: &parts }).map(|_| ())
    }
}

/// A model whose other parts are elsewhere.
pub(super) struct Leading {
    own: Box<dyn Model>,
    followers: Vec<Follower>,
    /// Once a rank has missed a step none of them is where the others are.
    broken: Option<String>,
}

impl Leading {
    pub(super) fn new(own: Box<dyn Model>, followers: Vec<Follower>) -> Self {
        Self { own, followers, broken: None }
    }
}

impl Model for Leading {
    fn limits(&self) -> Limits {
        self.own.limits()
    }

    fn forward(&mut self, batch: &Batch<'_>) -> Result<Logits<'_>, ModelError> {
        if let Some(broken) = &self.broken {
            return Err(ModelError(broken.clone()));
        }
        let job = Arc::new(Job::of(batch));
        for (rank, follower) in (1..).zip(&self.followers) {
            if follower.controls.try_send(Control::Run(follower.key, Arc::clone(&job))).is_err() {
                let broken = format!("the device of rank {rank} takes no more work");
                self.broken = Some(broken.clone());
                return Err(ModelError(broken));
            }
        }
        let forward = self.own.forward(batch);
        if let Err(error) = &forward {
            self.broken = Some(error.to_string());
        }
        forward
    }

    fn weights_bytes(&self) -> u64 {
        self.own.weights_bytes() * (1 + self.followers.len() as u64)
    }

    fn rest(&mut self) {
        self.own.rest();
    }

    fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    fn abandon(&mut self) {
        self.own.abandon();
        self.release();
    }
}

impl Leading {
    /// Has the other parts dropped. A device that takes nothing any more has nothing left of them; one that has too much
    /// to do hears of it later.
    fn release(&mut self) {
        for follower in std::mem::take(&mut self.followers) {
            let Follower { controls, key } = follower;
            if let Err(mpsc::error::TrySendError::Full(forget)) = controls.try_send(Control::Forget(key)) {
                let later = std::thread::Builder::new().name("forget a part".to_owned());
                let sent = later.spawn(move || controls.blocking_send(forget));
                if let Err(error) = sent {
                    tracing::error!(%error, "a part of a model stays where it is");
                }
            }
        }
    }
}

impl Drop for Leading {
    fn drop(&mut self) {
        self.release();
    }
}
