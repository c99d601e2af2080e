//! A sort in few bytes of code; the standard library's are made for large inputs.

/// Up to this many items insertion is quicker than a heap.
const FEW: usize = 32;

/// Ascending, in place, without memory of its own; n log n. Equal items keep no order: make keys unique.
// Indices go through `get`, not because they could be out of range: each index that can panic brings its place
// in the source and a message with it.
pub fn sort<T: Copy + Ord>(items: &mut [T]) {
    if items.len() <= FEW {
        for end in 1..items.len() {
            sink(items, end);
        }
        return;
    }
    for root in (0..items.len() / 2).rev() {
        sift(items, root);
    }
    for end in (1..items.len()).rev() {
        if let Some((last, heap)) = items.get_mut(..=end).and_then(<[T]>::split_last_mut) {
            if let Some(first) = heap.first_mut() {
                core::mem::swap(first, last);
            }
            sift(heap, 0);
        }
    }
}

/// Moves the item at `end` down to its place among those before it, which are sorted.
fn sink<T: Copy + Ord>(items: &mut [T], end: usize) {
    let Some((item, before)) = items.get_mut(..=end).and_then(<[T]>::split_last_mut) else { return };
    let moving = *item;
    let mut gap = item;
    for place in before.iter_mut().rev() {
        if *place <= moving {
            break;
        }
        *gap = *place;
        gap = place;
    }
    *gap = moving;
}

/// Lets the item at `root` of a heap sink until no child is larger.
fn sift<T: Copy + Ord>(items: &mut [T], mut root: usize) {
    let Some(&item) = items.get(root) else { return };
    while let Some(&left) = items.get(2 * root + 1) {
        // Which child is larger is a coin's throw: added, not branched on.
        let child = match items.get(2 * root + 2) {
            Some(&right) => 2 * root + 1 + usize::from(right > left),
            None => 2 * root + 1,
        };
        let Some(&larger) = items.get(child).filter(|larger| **larger > item) else { break };
        if let Some(place) = items.get_mut(root) {
            *place = larger;
        }
        root = child;
    }
    if let Some(place) = items.get_mut(root) {
        *place = item;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sorts(mut items in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut want = items.clone();
            want.sort_unstable();
            super::sort(&mut items);
            prop_assert_eq!(items, want);
        }
    }
}
