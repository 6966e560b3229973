//! Request bodies that can be sent again: known length, any number of readers from byte 0.

use std::fmt;
use std::fs::File;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Body, Frame, SizeHint};
use tokio::task::JoinHandle;
use tokio::time::Sleep;

use crate::error::BoxError;

/// How large a piece is handed out: what a connection has taken is known this exactly.
const PIECE: usize = 64 * 1024;

/// How much of a file is read at once, while the block before it is handed out: each is a trip to another
/// thread.
const BLOCK: usize = 256 * 1024;

/// A request body: pieces of memory and of files, in order.
///
/// Every attempt reads it from the beginning. A file is read by position, one block of 256 KiB ahead, so
/// any number of readers share one handle and nothing is held whole; it must not change meanwhile.
///
/// # Examples
///
/// ```
/// use peerage_transport::ReplayBody;
///
/// # fn main() -> std::io::Result<()> {
/// let pack = std::fs::File::open("Cargo.toml")?;
/// let body = ReplayBody::from("0000").and_file(pack)?;
/// assert!(body.len() > 4);
/// # Ok(()) }
/// ```
#[derive(Clone, Default)]
pub struct ReplayBody {
    parts: Arc<[Part]>,
    len: u64,
    /// What the newest attempt took; shared by clones.
    newest: Arc<ArcSwapOption<Taken>>,
}

#[derive(Clone)]
enum Part {
    Memory(Bytes),
    File { file: Arc<File>, len: u64 },
}

impl ReplayBody {
    /// No bytes.
    pub fn empty() -> Self {
        Self::default()
    }

    /// A whole file, as long as it is now.
    ///
    /// # Errors
    ///
    /// If its length cannot be told.
    pub fn file(file: File) -> io::Result<Self> {
        Self::empty().and_file(file)
    }

    /// These bytes at the end.
    #[must_use]
    pub fn and_bytes(self, bytes: impl Into<Bytes>) -> Self {
        self.and(Part::Memory(bytes.into()))
    }

    /// This file at the end, as long as it is now.
    ///
    /// # Errors
    ///
    /// If its length cannot be told.
    pub fn and_file(self, file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(self.and(Part::File { file: Arc::new(file), len }))
    }

    fn and(self, part: Part) -> Self {
        let len = self.len.saturating_add(part.len());
        Self { parts: self.parts.iter().cloned().chain([part]).collect(), len, newest: Arc::default() }
    }

    /// Its length in bytes, which is what `Content-Length` says.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the newest attempt to send this body, or a clone of it, has handed out all of it to its
    /// connection; false before the first. Tells who dropped the future of a push whether it may have
    /// been applied.
    pub fn is_handed_out(&self) -> bool {
        self.newest.load().as_ref().is_some_and(|taken| taken.is_complete())
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<T: Into<Bytes>> From<T> for ReplayBody {
    fn from(bytes: T) -> Self {
        Self::empty().and_bytes(bytes)
    }
}

impl fmt::Debug for ReplayBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayBody").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Part {
    fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File { len, .. } => *len,
        }
    }
}

/// What one attempt took of its body: the evidence of transport §12.1.
#[derive(Debug)]
pub(crate) struct Taken {
    len: u64,
    /// Bytes handed out; [`STOPPED`] is set when nothing more may be, [`ABANDONED`] when nobody waits either.
    handed: AtomicU64,
    /// One of the `GATE_` values: whether the server asked for the body yet.
    gate: AtomicU8,
    waker: AtomicWaker,
}

const STOPPED: u64 = 1 << 63;
const ABANDONED: u64 = 1 << 62;
const COUNT: u64 = !(STOPPED | ABANDONED);
const GATE_CLOSED: u8 = 0;
const GATE_OPEN: u8 = 1;

impl Taken {
    /// Ends the upload: not one byte more is handed out. Tells whether all of it was.
    pub(crate) fn stop(&self) -> bool {
        let before = self.handed.fetch_or(STOPPED, Ordering::AcqRel);
        self.waker.wake();
        (before & COUNT) >= self.len
    }

    /// The request is over as well: whoever still holds its connection is to close it.
    #[cfg(feature = "reqwest")]
    pub(crate) fn abandon(&self) {
        self.handed.fetch_or(STOPPED | ABANDONED, Ordering::AcqRel);
        self.waker.wake();
    }

    /// Bytes handed out so far.
    pub(crate) fn handed(&self) -> u64 {
        self.handed.load(Ordering::Acquire) & COUNT
    }

    /// Whether all of it was handed out.
    pub(crate) fn is_complete(&self) -> bool {
        self.handed() >= self.len
    }

    /// Whether nothing is handed out yet because the server was asked first.
    pub(crate) fn is_held_back(&self) -> bool {
        self.gate.load(Ordering::Acquire) == GATE_CLOSED
    }

    /// The server said `100 Continue`.
    pub(crate) fn release(&self) {
        self.gate.store(GATE_OPEN, Ordering::Release);
        self.waker.wake();
    }

    /// Books `count` bytes, unless the upload was stopped.
    fn hand_out(&self, count: u64) -> bool {
        self.handed
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |handed| {
                (handed & STOPPED == 0).then_some(handed + count)
            })
            .is_ok()
    }
}

/// One reader of a [`ReplayBody`]: what a connection sends in one attempt.
pub struct Upload {
    body: ReplayBody,
    /// The part that is being read, and how much of it is read or being read.
    part: usize,
    offset: u64,
    /// What is read and not handed out.
    current: Bytes,
    /// What comes after `current`.
    reading: Option<JoinHandle<io::Result<Bytes>>>,
    /// How long to wait for `100 Continue` before sending all the same.
    patience: Option<Pin<Box<Sleep>>>,
    taken: Arc<Taken>,
}

impl Upload {
    pub(crate) fn new(body: &ReplayBody, patience: Option<Duration>) -> Self {
        let gate = AtomicU8::new(if patience.is_some() { GATE_CLOSED } else { GATE_OPEN });
        let taken =
            Arc::new(Taken { len: body.len(), handed: AtomicU64::new(0), gate, waker: AtomicWaker::new() });
        body.newest.store(Some(taken.clone()));
        Self {
            body: body.clone(),
            part: 0,
            offset: 0,
            current: Bytes::new(),
            reading: None,
            patience: patience.map(|patience| Box::pin(tokio::time::sleep(patience))),
            taken,
        }
    }

    pub(crate) fn taken(&self) -> Arc<Taken> {
        self.taken.clone()
    }

    /// The next piece, without booking it.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        loop {
            if !self.current.is_empty() {
                return Poll::Ready(Some(Ok(self.current.split_to(self.current.len().min(PIECE)))));
            }
            if let Some(reading) = &mut self.reading {
                let read = ready!(Pin::new(reading).poll(cx));
                self.reading = None;
                match read.unwrap_or_else(|error| Err(io::Error::other(error))) {
                    Ok(block) => self.current = block,
                    Err(error) => return Poll::Ready(Some(Err(error))),
                }
                self.read_on();
                continue;
            }
            let Some(part) = self.body.parts.get(self.part) else { return Poll::Ready(None) };
            if self.offset >= part.len() {
                self.part += 1;
                self.offset = 0;
            } else if let Part::Memory(bytes) = part {
                self.current = bytes.clone();
                self.offset = part.len();
            } else {
                self.read_on();
            }
        }
    }

    /// Begins to read the next block, if the part is a file with more in it.
    fn read_on(&mut self) {
        if let Some(Part::File { file, len }) = self.body.parts.get(self.part)
            && self.offset < *len
        {
            let (file, offset) = (file.clone(), self.offset);
            let want = (len - offset).min(BLOCK as u64) as usize;
            self.offset += want as u64;
            self.reading = Some(tokio::task::spawn_blocking(move || read_at(&file, offset, want)));
        }
    }
}

/// `want` bytes of a file from `offset`; fewer mean that somebody cut the file.
fn read_at(file: &File, offset: u64, want: usize) -> io::Result<Bytes> {
    let mut piece = vec![0; want];
    #[cfg(unix)]
    std::os::unix::fs::FileExt::read_exact_at(file, &mut piece, offset)?;
    #[cfg(windows)]
    {
        let mut done = 0;
        while let Some(rest) = piece.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match std::os::windows::fs::FileExt::seek_read(file, rest, offset + done as u64)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => done += count,
            }
        }
    }
    Ok(piece.into())
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        this.taken.waker.register(cx.waker());
        if this.taken.is_held_back()
            && let Some(patience) = &mut this.patience
            && patience.as_mut().poll(cx).is_pending()
        {
            return Poll::Pending;
        }
        this.patience = None;
        let handed = this.taken.handed.load(Ordering::Acquire);
        if handed & STOPPED != 0 && !this.taken.is_complete() {
            if handed & ABANDONED != 0 {
                return Poll::Ready(Some(Err("the request is over".into())));
            }
            // The answer is there: the rest is not sent, and whoever holds the connection closes it.
            return Poll::Pending;
        }
        match ready!(this.poll_piece(cx)) {
            None => Poll::Ready(None),
            Some(Err(error)) => Poll::Ready(Some(Err(Box::new(UnreadableBody(error))))),
            Some(Ok(piece)) if this.taken.hand_out(piece.len() as u64) => {
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            Some(Ok(_)) => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.taken.handed.load(Ordering::Acquire) == self.body.len
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.body.len.saturating_sub(self.taken.handed()))
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload").field("taken", &self.taken).finish_non_exhaustive()
    }
}

/// Our own body failed, not the connection.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the request body")]
pub(crate) struct UnreadableBody(#[source] pub(crate) io::Error);
