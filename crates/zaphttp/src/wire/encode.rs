//! Parts to frames: appended to a buffer that is reused.

use bytes::{BufMut, BytesMut};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, Method, StatusCode, request};

use super::decode::{ChunkFrame, PROTO, RequestFrame, ResponseFrame};
use super::error::EncodeError;
use super::fields::{Fields, MapFields, RawFields};
use super::frame::{CHUNK_LEN, FrameType, HEADER_LEN, MAGIC, MESSAGE_LEN, SLOT_LEN, VERSION};
use super::pairs::Pairs;
use super::tail::Tail;
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

    fn put(&self, out: &mut Tail<'_>) {
        if let Self::Inline(bytes) = self {
            out.put(bytes);
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
    Message {
        kind: FrameType::Request,
        lead: Lead::Method(method),
        second: [slash, target.as_bytes()],
        proto: PROTO.as_bytes(),
        fields: MapFields::new(Some(&head.headers), authority, trailers),
        payload,
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
    let fields = MapFields::new(Some(headers), "", trailers);
    put_answer(out, FrameType::Response, status, fields, payload, limits)
}

/// Appends the head of a streamed response behind its prefix; [`put_data`] and [`put_end`] follow.
///
/// Headers that a `Trailer` header declares are left out, as they belong into the end frame: take them with
/// [`take_declared_trailers`](super::take_declared_trailers) before.
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
    let fields = MapFields::new(Some(headers), "", None);
    put_answer(out, FrameType::Head, status, fields, Payload::Inline(&[]), limits).map(|_| ())
}

/// Appends a data frame behind its prefix. Returns where the piece starts, as [`put_request`] does.
///
/// # Errors
///
/// A piece that is too long for one frame; `out` is unchanged then.
pub fn put_data(out: &mut BytesMut, payload: Payload<'_>, limits: &Limits) -> Result<usize, EncodeError> {
    let frame_len = checked_len(&[HEADER_LEN, CHUNK_LEN, payload.len()], limits)?;
    out.put_slice(&header(FrameType::Data, frame_len));
    out.put_slice(slots([payload.len()], None).as_flattened());
    let at = out.len();
    if let Payload::Inline(bytes) = payload {
        out.put_slice(bytes);
    }
    Ok(at)
}

/// Appends an end frame with the trailers behind its prefix.
///
/// # Errors
///
/// More trailers than the limits; `out` is unchanged then.
pub fn put_end(out: &mut BytesMut, trailers: Option<&HeaderMap>, limits: &Limits) -> Result<(), EncodeError> {
    put_end_fields(out, MapFields::new(None, "", trailers), limits)
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
            fields: RawFields { headers: self.headers, trailers: self.trailers },
            payload: Payload::Inline(self.body),
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
            fields: RawFields { headers: self.headers, trailers: self.trailers },
            payload: Payload::Inline(self.body),
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
            Self::End(trailers) => {
                put_end_fields(out, RawFields { headers: Pairs::default(), trailers: *trailers }, limits)
            }
        }
    }
}

/// Everything of a request, response or head, ready to be measured and written.
struct Message<'a, F> {
    kind: FrameType,
    lead: Lead<'a>,
    /// The target or the reason, in two pieces: `http` keeps a path that is only a query without its slash.
    second: [&'a [u8]; 2],
    proto: &'a [u8],
    fields: F,
    payload: Payload<'a>,
}

/// The first slot.
#[derive(Clone, Copy)]
enum Lead<'a> {
    Method(&'a [u8]),
    Status(u16),
}

impl<F: Fields> Message<'_, F> {
    /// One walk over the headers: where things stand is filled in when it is known.
    fn put(mut self, out: &mut BytesMut, limits: &Limits) -> Result<usize, EncodeError> {
        Tail::of(out, |out| {
            let start = out.position();
            let [left, right] = self.second;
            let (lead, lead_slot) = match self.lead {
                Lead::Method(method) => (method, None),
                Lead::Status(status) => (&[][..], Some(u64::from(status))),
            };
            out.skip(PREFIX_LEN + HEADER_LEN + MESSAGE_LEN);
            out.put_texts([lead, left, right, self.proto]);
            let headers_len = self.fields.put_headers(out, limits)?;
            let body_at = out.position();
            let body_len = self.payload.len();
            if body_len > 0 {
                // Held against the limit before it is copied.
                checked_len(&[body_at - start - PREFIX_LEN, body_len], limits)?;
                self.payload.put(out);
            }
            // What a head declares as trailers comes in the end frame.
            let trailers_len =
                if self.kind == FrameType::Head { 0 } else { self.fields.put_trailers(out, limits)? };

            let frame_len = checked_len(&[body_at - start - PREFIX_LEN, body_len, trailers_len], limits)?;
            let second_len = left.len() + right.len();
            let lens = [lead.len(), second_len, self.proto.len(), headers_len, body_len, trailers_len];
            fill_head(out, start, self.kind, frame_len, slots(lens, lead_slot));
            Ok(body_at)
        })
    }
}

fn put_answer(
    out: &mut BytesMut,
    kind: FrameType,
    status: StatusCode,
    fields: MapFields<'_>,
    payload: Payload<'_>,
    limits: &Limits,
) -> Result<usize, EncodeError> {
    let status = status.as_u16();
    if status < 200 {
        return Err(EncodeError::Status { status });
    }
    let second = [reason_of(status), &[]];
    let lead = Lead::Status(status);
    Message { kind, lead, second, proto: PROTO.as_bytes(), fields, payload }.put(out, limits)
}

fn put_end_fields(out: &mut BytesMut, mut fields: impl Fields, limits: &Limits) -> Result<(), EncodeError> {
    Tail::of(out, |out| {
        let start = out.position();
        out.skip(PREFIX_LEN + HEADER_LEN + CHUNK_LEN);
        let len = fields.put_trailers(out, limits)?;
        let frame_len = checked_len(&[HEADER_LEN, CHUNK_LEN, len], limits)?;
        fill_head(out, start, FrameType::End, frame_len, slots([len], None));
        Ok(())
    })
}

/// Writes prefix, frame header and object over the room that was left for them at `start`.
fn fill_head<const COUNT: usize>(
    out: &mut Tail<'_>,
    start: usize,
    kind: FrameType,
    frame_len: usize,
    slots: [[u8; SLOT_LEN]; COUNT],
) {
    let (head, rest) = out.written_from(start).split_at_mut(PREFIX_LEN + HEADER_LEN);
    head.copy_from_slice(&header(kind, frame_len));
    rest.split_at_mut(COUNT * SLOT_LEN).0.copy_from_slice(slots.as_flattened());
}

/// The prefix and the frame header.
fn header(kind: FrameType, frame_len: usize) -> [u8; PREFIX_LEN + HEADER_LEN] {
    let [p0, p1, p2, p3] = narrow(frame_len).to_be_bytes();
    let [z, a, p, nul] = MAGIC;
    let [v0, v1] = VERSION.to_le_bytes();
    let [r0, r1, r2, r3] = narrow(HEADER_LEN).to_le_bytes();
    [p0, p1, p2, p3, z, a, p, nul, v0, v1, 0, kind.to_byte(), r0, r1, r2, r3, p3, p2, p1, p0]
}

/// The object: a slot for each of the fields that follow it in this order. `lead` stands in the first slot
/// in place of an offset and a length.
fn slots<const COUNT: usize>(lens: [usize; COUNT], lead: Option<u64>) -> [[u8; SLOT_LEN]; COUNT] {
    let mut slots = [[0; SLOT_LEN]; COUNT];
    let mut rel = narrow(COUNT * SLOT_LEN);
    for (slot, len) in slots.iter_mut().zip(lens) {
        let len = narrow(len);
        if len > 0 {
            *slot = (u64::from(rel) | u64::from(len) << 32).to_le_bytes();
        }
        // Counted from the slot itself, and the next one stands further on. Nothing wraps in a frame whose
        // length was checked.
        rel = rel.wrapping_add(len).wrapping_sub(SLOT_LEN as u32);
    }
    if let (Some(lead), Some(first)) = (lead, slots.first_mut()) {
        *first = lead.to_le_bytes();
    }
    slots
}

/// Offsets and lengths inside a frame whose length was checked against [`MAX_FRAME_LEN`](super::MAX_FRAME_LEN).
fn narrow(len: usize) -> u32 {
    debug_assert!(len <= super::MAX_FRAME_LEN, "no part is longer than its frame");
    len as u32
}

fn checked_len(parts: &[usize], limits: &Limits) -> Result<usize, EncodeError> {
    let len = parts.iter().fold(0, |sum: usize, &part| sum.saturating_add(part));
    let limit = limits.frame_len();
    if len > limit { Err(EncodeError::FrameTooLong { len, limit }) } else { Ok(len) }
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
