//! From a response to frames.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response, StatusCode, response};
use tracing::debug;

use super::conn::{COALESCE, Conn, End};
use crate::error::BoxError;
use crate::pieces::Pieces;
use crate::wire::{self, EncodeError, Payload};

/// While an answer is streamed, this much of the caller's next requests is read, to see whether it is
/// still there.
const READ_AHEAD: usize = 4 << 10;

/// What a data frame adds to its data.
const DATA_OVERHEAD: usize = 24;

/// The longest data frame. The caller gets to see a frame once it is whole, and holds all of it until then:
/// a body that its handler has in one piece need not arrive as one. Twice or half as much is no faster.
const MAX_DATA_FRAME: usize = 256 << 10;

/// A piece of a body.
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
    /// The body failed or panicked.
    Failed,
}

impl Conn {
    /// Puts an answer into the outbox. What is streamed is written on the way; the rest leaves with the
    /// next flush.
    pub(super) async fn respond<B>(&mut self, response: Response<B>, is_head: bool) -> Result<(), End>
    where
        B: http_body::Body,
        B::Error: Into<BoxError>,
    {
        let (head, body) = response.into_parts();
        let no_body = is_head || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if no_body || body.is_end_stream() {
            self.put_whole(&head, &Pieces::default(), None);
            return Ok(());
        }
        let mut body = pin!(body);
        let mut gathered = Pieces::default();
        let may_gather =
            body.size_hint().exact().is_some_and(|len| len <= self.settings.max_inline_body as u64);
        if may_gather {
            loop {
                match poll_fn(|cx| self.poll_piece(cx, body.as_mut(), false)).await? {
                    Piece::Data(data) => gathered.push(data),
                    Piece::Trailers(trailers) => {
                        self.put_whole(&head, &gathered, Some(&trailers));
                        return Ok(());
                    }
                    Piece::End => {
                        self.put_whole(&head, &gathered, None);
                        return Ok(());
                    }
                    Piece::Failed => {
                        // Nothing was said yet, so there is a better word than hanging up.
                        self.put_text(StatusCode::INTERNAL_SERVER_ERROR, "the response body failed");
                        return Ok(());
                    }
                }
                if gathered.len() > self.settings.max_inline_body {
                    // It is longer than it said.
                    break;
                }
            }
        }
        self.stream(head, gathered, body).await
    }

    async fn stream<B>(
        &mut self,
        mut head: response::Parts,
        mut gathered: Pieces,
        mut body: Pin<&mut B>,
    ) -> Result<(), End>
    where
        B: http_body::Body,
        B::Error: Into<BoxError>,
    {
        let mut trailers = wire::take_declared_trailers(&mut head.headers);
        let limits = self.settings.limits;
        if let Err(error) = wire::put_head(&mut self.outbox.buf, head.status, &head.headers, &limits) {
            self.put_fault(error);
            return Ok(());
        }
        while let Some(data) = gathered.pop() {
            self.put_data(data).await?;
        }
        loop {
            match poll_fn(|cx| self.poll_piece(cx, body.as_mut(), true)).await? {
                Piece::Data(data) => self.put_data(data).await?,
                Piece::Trailers(map) => match &mut trailers {
                    Some(trailers) => trailers.extend(map),
                    None => trailers = Some(Box::new(map)),
                },
                Piece::End => break,
                Piece::Failed => {
                    // No end frame: the reader must not take this for the whole.
                    poll_fn(|cx| self.poll_flush(cx)).await?;
                    return Err(End::Broken);
                }
            }
        }
        wire::put_end(&mut self.outbox.buf, trailers.as_deref(), &limits).map_err(|_| End::Broken)
    }

    /// The next piece of a body. What is ready to leave leaves while there is none.
    fn poll_piece<B>(
        &mut self,
        cx: &mut Context<'_>,
        body: Pin<&mut B>,
        streaming: bool,
    ) -> Poll<Result<Piece, End>>
    where
        B: http_body::Body,
        B::Error: Into<BoxError>,
    {
        let frame = match catch_unwind(AssertUnwindSafe(|| body.poll_frame(cx))) {
            Ok(Poll::Ready(frame)) => frame,
            Err(_) => return Poll::Ready(Ok(Piece::Failed)),
            Ok(Poll::Pending) => {
                if let Poll::Ready(Err(end)) = self.poll_flush(cx) {
                    return Poll::Ready(Err(end));
                }
                return if streaming { self.poll_gone(cx).map(Err) } else { Poll::Pending };
            }
        };
        Poll::Ready(Ok(match frame {
            None => Piece::End,
            Some(Err(error)) => {
                debug!(error = &*error.into(), "response body failed");
                Piece::Failed
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(mut data) => Piece::Data(data.copy_to_bytes(data.remaining())),
                Err(frame) => match frame.into_trailers() {
                    Ok(trailers) => Piece::Trailers(trailers),
                    // A kind of frame that this wire has no place for.
                    Err(_) => Piece::Data(Bytes::new()),
                },
            },
        }))
    }

    /// Ready once the caller has hung up: nobody reads the rest of a stream then.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        while self.reader.buffered() < READ_AHEAD {
            match self.reader.poll_fill(cx, &mut self.io) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(End::Broken),
                Poll::Pending => break,
            }
        }
        Poll::Pending
    }

    /// A data frame, or several where the piece is too long for one. They share its memory.
    async fn put_data(&mut self, mut data: Bytes) -> Result<(), End> {
        let limits = self.settings.limits;
        let room = limits.frame_len().min(MAX_DATA_FRAME).saturating_sub(DATA_OVERHEAD);
        if room == 0 {
            return Err(End::Broken);
        }
        while !data.is_empty() {
            let piece = Pieces::One(data.split_to(data.len().min(room)));
            piece
                .put(&mut self.outbox, |out, payload| wire::put_data(out, payload, &limits))
                .map_err(|_| End::Broken)?;
            if self.outbox.pending() >= COALESCE {
                poll_fn(|cx| self.poll_flush(cx)).await?;
            }
        }
        Ok(())
    }

    fn put_whole(&mut self, head: &response::Parts, body: &Pieces, trailers: Option<&HeaderMap>) {
        let limits = self.settings.limits;
        let put = body.put(&mut self.outbox, |out, payload| {
            wire::put_response(out, head.status, &head.headers, payload, trailers, &limits)
        });
        if let Err(error) = put {
            self.put_fault(error);
        }
    }

    /// An answer that fits into no frame is the handler's fault.
    fn put_fault(&mut self, error: EncodeError) {
        debug!(%error, "response fits into no frame");
        self.put_text(StatusCode::INTERNAL_SERVER_ERROR, "the response fits into no frame");
    }

    /// An answer of our own. `text` holds nothing that a caller sent (S-086).
    pub(super) fn put_text(&mut self, status: StatusCode, text: &str) {
        let mut headers = HeaderMap::with_capacity(1);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        let (out, limits) = (&mut self.outbox.buf, &self.settings.limits);
        let put = wire::put_response(out, status, &headers, Payload::Inline(text.as_bytes()), None, limits);
        if let Err(error) = put {
            // Limits of a few bytes. The caller sees the connection close.
            debug!(%error, "an answer of our own fits into no frame");
        }
    }
}
