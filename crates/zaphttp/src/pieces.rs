//! A body in memory, in the pieces it came in.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::outbox::{COPY_BODY, Outbox};
use crate::wire::{EncodeError, Payload};

/// Collected pieces, never joined: a large body stays in memory once. Up to one costs no allocation.
#[derive(Debug)]
pub(crate) enum Pieces {
    One(Bytes),
    Many(VecDeque<Bytes>, usize),
}

impl Default for Pieces {
    fn default() -> Self {
        Self::One(Bytes::new())
    }
}

impl Pieces {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::One(piece) => piece.len(),
            Self::Many(_, len) => *len,
        }
    }

    pub(crate) fn push(&mut self, piece: Bytes) {
        match self {
            _ if piece.is_empty() => {}
            Self::One(first) if first.is_empty() => *first = piece,
            Self::One(first) => {
                let len = first.len() + piece.len();
                *self = Self::Many(VecDeque::from([std::mem::take(first), piece]), len);
            }
            Self::Many(pieces, len) => {
                *len += piece.len();
                pieces.push_back(piece);
            }
        }
    }

    /// Takes the first piece; `None` once all are taken.
    pub(crate) fn pop(&mut self) -> Option<Bytes> {
        match self {
            Self::One(piece) => Some(std::mem::take(piece)).filter(|piece| !piece.is_empty()),
            Self::Many(pieces, len) => {
                let piece = pieces.pop_front()?;
                *len -= piece.len();
                Some(piece)
            }
        }
    }

    /// Puts one frame around the pieces: `encode` writes it with the payload it is given. Small bodies are
    /// copied in, others leave from where they are.
    pub(crate) fn put(
        &self,
        outbox: &mut Outbox,
        encode: impl FnOnce(&mut BytesMut, Payload<'_>) -> Result<usize, EncodeError>,
    ) -> Result<(), EncodeError> {
        match self {
            Self::One(body) if body.len() <= COPY_BODY => {
                encode(&mut outbox.buf, Payload::Inline(body))?;
            }
            Self::One(body) => {
                let offset = encode(&mut outbox.buf, Payload::Detached(body.len()))?;
                outbox.splice(offset, [body.clone()]);
            }
            Self::Many(pieces, len) => {
                let offset = encode(&mut outbox.buf, Payload::Detached(*len))?;
                outbox.splice(offset, pieces.iter().cloned());
            }
        }
        Ok(())
    }
}
