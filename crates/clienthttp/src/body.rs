//! Bodies: of requests on their way out, of answers on their way in.

use std::{
    fmt,
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use tokio::time::Sleep;

use crate::{
    BoxError, ClientError,
    client::{Lease, Permit},
    error::{Failed, Phase},
};

/// A message body: whole in memory, or a stream.
///
/// Whole bodies cost no allocation. Dropping a body that is still arriving gives up its connection and
/// nothing else.
#[derive(Default)]
pub struct Body {
    kind: Kind,
    hold: Option<Box<Hold>>,
}

enum Kind {
    Whole {
        data: Bytes,
        trailers: Option<Box<HeaderMap>>,
    },
    #[cfg(feature = "zap")]
    Zap(Exclusive<peerage_zaphttp::Body>),
    Stream(Exclusive<Stream>),
}

type Stream = Pin<Box<dyn http_body::Body<Data = Bytes, Error = BoxError> + Send>>;

impl Default for Kind {
    fn default() -> Self {
        Self::Whole { data: Bytes::new(), trailers: None }
    }
}

/// Resolves when the peer left so long ago that its calls are cut.
pub(crate) type Drained = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

/// What an answer whose body still arrives keeps: the call counts as running until the last byte.
pub(crate) struct Hold {
    #[expect(dead_code, reason = "held")]
    pub(crate) lease: Lease,
    pub(crate) permit: Option<Permit<'static>>,
    /// The end of the call's time, if it covers the body.
    pub(crate) deadline: Option<Pin<Box<Sleep>>>,
    /// Its peer left too long ago, where it could come to that.
    pub(crate) drained: Option<Drained>,
    /// For the error, should the body fail.
    pub(crate) attempts: crate::Attempts,
}

impl Body {
    /// A body without bytes.
    #[must_use]
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
        Kind::Stream(Exclusive::new(Box::pin(Adapter { inner }))).into()
    }

    /// A body of bytes in memory and trailers behind them.
    pub fn with_trailers(data: impl Into<Bytes>, trailers: HeaderMap) -> Self {
        Kind::Whole { data: data.into(), trailers: Some(Box::new(trailers)) }.into()
    }

    pub(crate) fn whole(data: Bytes, trailers: Option<Box<HeaderMap>>) -> Self {
        Kind::Whole { data, trailers }.into()
    }

    #[cfg(feature = "zap")]
    pub(crate) fn zap(body: peerage_zaphttp::Body) -> Self {
        match body.into_whole() {
            Ok((data, trailers)) => Self::whole(data, trailers),
            Err(body) => Kind::Zap(Exclusive::new(body)).into(),
        }
    }

    /// The bytes, where all of them are in memory in one piece and none has been read yet.
    #[must_use]
    pub fn as_bytes(&mut self) -> Option<&Bytes> {
        match &mut self.kind {
            Kind::Whole { data, .. } => Some(data),
            #[cfg(feature = "zap")]
            Kind::Zap(body) => body.get_mut().as_bytes(),
            Kind::Stream(_) => None,
        }
    }

    /// Takes bytes and trailers out, where all are in memory.
    pub(crate) fn take_whole(&mut self) -> Option<(Bytes, Option<Box<HeaderMap>>)> {
        match &mut self.kind {
            Kind::Whole { data, trailers } => Some((std::mem::take(data), trailers.take())),
            _ => None,
        }
    }

    /// The call's place among those that run, for a redirect that goes on with it.
    pub(crate) fn take_permit(&mut self) -> Option<Permit<'static>> {
        self.hold.as_mut()?.permit.take()
    }

    /// Whether all of it is in memory.
    pub(crate) fn is_whole(&self) -> bool {
        match &self.kind {
            Kind::Whole { .. } => true,
            #[cfg(feature = "zap")]
            Kind::Zap(body) => body.look(|body| body.as_bytes().is_some()),
            Kind::Stream(_) => false,
        }
    }

    /// Keeps `hold` until the last byte was read.
    pub(crate) fn holding(self, hold: Hold) -> Self {
        Self { hold: Some(Box::new(hold)), ..self }
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.kind {
            Kind::Whole { data, trailers } => Poll::Ready(if data.is_empty() {
                trailers.take().map(|map| Ok(Frame::trailers(*map)))
            } else {
                Some(Ok(Frame::data(std::mem::take(data))))
            }),
            #[cfg(feature = "zap")]
            Kind::Zap(body) => {
                let frame = ready!(http_body::Body::poll_frame(Pin::new(body.get_mut()), cx));
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Kind::Stream(stream) => stream.get_mut().as_mut().poll_frame(cx),
        }
    }

    /// Nothing more comes: what the body kept is let go, and its connection with it.
    fn end(&mut self) -> Box<Failed> {
        self.kind = Kind::default();
        Failed::after(self.hold.take().map(|hold| hold.attempts).unwrap_or_default())
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = ClientError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientError>>> {
        let this = self.get_mut();
        match this.poll_inner(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if this.hold.is_some() && this.is_end_stream() {
                    this.hold = None;
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(source))) => {
                // Its own text says it better when it is one of ours already.
                let call = this.end();
                Poll::Ready(Some(Err(match source.downcast::<ClientError>() {
                    Ok(error) => *error,
                    Err(source) => ClientError::Body { call, source },
                })))
            }
            Poll::Ready(None) => {
                this.hold = None;
                Poll::Ready(None)
            }
            Poll::Pending => {
                let Some(hold) = this.hold.as_mut() else { return Poll::Pending };
                if hold.drained.as_mut().is_some_and(|drained| drained.as_mut().poll(cx).is_ready()) {
                    return Poll::Ready(Some(Err(ClientError::Drained { call: this.end() })));
                }
                let Some(deadline) = hold.deadline.as_mut() else { return Poll::Pending };
                ready!(deadline.as_mut().poll(cx));
                let call = this.end();
                let attempts = call.attempts.count();
                Poll::Ready(Some(Err(ClientError::Timeout { where_: Phase::Body, attempts, call })))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Whole { data, trailers } => data.is_empty() && trailers.is_none(),
            #[cfg(feature = "zap")]
            Kind::Zap(body) => body.look(http_body::Body::is_end_stream),
            Kind::Stream(stream) => stream.look(|stream| stream.is_end_stream()),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Whole { data, .. } => SizeHint::with_exact(data.len() as u64),
            #[cfg(feature = "zap")]
            Kind::Zap(body) => body.look(http_body::Body::size_hint),
            Kind::Stream(stream) => stream.look(|stream| stream.size_hint()),
        }
    }
}

impl From<Kind> for Body {
    fn from(kind: Kind) -> Self {
        Self { kind, hold: None }
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

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the bytes: they may be anybody's secret.
        f.write_str(match &self.kind {
            Kind::Whole { .. } => "Body(whole)",
            #[cfg(feature = "zap")]
            Kind::Zap(_) => "Body(zap)",
            Kind::Stream(_) => "Body(stream)",
        })
    }
}

/// Makes a value that only moves between threads one that can be shared, so that an error may hold it:
/// the lock is never waited for, since reading a body takes `&mut`.
struct Exclusive<T>(Mutex<T>);

impl<T> Exclusive<T> {
    const fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    fn look<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

pin_project_lite::pin_project! {
    /// Any body, with its pieces as `Bytes` and its errors boxed.
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
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(self.project().inner.poll_frame(cx));
        Poll::Ready(frame.map(|frame| match frame {
            // For `Bytes` this is a move.
            Ok(frame) => Ok(frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))),
            Err(error) => Err(error.into()),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
