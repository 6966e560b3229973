use std::fmt;

use super::frame::FrameType;

/// Why a frame was refused.
///
/// A variant per rule, so that a caller can match without reading text. The text has fixed words and
/// numbers only, never a byte of the frame: it may be sent back to the peer (S-086).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The prefix announces a frame of no bytes.
    #[error("a frame of length 0 was announced")]
    EmptyFrame,
    /// The prefix announces, or the caller hands over, more than the limit. Nothing was reserved for it.
    #[error("a frame of {len} bytes exceeds the limit of {limit}")]
    FrameTooLong {
        /// The length announced or given.
        len: usize,
        /// The limit that holds.
        limit: usize,
    },
    /// Not even a frame header.
    #[error("a frame of {len} bytes is shorter than its header of 16")]
    TooShort {
        /// The bytes received.
        len: usize,
    },
    /// The frame does not start with the magic of ZAP; the peer speaks something else.
    #[error("the frame does not start with the magic of ZAP")]
    Magic,
    /// A version other than 1 and 2.
    #[error("version {version} is not spoken here")]
    Version {
        /// The version the frame names.
        version: u16,
    },
    /// The frame's own size is less than its header or more than what was received.
    #[error("the frame claims a size of {size} bytes and {received} were received")]
    Size {
        /// The size the frame claims.
        size: u32,
        /// The bytes received.
        received: usize,
    },
    /// A frame of a type that is unknown, or has no place here.
    #[error("expected {expected}, got {}", Got(*.got))]
    Type {
        /// What could have come at this point.
        expected: Expected,
        /// The type byte of the frame.
        got: u8,
    },
    /// The root object does not lie inside the frame.
    #[error("the root object of {object_len} bytes at {root} leaves the frame of {size}")]
    Root {
        /// Where the object is said to start.
        root: u32,
        /// The length of this type's object.
        object_len: usize,
        /// The size of the frame.
        size: u32,
    },
    /// A slot points outside the frame.
    #[error("the slot of the {field} points outside the frame")]
    Slot {
        /// Whose slot.
        field: Field,
    },
    /// The method is no token, or longer than [`MAX_METHOD_LEN`](super::MAX_METHOD_LEN).
    #[error("the method of {len} bytes is not a token of at most 64")]
    Method {
        /// Its length.
        len: usize,
    },
    /// The target is empty, too long, or has bytes that a request line cannot have.
    #[error("the target of {len} bytes is not a request target of at most 65534")]
    Target {
        /// Its length.
        len: usize,
    },
    /// The protocol field has bytes other than visible ASCII.
    #[error("the protocol field of {len} bytes is not a protocol name")]
    Proto {
        /// Its length.
        len: usize,
    },
    /// A status outside 100–999.
    #[error("status {status} is outside 200 to 999")]
    Status {
        /// The status.
        status: u16,
    },
    /// An interim status (1xx), which is no answer (S-077).
    #[error("status {status} is not a final answer")]
    NotFinal {
        /// The status.
        status: u16,
    },
    /// The reason has a line break or another control byte.
    #[error("the reason of {len} bytes has control bytes")]
    Reason {
        /// Its length.
        len: usize,
    },
    /// A response head brings a body; the body of a head comes in data frames.
    #[error("a response head has a body of {len} bytes")]
    BodyInHead {
        /// The length of the body.
        len: usize,
    },
    /// A response head brings trailers; they come in the end frame.
    #[error("a response head has a trailer block of {len} bytes")]
    TrailersInHead {
        /// The length of the block.
        len: usize,
    },
    /// A pair block contradicts itself: it ends inside a pair, or has bytes left over.
    #[error("the pair block of {len} bytes does not hold the pairs it declares")]
    Pairs {
        /// The length of the block.
        len: usize,
    },
    /// A pair block declares more pairs than the limit.
    #[error("a block of {count} pairs exceeds the limit of {limit}")]
    TooManyPairs {
        /// The number declared.
        count: usize,
        /// The limit that holds.
        limit: usize,
    },
    /// A pair block is longer than the limit.
    #[error("a pair block of {len} bytes exceeds the limit of {limit}")]
    BlockTooLong {
        /// The length of the block.
        len: usize,
        /// The limit that holds.
        limit: usize,
    },
    /// A header or trailer name is no token.
    #[error("the name of pair {index} is not a token")]
    Name {
        /// The position of the pair in its block, from 0.
        index: usize,
    },
    /// A header or trailer value has CR, LF, NUL or another control byte.
    #[error("the value of pair {index} has control bytes")]
    Value {
        /// The position of the pair in its block, from 0.
        index: usize,
    },
}

/// Why a message was not put into a frame. Nothing was written then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The frame would be longer than the limit; a response or chunk of that size has to be split.
    #[error("a frame of {len} bytes exceeds the limit of {limit}")]
    FrameTooLong {
        /// The length the frame would have.
        len: usize,
        /// The limit that holds.
        limit: usize,
    },
    /// More pairs than the limit.
    #[error("a block of {count} pairs exceeds the limit of {limit}")]
    TooManyPairs {
        /// The number of pairs, repeated names counted each.
        count: usize,
        /// The limit that holds.
        limit: usize,
    },
    /// A header or trailer block over the limit.
    #[error("a pair block of {len} bytes exceeds the limit of {limit}")]
    BlockTooLong {
        /// The length the block would have.
        len: usize,
        /// The limit that holds.
        limit: usize,
    },
    /// The method is empty, no token, or longer than [`MAX_METHOD_LEN`](super::MAX_METHOD_LEN).
    #[error("the method of {len} bytes is not a token of at most 64")]
    Method {
        /// Its length.
        len: usize,
    },
    /// The target is empty, too long, or has bytes that a request line cannot have.
    #[error("the target of {len} bytes is not a request target of at most 65534")]
    Target {
        /// Its length.
        len: usize,
    },
    /// The protocol field has bytes other than visible ASCII.
    #[error("the protocol field of {len} bytes is not a protocol name")]
    Proto {
        /// Its length.
        len: usize,
    },
    /// A status that is no final answer: outside 200–999.
    #[error("status {status} is not a final answer")]
    Status {
        /// The status.
        status: u16,
    },
    /// The reason has a line break or another control byte.
    #[error("the reason of {len} bytes has control bytes")]
    Reason {
        /// Its length.
        len: usize,
    },
    /// A response head with a body or trailers; they travel in data and end frames.
    #[error("a response head has neither body nor trailers")]
    HeadNotEmpty,
    /// A name that is no token.
    #[error("the name of pair {index} is not a token")]
    Name {
        /// The position of the pair, from 0.
        index: usize,
    },
    /// A value with CR, LF, NUL or another control byte.
    #[error("the value of pair {index} has control bytes")]
    Value {
        /// The position of the pair, from 0.
        index: usize,
    },
}

/// What could have come where another frame came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expected {
    /// Any of the five types.
    Frame,
    /// A request, as a server expects.
    Request,
    /// A response or a response head, as a client expects.
    Answer,
    /// Data or the end, inside a streamed answer.
    Chunk,
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Frame => "a frame of a known type",
            Self::Request => "a request",
            Self::Answer => "a response or response head",
            Self::Chunk => "a data or end frame",
        })
    }
}

/// A field of a frame, for errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names of the fields in zaphttp §2, one to one")]
pub enum Field {
    Method,
    Target,
    Reason,
    Proto,
    Headers,
    Body,
    Trailers,
    Data,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Method => "method",
            Self::Target => "target",
            Self::Reason => "reason",
            Self::Proto => "protocol",
            Self::Headers => "headers",
            Self::Body => "body",
            Self::Trailers => "trailers",
            Self::Data => "data",
        })
    }
}

/// The type byte of a frame in words.
struct Got(u8);

impl fmt::Display for Got {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match FrameType::from_byte(self.0) {
            Some(kind) => kind.fmt(f),
            None => write!(f, "a frame of the unknown type {}", self.0),
        }
    }
}
