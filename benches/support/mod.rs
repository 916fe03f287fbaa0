//! What benchmarks measure alike.

/// High-water mark of this process's resident memory, in KiB.
pub fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mark = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    mark.and_then(|kib| kib.trim().parse().ok()).unwrap_or(0)
}
