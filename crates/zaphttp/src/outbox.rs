//! What a connection still has to write.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWrite;

/// Bodies up to this are copied behind their head: cheaper than telling the kernel about two pieces.
pub(crate) const COPY_BODY: usize = 2 << 10;

/// A buffer that grew over this is given back once it is empty.
const KEEP: usize = 4 << 10;

/// The most pieces in one vectored write.
const MAX_SLICES: usize = 32;

/// The sending half of a connection's framing: frames in order, as few writes as the socket allows.
///
/// Invariant: what is to be written is `queue` in order, then `buf` from `written` on; `written` is zero
/// while `queue` holds anything.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// Frames are encoded here, at the end.
    pub(crate) buf: BytesMut,
    written: usize,
    /// Earlier pieces: bodies too large to copy, and what stood in `buf` before them.
    queue: VecDeque<Bytes>,
    queued: usize,
    taken: usize,
    /// Whether the stream may still hold back what it took: TLS does.
    unflushed: bool,
}

impl Outbox {
    /// Whether everything has left.
    pub(crate) fn is_empty(&self) -> bool {
        self.pending() == 0 && !self.unflushed
    }

    /// The bytes that the stream has not taken yet.
    pub(crate) fn pending(&self) -> usize {
        self.queued + self.buf.len() - self.written
    }

    /// How much the stream has accepted since everything was last written.
    pub(crate) fn taken(&self) -> usize {
        self.taken
    }

    /// Puts `pieces` in front of `buf[offset..]`, without copying them.
    pub(crate) fn splice(&mut self, offset: usize, pieces: impl IntoIterator<Item = Bytes>) {
        let mut tail = self.buf.split_off(offset);
        if offset > KEEP {
            tail = BytesMut::from(&tail[..]);
        }
        self.buf.advance(self.written);
        self.written = 0;
        let head = std::mem::replace(&mut self.buf, tail).freeze();
        for piece in std::iter::once(head).chain(pieces).filter(|piece| !piece.is_empty()) {
            self.queued += piece.len();
            self.queue.push_back(piece);
        }
    }

    /// Writes everything and flushes.
    pub(crate) fn poll_flush<S>(&mut self, cx: &mut Context<'_>, io: &mut S) -> Poll<io::Result<()>>
    where
        S: AsyncWrite + Unpin,
    {
        while self.pending() > 0 {
            let sent = if self.queue.is_empty() {
                let rest = self.buf.get(self.written..).unwrap_or_default();
                ready!(Pin::new(&mut *io).poll_write(cx, rest))?
            } else {
                ready!(self.poll_write_pieces(cx, io))?
            };
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(sent);
        }
        self.written = 0;
        self.buf.clear();
        if self.buf.capacity() > KEEP {
            self.buf = BytesMut::new();
        }
        ready!(Pin::new(io).poll_flush(cx))?;
        self.unflushed = false;
        self.taken = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_write_pieces<S>(&self, cx: &mut Context<'_>, io: &mut S) -> Poll<io::Result<usize>>
    where
        S: AsyncWrite + Unpin,
    {
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let pieces = self.queue.iter().map(|piece| &piece[..]).chain([&self.buf[..]]);
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(pieces) {
            *slice = IoSlice::new(piece);
            count += usize::from(!piece.is_empty());
        }
        // Only the last piece can be empty: `splice` queues none that is.
        let slices = slices.get(..count).unwrap_or_default();
        Pin::new(io).poll_write_vectored(cx, slices)
    }

    fn advance(&mut self, mut sent: usize) {
        self.taken += sent;
        self.unflushed = true;
        while let Some(piece) = self.queue.front_mut() {
            let step = sent.min(piece.len());
            piece.advance(step);
            self.queued -= step;
            sent -= step;
            if !piece.is_empty() {
                return;
            }
            self.queue.pop_front();
        }
        self.written += sent;
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// Takes up to `room` bytes a write and counts the writes.
    #[derive(Default)]
    struct Sink {
        room: usize,
        taken: Vec<u8>,
        writes: usize,
    }

    impl AsyncWrite for Sink {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(buf)])
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bufs: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let this = self.get_mut();
            let bytes: Vec<u8> = bufs.iter().flat_map(|buf| buf.to_vec()).take(this.room).collect();
            this.taken.extend(&bytes);
            this.writes += 1;
            Poll::Ready(Ok(bytes.len()))
        }

        fn is_write_vectored(&self) -> bool {
            true
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// Two frames with bodies of their own and one without: `a[BODY]b`, `c`, `d[x][][y]e`.
    fn filled() -> (Outbox, Vec<u8>) {
        let mut outbox = Outbox::default();
        outbox.buf.extend_from_slice(b"ab");
        outbox.splice(1, [Bytes::from_static(b"BODY")]);
        outbox.buf.extend_from_slice(b"c");
        let at = outbox.buf.len() + 1;
        outbox.buf.extend_from_slice(b"de");
        outbox.splice(at, [Bytes::from_static(b"x"), Bytes::new(), Bytes::from_static(b"y")]);
        (outbox, b"aBODYbcdxye".to_vec())
    }

    #[test]
    fn everything_leaves_in_order_whatever_a_write_takes() {
        for room in 1..=20 {
            let (mut outbox, expected) = filled();
            let mut sink = Sink { room, ..Sink::default() };
            assert_eq!(outbox.pending(), expected.len());
            let flushed = outbox.poll_flush(&mut Context::from_waker(Waker::noop()), &mut sink);
            assert!(matches!(flushed, Poll::Ready(Ok(()))));
            assert_eq!(sink.taken, expected, "{room} bytes a write");
            assert!(outbox.is_empty());
            assert_eq!(outbox.taken(), 0, "counts from here on again");
        }
    }

    #[test]
    fn a_frame_and_its_body_leave_in_one_write() {
        let (mut outbox, _) = filled();
        let mut sink = Sink { room: usize::MAX, ..Sink::default() };
        let _ = outbox.poll_flush(&mut Context::from_waker(Waker::noop()), &mut sink);
        assert_eq!(sink.writes, 1);
    }

    /// Takes so many bytes, and then no more for now.
    struct Full(Sink);

    impl AsyncWrite for Full {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let sink = &mut self.get_mut().0;
            let taken = Pin::new(&mut *sink).poll_write(cx, buf);
            match taken {
                Poll::Ready(Ok(0)) => Poll::Pending,
                Poll::Ready(Ok(len)) => {
                    sink.room -= len;
                    taken
                }
                taken => taken,
            }
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn what_is_put_behind_half_a_frame_follows_its_other_half() {
        let mut outbox = Outbox::default();
        outbox.buf.extend_from_slice(b"first");
        let mut full = Full(Sink { room: 2, ..Sink::default() });
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(outbox.poll_flush(cx, &mut full).is_pending());
        assert_eq!((outbox.taken(), outbox.pending()), (2, 3));
        let at = outbox.buf.len() + 4;
        outbox.buf.extend_from_slice(b"head-tail");
        outbox.splice(at, [Bytes::from_static(b"BODY")]);
        assert_eq!(outbox.pending(), b"rsthead".len() + b"BODY-tail".len());
        full.0.room = usize::MAX;
        assert!(outbox.poll_flush(cx, &mut full).is_ready());
        assert_eq!(full.0.taken, b"firstheadBODY-tail");
    }

    #[test]
    fn a_stream_that_takes_nothing_is_broken() {
        let (mut outbox, _) = filled();
        let flushed = outbox.poll_flush(&mut Context::from_waker(Waker::noop()), &mut Sink::default());
        assert!(matches!(flushed, Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::WriteZero));
    }
}
