//! Memory back to the operating system.

/// Hands freed memory back: glibc keeps what large models leave behind, and then no figure of the
/// system's says that there is room for the next one.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(
    unsafe_code,
    reason = "glibc has no safe wrapper for it; it takes a plain number and touches only free memory"
)]
pub(crate) fn give_back() {
    // SAFETY: malloc_trim may be called at any time from any thread.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn give_back() {}
