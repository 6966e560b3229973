//! A stream whose reading side outlives its writing side (transport §12.4).
//!
//! A server that refuses a push early writes its answer and closes, and our next write fails. The answer
//! is still there to be read. So a failed write is not reported at once: writing stands still, reading
//! goes on, and only when nothing came for a while does the write's error appear.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// How long an answer may take after a failed write.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Grace<S> {
    stream: S,
    broken: Option<(io::Error, Pin<Box<Sleep>>)>,
}

impl<S> Grace<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, broken: None }
    }
}

impl<S: Unpin> Grace<S> {
    /// Runs a writing operation, or stands still because an earlier one failed.
    fn write<T>(
        &mut self,
        cx: &mut Context<'_>,
        operation: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if self.broken.is_none() {
            match operation(Pin::new(&mut self.stream), cx) {
                Poll::Ready(Err(error)) => {
                    self.broken = Some((error, Box::pin(tokio::time::sleep(PATIENCE))));
                }
                other => return other,
            }
        }
        let Some((error, patience)) = &mut self.broken else { return Poll::Pending };
        ready!(patience.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(error.kind(), error.to_string())))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Grace<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Grace<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write(cx, |stream, cx| stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(cx, |stream, cx| stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(cx, |stream, cx| stream.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
