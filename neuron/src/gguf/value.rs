//! Metadata values, narrowed to the kinds that anything here asks for.

use crate::packed::Texts;

/// A metadata value. All integer widths become one, as do both float widths.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Int(i64),
    /// Only where it does not fit [`Value::Int`].
    Uint(u64),
    Float(f64),
    Bool(bool),
    Text(String),
    Array(Array),
}

/// An array; its elements are all of one kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Array {
    /// Truth values too, as 0 and 1.
    Int(Vec<i64>),
    Float(Vec<f32>),
    Text(Texts),
}
