//! Keeps freed memory for the next tensor.

/// From now on, memory that is freed stays with the process.
///
/// glibc gives large blocks back to the kernel when they are freed, and the next one comes from it
/// again, page by page, each cleared in a page fault. Training and calibration free and take the
/// same megabytes for every operator. No effect with other libraries.
pub fn keep() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const MIB: i32 = 1 << 20;
        #[allow(unsafe_code)]
        // SAFETY: mallopt takes plain integers; called first thing, on the only thread.
        unsafe {
            // Blocks of up to 32 MiB, the most that every glibc takes.
            libc::mallopt(libc::M_MMAP_THRESHOLD, 32 * MIB);
            libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
            libc::mallopt(libc::M_TOP_PAD, 64 * MIB);
        }
    }
}
