//! When an exchange must be over, and whose fault it is if it is not.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use peerage_balance::Stage;
use tokio::time::{Instant, timeout_at};

use super::{ExchangeError, FailureKind};
use crate::{Body, ClientError};

/// When an exchange must be over.
#[cfg_attr(
    not(feature = "zap"),
    expect(dead_code, reason = "only ZAP-HTTP gathers a body before it connects")
)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Until {
    /// The end of the attempt, if it begins with all that it sends.
    pub(crate) at: Option<Instant>,
    /// The end of the call.
    pub(crate) deadline: Option<Instant>,
    /// The most time of an attempt.
    pub(crate) per_try: Option<Duration>,
}

impl Until {
    /// The end of an attempt whose request came together only now: the time that the caller took for it is not
    /// the attempt's.
    #[cfg(feature = "zap")]
    pub(super) fn once_given(self) -> Option<Instant> {
        let per_try = self.per_try.and_then(|limit| Instant::now().checked_add(limit));
        match (self.deadline, per_try) {
            (Some(deadline), Some(per_try)) => Some(deadline.min(per_try)),
            (at, None) | (None, at) => at,
        }
    }
}

impl From<Instant> for Until {
    fn from(at: Instant) -> Self {
        Self { at: Some(at), deadline: Some(at), per_try: None }
    }
}

/// How far a streamed request body is. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Given(Arc<State>);

#[derive(Debug, Default)]
struct State {
    now: AtomicU8,
    /// When it was over.
    over: OnceLock<Instant>,
}

const FLOWS: u8 = 0;
const AWAITED: u8 = 1;
const OVER: u8 = 2;

impl Given {
    // Relaxed: set and read by one task, or where a timer decides.
    fn set(&self, state: u8) {
        if state == OVER {
            self.0.over.get_or_init(Instant::now);
        }
        self.0.now.store(state, Ordering::Relaxed);
    }

    /// The caller was asked for more of it and has not given it.
    pub(super) fn is_awaited(&self) -> bool {
        self.0.now.load(Ordering::Relaxed) == AWAITED
    }

    #[cfg(feature = "zap")]
    fn is_over(&self) -> bool {
        self.0.now.load(Ordering::Relaxed) == OVER
    }
}

/// A streamed request body that tells how far it is.
pub(super) struct Told {
    body: Body,
    given: Given,
}

impl Told {
    pub(super) fn new(body: Body, given: &Given) -> Self {
        Self { body, given: given.clone() }
    }
}

impl http_body::Body for Told {
    type Data = Bytes;
    type Error = ClientError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        self.given.set(match &polled {
            Poll::Pending => AWAITED,
            Poll::Ready(Some(Ok(_))) if !self.body.is_end_stream() => FLOWS,
            Poll::Ready(_) => OVER,
        });
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An exchange that gathers the request before it connects: what the caller takes to give it is neither the
/// peer's fault nor the attempt's time.
#[cfg(feature = "zap")]
pub(super) async fn gathering<T>(
    exchange: impl Future<Output = Result<T, ExchangeError>>,
    until: Until,
    given: &Given,
    is_sent: impl Fn() -> bool,
) -> Result<T, ExchangeError> {
    let mut exchange = pin!(exchange);
    let gathered = std::future::poll_fn(|cx| match exchange.as_mut().poll(cx) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        Poll::Pending if given.is_over() => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    });
    match by(until.deadline, gathered).await {
        Some(Some(result)) => result,
        Some(None) => in_time(exchange, until.once_given(), given, is_sent).await,
        None => Err(ExchangeError::new(FailureKind::RequestLate, Stage::NotSent, LATE)),
    }
}

/// An exchange, until then.
pub(super) async fn in_time<T>(
    exchange: impl Future<Output = Result<T, ExchangeError>>,
    until: Option<Instant>,
    given: &Given,
    is_sent: impl Fn() -> bool,
) -> Result<T, ExchangeError> {
    let mut exchange = pin!(exchange);
    by(until, exchange.as_mut()).await.unwrap_or_else(|| {
        let stage = if is_sent() { Stage::Ambiguous } else { Stage::NotSent };
        let kind = match stage {
            _ if given.is_awaited() => FailureKind::RequestLate,
            Stage::NotSent => FailureKind::ConnectTimeout,
            _ => FailureKind::Timeout,
        };
        Err(ExchangeError { given: given.0.over.get().copied(), ..ExchangeError::new(kind, stage, LATE) })
    })
}

const LATE: &str = "the time of the attempt is over";

async fn by<T>(until: Option<Instant>, future: impl Future<Output = T>) -> Option<T> {
    match until {
        Some(until) => timeout_at(until, future).await.ok(),
        None => Some(future.await),
    }
}
