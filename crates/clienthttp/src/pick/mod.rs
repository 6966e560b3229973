//! Which peer: the second step of a call.

mod random;
mod round_robin;

use std::{fmt, sync::Arc};

use http::{Method, Uri};
use peerage_balance::Generator;
use peerage_discovery::Peer;

pub use self::{random::Random, round_robin::RoundRobin};

/// Chooses the peer for an attempt.
///
/// Called once per attempt, and once more in the rare case that its choice cannot be used. It gets the
/// peers that take work and were not tried for this call yet, by priority and node id. `None` ends the
/// call with [`NoPeers`](crate::ClientError::NoPeers): no other peer is tried than those it chooses.
///
/// Implementors must neither block nor do I/O, and should neither lock nor allocate: this runs for every
/// call. Metadata of a peer is a hint from the network, never a reason to trust it.
///
/// A closure is a picker:
///
/// ```
/// use peerage_clienthttp::{Picker, PickContext};
/// use peerage_discovery::Peer;
///
/// fn near<'p>(peers: &'p [Peer], _: &PickContext<'_>) -> Option<&'p Peer> {
///     peers.iter().find(|peer| peer.metadata().get_str("zone") == Some("a")).or(peers.first())
/// }
/// let _: &dyn Picker = &near;
/// ```
pub trait Picker: Send + Sync + 'static {
    /// Chooses one of `peers`.
    fn pick<'p>(&self, peers: &'p [Peer], cx: &PickContext<'_>) -> Option<&'p Peer>;
}

const _: fn(&dyn Picker) = |_| {};

impl<F> Picker for F
where
    F: for<'p> Fn(&'p [Peer], &PickContext<'_>) -> Option<&'p Peer> + Send + Sync + 'static,
{
    fn pick<'p>(&self, peers: &'p [Peer], cx: &PickContext<'_>) -> Option<&'p Peer> {
        self(peers, cx)
    }
}

impl<P: Picker + ?Sized> Picker for Arc<P> {
    fn pick<'p>(&self, peers: &'p [Peer], cx: &PickContext<'_>) -> Option<&'p Peer> {
        (**self).pick(peers, cx)
    }
}

/// What a picker may know of the call.
pub struct PickContext<'a> {
    pub(crate) method: &'a Method,
    pub(crate) uri: &'a Uri,
    pub(crate) key: Option<&'a str>,
    pub(crate) attempt: u32,
    pub(crate) random: &'a Generator,
}

impl<'a> PickContext<'a> {
    /// A context to try a picker out with: the first attempt of a call without a key.
    #[must_use]
    pub const fn new(method: &'a Method, uri: &'a Uri, random: &'a Generator) -> Self {
        Self { method, uri, key: None, attempt: 1, random }
    }

    /// The method of the call.
    #[must_use]
    pub const fn method(&self) -> &'a Method {
        self.method
    }

    /// The target of the call.
    #[must_use]
    pub const fn uri(&self) -> &'a Uri {
        self.uri
    }

    /// The key that the call gave, to send calls of one key to one peer.
    #[must_use]
    pub const fn key(&self) -> Option<&'a str> {
        self.key
    }

    /// The number of the attempt, from 1.
    #[must_use]
    pub const fn attempt(&self) -> u32 {
        self.attempt
    }

    /// A random number.
    #[must_use]
    pub fn random(&self) -> u64 {
        self.random.next_u64()
    }
}

impl fmt::Debug for PickContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither target nor key: both may hold what is nobody's business.
        f.debug_struct("PickContext")
            .field("method", self.method)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

/// The place of `chosen` in `peers`: where it lies, or if it is a copy, whose node id it has.
pub(crate) fn place_of(peers: &[Peer], chosen: &Peer) -> Option<usize> {
    let offset = std::ptr::from_ref(chosen).addr().wrapping_sub(peers.as_ptr().addr());
    let place = offset / size_of::<Peer>();
    match peers.get(place) {
        Some(peer) if std::ptr::eq(peer, chosen) => Some(place),
        _ => peers.iter().position(|peer| peer.node_id() == chosen.node_id()),
    }
}
