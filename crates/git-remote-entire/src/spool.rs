//! Bodies of any length in little memory: what is small stays in it, the rest goes to a file without a name.

use std::fmt;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncBufRead, AsyncRead, ReadBuf};

use crate::remote::read_from_buffer;

/// What is held in memory at most (GB-H4).
pub const MEMORY_LIMIT: usize = 8 << 20;

/// A body that is being written.
#[derive(Debug)]
pub struct Spool {
    memory: Vec<u8>,
    file: Option<File>,
    len: u64,
    limit: usize,
    directory: Option<PathBuf>,
}

/// A body that is written: its length is known, and it can be read from any place any number of times.
#[derive(Clone)]
pub struct Body {
    content: Content,
    len: u64,
    /// Who knows how much of it was sent; shared by all clones.
    sender: Arc<OnceLock<IsTaken>>,
}

type IsTaken = Box<dyn Fn() -> bool + Send + Sync>;

#[derive(Clone, Debug)]
enum Content {
    Memory(Bytes),
    File(Arc<File>),
}

impl Spool {
    /// An empty one. Its file, should it need one, is made in `directory` if that is possible, else where the
    /// system has its temporary files; it has no name, so nobody has to remove it.
    pub fn new(directory: Option<&Path>) -> Self {
        Self::with_limit(directory, MEMORY_LIMIT)
    }

    /// As [`new`](Self::new), with another limit for what stays in memory.
    pub fn with_limit(directory: Option<&Path>, limit: usize) -> Self {
        Self { memory: Vec::new(), file: None, len: 0, limit, directory: directory.map(Path::to_owned) }
    }

    /// Appends `bytes`.
    ///
    /// # Errors
    ///
    /// No file can be made, or there is no room for it.
    pub fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.file.is_none() && self.memory.len() + bytes.len() > self.limit {
            let mut file = unnamed_file(self.directory.as_deref())?;
            file.write_all(&self.memory)?;
            self.memory = Vec::new();
            self.file = Some(file);
        }
        match &mut self.file {
            // Few writes matter more than few copies: callers hand over lines of 60 bytes.
            Some(file) => {
                self.memory.extend_from_slice(bytes);
                if self.memory.len() >= WRITE_SIZE {
                    file.write_all(&self.memory)?;
                    self.memory.clear();
                }
            }
            None => self.memory.extend_from_slice(bytes),
        }
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// How many bytes were put.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was put.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The end of writing.
    ///
    /// # Errors
    ///
    /// There is no room for the last of it.
    pub fn finish(self) -> io::Result<Body> {
        let content = match self.file {
            Some(mut file) => {
                file.write_all(&self.memory)?;
                Content::File(Arc::new(file))
            }
            None => Content::Memory(self.memory.into()),
        };
        Ok(Body { content, len: self.len, sender: Arc::default() })
    }
}

fn unnamed_file(directory: Option<&Path>) -> io::Result<File> {
    match directory.map(tempfile::tempfile_in) {
        Some(Ok(file)) => Ok(file),
        // A repository that cannot be written can still be pushed from.
        _ => tempfile::tempfile(),
    }
}

const WRITE_SIZE: usize = 128 << 10;

impl Body {
    /// A body in memory.
    pub fn of(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { len: bytes.len() as u64, content: Content::Memory(bytes), sender: Arc::default() }
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes from `offset` on, at most `limit`; empty at the end.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn read_at(&self, offset: u64, limit: usize) -> io::Result<Bytes> {
        let left = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let wanted = left.min(limit);
        match &self.content {
            Content::Memory(bytes) => {
                let start = bytes.len() - left.min(bytes.len());
                Ok(bytes.slice(start..start + wanted))
            }
            Content::File(file) => {
                let mut piece = vec![0; wanted];
                file.read_exact_at(&mut piece, offset)?;
                Ok(piece.into())
            }
        }
    }

    /// For whoever sends the body, once: `is_taken` tells whether the newest attempt has handed out all of it.
    pub fn follow(&self, is_taken: impl Fn() -> bool + Send + Sync + 'static) {
        // A second sender of one body would have to be asked too; there is none.
        let _ = self.sender.set(Box::new(is_taken));
    }

    /// Whether the newest attempt to send this body has handed out all of it, so that the server may have it.
    pub fn is_taken(&self) -> bool {
        self.sender.get().is_some_and(|is_taken| is_taken())
    }

    /// The content, if it is in memory.
    pub fn in_memory(&self) -> Option<&Bytes> {
        match &self.content {
            Content::Memory(bytes) => Some(bytes),
            Content::File(_) => None,
        }
    }

    /// The file with the content, if that is not in memory. Its position means nothing: read it at offsets.
    pub fn in_file(&self) -> Option<&Arc<File>> {
        match &self.content {
            Content::Memory(_) => None,
            Content::File(file) => Some(file),
        }
    }

    /// A reader from the start.
    pub(crate) fn reader(&self) -> BodyReader {
        BodyReader { body: self.clone(), offset: 0, piece: Bytes::new() }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("len", &self.len).finish_non_exhaustive()
    }
}

/// Reads a [`Body`].
#[derive(Debug)]
pub(crate) struct BodyReader {
    body: Body,
    /// Where the piece after `piece` begins.
    offset: u64,
    piece: Bytes,
}

impl AsyncBufRead for BodyReader {
    fn poll_fill_buf(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        if this.piece.is_empty() {
            // Pages that were just written: no wait worth a thread.
            this.piece = this.body.read_at(this.offset, WRITE_SIZE)?;
            this.offset += this.piece.len() as u64;
        }
        Poll::Ready(Ok(&this.piece))
    }

    fn consume(mut self: Pin<&mut Self>, amount: usize) {
        bytes::Buf::advance(&mut self.piece, amount);
    }
}

impl AsyncRead for BodyReader {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        read_from_buffer(self, cx, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn a_body_is_the_same_in_memory_and_in_a_file() {
        for (limit, in_file) in [(1 << 20, false), (0, true), (299_999, true), (300_000, false)] {
            let mut spool = Spool::with_limit(None, limit);
            let mut written = Vec::new();
            for round in 0..3000_u32 {
                let line = [round.to_le_bytes().as_slice(); 25].concat();
                spool.put(&line).unwrap();
                written.extend_from_slice(&line);
            }
            assert_eq!(spool.len(), 300_000);
            let body = spool.finish().unwrap();
            assert_eq!((body.len(), body.in_file().is_some()), (300_000, in_file), "limit {limit}");
            for _ in 0..2 {
                let mut read = Vec::new();
                body.reader().read_to_end(&mut read).await.unwrap();
                assert!(read == written, "limit {limit}: every reader gives the same bytes");
            }
            assert_eq!(body.read_at(299_998, 10).unwrap(), &written[299_998..]);
            assert!(body.read_at(300_000, 10).unwrap().is_empty());
            assert!(body.read_at(u64::MAX, 10).unwrap().is_empty());
        }
    }

    #[test]
    fn a_place_that_cannot_be_written_is_no_obstacle() {
        let mut spool = Spool::with_limit(Some(Path::new("/nonexistent/peerage")), 1);
        spool.put(b"abc").unwrap();
        assert_eq!(spool.finish().unwrap().read_at(0, 10).unwrap(), "abc");
    }

    #[test]
    fn a_body_is_taken_when_its_sender_says_so() {
        let body = Body::of("abcd");
        assert!(!body.is_taken(), "nobody has sent it");
        let sent = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let known = sent.clone();
        body.follow(move || known.load(std::sync::atomic::Ordering::Relaxed));
        assert!(!body.is_taken());
        sent.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(body.is_taken() && body.clone().is_taken());
    }
}
