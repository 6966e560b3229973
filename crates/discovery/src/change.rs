//! What happens to a peer set, one thing at a time.

use std::{
    fmt::{self, Display, Formatter},
    sync::Arc,
};

use crate::{
    endpoint::Endpoint,
    escape::escape,
    peer::{Peer, SourceId},
    snapshot::Snapshot,
    status::Status,
};

/// One item of a [`Subscription`](crate::Subscription).
///
/// Within one version: `Left` before `Joined` before the rest, each in the order of the list. Applied to
/// the list of the last `Resync`, the items of a version give exactly the snapshot of that version.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// Everything that is there: first of all, and after items were lost.
    Resync(Snapshot),
    /// A peer that was not in the list.
    Joined(Peer),
    /// Endpoints, metadata or priority of a peer changed, perhaps its state as well.
    Updated {
        /// As it was.
        old: Peer,
        /// As it is.
        new: Peer,
    },
    /// There is a reason, or another reason, to doubt the peer. It stays in the list.
    Suspected(Peer),
    /// There is no reason any more.
    Cleared(Peer),
    /// The peer is not in the list any more.
    Left {
        /// As it was last.
        peer: Peer,
        /// Why.
        reason: LeaveReason,
    },
    /// Somebody else claims the node id of a peer, or ours. The list does not change.
    Conflict {
        /// The id.
        node_id: Arc<str>,
        /// Who keeps it.
        kept: Claim,
        /// Who does not get it.
        refused: Claim,
    },
    /// Discovery itself is in another condition.
    Status(Status),
    /// So many items were lost, because they were not read in time. A `Resync` follows.
    Lagged(u64),
}

/// Who claims a node id.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Claim {
    /// Where the claim was seen.
    pub source: SourceId,
    /// Its place there, for people: full name and host, or the position in a file. Foreign text.
    pub origin: Arc<str>,
    /// Where it would be dialled.
    pub address: Option<Endpoint>,
}

impl Claim {
    /// A claim that was seen at `source`.
    pub fn new(source: SourceId, origin: impl Into<Arc<str>>, address: Option<Endpoint>) -> Self {
        Self { source, origin: origin.into(), address }
    }
}

impl From<&Peer> for Claim {
    fn from(peer: &Peer) -> Self {
        Self::new(peer.source().clone(), peer.origin(), Some(peer.address().clone()))
    }
}

impl Display for Claim {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", escape(&self.origin), escape(self.source.as_str()))?;
        self.address.as_ref().map_or(Ok(()), |address| write!(f, " at {address}"))
    }
}

/// Why a peer left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LeaveReason {
    /// It said goodbye.
    Goodbye,
    /// What it announced ran out.
    Expired,
    /// It did not answer when everybody was asked.
    Silent,
    /// A caller could not reach it, and it did not answer us either.
    Unreachable,
    /// The same instance has another node id now.
    Renamed,
    /// Another instance has its node id now.
    Replaced,
    /// It was deleted from a registry, a file or a list.
    Removed,
    /// Discovery was stopped.
    Stopped,
}

impl LeaveReason {
    /// In the order of their counters.
    pub(crate) const ALL: [Self; 8] = [
        Self::Goodbye,
        Self::Expired,
        Self::Silent,
        Self::Unreachable,
        Self::Renamed,
        Self::Replaced,
        Self::Removed,
        Self::Stopped,
    ];

    /// A name that never changes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Goodbye => "goodbye",
            Self::Expired => "expired",
            Self::Silent => "silent",
            Self::Unreachable => "unreachable",
            Self::Renamed => "renamed",
            Self::Replaced => "replaced",
            Self::Removed => "removed",
            Self::Stopped => "stopped",
        }
    }
}

impl Display for LeaveReason {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
