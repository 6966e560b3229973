//! Reading an answer with the names people know.

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use http::{Extensions, HeaderMap, StatusCode, Version};
use http_body::Body as _;

use crate::{Attempts, Body, ClientError, PeerInfo, error::Failed};

/// An answer: its head, and a body that may still be arriving.
pub struct Response {
    inner: http::Response<Body>,
}

impl Response {
    pub(crate) const fn new(inner: http::Response<Body>) -> Self {
        Self { inner }
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.inner.status()
    }

    /// The headers.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        self.inner.headers()
    }

    /// The version that the peer spoke.
    #[must_use]
    pub fn version(&self) -> Version {
        self.inner.version()
    }

    /// What else is known: [`PeerInfo`], [`Attempts`], and what the dialer adds.
    #[must_use]
    pub fn extensions(&self) -> &Extensions {
        self.inner.extensions()
    }

    /// The peer that answered.
    #[must_use]
    pub fn peer(&self) -> Option<&PeerInfo> {
        self.extensions().get()
    }

    /// What was tried, this answer included.
    #[must_use]
    pub fn attempts(&self) -> Option<&Attempts> {
        self.extensions().get()
    }

    /// The answer, unless its status says that the call failed (400 and above).
    ///
    /// # Errors
    ///
    /// [`ClientError::Status`]; the body is dropped.
    pub fn error_for_status(mut self) -> Result<Self, ClientError> {
        let status = self.status();
        if status.is_client_error() || status.is_server_error() {
            let attempts = self.inner.extensions_mut().remove().unwrap_or_default();
            return Err(ClientError::Status { status, call: Failed::after(attempts) });
        }
        Ok(self)
    }

    /// The next piece of the body; `None` after the last one. Trailers are passed over.
    ///
    /// # Errors
    ///
    /// [`ClientError::Body`] or [`ClientError::Timeout`]: what came is not the whole.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        poll_fn(|cx| poll_data(self.inner.body_mut(), cx)).await.transpose()
    }

    /// The whole body.
    ///
    /// # Errors
    ///
    /// As [`chunk`](Self::chunk).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the rest of the body.
    pub async fn bytes(mut self) -> Result<Bytes, ClientError> {
        let Some(first) = self.chunk().await? else { return Ok(Bytes::new()) };
        let Some(second) = self.chunk().await? else { return Ok(first) };
        let mut whole = BytesMut::with_capacity(first.len() + second.len());
        whole.extend_from_slice(&first);
        whole.extend_from_slice(&second);
        while let Some(next) = self.chunk().await? {
            whole.extend_from_slice(&next);
        }
        Ok(whole.freeze())
    }

    /// The whole body as text; what is not UTF-8 appears as U+FFFD.
    ///
    /// # Errors
    ///
    /// As [`chunk`](Self::chunk).
    ///
    /// # Cancel safety
    ///
    /// As [`bytes`](Self::bytes).
    pub async fn text(self) -> Result<String, ClientError> {
        let bytes = self.bytes().await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The whole body, read as JSON.
    ///
    /// # Errors
    ///
    /// As [`chunk`](Self::chunk); [`ClientError::Body`] if it is not JSON of that shape.
    ///
    /// # Cancel safety
    ///
    /// As [`bytes`](Self::bytes).
    #[cfg(feature = "json")]
    pub async fn json<T: serde::de::DeserializeOwned>(mut self) -> Result<T, ClientError> {
        let attempts = self.inner.extensions_mut().remove().unwrap_or_default();
        let bytes = self.bytes().await?;
        serde_json::from_slice(&bytes)
            .map_err(|error| ClientError::Body { call: Failed::after(attempts), source: error.into() })
    }

    /// The body as a stream of pieces.
    pub fn bytes_stream(self) -> impl Stream<Item = Result<Bytes, ClientError>> + Send + 'static {
        BytesStream(self.inner.into_body())
    }

    /// The answer in the types of the `http` crate; its body may also give trailers.
    #[must_use]
    pub fn into_http(self) -> http::Response<Body> {
        self.inner
    }
}

impl From<Response> for http::Response<Body> {
    fn from(response: Response) -> Self {
        response.inner
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // No headers: they may set cookies.
        f.debug_struct("Response")
            .field("status", &self.status())
            .field("peer", &self.peer())
            .finish_non_exhaustive()
    }
}

struct BytesStream(Body);

impl Stream for BytesStream {
    type Item = Result<Bytes, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        poll_data(&mut self.0, cx)
    }
}

fn poll_data(body: &mut Body, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, ClientError>>> {
    loop {
        match ready!(Pin::new(&mut *body).poll_frame(cx)) {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data()
                    && !data.is_empty()
                {
                    return Poll::Ready(Some(Ok(data)));
                }
            }
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            None => return Poll::Ready(None),
        }
    }
}
