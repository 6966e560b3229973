//! The decoders and the encoder of the wire: no panic, no memory for claims, and what is accepted can be
//! written and read again.

use allocation_counter::measure;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use peerage_zaphttp::wire::{self, Answer, Chunk, Limits, Pairs, Payload};

/// What `http::HeaderMap` takes for a pair, with room for growth to a power of two.
const MAP_BYTES_PER_PAIR: u64 = 256;

/// A request frame.
pub fn zap_request(data: &[u8]) {
    let limits = Limits::default();
    let mut decoded = None;
    let used = measure(|| decoded = wire::decode_request(data, &limits).ok());
    assert_eq!(used.count_total, 0, "decoding allocates nothing");
    let frame = Bytes::copy_from_slice(data);
    let mut read = None;
    let used = measure(|| read = wire::read_request(frame, &limits).ok());
    let Some(parts) = decoded else {
        assert!(read.is_none(), "what the decoder refuses is not read");
        return;
    };
    let pairs = parts.headers.len() + parts.trailers.len();
    assert!(used.bytes_total <= allowed(data, pairs), "{} bytes for {pairs} pairs", used.bytes_total);
    within(data, &[parts.body, sum(parts.headers), sum(parts.trailers)].map(<[u8]>::len));

    let mut out = BytesMut::new();
    parts.put(&mut out, &limits).expect("what was accepted can be written");
    assert_eq!(wire::decode_request(&out[wire::PREFIX_LEN..], &limits), Ok(parts));

    let Some((request, trailers)) = read else { return };
    let (head, body) = request.into_parts();
    out.clear();
    wire::put_request(&mut out, &head, Payload::Inline(&body), trailers.as_deref(), &limits)
        .expect("what was read can be written");
    let frame = out.split_off(wire::PREFIX_LEN).freeze();
    let (again, trailers_again) = wire::read_request(frame, &limits).expect("and read again");
    assert_eq!(again.method(), head.method);
    assert_eq!(again.uri().path_and_query().map(path), head.uri.path_and_query().map(path));
    assert_eq!(again.body(), &body);
    assert_eq!(trailers_again, trailers);
    let mut headers = head.headers;
    if let (None, Some(authority)) = (headers.get("host"), head.uri.authority()) {
        let host = authority.as_str().rsplit('@').next().expect("a split has one part at least");
        headers.insert("host", HeaderValue::from_str(host).expect("an authority is ASCII"));
    }
    assert_eq!(again.headers(), &headers);
}

/// A response frame, a response head, or a chunk.
pub fn zap_response(data: &[u8]) {
    let limits = Limits::default();
    let (mut decoded, mut chunk) = (None, None);
    let used = measure(|| {
        decoded = wire::decode_response(data, &limits).ok();
        chunk = wire::decode_chunk(data, &limits).ok();
    });
    assert_eq!(used.count_total, 0, "decoding allocates nothing");
    let frame = Bytes::copy_from_slice(data);
    let mut out = BytesMut::new();

    if let Some(chunk) = chunk {
        chunk.put(&mut out, &limits).expect("what was accepted can be written");
        assert_eq!(wire::decode_chunk(&out[wire::PREFIX_LEN..], &limits), Ok(chunk));
        match wire::read_chunk(frame, &limits).expect("what the decoder accepts is read") {
            Chunk::Data(data_read) => within(data, &[data_read.len()]),
            Chunk::End(trailers) => {
                let lens = trailers
                    .iter()
                    .flat_map(|map| map.iter())
                    .map(|(name, value)| name.as_str().len() + value.len());
                within(data, &lens.collect::<Vec<_>>());
            }
        }
        return;
    }
    let mut read = None;
    let shared = frame.clone();
    let used = measure(|| read = wire::read_response(shared, &limits, &Method::GET).ok());
    let Some(parts) = decoded else {
        assert!(read.is_none(), "what the decoder refuses is not read");
        return;
    };
    let pairs = parts.headers.len() + parts.trailers.len();
    assert!(used.bytes_total <= allowed(data, pairs), "{} bytes for {pairs} pairs", used.bytes_total);
    within(data, &[parts.reason, parts.body, sum(parts.headers), sum(parts.trailers)].map(<[u8]>::len));
    assert!((200..=999).contains(&parts.status));

    parts.put(&mut out, &limits).expect("what was accepted can be written");
    let again = wire::decode_response(&out[wire::PREFIX_LEN..], &limits).expect("and decoded again");
    if parts.reason.is_empty() {
        // An empty reason is written as the canonical one.
        assert_eq!(wire::decode_response(&out[wire::PREFIX_LEN..], &limits), Ok(again));
        assert_eq!((again.status, again.headers, again.body), (parts.status, parts.headers, parts.body));
    } else {
        assert_eq!(again, parts);
    }

    out.clear();
    match read.expect("what the decoder accepts is read") {
        Answer::Whole(response, trailers) => {
            let (head, body) = response.into_parts();
            let (payload, after) = (Payload::Inline(&body[..]), trailers.as_deref());
            wire::put_response(&mut out, head.status, &head.headers, payload, after, &limits)
                .expect("what was read can be written");
            let frame = out.split_off(wire::PREFIX_LEN).freeze();
            let Ok(Answer::Whole(again, trailers_again)) = wire::read_response(frame, &limits, &Method::GET)
            else {
                panic!("a whole response stays one")
            };
            assert_eq!((again.status(), again.headers(), again.body()), (head.status, &head.headers, &body));
            assert_eq!(trailers_again, trailers);
        }
        Answer::Head(head) => {
            wire::put_head(&mut out, head.status(), head.headers(), &limits)
                .expect("what was read can be written");
            let frame = out.split_off(wire::PREFIX_LEN).freeze();
            let Ok(Answer::Head(again)) = wire::read_response(frame, &limits, &Method::GET) else {
                panic!("a head stays one")
            };
            assert_eq!((again.status(), again.headers()), (head.status(), head.headers()));
        }
    }
    if let Ok(Answer::Whole(response, trailers)) = wire::read_response(frame, &limits, &Method::HEAD) {
        assert!(response.body().is_empty() && trailers.is_none(), "the answer to HEAD has no body");
    }
}

/// A pair block.
pub fn zap_pairs(data: &[u8]) {
    let limits = Limits { max_pairs: 64, max_block_len: 4096, ..Limits::default() };
    let mut parsed = None;
    let used = measure(|| parsed = Pairs::parse(data, &limits).ok());
    assert_eq!(used.count_total, 0, "parsing allocates nothing");
    let Some(pairs) = parsed else { return };
    assert!(pairs.len() <= 64 && data.len() <= 4096);
    assert_eq!(pairs.iter().count(), pairs.len());
    within(data, &pairs.iter().map(|(name, value)| 8 + name.len() + value.len()).collect::<Vec<_>>());
    for (name, value) in pairs {
        HeaderName::from_bytes(name).expect("a name that http takes");
        HeaderValue::from_bytes(value).expect("a value that http takes");
    }
    let mut out = BytesMut::new();
    wire::put_pairs(&mut out, pairs, &limits).expect("what was accepted can be written");
    assert!(pairs.is_empty() || out == data, "a block has one form");
}

/// A request and a response made of the input: what is written is read again, or was refused.
pub fn zap_encode(data: &[u8]) {
    let limits = Limits { max_pairs: 32, max_block_len: 2048, max_frame_len: 16 << 10 };
    let mut input = Input { rest: data };
    let Ok(method) = Method::from_bytes(input.text()) else { return };
    let Ok(uri) = Uri::try_from(input.text()) else { return };
    let headers = input.headers();
    let trailers = input.headers();
    let status = StatusCode::from_u16(input.number()).unwrap_or(StatusCode::OK);
    let body = input.rest;

    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    let (head, ()) = request.into_parts();
    let mut out = BytesMut::from(&b"before"[..]);
    match wire::put_request(&mut out, &head, Payload::Inline(body), Some(&trailers), &limits) {
        Err(_) => assert_eq!(out, "before", "a refused request leaves nothing behind"),
        Ok(at) => {
            let frame = out.split_off(6 + wire::PREFIX_LEN);
            assert_eq!(&frame[at - 10..][..body.len()], body);
            let (again, _) = wire::read_request(frame.freeze(), &limits).expect("ours can be read");
            assert_eq!(again.method(), head.method);
            if head.method != Method::CONNECT {
                assert_eq!(again.uri().path(), head.uri.path());
                assert_eq!(again.uri().query(), head.uri.query());
            }
            assert_eq!(again.body(), body);
            let hosts: Vec<_> = again.headers().get_all("host").iter().collect();
            assert!(hosts.len() <= 1);
            if let Some(host) = head.headers.get_all("host").iter().next_back() {
                assert_eq!(hosts, [host]);
            }
            assert_eq!(again.headers().get("content-length"), None);
        }
    }
    let mut out = BytesMut::new();
    let payload = Payload::Inline(body);
    if wire::put_response(&mut out, status, &head.headers, payload, Some(&trailers), &limits).is_ok() {
        let frame = out.split_off(wire::PREFIX_LEN).freeze();
        let Ok(Answer::Whole(again, _)) = wire::read_response(frame, &limits, &Method::GET) else {
            panic!("ours can be read")
        };
        assert_eq!(again.status(), status);
        let bodiless = matches!(status.as_u16(), 204 | 304);
        assert_eq!(again.body(), if bodiless { &b""[..] } else { body });
    }
}

fn allowed(data: &[u8], pairs: usize) -> u64 {
    4 * data.len() as u64 + 4096 + MAP_BYTES_PER_PAIR * pairs as u64
}

fn within(data: &[u8], lens: &[usize]) {
    for len in lens {
        assert!(*len <= data.len(), "a part is longer than the input");
    }
}

fn sum(pairs: Pairs<'_>) -> &[u8] {
    // The last value ends where the block ends: longest of its parts, for the check against the input.
    pairs.iter().map(|(_, value)| value).max_by_key(|value| value.len()).unwrap_or_default()
}

fn path(path: &http::uri::PathAndQuery) -> String {
    // `http` keeps an empty path in front of a query as it is; on the wire it is a slash.
    let text = path.as_str();
    if text.starts_with('?') { format!("/{text}") } else { text.to_owned() }
}

/// Pieces of the input: a length byte and as many bytes.
struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        let Some((&byte, rest)) = self.rest.split_first() else { return 0 };
        self.rest = rest;
        byte
    }

    fn number(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    fn text(&mut self) -> &'a [u8] {
        let len = usize::from(self.byte()).min(self.rest.len());
        let (text, rest) = self.rest.split_at(len);
        self.rest = rest;
        text
    }

    fn headers(&mut self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for _ in 0..self.byte() % 40 {
            let (name, value) = (self.text(), self.text());
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
                headers.append(name, value);
            }
        }
        headers
    }
}
