//! A buffer that begins with a line of the cache: a vector that lies across two lines takes two loads.

use std::ops::{Deref, DerefMut};

/// Bytes of a line.
const LINE: usize = 64;

/// Elements, the first of them at the start of a line.
pub(crate) struct Aligned<T> {
    held: Vec<T>,
    from: usize,
}

impl<T: Clone + Default> Aligned<T> {
    /// Memory is taken from the system as it is written to, as with a vector of zeros.
    pub(crate) fn zeros(len: usize) -> Self {
        let spare = LINE / size_of::<T>();
        let held = vec![T::default(); len + spare];
        // An allocation that cannot be aligned is used as it is: only slower.
        let from = held.as_ptr().align_offset(LINE).min(spare);
        Self { held, from }
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.held[self.from..]
    }
}

impl<T> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.held[self.from..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_with_a_line_and_is_long_enough() {
        for len in [0, 1, 16, 1000] {
            let (floats, halves) = (Aligned::<f32>::zeros(len), Aligned::<u16>::zeros(len));
            assert!(floats.len() >= len && halves.len() >= len);
            assert_eq!((floats.as_ptr() as usize % LINE, halves.as_ptr() as usize % LINE), (0, 0));
        }
    }
}
