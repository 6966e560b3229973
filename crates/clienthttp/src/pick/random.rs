use peerage_discovery::Peer;

use super::{PickContext, Picker};

/// Any peer, with equal probability.
#[derive(Clone, Copy, Debug, Default)]
pub struct Random;

impl Picker for Random {
    fn pick<'p>(&self, peers: &'p [Peer], cx: &PickContext<'_>) -> Option<&'p Peer> {
        peers.get(peerage_balance::index_below(cx.random(), peers.len()))
    }
}
