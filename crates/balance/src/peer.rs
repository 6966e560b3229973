//! One peer as the balancer sees it: who it is, its weight, and what is going on with it (B-1.1, B-1.2).

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use crate::hash64;

/// What makes a peer the same peer over time: its node id, or its address if it has none.
///
/// Cheap to clone.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PeerKey(Arc<str>);

impl PeerKey {
    /// The key of a peer.
    #[must_use]
    pub fn new(node_id: &str, address: &str) -> Self {
        Self(if node_id.is_empty() { address.into() } else { node_id.into() })
    }

    /// The key as text, as it was announced: escape it before showing it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether both are one allocation, or equal. The first is the usual case and costs no comparison.
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl fmt::Display for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How much work a peer wants, relative to others: 0 to 1000, 1 unless announced otherwise.
///
/// 0 means no new work; running calls finish.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Weight(u16);

impl Weight {
    /// The largest weight.
    pub const MAX: Self = Self(1000);

    /// The weight that `text` announces: decimal, cut to 1000. `None` if it cannot be read, which counts
    /// as the default and deserves a warning.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        // Only a number too long for the type fails now.
        Some(text.parse::<u32>().map_or(Self::MAX, Self::new))
    }

    /// `weight`, cut to 1000.
    #[must_use]
    pub const fn new(weight: u32) -> Self {
        if weight > Self::MAX.0 as u32 { Self::MAX } else { Self(weight as u16) }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self(1)
    }
}

/// A peer as a source announces it, input of [`Balancer::update`](crate::Balancer::update).
#[derive(Clone, Debug)]
pub struct Announced<P, C = ()> {
    /// The caller's peer, handed out by picks.
    pub peer: P,
    /// Its identity.
    pub key: PeerKey,
    /// The address it is dialled at first. Two peers with one address are one peer.
    pub address: Arc<str>,
    /// Its weight.
    pub weight: Weight,
    /// The source doubts that it is alive. It stays usable.
    pub suspect: bool,
    /// When it was last heard of; of two peers with one address the later one counts.
    pub last_seen: u64,
    /// Something of the caller that lives as long as the peer, such as its connections.
    pub attached: C,
}

impl<P, C> Announced<P, C> {
    /// A peer of weight 1.
    #[must_use]
    pub fn new(peer: P, node_id: &str, address: impl Into<Arc<str>>, attached: C) -> Self {
        let address = address.into();
        let key = PeerKey::new(node_id, &address);
        Self { peer, key, address, weight: Weight::default(), suspect: false, last_seen: 0, attached }
    }
}

/// A peer in a [`Set`](crate::Set). Immutable but for its [`PeerState`], which it keeps over updates.
#[derive(Debug)]
pub struct Member<P, C = ()> {
    pub(crate) peer: P,
    pub(crate) key: PeerKey,
    pub(crate) hash: u64,
    pub(crate) address: Arc<str>,
    pub(crate) weight: Weight,
    pub(crate) attached: C,
    pub(crate) state: Arc<PeerState>,
}

impl<P, C> Member<P, C> {
    pub(crate) fn new(from: Announced<P, C>, state: Arc<PeerState>) -> Self {
        let Announced { peer, key, address, weight, suspect, last_seen: _, attached } = from;
        state.set_flag(Flags::SUSPECT, suspect);
        if !suspect {
            state.set_flag(Flags::DOWN, false);
        }
        state.set_flag(Flags::DRAINING, false);
        let hash = hash64(key.as_str().as_bytes());
        Self { peer, key, hash, address, weight, attached, state }
    }

    /// The caller's peer.
    pub const fn peer(&self) -> &P {
        &self.peer
    }
    /// Its identity.
    pub const fn key(&self) -> &PeerKey {
        &self.key
    }
    /// The address it is dialled at first.
    pub fn address(&self) -> &str {
        &self.address
    }
    /// Its weight.
    pub const fn weight(&self) -> Weight {
        self.weight
    }
    /// What the caller attached.
    pub const fn attached(&self) -> &C {
        &self.attached
    }
    /// What is going on with it.
    pub fn state(&self) -> &PeerState {
        &self.state
    }
}

/// Why a peer is not picked; several can hold.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Flags(u32);

impl Flags {
    /// Out for a while after failures.
    pub const EJECTED: Self = Self(1);
    /// Ejected, and one call is finding out whether it works again.
    pub const PROBING: Self = Self(1 << 1);
    /// It asked for less, for a while.
    pub const THROTTLED: Self = Self(1 << 2);
    /// It cannot be reached: active checks fail, or calls do while the source doubts that it is alive.
    /// Ignored when nobody else is there.
    pub const DOWN: Self = Self(1 << 3);
    /// It did not prove who it is.
    pub const QUARANTINED: Self = Self(1 << 4);
    /// It left; running calls finish.
    pub const DRAINING: Self = Self(1 << 5);
    /// The source doubts that it is alive. The one flag that leaves it usable.
    pub const SUSPECT: Self = Self(1 << 6);

    /// Whether all of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// The flags that end by themselves, in the order of `PeerState::until`.
const TIMED: [Flags; 3] = [Flags::EJECTED, Flags::THROTTLED, Flags::QUARANTINED];

/// What is going on with a peer right now. Shared by all sets the peer was ever part of.
#[derive(Debug)]
#[repr(align(64))] // its own cache lines: counting a call on one peer must not slow picks of another
pub struct PeerState {
    pending: AtomicU32,
    awaiting: AtomicU32,
    /// When a response head last arrived, or when `awaiting` last left 0. Stored *before* `awaiting` is
    /// raised from 0, so that who loads `awaiting` first never sees a stall that is none.
    progress: AtomicU64,
    flags: AtomicU32,
    limit: AtomicU32,
    /// When each of [`TIMED`] ends. A flag whose time is over counts as not set and is not cleared: that
    /// would race with setting it again.
    until: [AtomicU64; 3],
}

impl PeerState {
    pub(crate) const fn new(limit: u32) -> Self {
        Self {
            pending: AtomicU32::new(0),
            awaiting: AtomicU32::new(0),
            progress: AtomicU64::new(0),
            flags: AtomicU32::new(0),
            limit: AtomicU32::new(limit),
            until: [const { AtomicU64::new(0) }; 3],
        }
    }

    /// Calls begun and not finished, until the last byte of the body.
    pub fn pending(&self) -> u32 {
        self.pending.load(Ordering::Relaxed)
    }

    /// Calls sent that have no response head yet.
    pub fn awaiting(&self) -> u32 {
        self.awaiting.load(Ordering::Acquire)
    }

    /// For how long some call has been waiting without any answer arriving; 0 if none waits.
    pub fn stalled_for(&self, now: u64) -> u64 {
        if self.awaiting() == 0 { 0 } else { now.saturating_sub(self.progress.load(Ordering::Relaxed)) }
    }

    /// The flags that hold at `now`.
    pub fn flags(&self, now: u64) -> Flags {
        let mut flags = Flags(self.flags.load(Ordering::Acquire));
        // Usual case: none, or SUSPECT alone.
        if !flags.without(Flags::SUSPECT).is_empty() {
            for (flag, until) in TIMED.iter().zip(&self.until) {
                if flags.contains(*flag) && until.load(Ordering::Relaxed) <= now {
                    flags = flags.without(*flag);
                }
            }
        }
        flags
    }

    /// When the first of the flags that hold at `now` and end by themselves ends.
    pub(crate) fn next_end(&self, now: u64) -> Option<u64> {
        self.ends(now).min()
    }

    /// When the longest of the flags that hold at `now` and end by themselves ends.
    pub fn until(&self, now: u64) -> Option<u64> {
        self.ends(now).max()
    }

    fn ends(&self, now: u64) -> impl Iterator<Item = u64> + '_ {
        let flags = self.flags(now);
        let ends = TIMED.iter().zip(&self.until).filter(move |(flag, _)| flags.contains(**flag));
        ends.map(|(_, until)| until.load(Ordering::Relaxed))
    }

    /// The most calls pending at once.
    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Whether nothing but doubt is held against it.
    pub(crate) fn is_open(&self, now: u64) -> bool {
        self.flags(now).without(Flags::SUSPECT).is_empty()
    }

    /// Whether it would be open if somebody could reach it.
    pub(crate) fn is_open_but_down(&self, now: u64) -> bool {
        self.flags(now).without(Flags::SUSPECT) == Flags::DOWN
    }

    /// Takes a peer out that is in doubt anyway. Returns whether that is news.
    pub(crate) fn confirm_doubt(&self) -> bool {
        // A doubt that is taken back at this moment may be followed by DOWN: the next update mends that.
        let flags = Flags(self.flags.load(Ordering::Relaxed));
        let is_news = flags.contains(Flags::SUSPECT) && !flags.contains(Flags::DOWN);
        if is_news {
            self.set_flag(Flags::DOWN, true);
        }
        is_news
    }

    pub(crate) fn is_full(&self) -> bool {
        self.pending() >= self.limit()
    }

    /// Sets a flag that ends by itself. The longer of two times holds.
    pub(crate) fn set_until(&self, flag: Flags, until: u64) {
        let Some((_, end)) = TIMED.iter().zip(&self.until).find(|(timed, _)| **timed == flag) else { return };
        // The end first: who sees the flag (acquire) sees an end at least as late.
        end.fetch_max(until, Ordering::Relaxed);
        self.set_flag(flag, true);
    }

    pub(crate) fn set_flag(&self, flag: Flags, on: bool) {
        if on {
            self.flags.fetch_or(flag.0, Ordering::Release);
        } else {
            self.flags.fetch_and(!flag.0, Ordering::Release);
        }
    }

    /// Counts a call, unless there are `limit` already.
    pub(crate) fn try_begin(&self) -> bool {
        let before = self.pending.fetch_add(1, Ordering::Relaxed);
        if before >= self.limit() {
            self.pending.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        true
    }

    pub(crate) fn sent(&self, now: u64) {
        if self.awaiting.load(Ordering::Relaxed) == 0 {
            self.progress.store(now, Ordering::Relaxed);
        }
        self.awaiting.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn head(&self, now: Option<u64>) {
        if let Some(now) = now {
            self.progress.store(now, Ordering::Relaxed);
        }
        self.awaiting.fetch_sub(1, Ordering::Release);
    }

    pub(crate) fn finish(&self) {
        self.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Peers that a pick must not take, at most eight: those the call has tried.
#[derive(Clone, Debug, Default)]
pub struct LeaveOut {
    keys: [Option<PeerKey>; Self::CAPACITY],
    count: usize,
}

impl LeaveOut {
    /// How many are remembered; a ninth replaces the oldest.
    pub const CAPACITY: usize = 8;

    /// Adds a peer.
    pub fn add(&mut self, key: &PeerKey) {
        if !self.contains(key) {
            if let Some(place) = self.keys.get_mut(self.count % Self::CAPACITY) {
                *place = Some(key.clone());
            }
            self.count += 1;
        }
    }

    /// Whether the peer is left out.
    #[must_use]
    pub fn contains(&self, key: &PeerKey) -> bool {
        self.keys.iter().flatten().any(|left_out| left_out.is(key))
    }

    /// Whether nobody is left out.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b_weight_is_read_with_its_edges() {
        for (text, weight) in [
            ("0", Some(0)),
            ("1", Some(1)),
            ("007", Some(7)),
            ("1000", Some(1000)),
            ("1001", Some(1000)),
            ("99999999999999999999", Some(1000)),
            ("", None),
            ("-1", None),
            ("+1", None),
            ("1.0", None),
            (" 1", None),
            ("ten", None),
        ] {
            assert_eq!(Weight::parse(text).map(Weight::get), weight, "{text:?}");
        }
        assert_eq!(Weight::default().get(), 1);
    }

    #[test]
    fn b_timed_flags_end_by_themselves() {
        let state = PeerState::new(1);
        state.set_until(Flags::THROTTLED, 100);
        state.set_until(Flags::THROTTLED, 50);
        assert!(state.flags(99).contains(Flags::THROTTLED), "the longer of two throttles holds");
        assert_eq!(state.until(99), Some(100));
        assert!(!state.is_open(99) && state.is_open(100));
        state.set_until(Flags::QUARANTINED, 200);
        assert_eq!(state.flags(150), Flags::QUARANTINED);
        assert_eq!((state.until(150), state.until(200)), (Some(200), None));
        state.set_flag(Flags::SUSPECT, true);
        assert!(state.is_open(200), "a suspect peer stays usable");
        state.set_flag(Flags::DRAINING, true);
        assert!(!state.is_open(u64::MAX), "draining has no end");
    }

    #[test]
    fn b_the_ninth_left_out_replaces_the_oldest() {
        let keys: Vec<_> = (0..9).map(|i| PeerKey::new(&i.to_string(), "")).collect();
        let mut left_out = LeaveOut::default();
        assert!(left_out.is_empty());
        for key in &keys {
            left_out.add(key);
            left_out.add(key);
        }
        assert!(!left_out.contains(&keys[0]));
        assert!(keys[1..].iter().all(|key| left_out.contains(key)));
    }

    #[test]
    fn b_key_is_the_node_id_or_else_the_address() {
        assert_eq!(PeerKey::new("n1", "192.0.2.1:80").as_str(), "n1");
        assert_eq!(PeerKey::new("", "192.0.2.1:80").as_str(), "192.0.2.1:80");
    }
}
