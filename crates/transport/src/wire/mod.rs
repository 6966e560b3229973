//! The seam below the logic: open a connection, send one request on it.
//!
//! Everything above (order of replicas, credentials, redirects, the outcome of a push) runs over these
//! two traits, so that it also runs in simulation, with scripted replicas and paused time. The real side
//! is `net`: TCP, TLS, HTTP/1.1 and a pool, because a push has to know which bytes its server can have had,
//! to ask before it sends, and to go out once while several connects race. With the feature `reqwest`,
//! `ReqwestConnect` sends through a client of that crate, and says there what is lost by it.

#[cfg(feature = "reqwest")]
mod by_reqwest;
mod grace;
mod http1;
mod net;
mod pool;
mod proxies;
mod tls;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use url::Url;

pub use crate::body::Upload;
use crate::error::BoxError;
#[cfg(feature = "reqwest")]
pub use by_reqwest::ReqwestConnect;
pub use net::AddressFamily;
pub(crate) use net::{Family, Net, NetSettings};
pub use proxies::ProxySettings;
pub(crate) use tls::roots as tls_roots;

/// The body of an answer as it comes off the wire.
pub type RawBody = UnsyncBoxBody<Bytes, BoxError>;

/// Opens connections, or takes idle ones.
#[async_trait]
pub trait Connect: fmt::Debug + Send + Sync + 'static {
    /// A connection to the origin of `url` on which nothing is under way.
    ///
    /// The caller drops the future when its budget is over, or when another connection was faster; then
    /// nothing must be left behind. An idle connection may be given out if it was idle for no longer
    /// than `idle_limit` and is still good.
    ///
    /// # Errors
    ///
    /// Whatever kept the connection from coming up. Not one byte of a request was sent.
    async fn connect(&self, url: &Url, idle_limit: Duration) -> Result<Box<dyn Connection>, BoxError>;
}

/// A connection on which nothing is under way.
#[async_trait]
pub trait Connection: Send {
    /// Sends one request and waits for the head of its answer.
    ///
    /// Takes the body piece by piece while the server reads; [`Upload`] books what was taken. When
    /// the answer comes first, the rest is not sent. A connection whose future or answer is dropped
    /// half-way is closed, never used again.
    ///
    /// # Errors
    ///
    /// Whatever kept the head from coming.
    async fn send(
        self: Box<Self>,
        request: http::Request<Upload>,
    ) -> Result<http::Response<RawBody>, BoxError>;
}

const _: fn(&dyn Connect, &dyn Connection) = |_, _| {};
