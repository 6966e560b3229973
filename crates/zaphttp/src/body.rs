use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use crate::client::ResponseStream;
use crate::error::{BodyError, BoxError};
use crate::pieces::Pieces;

/// A message body: whole in memory, or a stream.
///
/// A server hands one to the handler, always whole: a request is one frame. A client hands one to the
/// caller, whole or arriving. Dropping a body that is still arriving closes its connection and nothing
/// else; once its end was seen the connection is free for the next request.
///
/// Whole bodies, with or without trailers, cost no allocation.
#[derive(Default)]
pub struct Body {
    repr: Repr,
}

enum Repr {
    Whole { data: Pieces, trailers: Option<Box<HeaderMap>> },
    Arriving(Box<ResponseStream>),
    Other(Pin<Box<dyn http_body::Body<Data = Bytes, Error = BodyError> + Send>>),
}

impl Default for Repr {
    fn default() -> Self {
        Self::Whole { data: Pieces::default(), trailers: None }
    }
}

impl Body {
    /// A body without bytes.
    pub fn empty() -> Self {
        Self::default()
    }

    /// A body that gives what `inner` gives.
    pub fn new<B>(inner: B) -> Self
    where
        B: http_body::Body + Send + 'static,
        B::Error: Into<BoxError>,
    {
        if inner.is_end_stream() {
            return Self::default();
        }
        Self { repr: Repr::Other(Box::pin(Adapter { inner })) }
    }

    /// A body of bytes in memory and trailers behind them.
    pub fn with_trailers(data: impl Into<Bytes>, trailers: HeaderMap) -> Self {
        Self::whole(data.into(), Some(Box::new(trailers)))
    }

    pub(crate) fn whole(data: Bytes, trailers: Option<Box<HeaderMap>>) -> Self {
        Self::pieces(Pieces::One(data), trailers)
    }

    pub(crate) fn pieces(data: Pieces, trailers: Option<Box<HeaderMap>>) -> Self {
        Self { repr: Repr::Whole { data, trailers } }
    }

    pub(crate) fn arriving(stream: Box<ResponseStream>) -> Self {
        Self { repr: Repr::Arriving(stream) }
    }

    /// The bytes, where all of them are in memory in one piece and none has been read yet.
    pub fn as_bytes(&self) -> Option<&Bytes> {
        match &self.repr {
            Repr::Whole { data: Pieces::One(data), .. } => Some(data),
            _ => None,
        }
    }

    /// The bytes and the trailers behind them, where all of them are in memory in one piece and none has
    /// been read yet.
    ///
    /// # Errors
    ///
    /// The body as it was, where they are not.
    pub fn into_whole(self) -> Result<(Bytes, Option<Box<HeaderMap>>), Self> {
        match self.repr {
            Repr::Whole { data: Pieces::One(data), trailers } => Ok((data, trailers)),
            repr => Err(Self { repr }),
        }
    }
}

impl From<Bytes> for Body {
    fn from(data: Bytes) -> Self {
        Self::whole(data, None)
    }
}

impl From<Vec<u8>> for Body {
    fn from(data: Vec<u8>) -> Self {
        Bytes::from(data).into()
    }
}

impl From<String> for Body {
    fn from(data: String) -> Self {
        Bytes::from(data).into()
    }
}

impl From<&'static str> for Body {
    fn from(data: &'static str) -> Self {
        Bytes::from_static(data.as_bytes()).into()
    }
}

impl From<&'static [u8]> for Body {
    fn from(data: &'static [u8]) -> Self {
        Bytes::from_static(data).into()
    }
}

impl From<()> for Body {
    fn from((): ()) -> Self {
        Self::default()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.get_mut().repr {
            Repr::Whole { data, trailers } => Poll::Ready(match data.pop() {
                Some(piece) => Some(Ok(Frame::data(piece))),
                None => trailers.take().map(|trailers| Ok(Frame::trailers(*trailers))),
            }),
            Repr::Arriving(stream) => stream.poll_frame(cx),
            Repr::Other(inner) => inner.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.repr {
            Repr::Whole { data, trailers } => data.len() == 0 && trailers.is_none(),
            Repr::Arriving(stream) => stream.is_end(),
            Repr::Other(inner) => inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.repr {
            Repr::Whole { data, .. } => SizeHint::with_exact(data.len() as u64),
            Repr::Arriving(stream) => stream.size_hint(),
            Repr::Other(inner) => inner.size_hint(),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the bytes: they may be anybody's secret.
        f.write_str(match &self.repr {
            Repr::Whole { .. } => "Body(whole)",
            Repr::Arriving(_) => "Body(arriving)",
            Repr::Other(_) => "Body(stream)",
        })
    }
}

pin_project_lite::pin_project! {
    /// Any body, with its pieces as `Bytes` and its errors as ours.
    struct Adapter<B> {
        #[pin]
        inner: B,
    }
}

impl<B> http_body::Body for Adapter<B>
where
    B: http_body::Body,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(self.project().inner.poll_frame(cx));
        Poll::Ready(frame.map(|frame| match frame {
            // For `Bytes` this is a move.
            Ok(frame) => Ok(frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))),
            Err(error) => Err(BodyError::Inner(error.into())),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
