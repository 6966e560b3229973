//! What a client keeps for a peer: the way to it, and what discovery was told of it.

use std::{
    pin::pin,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use peerage_discovery::Peer;
use tokio::sync::Notify;

use super::metrics::{Meters, PeerMeters};
use crate::{BoxError, Channel, Dialer, dial::is_local};

/// A time that never was.
pub(super) const NEVER: u64 = u64::MAX;

/// What a client keeps for a peer as long as it has one identity and one list of addresses.
#[derive(Debug)]
pub(crate) struct Node {
    channel: OnceLock<Channel>,
    dialing: Mutex<()>,
    /// When discovery last heard that it answers, or [`NEVER`] since it last did not.
    pub(super) reported_alive: AtomicU64,
    /// Whether what is sent to it stays on this host, whichever of its addresses is used.
    pub(crate) is_local: bool,
    pub(crate) meters: PeerMeters,
    /// The peer left long ago: calls that still run are over (B-9.2).
    is_cut: AtomicBool,
    cut: Notify,
}

impl Node {
    pub(super) fn new(peer: &Peer, meters: &Meters) -> Self {
        Self {
            channel: OnceLock::new(),
            dialing: Mutex::new(()),
            reported_alive: AtomicU64::new(NEVER),
            is_local: peer.addresses().iter().all(is_local),
            meters: meters.of_peer(peer.node_id()),
            is_cut: AtomicBool::new(false),
            cut: Notify::new(),
        }
    }

    /// The channel to the peer, made once.
    pub(crate) fn channel(&self, dialer: &dyn Dialer, peer: &Peer) -> Result<&Channel, BoxError> {
        if let Some(channel) = self.channel.get() {
            return Ok(channel);
        }
        // First calls only; `dial` does not wait.
        let _one_dials = self.dialing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = self.channel.get() {
            return Ok(channel);
        }
        let channel = dialer.dial(peer)?;
        Ok(self.channel.get_or_init(|| channel))
    }

    /// The channel, if it was made.
    pub(super) fn dialled(&self) -> Option<&Channel> {
        self.channel.get()
    }

    /// How many connections to it are open, where the dialer tells.
    pub(super) fn connection_count(&self) -> Option<usize> {
        self.channel.get().map_or(Some(0), Channel::connection_count)
    }

    /// Ends the calls that watch for it.
    pub(super) fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        self.cut.notify_waiters();
    }

    /// Resolves when calls to the peer are cut.
    pub(crate) async fn has_been_cut(&self) {
        let mut cut = pin!(self.cut.notified());
        // First listening, then looking.
        cut.as_mut().enable();
        if !self.is_cut.load(Ordering::SeqCst) {
            cut.await;
        }
    }

    pub(super) fn close(&self) {
        if let Some(channel) = self.channel.get() {
            channel.close();
        }
    }
}
