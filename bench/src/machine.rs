//! Where the figures come from.

use std::fs;

/// What a figure means nothing without.
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
    /// What the binary was built from, and whether it had changes that were not committed.
    pub(crate) commit: &'static str,
}

impl Machine {
    pub(crate) fn here() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
            .map_or_else(|| "unknown cpu".to_owned(), |(_, model)| model.trim().to_owned());
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")
            .map_or_else(|_| "unknown".to_owned(), |release| release.trim().to_owned());
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { cpu, cores, kernel, commit: env!("PEERAGE_BENCH_COMMIT") }
    }
}

/// Of this process in KiB: what it holds now, and the most it held since the last [`forget_peak`].
pub(crate) fn memory() -> (u64, u64) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    (field("VmRSS:").unwrap_or_default(), field("VmHWM:").unwrap_or_default())
}

/// Sets the peak to what is held now.
pub(crate) fn forget_peak() {
    // See proc(5), clear_refs. Where it is not allowed the peak includes the past.
    let _ = fs::write("/proc/self/clear_refs", "5");
}
