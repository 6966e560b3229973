use peerage_discovery::Peer;

use super::{PickContext, Picker};

/// Each peer in turn, in the order of the list, from any number of threads.
#[derive(Debug, Default)]
pub struct RoundRobin {
    turn: peerage_balance::RoundRobin,
}

impl RoundRobin {
    /// Begins with the first peer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Picker for RoundRobin {
    fn pick<'p>(&self, peers: &'p [Peer], _: &PickContext<'_>) -> Option<&'p Peer> {
        peers.get(self.turn.turn(peers.len())?)
    }
}
