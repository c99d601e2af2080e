//! The kernels, their shapes checked: what does not fit panics before anything runs, for it is a mistake of the caller's.
//! Each struct of parameters is the one of the same name in `kernels/*.cu`.

mod attention;
mod layers;
mod names;
mod products;
mod sampling;

pub use attention::{Attention, Cache, Kv, KvFloat, Rope, attend_many, attend_one, rope, splits, tiles};
pub use layers::{AddNorm, add_norm, combine, convert, gate_up, route};
pub use products::{FEW, embed, experts, multiply};
pub use sampling::{Draw, sample};

use crate::{Act, Buffer};

/// Where activations are written and read: `[rows, width]`.
#[derive(Debug, Clone, Copy)]
pub struct Acts<'a> {
    pub act: Act,
    pub data: &'a Buffer,
    /// Of those in 8 bits.
    pub groups: &'a Buffer,
    pub rows: usize,
    pub width: usize,
}

impl Acts<'_> {
    /// Addresses of the numbers and of the groups, which must be there.
    fn addresses(&self) -> [u64; 2] {
        let data = self.data.at(0, self.rows * self.act.bytes(self.width));
        let groups = match self.act {
            Act::Q8 => {
                assert!(self.width.is_multiple_of(32), "a width of {} in 8 bits", self.width);
                self.groups.at(0, self.rows * self.width / 32 * GROUP)
            }
            _ => 0,
        };
        [data, groups]
    }
}

/// Bytes of a group's scale and sums.
pub const GROUP: usize = 16;

/// Of `count` floats or integers.
fn words(buffer: &Buffer, count: usize) -> u64 {
    buffer.at(0, count * 4)
}

fn int(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}
