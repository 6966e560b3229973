//! Frames in a byte stream: whole ones out of whatever pieces arrive.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::wire::{self, Limits, PREFIX_LEN, WireError};

/// What a fresh connection reads into. An idle connection keeps this much; thousands of them must fit.
const MIN_READ: usize = 4 << 10;

/// What a connection that is read in big pieces reads into.
const MAX_READ: usize = 64 << 10;

/// A read with less room than this behind what is buffered is not worth its system call. Room that is
/// left over after a read also tells the runtime that the socket is empty, without another call.
const MIN_ROOM: usize = 1 << 10;

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
        if room < missing.max(MIN_ROOM) {
            // Nothing is moved or allocated when every frame that was split off is gone again.
            let wanted = missing.max(MIN_ROOM).max(self.read_size.saturating_sub(self.buf.len()));
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
