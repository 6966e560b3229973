//! A connection: the third step of a call.

#[cfg(feature = "http")]
mod http;
#[cfg(feature = "test-util")]
mod memory;
#[cfg(any(feature = "zap", feature = "http"))]
mod race;
mod until;
#[cfg(feature = "zap")]
mod zap;

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use ::http::{Request, Response, request::Parts};
use peerage_balance::{Outcome, Stage};
use peerage_discovery::{Endpoint, Peer};
#[cfg(feature = "zap")]
use peerage_zaphttp::Reuse;
use tokio::time::Instant;
use tower_service::Service;

#[cfg(feature = "http")]
pub use self::http::{HttpDialer, HttpVersion};
#[cfg(feature = "test-util")]
pub use self::memory::TestDialer;
pub(crate) use self::until::Until;
use self::until::{Given, Told, in_time};
#[cfg(feature = "zap")]
pub use self::zap::ZapDialer;
use crate::{Body, BoxError};

/// Makes channels to peers.
///
/// The client calls [`dial`](Self::dial) once for each peer and keeps the channel for as long as the peer
/// has that identity and these addresses: a channel is never used for another peer (S-040, S-044). When
/// the peer leaves, the channel is closed.
///
/// Implementors do no I/O in `dial`: the channel connects when it is used.
pub trait Dialer: fmt::Debug + Send + Sync + 'static {
    /// A channel to `peer`.
    ///
    /// # Errors
    ///
    /// Any; the peer cannot be dialled, and the call goes on to another one.
    fn dial(&self, peer: &Peer) -> Result<Channel, BoxError>;

    /// What every channel of this dialer keeps safe. Plaintext unless said otherwise.
    fn security(&self) -> Security {
        Security::Plaintext
    }
}

const _: fn(&dyn Dialer) = |_| {};

impl<D: Dialer + ?Sized> Dialer for Arc<D> {
    fn dial(&self, peer: &Peer) -> Result<Channel, BoxError> {
        (**self).dial(peer)
    }

    fn security(&self) -> Security {
        (**self).security()
    }
}

/// What a dialer's connections keep safe, for the rules about credentials (S-054, S-055, S-056).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Security {
    /// Anybody on the way can read and change what is sent.
    Plaintext,
    /// Encrypted to whoever answers.
    Encrypted,
    /// Encrypted to a peer that proved to be the one that was picked.
    Verified {
        /// We prove who we are, too.
        client_identity: bool,
    },
    /// Never leaves the process.
    InProcess,
}

/// A way to speak to one peer. Clones share everything.
#[derive(Clone)]
pub struct Channel {
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    /// Spelled out, so that the usual call needs no box for its future.
    #[cfg(feature = "zap")]
    Zap(peerage_zaphttp::Client),
    Other(Arc<dyn Exchange>),
}

impl Channel {
    /// A channel through any HTTP service.
    ///
    /// The time that its answer takes counts from when the service is ready: one that connects should do so
    /// before it says that. An error of the service counts as [`Ambiguous`](Stage::Ambiguous), the request may have been acted
    /// on, unless it is an [`ExchangeError`] that says better.
    pub fn new<S, B>(service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        B: http_body::Body + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Self { kind: Kind::Other(Arc::new(ByService(service))) }
    }

    #[cfg(feature = "http")]
    fn exchanging(exchange: impl Exchange + 'static) -> Self {
        Self { kind: Kind::Other(Arc::new(exchange)) }
    }

    /// A channel through a ZAP-HTTP client.
    #[cfg(feature = "zap")]
    pub fn zap(client: peerage_zaphttp::Client) -> Self {
        Self { kind: Kind::Zap(client) }
    }

    /// One exchange, over in time. Calls `ready` with the time when the connection is there and the request goes
    /// out.
    #[cfg_attr(
        not(feature = "zap"),
        expect(unused_variables, reason = "services have connections of their own")
    )]
    pub(crate) async fn send(
        &self,
        head: &Parts,
        body: Body,
        on: On,
        until: Until,
        ready: impl FnOnce(Instant),
    ) -> Result<Response<Body>, ExchangeError> {
        #[cfg(feature = "zap")]
        let reuse = match on {
            On::Any => Reuse::Idle,
            On::New => Reuse::Never,
            On::This(opened) => {
                let sent = opened.send_once_noting(head, body, until.at, ready).await;
                return sent.map(|response| response.map(Body::zap)).map_err(zap::failure);
            }
        };
        match &self.kind {
            // It watches the time itself, and knows best how far it came.
            #[cfg(feature = "zap")]
            Kind::Zap(client) if body.is_whole() => {
                match client.send_once_noting(head, body, reuse, until.at, ready).await {
                    Ok(response) => Ok(response.map(Body::zap)),
                    Err(error) => Err(zap::failure(error)),
                }
            }
            // It reads the body before it connects, and has no limit for that.
            #[cfg(feature = "zap")]
            Kind::Zap(client) => {
                let (given, mark) = (Given::default(), Mark::default());
                let body = Told::new(body, &given);
                let exchange = async {
                    let ready = |now| {
                        mark.set();
                        ready(now);
                    };
                    match client.send_once_noting(head, body, reuse, None, ready).await {
                        Ok(response) => Ok(response.map(Body::zap)),
                        Err(error) => Err(zap::failure(error)),
                    }
                };
                until::gathering(Box::pin(exchange), until, &given, || mark.is_set()).await
            }
            Kind::Other(exchange) => {
                let (given, mark) = (Given::default(), Mark::default());
                let body = if body.is_whole() { body } else { Body::new(Told::new(body, &given)) };
                let exchanging = exchange.send(Request::from_parts(head.clone(), body), mark.clone());
                in_time(noting(exchanging, &mark, ready), until.at, &given, || mark.is_set()).await
            }
        }
    }

    /// Opens a connection for a later call, to see whether it can be opened. `None` where the channel cannot
    /// do that alone.
    #[cfg_attr(
        not(feature = "zap"),
        expect(clippy::unused_async, unused_variables, reason = "see the other half")
    )]
    pub(crate) async fn connect(&self, until: Instant) -> Option<Outcome> {
        match &self.kind {
            #[cfg(feature = "zap")]
            Kind::Zap(client) => Some(match client.connect(Some(until)).await {
                Ok(()) => Outcome::Success,
                Err(error) => zap::failure(error).outcome().unwrap_or(Outcome::Cancelled),
            }),
            Kind::Other(_) => None,
        }
    }

    /// Whether a call finds a connection open. Yes where the channel does not tell.
    #[inline]
    pub(crate) fn has_idle(&self) -> bool {
        match &self.kind {
            #[cfg(feature = "zap")]
            Kind::Zap(client) => client.has_idle(),
            Kind::Other(_) => true,
        }
    }

    /// Opens a connection for a call whose body is in memory, unless one is idle. Its time is the dialer's to limit.
    #[cfg_attr(not(feature = "zap"), expect(clippy::unused_async, reason = "see the other half"))]
    pub(crate) async fn open(&self) -> Result<On, ExchangeError> {
        match &self.kind {
            #[cfg(feature = "zap")]
            Kind::Zap(client) if !client.has_idle() => match client.open(None).await {
                Ok(opened) => Ok(On::This(opened)),
                Err(error) => Err(zap::failure(error)),
            },
            _ => Ok(On::Any),
        }
    }

    /// Opens a connection and closes it again. `None` where the channel cannot do that alone.
    #[cfg_attr(
        not(feature = "zap"),
        expect(clippy::unused_async, unused_variables, reason = "see the other half")
    )]
    pub(crate) async fn try_connect(&self, until: Instant) -> Option<bool> {
        match &self.kind {
            #[cfg(feature = "zap")]
            Kind::Zap(client) => Some(client.try_connect(Some(until)).await.is_ok()),
            Kind::Other(_) => None,
        }
    }

    /// How many connections are open, where the channel knows.
    pub(crate) fn connection_count(&self) -> Option<usize> {
        match &self.kind {
            #[cfg(feature = "zap")]
            Kind::Zap(client) => Some(client.connection_count()),
            Kind::Other(_) => None,
        }
    }

    /// Closes idle connections, and the others as they become idle.
    pub(crate) fn close(&self) {
        match &self.kind {
            #[cfg(feature = "zap")]
            Kind::Zap(client) => client.close(),
            // The service goes with its last clone, and its connections with it.
            Kind::Other(_) => {}
        }
    }
}

/// Which connection a call goes out on.
pub(crate) enum On {
    /// One that is idle, or a new one.
    Any,
    /// A new one, if the channel can do that.
    New,
    /// The one that was opened for it, for a body in memory.
    #[cfg(feature = "zap")]
    This(peerage_zaphttp::Opened),
}

impl On {
    /// Keeps a connection that was opened for later calls.
    pub(crate) fn keep(self) {
        #[cfg(feature = "zap")]
        if let Self::This(opened) = self {
            opened.keep();
        }
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.kind {
            #[cfg(feature = "zap")]
            Kind::Zap(_) => "Channel(zap)",
            Kind::Other(_) => "Channel(service)",
        })
    }
}

type Exchanging = Pin<Box<dyn Future<Output = Result<Response<Body>, ExchangeError>> + Send>>;

trait Exchange: Send + Sync {
    /// Sets the mark when the request goes out.
    fn send(&self, request: Request<Body>, mark: Mark) -> Exchanging;
}

/// Set when the connection is there and the request goes out.
#[derive(Clone, Debug, Default)]
struct Mark(Arc<AtomicBool>);

impl Mark {
    // Relaxed: set and read by one task.
    fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The exchange; calls `ready` once it has set its mark.
async fn noting(
    mut exchanging: Exchanging,
    mark: &Mark,
    ready: impl FnOnce(Instant),
) -> Result<Response<Body>, ExchangeError> {
    let mut ready = Some(ready);
    poll_fn(|cx| {
        let polled = exchanging.as_mut().poll(cx);
        if mark.is_set()
            && let Some(ready) = ready.take()
        {
            ready(Instant::now());
        }
        polled
    })
    .await
}

struct ByService<S>(S);

impl<S, B> Exchange for ByService<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: http_body::Body + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn send(&self, request: Request<Body>, mark: Mark) -> Exchanging {
        let mut service = self.0.clone();
        Box::pin(async move {
            poll_fn(|cx| service.poll_ready(cx))
                .await
                .map_err(|error| ExchangeError::of(error.into(), Stage::NotSent))?;
            mark.set();
            match service.call(request).await {
                Ok(response) => Ok(response.map(Body::new)),
                Err(error) => Err(ExchangeError::of(error.into(), Stage::Ambiguous)),
            }
        })
    }
}

/// Why an exchange gave no answer, as a channel reports it.
#[derive(Debug, thiserror::Error)]
#[error("the exchange failed")]
pub struct ExchangeError {
    pub(crate) kind: FailureKind,
    pub(crate) stage: Stage,
    pub(crate) source: BoxError,
    /// When the last of a streamed request was there, if it timed out after that.
    pub(crate) given: Option<Instant>,
}

/// What a failed exchange means for the peer and the caller.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum FailureKind {
    /// No connection came up.
    Connect,
    /// No connection came up in time.
    ConnectTimeout,
    /// No secure connection came up. Says nothing about who is there.
    Tls,
    /// The peer did not prove to be the one that was picked.
    Identity,
    /// The connection broke.
    Broken,
    /// No answer in time.
    Timeout,
    /// The peer broke the protocol.
    Protocol,
    /// The request cannot be put on the wire. Nothing is wrong with the peer.
    Request,
    /// The request body does not fit. Nothing is wrong with the peer.
    BodyTooLarge {
        /// The limit.
        limit: usize,
    },
    /// The request's own body failed. Nothing is wrong with the peer.
    RequestBody,
    /// The request's own body did not come in time. Nothing is wrong with the peer.
    RequestLate,
    /// The channel was closed while the call was on its way to it.
    Closed,
    /// The peer left long ago. Nothing is wrong with it.
    Drained,
}

impl ExchangeError {
    /// A failure of `kind`, after the request got as far as `stage`.
    pub fn new(kind: FailureKind, stage: Stage, source: impl Into<BoxError>) -> Self {
        Self { kind, stage, source: source.into(), given: None }
    }

    /// Finds an error of this type in what a service returned, or makes one.
    fn of(error: BoxError, stage: Stage) -> Self {
        match error.downcast::<Self>() {
            Ok(error) => *error,
            Err(source) if stage == Stage::NotSent => Self::new(FailureKind::Connect, stage, source),
            Err(source) => Self::new(FailureKind::Broken, stage, source),
        }
    }

    /// The request body, whole, if the exchange had collected it and sent nothing of it.
    #[cfg_attr(not(feature = "zap"), expect(clippy::needless_pass_by_ref_mut, reason = "see the other half"))]
    pub(crate) fn take_unsent(&mut self) -> Option<Body> {
        #[cfg(feature = "zap")]
        if self.source.downcast_ref::<peerage_zaphttp::SendError>()?.has_request() {
            // Only by value: what stays is what it says.
            let words: BoxError = in_words(&*self.source).into();
            let error =
                std::mem::replace(&mut self.source, words).downcast::<peerage_zaphttp::SendError>().ok()?;
            return error.into_request().map(|request| Body::zap(request.into_body()));
        }
        None
    }

    /// What it means for the peer; `None` if it says nothing about it.
    pub(crate) const fn outcome(&self) -> Option<Outcome> {
        match self.kind {
            FailureKind::Connect | FailureKind::ConnectTimeout | FailureKind::Tls => Some(Outcome::Dial),
            FailureKind::Identity => Some(Outcome::Identity),
            FailureKind::Broken | FailureKind::Timeout | FailureKind::Protocol => Some(Outcome::Hard),
            FailureKind::Request
            | FailureKind::BodyTooLarge { .. }
            | FailureKind::RequestBody
            | FailureKind::RequestLate
            | FailureKind::Closed
            | FailureKind::Drained => None,
        }
    }

    pub(crate) const fn is_timeout(&self) -> bool {
        matches!(self.kind, FailureKind::Timeout | FailureKind::ConnectTimeout | FailureKind::RequestLate)
    }

    /// The rest of the sentence "billing-1 was tried and …".
    pub(crate) const fn words(&self) -> &'static str {
        match self.kind {
            FailureKind::Connect => "could not be connected to",
            FailureKind::ConnectTimeout => "took too long to connect to",
            FailureKind::Tls => "gave no secure connection",
            FailureKind::Identity => "did not prove who it is",
            FailureKind::Broken => "closed or lost the connection",
            FailureKind::Timeout => "did not answer in time",
            FailureKind::Protocol => "broke the protocol",
            FailureKind::Request | FailureKind::BodyTooLarge { .. } | FailureKind::RequestBody => {
                "was not sent the request"
            }
            FailureKind::RequestLate => WAITED_FOR_BODY,
            FailureKind::Closed => "was leaving",
            FailureKind::Drained => "had left before it answered",
        }
    }
}

/// What is said of a peer that waited for the caller.
pub(crate) const WAITED_FOR_BODY: &str = "waited for the body of the request";

/// Whether what is sent there stays on this host (S-008).
pub(crate) fn is_local(endpoint: &Endpoint) -> bool {
    match endpoint {
        Endpoint::Name { host, .. } => &**host == "localhost",
        _ => endpoint.is_loopback(),
    }
}

/// An error and its sources in one line.
#[cfg(feature = "zap")]
fn in_words(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}
