//! A device and the thread that owns it. Everything outside holds handles: tensors never leave the thread.

mod prefixes;
mod stats;
mod worker;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};

pub(crate) use stats::{Seat, Stats};

use crate::engine::{Backend, Blueprint, Event, Generation, Mark, ModelError, Room, Sequence, Weights};

/// Controls that may wait for the thread; one more is refused as if the queue were full.
const MAX_CONTROLS: usize = 1024;
/// Tokens that a client may be behind before its sequence pauses; the beginning has a place of its own.
const TOKEN_BUFFER: usize = 64;

/// A loaded model, by number: what is held outside the thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ModelKey(u64);

/// Why a sequence ended without an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("the request waited too long for its turn")]
    QueueTimeout,
    #[error("the model is not loaded")]
    NotLoaded,
    #[error("the model was unloaded while the request ran")]
    Cut,
    /// What binds the answer cannot be followed any further.
    #[error("the answer's grammar failed: {0}")]
    Grammar(String),
    #[error("the client took nothing of its answer for a minute")]
    Stalled,
    /// The library's own words.
    #[error("the model failed: {0}")]
    Model(String),
    /// The thread panicked inside the model, which is unloaded now.
    #[error("the engine broke down in this request, and the model was unloaded: {0}")]
    Fault(String),
}

/// What the thread is asked to do.
pub(crate) enum Control {
    Load(Box<Load>),
    /// Answered when the last sequence of the model has ended and its memory is back.
    Unload(ModelKey, oneshot::Sender<()>),
    /// Ends every sequence of the model.
    Cut(ModelKey),
    Generate(Box<Sequence>),
    Mark(Box<Marked>),
    /// Ends every sequence and then the thread.
    Stop,
}

/// Beginnings of a conversation that ran, found in its sequence.
#[derive(Debug)]
pub(crate) struct Marked {
    pub(crate) model: ModelKey,
    pub(crate) caller: Arc<str>,
    /// Prompt and answer.
    pub(crate) tokens: Vec<u32>,
    pub(crate) marks: Vec<Mark>,
}

pub(crate) struct Load {
    pub(crate) key: ModelKey,
    pub(crate) weights: Weights,
    pub(crate) plan: Blueprint,
    pub(crate) room: Room,
    pub(crate) stats: Arc<Stats>,
    pub(crate) reply: oneshot::Sender<Result<(), ModelError>>,
}

/// The thread is not there any more, or so far behind that it takes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    #[error("the device has too much to do")]
    Busy,
    #[error("the device's thread has ended")]
    Gone,
}

/// A device from outside.
pub struct DeviceHandle {
    controls: mpsc::Sender<Control>,
    thread: Mutex<Option<JoinHandle<()>>>,
    next_key: AtomicU64,
}

impl DeviceHandle {
    /// Starts the thread `name`, which owns `backend` from now on.
    pub fn start(name: &str, backend: impl Backend + 'static) -> std::io::Result<Self> {
        let (controls, receiver) = mpsc::channel(MAX_CONTROLS);
        let run = move || worker::Worker::new(Box::new(backend), receiver).run();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run)?;
        Ok(Self { controls, thread: Mutex::new(Some(thread)), next_key: AtomicU64::new(1) })
    }

    /// A name for a model that is about to be loaded.
    pub(crate) fn new_key(&self) -> ModelKey {
        ModelKey(self.next_key.fetch_add(1, Ordering::Relaxed))
    }

    /// Loads a model; returns once it is resident.
    pub(crate) async fn load(
        &self,
        key: ModelKey,
        weights: Weights,
        plan: Blueprint,
        room: Room,
        stats: Arc<Stats>,
    ) -> Result<(), ModelError> {
        let (reply, answer) = oneshot::channel();
        let load = Load { key, weights, plan, room, stats, reply };
        let gone = |_| ModelError(Unavailable::Gone.to_string());
        self.controls.send(Control::Load(Box::new(load))).await.map_err(|_| gone(()))?;
        answer.await.map_err(|_| gone(()))?
    }

    /// Returns once the model's last sequence has ended and its memory is back.
    pub(crate) async fn unload(&self, key: ModelKey) -> Result<(), Unavailable> {
        let (reply, answer) = oneshot::channel();
        self.controls.send(Control::Unload(key, reply)).await.map_err(|_| Unavailable::Gone)?;
        answer.await.map_err(|_| Unavailable::Gone)
    }

    /// Ends every sequence of the model, with an error, before its memory is asked for.
    pub(crate) async fn cut(&self, key: ModelKey) -> Result<(), Unavailable> {
        self.controls.send(Control::Cut(key)).await.map_err(|_| Unavailable::Gone)
    }

    /// Starts a sequence. Dropping the receiver cancels it within one step.
    pub(crate) fn generate(
        &self,
        generation: Generation,
        seat: Seat,
        patience: Duration,
    ) -> Result<mpsc::Receiver<Event>, Unavailable> {
        let (out, events) = mpsc::channel(TOKEN_BUFFER + 1);
        let sequence = Sequence::new(generation, out, seat, Instant::now() + patience);
        match self.controls.try_send(Control::Generate(Box::new(sequence))) {
            Ok(()) => Ok(events),
            Err(mpsc::error::TrySendError::Full(_)) => Err(Unavailable::Busy),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Unavailable::Gone),
        }
    }

    /// Has the cache remember what it holds of a conversation. It is only a help: dropped where the thread
    /// has too much to do.
    pub(crate) fn mark(&self, marked: Marked) {
        self.controls.try_send(Control::Mark(Box::new(marked))).ok();
    }

    /// Ends every sequence and the thread; returns when it is gone, or after `limit`: what it does at the
    /// time, a load above all, cannot be cut short, and is left behind.
    pub async fn stop(&self, limit: Duration) {
        if tokio::time::timeout(limit, self.join()).await.is_err() {
            tracing::warn!("the device's thread is busy and is left behind");
        }
    }

    async fn join(&self) {
        // A failure means that it has ended already.
        self.controls.send(Control::Stop).await.ok();
        let thread = self.thread.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("the device's thread ended in a panic");
            }
        }
    }
}

#[cfg(test)]
mod tests;
