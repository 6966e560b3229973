//! Round robin: whose turn it is.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter that gives each of `n` their turn, from any number of threads (B-2.1).
#[derive(Debug, Default)]
pub struct RoundRobin {
    next: AtomicU64,
}

impl RoundRobin {
    /// Starts at `first`; a random number keeps clients from all starting at the same peer.
    #[must_use]
    pub const fn starting_at(first: u64) -> Self {
        Self { next: AtomicU64::new(first) }
    }

    /// The next index below `n`: of `k·n` calls each index gets exactly `k`. `None` for `n` = 0.
    pub fn turn(&self, n: usize) -> Option<usize> {
        // Relaxed: only the distribution depends on it, no other memory does.
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        // Below `n`, which is a `usize`.
        turn.checked_rem(n as u64).map(|index| index as usize)
    }
}
