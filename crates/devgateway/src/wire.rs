//! A connection that can turn into a black hole: it takes bytes and answers nothing.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Switches a black hole on, for good: bytes that were swallowed cannot be given back.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hole(Arc<AtomicBool>);

impl Hole {
    pub(crate) fn open(&self) {
        // Relaxed: the bytes that pass while it is switched are anyone's.
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_open(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What is below TLS, so that a handshake can be swallowed too.
#[derive(Debug)]
pub(crate) struct Wire<S> {
    stream: S,
    hole: Hole,
}

impl<S> Wire<S> {
    pub(crate) fn new(stream: S, hole: Hole) -> Self {
        Self { stream, hole }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.hole.is_open() {
            let mut swallowed = [0; 4096];
            let mut buffer = ReadBuf::new(&mut swallowed);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            if buffer.filled().is_empty() {
                // The other end gave up.
                return Poll::Ready(Ok(()));
            }
        }
        let before = into.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, into))?;
        if self.hole.is_open() && into.filled().len() > before {
            // Opened while the bytes were on their way.
            into.set_filled(before);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.hole.is_open() {
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.hole.is_open() {
            // No FIN: the other end must find out by itself.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
