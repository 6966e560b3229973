//! Parts to frames: appended to a buffer that is reused.

use bytes::{BufMut, BytesMut};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, Method, StatusCode, request};

use super::decode::{ChunkFrame, PROTO, RequestFrame, ResponseFrame};
use super::error::EncodeError;
use super::fields::{Block, Headers, Size, Trailers};
use super::frame::{CHUNK_LEN, FrameType, HEADER_LEN, MAGIC, MESSAGE_LEN, SLOT_LEN, VERSION};
use super::{Limits, MAX_METHOD_LEN, PREFIX_LEN, names};

/// The body of a frame.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_enums, reason = "a body is in the buffer or it is not")]
pub enum Payload<'a> {
    /// Copied into the buffer.
    Inline(&'a [u8]),
    /// A body of this length which the caller writes itself, at the offset that the call returns, so that
    /// a large one leaves in the same vectored write without a copy.
    Detached(usize),
}

impl Payload<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Inline(bytes) => bytes.len(),
            Self::Detached(len) => *len,
        }
    }
}

/// Appends a request frame behind its prefix; a warm `out` is not reallocated.
///
/// The target is written as on a request line to an origin server: path and query, the authority for
/// `CONNECT`. An authority in the URI becomes the `Host` pair if there is none; of several `Host` headers
/// the last is sent. Headers that mean nothing on this wire stay behind, and what a `Trailer` header
/// declares goes into the trailer block (zaphttp §2).
///
/// Returns where in `out` the body starts. A [`Payload::Detached`] body is spliced in there by the caller;
/// whatever stands behind that offset is the trailer block.
///
/// # Errors
///
/// A target that no request line can hold, or more than the limits; `out` is unchanged then.
pub fn put_request(
    out: &mut BytesMut,
    head: &request::Parts,
    payload: Payload<'_>,
    trailers: Option<&HeaderMap>,
    limits: &Limits,
) -> Result<usize, EncodeError> {
    let method = head.method.as_str().as_bytes();
    if method.len() > MAX_METHOD_LEN {
        return Err(EncodeError::Method { len: method.len() });
    }
    let authority = head.uri.authority().map_or("", host_of);
    let target = if head.method == Method::CONNECT {
        authority
    } else {
        head.uri.path_and_query().map_or("", PathAndQuery::as_str)
    };
    check_target(target.as_bytes())?;
    let slash: &[u8] = if target.starts_with('?') { b"/" } else { b"" };
    let headers = Headers::measure(&head.headers, authority);
    let trailers = Trailers::measure(headers.declaring(), trailers);
    Message {
        kind: FrameType::Request,
        lead: Lead::Method(method),
        second: [slash, target.as_bytes()],
        proto: PROTO.as_bytes(),
        headers,
        payload,
        trailers,
    }
    .put(out, limits)
}

/// Appends a response frame with the canonical reason behind its prefix; see [`put_request`].
///
/// # Errors
///
/// An interim status, or more than the limits; `out` is unchanged then.
pub fn put_response(
    out: &mut BytesMut,
    status: StatusCode,
    headers: &HeaderMap,
    payload: Payload<'_>,
    trailers: Option<&HeaderMap>,
    limits: &Limits,
) -> Result<usize, EncodeError> {
    let headers = Headers::measure(headers, "");
    let trailers = Trailers::measure(headers.declaring(), trailers);
    put_answer(out, FrameType::Response, status, headers, payload, trailers, limits)
}

/// Appends the head of a streamed response behind its prefix; [`put_data`] and [`put_end`] follow.
///
/// Headers that a `Trailer` header declares are left out, as they belong into the end frame: take them with
/// [`take_declared_trailers`] before.
///
/// # Errors
///
/// An interim status, or more than the limits; `out` is unchanged then.
pub fn put_head(
    out: &mut BytesMut,
    status: StatusCode,
    headers: &HeaderMap,
    limits: &Limits,
) -> Result<(), EncodeError> {
    let headers = Headers::measure(headers, "");
    put_answer(out, FrameType::Head, status, headers, Payload::Inline(&[]), Trailers::default(), limits)
        .map(|_| ())
}

/// Appends a data frame behind its prefix. Returns where the piece starts, as [`put_request`] does.
///
/// # Errors
///
/// A piece that is too long for one frame; `out` is unchanged then.
pub fn put_data(out: &mut BytesMut, payload: Payload<'_>, limits: &Limits) -> Result<usize, EncodeError> {
    let frame_len = checked_len(&[HEADER_LEN, CHUNK_LEN, payload.len()], limits)?;
    out.reserve(PREFIX_LEN + HEADER_LEN + CHUNK_LEN + inline_len(payload));
    put_header(out, FrameType::Data, frame_len);
    Slots { at: 0, tail: CHUNK_LEN }.put(out, payload.len());
    Ok(put_payload(out, payload))
}

/// Appends an end frame with the trailers behind its prefix.
///
/// # Errors
///
/// More trailers than the limits; `out` is unchanged then.
pub fn put_end(out: &mut BytesMut, trailers: Option<&HeaderMap>, limits: &Limits) -> Result<(), EncodeError> {
    put_end_block(out, &Trailers::measure(None, trailers), limits)
}

impl RequestFrame<'_> {
    /// Appends the frame behind its prefix, fields as they are: what was decoded gives the same parts again.
    ///
    /// # Errors
    ///
    /// A field that no decoder would accept, or more than the limits; `out` is unchanged then.
    pub fn put(&self, out: &mut BytesMut, limits: &Limits) -> Result<(), EncodeError> {
        let (method, target) = (self.method.as_bytes(), self.target.as_bytes());
        if method.len() > MAX_METHOD_LEN || !names::is_token(method) {
            return Err(EncodeError::Method { len: method.len() });
        }
        check_target(target)?;
        Message {
            kind: FrameType::Request,
            lead: Lead::Method(method),
            second: [target, &[]],
            proto: checked_proto(self.proto)?,
            headers: self.headers,
            payload: Payload::Inline(self.body),
            trailers: self.trailers,
        }
        .put(out, limits)
        .map(|_| ())
    }
}

impl ResponseFrame<'_> {
    /// Appends the frame behind its prefix, fields as they are. Status 0 is written as 200, and an empty
    /// reason as the canonical one (zaphttp §2).
    ///
    /// # Errors
    ///
    /// A field that no decoder would accept, or more than the limits; `out` is unchanged then.
    pub fn put(&self, out: &mut BytesMut, limits: &Limits) -> Result<(), EncodeError> {
        let status = if self.status == 0 { 200 } else { self.status };
        if !(200..=999).contains(&status) {
            return Err(EncodeError::Status { status });
        }
        if !names::is_value(self.reason) {
            return Err(EncodeError::Reason { len: self.reason.len() });
        }
        if self.is_head && !(self.body.is_empty() && self.trailers.is_empty()) {
            return Err(EncodeError::HeadNotEmpty);
        }
        Message {
            kind: if self.is_head { FrameType::Head } else { FrameType::Response },
            lead: Lead::Status(status),
            second: [if self.reason.is_empty() { reason_of(status) } else { self.reason }, &[]],
            proto: checked_proto(self.proto)?,
            headers: self.headers,
            payload: Payload::Inline(self.body),
            trailers: self.trailers,
        }
        .put(out, limits)
        .map(|_| ())
    }
}

impl ChunkFrame<'_> {
    /// Appends the frame behind its prefix.
    ///
    /// # Errors
    ///
    /// More than the limits; `out` is unchanged then.
    pub fn put(&self, out: &mut BytesMut, limits: &Limits) -> Result<(), EncodeError> {
        match self {
            Self::Data(data) => put_data(out, Payload::Inline(data), limits).map(|_| ()),
            Self::End(trailers) => put_end_block(out, trailers, limits),
        }
    }
}

/// Everything of a request, response or head, ready to be measured and written.
struct Message<'a, H, T> {
    kind: FrameType,
    lead: Lead<'a>,
    /// The target or the reason, in two pieces: `http` keeps a path that is only a query without its slash.
    second: [&'a [u8]; 2],
    proto: &'a [u8],
    headers: H,
    payload: Payload<'a>,
    trailers: T,
}

/// The first slot.
#[derive(Clone, Copy)]
enum Lead<'a> {
    Method(&'a [u8]),
    Status(u16),
}

impl<H: Block, T: Block> Message<'_, H, T> {
    fn put(self, out: &mut BytesMut, limits: &Limits) -> Result<usize, EncodeError> {
        let headers_len = checked_block(&self.headers, limits)?;
        let trailers_len = checked_block(&self.trailers, limits)?;
        let [left, right] = self.second;
        let second_len = left.len() + right.len();
        let (lead, lead_len) = match self.lead {
            Lead::Method(method) => (method, method.len()),
            Lead::Status(_) => (&[][..], 0),
        };
        let body_len = self.payload.len();
        let before = HEADER_LEN + MESSAGE_LEN + lead_len + second_len + self.proto.len();
        let frame_len = checked_len(&[before, headers_len, body_len, trailers_len], limits)?;

        out.reserve(PREFIX_LEN + before + headers_len + inline_len(self.payload) + trailers_len);
        put_header(out, self.kind, frame_len);
        let mut slots = Slots { at: 0, tail: MESSAGE_LEN };
        match self.lead {
            Lead::Method(method) => slots.put(out, method.len()),
            Lead::Status(status) => slots.put_plain(out, status),
        }
        for len in [second_len, self.proto.len(), headers_len, body_len, trailers_len] {
            slots.put(out, len);
        }
        for piece in [lead, left, right, self.proto] {
            out.put_slice(piece);
        }
        self.headers.put(out);
        let body_at = put_payload(out, self.payload);
        self.trailers.put(out);
        Ok(body_at)
    }
}

fn put_answer(
    out: &mut BytesMut,
    kind: FrameType,
    status: StatusCode,
    headers: Headers<'_>,
    payload: Payload<'_>,
    trailers: Trailers<'_>,
    limits: &Limits,
) -> Result<usize, EncodeError> {
    let status = status.as_u16();
    if status < 200 {
        return Err(EncodeError::Status { status });
    }
    let second = [reason_of(status), &[]];
    let lead = Lead::Status(status);
    Message { kind, lead, second, proto: PROTO.as_bytes(), headers, payload, trailers }.put(out, limits)
}

fn put_end_block(out: &mut BytesMut, trailers: &impl Block, limits: &Limits) -> Result<(), EncodeError> {
    let len = checked_block(trailers, limits)?;
    let frame_len = checked_len(&[HEADER_LEN, CHUNK_LEN, len], limits)?;
    out.reserve(PREFIX_LEN + frame_len);
    put_header(out, FrameType::End, frame_len);
    Slots { at: 0, tail: CHUNK_LEN }.put(out, len);
    trailers.put(out);
    Ok(())
}

fn put_header(out: &mut BytesMut, kind: FrameType, frame_len: usize) {
    let frame_len = narrow(frame_len);
    out.put_u32(frame_len);
    out.put_slice(&MAGIC);
    out.put_u16_le(VERSION);
    out.put_slice(&[0, kind.to_byte()]);
    out.put_u32_le(narrow(HEADER_LEN));
    out.put_u32_le(frame_len);
}

/// Where the next slot stands and what it points to, both from the start of the object.
struct Slots {
    at: usize,
    tail: usize,
}

impl Slots {
    fn put(&mut self, out: &mut BytesMut, len: usize) {
        let rel = if len == 0 { 0 } else { self.tail - self.at };
        out.put_u32_le(narrow(rel));
        out.put_u32_le(narrow(len));
        self.tail += len;
        self.at += SLOT_LEN;
    }

    /// A slot that holds its value itself.
    fn put_plain(&mut self, out: &mut BytesMut, value: u16) {
        out.put_u64_le(value.into());
        self.at += SLOT_LEN;
    }
}

fn put_payload(out: &mut BytesMut, payload: Payload<'_>) -> usize {
    let at = out.len();
    if let Payload::Inline(bytes) = payload {
        out.put_slice(bytes);
    }
    at
}

fn inline_len(payload: Payload<'_>) -> usize {
    match payload {
        Payload::Inline(bytes) => bytes.len(),
        Payload::Detached(_) => 0,
    }
}

/// Offsets and lengths inside a frame whose length was checked against [`MAX_FRAME_LEN`](super::MAX_FRAME_LEN).
pub(super) fn narrow(len: usize) -> u32 {
    debug_assert!(len <= super::MAX_FRAME_LEN, "no part is longer than its frame");
    len as u32
}

fn checked_len(parts: &[usize], limits: &Limits) -> Result<usize, EncodeError> {
    let len = parts.iter().fold(0, |sum: usize, &part| sum.saturating_add(part));
    let limit = limits.frame_len();
    if len > limit { Err(EncodeError::FrameTooLong { len, limit }) } else { Ok(len) }
}

fn checked_block(block: &impl Block, limits: &Limits) -> Result<usize, EncodeError> {
    let Size { count, len } = block.size();
    if count > limits.max_pairs {
        return Err(EncodeError::TooManyPairs { count, limit: limits.max_pairs });
    }
    if len > limits.max_block_len {
        return Err(EncodeError::BlockTooLong { len, limit: limits.max_block_len });
    }
    Ok(len)
}

fn check_target(target: &[u8]) -> Result<(), EncodeError> {
    if names::is_target(target) { Ok(()) } else { Err(EncodeError::Target { len: target.len() }) }
}

fn checked_proto(proto: &str) -> Result<&[u8], EncodeError> {
    let proto = if proto.is_empty() { PROTO } else { proto }.as_bytes();
    if names::is_proto(proto) { Ok(proto) } else { Err(EncodeError::Proto { len: proto.len() }) }
}

fn reason_of(status: u16) -> &'static [u8] {
    let status = StatusCode::from_u16(status).ok();
    status.and_then(|status| status.canonical_reason()).unwrap_or_default().as_bytes()
}

/// The authority without credentials: those are for the connection, not for the callee.
fn host_of(authority: &Authority) -> &str {
    let authority = authority.as_str();
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}
