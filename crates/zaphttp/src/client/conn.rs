//! One connection of a client: a request out, the first frame of its answer in.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::pool::Watchdog;
use crate::error::{BodyError, BoxError, SendError, SendErrorKind, Stage};
use crate::framing::{FrameReader, ReadError};
use crate::outbox::Outbox;
use crate::timer::Timer;
#[cfg(feature = "tls")]
use crate::tls::{Generation, TlsError, TlsFailure};
use crate::transport::{Connection, ConnectionInfo, Stream};
use crate::wire::Limits;

#[derive(Debug)]
pub(super) struct Conn {
    io: Stream,
    reader: FrameReader,
    pub(super) outbox: Outbox,
    timer: Timer,
    pub(super) info: ConnectionInfo,
    /// Whether an exchange was completed on it before.
    pub(super) reused: bool,
    /// What it was secured with: it is used for nothing else (S-040).
    #[cfg(feature = "tls")]
    pub(super) generation: Option<Generation>,
    pub(super) watchdog: Watchdog,
    _counted: Counted,
}

/// Counts the connections of a client while they are open.
#[derive(Debug)]
pub(super) struct Counted(Arc<AtomicUsize>);

impl Counted {
    pub(super) fn new(count: &Arc<AtomicUsize>) -> Self {
        // Relaxed: a number for people and tests; nothing else depends on it.
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An exchange that gave no frame.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) kind: SendErrorKind,
    pub(super) stage: Stage,
    source: Option<BoxError>,
}

impl From<Failure> for SendError {
    fn from(failure: Failure) -> Self {
        let error = Self::new(failure.kind, failure.stage);
        match failure.source {
            Some(source) => error.because(source),
            None => error,
        }
    }
}

/// How far an exchange has come.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    /// When it has to be over, whatever is under way.
    deadline: Option<Instant>,
    is_written: bool,
    /// Why the write broke. What the peer had said before may still be readable, such as a refusal.
    broken: Option<io::Error>,
    /// How much of a long answer was here when the timer was last set.
    seen: usize,
}

impl Exchange {
    pub(super) fn over_by(deadline: Option<Instant>) -> Self {
        Self { deadline, ..Self::default() }
    }
}

/// When something that begins now and has a limit must be over, in an exchange that has a deadline.
pub(super) fn until_at(now: Instant, deadline: Option<Instant>, limit: Option<Duration>) -> Option<Instant> {
    let limit = limit.and_then(|limit| now.checked_add(limit));
    match (deadline, limit) {
        (Some(deadline), Some(limit)) => Some(deadline.min(limit)),
        (until, None) | (None, until) => until,
    }
}

/// How long something may take that has a limit, in an exchange that has a deadline.
pub(super) fn until(deadline: Option<Instant>, limit: Option<Duration>) -> Option<Duration> {
    let Some(deadline) = deadline else { return limit };
    let left = deadline.saturating_duration_since(Instant::now());
    Some(limit.map_or(left, |limit| limit.min(left)))
}

impl Conn {
    pub(super) fn new(connection: Connection, limits: Limits, watchdog: Watchdog, counted: Counted) -> Self {
        Self {
            io: connection.io,
            reader: FrameReader::new(limits),
            outbox: Outbox::default(),
            timer: Timer::default(),
            info: connection.info,
            reused: false,
            #[cfg(feature = "tls")]
            generation: None,
            watchdog,
            _counted: counted,
        }
    }

    /// Whether the connection may carry a request: it is open, and nothing lies on it that would be taken
    /// for an answer (S-042, S-043).
    pub(super) fn is_silent(&mut self, cx: &mut Context<'_>) -> bool {
        if self.reused { self.io.is_silent(cx) } else { self.io.starts_silent(cx) }
    }

    /// Has the watchdog woken when something happens on the idle connection. False if it has happened.
    pub(super) fn watch(&mut self) -> bool {
        self.io.watch(&mut Context::from_waker(&self.watchdog.waker))
    }

    /// As [`is_silent`](Self::is_silent), for those who cannot wait.
    pub(super) fn is_quiet(&mut self) -> bool {
        self.io.is_silent(&mut Context::from_waker(Waker::noop()))
    }

    /// Whether the exchange left the connection as it was before: all written, nothing left over.
    pub(super) fn is_clean(&self) -> bool {
        self.outbox.is_empty() && self.reader.is_idle()
    }

    pub(super) fn set_deadline_at(&mut self, now: Instant, deadline: Option<Instant>) {
        self.timer.set_at(now, deadline);
    }

    pub(super) fn set_deadline(&mut self, limit: Option<Duration>) {
        self.timer.set(limit);
    }

    /// Writes the request in the outbox, reads the first frame of the answer.
    pub(super) fn poll_exchange(
        &mut self,
        cx: &mut Context<'_>,
        exchange: &mut Exchange,
        idle_timeout: Option<Duration>,
    ) -> Poll<Result<Bytes, Failure>> {
        if !exchange.is_written {
            match self.outbox.poll_flush(cx, &mut self.io) {
                Poll::Ready(Err(error)) if self.outbox.taken() == 0 => {
                    return Poll::Ready(Err(self.failed_io(error)));
                }
                Poll::Ready(result) => {
                    exchange.is_written = true;
                    exchange.broken = result.err();
                }
                // No answer can come before its request (S-043).
                Poll::Pending if self.outbox.taken() == 0 => return self.poll_late(cx),
                // But it may before the end of it: a refusal of its length, say.
                Poll::Pending => {}
            }
        }
        let kind = match self.reader.poll_next(cx, &mut self.io) {
            Poll::Ready(Ok(Some(frame))) => return Poll::Ready(Ok(frame)),
            Poll::Pending => {
                // Once a long answer is under way it is a stream like any other.
                if self.reader.is_long() && self.reader.buffered() > exchange.seen {
                    exchange.seen = self.reader.buffered();
                    self.timer.set(until(exchange.deadline, idle_timeout));
                }
                return self.poll_late(cx);
            }
            Poll::Ready(Err(ReadError::Frame(error))) => SendErrorKind::Protocol(error),
            Poll::Ready(end) => match (end, exchange.broken.take()) {
                (_, Some(error)) | (Err(ReadError::Io(error)), None) => {
                    return Poll::Ready(Err(self.failed_io(error)));
                }
                _ => SendErrorKind::Closed,
            },
        };
        Poll::Ready(Err(self.failed(kind)))
    }

    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Failure>> {
        self.timer.poll(cx).map(|()| Err(self.failed(SendErrorKind::Timeout)))
    }

    fn failed_io(&self, error: io::Error) -> Failure {
        let mut failure = self.failed(SendErrorKind::Io);
        #[cfg(feature = "tls")]
        if let Some(tls) = TlsError::of(&error) {
            match tls.failure() {
                TlsFailure::Truncated | TlsFailure::Closed => failure.kind = SendErrorKind::Closed,
                other => failure.kind = SendErrorKind::Tls(other),
            }
            if tls.is_refusal() && !self.reused {
                failure.stage = Stage::NotSent;
            }
        }
        failure.source = Some(error.into());
        failure
    }

    fn failed(&self, kind: SendErrorKind) -> Failure {
        let silent = self.reader.is_idle() && matches!(kind, SendErrorKind::Closed | SendErrorKind::Io);
        let stage = if self.outbox.pending() > 0 {
            // A server cannot act on a frame that it has only in part.
            Stage::NotSent
        } else if self.reused && silent {
            Stage::Stale
        } else {
            Stage::Ambiguous
        };
        Failure { kind, stage, source: None }
    }

    /// Reads the next frame of a streamed answer.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, BodyError>> {
        Poll::Ready(match ready!(self.reader.poll_next(cx, &mut self.io)) {
            Ok(Some(frame)) => Ok(frame),
            Ok(None) | Err(ReadError::Truncated) => Err(BodyError::Cut),
            Err(ReadError::Frame(error)) => Err(BodyError::Protocol(error)),
            Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Err(BodyError::Cut),
            Err(ReadError::Io(error)) => Err(BodyError::Io(error)),
        })
    }

    /// The next frame, if it is here already and is one.
    pub(super) fn take_frame(&mut self) -> Option<Bytes> {
        self.reader.take().ok().flatten()
    }

    /// The bytes of a frame that has not arrived whole.
    pub(super) fn partial(&self) -> usize {
        self.reader.buffered()
    }

    pub(super) fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.timer.poll(cx)
    }
}
