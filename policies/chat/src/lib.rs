//! Chat completions, the native dialect, as translation policies read and write them.
//!
//! A dialect's policy is two mappings: its own requests onto [`request::Request`], and the answer back, whole
//! ([`answer::Completion`]) or as it comes ([`stream::Stream`], which puts what a model says into blocks, one after
//! the other, and hands them to the dialect's [`stream::Writer`]).
//!
//! Everything is read in one pass into types that borrow from the body: a conversation is mostly text, and text is
//! neither copied nor looked at twice. Fields that nobody acts on are skipped, whatever they hold.

pub mod answer;
pub mod error;
#[cfg(any(test, fuzzing, feature = "fuzzing"))]
pub mod fuzzing;
pub mod id;
pub mod names;
pub mod parse;
pub mod request;
pub mod sse;
pub mod stream;
pub mod text;
pub mod write;

pub use parse::{parse, part};
pub use text::Text;
