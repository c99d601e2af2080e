//! The other ranks of a model in parts: they meet in the host's memory, or on the devices by NCCL.

use std::time::{Duration, Instant};

use neuron_cuda::{Device, ID_BYTES, Ranks};

use super::step::Work;
use crate::engine::{Communicator, ModelError, Shard};

/// How long a step may take with all ranks there.
const LONGEST_STEP: Duration = Duration::from_secs(60);

pub(super) struct Others {
    /// What the ranks found each other by, and where they learn that one is gone.
    host: Box<dyn Communicator>,
    by_nccl: Option<Ranks>,
}

impl Others {
    /// `nccl`: whether it is to be used where all ranks can. All ranks call this, once their part is loaded.
    pub(super) fn meet(device: &Device, shard: Shard, nccl: bool) -> Result<Self, ModelError> {
        let Shard { rank, size, communicator: mut host } = shard;
        let all = |host: &mut Box<dyn Communicator>, can: bool| -> Result<bool, ModelError> {
            let mut count = [if can { 1.0 } else { 0.0 }];
            host.all_reduce(&mut count)?;
            Ok((count[0] - size as f32).abs() < 0.5)
        };
        if !all(&mut host, nccl && Ranks::can_be_on(device))? {
            return Ok(Self { host, by_nccl: None });
        }
        // The first one's id, by what all others add nothing to.
        let mut id = [0.0; ID_BYTES];
        if rank == 0 {
            id = Ranks::id()?.map(f32::from);
        }
        host.all_reduce(&mut id)?;
        let joined = Ranks::join(device, id.map(|byte| byte as u8), rank, size);
        if let Err(error) = &joined {
            tracing::warn!(%error, rank, "NCCL cannot be used; the ranks meet in the host's memory");
        }
        let by_nccl = if all(&mut host, joined.is_ok())? { joined.ok() } else { None };
        Ok(Self { host, by_nccl })
    }

    /// What is to be added becomes what all ranks have to add: `floats` of them.
    pub(super) fn all_reduce(&mut self, work: &Work, floats: usize) -> Result<(), ModelError> {
        match &self.by_nccl {
            Some(ranks) => Ok(ranks.all_reduce(&work.added, floats)?),
            None => work.all_reduce(floats, self.host.as_mut()),
        }
    }

    /// Returns once the step is done on this device. An error is one of all ranks.
    pub(super) fn wait(&mut self) -> Result<(), ModelError> {
        let Self { host, by_nccl: Some(ranks) } = self else { return Ok(()) };
        let until = Instant::now() + LONGEST_STEP;
        let done = ranks.wait(|| host.is_aborted() || Instant::now() > until);
        if done.is_err() {
            host.abort();
            ranks.abort();
        }
        Ok(done?)
    }

    pub(super) fn abort(&mut self) {
        self.host.abort();
        if let Some(ranks) = &mut self.by_nccl {
            ranks.abort();
        }
    }
}
