//! The frame header and the slots.

use std::fmt;

use super::error::{Expected, Field, WireError};
use super::{Limits, PREFIX_LEN};

pub(super) const MAGIC: [u8; 4] = *b"ZAP\0";
/// The version written; 2 is read as well.
pub(super) const VERSION: u16 = 1;
/// Length of the frame header, and where the root object stands in frames of ours.
pub(super) const HEADER_LEN: usize = 16;
pub(super) const SLOT_LEN: usize = 8;
/// Six slots: requests, responses, response heads.
pub(super) const MESSAGE_LEN: usize = 6 * SLOT_LEN;
/// One slot: data and end frames.
pub(super) const CHUNK_LEN: usize = SLOT_LEN;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "the wire has these five; a sixth would be another wire")]
pub enum FrameType {
    /// A request, whole.
    Request,
    /// A response, whole.
    Response,
    /// The head of a response whose body follows in data frames.
    Head,
    /// A piece of a streamed body.
    Data,
    /// The end of a streamed body, with its trailers.
    End,
}

impl FrameType {
    pub(super) const fn to_byte(self) -> u8 {
        match self {
            Self::Request => 1,
            Self::Response => 2,
            Self::Head => 3,
            Self::Data => 4,
            Self::End => 5,
        }
    }

    pub(super) const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Head,
            4 => Self::Data,
            5 => Self::End,
            _ => return None,
        })
    }

    const fn object_len(self) -> usize {
        match self {
            Self::Request | Self::Response | Self::Head => MESSAGE_LEN,
            Self::Data | Self::End => CHUNK_LEN,
        }
    }
}

impl fmt::Display for FrameType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Request => "a request",
            Self::Response => "a response",
            Self::Head => "a response head",
            Self::Data => "a data frame",
            Self::End => "an end frame",
        })
    }
}

/// Reads the length of the frame that follows a prefix, before anything is reserved for it (zaphttp §1).
///
/// # Errors
///
/// [`WireError::EmptyFrame`] for 0, [`WireError::FrameTooLong`] over the limit.
pub fn frame_len(prefix: [u8; PREFIX_LEN], limits: &Limits) -> Result<usize, WireError> {
    let len = usize::try_from(u32::from_be_bytes(prefix)).unwrap_or(usize::MAX);
    match len {
        0 => Err(WireError::EmptyFrame),
        len if len > limits.frame_len() => Err(WireError::FrameTooLong { len, limit: limits.frame_len() }),
        len => Ok(len),
    }
}

/// What kind of frame this is, from a checked frame header; the fields are not looked at.
///
/// # Errors
///
/// What is wrong with the frame header; [`WireError::Type`] for a type that does not exist.
pub fn frame_type(frame: &[u8]) -> Result<FrameType, WireError> {
    let header = Header::read(frame)?;
    header.kind.ok_or(WireError::Type { expected: Expected::Frame, got: header.type_byte })
}

struct Header {
    kind: Option<FrameType>,
    type_byte: u8,
    root: u32,
    size: u32,
}

impl Header {
    fn read(frame: &[u8]) -> Result<Self, WireError> {
        let Some(header) = frame.first_chunk::<HEADER_LEN>() else {
            return Err(WireError::TooShort { len: frame.len() });
        };
        // By pattern: each byte has its place, and nothing can be out of bounds.
        let &[z, a, p, nul, v0, v1, _, type_byte, r0, r1, r2, r3, s0, s1, s2, s3] = header;
        if [z, a, p, nul] != MAGIC {
            return Err(WireError::Magic);
        }
        let version = u16::from_le_bytes([v0, v1]);
        if !matches!(version, 1 | 2) {
            return Err(WireError::Version { version });
        }
        let size = u32::from_le_bytes([s0, s1, s2, s3]);
        let whole = usize::try_from(size).is_ok_and(|size| (HEADER_LEN..=frame.len()).contains(&size));
        if !whole {
            return Err(WireError::Size { size, received: frame.len() });
        }
        let root = u32::from_le_bytes([r0, r1, r2, r3]);
        Ok(Self { kind: FrameType::from_byte(type_byte), type_byte, root, size })
    }
}

/// A frame whose header was checked and whose root object lies inside.
#[derive(Clone, Copy)]
pub(super) struct Object<'a> {
    pub(super) kind: FrameType,
    /// The frame, cut to its own size: what follows is ignored (Z-012).
    frame: &'a [u8],
    /// Where the object starts. Invariant: the whole object lies inside `frame`.
    root: usize,
}

impl<'a> Object<'a> {
    pub(super) fn open(
        frame: &'a [u8],
        expected: Expected,
        accepts: fn(FrameType) -> bool,
        limits: &Limits,
    ) -> Result<Self, WireError> {
        if frame.len() > limits.frame_len() {
            return Err(WireError::FrameTooLong { len: frame.len(), limit: limits.frame_len() });
        }
        let header = Header::read(frame)?;
        let kind = match header.kind {
            Some(kind) if accepts(kind) => kind,
            _ => return Err(WireError::Type { expected, got: header.type_byte }),
        };
        let object_len = kind.object_len();
        let outside = WireError::Root { root: header.root, object_len, size: header.size };
        // Both fit: `size` is at most the length of a slice, and a root that does not fit is over it.
        let root = usize::try_from(header.root).map_err(|_| outside)?;
        let frame = usize::try_from(header.size).ok().and_then(|size| frame.get(..size)).ok_or(outside)?;
        let inside = root >= HEADER_LEN && root.checked_add(object_len).is_some_and(|end| end <= frame.len());
        if !inside {
            return Err(outside);
        }
        Ok(Self { kind, frame, root })
    }

    /// The bytes that slot `index` points to. A null `rel` is empty whatever the length says (zaphttp §2).
    pub(super) fn slot(&self, index: usize, field: Field) -> Result<&'a [u8], WireError> {
        let at = self.root + index * SLOT_LEN;
        let refused = WireError::Slot { field };
        let Some(&[r0, r1, r2, r3, l0, l1, l2, l3]) = self.frame.get(at..).and_then(<[u8]>::first_chunk)
        else {
            return Err(refused);
        };
        let rel = u32::from_le_bytes([r0, r1, r2, r3]);
        if rel == 0 {
            return Ok(&[]);
        }
        let len = u32::from_le_bytes([l0, l1, l2, l3]);
        // A slot stands behind the frame header and `rel` is unsigned, so no field starts before 16.
        let start = usize::try_from(rel).ok().and_then(|rel| at.checked_add(rel));
        let end = usize::try_from(len).ok().and_then(|len| start?.checked_add(len));
        start.zip(end).and_then(|(start, end)| self.frame.get(start..end)).ok_or(refused)
    }

    /// The status of a response object.
    pub(super) fn status(&self) -> u16 {
        let status = self.frame.get(self.root..).and_then(<[u8]>::first_chunk).copied();
        u16::from_le_bytes(status.unwrap_or_default())
    }
}
