//! Frames to their parts: checked and lent, nothing copied.

use std::str;

use super::error::{Expected, Field, WireError};
use super::frame::{FrameType, Object};
use super::pairs::Pairs;
use super::{Limits, MAX_METHOD_LEN, names};

/// What an empty protocol field means, and what is written.
pub(super) const PROTO: &str = "HTTP/1.1";

/// The parts of a request frame, as they stand in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the six fields of the request object, zaphttp §2")]
pub struct RequestFrame<'a> {
    /// A token of at most [`MAX_METHOD_LEN`] bytes.
    pub method: &'a str,
    /// As on a request line: visible ASCII.
    pub target: &'a str,
    /// `HTTP/1.1` unless the peer said otherwise.
    pub proto: &'a str,
    /// Every pair the peer sent, also those that mean nothing on this wire.
    pub headers: Pairs<'a>,
    /// The body, whole: a request is always one frame.
    pub body: &'a [u8],
    /// Every trailer pair the peer sent.
    pub trailers: Pairs<'a>,
}

/// The parts of a response frame or a response head, as they stand in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the six fields of the response object, zaphttp §2")]
pub struct ResponseFrame<'a> {
    /// Whether the body follows in data frames; `body` and `trailers` are empty then.
    pub is_head: bool,
    /// 200–999. What is over 599 is handed on; policies treat it as 5xx.
    pub status: u16,
    /// The reason phrase, without control bytes; maybe empty.
    pub reason: &'a [u8],
    /// `HTTP/1.1` unless the peer said otherwise.
    pub proto: &'a str,
    /// Every pair the peer sent, also those that mean nothing on this wire.
    pub headers: Pairs<'a>,
    /// The body, whole.
    pub body: &'a [u8],
    /// Every trailer pair the peer sent.
    pub trailers: Pairs<'a>,
}

/// A frame inside a streamed answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the two chunk frames of zaphttp §2")]
pub enum ChunkFrame<'a> {
    /// A piece of the body, maybe empty.
    Data(&'a [u8]),
    /// The end of the body, with its trailers.
    End(Pairs<'a>),
}

/// Checks a request frame and lends its parts (zaphttp §2). Allocates nothing.
///
/// # Errors
///
/// The first rule that the frame breaks.
///
/// # Deviation
///
/// A slot that leaves the frame, a pair block with bytes left over, a method that is no token and a target
/// with blanks or a fragment are refused, where the reference peer reads an empty field or goes on.
pub fn decode_request<'a>(frame: &'a [u8], limits: &Limits) -> Result<RequestFrame<'a>, WireError> {
    let object = Object::open(frame, Expected::Request, |kind| kind == FrameType::Request, limits)?;
    let method = object.slot(0, Field::Method)?;
    let target = object.slot(1, Field::Target)?;
    let proto = object.slot(2, Field::Proto)?;
    let headers = object.slot(3, Field::Headers)?;
    let body = object.slot(4, Field::Body)?;
    let trailers = object.slot(5, Field::Trailers)?;
    Ok(RequestFrame {
        method: method_of(method)?,
        target: target_of(target)?,
        proto: proto_of(proto)?,
        headers: Pairs::parse(headers, limits)?,
        body,
        trailers: Pairs::parse(trailers, limits)?,
    })
}

/// Checks a response frame or response head and lends its parts (zaphttp §2). Allocates nothing.
///
/// # Errors
///
/// The first rule that the frame breaks.
///
/// # Deviation
///
/// As for [`decode_request`]; also refused are interim statuses, statuses outside 200–999, and heads that
/// bring a body or trailers.
pub fn decode_response<'a>(frame: &'a [u8], limits: &Limits) -> Result<ResponseFrame<'a>, WireError> {
    let accepts = |kind| matches!(kind, FrameType::Response | FrameType::Head);
    let object = Object::open(frame, Expected::Answer, accepts, limits)?;
    let reason = object.slot(1, Field::Reason)?;
    let proto = object.slot(2, Field::Proto)?;
    let headers = object.slot(3, Field::Headers)?;
    let body = object.slot(4, Field::Body)?;
    let trailers = object.slot(5, Field::Trailers)?;
    let is_head = object.kind == FrameType::Head;
    if is_head && !body.is_empty() {
        return Err(WireError::BodyInHead { len: body.len() });
    }
    if is_head && !trailers.is_empty() {
        return Err(WireError::TrailersInHead { len: trailers.len() });
    }
    let status = match object.status() {
        status @ 200..=999 => status,
        status @ 100..=199 => return Err(WireError::NotFinal { status }),
        status => return Err(WireError::Status { status }),
    };
    if !names::is_value(reason) {
        return Err(WireError::Reason { len: reason.len() });
    }
    Ok(ResponseFrame {
        is_head,
        status,
        reason,
        proto: proto_of(proto)?,
        headers: Pairs::parse(headers, limits)?,
        body,
        trailers: Pairs::parse(trailers, limits)?,
    })
}

/// Checks a data or end frame and lends its part (zaphttp §2). Allocates nothing.
///
/// # Errors
///
/// The first rule that the frame breaks; [`WireError::Type`] for anything but data and end, after which the
/// body is not complete.
pub fn decode_chunk<'a>(frame: &'a [u8], limits: &Limits) -> Result<ChunkFrame<'a>, WireError> {
    let accepts = |kind| matches!(kind, FrameType::Data | FrameType::End);
    let object = Object::open(frame, Expected::Chunk, accepts, limits)?;
    if object.kind == FrameType::End {
        Ok(ChunkFrame::End(Pairs::parse(object.slot(0, Field::Trailers)?, limits)?))
    } else {
        Ok(ChunkFrame::Data(object.slot(0, Field::Data)?))
    }
}

fn method_of(bytes: &[u8]) -> Result<&str, WireError> {
    // Nearly every request has one of these: no walk over the bytes.
    match bytes {
        b"" | b"GET" => return Ok("GET"),
        b"POST" => return Ok("POST"),
        b"PUT" => return Ok("PUT"),
        b"HEAD" => return Ok("HEAD"),
        b"DELETE" => return Ok("DELETE"),
        b"PATCH" => return Ok("PATCH"),
        b"OPTIONS" => return Ok("OPTIONS"),
        _ => {}
    }
    let refused = WireError::Method { len: bytes.len() };
    if bytes.len() > MAX_METHOD_LEN || !names::is_token(bytes) {
        return Err(refused);
    }
    str::from_utf8(bytes).map_err(|_| refused)
}

fn target_of(bytes: &[u8]) -> Result<&str, WireError> {
    let refused = WireError::Target { len: bytes.len() };
    if !names::is_target(bytes) {
        return Err(refused);
    }
    str::from_utf8(bytes).map_err(|_| refused)
}

fn proto_of(bytes: &[u8]) -> Result<&str, WireError> {
    // Nearly every frame has it: one comparison instead of two walks.
    if bytes.is_empty() || bytes == PROTO.as_bytes() {
        return Ok(PROTO);
    }
    let refused = WireError::Proto { len: bytes.len() };
    if !names::is_proto(bytes) {
        return Err(refused);
    }
    str::from_utf8(bytes).map_err(|_| refused)
}
