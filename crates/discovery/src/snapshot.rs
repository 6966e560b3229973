//! The peer set at one moment.

use std::{fmt, sync::Arc};

use crate::{peer::Peer, status::Status};

/// The peers of a service type at one moment; a clone is one reference count.
///
/// What is read from one snapshot belongs together and never changes. Peers are sorted by priority,
/// then by the bytes of their node ids, whatever order they came in.
#[derive(Clone)]
pub struct Snapshot(Arc<Inner>);

/// What a publisher stores in its atomic.
pub(crate) struct Inner {
    version: u64,
    peers: Arc<[Peer]>,
    up: usize,
    status: Status,
    /// Positions in `peers` in the order of node ids; `None` where that is the order of `peers`.
    by_node_id: Option<Box<[u32]>>,
}

impl Snapshot {
    /// What there is before `start`.
    pub(crate) fn empty(version: u64, status: Status) -> Self {
        Self(Arc::new(Inner { version, peers: Arc::default(), up: 0, status, by_node_id: None }))
    }

    /// `peers` in the order of their node ids.
    pub(crate) fn from_sorted_by_node_id(version: u64, peers: Vec<Peer>, status: Status) -> Self {
        let up = peers.iter().filter(|peer| peer.is_up()).count();
        if peers.is_sorted_by_key(Peer::priority) {
            return Self(Arc::new(Inner { version, peers: peers.into(), up, status, by_node_id: None }));
        }
        let mut ranked: Vec<(u32, Peer)> = (0..).zip(peers).collect();
        // Stable: within a priority the order of node ids stays.
        ranked.sort_by_key(|(_, peer)| peer.priority());
        let mut by_node_id: Box<[u32]> = ranked.iter().map(|_| 0).collect();
        for (place, &(among_ids, _)) in (0..).zip(&ranked) {
            if let Some(slot) = by_node_id.get_mut(among_ids as usize) {
                *slot = place;
            }
        }
        let peers = ranked.into_iter().map(|(_, peer)| peer).collect();
        Self(Arc::new(Inner { version, peers, up, status, by_node_id: Some(by_node_id) }))
    }

    /// The same peers under another status.
    pub(crate) fn with_status(&self, version: u64, status: Status) -> Self {
        let Inner { version: _, peers, up, status: _, by_node_id } = &*self.0;
        Self(Arc::new(Inner {
            version,
            peers: peers.clone(),
            up: *up,
            status,
            by_node_id: by_node_id.clone(),
        }))
    }

    pub(crate) fn from_inner(inner: Arc<Inner>) -> Self {
        Self(inner)
    }

    pub(crate) fn to_inner(&self) -> Arc<Inner> {
        self.0.clone()
    }

    /// Grows with every published change; 0 before `start`.
    pub fn version(&self) -> u64 {
        self.0.version
    }

    /// The peers, suspects included, by priority and node id.
    pub fn peers(&self) -> &[Peer] {
        &self.0.peers
    }

    /// The same list, to keep.
    pub fn to_peers(&self) -> Arc<[Peer]> {
        self.0.peers.clone()
    }

    /// How many peers are up; suspects are not.
    pub fn peer_count(&self) -> usize {
        self.0.up
    }

    /// How many peers are in doubt.
    pub fn suspect_count(&self) -> usize {
        self.0.peers.len() - self.0.up
    }

    /// How discovery itself was at that moment.
    pub fn status(&self) -> &Status {
        &self.0.status
    }

    /// The peer of that node id. O(log n).
    pub fn get(&self, node_id: &str) -> Option<&Peer> {
        let Inner { peers, by_node_id, .. } = &*self.0;
        match by_node_id {
            None => {
                let at = peers.binary_search_by(|peer| peer.node_id().cmp(node_id)).ok()?;
                peers.get(at)
            }
            Some(order) => {
                let peer = |at: u32| peers.get(at as usize);
                let at =
                    order.binary_search_by(|&at| peer(at).map(Peer::node_id).cmp(&Some(node_id))).ok()?;
                peer(*order.get(at)?)
            }
        }
    }

    /// Whether the two are one and the same value, not merely equal ones.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<'a> IntoIterator for &'a Snapshot {
    type Item = &'a Peer;
    type IntoIter = std::slice::Iter<'a, Peer>;

    fn into_iter(self) -> Self::IntoIter {
        self.peers().iter()
    }
}

impl PartialEq for Snapshot {
    fn eq(&self, other: &Self) -> bool {
        self.is(other)
            || (self.version() == other.version()
                && self.peers() == other.peers()
                && self.status() == other.status())
    }
}

impl Eq for Snapshot {}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("version", &self.version())
            .field("status", self.status())
            .field("peers", &self.peers())
            .finish()
    }
}
