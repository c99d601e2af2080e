//! The device's thread: drain the controls, pick a sequence, run one forward, hand out its token, again.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{
    mpsc::{Receiver, error::TryRecvError},
    oneshot,
};

use super::{Control, Failure, Load, ModelKey, Stats};
use crate::{
    engine::{Backend, Model, ModelError, Scheduler},
    memory,
};

/// How long the thread rests while the only client that it works for takes nothing.
const STALL_PAUSE: Duration = Duration::from_millis(1);

pub(super) struct Worker {
    backend: Box<dyn Backend>,
    controls: Receiver<Control>,
    models: HashMap<ModelKey, Resident>,
    scheduler: Scheduler,
    /// Unloads that wait for their model's last sequence.
    leaving: Vec<(ModelKey, oneshot::Sender<()>)>,
}

struct Resident {
    model: Box<dyn Model>,
    stats: Arc<Stats>,
}

impl Worker {
    pub(super) fn new(backend: Box<dyn Backend>, controls: Receiver<Control>) -> Self {
        Self {
            backend,
            controls,
            models: HashMap::new(),
            scheduler: Scheduler::default(),
            leaving: Vec::new(),
        }
    }

    /// Until [`Control::Stop`], or until every handle is gone.
    pub(super) fn run(mut self) {
        while self.drain_controls() {
            self.step();
            self.finish_unloads();
        }
    }

    /// `false`: the thread shall end. Waits only when there is nothing to compute.
    fn drain_controls(&mut self) -> bool {
        loop {
            let control = if self.scheduler.is_idle() {
                self.controls.blocking_recv().ok_or(TryRecvError::Disconnected)
            } else {
                self.controls.try_recv()
            };
            match control {
                Ok(Control::Stop) | Err(TryRecvError::Disconnected) => return false,
                Ok(control) => self.obey(control),
                Err(TryRecvError::Empty) => return true,
            }
            self.finish_unloads();
        }
    }

    fn obey(&mut self, control: Control) {
        match control {
            Control::Load(load) => self.load(*load),
            Control::Unload(key, reply) => self.leaving.push((key, reply)),
            Control::Generate(sequence) => self.scheduler.push(*sequence),
            Control::Stop => {}
        }
    }

    fn load(&mut self, load: Load) {
        let Load { key, path, header, shape, context, stats, reply } = load;
        let loaded = catch_unwind(AssertUnwindSafe(|| self.backend.load(&path, &header, &shape, context)));
        let outcome = match loaded {
            Ok(Ok(model)) => {
                self.models.insert(key, Resident { model, stats });
                Ok(())
            }
            Ok(Err(error)) => Err(error),
            Err(panic) => Err(ModelError(panic_text(&*panic))),
        };
        if outcome.is_err() {
            memory::give_back();
        }
        // Nobody waiting is no reason to unload: whoever asks next finds it loaded.
        reply.send(outcome).ok();
    }

    fn step(&mut self) {
        let now = Instant::now();
        let Some(sequence) = self.scheduler.next(now) else { return };
        if sequence.is_over() {
            self.end_running();
            return;
        }
        if !sequence.flush(now) {
            std::thread::sleep(STALL_PAUSE);
            return;
        }
        // Its last events had been held back: nothing is left to compute.
        if sequence.is_over() {
            self.end_running();
            return;
        }
        let key = sequence.model();
        match self.models.get_mut(&key) {
            None => sequence.fail(Failure::NotLoaded),
            Some(resident) => {
                let model = resident.model.as_mut();
                match catch_unwind(AssertUnwindSafe(|| sequence.step(model))) {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => sequence.fail(Failure::Model(error.to_string())),
                    Err(panic) => return self.fault(key, panic_text(&*panic)),
                }
            }
        }
        sequence.flush(now);
        if sequence.is_over() {
            self.end_running();
        }
    }

    fn end_running(&mut self) {
        let Some(sequence) = self.scheduler.finish() else { return };
        if let Some(resident) = self.models.get_mut(&sequence.model()) {
            resident.model.reset();
        }
    }

    /// A panic leaves the model in no state that can be trusted: it goes, the daemon stays.
    fn fault(&mut self, key: ModelKey, what: String) {
        tracing::error!(panic = %what, "the engine broke down; its model is unloaded");
        let resident = self.models.remove(&key);
        if let Some(resident) = resident {
            resident.stats.set_fault(what.clone());
            drop_model(resident);
        }
        self.scheduler.fail_all(key, &Failure::Fault(what));
    }

    fn finish_unloads(&mut self) {
        let scheduler = &self.scheduler;
        for (key, reply) in self.leaving.extract_if(.., |(key, _)| !scheduler.has(*key)) {
            if let Some(resident) = self.models.remove(&key) {
                drop_model(resident);
            }
            reply.send(()).ok();
        }
    }
}

/// Drops the weights and hands their memory back to the system.
fn drop_model(resident: Resident) {
    if catch_unwind(AssertUnwindSafe(|| drop(resident))).is_err() {
        tracing::error!("dropping a model panicked; its memory may be lost");
    }
    memory::give_back();
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_owned()
}
