//! What a step works with: its inputs, uploaded in one copy, and the memory of what lies between tokens and logits.

use neuron_cuda::{
    Act, Buffer, Device, Error,
    ops::{self, Acts, Attention},
};

use super::{BLOCK, GpuDecoder, LOGIT_ROWS, MAX_TOKENS};
use crate::engine::{Batch, Communicator, Draw, Logits, ModelError, Part, Rows};

/// Runs of at least so many tokens are attended to at once.
const MANY: usize = 16;
/// Sequences of one token each are recorded for these numbers of them; others are filled up to the next.
const RECORDED: [usize; 11] = [1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64];

/// What a step is about, in numbers that the kernels' grids follow from.
#[derive(Debug)]
pub(super) struct Step {
    /// Those that fill up a recordable step included.
    pub(super) tokens: usize,
    /// Tokens that are attended to one by one.
    pub(super) rows: usize,
    /// Runs of up to 64 that are attended to at once.
    pub(super) tiles: usize,
    /// Rows of logits.
    pub(super) wanted: usize,
    /// Nothing but the numbers above tells it from another.
    pub(super) recordable: bool,
}

/// Integers that the kernels read, all in one piece of memory.
pub(super) struct Inputs {
    all: Buffer,
    staged: Vec<i32>,
    pub(super) tokens: Buffer,
    pub(super) positions: Buffer,
    /// Block * 16 + place in it.
    pub(super) slots: Buffer,
    /// Where a token's blocks begin in `tables`.
    pub(super) starts: Buffer,
    pub(super) rows: Buffer,
    pub(super) wanted: Buffer,
    /// First token and how many.
    pub(super) tiles: Buffer,
    /// The last, as most of it is rarely used.
    pub(super) tables: Buffer,
}

/// Integers before the tables: six for each token, and the tiles.
const TILES: usize = MAX_TOKENS / MANY + LOGIT_ROWS;
pub(super) const FIXED: usize = 6 * MAX_TOKENS + 2 * TILES;

impl Inputs {
    /// `entries`: blocks of all sequences of a step, at most.
    pub(super) fn new(device: &Device, entries: usize) -> Result<Self, Error> {
        let count = FIXED + entries;
        let all = device.alloc(count * 4)?;
        all.zero()?;
        Ok(Self::of_parts(&all, vec![0; count], |from, words| all.part(from * 4, words * 4)))
    }

    /// `part(from, words)` of all.
    pub(super) fn of_parts(all: &Buffer, staged: Vec<i32>, part: impl Fn(usize, usize) -> Buffer) -> Self {
        let of = |n: usize| part(n * MAX_TOKENS, MAX_TOKENS);
        Self {
            tokens: of(0),
            positions: of(1),
            slots: of(2),
            starts: of(3),
            rows: of(4),
            wanted: of(5),
            tiles: part(6 * MAX_TOKENS, 2 * TILES),
            tables: part(FIXED, staged.len().saturating_sub(FIXED)),
            all: all.clone(),
            staged,
        }
    }

    fn part(&mut self, n: usize) -> &mut [i32] {
        &mut self.staged[n * MAX_TOKENS..(n + 1) * MAX_TOKENS]
    }
}

/// Which rows of logits are wanted themselves, and which are drawn of. Of a recordable step every part has a row, wanted
/// or not.
fn rows_of(step: &Step, batch: &Batch<'_>) -> (Vec<usize>, Vec<(usize, Draw)>) {
    let (mut kept, mut draws, mut row) = (Vec::new(), Vec::new(), 0);
    for part in batch.parts {
        if let Rows::Drawn(draw) = part.rows {
            draws.push((row, draw));
            row += 1;
        } else {
            kept.extend(row..row + part.wanted());
            row += if step.recordable { 1 } else { part.wanted() };
        }
    }
    (kept, draws)
}

/// Memory of a step, used again by the next. What is not said is floats.
pub(super) struct Work {
    /// The residual stream: `[tokens, hidden]`.
    pub(super) x: Buffer,
    /// What is to be added to it: `[tokens, hidden]`.
    pub(super) added: Buffer,
    /// `[tokens, (heads + 2 * kv_heads) * dim]`
    pub(super) qkv: Buffer,
    /// `[tokens, 2 * width]`, of experts `[tokens * used, 2 * width]`.
    pub(super) gate_up: Buffer,
    /// Of attention that is split.
    pub(super) parts: Buffer,
    /// `[LOGIT_ROWS, vocab]`
    pub(super) logits: Buffer,
    /// `[tokens, experts]`
    pub(super) scores: Buffer,
    /// Integers and floats, `[tokens, used]`.
    pub(super) chosen: Buffer,
    pub(super) weights: Buffer,
    /// `[tokens * used, hidden]`
    pub(super) made: Buffer,
    /// How each row of logits is drawn of, and the tokens: integers.
    pub(super) draws: Buffer,
    pub(super) drawn: Buffer,
    /// What matrices are multiplied with, by form; empty where no matrix wants it so.
    pub(super) inputs: [Buffer; 4],
    /// Scales and sums of those in 8 bits.
    pub(super) groups: Buffer,
}

impl Work {
    /// What matrices are multiplied with.
    pub(super) fn input(&self, act: Act, [rows, width]: [usize; 2]) -> Acts<'_> {
        Acts { act, data: &self.inputs[form(act)], groups: &self.groups, rows, width }
    }

    /// What is to be added becomes what all ranks have to add.
    pub(super) fn all_reduce(&self, floats: usize, others: &mut dyn Communicator) -> Result<(), ModelError> {
        let mut added = vec![0.0f32; floats];
        self.added.read(0, &mut added)?;
        others.all_reduce(&mut added)?;
        Ok(self.added.write(0, &added)?)
    }
}

/// Its place among the inputs.
fn form(act: Act) -> usize {
    match act {
        Act::F32 => 0,
        Act::F16 => 1,
        Act::BF16 => 2,
        Act::Q8 => 3,
    }
}

impl GpuDecoder {
    /// Uploads what the step is about.
    pub(super) fn begin(&mut self, batch: &Batch<'_>) -> Result<Step, ModelError> {
        let int = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let (count, vocab) = (batch.tokens.len(), self.shape.vocab);
        if let Some(token) = batch.tokens.iter().find(|token| u64::from(**token) >= vocab) {
            return Err(ModelError(format!("token {token} of a vocabulary of {vocab}")));
        }
        if count > MAX_TOKENS || batch.parts.len() > LOGIT_ROWS {
            return Err(ModelError(format!("{count} tokens of {} sequences at once", batch.parts.len())));
        }
        let single = |part: &Part<'_>| part.len == 1 && part.rows != Rows::States;
        let singles = batch.parts.iter().all(single);
        // Ranks have to take the same step, and not all of them know what is wanted of it.
        let recorded =
            RECORDED.iter().find(|size| **size >= count).filter(|_| singles && self.others.is_none());
        let tokens = recorded.copied().unwrap_or(count);
        let mut step = Step { tokens, rows: 0, tiles: 0, wanted: 0, recordable: recorded.is_some() };
        let nobodys = int(self.kv.blocks - 1);
        let by_tiles = ops::tiles(&self.kv);
        let inputs = &mut self.inputs;
        // What fills up: token 0 at position 0 in the block that is nobody's.
        inputs.staged[FIXED] = nobodys;
        let mut entry = 1;
        for n in [0, 1, 3] {
            inputs.part(n)[count..tokens].fill(0);
        }
        inputs.part(2)[count..tokens].fill(nobodys * int(BLOCK));
        for (n, token) in batch.tokens.iter().enumerate() {
            inputs.part(0)[n] = token.cast_signed();
        }
        let mut first = 0;
        for part in batch.parts {
            let blocks = &part.blocks[..(part.position + part.len).div_ceil(BLOCK)];
            let Some(table) = inputs.staged.get_mut(FIXED + entry..FIXED + entry + blocks.len()) else {
                return Err(ModelError("more blocks than a step has room for".to_owned()));
            };
            table.iter_mut().zip(blocks).for_each(|(to, block)| *to = block.cast_signed());
            for n in 0..part.len {
                let position = part.position + n;
                inputs.part(1)[first + n] = int(position);
                inputs.part(2)[first + n] = int(blocks[position / BLOCK] as usize * BLOCK + position % BLOCK);
                inputs.part(3)[first + n] = int(entry);
            }
            if by_tiles && part.len >= MANY {
                for at in (0..part.len).step_by(Attention::TILE) {
                    let tile = 6 * MAX_TOKENS + 2 * step.tiles;
                    inputs.staged[tile] = int(first + at);
                    inputs.staged[tile + 1] = int((part.len - at).min(Attention::TILE));
                    step.tiles += 1;
                }
            } else {
                for n in 0..part.len {
                    inputs.part(4)[step.rows] = int(first + n);
                    step.rows += 1;
                }
            }
            let of_device = if matches!(part.rows, Rows::Drawn(_)) { 1 } else { part.wanted() };
            for n in part.len - of_device..part.len {
                inputs.part(5)[step.wanted] = int(first + n);
                step.wanted += 1;
            }
            entry += blocks.len();
            first += part.len;
        }
        if step.recordable {
            // Logits of all, wanted or not.
            (step.rows, step.wanted) = (tokens, tokens);
            for n in 0..tokens {
                inputs.part(4)[n] = int(n);
                inputs.part(5)[n] = int(n);
            }
        }
        inputs.all.write(0, &inputs.staged[..FIXED + entry])?;
        Ok(step)
    }

    /// What the step was for.
    pub(super) fn read(&mut self, step: &Step, batch: &Batch<'_>) -> Result<Logits<'_>, ModelError> {
        let (vocab, hidden) = (self.shape.vocab as usize, self.shape.hidden as usize);
        self.states(step, batch)?;
        self.drawn.clear();
        if step.wanted <= LOGIT_ROWS {
            let (kept, draws) = rows_of(step, batch);
            if !draws.is_empty() {
                self.draw(step.wanted, &draws)?;
            }
            // Runs of rows that follow each other in one copy: mostly all, or none.
            let host = self.host.slice::<f32>();
            let mut to = 0;
            for run in kept.chunk_by(|a, b| a + 1 == *b) {
                let into = &mut host[to * vocab..(to + run.len()) * vocab];
                self.work.logits.read(run[0] * vocab * 4, into)?;
                to += run.len();
            }
            let data = &mut self.host.slice::<f32>()[..kept.len() * vocab];
            return Ok(Logits { data, vocab, states: &self.states, width: hidden, drawn: &self.drawn });
        }
        if batch.parts.iter().any(|part| matches!(part.rows, Rows::Drawn(_))) {
            return Err(ModelError(format!("tokens drawn beside {} rows of logits", step.wanted)));
        }
        self.many.resize(step.wanted * vocab, 0.0);
        for first in (0..step.wanted).step_by(LOGIT_ROWS) {
            let count = LOGIT_ROWS.min(step.wanted - first);
            if first > 0 {
                self.logits(step, self.last_post(), first, count)?;
            }
            self.work.logits.read(0, &mut self.many[first * vocab..(first + count) * vocab])?;
        }
        Ok(Logits { data: &mut self.many, vocab, states: &self.states, width: hidden, drawn: &[] })
    }

    /// Tokens of the rows that want one, in their order.
    fn draw(&mut self, rows: usize, draws: &[(usize, Draw)]) -> Result<(), ModelError> {
        let cold = ops::Draw { temperature: 0.0, top_p: 1.0, min_p: 0.0, unit: 0.0, top_k: 0 };
        let mut all = vec![cold; rows];
        for (row, draw) in draws {
            let Draw { temperature, top_p, top_k, min_p, unit } = *draw;
            let top_k = i32::try_from(top_k).unwrap_or(i32::MAX);
            all[*row] = ops::Draw { temperature, top_p, min_p, unit, top_k };
        }
        let Work { logits, draws: on_device, drawn, .. } = &self.work;
        on_device.write(0, &all)?;
        ops::sample(&self.device, logits, [rows, self.shape.vocab as usize], on_device, drawn)?;
        let mut tokens = vec![0i32; rows];
        drawn.read(0, &mut tokens)?;
        self.drawn.extend(draws.iter().map(|(row, _)| u32::try_from(tokens[*row]).ok()));
        Ok(())
    }

    /// Of the parts that want them.
    fn states(&mut self, step: &Step, batch: &Batch<'_>) -> Result<(), ModelError> {
        self.states.clear();
        let mut first = 0;
        let mut rows: Vec<i32> = Vec::new();
        for part in batch.parts {
            if part.rows == Rows::States {
                rows.extend((first..first + part.len).map(|row| i32::try_from(row).unwrap_or(i32::MAX)));
            }
            first += part.len;
        }
        if rows.is_empty() {
            return Ok(());
        }
        let hidden = self.shape.hidden as usize;
        // Where logits are not: they were computed before.
        let there = self.work.qkv.part(0, rows.len() * 4);
        there.write(0, &rows)?;
        let out = Acts::floats(&self.work.gate_up, [rows.len(), hidden]);
        self.last_norm(step, self.last_post(), &there, &out)?;
        self.states.resize(rows.len() * hidden, 0.0);
        Ok(self.work.gate_up.read(0, &mut self.states)?)
    }
}
