//! The frames of ZAP-HTTP: bytes in, bytes out, no I/O and no clock.
//!
//! A frame is a 16-byte header, an object of fixed size with a *slot* for each field, and a tail that
//! holds what the slots point to. Headers and trailers are *pair blocks*. Around a frame on a connection
//! stands its length, [`PREFIX_LEN`] bytes, big-endian; inside a frame every integer is little-endian.
//!
//! Three ways in, by how much the caller wants:
//!
//! - [`decode_request`], [`decode_response`], [`decode_chunk`] check a frame and lend its parts. Nothing
//!   is copied and nothing allocated.
//! - [`read_request`], [`read_response`], [`read_chunk`] make `http` types whose target, header values
//!   and body are slices of the frame.
//! - [`put_request`], [`put_response`], [`put_head`], [`put_data`], [`put_end`] append a frame behind its
//!   prefix to a buffer; a warm buffer is not reallocated.
//!
//! ```
//! use bytes::BytesMut;
//! use http::Request;
//! use peerage_zaphttp::wire::{self, Limits, Payload};
//!
//! let (head, ()) = Request::get("http://greeter.local/hello").body(())?.into_parts();
//! let mut out = BytesMut::new();
//! wire::put_request(&mut out, &head, Payload::Inline(b""), None, &Limits::default())?;
//!
//! let frame = out.split_off(wire::PREFIX_LEN).freeze();
//! let (request, trailers) = wire::read_request(frame, &Limits::default())?;
//! assert_eq!(request.uri(), "/hello");
//! assert_eq!(request.headers()["host"], "greeter.local");
//! assert!(trailers.is_none());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Whatever the bytes are, decoding answers with a value or a [`WireError`]: lengths that a peer claims
//! are added up checked, nothing is indexed, and no memory is reserved for a claim.

mod convert;
mod decode;
mod encode;
mod error;
mod fields;
mod frame;
mod names;
mod pairs;
mod tail;

pub use convert::{Answer, Chunk, read_chunk, read_request, read_response};
pub use decode::{ChunkFrame, RequestFrame, ResponseFrame, decode_chunk, decode_request, decode_response};
pub use encode::{Payload, put_data, put_end, put_head, put_request, put_response};
pub use error::{EncodeError, Expected, Field, WireError};
pub use fields::take_declared_trailers;
pub use frame::{FrameType, frame_len, frame_type};
pub use pairs::{PairIter, Pairs, put_pairs};

/// The longest frame the wire knows, without its prefix: 64 MiB, inclusive (zaphttp §1).
pub const MAX_FRAME_LEN: usize = 64 << 20;

/// The bytes in front of a frame that hold its length.
pub const PREFIX_LEN: usize = 4;

/// Where a ZAP-HTTP server listens unless told otherwise.
pub const DEFAULT_PORT: u16 = 9999;

/// The longest method, in bytes. Fixed: the longest registered one has 17.
pub const MAX_METHOD_LEN: usize = 64;

/// The longest request target, in bytes. Fixed: it is what `http::Uri` holds.
pub const MAX_TARGET_LEN: usize = 65_534;

/// How much a peer may send, and we send, at once. Values over a limit are refused, never cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest frame without its prefix. Default, and at most, [`MAX_FRAME_LEN`].
    pub max_frame_len: usize,
    /// The most pairs in one header or trailer block. Default 256.
    pub max_pairs: usize,
    /// The longest header or trailer block in bytes, lengths included. Default 64 KiB.
    pub max_block_len: usize,
}

impl Limits {
    /// The limit on frames that holds: nothing raises it over what the wire knows.
    pub(crate) fn frame_len(&self) -> usize {
        self.max_frame_len.min(MAX_FRAME_LEN)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_frame_len: MAX_FRAME_LEN, max_pairs: 256, max_block_len: 64 << 10 }
    }
}
