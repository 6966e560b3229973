use std::sync::Arc;
use std::time::Duration;

use super::dial::{Dialer, Route};
use super::{Client, Settings};
#[cfg(feature = "tls")]
use crate::tls::ClientTls;
use crate::transport::{Connect, Target};
use crate::wire::Limits;

/// Settings of a [`Client`].
///
/// | setting | default |
/// |---|---|
/// | connect timeout | 10 s |
/// | response timeout | 30 s |
/// | stream idle timeout | 60 s |
/// | idle connections kept | 32 |
/// | limits | those of [`Limits`] |
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct ClientBuilder {
    dialer: Dialer,
    settings: Settings,
}

impl ClientBuilder {
    pub(super) fn new(target: Target) -> Self {
        Self {
            dialer: Dialer::new(target),
            settings: Settings {
                connect_timeout: Some(Duration::from_secs(10)),
                response_timeout: Some(Duration::from_secs(30)),
                stream_idle_timeout: Some(Duration::from_secs(60)),
                max_idle: 32,
                limits: Limits::default(),
            },
        }
    }

    /// How long a connection may take to come up: name, socket and handshake together. Default 10 s.
    pub fn connect_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.settings.connect_timeout = limit.into();
        self
    }

    /// From the first byte written to the head of the answer. Default 30 s. An answer of up to 64 KiB
    /// that is not streamed must be here whole by then; of a longer one the beginning must.
    pub fn response_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.settings.response_timeout = limit.into();
        self
    }

    /// How long a streamed body, or a long one, may make no progress while the caller waits for it.
    /// Default 60 s.
    pub fn stream_idle_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.settings.stream_idle_timeout = limit.into();
        self
    }

    /// The most idle connections that are kept. Default 32; 0 makes a connection per request.
    pub fn max_idle(mut self, count: usize) -> Self {
        self.settings.max_idle = count;
        self
    }

    /// What a frame may hold, both ways.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.settings.limits = limits;
        self
    }

    /// Opens connections through `connector` instead of to the target.
    pub fn connector(mut self, connector: Arc<dyn Connect>) -> Self {
        self.dialer.route = Route::Custom(connector);
        self
    }

    /// Speaks TLS over whatever is connected to. When certificates are reloaded, connections that were made
    /// with the old ones carry no new requests (S-040).
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: ClientTls) -> Self {
        self.dialer.tls = Some(tls);
        self
    }

    /// Makes the client. No I/O: the first request connects.
    pub fn build(self) -> Client {
        Client::new(self.dialer, self.settings)
    }
}
