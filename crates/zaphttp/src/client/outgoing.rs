//! A request that is ready to be written, as often as it takes.

use std::future::poll_fn;
use std::pin::pin;

use bytes::Buf;
use http::{HeaderMap, Request, request};

use crate::Body;
use crate::error::{BoxError, SendError, SendErrorKind, Stage};
use crate::outbox::Outbox;
use crate::pieces::Pieces;
use crate::wire::{self, EncodeError, Limits};

#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(super) head: request::Parts,
    pub(super) content: Content,
}

impl Outgoing {
    /// The request as it was given.
    pub(crate) fn into_request(self) -> Request<Body> {
        let body = Body::pieces(self.content.body, self.content.trailers);
        Request::from_parts(self.head, body)
    }
}

/// What follows the head.
#[derive(Debug)]
pub(crate) struct Content {
    body: Pieces,
    trailers: Option<Box<HeaderMap>>,
}

impl Content {
    /// Reads the body of a request, as far as a frame can hold it (zaphttp §4).
    pub(super) async fn collect<B>(body: B, limits: &Limits) -> Result<Self, SendError>
    where
        B: http_body::Body,
        B::Error: Into<BoxError>,
    {
        let limit = limits.frame_len();
        let too_large = || SendError::new(SendErrorKind::BodyTooLarge { limit }, Stage::NotSent);
        let mut body = pin!(body);
        let mut pieces = Pieces::default();
        let mut trailers = None;
        if body.size_hint().lower() > limit as u64 {
            return Err(too_large());
        }
        while !body.is_end_stream() {
            let frame = match poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
                None => break,
                Some(Ok(frame)) => frame,
                Some(Err(error)) => {
                    return Err(SendError::new(SendErrorKind::RequestBody, Stage::NotSent).because(error));
                }
            };
            match frame.into_data() {
                // Judged before the bytes are gathered.
                Ok(data) if data.remaining() > limit - pieces.len() => return Err(too_large()),
                Ok(mut data) => pieces.push(data.copy_to_bytes(data.remaining())),
                Err(frame) => trailers = frame.into_trailers().ok().map(Box::new),
            }
        }
        Ok(Self { body: pieces, trailers })
    }

    /// Puts the frame into an outbox.
    pub(super) fn put(
        &self,
        head: &request::Parts,
        outbox: &mut Outbox,
        limits: &Limits,
    ) -> Result<(), EncodeError> {
        let trailers = self.trailers.as_deref();
        self.body.put(outbox, |out, payload| wire::put_request(out, head, payload, trailers, limits))
    }

    /// What went wrong where no frame can hold the request.
    pub(super) fn refused(&self, error: EncodeError) -> SendErrorKind {
        match error {
            EncodeError::FrameTooLong { limit, .. } if self.body.len() > 0 => {
                SendErrorKind::BodyTooLarge { limit }
            }
            error => SendErrorKind::Encode(error),
        }
    }
}
