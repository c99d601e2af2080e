//! The device's thread: drain the controls, run a forward for each model that has work, again.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::PoisonError,
    time::{Duration, Instant},
};

use tokio::sync::{
    mpsc::{Receiver, error::TryRecvError},
    oneshot,
};

use super::{Control, Failure, Job, Load, ModelKey, OwnMemory, Role, parts::Leading};
use crate::{
    engine::{Backend, Lane, Lost, Model, ModelError, Sequence, Stepped},
    memory,
};

/// How long the thread rests while every client that it works for takes nothing.
const STALL_PAUSE: Duration = Duration::from_millis(1);

pub(super) struct Worker {
    backend: Box<dyn Backend>,
    controls: Receiver<Control>,
    lanes: HashMap<ModelKey, Lane>,
    /// Parts of models that other devices lead.
    parts: HashMap<ModelKey, Box<dyn Model>>,
    /// Unloads that wait for their model's last sequence.
    leaving: Vec<(ModelKey, oneshot::Sender<()>)>,
    /// The same of those that are parked.
    parking: Vec<(ModelKey, oneshot::Sender<Result<bool, ModelError>>)>,
    /// Why nothing more can be computed.
    lost: Option<Lost>,
    /// Where others see how much memory the device has.
    memory: OwnMemory,
}

impl Worker {
    pub(super) fn new(backend: Box<dyn Backend>, controls: Receiver<Control>, memory: OwnMemory) -> Self {
        let mut worker = Self {
            memory,
            backend,
            controls,
            lanes: HashMap::new(),
            parts: HashMap::new(),
            leaving: Vec::new(),
            parking: Vec::new(),
            lost: None,
        };
        worker.measure();
        worker
    }

    fn measure(&mut self) {
        *self.memory.lock().unwrap_or_else(PoisonError::into_inner) = self.backend.memory();
    }

    /// Until [`Control::Stop`], or until every handle is gone, or until the device is lost; then `on_lost` comes before
    /// anybody else is told.
    pub(super) fn run(mut self, on_lost: impl FnOnce(&Lost)) {
        while self.drain_controls() {
            if self.lost.is_none() {
                self.step();
            }
            if self.lost.is_none() {
                self.finish_unloads();
            }
            if let Some(lost) = self.lost.take() {
                on_lost(&lost);
                self.give_up(&lost);
                return;
            }
        }
    }

    /// `false`: the thread shall end. Waits only when there is nothing to compute.
    fn drain_controls(&mut self) -> bool {
        loop {
            let control = if self.lanes.values().all(Lane::is_idle) {
                self.controls.blocking_recv().ok_or(TryRecvError::Disconnected)
            } else {
                self.controls.try_recv()
            };
            match control {
                Ok(Control::Stop) | Err(TryRecvError::Disconnected) => return false,
                Ok(control) => self.obey(control),
                Err(TryRecvError::Empty) => return true,
            }
            if self.lost.is_none() {
                self.finish_unloads();
            }
            if self.lost.is_some() {
                return true;
            }
        }
    }

    fn obey(&mut self, control: Control) {
        match control {
            Control::Load(load) => self.load(*load),
            Control::Unload(key, reply) => self.leaving.push((key, reply)),
            Control::Park(key, reply) => self.parking.push((key, reply)),
            Control::Wake(key, reply) => {
                reply.send(self.shift(key, Lane::wake)).ok();
            }
            Control::Cut(key) => {
                if let Some(lane) = self.lanes.get_mut(&key) {
                    lane.fail_all(&Failure::Cut);
                }
            }
            Control::Generate(sequence) => self.start(*sequence),
            Control::Run(key, job) => self.run_part(key, &job),
            Control::Forget(key) => self.forget_part(key),
            Control::Mark(marked) => {
                if let Some(lane) = self.lanes.get_mut(&marked.model) {
                    lane.mark(&marked.caller, &marked.tokens, &marked.marks);
                }
            }
            Control::Measure(reply) => {
                self.measure();
                reply.send(()).ok();
            }
            Control::Stop => {}
        }
    }

    fn start(&mut self, mut sequence: Sequence) {
        match self.lanes.get_mut(&sequence.model()) {
            Some(lane) if !lane.is_parked() => lane.push(sequence),
            _ => {
                sequence.fail(Failure::NotLoaded);
                sequence.flush(Instant::now());
            }
        }
    }

    fn load(&mut self, load: Load) {
        let Load { key, weights, plan, room, stats, role, reply } = load;
        let backend = &mut self.backend;
        let loaded = catch_unwind(AssertUnwindSafe(|| match role {
            Role::Alone => backend.load(&weights, &plan, room).map(|model| (model, true)),
            Role::Leads(shard, followers) => {
                let own = backend.load_shard(&weights, &plan, room, shard)?;
                Ok((Box::new(Leading::new(own, followers)) as Box<dyn Model>, true))
            }
            Role::Follows(shard) => {
                backend.load_shard(&weights, &plan, room, shard).map(|model| (model, false))
            }
        }));
        let outcome = match loaded {
            Ok(Ok((model, true))) => {
                self.lanes.insert(key, Lane::new(model, stats));
                Ok(())
            }
            Ok(Ok((part, false))) => {
                self.parts.insert(key, part);
                Ok(())
            }
            Ok(Err(error)) => Err(error),
            Err(panic) => Err(ModelError(panic_text(&*panic))),
        };
        if outcome.is_err() {
            self.lost = ask_whether_lost(self.backend.as_mut());
        }
        // What was read to be packed, too.
        memory::give_back();
        self.measure();
        // Nobody waiting is no reason to unload: whoever asks next finds it loaded.
        reply.send(outcome).ok();
    }

    /// One that fails is dropped: then the ranks that wait for it hear of it.
    fn run_part(&mut self, key: ModelKey, job: &Job) {
        let Some(part) = self.parts.get_mut(&key) else { return };
        let ran = catch_unwind(AssertUnwindSafe(|| job.run(part.as_mut())));
        let error = match ran {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(panic) => panic_text(&*panic),
        };
        tracing::error!(error, "a part of a model failed");
        self.lost = ask_whether_lost(self.backend.as_mut());
        if self.lost.is_none() {
            self.forget_part(key);
        }
    }

    fn forget_part(&mut self, key: ModelKey) {
        if let Some(part) = self.parts.remove(&key) {
            drop_model(part);
            self.measure();
        }
    }

    /// A forward of every model that has work: models take turns.
    fn step(&mut self) {
        let (mut stalled, mut worked) = (false, false);
        let mut faults = Vec::new();
        for (key, lane) in &mut self.lanes {
            let panic = match catch_unwind(AssertUnwindSafe(|| lane.step())) {
                Ok(Stepped::Worked) => {
                    worked = true;
                    continue;
                }
                Ok(Stepped::Stalled) => {
                    stalled = true;
                    continue;
                }
                Ok(Stepped::Idle) => continue,
                Ok(Stepped::Failed) => None,
                Err(panic) => Some(panic_text(&*panic)),
            };
            worked = true;
            self.lost = ask_whether_lost(self.backend.as_mut());
            if self.lost.is_some() {
                return;
            }
            match panic.or_else(|| lane.broken().map(str::to_owned)) {
                Some(what) => faults.push((*key, what)),
                None => lane.go_on(),
            }
        }
        for (key, what) in faults {
            self.fault(key, what);
        }
        if stalled && !worked {
            std::thread::sleep(STALL_PAUSE);
        }
    }

    /// A panic leaves the model in no state that can be trusted: it goes, the daemon stays.
    fn fault(&mut self, key: ModelKey, what: String) {
        tracing::error!(panic = %what, "the engine broke down; its model is unloaded");
        let Some(mut lane) = self.lanes.remove(&key) else { return };
        lane.stats().set_fault(what.clone());
        lane.fail_all(&Failure::Fault(what));
        drop_model(lane);
        self.measure();
    }

    /// Everybody is told, now and as they come until nobody can any more; nothing on the device is touched.
    fn give_up(mut self, lost: &Lost) {
        tracing::error!(reason = lost.reason, "the device was lost; all that ran on it is ended");
        let failure = Failure::DeviceLost(lost.reason.clone());
        for (_, mut lane) in self.lanes.drain() {
            lane.stats().set_fault(failure.to_string());
            lane.fail_all(&failure);
            if lost.may_drop {
                drop_model(lane);
            } else {
                lane.abandon();
                std::mem::forget(lane);
            }
        }
        for (_, reply) in self.leaving.drain(..) {
            reply.send(()).ok();
        }
        for (_, reply) in self.parking.drain(..) {
            reply.send(Err(ModelError(failure.to_string()))).ok();
        }
        for (_, mut part) in self.parts.drain() {
            if lost.may_drop {
                drop_model(part);
            } else {
                part.abandon();
                std::mem::forget(part);
            }
        }
        self.controls.close();
        // To the last that was on its way.
        while let Some(control) = self.controls.blocking_recv() {
            match control {
                Control::Load(load) => {
                    load.reply.send(Err(ModelError(failure.to_string()))).ok();
                }
                Control::Unload(_, reply) => {
                    reply.send(()).ok();
                }
                Control::Park(_, reply) => {
                    reply.send(Err(ModelError(failure.to_string()))).ok();
                }
                Control::Wake(_, reply) => {
                    reply.send(Err(ModelError(failure.to_string()))).ok();
                }
                Control::Generate(mut sequence) => {
                    sequence.fail(failure.clone());
                    sequence.flush(Instant::now());
                }
                Control::Cut(_)
                | Control::Mark(_)
                | Control::Run(..)
                | Control::Forget(_)
                | Control::Measure(_)
                | Control::Stop => {}
            }
        }
        if !lost.may_drop {
            std::mem::forget(self.backend);
        }
    }

    /// Moves a model's weights.
    fn shift<T>(
        &mut self,
        key: ModelKey,
        shift: impl FnOnce(&mut Lane) -> Result<T, ModelError>,
    ) -> Result<T, ModelError> {
        let lane = self.lanes.get_mut(&key).ok_or_else(|| ModelError("it is not loaded".to_owned()))?;
        let shifted = catch_unwind(AssertUnwindSafe(|| shift(lane)));
        let outcome = shifted.unwrap_or_else(|panic| Err(ModelError(panic_text(&*panic))));
        if outcome.is_err() {
            self.lost = ask_whether_lost(self.backend.as_mut());
        }
        self.measure();
        outcome
    }

    fn finish_parking(&mut self) {
        for (key, reply) in std::mem::take(&mut self.parking) {
            if self.lanes.get(&key).is_some_and(|lane| !lane.is_idle()) {
                self.parking.push((key, reply));
                continue;
            }
            let parked = self.shift(key, Lane::park);
            reply.send(parked).ok();
        }
    }

    fn finish_unloads(&mut self) {
        self.finish_parking();
        if self.lost.is_some() {
            return;
        }
        for (key, reply) in std::mem::take(&mut self.leaving) {
            match self.lanes.remove(&key) {
                Some(busy) if !busy.is_idle() => {
                    self.lanes.insert(key, busy);
                    self.leaving.push((key, reply));
                    continue;
                }
                Some(idle) => {
                    drop_model(idle);
                    self.measure();
                }
                None => self.forget_part(key),
            }
            reply.send(()).ok();
        }
    }
}

fn ask_whether_lost(backend: &mut dyn Backend) -> Option<Lost> {
    let asked = catch_unwind(AssertUnwindSafe(|| backend.lost()));
    asked.unwrap_or_else(|panic| Some(Lost { reason: panic_text(&*panic), may_drop: false }))
}

/// Drops the weights and hands their memory back to the system.
fn drop_model(model: impl Sized) {
    if catch_unwind(AssertUnwindSafe(|| drop(model))).is_err() {
        tracing::error!("dropping a model panicked; its memory may be lost");
    }
    memory::give_back();
}

pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_owned()
}
