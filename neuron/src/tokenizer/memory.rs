//! What the standard library's collections take, for estimates.

/// Bytes that an allocation takes, what the allocator keeps of it included.
pub(super) fn allocated(bytes: usize) -> usize {
    if bytes == 0 { 0 } else { (bytes + 8).next_multiple_of(16).max(32) }
}

/// Bytes of a hash table's entries: up to seven of eight places are taken, and there is a power of two of them.
pub(super) fn table_bytes(entries: usize, each: usize) -> usize {
    (entries * 8 / 7 + 1).next_power_of_two() * (each + 1)
}
