use std::time::Duration;

use http::{Request, Response};
use tower_service::Service;

use super::{Listener, Server, ServerHandle, Settings};
use crate::Body;
use crate::error::BoxError;
#[cfg(feature = "tls")]
use crate::tls::ServerTls;
use crate::wire::Limits;

/// Settings of a [`Server`].
///
/// | setting | default |
/// |---|---|
/// | header timeout | 30 s |
/// | idle timeout | none; 75 s is a good value where callers are not trusted |
/// | write timeout | none |
/// | body sent in one frame | up to 64 KiB |
/// | connections | no limit; 10,000 is a good value where callers are not trusted |
/// | limits | those of [`Limits`] |
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `serve` is called"]
pub struct ServerBuilder {
    settings: Settings,
}

impl ServerBuilder {
    pub(super) fn new() -> Self {
        Self {
            settings: Settings {
                limits: Limits::default(),
                header_timeout: Some(Duration::from_secs(30)),
                idle_timeout: None,
                write_timeout: None,
                max_inline_body: 64 << 10,
                max_connections: usize::MAX,
                #[cfg(feature = "tls")]
                tls: None,
            },
        }
    }

    /// What a frame may hold, both ways.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.settings.limits = limits;
        self
    }

    /// From the first byte of a request to its last. Default 30 s.
    pub fn header_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.settings.header_timeout = limit.into();
        self
    }

    /// How long a connection may stay without a request. Default: for ever.
    pub fn idle_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.settings.idle_timeout = limit.into();
        self
    }

    /// How long a caller may take nothing of an answer. Default: for ever.
    pub fn write_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.settings.write_timeout = limit.into();
        self
    }

    /// Up to this, a response body whose exact size is known leaves in one frame; any other is streamed.
    /// Default 64 KiB.
    pub fn max_inline_body(mut self, len: usize) -> Self {
        self.settings.max_inline_body = len;
        self
    }

    /// The most connections at a time; more wait in the backlog of the listener. Default: no limit.
    pub fn max_connections(mut self, count: usize) -> Self {
        self.settings.max_connections = count.max(1);
        self
    }

    /// Speaks TLS on every connection.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: ServerTls) -> Self {
        self.settings.tls = Some(tls);
        self
    }

    /// The server, which may then serve several listeners.
    pub fn build(self) -> Server {
        Server::new(self.settings)
    }

    /// As [`Server::serve`].
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn serve<S, B>(self, listener: Listener, service: S) -> ServerHandle
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        B: http_body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        self.build().serve(listener, service)
    }
}
