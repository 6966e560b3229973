//! Credentials: the step between the pick and the exchange.

mod bearer;
#[cfg(feature = "zap")]
mod local_trust;

use std::sync::Arc;

use http::request::Parts;
use peerage_discovery::Peer;

pub use self::bearer::Bearer;
#[cfg(feature = "zap")]
pub use self::local_trust::LocalTrust;
use crate::BoxError;

/// Attaches credentials to an attempt, after the pick and before the exchange.
///
/// It sees the peer that was picked, so that it can decide by node id or address. What the peer says
/// about itself in its metadata is no reason to send it a credential (S-120).
///
/// Implementors must neither block nor do I/O. Header values that are secrets are to be marked
/// [sensitive](http::HeaderValue::set_sensitive): such values never cross the network in plaintext
/// (S-055). Each attempt starts from the headers of the call, so what was attached for one peer is not
/// seen by the next.
///
/// A closure is an attacher:
///
/// ```
/// use http::{HeaderValue, request::Parts};
/// use peerage_clienthttp::{AuthAttacher, BoxError};
/// use peerage_discovery::Peer;
///
/// fn tenant(head: &mut Parts, _: &Peer) -> Result<(), BoxError> {
///     head.headers.insert("x-tenant", HeaderValue::from_static("blue"));
///     Ok(())
/// }
/// let _: &dyn AuthAttacher = &tenant;
/// ```
pub trait AuthAttacher: Send + Sync + 'static {
    /// Attaches to `head` what `peer` needs to see.
    ///
    /// # Errors
    ///
    /// Any. It ends the call, is returned as [`Auth`](crate::ClientError::Auth), and says nothing about
    /// the peer.
    fn attach(&self, head: &mut Parts, peer: &Peer) -> Result<(), BoxError>;
}

const _: fn(&dyn AuthAttacher) = |_| {};

impl<F> AuthAttacher for F
where
    F: Fn(&mut Parts, &Peer) -> Result<(), BoxError> + Send + Sync + 'static,
{
    fn attach(&self, head: &mut Parts, peer: &Peer) -> Result<(), BoxError> {
        self(head, peer)
    }
}

impl<A: AuthAttacher + ?Sized> AuthAttacher for Arc<A> {
    fn attach(&self, head: &mut Parts, peer: &Peer) -> Result<(), BoxError> {
        (**self).attach(head, peer)
    }
}

/// Attaches nothing. Headers of the call pass untouched.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoAuth;

impl AuthAttacher for NoAuth {
    fn attach(&self, _: &mut Parts, _: &Peer) -> Result<(), BoxError> {
        Ok(())
    }
}
