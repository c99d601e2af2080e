//! What a device's thread asks of a model.

use super::{Blueprint, Shard, Weights};

/// A loaded model with the memory of its sequences. It never leaves its device's thread.
pub trait Model {
    /// What it can take.
    fn limits(&self) -> Limits;

    /// Runs the tokens of several sequences together.
    ///
    /// An error, or logits that are no numbers, leave the blocks of other sequences as they were.
    fn forward(&mut self, batch: &Batch<'_>) -> Result<Logits<'_>, ModelError>;

    /// Bytes of the weights as they are held.
    fn weights_bytes(&self) -> u64;

    /// Why no further forward can succeed, though its device is well: a part of it elsewhere is gone.
    fn broken(&self) -> Option<&str> {
        None
    }

    /// Lets others go who wait for it: what it holds itself is leaked.
    fn abandon(&mut self) {}

    /// Seconds that the device alone takes for so many of the last recorded step of one sequence; `None`: nothing of it is
    /// recorded. To measure with.
    fn replays(&mut self, count: usize) -> Option<Result<f64, ModelError>> {
        let _unused = count;
        None
    }

    /// Takes the weights to the host's memory and gives the device's back; what the cache holds is lost. Called when no
    /// sequence is left. An error leaves it as it was, as does `Ok(false)`: there is no room for them now.
    fn park(&mut self) -> Result<bool, ModelError> {
        Err(ModelError("such a model cannot be parked".to_owned()))
    }

    /// After [`Self::park`]: takes the device's memory again, and the weights to it. An error leaves it parked.
    fn wake(&mut self) -> Result<(), ModelError> {
        Err(ModelError("such a model is never parked".to_owned()))
    }

    /// Gives back what only a running sequence needs; called when none is left.
    fn rest(&mut self) {}
}

/// What a model can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Sequences in one forward; as many rows of logits are wanted of one at most.
    pub sequences: usize,
    /// Tokens in one forward.
    pub tokens: usize,
    /// Positions of a block; a model that keeps its one sequence in its own way says the whole window.
    pub block: usize,
    /// Blocks that there are.
    pub blocks: usize,
    /// Bytes of a block; 0 where that is not known.
    pub block_bytes: usize,
    /// Whether logits may be wanted of every token of a part, and tokens be run again.
    pub every_row: bool,
    /// Whether a prompt is run in one step, because each of its tokens sees all others.
    pub whole: bool,
    /// Whether a full block may be used by several sequences that begin alike.
    pub shares_blocks: bool,
    /// Whether it draws tokens itself, so that no logits leave the device for it.
    pub draws: bool,
}

/// Tokens of one or more sequences, one sequence after the other.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    pub tokens: &'a [u32],
    pub parts: &'a [Part<'a>],
}

/// One sequence's tokens in a batch.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// Tokens; at least 1.
    pub len: usize,
    /// Where the first of them stands. What is before it has been run.
    pub position: usize,
    /// For every position up to the last of these tokens.
    pub blocks: &'a [u32],
    /// Which logits are wanted.
    pub rows: Rows,
}

/// Of which tokens of a part the logits after them are wanted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rows {
    None,
    Last,
    /// No logits, but the token that is drawn of the last ones. Only where the model's limits say that it can.
    Drawn(Draw),
    /// Only where the model's limits say that it can.
    All,
    /// No logits, but the state after each token.
    States,
}

/// How a token is drawn of its logits as they are, in the sampler's order and by its rules.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draw {
    /// 0: the first of the largest.
    pub temperature: f32,
    /// 1: all.
    pub top_p: f32,
    /// 0: all.
    pub top_k: usize,
    /// 0: all.
    pub min_p: f32,
    /// A random number in [0, 1).
    pub unit: f32,
}

impl Part<'_> {
    /// Rows of logits that it wants.
    pub fn wanted(&self) -> usize {
        match self.rows {
            Rows::None | Rows::States | Rows::Drawn(_) => 0,
            Rows::Last => 1,
            Rows::All => self.len,
        }
    }
}

/// What a forward gives, in the batch's order.
#[derive(Debug)]
pub struct Logits<'a> {
    /// Of those tokens that want them: `[tokens, vocab]`.
    pub data: &'a mut [f32],
    pub vocab: usize,
    /// States, normalised for the head, of the parts that want them: `[tokens, width]`.
    pub states: &'a [f32],
    pub width: usize,
    /// Of the parts that want one drawn; `None`: no logit was a number.
    pub drawn: &'a [Option<u32>],
}

/// How much a model gets beside its weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Tokens of one sequence.
    pub context: u64,
    /// Tokens of all sequences together, what is kept of ended ones included.
    pub cached: u64,
}

/// Makes models. The worker is written against this, so that it can be tested without weights.
pub trait Backend {
    /// Reads the weights into the device's memory.
    fn load(&mut self, weights: &Weights, plan: &Blueprint, room: Room)
    -> Result<Box<dyn Model>, ModelError>;

    /// As [`Self::load`], a part of a model that runs on several devices at once. `plan` is the part's own, as
    /// [`super::Shape::sharded`] makes it.
    fn load_shard(
        &mut self,
        weights: &Weights,
        plan: &Blueprint,
        room: Room,
        shard: Shard,
    ) -> Result<Box<dyn Model>, ModelError> {
        let _unused = (weights, plan, room, shard);
        Err(ModelError("models in parts are not computed here".to_owned()))
    }

    /// Bytes of the device's own memory that are free, and all of it; `None`: it has the host's.
    fn memory(&mut self) -> Option<(u64, u64)> {
        None
    }

    /// Whether nothing can be computed on the device any more, asked after each failure: the driver's errors of the
    /// kind that stays, such as an illegal address.
    fn lost(&mut self) -> Option<Lost> {
        None
    }
}

/// A device on which nothing can be computed any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// The driver's words.
    pub reason: String,
    /// What lies on the device may be dropped. Where the driver fails even then, it is leaked.
    pub may_drop: bool,
}

/// What the engine's library says went wrong.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ModelError(pub String);
