//! What happened to peers, for logs and people (B-10.3).

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use crate::{PeerKey, Rule};

/// Notices kept until somebody takes them; then the oldest go.
const MOST_KEPT: usize = 1_024;

/// Something that happened to a peer, or to the set.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Notice {
    /// When.
    pub at: u64,
    /// To whom; `None` if to the set.
    pub key: Option<PeerKey>,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum What {
    /// It was announced.
    Joined,
    /// It has another address.
    Moved,
    /// The source doubts that it is alive.
    Suspect,
    /// It cannot be reached, and the source doubted it before.
    Confirmed,
    /// It is no longer announced.
    Left,
    /// It is out.
    Ejected {
        /// Why.
        rule: Rule,
        /// Until it is probed.
        until: u64,
    },
    /// It would be out, but everybody fails.
    SparedByGuard,
    /// It would be out, but too many are.
    SparedByCap,
    /// A call, or a dial, finds out whether it works again.
    Probing,
    /// It works again.
    Back,
    /// It asked for a pause.
    Throttled {
        /// Until then.
        until: u64,
    },
    /// It did not prove who it is.
    Quarantined {
        /// Until then.
        until: u64,
    },
    /// Active checks failed.
    Down,
    /// Active checks succeed again.
    Up,
    /// Most peers are out.
    PanicOn,
    /// And no longer.
    PanicOff,
}

impl What {
    /// A fixed word for logs and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Joined => "joined",
            Self::Moved => "moved",
            Self::Suspect => "suspect",
            Self::Confirmed => "confirmed",
            Self::Left => "left",
            Self::Ejected { .. } => "ejected",
            Self::SparedByGuard => "spared_by_guard",
            Self::SparedByCap => "spared_by_cap",
            Self::Probing => "probing",
            Self::Back => "back",
            Self::Throttled { .. } => "throttled",
            Self::Quarantined { .. } => "quarantined",
            Self::Down => "down",
            Self::Up => "up",
            Self::PanicOn => "panic_on",
            Self::PanicOff => "panic_off",
        }
    }
}

/// How often things happened since the balancer was made.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Counters {
    /// Peers taken out, failed probes included.
    pub ejections: u64,
    /// Peers not taken out because everybody failed.
    pub spared_by_guard: u64,
    /// Peers not taken out because too many were.
    pub spared_by_cap: u64,
    /// Probes begun.
    pub probes: u64,
    /// Probes that brought a peer back.
    pub probes_succeeded: u64,
    /// Picks while most peers were out.
    pub panic_picks: u64,
    /// Notices that nobody took in time.
    pub notices_lost: u64,
}

/// Notices until somebody takes them, and their counts.
#[derive(Debug, Default)]
pub(crate) struct Board {
    kept: Mutex<VecDeque<Notice>>,
    has_news: AtomicBool,
    ejections: AtomicU64,
    spared_by_guard: AtomicU64,
    spared_by_cap: AtomicU64,
    probes: AtomicU64,
    probes_succeeded: AtomicU64,
    panic_picks: AtomicU64,
    lost: AtomicU64,
}

impl Board {
    #[cold]
    pub(crate) fn post(&self, at: u64, key: Option<&PeerKey>, what: What) {
        let count = match what {
            What::Ejected { .. } => Some(&self.ejections),
            What::SparedByGuard => Some(&self.spared_by_guard),
            What::SparedByCap => Some(&self.spared_by_cap),
            What::Probing => Some(&self.probes),
            What::Back => Some(&self.probes_succeeded),
            _ => None,
        };
        if let Some(count) = count {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MOST_KEPT {
            kept.pop_front();
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        kept.push_back(Notice { at, key: key.cloned(), what });
        self.has_news.store(true, Ordering::Release);
    }

    pub(crate) fn panic_pick(&self) {
        self.panic_picks.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn has_news(&self) -> bool {
        self.has_news.load(Ordering::Acquire)
    }

    pub(crate) fn take(&self) -> Vec<Notice> {
        if !self.has_news() {
            return Vec::new();
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        self.has_news.store(false, Ordering::Release);
        kept.drain(..).collect()
    }

    pub(crate) fn counters(&self) -> Counters {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counters {
            ejections: get(&self.ejections),
            spared_by_guard: get(&self.spared_by_guard),
            spared_by_cap: get(&self.spared_by_cap),
            probes: get(&self.probes),
            probes_succeeded: get(&self.probes_succeeded),
            panic_picks: get(&self.panic_picks),
            notices_lost: get(&self.lost),
        }
    }
}
