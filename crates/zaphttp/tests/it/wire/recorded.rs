//! The frames that the reference peer wrote: read to its fields, and written from its fields.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, StatusCode};
use peerage_zaphttp::wire::{
    self, Answer, Chunk, ChunkFrame, Limits, Pairs, Payload, RequestFrame, ResponseFrame,
};
use serde_json::Value;

use super::kit::{hex, pairs_of};

const RECORDED: &str = include_str!("../../vectors/zaphttp.json");

struct Recorded {
    name: String,
    kind: String,
    method: String,
    target: String,
    proto: String,
    status: u16,
    headers: Vec<(Vec<u8>, Vec<u8>)>,
    trailers: Vec<(Vec<u8>, Vec<u8>)>,
    body: Vec<u8>,
    frame: Vec<u8>,
}

fn recorded() -> Vec<Recorded> {
    let file: Value = serde_json::from_str(RECORDED).expect("the vectors are JSON");
    let text = |frame: &Value, key: &str| frame[key].as_str().unwrap_or_default().to_owned();
    let frames: Vec<_> = file["frames"]
        .as_array()
        .expect("a list of frames")
        .iter()
        .map(|frame| Recorded {
            name: text(frame, "name"),
            kind: text(frame, "kind"),
            method: text(frame, "method"),
            target: text(frame, "target"),
            proto: text(frame, "proto"),
            status: frame["status"].as_u64().unwrap_or_default() as u16,
            headers: pairs_as_utf8(&frame["headers"]),
            trailers: pairs_as_utf8(&frame["trailers"]),
            body: hex(frame["body_hex"].as_str().expect("a body")),
            frame: hex(frame["frame_hex"].as_str().expect("a frame")),
        })
        .collect();
    assert_eq!(frames.len(), 22, "every recorded frame is looked at");
    frames
}

/// This file holds UTF-8, ours one character a byte.
fn pairs_as_utf8(pairs: &Value) -> Vec<(Vec<u8>, Vec<u8>)> {
    let pairs = pairs.as_array().expect("a list of pairs");
    let text = |value: &Value| value.as_str().expect("a string").as_bytes().to_vec();
    pairs.iter().map(|pair| (text(&pair[0]), text(&pair[1]))).collect()
}

fn owned(pairs: Pairs<'_>) -> Vec<(Vec<u8>, Vec<u8>)> {
    pairs.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
}

fn block(pairs: &[(Vec<u8>, Vec<u8>)]) -> BytesMut {
    let mut out = BytesMut::new();
    wire::put_pairs(&mut out, pairs.iter().map(|(name, value)| (&name[..], &value[..])), &Limits::default())
        .expect("the peer wrote these pairs");
    out
}

fn prefixed(frame: &[u8]) -> Vec<u8> {
    [&(frame.len() as u32).to_be_bytes(), frame].concat()
}

#[test]
fn z001_z006_recorded_frames_decode_to_the_fields_of_the_peer() {
    let limits = Limits::default();
    for vector in recorded() {
        let name = &vector.name;
        match vector.kind.as_str() {
            "request" => {
                let parts = wire::decode_request(&vector.frame, &limits).expect(name);
                assert_eq!(parts.method, vector.method, "{name}");
                assert_eq!(parts.target, vector.target, "{name}");
                assert_eq!(parts.proto, vector.proto, "{name}");
                assert_eq!(owned(parts.headers), vector.headers, "{name}");
                assert_eq!(parts.body, vector.body, "{name}");
                assert_eq!(owned(parts.trailers), vector.trailers, "{name}");
            }
            "response" | "response-head" => {
                let parts = wire::decode_response(&vector.frame, &limits).expect(name);
                assert_eq!(parts.is_head, vector.kind == "response-head", "{name}");
                assert_eq!(parts.status, vector.status, "{name}");
                let status = StatusCode::from_u16(vector.status).expect("a status");
                assert_eq!(parts.reason, status.canonical_reason().unwrap_or_default().as_bytes(), "{name}");
                assert_eq!(parts.proto, vector.proto, "{name}");
                assert_eq!(owned(parts.headers), vector.headers, "{name}");
                assert_eq!(parts.body, vector.body, "{name}");
                assert_eq!(owned(parts.trailers), vector.trailers, "{name}");
            }
            "data" => {
                let data = wire::decode_chunk(&vector.frame, &limits).expect(name);
                assert_eq!(data, ChunkFrame::Data(&vector.body), "{name}");
            }
            "end" => {
                let end = wire::decode_chunk(&vector.frame, &limits).expect(name);
                assert_eq!(end, ChunkFrame::End(Pairs::default()), "{name}");
            }
            other => panic!("{name} is of the unknown kind {other}"),
        }
    }
}

#[test]
fn z001_z003_recorded_fields_encode_to_the_bytes_of_the_peer() {
    let limits = Limits::default();
    for vector in recorded() {
        let name = &vector.name;
        let (headers, trailers) = (block(&vector.headers), block(&vector.trailers));
        let headers = Pairs::parse(&headers, &limits).expect(name);
        let trailers = Pairs::parse(&trailers, &limits).expect(name);
        let mut out = BytesMut::new();
        match vector.kind.as_str() {
            "request" => RequestFrame {
                method: &vector.method,
                target: &vector.target,
                proto: &vector.proto,
                headers,
                body: &vector.body,
                trailers,
            }
            .put(&mut out, &limits),
            "response" | "response-head" => ResponseFrame {
                is_head: vector.kind == "response-head",
                status: vector.status,
                reason: b"",
                proto: &vector.proto,
                headers,
                body: &vector.body,
                trailers,
            }
            .put(&mut out, &limits),
            "data" => ChunkFrame::Data(&vector.body).put(&mut out, &limits),
            "end" => ChunkFrame::End(trailers).put(&mut out, &limits),
            other => panic!("{name} is of the unknown kind {other}"),
        }
        .expect(name);
        assert_eq!(out, prefixed(&vector.frame), "{name}");
    }
}

#[test]
fn z004_recorded_frames_encode_to_the_same_bytes_after_decoding() {
    let limits = Limits::default();
    for vector in recorded() {
        let name = &vector.name;
        let mut out = BytesMut::new();
        match vector.kind.as_str() {
            "request" => wire::decode_request(&vector.frame, &limits).expect(name).put(&mut out, &limits),
            "response" | "response-head" => {
                wire::decode_response(&vector.frame, &limits).expect(name).put(&mut out, &limits)
            }
            _ => wire::decode_chunk(&vector.frame, &limits).expect(name).put(&mut out, &limits),
        }
        .expect(name);
        assert_eq!(out, prefixed(&vector.frame), "{name}");
    }
}

/// What `http` holds of pairs, in lower case, in the order of the vectors.
fn listed(map: &HeaderMap) -> Vec<(Vec<u8>, Vec<u8>)> {
    map.iter().map(|(name, value)| (name.as_str().as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
}

fn lower(pairs: &[(Vec<u8>, Vec<u8>)]) -> Vec<(Vec<u8>, Vec<u8>)> {
    pairs.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect()
}

#[test]
fn z005_z006_z007_recorded_frames_become_http_types_and_back() {
    let limits = Limits::default();
    for vector in recorded() {
        let name = &vector.name;
        let frame = Bytes::from(vector.frame.clone());
        let mut out = BytesMut::new();
        let lower_case = |frame: &[u8]| lower_names(frame, &vector.headers, &vector.trailers);
        let (headers, trailers) = match vector.kind.as_str() {
            "request" => {
                let (request, trailers) = wire::read_request(frame, &limits).expect(name);
                assert_eq!(request.method().as_str(), vector.method, "{name}");
                assert_eq!(request.uri().to_string(), vector.target, "{name}");
                assert_eq!(request.body(), &vector.body, "{name}");
                let (head, body) = request.into_parts();
                wire::put_request(&mut out, &head, Payload::Inline(&body), trailers.as_deref(), &limits)
                    .expect(name);
                if !["absolute-form", "connect-authority"].contains(&name.as_str()) {
                    assert_eq!(out, prefixed(&lower_case(&vector.frame)), "{name}");
                }
                (head.headers, trailers)
            }
            "response" => {
                let answer = wire::read_response(frame, &limits, &Method::GET).expect(name);
                let Answer::Whole(response, trailers) = answer else { panic!("{name} is whole") };
                let (head, body) = response.into_parts();
                assert_eq!(head.status, vector.status, "{name}");
                assert_eq!(body, vector.body, "{name}");
                let (payload, after) = (Payload::Inline(&body), trailers.as_deref());
                wire::put_response(&mut out, head.status, &head.headers, payload, after, &limits)
                    .expect(name);
                assert_eq!(out, prefixed(&lower_case(&vector.frame)), "{name}");
                (head.headers, trailers)
            }
            "response-head" => {
                let answer = wire::read_response(frame, &limits, &Method::GET).expect(name);
                let Answer::Head(head) = answer else { panic!("{name} is a head") };
                wire::put_head(&mut out, head.status(), head.headers(), &limits).expect(name);
                assert_eq!(out, prefixed(&lower_case(&vector.frame)), "{name}");
                (head.headers().clone(), None)
            }
            _ => match wire::read_chunk(frame, &limits).expect(name) {
                Chunk::Data(data) => {
                    assert_eq!(data, vector.body, "{name}");
                    wire::put_data(&mut out, Payload::Inline(&data), &limits).expect(name);
                    assert_eq!(out, prefixed(&vector.frame), "{name}");
                    continue;
                }
                Chunk::End(trailers) => {
                    wire::put_end(&mut out, trailers.as_deref(), &limits).expect(name);
                    assert_eq!(out, prefixed(&vector.frame), "{name}");
                    continue;
                }
            },
        };
        assert_eq!(listed(&headers), lower(&vector.headers), "{name}");
        assert_eq!(listed(&trailers.unwrap_or_default()), lower(&vector.trailers), "{name}");
    }
}

/// `http` holds names in lower case, so that is how ours come back.
fn lower_names(frame: &[u8], headers: &[(Vec<u8>, Vec<u8>)], trailers: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    for (name, _) in headers.iter().chain(trailers) {
        while let Some(at) = frame.windows(name.len()).position(|window| window == name) {
            frame[at..at + name.len()].make_ascii_lowercase();
        }
    }
    frame
}

#[test]
fn z007_an_absolute_target_gives_the_callee_its_authority() {
    let limits = Limits::default();
    for (recorded_name, target, host) in [
        ("absolute-form", "/a?b=c", "example.com"),
        ("connect-authority", "example.com:443", "example.com:443"),
    ] {
        let vector = recorded().into_iter().find(|vector| vector.name == recorded_name).expect("recorded");
        let (request, _) = wire::read_request(vector.frame.into(), &limits).expect("the peer wrote it");
        let (head, _): (_, Bytes) = Request::into_parts(request);
        let mut out = BytesMut::new();
        wire::put_request(&mut out, &head, Payload::Inline(b""), None, &limits).expect("a target");
        let parts = wire::decode_request(&out[wire::PREFIX_LEN..], &limits).expect("ours");
        assert_eq!(parts.target, target, "{recorded_name}");
        assert_eq!(owned(parts.headers), pairs_of(&serde_json::json!([["host", host]])), "{recorded_name}");
    }
}
