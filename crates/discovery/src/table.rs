//! The list of a source between two versions: what came, what went and why. Pure: no clock, no lock.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    change::{Change, Claim, LeaveReason},
    peer::{Peer, PeerState, SuspectWhy},
    service_type::ServiceType,
    snapshot::Snapshot,
    status::Status,
};

/// The first change opens a window of this length; all changes within it become one version.
pub const WINDOW: Duration = Duration::from_millis(5);
/// The most peers of a service type.
pub const MAX_PEERS: usize = 1024;
/// The most conflicts that are told in one version; more say nothing new.
const MAX_CONFLICTS: usize = 64;

/// The peers of one service type as a source knows them, and how they differ from what was published.
///
/// A source edits it through [`Publisher::edit`](crate::Publisher::edit), which also publishes it.
pub struct Table {
    service: ServiceType,
    limit: usize,
    /// By node id.
    peers: BTreeMap<Arc<str>, Peer>,
    /// What happened since the last version to those that may differ from it.
    /// Invariant: holds every node id under which `peers` and `published` differ.
    /// The value is why it left last; one that left as `Replaced` is somebody else when it is there again.
    touched: BTreeMap<Arc<str>, Option<LeaveReason>>,
    conflicts: Vec<Change>,
    status: Status,
    /// When the window of the next version opened.
    opened: Option<Instant>,
    published: Snapshot,
}

/// What became of a peer that was put into a [`Table`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Put {
    /// It was not there.
    Joined,
    /// It is another than before.
    Updated,
    /// It is as it was; only the evidence is newer.
    Unchanged,
    /// The list is full, and it was not in it.
    Full,
}

impl Table {
    /// An empty list of at most `limit` peers.
    pub fn new(service: ServiceType, limit: usize) -> Self {
        Self {
            service,
            limit,
            peers: BTreeMap::new(),
            touched: BTreeMap::new(),
            conflicts: Vec::new(),
            status: Status::Idle,
            opened: None,
            published: Snapshot::empty(0, Status::Idle),
        }
    }

    /// What the peers are peers of.
    pub fn service_type(&self) -> &ServiceType {
        &self.service
    }

    /// The peer of that node id as it is now, published or not.
    pub fn get(&self, node_id: &str) -> Option<&Peer> {
        self.peers.get(node_id)
    }

    /// All peers as they are now, by node id.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Peer> + '_ {
        self.peers.values()
    }

    /// How many peers there are now.
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// The status as it is now, published or not.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Adds or updates a peer. What was known of its evidence stays. Never evicts anybody.
    pub fn put(&mut self, peer: Peer, now: Instant) -> Put {
        match self.peers.get(peer.node_id()) {
            Some(known) if *known == peer => {
                known.heard(peer.last_seen());
                Put::Unchanged
            }
            Some(known) => {
                let peer = peer.with_evidence_of(known);
                self.insert(peer, now);
                Put::Updated
            }
            None => self.join(peer, now),
        }
    }

    /// As [`put`](Self::put), for a peer that brings all its evidence along.
    pub(crate) fn put_merged(&mut self, peer: Peer, now: Instant) -> Put {
        match self.peers.get_mut(peer.node_id()) {
            Some(known) if *known == peer => {
                *known = peer;
                Put::Unchanged
            }
            Some(_) => {
                self.insert(peer, now);
                Put::Updated
            }
            None => self.join(peer, now),
        }
    }

    /// Lets `peer` take the place of another instance with its node id, which leaves with `Replaced`. The
    /// same as to [`remove`](Self::remove) the other for that reason and to [`put`](Self::put) this one.
    pub fn replace(&mut self, peer: Peer, now: Instant) -> Put {
        self.remove(peer.node_id(), LeaveReason::Replaced, now);
        self.join(peer, now)
    }

    /// Removes a peer and returns it as it was.
    pub fn remove(&mut self, node_id: &str, reason: LeaveReason, now: Instant) -> Option<Peer> {
        let (node_id, peer) = self.peers.remove_entry(node_id)?;
        *self.touch(node_id, now) = Some(reason);
        Some(peer)
    }

    /// Makes `list` the whole list; whoever is not in it leaves for `reason`. Returns how many did not
    /// fit.
    pub fn set(&mut self, list: Vec<Peer>, reason: LeaveReason, now: Instant) -> usize {
        self.keep_only(&list, reason, now);
        list.into_iter().map(|peer| self.put(peer, now)).filter(|&put| put == Put::Full).count()
    }

    /// As [`set`](Self::set), for peers that bring all their evidence along.
    pub(crate) fn set_merged(&mut self, list: Vec<Peer>, reason: LeaveReason, now: Instant) {
        self.keep_only(&list, reason, now);
        for peer in list {
            self.put_merged(peer, now);
        }
    }

    fn keep_only(&mut self, list: &[Peer], reason: LeaveReason, now: Instant) {
        let listed: HashSet<&str> = list.iter().map(Peer::node_id).collect();
        let missing: Vec<_> = self.peers.keys().filter(|id| !listed.contains(&***id)).cloned().collect();
        for node_id in missing {
            self.remove(&node_id, reason, now);
        }
    }

    /// Puts a peer in doubt, or changes the reason of the doubt. `false` if nothing changed.
    pub fn suspect(&mut self, node_id: &str, why: SuspectWhy, now: Instant) -> bool {
        let Some(peer) = self.peers.get(node_id) else { return false };
        let since = match peer.state() {
            PeerState::Suspect { why: known, .. } if known == why => return false,
            PeerState::Suspect { since, .. } => since,
            PeerState::Up => now,
        };
        let suspect = peer.with_state(PeerState::Suspect { since, why });
        self.insert(suspect, now);
        true
    }

    /// Takes a doubt back. `false` if there was none.
    pub fn clear(&mut self, node_id: &str, now: Instant) -> bool {
        let Some(peer) = self.peers.get(node_id).filter(|peer| !peer.is_up()) else { return false };
        let cleared = peer.with_state(PeerState::Up);
        self.insert(cleared, now);
        true
    }

    /// Tells that `refused` claims the node id of `kept`. The list does not change.
    pub fn conflict(&mut self, node_id: impl Into<Arc<str>>, kept: Claim, refused: Claim, now: Instant) {
        let conflict = Change::Conflict { node_id: node_id.into(), kept, refused };
        if self.conflicts.len() < MAX_CONFLICTS && !self.conflicts.contains(&conflict) {
            self.conflicts.push(conflict);
            self.opened.get_or_insert(now);
        }
    }

    /// Changes the status of the source.
    pub fn set_status(&mut self, status: Status, now: Instant) {
        if self.status != status {
            self.status = status;
            self.opened.get_or_insert(now);
        }
    }

    /// When the window of the next version ends; none if nothing changed.
    pub fn due(&self) -> Option<Instant> {
        self.opened.map(|opened| opened + WINDOW)
    }

    /// The last version.
    pub fn published(&self) -> &Snapshot {
        &self.published
    }

    /// Ends the window. `None` if all changes cancelled each other out.
    pub(crate) fn publish(&mut self) -> Option<Publication> {
        self.opened = None;
        let mut changes = self.differences();
        let conflicts = std::mem::take(&mut self.conflicts);
        let status_changed = self.published.status() != &self.status;
        if changes.is_empty() && conflicts.is_empty() && !status_changed {
            return None;
        }
        let version = self.published.version() + 1;
        if !changes.is_empty() {
            let peers = self.peers.values().cloned().collect();
            self.published = Snapshot::from_sorted_by_node_id(version, peers, self.status.clone());
        } else if status_changed {
            self.published = self.published.with_status(version, self.status.clone());
        }
        changes.extend(conflicts);
        // The end of a stream says more than this item would (D-026).
        if status_changed && self.status != Status::Stopped {
            changes.push(Change::Status(self.status.clone()));
        }
        Some(Publication { snapshot: self.published.clone(), changes })
    }

    /// Everybody leaves, for good.
    pub(crate) fn stop(&mut self, now: Instant) {
        self.set(Vec::new(), LeaveReason::Stopped, now);
        self.set_status(Status::Stopped, now);
    }

    fn join(&mut self, peer: Peer, now: Instant) -> Put {
        if self.peers.len() >= self.limit {
            return Put::Full;
        }
        self.insert(peer, now);
        Put::Joined
    }

    fn insert(&mut self, peer: Peer, now: Instant) {
        debug_assert_eq!(peer.service_type(), &self.service.without_subtype(), "a peer of another service");
        let node_id = peer.shared_node_id();
        self.touch(node_id.clone(), now);
        self.peers.insert(node_id, peer);
    }

    fn touch(&mut self, node_id: Arc<str>, now: Instant) -> &mut Option<LeaveReason> {
        self.opened.get_or_insert(now);
        self.touched.entry(node_id).or_default()
    }

    /// `Left` before `Joined` before the rest, each in the order of the list.
    fn differences(&mut self) -> Vec<Change> {
        let mut left = Vec::new();
        let mut joined = Vec::new();
        let mut rest = Vec::new();
        for (node_id, reason) in std::mem::take(&mut self.touched) {
            let (old, new) = (self.published.get(&node_id), self.peers.get(&node_id));
            match (old, new) {
                (None, None) => {}
                (Some(old), None) => left.push((old.clone(), reason.unwrap_or(LeaveReason::Removed))),
                (None, Some(new)) => joined.push(new.clone()),
                (Some(old), Some(new)) if reason == Some(LeaveReason::Replaced) => {
                    left.push((old.clone(), LeaveReason::Replaced));
                    joined.push(new.clone());
                }
                // Perhaps it is again as it was; then nothing comes of it below.
                (Some(old), Some(new)) => rest.push((old.clone(), new.clone())),
            }
        }
        // Stable sorts: node ids are in order already.
        left.sort_by_key(|(peer, _)| peer.priority());
        joined.sort_by_key(Peer::priority);
        rest.sort_by_key(|(_, new)| new.priority());

        let mut changes = Vec::with_capacity(left.len() + joined.len() + 2 * rest.len() + 1);
        changes.extend(left.into_iter().map(|(peer, reason)| Change::Left { peer, reason }));
        changes.extend(joined.into_iter().map(Change::Joined));
        for (old, new) in rest {
            let state = (old.state() != new.state()).then(|| match new.state() {
                PeerState::Up => Change::Cleared(new.clone()),
                PeerState::Suspect { .. } => Change::Suspected(new.clone()),
            });
            let update = (!old.differs_in_state_only(&new)).then_some(Change::Updated { old, new });
            changes.extend(update.into_iter().chain(state));
        }
        changes
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table")
            .field("service", &self.service)
            .field("peers", &self.peers.len())
            .field("status", &self.status)
            .field("version", &self.published.version())
            .finish_non_exhaustive()
    }
}

/// A version and what leads to it.
pub(crate) struct Publication {
    /// Of the same version as the last one if there was nothing but conflicts.
    pub(crate) snapshot: Snapshot,
    pub(crate) changes: Vec<Change>,
}
