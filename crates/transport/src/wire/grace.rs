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

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tokio::io::AsyncWriteExt as _;
    use tokio::time::Instant;

    use super::*;
    use crate::body::{ReplayBody, Upload};
    use crate::wire::http1::{Conn, Leased};
    use crate::wire::pool::PoolKey;
    use crate::wire::{Connection as _, RawBody};

    /// The writing side of a connection that the other side has reset.
    struct Reset;

    impl AsyncWrite for Reset {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// What comes of a request whose writing fails, when the answer comes after `delay`.
    async fn answered_after(delay: Duration) -> Result<http::Response<RawBody>, crate::BoxError> {
        let (reader, mut server) = tokio::io::duplex(1024);
        let conn = Conn::open(tokio::io::join(reader, Reset), None).await?;
        let key = PoolKey { is_tls: false, host: "h".to_owned(), port: 80 };
        let leased = Box::new(Leased { conn, key, pool: std::sync::Weak::new() });
        let upload = Upload::new(&ReplayBody::from(vec![b'x'; 1 << 20]), None);
        let sending = leased.send(http::Request::post("http://h/p").body(upload)?);
        let answering = async {
            tokio::time::sleep(delay).await;
            let _ = server.write_all(b"HTTP/1.1 413 X\r\nContent-Length: 3\r\n\r\nbig").await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            sent = sending => sent,
            () = answering => unreachable!("it does not end"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_heard_although_writing_failed_before_it_came() {
        for delay in [100, 1900] {
            let answer = answered_after(Duration::from_millis(delay)).await.unwrap();
            assert_eq!(answer.status(), 413, "{delay} ms");
            assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "big");
        }
        let begun = Instant::now();
        assert!(answered_after(Duration::from_secs(60)).await.is_err(), "and not waited for longer than 2 s");
        assert_eq!(begun.elapsed().as_secs(), 2);
    }
}
