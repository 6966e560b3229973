//! The four operations that the helper needs of a network, and what passes through them.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::{fmt, io};

use async_trait::async_trait;
use bytes::{Buf as _, Bytes};
use futures_core::Stream;
use http::HeaderMap;
use tokio::io::{AsyncBufRead, AsyncRead, ReadBuf};

use crate::options::Family;
use crate::spool::Body;

/// An error of another crate.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// One of the two services of a Git server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "Git has these two")]
pub enum Service {
    /// `git-upload-pack`: clone and fetch.
    UploadPack,
    /// `git-receive-pack`: push.
    ReceivePack,
}

impl Service {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::UploadPack => "git-upload-pack",
            Self::ReceivePack => "git-receive-pack",
        }
    }

    /// The service of this name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::UploadPack, Self::ReceivePack].into_iter().find(|service| service.name() == name)
    }
}

/// A body on its way from the server, piece by piece.
pub type Chunks = Pin<Box<dyn Stream<Item = Result<Bytes, BoxError>> + Send>>;

/// A repository behind smart HTTP. What fails is told by errors whose text says what the user should know.
#[async_trait]
pub trait Remote: Send + Sync {
    /// The ref advertisement of a service, in protocol v0.
    ///
    /// # Errors
    ///
    /// No answer, or one that is no advertisement's.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the request and changes nothing on the server.
    async fn info_refs(&self, service: Service) -> Result<Chunks, BoxError>;

    /// The capability advertisement of upload-pack, asked for in protocol v2.
    ///
    /// # Errors
    ///
    /// As [`info_refs`](Self::info_refs).
    ///
    /// # Cancel safety
    ///
    /// As [`info_refs`](Self::info_refs).
    async fn info_refs_v2(&self) -> Result<Chunks, BoxError>;

    /// Posts `body` to a service. `headers` go beside those that every such request has.
    ///
    /// # Errors
    ///
    /// No answer, or one that is none of the service's. Whether a push may have been applied is told by
    /// [`is_outcome_unknown`](Self::is_outcome_unknown).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the request. A push may have been applied all the same; how much of `body` was
    /// taken tells (see [`Body::is_taken`]).
    async fn service_rpc(&self, service: Service, body: Body, headers: HeaderMap)
    -> Result<Chunks, BoxError>;

    /// A URL of the repository that may be shown, and is never asked.
    fn error_base_url(&self) -> String;

    /// Restricts name resolution for later requests to a family of addresses; whether this remote can do that.
    /// By default it cannot.
    fn set_family(&self, family: Option<Family>) -> bool {
        family.is_none()
    }

    /// Whether an error that this remote gave says that a push may or may not have been applied.
    fn is_outcome_unknown(&self, error: &BoxError) -> bool {
        let _ = error;
        false
    }
}

const _: fn(&dyn Remote) = |_| {};

/// Chunks as a reader that lends its buffer.
pub(crate) struct AnswerReader {
    chunks: Chunks,
    current: Bytes,
}

impl AnswerReader {
    pub(crate) fn new(chunks: Chunks) -> Self {
        Self { chunks, current: Bytes::new() }
    }
}

impl AsyncBufRead for AnswerReader {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        while this.current.is_empty() {
            match ready!(this.chunks.as_mut().poll_next(cx)) {
                None => break,
                Some(Ok(chunk)) => this.current = chunk,
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
            }
        }
        Poll::Ready(Ok(&this.current))
    }

    fn consume(mut self: Pin<&mut Self>, amount: usize) {
        self.current.advance(amount);
    }
}

impl AsyncRead for AnswerReader {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        read_from_buffer(self, cx, out)
    }
}

impl fmt::Debug for AnswerReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerReader").finish_non_exhaustive()
    }
}

/// `poll_read` in terms of `poll_fill_buf`.
pub(crate) fn read_from_buffer<R: AsyncBufRead>(
    mut reader: Pin<&mut R>,
    cx: &mut Context<'_>,
    out: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    let ready = ready!(reader.as_mut().poll_fill_buf(cx))?;
    let part = ready.get(..out.remaining()).unwrap_or(ready);
    out.put_slice(part);
    let len = part.len();
    reader.consume(len);
    Poll::Ready(Ok(()))
}
