//! Frames in a byte stream: whole ones out of whatever pieces arrive.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::wire::{self, Limits, PREFIX_LEN, WireError};

/// What a fresh connection reads into. An idle connection keeps this much; thousands of them must fit.
const MIN_READ: usize = 2 << 10;

/// What a connection that is read in big pieces reads into.
const MAX_READ: usize = 64 << 10;

/// Reads this far below the buffer's size, this many times in a row, halve it.
const SHRINK_AFTER: u8 = 16;

/// Over this a frame gets memory of its own (S-071).
const SMALL_FRAME: usize = 64 << 10;

/// Why no frame came.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The prefix cannot be true, or is over the limit.
    Frame(WireError),
    /// The stream ended inside a frame.
    Truncated,
    Io(io::Error),
}

/// The receiving half of a connection's framing. It owns the connection's read buffer.
#[derive(Debug)]
pub(crate) struct FrameReader {
    /// What was read and not yet taken. Small frames are split off its front.
    buf: BytesMut,
    /// How much room the next allocation makes; follows the size of what arrives.
    read_size: usize,
    short_reads: u8,
    /// The size of the memory behind `buf`, or a size that it had.
    allocated: usize,
    /// The frame that is too long for `buf`. Invariant: `buf` is empty while it is incomplete.
    large: Option<LargeFrame>,
    limits: Limits,
}

#[derive(Debug)]
struct LargeFrame {
    data: Vec<u8>,
    len: usize,
}

impl FrameReader {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { buf: BytesMut::new(), read_size: MIN_READ, short_reads: 0, allocated: 0, large: None, limits }
    }

    /// Whether the stream is between two frames: nothing of a next one has arrived.
    pub(crate) fn is_idle(&self) -> bool {
        self.buf.is_empty() && self.large.is_none()
    }

    /// Whether a frame has begun that is too long to come at once.
    pub(crate) fn is_long(&self) -> bool {
        self.large.is_some()
    }

    /// The bytes that are here and not yet taken.
    pub(crate) fn buffered(&self) -> usize {
        self.buf.len() + self.large.as_ref().map_or(0, |large| large.data.len())
    }

    /// Takes the next frame, without its prefix, if all of it is here.
    pub(crate) fn take(&mut self) -> Result<Option<Bytes>, WireError> {
        if let Some(large) = &self.large {
            return Ok((large.data.len() == large.len)
                .then(|| self.large.take())
                .flatten()
                .map(|large| Bytes::from(large.data)));
        }
        let Some(prefix) = self.buf.first_chunk::<PREFIX_LEN>() else {
            return Ok(None);
        };
        let len = wire::frame_len(*prefix, &self.limits)?;
        if self.buf.len() - PREFIX_LEN >= len {
            self.buf.advance(PREFIX_LEN);
            return Ok(Some(self.buf.split_to(len).freeze()));
        }
        if len > SMALL_FRAME {
            self.buf.advance(PREFIX_LEN);
            let mut data = Vec::with_capacity(SMALL_FRAME.max(self.buf.len()));
            data.extend_from_slice(&self.buf);
            self.buf = BytesMut::new();
            self.large = Some(LargeFrame { data, len });
        }
        Ok(None)
    }

    /// Reads until a frame is whole, and takes it. `None` is a clean end: the stream closed between frames.
    pub(crate) fn poll_next<S>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut S,
    ) -> Poll<Result<Option<Bytes>, ReadError>>
    where
        S: AsyncRead + Unpin,
    {
        loop {
            if let Some(frame) = self.take().map_err(ReadError::Frame)? {
                return Poll::Ready(Ok(Some(frame)));
            }
            if ready!(self.poll_fill(cx, io)).map_err(ReadError::Io)? == 0 {
                let clean = self.is_idle();
                return Poll::Ready(if clean { Ok(None) } else { Err(ReadError::Truncated) });
            }
        }
    }

    /// One read. Zero is the end of the stream.
    pub(crate) fn poll_fill<S>(&mut self, cx: &mut Context<'_>, io: &mut S) -> Poll<io::Result<usize>>
    where
        S: AsyncRead + Unpin,
    {
        if let Some(large) = &mut self.large {
            return large.poll_fill(cx, io);
        }
        self.make_room();
        let room = self.buf.capacity() - self.buf.len();
        let read = ready!(pin!(io.read_buf(&mut self.buf)).poll(cx))?;
        self.follow(read, room);
        Poll::Ready(Ok(read))
    }

    /// Room for the rest of the frame that has begun, or for a read that is worth it.
    fn make_room(&mut self) {
        let missing = match self.buf.first_chunk::<PREFIX_LEN>() {
            // `take` has refused longer ones or given them memory of their own.
            Some(prefix) => {
                let len = (u32::from_be_bytes(*prefix) as usize).min(SMALL_FRAME);
                (len + PREFIX_LEN).saturating_sub(self.buf.len())
            }
            None => 0,
        };
        if self.buf.is_empty() && self.allocated > 2 * self.read_size {
            // A long frame came by; the connection may be idle from here on.
            self.buf = BytesMut::new();
            self.allocated = 0;
        }
        let room = self.buf.capacity() - self.buf.len();
        // With less than half of it left, a read would too often have to be followed by another. Room that
        // is left over after a read tells the runtime that the socket is empty, without a system call.
        let needed = missing.max(self.read_size / 2);
        if room < needed {
            // Nothing is moved or allocated when every frame that was split off is gone again.
            let wanted = needed.max(self.read_size.saturating_sub(self.buf.len()));
            self.buf.reserve(wanted);
            self.allocated = self.allocated.max(self.buf.capacity());
        }
    }

    /// Lets the buffer follow the size of what arrives.
    fn follow(&mut self, read: usize, room: usize) {
        if read == room {
            self.read_size = (self.read_size * 2).min(MAX_READ);
            self.short_reads = 0;
        } else if read < self.read_size / 4 && self.read_size > MIN_READ {
            self.short_reads += 1;
            if self.short_reads >= SHRINK_AFTER {
                self.short_reads = 0;
                self.read_size /= 2;
            }
        } else {
            self.short_reads = 0;
        }
    }
}

impl LargeFrame {
    /// Memory follows what has arrived, not what was announced: at most as much again (S-071).
    fn poll_fill<S>(&mut self, cx: &mut Context<'_>, io: &mut S) -> Poll<io::Result<usize>>
    where
        S: AsyncRead + Unpin,
    {
        let missing = self.len - self.data.len();
        if self.data.len() == self.data.capacity() {
            self.data.reserve_exact(self.data.len().min(missing));
        }
        let room = (self.data.capacity() - self.data.len()).min(missing);
        pin!(io.read_buf(&mut (&mut self.data).limit(room))).poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::pin::Pin;
    use std::task::Waker;

    use tokio::io::ReadBuf;

    use super::*;

    /// Gives one piece a read, then waits for ever.
    struct Pieces(VecDeque<Vec<u8>>);

    impl AsyncRead for Pieces {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let pieces = &mut self.get_mut().0;
            let Some(mut piece) = pieces.pop_front() else { return Poll::Pending };
            let rest = piece.split_off(piece.len().min(buf.remaining()));
            buf.put_slice(&piece);
            if !rest.is_empty() {
                pieces.push_front(rest);
            }
            Poll::Ready(Ok(()))
        }
    }

    fn next(reader: &mut FrameReader, io: &mut Pieces) -> Poll<Result<Option<Bytes>, ReadError>> {
        reader.poll_next(&mut Context::from_waker(Waker::noop()), io)
    }

    fn framed(len: usize, fill: u8) -> Vec<u8> {
        let mut bytes = u32::try_from(len).unwrap().to_be_bytes().to_vec();
        bytes.resize(PREFIX_LEN + len, fill);
        bytes
    }

    impl FrameReader {
        fn reserved(&self) -> usize {
            self.buf.capacity() + self.large.as_ref().map_or(0, |large| large.data.capacity())
        }
    }

    #[test]
    fn frames_are_the_same_however_the_stream_is_cut() {
        let lens = [1, 40, SMALL_FRAME, SMALL_FRAME + 1, 3];
        let stream: Vec<u8> = lens.iter().zip(1..).flat_map(|(&len, fill)| framed(len, fill)).collect();
        // Around every border, and here and there.
        let borders: Vec<usize> =
            lens.iter().scan(0, |at, len| Some(std::mem::replace(at, *at + 4 + len))).collect();
        let cuts = (0..stream.len())
            .filter(|cut| cut % 9973 == 0 || borders.iter().any(|border| cut.abs_diff(*border) < 6));
        for cut in cuts {
            let (head, tail) = stream.split_at(cut);
            let mut io = Pieces(
                [head.to_vec(), tail.to_vec()].into_iter().filter(|piece| !piece.is_empty()).collect(),
            );
            let mut reader = FrameReader::new(Limits::default());
            for (&len, fill) in lens.iter().zip(1..) {
                let Poll::Ready(Ok(Some(frame))) = next(&mut reader, &mut io) else {
                    panic!("no frame of {len} bytes when cut at {cut}");
                };
                assert_eq!(frame, vec![fill; len], "cut at {cut}");
            }
            assert!(next(&mut reader, &mut io).is_pending() && reader.is_idle());
        }
    }

    #[test]
    fn s071_memory_follows_what_has_arrived() {
        for claim in [100, SMALL_FRAME, SMALL_FRAME + 1, 1 << 20, 64 << 20] {
            let mut reader = FrameReader::new(Limits::default());
            let mut received = 0;
            // As much of the frame as is ever sent.
            let mut stream = u32::try_from(claim).unwrap().to_be_bytes().to_vec();
            stream.resize(600_000, 7);
            for piece in [1, 2, 1, 10, 5_000, 60_000, 70_000, 400_000] {
                if received + piece > claim {
                    break;
                }
                let bytes = stream[received..received + piece].to_vec();
                received += piece;
                assert!(next(&mut reader, &mut Pieces([bytes].into())).is_pending());
                let (reserved, allowed) = (reader.reserved(), (64 << 10) + 2 * received);
                assert!(reserved <= allowed, "{reserved} for {received} of {claim} bytes");
            }
        }
    }

    #[test]
    fn z013_s072_an_impossible_prefix_reserves_nothing() {
        let refused = [
            (0_u32, WireError::EmptyFrame),
            ((64 << 20) + 1, WireError::FrameTooLong { len: (64 << 20) + 1, limit: 64 << 20 }),
            (u32::MAX, WireError::FrameTooLong { len: u32::MAX as usize, limit: 64 << 20 }),
        ];
        for (len, expected) in refused {
            let mut reader = FrameReader::new(Limits::default());
            match next(&mut reader, &mut Pieces([len.to_be_bytes().to_vec()].into())) {
                Poll::Ready(Err(ReadError::Frame(error))) => assert_eq!(error, expected),
                other => panic!("{len}: {other:?}"),
            }
            assert!(reader.reserved() <= MIN_READ, "only what the first read needed");
        }
    }

    #[test]
    fn the_end_is_clean_between_frames_and_nowhere_else() {
        let stream = [framed(5, 1), framed(70_000, 2)].concat();
        for len in [0, 9, stream.len()].into_iter().chain([1, 2, 3, 4, 8, 10, 13, 14, 60_000]) {
            let mut reader = FrameReader::new(Limits::default());
            let mut io = &stream[..len];
            let end = loop {
                match reader.poll_next(&mut Context::from_waker(Waker::noop()), &mut io) {
                    Poll::Ready(Ok(Some(_))) => {}
                    Poll::Ready(Ok(None)) => break true,
                    Poll::Ready(Err(ReadError::Truncated)) => break false,
                    other => panic!("{len}: {other:?}"),
                }
            };
            assert_eq!(end, [0, 9, stream.len()].contains(&len), "an end after {len} bytes");
        }
    }

    #[test]
    fn a_small_frame_costs_no_allocation_once_the_buffer_is_warm() {
        let mut reader = FrameReader::new(Limits::default());
        let frame = framed(200, 1);
        let mut exchange = || {
            let mut io = &frame[..];
            assert!(matches!(
                reader.poll_next(&mut Context::from_waker(Waker::noop()), &mut io),
                Poll::Ready(Ok(Some(_)))
            ));
        };
        (0..100).for_each(|_| exchange());
        let measured = allocation_counter::measure(|| (0..1_000).for_each(|_| exchange()));
        assert_eq!(measured.count_total, 0);
    }

    #[test]
    fn an_idle_connection_keeps_no_big_buffer() {
        let mut reader = FrameReader::new(Limits::default());
        assert!(matches!(
            next(&mut reader, &mut Pieces([framed(60_000, 1)].into())),
            Poll::Ready(Ok(Some(_)))
        ));
        assert!(next(&mut reader, &mut Pieces([].into())).is_pending());
        assert!(reader.reserved() <= 16 << 10, "{} bytes are kept", reader.reserved());
    }
}
