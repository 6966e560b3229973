//! Frames to `http` types that share the frame's memory.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};

use super::Limits;
use super::decode::{ChunkFrame, decode_chunk, decode_request, decode_response};
use super::error::WireError;
use super::names::{self, Travel};
use super::pairs::Pairs;

/// What a response frame holds.
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "the two answers of zaphttp §2")]
pub enum Answer {
    /// The answer, whole, and its trailers.
    Whole(Response<Bytes>, Option<Box<HeaderMap>>),
    /// The head of a streamed answer: data frames follow, up to an end frame. That holds for a `HEAD`
    /// request too, whose chunks have to be read and dropped.
    Head(Response<()>),
}

/// A piece of a streamed answer.
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "the two chunk frames of zaphttp §2")]
pub enum Chunk {
    /// A piece of the body, maybe empty.
    Data(Bytes),
    /// The end of the body, and its trailers.
    End(Option<Box<HeaderMap>>),
}

/// Makes an `http::Request` of a request frame, and its trailers if there are any.
///
/// Target, header values and body are slices of `frame` and keep it alive. Of several `Host` pairs the
/// last is kept; an authority in the target stays in the URI and does not change `Host`. `Content-Length`,
/// `Trailer`, the connection fields of HTTP/1, and trailers that would have to be headers are dropped
/// (zaphttp §2, S-079, S-080, S-081).
///
/// # Errors
///
/// What [`decode_request`](super::decode_request) refuses; also [`WireError::Target`] for a target that
/// `http::Uri` cannot hold or that does not go with the method: authority-form is for `CONNECT` alone.
pub fn read_request(
    frame: Bytes,
    limits: &Limits,
) -> Result<(Request<Bytes>, Option<Box<HeaderMap>>), WireError> {
    let parts = decode_request(&frame, limits)?;
    let method = Method::from_bytes(parts.method.as_bytes())
        .map_err(|_| WireError::Method { len: parts.method.len() })?;
    let refused = WireError::Target { len: parts.target.len() };
    let uri = Uri::from_maybe_shared(frame.slice_ref(parts.target.as_bytes())).map_err(|_| refused)?;
    if uri.path_and_query().is_some() == (method == Method::CONNECT) {
        return Err(refused);
    }
    let mut request = Request::new(frame.slice_ref(parts.body));
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.version_mut() = version_of(parts.proto);
    *request.headers_mut() = headers_of(&frame, parts.headers)?;
    Ok((request, trailers_of(&frame, parts.trailers)?))
}

/// Makes an `http::Response` of a response frame or response head; see [`read_request`].
///
/// A body in the answer to `HEAD`, and one with status 204 or 304, is handed on empty, and so are its
/// trailers (SV-F67).
///
/// # Errors
///
/// What [`decode_response`](super::decode_response) refuses.
pub fn read_response(frame: Bytes, limits: &Limits, request_method: &Method) -> Result<Answer, WireError> {
    let parts = decode_response(&frame, limits)?;
    let status =
        StatusCode::from_u16(parts.status).map_err(|_| WireError::Status { status: parts.status })?;
    let mut head = Response::new(());
    *head.status_mut() = status;
    *head.version_mut() = version_of(parts.proto);
    *head.headers_mut() = headers_of(&frame, parts.headers)?;
    if parts.is_head {
        return Ok(Answer::Head(head));
    }
    let trailers = trailers_of(&frame, parts.trailers)?;
    let bodiless = *request_method == Method::HEAD
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    Ok(if bodiless {
        Answer::Whole(head.map(|()| Bytes::new()), None)
    } else {
        Answer::Whole(head.map(|()| frame.slice_ref(parts.body)), trailers)
    })
}

/// Reads a frame inside a streamed answer; the data is a slice of `frame`.
///
/// # Errors
///
/// What [`decode_chunk`](super::decode_chunk) refuses.
pub fn read_chunk(frame: Bytes, limits: &Limits) -> Result<Chunk, WireError> {
    Ok(match decode_chunk(&frame, limits)? {
        ChunkFrame::Data(data) => Chunk::Data(frame.slice_ref(data)),
        ChunkFrame::End(trailers) => Chunk::End(trailers_of(&frame, trailers)?),
    })
}

fn version_of(proto: &str) -> Version {
    match proto {
        "HTTP/1.0" => Version::HTTP_10,
        "HTTP/2" | "HTTP/2.0" => Version::HTTP_2,
        "HTTP/3" | "HTTP/3.0" => Version::HTTP_3,
        _ => Version::HTTP_11,
    }
}

fn headers_of(frame: &Bytes, pairs: Pairs<'_>) -> Result<HeaderMap, WireError> {
    let mut headers = HeaderMap::with_capacity(pairs.len().min(ROOM));
    for (index, (name, value)) in pairs.iter().enumerate() {
        let name = match names::common(name) {
            Some(name) => name,
            None => HeaderName::from_bytes(name).map_err(|_| WireError::Name { index })?,
        };
        match names::travel(name.as_str()) {
            Travel::Host => {
                headers.try_insert(name, value_of(frame, value, index)?).map_err(|_| too_many(pairs))?;
                continue;
            }
            Travel::Yes => {}
            Travel::Te if names::is_trailers(value) => {}
            Travel::Te | Travel::Trailer | Travel::No => continue,
        }
        headers.try_append(name, value_of(frame, value, index)?).map_err(|_| too_many(pairs))?;
    }
    Ok(headers)
}

fn trailers_of(frame: &Bytes, pairs: Pairs<'_>) -> Result<Option<Box<HeaderMap>>, WireError> {
    if pairs.is_empty() {
        return Ok(None);
    }
    let mut trailers = HeaderMap::with_capacity(pairs.len().min(ROOM));
    for (index, (name, value)) in pairs.iter().enumerate() {
        let name = HeaderName::from_bytes(name).map_err(|_| WireError::Name { index })?;
        if names::may_trail(name.as_str()) {
            trailers.try_append(name, value_of(frame, value, index)?).map_err(|_| too_many(pairs))?;
        }
    }
    Ok((!trailers.is_empty()).then(|| Box::new(trailers)))
}

fn value_of(frame: &Bytes, value: &[u8], index: usize) -> Result<HeaderValue, WireError> {
    HeaderValue::from_maybe_shared(frame.slice_ref(value)).map_err(|_| WireError::Value { index })
}

/// Room is made at once for as many pairs as there are, up to this; each was seen whole before.
const ROOM: usize = 256;

/// `http::HeaderMap` has a limit of its own, which settings may exceed.
fn too_many(pairs: Pairs<'_>) -> WireError {
    WireError::TooManyPairs { count: pairs.len(), limit: 24_576 }
}
