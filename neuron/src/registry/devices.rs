//! The devices, which models go to which, and what becomes of one that is lost.

use std::{cmp::Reverse, collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::future::{join_all, select_all};
use neuron_protocol::{LoadError, LoadRequest};

use super::{LoadFailure, Ready, Registry, State};
use crate::{
    device::{DeviceHandle, DeviceState, ModelKey, Role, Stats, Unavailable},
    engine::{Blueprint, Loopback, Room, Shard, Weights},
};

/// Before each try to set a lost device up again.
const PAUSES: [Duration; 4] =
    [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(25)];

impl Registry {
    /// The one that leads the model.
    pub(crate) fn device(&self, ready: &Ready) -> &DeviceHandle {
        &self.devices[ready.devices[0]]
    }

    /// Sets devices up again that are lost, for as long as the daemon runs.
    pub(crate) fn watch_devices(self: &Arc<Self>) {
        for index in 0..self.devices.len() {
            let registry = Arc::clone(self);
            self.tasks.spawn(async move {
                let mut state = registry.devices[index].watch();
                let mut stopped = registry.stopped.subscribe();
                loop {
                    let lost = state.wait_for(|state| matches!(state, DeviceState::Poisoned(_)));
                    tokio::select! {
                        lost = lost => if lost.is_err() { return },
                        _ = stopped.wait_for(|stopped| *stopped) => return,
                    }
                    registry.changed.send_replace(());
                    // Others may have much to do before they hear of it.
                    let again = async {
                        tokio::join!(registry.break_up(index), registry.devices[index].recover(&PAUSES))
                    };
                    tokio::select! {
                        _ = again => {}
                        _ = stopped.wait_for(|stopped| *stopped) => return,
                    }
                    registry.forget_lost(index);
                    registry.changed.send_replace(());
                }
            });
        }
    }

    /// What was on a device that was lost is no more: whoever wants it loads it.
    fn forget_lost(&self, device: usize) {
        let is_lost = |state: &State| matches!(state, State::Ready(ready) | State::Parked(ready) if ready.devices.contains(&device) && ready.stats.fault().is_some());
        self.entries().retain(|_, entry| !is_lost(&entry.state()));
    }

    /// Returns once a device is gone for good.
    pub(crate) async fn until_gone(&self) {
        let gone = self.devices.iter().map(|device| {
            let mut state = device.watch();
            Box::pin(async move {
                // An error means that the daemon ends.
                state.wait_for(|state| matches!(state, DeviceState::Gone(_))).await.is_ok()
            })
        });
        select_all(gone).await;
    }

    /// Devices that a load may go to, and how many of them it takes. Errors where the request wants what is not there.
    pub(super) fn candidates(&self, request: &LoadRequest) -> Result<(Vec<usize>, usize), LoadFailure> {
        let (count, size) = (self.devices.len(), request.tensor_parallel.unwrap_or(1).max(1) as usize);
        let all: Vec<usize> = match request.devices.as_deref() {
            None | Some([]) => (0..count).collect(),
            Some(named) => {
                let named: BTreeSet<usize> = named.iter().map(|device| *device as usize).collect();
                if let Some(missing) = named.iter().find(|device| **device >= count) {
                    let there = match count {
                        1 => "the only one is 0".to_owned(),
                        _ => format!("there are 0 to {}", count - 1),
                    };
                    return Err(LoadFailure::Request(format!("there is no device {missing} here; {there}")));
                }
                named.into_iter().collect()
            }
        };
        if all.len() < size {
            let of = if all.len() == 1 { "one device".to_owned() } else { format!("{} devices", all.len()) };
            let text = format!("tensor_parallel is {size}, and there is {of} for it here; leave it out");
            return Err(LoadFailure::Request(text));
        }
        Ok((all, size))
    }

    /// Where a model is to go, the one that leads first, and what is free on each at least, MiB: on as many devices as
    /// `tensor_parallel` says, of those that the request names, or of all, the emptiest.
    pub(crate) fn place(&self, request: &LoadRequest) -> Result<(Vec<usize>, u64), LoadFailure> {
        let (all, size) = self.candidates(request)?;
        let up = all.iter().copied().filter(|device| self.devices[*device].is_up());
        let mut best: Vec<_> = up.map(|device| (device, self.memory(device))).collect();
        // Where all have what the host has left, the one of which least was promised; of equal ones the first.
        best.sort_by_key(|(device, memory)| (Reverse(memory.free_mb), Reverse(memory.left_mb), *device));
        best.truncate(size);
        if best.len() < size {
            let down = all.iter().filter(|device| !self.devices[**device].is_up());
            let names: Vec<&str> = down.map(|device| self.devices[*device].name()).collect();
            return Err(LoadFailure::Device(format!(
                "{} was lost and is not up again yet",
                names.join(", ")
            )));
        }
        let free_mb = best.iter().map(|(_, memory)| memory.free_mb).min().unwrap_or(0);
        // Parts on several devices come out of one memory.
        let free_mb = free_mb.min(self.host_left_mb().map_or(u64::MAX, |left| left / size as u64));
        let mut devices: Vec<usize> = best.into_iter().map(|(device, _)| device).collect();
        devices.sort_unstable();
        self.check_leaders(&devices)?;
        Ok((devices, free_mb))
    }

    /// Ranks that are told by several leaders could be told in different orders, and then wait for each other.
    fn check_leaders(&self, devices: &[usize]) -> Result<(), LoadFailure> {
        if devices.len() == 1 {
            return Ok(());
        }
        let other = self.list().into_iter().find_map(|(_, state)| match state {
            State::Ready(ready) | State::Unloading(ready) => {
                let shares = ready.devices.iter().any(|device| devices.contains(device));
                (ready.devices.len() > 1 && shares && ready.devices[0] != devices[0]).then_some(ready)
            }
            _ => None,
        });
        other.map_or(Ok(()), |other| {
            let (id, of) = (&other.id, &other.devices);
            let text = format!(
                "{id} is in parts on the devices {of:?}, and another led by device {} could not share any of them: \
                 unload it, or name other devices",
                devices[0]
            );
            Err(LoadFailure::Request(text))
        })
    }

    /// Loads a model onto the devices, of which the first leads; what of it is there already goes again where a part fails.
    pub(super) async fn load_on(
        &self,
        devices: &[usize],
        key: ModelKey,
        checked: (Weights, Blueprint, Room),
        stats: &Arc<Stats>,
    ) -> Result<(), LoadFailure> {
        let (weights, plan, room) = checked;
        let followers: Vec<_> =
            devices[1..].iter().map(|device| self.devices[*device].follower(key)).collect();
        let ranks = Loopback::ranks(devices.len(), WATCHDOG).into_iter().enumerate();
        let mut followers = Some(followers);
        let loads = devices.iter().zip(ranks).map(|(device, (rank, communicator))| {
            let shard = Shard { rank, size: devices.len(), communicator: Box::new(communicator) };
            let role = match (devices.len(), rank) {
                (1, _) => Role::Alone,
                (_, 0) => Role::Leads(shard, followers.take().unwrap_or_default()),
                _ => Role::Follows(shard),
            };
            let (weights, plan, stats) = (weights.clone(), plan.clone(), Arc::clone(stats));
            self.devices[*device].load(key, weights, plan, room, stats, role)
        });
        let loaded = join_all(loads).await;
        let Some((device, error)) =
            devices.iter().zip(loaded).find_map(|(device, loaded)| Some((*device, loaded.err()?)))
        else {
            return Ok(());
        };
        // Before it may be up again.
        let failure = match self.devices[device].is_up() {
            true => LoadFailure::Engine(error.to_string()),
            false => LoadFailure::Device(error.to_string()),
        };
        join_all(devices.iter().map(|device| self.devices[*device].unload(key))).await;
        Err(failure)
    }

    /// Returns once all of the model's memory is back.
    pub(super) async fn unload_from(&self, ready: &Ready) -> Result<(), Unavailable> {
        let leader = match self.device(ready).unload(ready.key).await {
            // There is nothing of it any more.
            Err(Unavailable::Lost) => Ok(()),
            other => other,
        };
        for device in &ready.devices[1..] {
            // One that was lost has nothing any more.
            self.devices[*device].unload(ready.key).await.ok();
        }
        leader
    }

    /// Models of which a part was on a device that was lost: the other parts go.
    async fn break_up(&self, device: usize) {
        let broken = self.list().into_iter().filter_map(|(_, state)| match state {
            State::Ready(ready) if ready.devices.len() > 1 && ready.devices.contains(&device) => Some(ready),
            _ => None,
        });
        for ready in broken.collect::<Vec<_>>() {
            ready
                .stats
                .set_fault(format!("{}, which had a part of it, was lost", self.devices[device].name()));
            self.device(&ready).cut(ready.key).await.ok();
            self.unload_from(&ready).await.ok();
        }
    }
}

/// How long the ranks of a model wait for one of them: longer than any load, which a device is busy with.
const WATCHDOG: Duration = Duration::from_secs(600);

/// The refusal names the device that it is about.
pub(super) fn on_device(error: LoadError, index: usize) -> LoadError {
    match error {
        LoadError::InsufficientVram { model_id, required_mb, free_mb, .. } => LoadError::InsufficientVram {
            model_id,
            required_mb,
            free_mb,
            device: u32::try_from(index).unwrap_or(u32::MAX),
        },
        other => other,
    }
}
