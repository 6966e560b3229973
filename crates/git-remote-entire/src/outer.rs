//! Requests as `git send-pack --stateless-rpc` and `git fetch-pack --stateless-rpc` print them: wrapped in
//! packets up to a flush.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncBufRead, AsyncRead, ReadBuf};

use crate::pktline::{self, Kind, PacketError};
use crate::remote::read_from_buffer;

/// The payloads of packets as one stream, which ends with the first flush. Nothing behind that is taken.
#[derive(Debug)]
pub(crate) struct Unwrapped<'r, R: ?Sized> {
    inner: &'r mut R,
    digits: Vec<u8>,
    /// What is left of the packet that is being read.
    left: usize,
    ended: bool,
}

impl<'r, R: AsyncBufRead + Unpin + ?Sized> Unwrapped<'r, R> {
    pub(crate) fn new(inner: &'r mut R) -> Self {
        Self { inner, digits: Vec::with_capacity(4), left: 0, ended: false }
    }
}

impl<R: AsyncBufRead + Unpin + ?Sized> AsyncBufRead for Unwrapped<'_, R> {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        while this.left == 0 && !this.ended {
            let ready = ready!(Pin::new(&mut *this.inner).poll_fill_buf(cx))?;
            let Some(digit) = ready.first() else {
                return Poll::Ready(Err(broken(PacketError::CutLength)));
            };
            this.digits.push(*digit);
            Pin::new(&mut *this.inner).consume(1);
            if let Some(digits) = this.digits.first_chunk::<4>() {
                let (kind, len) = pktline::header(*digits).map_err(broken)?;
                this.digits.clear();
                this.ended = kind == Kind::Flush;
                this.left = len;
            }
        }
        if this.ended {
            return Poll::Ready(Ok(&[]));
        }
        let ready = ready!(Pin::new(&mut *this.inner).poll_fill_buf(cx))?;
        if ready.is_empty() {
            return Poll::Ready(Err(broken(PacketError::CutPayload { missing: this.left })));
        }
        Poll::Ready(Ok(ready.get(..this.left).unwrap_or(ready)))
    }

    fn consume(self: Pin<&mut Self>, amount: usize) {
        let this = self.get_mut();
        this.left -= amount;
        Pin::new(&mut *this.inner).consume(amount);
    }
}

impl<R: AsyncBufRead + Unpin + ?Sized> AsyncRead for Unwrapped<'_, R> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        read_from_buffer(self, cx, out)
    }
}

fn broken(error: PacketError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
