//! The body of a streamed answer. It owns its connection until the end.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use super::Shared;
use super::conn::Conn;
use crate::error::BodyError;
use crate::wire::{self, Chunk, FrameType, PREFIX_LEN};

/// A data frame without data: prefix, header and an empty slot. More than that of a frame is progress.
const EMPTY_DATA: usize = PREFIX_LEN + 24;

/// A body that arrives frame by frame.
#[derive(Debug)]
pub(crate) struct ResponseStream {
    /// Present until the end was seen, or the body failed.
    conn: Option<Box<Conn>>,
    shared: Arc<Shared>,
    /// A frame that was looked at and is not the end.
    ahead: Option<Bytes>,
    trailers: Option<Box<HeaderMap>>,
    /// The answer to `HEAD`, or one that can have no body: what comes is read and dropped.
    bodiless: bool,
    /// `Some` while we wait, with the bytes of an unfinished frame that were there when the idle
    /// timer was last set.
    waiting: Option<usize>,
}

impl ResponseStream {
    pub(super) fn new(conn: Box<Conn>, shared: Arc<Shared>, bodiless: bool) -> Self {
        let mut stream =
            Self { conn: Some(conn), shared, ahead: None, trailers: None, bodiless, waiting: None };
        stream.look_ahead();
        stream
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            let Some(conn) = &mut self.conn else {
                return Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(*trailers))));
            };
            let next = match self.ahead.take() {
                Some(frame) => Poll::Ready(Ok(frame)),
                None => conn.poll_frame(cx),
            };
            let chunk = match next {
                Poll::Ready(Ok(frame)) => {
                    wire::read_chunk(frame, &self.shared.settings.limits).map_err(BodyError::Protocol)
                }
                Poll::Ready(Err(error)) => Err(error),
                Poll::Pending if self.poll_idle(cx).is_ready() => Err(BodyError::Idle),
                Poll::Pending => return Poll::Pending,
            };
            match chunk {
                // Not progress, hence no word to the idle timer (S-083).
                Ok(Chunk::Data(data)) if data.is_empty() => {}
                Ok(Chunk::Data(data)) => {
                    self.waiting = None;
                    if !self.bodiless {
                        self.look_ahead();
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                }
                Ok(Chunk::End(trailers)) => self.end(trailers),
                Err(error) => {
                    self.conn = None;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }

    /// The idle timer runs while we wait for the peer, not while the caller lets us wait.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(conn) = &mut self.conn else {
            return Poll::Pending;
        };
        let partial = conn.partial();
        let progress = match self.waiting {
            None => true,
            Some(before) => partial > before && partial > EMPTY_DATA,
        };
        if progress {
            conn.set_deadline(self.shared.settings.stream_idle_timeout);
        }
        self.waiting = Some(if progress { partial } else { self.waiting.unwrap_or(0).min(partial) });
        conn.poll_deadline(cx)
    }

    /// Sees an end that is here already, so that a caller who stops after the last byte has read all.
    fn look_ahead(&mut self) {
        let Some(frame) = self.conn.as_mut().and_then(|conn| conn.take_frame()) else {
            return;
        };
        let limits = &self.shared.settings.limits;
        if wire::frame_type(&frame) == Ok(FrameType::End)
            && let Ok(Chunk::End(trailers)) = wire::read_chunk(frame.clone(), limits)
        {
            self.end(trailers);
        } else {
            self.ahead = Some(frame);
        }
    }

    fn end(&mut self, trailers: Option<Box<HeaderMap>>) {
        self.trailers = trailers.filter(|_| !self.bodiless);
        if let Some(conn) = self.conn.take() {
            self.shared.give_back(conn);
        }
    }

    pub(crate) fn is_end(&self) -> bool {
        self.conn.is_none() && self.trailers.is_none()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        if self.conn.is_none() { SizeHint::with_exact(0) } else { SizeHint::default() }
    }
}
