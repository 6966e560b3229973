//! Calls that wait for a response head, and since when none arrived (B-1.2, B-2.5).
//!
//! Atomics come from the module above: `interleaved` tries this file with all their interleavings.

use super::atomic::{AtomicU32, AtomicU64, Ordering};

/// What waits on one peer.
#[derive(Debug)]
pub(crate) struct Waits {
    awaiting: AtomicU32,
    /// When a head last arrived, or when `awaiting` last left 0.
    ///
    /// Stored *before* `awaiting` is raised from 0, so that who loads `awaiting` first never sees a stall that
    /// is none.
    progress: AtomicU64,
}

impl Waits {
    pub(crate) fn new() -> Self {
        Self { awaiting: AtomicU32::new(0), progress: AtomicU64::new(0) }
    }

    /// One more call waits.
    #[inline]
    pub(crate) fn sent(&self, now: u64) {
        // Whoever raises it from 0 has stored the time, also if it was not 0 when they looked first: so it is
        // no addition.
        let mut seen = self.awaiting.load(Ordering::Relaxed);
        loop {
            if seen == 0 {
                self.progress.store(now, Ordering::Relaxed);
            }
            let more = seen.wrapping_add(1);
            match self.awaiting.compare_exchange_weak(seen, more, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(other) => seen = other,
            }
        }
    }

    /// One less, because its head arrived or because nobody waits for it any more.
    #[inline]
    pub(crate) fn ended(&self, answered: Option<u64>) {
        if let Some(now) = answered {
            self.progress.store(now, Ordering::Relaxed);
        }
        self.awaiting.fetch_sub(1, Ordering::Release);
    }

    #[inline]
    pub(crate) fn awaiting(&self) -> u32 {
        self.awaiting.load(Ordering::Acquire)
    }

    /// For how long some call has been waiting without any answer arriving; 0 if none waits.
    #[inline]
    pub(crate) fn stalled_for(&self, now: u64) -> u64 {
        if self.awaiting() == 0 { 0 } else { now.saturating_sub(self.progress.load(Ordering::Relaxed)) }
    }
}
