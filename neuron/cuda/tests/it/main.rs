//! Every kernel on the emulated device, against sums in 64 bits: random inputs, outputs that begin as no numbers, odd shapes.
//!
//! The device runs a block's threads in an order of its own in each launch, gives shared memory that begins as no numbers, and
//! finds writes beyond a buffer and barriers that some thread never reaches.
#![expect(clippy::unwrap_used, reason = "tests")]

mod attention;
mod discovery;
mod layers;
mod products;
mod sampling;
mod shelf;
mod support;
