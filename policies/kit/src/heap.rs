//! Memory for a policy: blocks of powers of two, a list of free ones for each size.
//!
//! Taking and giving back is a handful of instructions, where the standard allocator's are a hundred and
//! 6 KB of code. What it costs: a block is up to twice what was asked for, and memory of one size never
//! becomes another. A policy allocates the arguments and the answer of a call, the same sizes every time.

#![expect(unsafe_code, reason = "an allocator hands out raw memory")]

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::null_mut;

/// The smallest block, and how every block is aligned. Types aligned beyond that get no memory.
const LEAST: usize = 16;
/// Sizes from 16 bytes to 2 GiB.
const CLASSES: usize = 28;
/// WebAssembly's page.
const PAGE: usize = 64 << 10;

/// The global allocator of a policy.
pub struct Heap(UnsafeCell<Blocks>);

struct Blocks {
    /// The first free block of each size; its first word is the next one's address, 0 at the end.
    free: [usize; CLASSES],
    /// What was never handed out: addresses from `fresh` to `end`.
    fresh: usize,
    end: usize,
}

// SAFETY: a policy runs in one thread (the host refuses shared memories), and nothing here calls out.
unsafe impl Sync for Heap {}

impl Heap {
    pub const fn new() -> Self {
        Self(UnsafeCell::new(Blocks::new()))
    }
}

impl Default for Heap {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: a block is at least as large as asked for, aligned to LEAST, and in one hand at a time: it
// leaves the free list, or the fresh memory, when it is handed out.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match class(layout) {
            // SAFETY: one thread, and no other reference to the blocks is alive.
            Some(class) => unsafe { (*self.0.get()).take(class, grow) },
            None => null_mut(),
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(class) = class(layout) {
            // SAFETY: as above; the caller gives back what `alloc` gave for this layout.
            unsafe { (*self.0.get()).give_back(block, class) }
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that `size` does not overflow when rounded up to the alignment.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        if class(layout) == class(wanted) {
            return block;
        }
        // SAFETY: as above; the two blocks are different and at least `size.min(layout.size())` long.
        unsafe {
            let moved = self.alloc(wanted);
            if !moved.is_null() {
                core::ptr::copy_nonoverlapping(block, moved, size.min(layout.size()));
                self.dealloc(block, layout);
            }
            moved
        }
    }
}

/// Which free list serves a layout. `None` where none does.
fn class(layout: Layout) -> Option<usize> {
    let class = layout.size().max(LEAST).next_power_of_two().trailing_zeros() - LEAST.trailing_zeros();
    (layout.align() <= LEAST && (class as usize) < CLASSES).then_some(class as usize)
}

impl Blocks {
    const fn new() -> Self {
        Self { free: [0; CLASSES], fresh: 0, end: 0 }
    }

    /// Null where `grow(bytes)` gives no more memory; what it gives is the address of so many bytes.
    ///
    /// # Safety
    /// What `grow` gives belongs to these blocks alone from then on.
    unsafe fn take(&mut self, class: usize, grow: impl FnOnce(usize) -> Option<usize>) -> *mut u8 {
        let first = self.free[class];
        if first != 0 {
            // SAFETY: a free block's first word is the next one's address; `give_back` wrote it.
            self.free[class] = unsafe { *(first as *const usize) };
            return first as *mut u8;
        }
        let size = LEAST << class;
        if self.end == 0 {
            (self.fresh, self.end) = begin();
        }
        if self.end - self.fresh < size {
            let bytes = size.next_multiple_of(PAGE);
            let Some(start) = grow(bytes) else { return null_mut() };
            if start != self.end {
                self.fresh = start;
            }
            self.end = start + bytes;
        }
        self.fresh += size;
        (self.fresh - size) as *mut u8
    }

    /// # Safety
    /// `block` came from `take` with the same class and is not used any more.
    unsafe fn give_back(&mut self, block: *mut u8, class: usize) {
        // SAFETY: it is ours again, at least LEAST bytes long and aligned to that.
        unsafe { *block.cast::<usize>() = self.free[class] };
        self.free[class] = block as usize;
    }
}

/// What is left of the memory that the module began with.
#[cfg(target_family = "wasm")]
fn begin() -> (usize, usize) {
    unsafe extern "C" {
        /// The linker's name for where data ends.
        static __heap_base: u8;
    }
    let base = (&raw const __heap_base) as usize;
    (base.next_multiple_of(LEAST), core::arch::wasm32::memory_size(0) * PAGE)
}

#[cfg(not(target_family = "wasm"))]
fn begin() -> (usize, usize) {
    (0, 0)
}

#[cfg(target_family = "wasm")]
fn grow(bytes: usize) -> Option<usize> {
    let before = core::arch::wasm32::memory_grow(0, bytes / PAGE);
    (before != usize::MAX).then(|| before * PAGE)
}

/// Elsewhere the heap is only tested, with memory of the test's own.
#[cfg(not(target_family = "wasm"))]
fn grow(_bytes: usize) -> Option<usize> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// What is alive never overlaps, is aligned, and stays as it was written.
        #[test]
        fn blocks_are_apart(steps in prop::collection::vec((0usize..3000, any::<prop::sample::Index>()), 1..200)) {
            let mut memory = vec![0u128; 256 * PAGE / 16];
            let (start, mut used) = (memory.as_mut_ptr() as usize, 0);
            let mut blocks = Blocks::new();
            let mut alive: Vec<(*mut u8, Layout, u8)> = Vec::new();
            for (step, (size, which)) in steps.into_iter().enumerate() {
                if size.is_multiple_of(3) && !alive.is_empty() {
                    let (block, layout, mark) = alive.swap_remove(which.index(alive.len()));
                    for at in 0..layout.size() {
                        prop_assert_eq!(unsafe { *block.add(at) }, mark);
                    }
                    unsafe { blocks.give_back(block, class(layout).unwrap()) };
                    continue;
                }
                let layout = Layout::from_size_align(size, 8).unwrap();
                let block = unsafe {
                    blocks.take(class(layout).unwrap(), |bytes| {
                        used += bytes;
                        (used <= 256 * PAGE).then(|| start + used - bytes)
                    })
                };
                prop_assert!(!block.is_null() && (block as usize).is_multiple_of(LEAST));
                unsafe { block.write_bytes(step as u8, size) };
                alive.push((block, layout, step as u8));
            }
        }
    }

    #[test]
    fn a_block_given_back_is_used_again_and_no_memory_is_null() {
        let mut memory = vec![0u128; PAGE / 16];
        let start = memory.as_mut_ptr() as usize;
        let mut blocks = Blocks::new();
        let first = unsafe { blocks.take(0, |_| Some(start)) };
        unsafe { blocks.give_back(first, 0) };
        assert_eq!(unsafe { blocks.take(0, |_| panic!("there is a free one")) }, first);
        assert!(unsafe { blocks.take(20, |_| None) }.is_null());
    }

    #[test]
    fn sizes_go_to_their_class() {
        let check = |size, align, want| {
            assert_eq!(class(Layout::from_size_align(size, align).unwrap()), want, "{size}");
        };
        check(0, 1, Some(0));
        check(16, 8, Some(0));
        check(17, 8, Some(1));
        check(1 << 20, 16, Some(16));
        check(8, 32, None);
    }
}
