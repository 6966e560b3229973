use std::{
    error::Error,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderValue, Request, Uri, header::HOST, uri::Authority};
use hyper_util::{
    client::legacy::{self, connect::capture_connection},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use peerage_balance::Stage;
use peerage_discovery::{Endpoint, Peer};
use tokio::{net::TcpStream, time::timeout};
use tower_service::Service;

use super::{Channel, Dialer, Exchange, ExchangeError, Exchanging, FailureKind, Mark, race};
use crate::{Body, BoxError};

/// Dials peers that are ordinary web servers: HTTP/1.1, or HTTP/2 without asking, in plaintext.
///
/// The version is chosen here and never by what a peer says about itself (S-120).
///
/// # Deviation
///
/// A connection of HTTP/2 that says GOAWAY gets no new calls, those that run on it go on, and the peer gets a new
/// connection. Two such on fresh connections within a second do not make it count as throttled (B-9.3): the client
/// below does not tell who said GOAWAY when, only which calls failed for it. Those were not looked at and go on to
/// another peer; for this one they count as failures unless it said that nothing is wrong.
#[derive(Clone, Debug)]
#[must_use]
pub struct HttpDialer {
    version: HttpVersion,
    connect_timeout: Duration,
    max_idle: usize,
    idle_timeout: Duration,
}

/// Which HTTP is spoken.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum HttpVersion {
    /// HTTP/1.1: a connection for each call that runs.
    #[default]
    Http1,
    /// HTTP/2 with prior knowledge: one connection for many calls.
    Http2,
}

impl Default for HttpDialer {
    fn default() -> Self {
        Self {
            version: HttpVersion::default(),
            connect_timeout: Duration::from_secs(3),
            max_idle: 32,
            idle_timeout: Duration::from_secs(60),
        }
    }
}

impl HttpDialer {
    /// HTTP/1.1.
    pub fn http1() -> Self {
        Self::default()
    }

    /// HTTP/2 with prior knowledge.
    pub fn http2() -> Self {
        Self { version: HttpVersion::Http2, ..Self::default() }
    }

    /// How long a connection may take to come up. Default 3 s.
    pub fn connect_timeout(self, limit: Duration) -> Self {
        Self { connect_timeout: limit, ..self }
    }

    /// The most idle connections kept to one peer. Default 32.
    pub fn max_idle(self, count: usize) -> Self {
        Self { max_idle: count, ..self }
    }

    /// How long an idle connection is kept. Default 60 s.
    pub fn idle_timeout(self, limit: Duration) -> Self {
        Self { idle_timeout: limit, ..self }
    }
}

impl Dialer for HttpDialer {
    fn dial(&self, peer: &Peer) -> Result<Channel, BoxError> {
        let connector = Connector { addresses: peer.addresses().into(), limit: self.connect_timeout };
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_max_idle_per_host(self.max_idle)
            .pool_idle_timeout(self.idle_timeout)
            .http2_only(self.version == HttpVersion::Http2)
            .http2_max_header_list_size(16 * 1024)
            .http1_max_headers(100)
            .build(connector);
        Ok(Channel::exchanging(HttpChannel { client, version: self.version }))
    }
}

/// Opens connections to one peer, whatever the target of a request says.
#[derive(Clone)]
struct Connector {
    addresses: Arc<[Endpoint]>,
    limit: Duration,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<TcpStream>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { addresses, limit } = self.clone();
        Box::pin(async move {
            let connecting = timeout(limit, race::connect(&addresses)).await;
            let stream = connecting.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
            stream.set_nodelay(true)?;
            Ok(TokioIo::new(stream))
        })
    }
}

#[derive(Clone)]
struct HttpChannel {
    client: legacy::Client<Connector, Body>,
    version: HttpVersion,
}

impl Exchange for HttpChannel {
    fn send(&self, mut request: Request<Body>, mark: Mark) -> Exchanging {
        aim(&mut request, self.version);
        let mut captured = capture_connection(&mut request);
        let exchange = self.client.request(request);
        Box::pin(async move {
            let mut exchange = pin!(exchange);
            // What it resolves to holds a lock, so it is let go at once.
            let connected = async { drop(captured.wait_for_connection_metadata().await) };
            // It connects by itself; the time of that is not the time of the answer.
            let outcome = tokio::select! {
                biased;
                outcome = &mut exchange => outcome,
                () = connected => {
                    mark.set();
                    exchange.await
                }
            };
            match outcome {
                Ok(response) => {
                    mark.set();
                    Ok(response.map(Body::new))
                }
                Err(error) => Err(failure(error)),
            }
        })
    }
}

/// The client wants an authority in the target, and both kinds of HTTP one word on who is meant.
fn aim(request: &mut Request<Body>, version: HttpVersion) {
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    let host = request.headers().get(HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    if let Some(host) = host {
        parts.authority = Some(host);
    }
    parts.scheme = Some(http::uri::Scheme::HTTP);
    if parts.path_and_query.is_none() {
        parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
    }
    let authority = parts.authority.get_or_insert(Authority::from_static("localhost")).clone();
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    match version {
        HttpVersion::Http1 => {
            *request.version_mut() = http::Version::HTTP_11;
            if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
                request.headers_mut().entry(HOST).or_insert(host);
            }
        }
        HttpVersion::Http2 => {
            *request.version_mut() = http::Version::HTTP_2;
            request.headers_mut().remove(HOST);
        }
    }
}

fn failure(error: legacy::Error) -> ExchangeError {
    if error.is_connect() {
        let timed_out = sources(&error).any(|source| {
            source.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::TimedOut)
        });
        let kind = if timed_out { FailureKind::ConnectTimeout } else { FailureKind::Connect };
        return ExchangeError::new(kind, Stage::NotSent, error);
    }
    let (kind, stage) = match sources(&error).find_map(|source| source.downcast_ref::<hyper::Error>()) {
        // Never handed to a connection.
        Some(inner) if inner.is_canceled() => (FailureKind::Broken, Stage::NotSent),
        Some(inner) if inner.is_parse() => (FailureKind::Protocol, Stage::Ambiguous),
        Some(inner) if inner.is_user() => (FailureKind::RequestBody, Stage::Ambiguous),
        // No fault: it gets a new connection (B-9.3).
        Some(inner) if was_ended_in_order(inner) => (FailureKind::Closed, Stage::NotSent),
        Some(inner) if was_not_looked_at(inner) => (FailureKind::Broken, Stage::NotSent),
        _ => (FailureKind::Broken, Stage::Ambiguous),
    };
    ExchangeError::new(kind, stage, error)
}

/// The HTTP/2 ways to say that the request was not looked at (RFC 9113 §8.7): its stream was refused, or is above
/// the last one of a GOAWAY. Streams below that do not get the error of one, they go on.
fn was_not_looked_at(error: &hyper::Error) -> bool {
    sources(error).any(|source| {
        let text = source.to_string();
        text.contains("refused stream") || text.starts_with("connection error received: ")
    })
}

/// The peer has said that it takes no more on this connection, and that nothing is wrong (RFC 9113 §6.8).
fn was_ended_in_order(error: &hyper::Error) -> bool {
    sources(error)
        .any(|source| source.to_string().starts_with("connection error received: not a result of an error"))
}

fn sources<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}
