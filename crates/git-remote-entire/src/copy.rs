//! From the server to Git as it arrives, in large pieces where they are there (GB-H9).

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWrite, AsyncWriteExt};

/// What is read: Git's side, or a command of Git's.
pub(crate) trait Input: AsyncBufRead + Unpin + Send {}
impl<T: AsyncBufRead + Unpin + Send> Input for T {}

/// What is written to.
pub(crate) trait Output: AsyncWrite + Unpin + Send {}
impl<T: AsyncWrite + Unpin + Send> Output for T {}

/// How much is gathered before it is written while more is coming.
pub(crate) const BUFFER: usize = 128 << 10;

/// Which side of a copy failed.
#[derive(Debug)]
pub(crate) enum CopyError {
    Read(io::Error),
    Write(io::Error),
}

/// Copies to the end of `from`; gives how many bytes. `to` is flushed whenever nothing more is there yet, and
/// at the end.
pub(crate) async fn copy<R, W>(from: &mut R, to: &mut W) -> Result<u64, CopyError>
where
    R: AsyncBufRead + Unpin + ?Sized,
    W: AsyncWrite + Unpin + ?Sized,
{
    let mut copied = 0;
    loop {
        if is_idle(from).await.map_err(CopyError::Read)? {
            to.flush().await.map_err(CopyError::Write)?;
        }
        let ready = from.fill_buf().await.map_err(CopyError::Read)?;
        if ready.is_empty() {
            to.flush().await.map_err(CopyError::Write)?;
            return Ok(copied);
        }
        to.write_all(ready).await.map_err(CopyError::Write)?;
        let len = ready.len();
        from.consume(len);
        copied += len as u64;
    }
}

/// Whether nothing is there to read yet, and it is not the end either. An error is told once, so it is told
/// here.
pub(crate) async fn is_idle<R>(from: &mut R) -> io::Result<bool>
where
    R: AsyncBufRead + Unpin + ?Sized,
{
    poll_fn(|cx| {
        Poll::Ready(match Pin::new(&mut *from).poll_fill_buf(cx) {
            Poll::Pending => Ok(true),
            Poll::Ready(ready) => ready.map(|_| false),
        })
    })
    .await
}
