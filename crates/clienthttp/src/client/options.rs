use std::{fmt, sync::Arc, time::Duration};

use http::HeaderMap;
use peerage_balance::deadline::{
    ATTEMPT_HEADER, ENVOY_TIMEOUT_HEADER, GRPC_TIMEOUT_HEADER, GrpcTimeout, TIMEOUT_HEADER, onwards,
    read_millis,
};

/// Settings for one call, in the extensions of its request.
///
/// [`RequestBuilder`](crate::RequestBuilder) has methods of the same names.
#[derive(Clone, Default)]
#[must_use = "put it into the extensions of a request"]
pub struct CallOptions {
    pub(crate) timeout: Option<Duration>,
    pub(crate) body_timeout: Option<Option<Duration>>,
    pub(crate) idempotent: bool,
    pub(crate) key: Option<Arc<str>>,
    pub(crate) serving: Option<u32>,
    pub(crate) served_left: Option<Duration>,
    pub(crate) explain: bool,
}

impl CallOptions {
    /// The settings of the client.
    pub fn new() -> Self {
        Self::default()
    }

    /// The time of this call, instead of the client's.
    pub fn timeout(self, limit: Duration) -> Self {
        Self { timeout: Some(limit), ..self }
    }

    /// How long the body of the answer may take after its head; `None` for ever.
    pub fn body_timeout(self, limit: impl Into<Option<Duration>>) -> Self {
        Self { body_timeout: Some(limit.into()), ..self }
    }

    /// Sending it twice does no harm, whatever its method says.
    pub fn idempotent(self) -> Self {
        Self { idempotent: true, ..self }
    }

    /// Calls of one key should go to one peer, if the picker heeds keys.
    pub fn key(self, key: impl Into<Arc<str>>) -> Self {
        Self { key: Some(key.into()), ..self }
    }

    /// Writes down why each attempt went where it went, in [`Attempt::pick`](crate::Attempt::pick). It
    /// allocates: for people who ask, not for every call.
    pub fn explain(self) -> Self {
        Self { explain: true, ..self }
    }

    /// The call is made to serve another one with these headers: it must end before that one's time is
    /// over, and is not sent again if that one was already, so that repeats do not multiply (B-5.1, B-8).
    pub fn serving(self, headers: &HeaderMap) -> Self {
        let bytes = |name| headers.get(name).map(http::HeaderValue::as_bytes);
        let limits = [
            bytes(TIMEOUT_HEADER).and_then(read_millis),
            bytes(ENVOY_TIMEOUT_HEADER).and_then(read_millis),
            bytes(GRPC_TIMEOUT_HEADER).and_then(GrpcTimeout::read),
        ];
        let serving = bytes(ATTEMPT_HEADER)
            .and_then(|number| std::str::from_utf8(number).ok()?.parse().ok())
            .filter(|number| *number > 1);
        let served_left = limits.into_iter().flatten().min().map(onwards);
        Self { serving, served_left, ..self }
    }
}

impl fmt::Debug for CallOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { timeout, body_timeout, idempotent, key, serving, served_left, explain } = self;
        f.debug_struct("CallOptions")
            .field("timeout", timeout)
            .field("body_timeout", body_timeout)
            .field("idempotent", idempotent)
            .field("has_key", &key.is_some())
            .field("serving", serving)
            .field("served_left", served_left)
            .field("explain", explain)
            .finish()
    }
}
