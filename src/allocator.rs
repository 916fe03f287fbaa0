//! Keeps freed memory in the process, where the C library is asked for it.
//!
//! A training step frees and takes again the same large buffers. glibc hands buffers of their
//! size back to the system at once, and the page faults and the clearing of fresh pages were a
//! tenth of a step. The figures are in `benches/train_step.rs`.

/// Large buffers come from the heap, which does not shrink before 2 GiB at its end are free.
/// Called once, at the start of a program. Does nothing with other C libraries.
pub fn keep_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt may be called at any time and only changes these settings; it takes the
    // allocator's lock itself. Settings that it refuses stay as they were.
    #[allow(unsafe_code)]
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
}
