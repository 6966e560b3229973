//! One peer as the balancer sees it: who it is, its weight, and what is going on with it (B-1.1, B-1.2).

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{PeerState, hash64, permit::ProbeDue};

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
    /// The zone it runs in, if it says so.
    pub zone: Option<Arc<str>>,
    /// The region of that zone.
    pub region: Option<Arc<str>>,
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
        Self {
            peer,
            key,
            address,
            weight: Weight::default(),
            suspect: false,
            zone: None,
            region: None,
            last_seen: 0,
            attached,
        }
    }
}

/// A peer in a [`Set`](crate::Set). Immutable but for its [`PeerState`], which it keeps over updates.
///
/// What every call reads comes first, so that it is in one cache line with the count of references.
#[derive(Debug)]
#[repr(C)]
pub struct Member<P, C = ()> {
    pub(crate) state: Arc<PeerState>,
    /// Calls pending on all peers, if the policy asks for it.
    pub(crate) total: Option<Arc<AtomicU64>>,
    /// When the next probe of any peer is due.
    pub(crate) probe_due: Arc<ProbeDue>,
    /// The state's count of moves when this address was announced.
    pub(crate) moves: u32,
    pub(crate) weight: Weight,
    pub(crate) hash: u64,
    pub(crate) peer: P,
    pub(crate) key: PeerKey,
    pub(crate) address: Arc<str>,
    pub(crate) zone: Option<Arc<str>>,
    pub(crate) region: Option<Arc<str>>,
    pub(crate) attached: C,
}

impl<P, C> Member<P, C> {
    pub(crate) fn new(
        from: Announced<P, C>,
        state: Arc<PeerState>,
        total: Option<Arc<AtomicU64>>,
        probe_due: Arc<ProbeDue>,
    ) -> Self {
        let Announced { peer, key, address, weight, suspect: _, zone, region, last_seen: _, attached } = from;
        let hash = hash64(key.as_str().as_bytes());
        let moves = state.moves.load(Ordering::Acquire);
        Self { state, total, probe_due, moves, weight, hash, peer, key, address, zone, region, attached }
    }

    /// Whether the peer is still where this says it is.
    #[inline]
    pub(crate) fn is_current(&self) -> bool {
        self.state.moves.load(Ordering::Acquire) == self.moves
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
    /// The zone it runs in, if it says so.
    pub fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }
    /// The region of that zone, if it says so.
    pub fn region(&self) -> Option<&str> {
        self.region.as_deref()
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

/// Peers that a pick must not take, at most eight: those the call has tried.
#[derive(Clone, Debug, Default)]
pub struct LeaveOut {
    keys: [Option<PeerKey>; Self::CAPACITY],
    count: usize,
}

impl LeaveOut {
    /// How many are remembered; a ninth replaces the oldest.
    pub const CAPACITY: usize = 8;
    pub(crate) const EMPTY: Self = Self { keys: [const { None }; Self::CAPACITY], count: 0 };

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
