//! Memory back to the operating system.

/// Heaps of the process: glibc makes eight for each core, each keeps what passed through it once, and a load
/// passes through many threads. The engine allocates little, so two are no bottleneck.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const ARENAS: libc::c_int = 2;

/// Bytes from which an allocation is a mapping of its own, which goes back to the system as it is freed. glibc raises
/// this to 32 MiB as such mappings are freed, and then matrices lie in its heaps, between what stays.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED: libc::c_int = 1 << 20;

/// Call it before any other thread is there.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "glibc has no safe wrapper for it; it takes plain numbers")]
pub fn keep_little() {
    for (setting, value) in [(libc::M_ARENA_MAX, ARENAS), (libc::M_MMAP_THRESHOLD, MAPPED)] {
        // SAFETY: mallopt sets a number of the allocator's, under its own lock.
        unsafe { libc::mallopt(setting, value) };
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn keep_little() {}

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
