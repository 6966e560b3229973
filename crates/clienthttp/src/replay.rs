//! A request body that may have to be sent twice (B-4.1).

use std::{
    any::Any,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};

use crate::{Body, BoxError};

/// The body of a call. Each attempt gets a copy of it, or the rest of it.
pub(crate) enum Replay {
    /// In memory: can be sent as often as it takes.
    Whole { data: Bytes, trailers: Option<Box<HeaderMap>> },
    /// A stream. What was read is kept up to a limit; past it the stream can only be read on.
    Stream(Arc<Mutex<Tee>>),
}

pub(crate) struct Tee {
    body: Body,
    kept: Vec<Bytes>,
    kept_len: usize,
    limit: usize,
    trailers: Option<HeaderMap>,
    is_over: bool,
    /// Something was read that is not kept.
    has_lost: bool,
}

impl Replay {
    pub(crate) const fn empty() -> Self {
        Self::Whole { data: Bytes::new(), trailers: None }
    }

    /// An attempt collected the body and sent nothing of it: it is in memory now.
    pub(crate) async fn take_back(&mut self, mut body: Body) {
        let mut whole = BytesMut::new();
        let mut trailers = None;
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            match frame.map(Frame::into_data) {
                Ok(Ok(data)) => whole.extend_from_slice(&data),
                Ok(Err(frame)) => trailers = frame.into_trailers().ok().map(Box::new),
                Err(_) => return,
            }
        }
        *self = Self::Whole { data: whole.freeze(), trailers };
    }

    /// Takes a body in. What is in memory already is taken whole, whatever its type.
    pub(crate) async fn new<B>(mut body: B, limit: usize) -> Self
    where
        B: http_body::Body + Send + 'static,
        B::Error: Into<BoxError>,
    {
        if body.is_end_stream() {
            return Self::empty();
        }
        if let Some(body) = (&mut body as &mut dyn Any).downcast_mut::<Body>()
            && let Some((data, trailers)) = body.take_whole()
        {
            return Self::Whole { data, trailers };
        }
        let mut body = Body::new(body);
        // One look, without waiting: a body that gives all it has at once was in memory.
        let first = poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_frame(cx))).await;
        let mut tee = Tee {
            body,
            kept: Vec::new(),
            kept_len: 0,
            limit,
            trailers: None,
            is_over: false,
            has_lost: false,
        };
        match first {
            Poll::Ready(Some(Ok(frame))) => {
                if tee.body.is_end_stream()
                    && let Some(data) = frame.data_ref()
                {
                    return Self::Whole { data: data.clone(), trailers: None };
                }
                // Kept even past the limit, so that the first attempt gets it.
                match frame.into_data() {
                    Ok(data) => {
                        tee.kept_len = data.len();
                        tee.kept.push(data);
                    }
                    Err(frame) => {
                        tee.trailers = frame.into_trailers().ok();
                        tee.is_over = true;
                    }
                }
            }
            Poll::Ready(Some(Err(error))) => {
                tee.body = Body::new(Broken(Some(error.into())));
            }
            Poll::Ready(None) => tee.is_over = true,
            Poll::Pending => {}
        }
        Self::Stream(Arc::new(Mutex::new(tee)))
    }

    /// Whether an attempt that starts now would send the body from its first byte.
    pub(crate) fn is_whole(&self) -> bool {
        match self {
            Self::Whole { .. } => true,
            Self::Stream(tee) => !lock(tee).has_lost,
        }
    }

    /// Whether it is no stream.
    pub(crate) const fn is_in_memory(&self) -> bool {
        matches!(self, Self::Whole { .. })
    }

    /// The body for one attempt.
    pub(crate) fn attempt(&self) -> Body {
        match self {
            Self::Whole { data, trailers } => Body::whole(data.clone(), trailers.clone()),
            Self::Stream(tee) => Body::new(Attempt { tee: Arc::clone(tee), next: 0, trailers_sent: false }),
        }
    }

    /// The body as it is when no attempt was made with it.
    pub(crate) fn into_body(self) -> Body {
        match self {
            Self::Whole { data, trailers } => Body::whole(data, trailers),
            stream @ Self::Stream(_) => stream.attempt(),
        }
    }
}

/// One reading of a [`Tee`]: what was kept, then what is left.
struct Attempt {
    tee: Arc<Mutex<Tee>>,
    next: usize,
    trailers_sent: bool,
}

impl http_body::Body for Attempt {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        // Contended only by an attempt that was given up and is not dropped yet.
        let mut tee = lock(&this.tee);
        if let Some(data) = tee.kept.get(this.next) {
            this.next += 1;
            let data = data.clone();
            if tee.kept_len > tee.limit {
                tee.give_up_keeping();
            }
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if !tee.is_over {
            match ready!(Pin::new(&mut tee.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        tee.keep(&data);
                        this.next = tee.kept.len();
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                    Err(frame) => tee.trailers = frame.into_trailers().ok(),
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => {}
            }
            tee.is_over = true;
        }
        let trailers = if this.trailers_sent { None } else { tee.trailers.clone() };
        this.trailers_sent = true;
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        let tee = lock(&self.tee);
        let read = self.next >= tee.kept.len() && (tee.is_over || tee.body.is_end_stream());
        read && (self.trailers_sent || tee.trailers.is_none())
    }

    fn size_hint(&self) -> SizeHint {
        let tee = lock(&self.tee);
        let kept: u64 = tee.kept.iter().skip(self.next).map(|data| data.len() as u64).sum();
        if tee.is_over {
            return SizeHint::with_exact(kept);
        }
        let rest = tee.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(kept));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(kept));
        }
        hint
    }
}

impl Tee {
    fn keep(&mut self, data: &Bytes) {
        if self.has_lost {
            return;
        }
        self.kept_len += data.len();
        if self.kept_len > self.limit {
            self.give_up_keeping();
        } else {
            self.kept.push(data.clone());
        }
    }

    fn give_up_keeping(&mut self) {
        self.kept = Vec::new();
        self.kept_len = 0;
        self.limit = 0;
        self.has_lost = true;
    }
}

fn lock(tee: &Mutex<Tee>) -> MutexGuard<'_, Tee> {
    tee.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives back an error that was met when the body was looked at.
struct Broken(Option<BoxError>);

impl http_body::Body for Broken {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(self.0.take().map(Err))
    }
}
