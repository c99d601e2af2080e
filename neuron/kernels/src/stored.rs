//! Matrices as they are stored, row by row, on their way into panels.
//!
//! Each task reads the rows that it packs, a piece that stays in its core's cache: threads read a file at once, and
//! no tensor is in memory as a whole beside what is made of it.

use std::{
    cell::Cell,
    io,
    ops::Range,
    sync::{Mutex, PoisonError},
};

use crate::Pool;

/// Bytes that a task reads at once, or one panel's where that is more.
const PIECE: usize = 128 << 10;

thread_local! {
    /// A piece that was read here, for the next one to be read into.
    static BYTES: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Bytes that can be read from anywhere by several threads.
pub trait Stored: Sync {
    /// How many there are.
    fn len(&self) -> usize;

    /// Fills `into` with what lies at `from`. Errors where it cannot be read, or ends before.
    fn read(&self, from: usize, into: &mut [u8]) -> io::Result<()>;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Stored for Vec<u8> {
    fn len(&self) -> usize {
        self.len()
    }

    fn read(&self, from: usize, into: &mut [u8]) -> io::Result<()> {
        let bytes = self.get(from..).and_then(|rest| rest.get(..into.len()));
        into.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// Which stored row becomes which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// As they are.
    Stored,
    /// Of each `head` rows the even ones, then the odd ones: pairs that lie side by side come half a head apart.
    Unpaired { head: usize },
}

impl Order {
    /// Rows that stay among themselves.
    fn group(self) -> usize {
        match self {
            Self::Stored => 1,
            Self::Unpaired { head } => head,
        }
    }

    /// The stored row that becomes `row`.
    pub fn from(self, row: usize) -> usize {
        match self {
            Self::Stored => row,
            Self::Unpaired { head } => {
                let (start, within, half) = (row / head * head, row % head, head / 2);
                start + 2 * (within % half) + within / half
            }
        }
    }
}

/// A matrix's rows, each of `row_len` bytes.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) stored: &'a dyn Stored,
    pub(crate) count: usize,
    pub(crate) row_len: usize,
    pub(crate) order: Order,
}

impl Rows<'_> {
    /// Calls `panel(its number, its rows)` for every `lanes` rows in their order, on any thread; of the last panel
    /// there may be fewer. Errors where a row cannot be read.
    ///
    /// Panics where what is stored is not exactly the rows: a caller has checked the file's header.
    pub(crate) fn each_panel(
        self,
        pool: &mut Pool,
        lanes: usize,
        panel: impl Fn(usize, &[&[u8]]) + Sync,
    ) -> io::Result<()> {
        let Self { stored, count, row_len, order } = self;
        let (have, want) = (stored.len(), count * row_len);
        assert_eq!(have, want, "bytes of {count} rows of {row_len}");
        // Whole panels, and whole groups of rows that change places.
        let step = least_common_multiple(lanes, order.group().max(1));
        let rows_a_task = (PIECE / row_len.max(1)).next_multiple_of(step).max(step);
        let failed = Mutex::new(None);
        pool.run(count.div_ceil(rows_a_task), |task| {
            let range = task * rows_a_task..((task + 1) * rows_a_task).min(count);
            if let Err(error) = self.read_panels(range, lanes, &panel) {
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn read_panels(
        self,
        range: Range<usize>,
        lanes: usize,
        panel: &impl Fn(usize, &[&[u8]]),
    ) -> io::Result<()> {
        let mut bytes = BYTES.take();
        bytes.resize(range.len() * self.row_len, 0);
        let read = self.stored.read(range.start * self.row_len, &mut bytes);
        if read.is_ok() {
            self.each_of(&bytes, range, lanes, panel);
        }
        // What long rows took is not kept for as long as the model is there.
        if bytes.capacity() <= 2 * PIECE {
            BYTES.set(bytes);
        }
        read
    }

    fn each_of(self, bytes: &[u8], range: Range<usize>, lanes: usize, panel: &impl Fn(usize, &[&[u8]])) {
        let row = |row: usize| {
            let at = (self.order.from(row) - range.start) * self.row_len;
            &bytes[at..at + self.row_len]
        };
        let mut rows = Vec::with_capacity(lanes);
        for first in range.clone().step_by(lanes) {
            rows.clear();
            rows.extend((first..(first + lanes).min(range.end)).map(row));
            panel(first / lanes, &rows);
        }
    }
}

fn least_common_multiple(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y > 0 {
        (x, y) = (y, x % y);
    }
    a / x * b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_panel_comes_once_with_its_rows_in_their_order() {
        let mut pool = Pool::new("test", 3).unwrap();
        // Rows so long that tasks have one panel each, and so short that one task has all.
        for row_len in [3, 40_000] {
            for (order, count) in [(Order::Stored, 37), (Order::Unpaired { head: 6 }, 36)] {
                let bytes: Vec<u8> = (0..count).flat_map(|row| vec![row as u8; row_len]).collect();
                let rows = Rows { stored: &bytes, count, row_len, order };
                let seen = Mutex::new(vec![Vec::new(); count.div_ceil(8)]);
                let note = |panel: usize, rows: &[&[u8]]| {
                    assert!(rows.iter().all(|row| row.len() == row_len));
                    seen.lock().unwrap()[panel].extend(rows.iter().map(|row| usize::from(row[0])));
                };
                rows.each_panel(&mut pool, 8, note).unwrap();
                let seen: Vec<usize> = seen.into_inner().unwrap().concat();
                assert_eq!(seen, (0..count).map(|row| order.from(row)).collect::<Vec<_>>());
            }
        }
        assert_eq!(
            (0..6).map(|row| Order::Unpaired { head: 6 }.from(row)).collect::<Vec<_>>(),
            [0, 2, 4, 1, 3, 5]
        );
    }

    #[test]
    fn what_cannot_be_read_is_an_error_and_not_a_panic() {
        struct Broken;
        impl Stored for Broken {
            fn len(&self) -> usize {
                32
            }
            fn read(&self, _: usize, _: &mut [u8]) -> io::Result<()> {
                Err(io::Error::other("the disk is gone"))
            }
        }
        let rows = Rows { stored: &Broken, count: 8, row_len: 4, order: Order::Stored };
        let error = rows.each_panel(&mut Pool::new("test", 2).unwrap(), 8, |_, _| ()).unwrap_err();
        assert_eq!(error.to_string(), "the disk is gone");
        assert!(vec![1, 2].read(1, &mut [0; 2]).is_err());
    }
}
