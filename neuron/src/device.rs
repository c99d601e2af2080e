//! A device and the thread that owns it. Everything outside holds handles: tensors never leave the thread.

mod parts;
mod prefixes;
mod stats;
mod worker;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot, watch};

pub(crate) use parts::{Follower, Job, Role};
pub(crate) use stats::{Seat, Stats};

use crate::engine::{Backend, Blueprint, Event, Generation, Lost, Mark, ModelError, Room, Sequence, Weights};

/// Controls that may wait for the thread; one more is refused as if the queue were full.
const MAX_CONTROLS: usize = 1024;
/// How long a device may take to look at its memory.
const MEASURE_PATIENCE: Duration = Duration::from_millis(200);
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
    /// Nothing can be computed on the device any more; the driver's words.
    #[error("the device was lost: {0}")]
    DeviceLost(String),
    /// The thread panicked inside the model, which is unloaded now.
    #[error("the engine broke down in this request, and the model was unloaded: {0}")]
    Fault(String),
}

/// What the thread is asked to do.
pub(crate) enum Control {
    Load(Box<Load>),
    /// Answered when the last sequence of the model has ended and its memory is back.
    Unload(ModelKey, oneshot::Sender<()>),
    /// Answered when the last sequence of the model has ended and its weights are in the host's memory.
    Park(ModelKey, oneshot::Sender<Result<bool, ModelError>>),
    /// Brings the weights of a parked one back.
    Wake(ModelKey, oneshot::Sender<Result<(), ModelError>>),
    /// Ends every sequence of the model.
    Cut(ModelKey),
    Generate(Box<Sequence>),
    /// Computes with a part of a model what its leader computes with its own.
    Run(ModelKey, Arc<Job>),
    /// The part's leader is gone.
    Forget(ModelKey),
    Mark(Box<Marked>),
    /// Looks at the device's memory.
    Measure(oneshot::Sender<()>),
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
    pub(crate) role: Role,
    pub(crate) reply: oneshot::Sender<Result<(), ModelError>>,
}

/// The thread is not there any more, or so far behind that it takes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    #[error("the device has too much to do")]
    Busy,
    #[error("the device's thread has ended")]
    Gone,
    #[error("the device was lost, and is being set up again")]
    Lost,
}

/// How a device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceState {
    Up,
    /// Nothing can be computed on it any more; why.
    Poisoned(Lost),
    /// It is being set up again, after that.
    Recovering(String),
    /// It could not be set up again.
    Gone(String),
}

/// Makes what computes on a device, on the device's thread, and anew where the device was lost. Errors where the device
/// cannot be had.
pub type MakeBackend = Arc<dyn Fn() -> Result<Box<dyn Backend>, String> + Send + Sync>;

/// A device from outside.
pub struct DeviceHandle {
    name: String,
    make: MakeBackend,
    thread: Mutex<Thread>,
    state: watch::Sender<DeviceState>,
    memory: OwnMemory,
}

/// Bytes of a device's own memory that are free, and all of it, as its thread last saw them; `None`: it has the host's.
pub(crate) type OwnMemory = Arc<Mutex<Option<(u64, u64)>>>;

/// The device's thread, and the way to it.
struct Thread {
    controls: mpsc::Sender<Control>,
    running: Option<JoinHandle<()>>,
}

/// Of all devices, so that no key means two models.
static NEXT_KEY: AtomicU64 = AtomicU64::new(1);

impl DeviceHandle {
    /// Starts the thread `name`, which owns what `make` makes from now on.
    pub fn start(name: &str, make: MakeBackend) -> std::io::Result<Self> {
        let state = watch::Sender::new(DeviceState::Up);
        let memory = OwnMemory::default();
        let thread = Mutex::new(Thread::start(name, &make, &state, &memory)?);
        Ok(Self { name: name.to_owned(), make, thread, state, memory })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn state(&self) -> DeviceState {
        self.state.borrow().clone()
    }

    pub(crate) fn is_up(&self) -> bool {
        *self.state.borrow() == DeviceState::Up
    }

    /// Tells of each change of its state.
    pub(crate) fn watch(&self) -> watch::Receiver<DeviceState> {
        self.state.subscribe()
    }

    /// After it was poisoned: another thread under the same name, with a new backend. Returns once it is up, or gone
    /// after `pauses` between tries.
    pub(crate) async fn recover(&self, pauses: &[Duration]) {
        let DeviceState::Poisoned(Lost { reason, .. }) = self.state() else { return };
        self.state.send_replace(DeviceState::Recovering(reason.clone()));
        // It ends by itself.
        self.join().await;
        let mut failed = String::new();
        for pause in pauses {
            tokio::time::sleep(*pause).await;
            let (name, make) = (self.name.clone(), Arc::clone(&self.make));
            let (state, memory) = (self.state.clone(), Arc::clone(&self.memory));
            // It returns once the thread has the device, which may take seconds.
            let started = tokio::task::spawn_blocking(move || Thread::start(&name, &make, &state, &memory));
            match started.await.map_err(std::io::Error::other).flatten() {
                Ok(thread) => {
                    *self.lock() = thread;
                    self.state.send_replace(DeviceState::Up);
                    tracing::info!(device = self.name, "the device is up again");
                    return;
                }
                Err(error) => {
                    tracing::warn!(device = self.name, %error, "the device cannot be set up again yet");
                    failed = error.to_string();
                }
            }
        }
        tracing::error!(device = self.name, %reason, error = failed, "the device is gone; restart neuron");
        self.state.send_replace(DeviceState::Gone(format!("{reason}; then: {failed}")));
    }

    /// As the thread last saw it; see [`Self::measure`].
    pub(crate) fn own_memory(&self) -> Option<(u64, u64)> {
        *self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the thread look at its memory now: others may use the device too.
    pub(crate) async fn measure(&self) {
        if self.own_memory().is_some() {
            let (reply, done) = oneshot::channel();
            let controls = self.controls();
            // One that is busy, with a load above all, answers late: what it saw last has to do.
            let asked = async {
                if controls.send(Control::Measure(reply)).await.is_ok() {
                    done.await.ok();
                }
            };
            tokio::time::timeout(MEASURE_PATIENCE, asked).await.ok();
        }
    }

    /// A name for a model that is about to be loaded.
    pub(crate) fn new_key() -> ModelKey {
        ModelKey(NEXT_KEY.fetch_add(1, Ordering::Relaxed))
    }

    fn lock(&self) -> MutexGuard<'_, Thread> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn controls(&self) -> mpsc::Sender<Control> {
        self.lock().controls.clone()
    }

    /// Why the thread takes nothing.
    fn closed(&self) -> Unavailable {
        if self.is_up() { Unavailable::Gone } else { Unavailable::Lost }
    }

    /// Loads a model; returns once it is resident.
    pub(crate) async fn load(
        &self,
        key: ModelKey,
        weights: Weights,
        plan: Blueprint,
        room: Room,
        stats: Arc<Stats>,
        role: Role,
    ) -> Result<(), ModelError> {
        let (reply, answer) = oneshot::channel();
        let load = Load { key, weights, plan, room, stats, role, reply };
        let gone = || ModelError(self.closed().to_string());
        self.controls().send(Control::Load(Box::new(load))).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// As another device is told of it, of which a part of the model is.
    pub(crate) fn follower(&self, key: ModelKey) -> Follower {
        Follower { controls: self.controls(), key }
    }

    /// Returns once the model's last sequence has ended and its memory is back.
    pub(crate) async fn unload(&self, key: ModelKey) -> Result<(), Unavailable> {
        let (reply, answer) = oneshot::channel();
        self.controls().send(Control::Unload(key, reply)).await.map_err(|_| self.closed())?;
        answer.await.map_err(|_| self.closed())
    }

    /// Returns once the model's last sequence has ended and its weights are in the host's memory; `false`: there is no room for
    /// them now. Errors where they stay for another reason.
    pub(crate) async fn park(&self, key: ModelKey) -> Result<bool, ModelError> {
        self.ask(|reply| Control::Park(key, reply)).await
    }

    /// Returns once a parked model is back; errors where it stays parked.
    pub(crate) async fn wake(&self, key: ModelKey) -> Result<(), ModelError> {
        self.ask(|reply| Control::Wake(key, reply)).await
    }

    async fn ask<T>(
        &self,
        control: impl FnOnce(oneshot::Sender<Result<T, ModelError>>) -> Control,
    ) -> Result<T, ModelError> {
        let (reply, answer) = oneshot::channel();
        let gone = || ModelError(self.closed().to_string());
        self.controls().send(control(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Ends every sequence of the model, with an error, before its memory is asked for.
    pub(crate) async fn cut(&self, key: ModelKey) -> Result<(), Unavailable> {
        self.controls().send(Control::Cut(key)).await.map_err(|_| self.closed())
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
        match self.controls().try_send(Control::Generate(Box::new(sequence))) {
            Ok(()) => Ok(events),
            Err(mpsc::error::TrySendError::Full(_)) => Err(Unavailable::Busy),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(self.closed()),
        }
    }

    /// Has the cache remember what it holds of a conversation. It is only a help: dropped where the thread
    /// has too much to do.
    pub(crate) fn mark(&self, marked: Marked) {
        self.controls().try_send(Control::Mark(Box::new(marked))).ok();
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
        self.controls().send(Control::Stop).await.ok();
        let thread = self.lock().running.take();
        if let Some(thread) = thread {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("the device's thread ended in a panic");
            }
        }
    }
}

impl Thread {
    /// Returns once the thread has its backend, or says why it has none.
    fn start(
        name: &str,
        make: &MakeBackend,
        state: &watch::Sender<DeviceState>,
        memory: &OwnMemory,
    ) -> std::io::Result<Self> {
        let (controls, receiver) = mpsc::channel(MAX_CONTROLS);
        let (make, state, memory) = (Arc::clone(make), state.clone(), Arc::clone(memory));
        let (made, is_made) = std::sync::mpsc::sync_channel(1);
        let run = move || {
            // A driver's context belongs to the thread that makes it.
            let backend = match catch_unwind(AssertUnwindSafe(|| make())) {
                Ok(Ok(backend)) => backend,
                Ok(Err(error)) => {
                    made.send(Err(error)).ok();
                    return;
                }
                Err(panic) => {
                    made.send(Err(worker::panic_text(&*panic))).ok();
                    return;
                }
            };
            let worker = worker::Worker::new(backend, receiver, memory);
            made.send(Ok(())).ok();
            worker.run(|lost| {
                state.send_replace(DeviceState::Poisoned(lost.clone()));
            });
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run)?;
        let made = is_made.recv().unwrap_or_else(|_| Err("the device's thread ended".to_owned()));
        made.map_err(std::io::Error::other)?;
        Ok(Self { controls, running: Some(thread) })
    }
}

#[cfg(test)]
mod tests;
