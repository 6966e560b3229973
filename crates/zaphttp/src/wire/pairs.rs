//! Header and trailer blocks.

use bytes::BytesMut;

use super::error::{EncodeError, WireError};
use super::tail::Tail;
use super::{Limits, names};

const COUNT_LEN: usize = 4;
/// Two lengths: a pair cannot take less.
const MIN_PAIR_LEN: usize = 8;

/// A checked block of names and values, in order, as the peer spelt them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pairs<'a> {
    /// The pairs without their count. Invariant: `count` whole pairs and nothing behind them.
    pairs: &'a [u8],
    count: usize,
}

impl<'a> Pairs<'a> {
    /// Checks a block; no bytes at all are no pairs.
    ///
    /// # Errors
    ///
    /// [`WireError::BlockTooLong`] and [`WireError::TooManyPairs`] before anything is looked at,
    /// [`WireError::Pairs`] when it is not made of the pairs it declares, [`WireError::Name`] and
    /// [`WireError::Value`] for bytes that cannot stand there.
    pub fn parse(block: &'a [u8], limits: &Limits) -> Result<Self, WireError> {
        if block.is_empty() {
            return Ok(Self::default());
        }
        let len = block.len();
        if len > limits.max_block_len {
            return Err(WireError::BlockTooLong { len, limit: limits.max_block_len });
        }
        let broken = WireError::Pairs { len };
        let (count, pairs) = block.split_first_chunk::<COUNT_LEN>().ok_or(broken)?;
        let count = usize::try_from(u32::from_le_bytes(*count)).unwrap_or(usize::MAX);
        if count > limits.max_pairs {
            return Err(WireError::TooManyPairs { count, limit: limits.max_pairs });
        }
        if count > pairs.len() / MIN_PAIR_LEN {
            return Err(broken);
        }
        let mut rest = pairs;
        for index in 0..count {
            let (name, value, behind) = split_pair(rest).ok_or(broken)?;
            if !names::is_token(name) {
                return Err(WireError::Name { index });
            }
            if !names::is_value(value) {
                return Err(WireError::Value { index });
            }
            rest = behind;
        }
        if rest.is_empty() { Ok(Self { pairs, count }) } else { Err(broken) }
    }

    /// How many pairs there are; a repeated name counts each time.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are no pairs.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The pairs in the order of the block.
    pub fn iter(&self) -> PairIter<'a> {
        PairIter { rest: self.pairs, left: self.count }
    }

    /// The bytes that the block takes in a frame.
    fn block_len(&self) -> usize {
        if self.is_empty() { 0 } else { COUNT_LEN + self.pairs.len() }
    }

    /// Appends the block as it is, and gives its length.
    pub(super) fn put(&self, out: &mut Tail<'_>, limits: &Limits) -> Result<usize, EncodeError> {
        let (len, limit) = (self.block_len(), block_limit(limits));
        if len > limit {
            return Err(EncodeError::BlockTooLong { len, limit });
        }
        match u32::try_from(self.count) {
            Ok(0) => {}
            Ok(count) if self.count <= limits.max_pairs => {
                out.put(&count.to_le_bytes());
                out.put(self.pairs);
            }
            _ => return Err(EncodeError::TooManyPairs { count: self.count, limit: limits.max_pairs }),
        }
        Ok(len)
    }
}

impl<'a> IntoIterator for Pairs<'a> {
    type Item = (&'a [u8], &'a [u8]);
    type IntoIter = PairIter<'a>;

    fn into_iter(self) -> PairIter<'a> {
        self.iter()
    }
}

/// Names and values of a [`Pairs`].
#[derive(Clone, Debug)]
pub struct PairIter<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Iterator for PairIter<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, value, rest) = split_pair(self.rest)?;
        self.rest = rest;
        self.left = self.left.saturating_sub(1);
        Some((name, value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for PairIter<'_> {}

fn split_pair(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (name, rest) = split_text(bytes)?;
    let (value, rest) = split_text(rest)?;
    Some((name, value, rest))
}

fn split_text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_le_bytes(*len)).ok()?)
}

/// Appends a block of the given pairs, names spelt as given, to `out`; no pairs append nothing.
///
/// For callers that hold names and values as bytes: the block can be read with [`Pairs::parse`] and put
/// into a [`RequestFrame`](super::RequestFrame) or [`ResponseFrame`](super::ResponseFrame). Which headers
/// travel is theirs to decide.
///
/// # Errors
///
/// A name that is no token, a value with control bytes, more than the limits; `out` is unchanged then.
pub fn put_pairs<'p>(
    out: &mut BytesMut,
    pairs: impl IntoIterator<Item = (&'p [u8], &'p [u8])>,
    limits: &Limits,
) -> Result<(), EncodeError> {
    Tail::of(out, |out| {
        let mut block = BlockWriter::new(out, limits);
        for (index, (name, value)) in pairs.into_iter().enumerate() {
            if !names::is_token(name) {
                return Err(EncodeError::Name { index });
            }
            if !names::is_value(value) {
                return Err(EncodeError::Value { index });
            }
            block.put(name, value)?;
        }
        block.end();
        Ok(())
    })
}

/// A block that grows at the end of a buffer. Names and values were judged by their types or by the caller.
pub(super) struct BlockWriter<'o, 'b> {
    out: &'o mut Tail<'b>,
    start: usize,
    /// What the limits leave.
    room: Room,
    limits: Limits,
}

#[derive(Clone, Copy)]
struct Room {
    count: usize,
    len: usize,
}

/// A place in a block to which it can be cut back.
#[derive(Clone, Copy)]
pub(super) struct Mark {
    position: usize,
    room: Room,
}

impl<'o, 'b> BlockWriter<'o, 'b> {
    pub(super) fn new(out: &'o mut Tail<'b>, limits: &Limits) -> Self {
        let start = out.position();
        out.skip(COUNT_LEN);
        let limits = Limits { max_block_len: block_limit(limits), ..*limits };
        let room = Room { count: limits.max_pairs, len: limits.max_block_len.saturating_sub(COUNT_LEN) };
        Self { out, start, room, limits }
    }

    // Always: what is left stays in registers over the loop of the caller, a third of the time.
    #[inline(always)]
    pub(super) fn put(&mut self, name: &[u8], value: &[u8]) -> Result<(), EncodeError> {
        // Two slices and a little: nowhere near the end of an integer.
        let len = MIN_PAIR_LEN + name.len() + value.len();
        let (Some(count_left), Some(len_left)) =
            (self.room.count.checked_sub(1), self.room.len.checked_sub(len))
        else {
            return Err(self.full(len));
        };
        self.room = Room { count: count_left, len: len_left };
        self.out.put_pair(name, value);
        Ok(())
    }

    #[cold]
    fn full(&self, len: usize) -> EncodeError {
        let Limits { max_pairs, max_block_len, .. } = self.limits;
        if self.room.count == 0 {
            EncodeError::TooManyPairs { count: max_pairs.saturating_add(1), limit: max_pairs }
        } else {
            EncodeError::BlockTooLong { len: max_block_len - self.room.len + len, limit: max_block_len }
        }
    }

    pub(super) fn mark(&self) -> Mark {
        Mark { position: self.out.position(), room: self.room }
    }

    pub(super) fn back_to(&mut self, mark: Mark) {
        self.out.back_to(mark.position);
        self.room = mark.room;
    }

    /// Fills in how many pairs there are; the length of the block, which is 0 without any.
    pub(super) fn end(self) -> usize {
        let count = self.limits.max_pairs - self.room.count;
        if count == 0 {
            self.out.back_to(self.start);
            return 0;
        }
        let block = self.out.written_from(self.start);
        if let Some(place) = block.first_chunk_mut() {
            // Each pair takes bytes of the block.
            *place = (count as u32).to_le_bytes();
        }
        block.len()
    }
}

/// No block is longer than a frame, whatever the setting.
fn block_limit(limits: &Limits) -> usize {
    limits.max_block_len.min(limits.frame_len())
}
