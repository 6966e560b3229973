//! Header and trailer blocks.

use bytes::{BufMut, BytesMut};

use super::error::{EncodeError, WireError};
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
    pub(super) fn block_len(&self) -> usize {
        if self.is_empty() { 0 } else { COUNT_LEN + self.pairs.len() }
    }

    pub(super) fn put(&self, out: &mut BytesMut) {
        if let Ok(count @ 1..) = u32::try_from(self.count) {
            out.put_u32_le(count);
            out.put_slice(self.pairs);
        }
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
    let start = out.len();
    let written = append_pairs(out, start, pairs, limits);
    if written.is_err() {
        out.truncate(start);
    }
    written
}

fn append_pairs<'p>(
    out: &mut BytesMut,
    start: usize,
    pairs: impl IntoIterator<Item = (&'p [u8], &'p [u8])>,
    limits: &Limits,
) -> Result<(), EncodeError> {
    let mut count = 0usize;
    for (index, (name, value)) in pairs.into_iter().enumerate() {
        count = index + 1;
        if count > limits.max_pairs {
            return Err(EncodeError::TooManyPairs { count, limit: limits.max_pairs });
        }
        if !names::is_token(name) {
            return Err(EncodeError::Name { index });
        }
        if !names::is_value(value) {
            return Err(EncodeError::Value { index });
        }
        if index == 0 {
            out.put_u32_le(0);
        }
        let written = out.len() - start;
        let len = written.saturating_add(MIN_PAIR_LEN).saturating_add(name.len()).saturating_add(value.len());
        let too_long = EncodeError::BlockTooLong { len, limit: limits.max_block_len };
        let (Ok(name_len), Ok(value_len)) = (u32::try_from(name.len()), u32::try_from(value.len())) else {
            return Err(too_long);
        };
        if len > limits.max_block_len {
            return Err(too_long);
        }
        out.put_u32_le(name_len);
        out.put_slice(name);
        out.put_u32_le(value_len);
        out.put_slice(value);
    }
    let Ok(pair_count) = u32::try_from(count) else {
        return Err(EncodeError::TooManyPairs { count, limit: limits.max_pairs });
    };
    if let Some(place) = out.get_mut(start..).and_then(<[u8]>::first_chunk_mut) {
        *place = pair_count.to_le_bytes();
    }
    Ok(())
}
