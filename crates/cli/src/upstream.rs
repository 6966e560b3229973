//! What `expose` forwards to: an HTTP server over TCP or a Unix socket, or a directory.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, StatusCode, Uri, Version, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use peerage::zaphttp::Body;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tower_http::services::ServeDir;
use tower_service::Service;

use crate::output::{Chain, Failure};

type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// The body of an answer, streamed from wherever it comes from.
pub(crate) type AnswerBody = UnsyncBoxBody<Bytes, BoxError>;

/// A parsed `--upstream`, ready to take requests. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Upstream {
    kind: Kind,
    shown: Arc<str>,
    head_timeout: Duration,
}

#[derive(Clone)]
enum Kind {
    Http { client: Arc<legacy::Client<Connector, Body>>, authority: Authority },
    Directory(ServeDir),
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Upstream").field(&self.shown).finish()
    }
}

impl Upstream {
    /// Reads `http://host:port`, `unix:/path` or a directory. Connects to nothing yet.
    pub(crate) fn parse(text: &str, h2: bool, head_timeout: Duration) -> Result<Self, Failure> {
        let http = |place: Place, authority: Authority| {
            let client = legacy::Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(Duration::from_secs(30))
                .http2_only(h2)
                .build(Connector(Arc::new(place)));
            Kind::Http { client: Arc::new(client), authority }
        };
        let kind = if let Some(path) = text.strip_prefix("unix:") {
            if !path.starts_with('/') {
                return Err(Failure::usage(format!("--upstream {text}: write unix:/absolute/path")));
            }
            http(Place::Unix(path.into()), Authority::from_static("localhost"))
        } else if text.contains("://") {
            let uri: Uri = text.parse().map_err(|error| {
                Failure::usage(format!("--upstream {text}: {error}; write http://host:port"))
            })?;
            if uri.scheme() != Some(&Scheme::HTTP) {
                return Err(Failure::usage(format!(
                    "--upstream {text}: only http:// is spoken to an upstream; it stands on this host"
                )));
            }
            if uri.path() != "/" || uri.query().is_some() {
                return Err(Failure::usage(format!(
                    "--upstream {text}: paths are not rewritten; write http://host:port"
                )));
            }
            let authority = uri.authority().cloned().filter(|authority| !authority.as_str().contains('@'));
            let authority = authority.ok_or_else(|| Failure::usage("--upstream: write http://host:port"))?;
            let host = authority.host().trim_matches(['[', ']']).to_owned();
            http(Place::Tcp(host, authority.port_u16().unwrap_or(80)), authority)
        } else {
            let path = PathBuf::from(text);
            if !path.is_dir() {
                return Err(Failure::usage(format!(
                    "--upstream {text}: no such directory; write http://host:port, unix:/path or a directory"
                )));
            }
            Kind::Directory(ServeDir::new(path))
        };
        Ok(Self { kind, shown: text.into(), head_timeout })
    }

    /// Whether `path` answers with a status below 400 within a second; else why not.
    pub(crate) async fn healthy(&self, path: &PathAndQuery) -> Result<(), String> {
        let mut request = Request::new(Body::default());
        *request.uri_mut() = Uri::from(path.clone());
        let answer = tokio::time::timeout(Duration::from_secs(1), self.forward(request))
            .await
            .map_err(|_| "no answer within 1s".to_owned())?;
        let status = answer.status();
        if status.as_u16() < 400 {
            return Ok(());
        }
        let text =
            answer.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let text = String::from_utf8_lossy(text.get(..text.len().min(200)).unwrap_or_default()).into_owned();
        Err(format!("{status} {}", peerage::discovery::escape(text.trim())))
    }

    /// Sends one request and gives the answer; a failure of the upstream becomes 502 or 504.
    pub(crate) async fn forward(&self, request: Request<Body>) -> Response<AnswerBody> {
        match &self.kind {
            Kind::Directory(directory) => match directory.clone().call(request).await {
                Ok(answer) => answer.map(|body| body.map_err(BoxError::from).boxed_unsync()),
                Err(never) => match never {},
            },
            Kind::Http { client, authority } => self.forward_http(client, authority, request).await,
        }
    }

    async fn forward_http(
        &self,
        client: &legacy::Client<Connector, Body>,
        authority: &Authority,
        mut request: Request<Body>,
    ) -> Response<AnswerBody> {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(authority.clone());
        if parts.path_and_query.as_ref().is_none_or(|path| !path.as_str().starts_with('/')) {
            // `OPTIONS *` and CONNECT have no counterpart at a proxied HTTP/1.1 upstream.
            return plain(StatusCode::BAD_REQUEST, "only requests for a path are forwarded\n");
        }
        match Uri::from_parts(parts) {
            Ok(uri) => *request.uri_mut() = uri,
            Err(error) => return plain(StatusCode::BAD_REQUEST, format!("bad request target: {error}\n")),
        }
        *request.version_mut() = Version::HTTP_11;
        match tokio::time::timeout(self.head_timeout, client.request(request)).await {
            Ok(Ok(answer)) => answer.map(|body| body.map_err(BoxError::from).boxed_unsync()),
            Ok(Err(error)) => {
                tracing::debug!(upstream = %self.shown, error = %Chain(&error), "upstream failed");
                plain(StatusCode::BAD_GATEWAY, format!("upstream {}: {}\n", self.shown, Chain(&error)))
            }
            Err(_) => plain(
                StatusCode::GATEWAY_TIMEOUT,
                format!("upstream {}: no answer within {:?}\n", self.shown, self.head_timeout),
            ),
        }
    }
}

/// A short answer of our own.
pub(crate) fn plain(status: StatusCode, text: impl Into<String>) -> Response<AnswerBody> {
    let mut answer = Response::new(Full::from(text.into()).map_err(|never| match never {}).boxed_unsync());
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

/// [`Upstream`] as the service that a ZAP-HTTP server runs.
#[derive(Clone, Debug)]
pub(crate) struct Forward(pub(crate) Upstream);

impl Service<Request<Body>> for Forward {
    type Response = Response<AnswerBody>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let upstream = self.0.clone();
        Box::pin(async move { Ok(upstream.forward(request).await) })
    }
}

enum Place {
    Tcp(String, u16),
    Unix(PathBuf),
}

/// Connects to the one place, whatever URI is asked for.
#[derive(Clone)]
struct Connector(Arc<Place>);

impl Service<Uri> for Connector {
    type Response = TokioIo<UpstreamStream>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let place = self.0.clone();
        Box::pin(async move {
            let stream = match &*place {
                Place::Tcp(host, port) => {
                    let stream = TcpStream::connect((host.as_str(), *port)).await?;
                    stream.set_nodelay(true)?;
                    UpstreamStream::Tcp(stream)
                }
                Place::Unix(path) => UpstreamStream::Unix(UnixStream::connect(path).await?),
            };
            Ok(TokioIo::new(stream))
        })
    }
}

#[derive(Debug)]
enum UpstreamStream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Connection for UpstreamStream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for UpstreamStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for UpstreamStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
