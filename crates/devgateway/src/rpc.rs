//! The eleven RPCs, and the record of those that were called.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use tonic::Code;

/// An RPC of the control plane.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum Rpc {
    /// Asks for a registration.
    Register,
    /// Keeps one.
    Heartbeat,
    /// Gives one up.
    Deregister,
    /// What this gateway holds.
    ListRegistrations,
    /// Nodes of a cluster; none here.
    ListPeers,
    /// Refused without a cluster.
    ForgetPeer,
    /// The slots.
    ListServices,
    /// Signs a token for subscriptions.
    SignSubscriptionToken,
    /// Lowers the stable number.
    RetractStable,
    /// Gives a reason not to use a slot.
    Deprecate,
    /// Takes it back.
    Undeprecate,
}

impl Rpc {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Register,
        Self::Heartbeat,
        Self::Deregister,
        Self::ListRegistrations,
        Self::ListPeers,
        Self::ForgetPeer,
        Self::ListServices,
        Self::SignSubscriptionToken,
        Self::RetractStable,
        Self::Deprecate,
        Self::Undeprecate,
    ];

    /// As in the path of a call.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Register => "Register",
            Self::Heartbeat => "Heartbeat",
            Self::Deregister => "Deregister",
            Self::ListRegistrations => "ListRegistrations",
            Self::ListPeers => "ListPeers",
            Self::ForgetPeer => "ForgetPeer",
            Self::ListServices => "ListServices",
            Self::SignSubscriptionToken => "SignSubscriptionToken",
            Self::RetractStable => "RetractStable",
            Self::Deprecate => "Deprecate",
            Self::Undeprecate => "Undeprecate",
        }
    }

    pub(crate) fn of_path(path: &str) -> Option<Self> {
        let name = path.strip_prefix("/gateway.controlplane.v1.ControlPlane/")?;
        Self::ALL.into_iter().find(|rpc| rpc.name() == name)
    }
}

impl fmt::Display for Rpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A call that was carried out or refused.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Call {
    /// Which one.
    pub rpc: Rpc,
    /// When its head came, since the gateway's start on the runtime's clock.
    pub at: Duration,
    /// From its head to its outcome, without what a fault added.
    pub took: Duration,
    /// The other end of the connection.
    pub peer: SocketAddr,
    /// Counts connections from 1, over restarts.
    pub connection: u64,
    /// Whether an `authorization` header came with it. Its value is not kept.
    pub authorized: bool,
    /// The id that it named, or was given.
    pub registration_id: Option<String>,
    /// The status that was, or would have been, sent.
    pub code: Code,
    /// The text of the status; empty when it is OK.
    pub message: String,
    /// False: a fault swallowed the answer.
    pub answered: bool,
}

/// The latest calls, and how many there were of each.
#[derive(Debug, Default)]
pub(crate) struct Log {
    calls: VecDeque<Call>,
    counts: BTreeMap<Rpc, u64>,
}

impl Log {
    /// Older ones are forgotten.
    const LENGTH_MAX: usize = 32_768;

    pub(crate) fn push(&mut self, call: Call) {
        *self.counts.entry(call.rpc).or_default() += 1;
        if self.calls.len() == Self::LENGTH_MAX {
            self.calls.pop_front();
        }
        self.calls.push_back(call);
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.iter().cloned().collect()
    }

    pub(crate) fn count(&self, rpc: Rpc) -> u64 {
        self.counts.get(&rpc).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_is_an_rpc_and_others_are_none() {
        for rpc in Rpc::ALL {
            assert_eq!(Rpc::of_path(&format!("/gateway.controlplane.v1.ControlPlane/{rpc}")), Some(rpc));
        }
        assert_eq!(Rpc::of_path("/gateway.controlplane.v1.ControlPlane/Nope"), None);
        assert_eq!(Rpc::of_path("/Register"), None);
    }
}
