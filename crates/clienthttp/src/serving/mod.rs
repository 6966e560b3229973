//! Serving a call: what it came with, and how the calls made for it heed that (B-5.1, B-8).

mod layer;
mod trace;

use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::HeaderMap;
use peerage_balance::deadline::{
    ATTEMPT_HEADER, ENVOY_TIMEOUT_HEADER, GRPC_TIMEOUT_HEADER, GrpcTimeout, TIMEOUT_HEADER, read_millis,
};
use tokio::time::Instant;

pub use self::layer::{ServingFuture, ServingLayer, ServingService};
use self::trace::Trace;
pub(crate) use self::trace::{Position, Spot, TRACEPARENT, TRACESTATE};

tokio::task_local! {
    static CURRENT: Serving;
}

/// A call that is being served: which attempt of its caller it is, and how much time is left for it.
///
/// A [`ServingLayer`] reads it and puts it into the extensions of the request. Calls of every client that the
/// handler makes in its own task heed it by themselves; in other tasks by [`scope`](Self::scope) or
/// [`CallOptions::served_by`](crate::CallOptions::served_by). Clones share everything.
#[derive(Clone)]
pub struct Serving {
    inner: Arc<Inner>,
}

struct Inner {
    attempt: u32,
    deadline: Option<Instant>,
    is_grpc: bool,
    trace: Option<Trace>,
    /// A call made for it failed after its resend, or was refused one.
    is_spent: AtomicBool,
    /// The service says that the answer must not be repeated.
    no_retry: AtomicBool,
}

impl Serving {
    /// What the headers of a request say, as of now. Unreadable values count as absent.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let said = Said::by(headers);
        // Whichever of them is the shortest (B-8).
        let limits = [
            said.timeout.and_then(read_millis),
            said.envoy_timeout.and_then(read_millis),
            said.grpc_timeout.and_then(GrpcTimeout::read),
        ];
        let left = limits.into_iter().flatten().min();
        let attempt = said
            .attempt
            .and_then(|number| std::str::from_utf8(number).ok()?.parse().ok())
            .filter(|number| *number > 0);
        let earlier = said
            .grpc_previous
            .and_then(|number| std::str::from_utf8(number).ok()?.parse::<u32>().ok())
            .map_or(1, |number| number.saturating_add(1));
        let kind = said.content_type.unwrap_or_default();
        let inner = Inner {
            attempt: attempt.unwrap_or(1).max(earlier),
            deadline: left.and_then(|left| Instant::now().checked_add(left)),
            is_grpc: kind.starts_with(b"application/grpc"),
            trace: said.traceparent.and_then(|_| Trace::of(headers)),
            is_spent: AtomicBool::new(false),
            no_retry: AtomicBool::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The call that this task serves.
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Self::clone).ok()
    }

    /// The number of the attempt, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.inner.attempt
    }

    /// When the caller waits no longer, if it says.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.inner.deadline
    }

    /// How much of that time is left.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        self.inner.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// The answer must not be repeated by any caller: repeating it would do harm, or is known to be in vain.
    pub fn no_retry(&self) {
        self.inner.no_retry.store(true, Ordering::Relaxed);
    }

    /// Runs `task` as part of serving this call: the calls it makes heed it.
    pub fn scope<F: Future>(&self, task: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self.clone(), task)
    }

    /// A call made for it failed after its resend, or was refused one: if the answer is an error for that,
    /// repeating it further up would only multiply load.
    pub(crate) fn spend(&self) {
        self.inner.is_spent.store(true, Ordering::Relaxed);
    }

    /// Passes the trace on with a request that has none of its own. Returns whether it did.
    pub(crate) fn trace_onwards(&self, headers: &mut HeaderMap) -> bool {
        self.inner.trace.as_ref().is_some_and(|trace| trace.put(headers))
    }
}

/// The headers that matter here, the first of each name.
#[derive(Default)]
struct Said<'h> {
    timeout: Option<&'h [u8]>,
    envoy_timeout: Option<&'h [u8]>,
    grpc_timeout: Option<&'h [u8]>,
    attempt: Option<&'h [u8]>,
    grpc_previous: Option<&'h [u8]>,
    content_type: Option<&'h [u8]>,
    traceparent: Option<&'h [u8]>,
}

impl<'h> Said<'h> {
    /// One walk over the headers: to hash seven names costs more than to compare those that are there.
    fn by(headers: &'h HeaderMap) -> Self {
        let mut said = Self::default();
        for (name, value) in headers {
            let place = match name.as_str() {
                TIMEOUT_HEADER => &mut said.timeout,
                ENVOY_TIMEOUT_HEADER => &mut said.envoy_timeout,
                GRPC_TIMEOUT_HEADER => &mut said.grpc_timeout,
                ATTEMPT_HEADER => &mut said.attempt,
                "grpc-previous-rpc-attempts" => &mut said.grpc_previous,
                "content-type" => &mut said.content_type,
                "traceparent" => &mut said.traceparent,
                _ => continue,
            };
            place.get_or_insert(value.as_bytes());
        }
        said
    }
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving")
            .field("attempt", &self.attempt())
            .field("time_left", &self.time_left())
            .finish_non_exhaustive()
    }
}
