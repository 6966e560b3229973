//! The one permit to probe an ejected peer (B-3.3): a bit among the flags of the peer, and for all peers of a
//! balancer the time from which on a permit may be free.
//!
//! Nobody has to look at all peers in each pick, and no permit may be overlooked for that. So a flag is changed
//! before the time is lowered, the time is raised before flags are looked at, and all that change the time
//! read it as well: who raises it sees what those did who lowered it.
//!
//! Atomics come from the module above: `interleaved` tries this file with all their interleavings.

use super::atomic::{AtomicU32, AtomicU64, Ordering};

/// Flags of a peer.
#[derive(Debug)]
pub(crate) struct FlagWord(AtomicU32);

impl FlagWord {
    pub(crate) fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    #[inline]
    pub(crate) fn load(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }

    /// Sets or clears flags. Returns all that were set before.
    pub(crate) fn set(&self, flags: u32, on: bool) -> u32 {
        if on { self.0.fetch_or(flags, Ordering::AcqRel) } else { self.0.fetch_and(!flags, Ordering::AcqRel) }
    }

    /// Sets `taken` if `needed` is set and `taken` is not. Of many that try one succeeds.
    pub(crate) fn take(&self, needed: u32, taken: u32) -> bool {
        let take = |flags| (flags & (needed | taken) == needed).then_some(flags | taken);
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).is_ok()
    }
}

/// When the next probe of any peer is due.
#[derive(Debug)]
pub(crate) struct ProbeDue(AtomicU64);

impl ProbeDue {
    pub(crate) fn never() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }

    /// [`u64::MAX`] for never. A hint: who looks then finds out.
    #[inline]
    pub(crate) fn at(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// A peer was ejected and is probed then, or the permit of one was given back. After its flags are set.
    pub(crate) fn no_later_than(&self, at: u64) {
        self.0.fetch_min(at, Ordering::AcqRel);
    }

    /// Looks for the next probe.
    pub(crate) fn look(&self, next: impl FnOnce() -> Option<u64>) {
        self.0.swap(u64::MAX, Ordering::AcqRel);
        if let Some(next) = next() {
            self.no_later_than(next);
        }
    }
}
