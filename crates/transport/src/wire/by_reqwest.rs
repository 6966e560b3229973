//! Requests by way of a `reqwest` client, for what that can and [`net`](super) cannot: SOCKS, a resolver of
//! one's own, TLS as a company sets it up.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::EXPECT;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder};
use url::Url;

use super::{Connect, Connection, RawBody, Upload};
use crate::body::Taken;
use crate::error::BoxError;

/// Nothing idles longer, for a push may take it (GB-06): `reqwest` has one pool for all requests.
const IDLE: Duration = Duration::from_secs(1);

/// Sends requests with a client of `reqwest`: for [`Config::connector`](crate::Config::connector).
///
/// Use it where this crate's own connections do not reach: behind a SOCKS proxy, with a resolver or a TLS
/// setup of one's own. Everything above the connections is the same: which replica is asked, who sees the
/// credential, which redirects are followed, when a push may be sent again. Not the same is:
///
/// - Connects do not race, since `reqwest` opens a connection only to send on it: a replica that drops
///   packets costs the whole `connect_timeout`, not 250 ms.
/// - A large push does not ask before it sends (`Expect: 100-continue`), and an answer that was overtaken by
///   a reset of its connection is lost: a refusal such as 413 may look like a replica that failed, and the
///   push goes on to the next one.
/// - A push that was handed out whole to a connection that breaks is of unknown outcome, also where the
///   connection was closed before anything arrived. An empty push body counts as handed out.
/// - [`Config`](crate::Config)'s connect timeouts, roots, forward proxies, pinned addresses and
///   `danger_skip_tls_verification` have no effect: the client has its own. `reqwest` reads the proxies of
///   the environment unless it is told not to.
///
/// The builder's redirects, retries, decompression, HTTP/2 and `Referer` are switched off, for they would
/// break rules of this crate. Give it no `default_headers` that hold a credential and no cookie store: it
/// would send them to every host.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// use peerage_transport::wire::ReqwestConnect;
/// use peerage_transport::{Config, NodeConfig};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let builder = reqwest::Client::builder().no_proxy();
/// let connector = ReqwestConnect::new(builder, Duration::from_secs(4))?;
/// let config = Config::new(NodeConfig::default(), "/et/project/repo").connector(Arc::new(connector));
/// # let _ = config;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct ReqwestConnect {
    client: Client,
}

impl ReqwestConnect {
    /// A client made of `builder`. `connect_timeout` is for name lookup, TCP and TLS together.
    ///
    /// # Errors
    ///
    /// The builder's settings cannot be honoured.
    pub fn new(builder: ClientBuilder, connect_timeout: Duration) -> reqwest::Result<Self> {
        let client = builder
            .redirect(Policy::none())
            .referer(false)
            .retry(reqwest::retry::never())
            .http1_only()
            .no_gzip()
            .no_brotli()
            .no_deflate()
            .no_zstd()
            .pool_idle_timeout(IDLE)
            .connect_timeout(connect_timeout)
            .build()?;
        Ok(Self { client })
    }
}

#[async_trait]
impl Connect for ReqwestConnect {
    async fn connect(&self, _: &Url, _: Duration) -> Result<Box<dyn Connection>, BoxError> {
        Ok(Box::new(self.clone()))
    }
}

#[async_trait]
impl Connection for ReqwestConnect {
    async fn send(
        self: Box<Self>,
        mut request: http::Request<Upload>,
    ) -> Result<http::Response<RawBody>, BoxError> {
        let taken = request.body().taken();
        // It shows nobody a `100 Continue`, so nobody is to wait for one.
        request.headers_mut().remove(EXPECT);
        taken.release();
        let lease = Lease(taken);
        let request = reqwest::Request::try_from(request.map(reqwest::Body::wrap)).map_err(bare)?;
        let answer = self.client.execute(request).await.map_err(bare)?;
        // If the answer came first, the rest of the body stays here.
        lease.0.stop();
        let (head, body) = http::Response::from(answer).into_parts();
        Ok(http::Response::from_parts(head, Answering { body, _lease: lease }.boxed_unsync()))
    }
}

/// An error without the URL, which may be long and is named elsewhere (S-202).
fn bare(error: reqwest::Error) -> BoxError {
    error.without_url().into()
}

/// Ends the upload with the request: its connection would wait for the rest for ever.
struct Lease(Arc<Taken>);

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

struct Answering {
    body: reqwest::Body,
    _lease: Lease,
}

impl Body for Answering {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx).map_err(bare)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
