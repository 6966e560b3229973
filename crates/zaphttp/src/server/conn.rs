//! One connection of a server.

use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Method, Request, Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tower_service::Service;
use tracing::debug;

use super::Settings;
use super::control::Control;
use crate::Body;
use crate::error::BoxError;
use crate::framing::{FrameReader, ReadError};
use crate::outbox::Outbox;
use crate::timer::Timer;
use crate::transport::{Connection, ConnectionInfo, Stream};
use crate::wire::{self, WireError};

/// Answers to requests that are here already leave together, up to this.
pub(super) const COALESCE: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct Conn {
    pub(super) io: Stream,
    pub(super) reader: FrameReader,
    pub(super) outbox: Outbox,
    timer: Timer,
    /// What the timer is set for.
    wait: Wait,
    pub(super) settings: Arc<Settings>,
    control: Arc<Control>,
    info: ConnectionInfo,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    Nothing,
    /// For the first byte of a request.
    Request,
    /// For the rest of it.
    Frame,
    /// For the caller to take more of an answer, of which it has taken this much.
    Write(usize),
}

/// Why a connection ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    /// Between two requests.
    Clean,
    /// What came is no request; the caller is told.
    Refused(WireError),
    /// The caller is gone, too slow, or must see that its answer is not whole.
    Broken,
}

/// A handler that gave no answer.
#[derive(Debug)]
enum Fault {
    Panic,
    Error(BoxError),
}

/// Serves a connection until it closes.
pub(super) async fn run<S, B>(
    connection: Connection,
    settings: Arc<Settings>,
    control: Arc<Control>,
    service: S,
) where
    S: Service<Request<Body>, Response = Response<B>> + Clone,
    S::Error: Into<BoxError>,
    B: http_body::Body,
    B::Error: Into<BoxError>,
{
    #[cfg(feature = "tls")]
    let connection = match &settings.tls {
        None => connection,
        Some(tls) => {
            let handshake = connection.secured(async |io| tls.accept(io).await);
            let secured = tokio::select! {
                () = control.drained() => return,
                secured = handshake => secured,
            };
            match secured {
                Ok(connection) => connection,
                Err(error) => return debug!(%error, "refused a connection"),
            }
        }
    };
    let mut conn = Conn::new(connection, settings, control);
    let end = conn.serve(service).await;
    conn.close(end).await;
}

impl Conn {
    fn new(connection: Connection, settings: Arc<Settings>, control: Arc<Control>) -> Self {
        Self {
            io: connection.io,
            reader: FrameReader::new(settings.limits),
            outbox: Outbox::default(),
            timer: Timer::default(),
            wait: Wait::Nothing,
            settings,
            control,
            info: connection.info,
        }
    }

    /// One request after the other.
    async fn serve<S, B>(&mut self, service: S) -> End
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone,
        S::Error: Into<BoxError>,
        B: http_body::Body,
        B::Error: Into<BoxError>,
    {
        let mut current = service.clone();
        loop {
            let frame = match poll_fn(|cx| self.poll_request(cx)).await {
                Ok(Some(frame)) => frame,
                Ok(None) => return End::Clean,
                Err(end) => return end,
            };
            self.wait = Wait::Nothing;
            let (request, trailers) = match wire::read_request(frame, &self.settings.limits) {
                Ok(request) => request,
                Err(error) => return End::Refused(error),
            };
            let is_head = request.method() == Method::HEAD;
            let mut request = request.map(|data| Body::whole(data, trailers));
            request.extensions_mut().insert(self.info.clone());
            let sent = match self.handle(&mut current, request).await {
                Err(end) => Err(end),
                Ok(Ok(response)) => self.respond(response, is_head).await,
                Ok(Err(fault)) => {
                    match fault {
                        // What the panic left behind is not used again.
                        Fault::Panic => current = service.clone(),
                        Fault::Error(error) => debug!(error = &*error, "handler failed"),
                    }
                    self.put_text(StatusCode::INTERNAL_SERVER_ERROR, "the handler failed");
                    Ok(())
                }
            };
            if let Err(end) = sent {
                return end;
            }
        }
    }

    /// Waits for a whole request frame. Answers wait for no more than requests that are here already.
    fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, End>> {
        if self.outbox.pending() >= COALESCE {
            ready!(self.poll_flush(cx))?;
        }
        if let Some(frame) = self.reader.take().map_err(End::Refused)? {
            return Poll::Ready(Ok(Some(frame)));
        }
        ready!(self.poll_flush(cx))?;
        let wait = match self.reader.poll_next(cx, &mut self.io) {
            Poll::Ready(Ok(frame)) => return Poll::Ready(Ok(frame)),
            Poll::Ready(Err(ReadError::Frame(error))) => return Poll::Ready(Err(End::Refused(error))),
            Poll::Ready(Err(ReadError::Truncated | ReadError::Io(_))) => {
                return Poll::Ready(Err(End::Broken));
            }
            Poll::Pending if self.reader.is_idle() => Wait::Request,
            Poll::Pending => Wait::Frame,
        };
        // A request that has reached this host counts as being in flight (Z-029).
        if wait == Wait::Request && self.control.is_draining() && !self.io.has_unseen_bytes() {
            return Poll::Ready(Ok(None));
        }
        ready!(self.poll_wait(cx, wait));
        Poll::Ready(Err(End::Broken))
    }

    /// Ready when what we wait for took too long.
    fn poll_wait(&mut self, cx: &mut Context<'_>, wait: Wait) -> Poll<()> {
        if self.wait != wait {
            self.wait = wait;
            self.timer.set(match wait {
                Wait::Nothing => None,
                Wait::Request => self.settings.idle_timeout,
                Wait::Frame => self.settings.header_timeout,
                Wait::Write(_) => self.settings.write_timeout,
            });
        }
        self.timer.poll(cx)
    }

    /// Writes what is ready to leave.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        if self.outbox.is_empty() {
            return Poll::Ready(Ok(()));
        }
        match self.outbox.poll_flush(cx, &mut self.io) {
            Poll::Ready(Ok(())) => {
                self.wait = Wait::Nothing;
                return Poll::Ready(Ok(()));
            }
            Poll::Ready(Err(_)) => return Poll::Ready(Err(End::Broken)),
            Poll::Pending => {}
        }
        ready!(self.poll_wait(cx, Wait::Write(self.outbox.taken())));
        Poll::Ready(Err(End::Broken))
    }

    /// Runs the handler. Earlier answers leave while it does.
    async fn handle<S>(
        &mut self,
        service: &mut S,
        request: Request<Body>,
    ) -> Result<Result<S::Response, Fault>, End>
    where
        S: Service<Request<Body>>,
        S::Error: Into<BoxError>,
    {
        let call = async move {
            poll_fn(|cx| service.poll_ready(cx)).await?;
            service.call(request).await
        };
        let mut call = pin!(AssertUnwindSafe(call).catch_unwind());
        let mut flushed = Ok(());
        let answer = poll_fn(|cx| {
            let answer = call.as_mut().poll(cx);
            if answer.is_pending()
                && flushed.is_ok()
                && let Poll::Ready(Err(end)) = self.poll_flush(cx)
            {
                // The handler still runs to its end: nobody could say how far it came.
                flushed = Err(end);
            }
            answer
        })
        .await;
        flushed.map(|()| match answer {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(Fault::Error(error.into())),
            Err(_) => Err(Fault::Panic),
        })
    }

    /// Says goodbye as far as the end allows.
    async fn close(&mut self, end: End) {
        /// How long a caller may take for the last words of a connection.
        const LAST_WORDS: Duration = Duration::from_secs(1);
        match end {
            End::Clean => {
                let _ = timeout(LAST_WORDS, self.io.shutdown()).await;
            }
            End::Refused(error) => {
                debug!(%error, "refused a request");
                let status = match error {
                    WireError::FrameTooLong { .. } => StatusCode::PAYLOAD_TOO_LARGE,
                    _ => StatusCode::BAD_REQUEST,
                };
                self.put_text(status, &error.to_string());
                let _ = timeout(LAST_WORDS, self.linger()).await;
            }
            End::Broken => {}
        }
    }

    /// Writes the refusal and reads on for a while: closing a socket with unread bytes resets it, and a
    /// reset would take the refusal away from the caller.
    async fn linger(&mut self) {
        /// More than this is not worth a polite end.
        const MAX_DRAINED: usize = 1 << 20;
        let sent = poll_fn(|cx| self.outbox.poll_flush(cx, &mut self.io)).await;
        if sent.is_err() || self.io.shutdown().await.is_err() {
            return;
        }
        let mut drained = 0;
        let mut scrap = vec![0; 16 << 10];
        while let Ok(read @ 1..) = self.io.read(&mut scrap).await {
            drained += read;
            if drained > MAX_DRAINED {
                return;
            }
        }
    }
}
