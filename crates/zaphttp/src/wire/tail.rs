//! The end of a buffer, while something is written there.

use bytes::{BufMut, BytesMut};

use super::error::EncodeError;

/// What is made room for at once. Most heads fit, so that their parts are copied without asking for room
/// again and again; room that is left over is given back.
const ROOM: usize = 512;

/// Appends to a buffer.
pub(super) struct Tail<'o> {
    /// Up to `end` what was written, behind that room.
    out: &'o mut BytesMut,
    end: usize,
}

impl<'o> Tail<'o> {
    /// Gives the end of `out` to `write`. If that fails, `out` is as it was.
    pub(super) fn of<T>(
        out: &'o mut BytesMut,
        write: impl FnOnce(&mut Tail<'_>) -> Result<T, EncodeError>,
    ) -> Result<T, EncodeError> {
        let start = out.len();
        out.resize(start + ROOM, 0);
        let mut tail = Tail { out, end: start };
        let written = write(&mut tail);
        let end = if written.is_ok() { tail.end } else { start };
        tail.out.truncate(end);
        written
    }

    /// Where the next byte goes.
    pub(super) fn position(&self) -> usize {
        self.end
    }

    /// Forgets what was written behind `position`.
    pub(super) fn back_to(&mut self, position: usize) {
        self.end = self.end.min(position);
    }

    /// The next `len` bytes, to be written.
    #[inline]
    fn next(&mut self, len: usize) -> &mut [u8] {
        let (start, end) = (self.end, self.end + len);
        if end > self.out.len() {
            self.grow(end);
        }
        self.end = end;
        self.out.get_mut(start..end).unwrap_or_default()
    }

    #[cold]
    fn grow(&mut self, end: usize) {
        self.out.resize(end + 2 * ROOM, 0);
    }

    pub(super) fn put(&mut self, bytes: &[u8]) {
        if bytes.len() > ROOM {
            // Not worth to be filled with zeros before.
            self.out.truncate(self.end);
            self.out.put_slice(bytes);
            self.end = self.out.len();
        } else {
            self.next(bytes.len()).copy_from_slice(bytes);
        }
    }

    #[inline]
    pub(super) fn put_texts<const COUNT: usize>(&mut self, texts: [&[u8]; COUNT]) {
        let mut room = self.next(texts.iter().map(|text| text.len()).sum());
        for text in texts {
            room = fill(room, text);
        }
    }

    /// A name and a value, each behind its length.
    #[inline]
    pub(super) fn put_pair(&mut self, name: &[u8], value: &[u8]) {
        let room = self.next(8 + name.len() + value.len());
        // Neither is longer than a block may be: the caller has looked.
        let room = fill(room, &(name.len() as u32).to_le_bytes());
        let room = fill(room, name);
        let room = fill(room, &(value.len() as u32).to_le_bytes());
        fill(room, value);
    }

    /// Leaves out what is filled in later. What stands there until then means nothing.
    pub(super) fn skip(&mut self, len: usize) {
        self.next(len);
    }

    /// What was written or left out from `position` on.
    pub(super) fn written_from(&mut self, position: usize) -> &mut [u8] {
        self.out.get_mut(position..self.end).unwrap_or_default()
    }
}

#[inline]
fn fill<'r>(room: &'r mut [u8], bytes: &[u8]) -> &'r mut [u8] {
    let (place, rest) = room.split_at_mut(bytes.len());
    place.copy_from_slice(bytes);
    rest
}
