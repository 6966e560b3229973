use std::{fmt, sync::Arc, time::Duration};

use http::HeaderMap;

use crate::Serving;

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
    pub(crate) serving: Served,
    pub(crate) explain: bool,
    pub(crate) hedge: Option<bool>,
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

    /// Whether a second copy may go to another peer when the answer is late, whatever the client says (B-6):
    /// see [`ClientBuilder::hedge`](crate::ClientBuilder::hedge). Only calls that may be repeated are.
    pub fn hedge(self, on: bool) -> Self {
        Self { hedge: Some(on), ..self }
    }

    /// Writes down why each attempt went where it went, in [`Attempt::pick`](crate::Attempt::pick). It
    /// allocates: for people who ask, not for every call.
    pub fn explain(self) -> Self {
        Self { explain: true, ..self }
    }

    /// The call is made to serve another one with these headers: it must end before that one's time is
    /// over, and is not sent again if that one was already, so that repeats do not multiply (B-5.1, B-8).
    ///
    /// Behind a [`ServingLayer`](crate::ServingLayer) this needs not be said.
    pub fn serving(self, headers: &HeaderMap) -> Self {
        self.served_by(Serving::of(headers))
    }

    /// As [`serving`](Self::serving), for a task other than that of the handler.
    pub fn served_by(self, serving: Serving) -> Self {
        Self { serving: Served::By(serving), ..self }
    }

    /// The call has nothing to do with the one that the task serves: it may go on when that is over.
    pub fn detached(self) -> Self {
        Self { serving: Served::Detached, ..self }
    }
}

/// For whom a call is made.
#[derive(Clone, Debug, Default)]
pub(crate) enum Served {
    /// For the call that the task serves, if it serves one.
    #[default]
    ByTask,
    By(Serving),
    Detached,
}

impl fmt::Debug for CallOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { timeout, body_timeout, idempotent, key, serving, explain, hedge } = self;
        f.debug_struct("CallOptions")
            .field("timeout", timeout)
            .field("body_timeout", body_timeout)
            .field("idempotent", idempotent)
            .field("has_key", &key.is_some())
            .field("serving", serving)
            .field("explain", explain)
            .field("hedge", hedge)
            .finish()
    }
}
