//! Where nothing may be allocated, and how little elsewhere (zaphttp §7).

use allocation_counter::measure;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use peerage_zaphttp::wire::{self, Limits, Payload};

/// As a browser sends them.
const TWELVE: [(&str, &str); 12] = [
    ("host", "billing.cluster.example:9999"),
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("accept-language", "en-US,en;q=0.5"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("referer", "https://billing.cluster.example/invoices?page=2"),
    ("cookie", "session=0123456789abcdef0123456789abcdef; theme=dark"),
    ("sec-fetch-dest", "document"),
    ("sec-fetch-mode", "navigate"),
    ("sec-fetch-site", "same-origin"),
    ("x-request-id", "0af7651916cd43dd8448eb211c80319c"),
    ("if-none-match", "\"33a64df551425fcc55e4d42a148795d9f25f89d4\""),
];

fn headers(count: usize) -> HeaderMap {
    TWELVE
        .iter()
        .take(count)
        .map(|&(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)))
        .collect()
}

#[test]
fn encoding_into_a_warm_buffer_allocates_nothing() {
    let limits = Limits::default();
    let trailers = headers(2);
    for count in [0, 2, 12] {
        let (mut head, ()) = Request::post("/v1/invoices?page=2").body(()).unwrap().into_parts();
        head.headers = headers(count);
        let mut out = BytesMut::with_capacity(16 << 10);
        let used = measure(|| {
            for _ in 0..3 {
                out.clear();
                let body = Payload::Inline(b"{\"a\":1}");
                wire::put_request(&mut out, &head, body, Some(&trailers), &limits).unwrap();
                wire::put_response(&mut out, StatusCode::OK, &head.headers, body, None, &limits).unwrap();
                wire::put_head(&mut out, StatusCode::OK, &head.headers, &limits).unwrap();
                wire::put_data(&mut out, body, &limits).unwrap();
                wire::put_end(&mut out, Some(&trailers), &limits).unwrap();
            }
        });
        assert_eq!(used.count_total, 0, "{count} headers");
    }
}

#[test]
fn a_detached_body_takes_no_room() {
    let (head, ()) = Request::post("/").body(()).unwrap().into_parts();
    let mut out = BytesMut::with_capacity(1024);
    let used = measure(|| {
        wire::put_request(&mut out, &head, Payload::Detached(32 << 20), None, &Limits::default()).unwrap();
    });
    assert_eq!(used.count_total, 0);
}

#[test]
fn a_buffer_whose_frames_were_sent_is_used_again() {
    use bytes::Buf;

    let (head, ()) = Request::get("/health").body(()).unwrap().into_parts();
    let mut out = BytesMut::with_capacity(4096);
    let put = |out: &mut BytesMut| {
        wire::put_request(out, &head, Payload::Inline(b""), None, &Limits::default()).unwrap();
        out.advance(out.len());
    };
    put(&mut out);
    let used = measure(|| {
        for _ in 0..1000 {
            put(&mut out);
        }
    });
    assert_eq!(used.count_total, 0, "a thousand frames through 4 KiB");
}

#[test]
fn decoding_allocates_nothing() {
    let limits = Limits::default();
    for count in [0, 2, 12] {
        let (mut head, ()) = Request::post("/v1/invoices?page=2").body(()).unwrap().into_parts();
        head.headers = headers(count);
        let (mut request, mut response, mut end) = (BytesMut::new(), BytesMut::new(), BytesMut::new());
        let body = Payload::Inline(b"{\"a\":1}");
        wire::put_request(&mut request, &head, body, Some(&headers(1)), &limits).unwrap();
        wire::put_response(&mut response, StatusCode::OK, &head.headers, body, None, &limits).unwrap();
        wire::put_end(&mut end, Some(&headers(1)), &limits).unwrap();
        let used = measure(|| {
            wire::decode_request(&request[4..], &limits).unwrap();
            wire::decode_response(&response[4..], &limits).unwrap();
            wire::decode_chunk(&end[4..], &limits).unwrap();
            wire::decode_request(&response[4..], &limits).unwrap_err();
        });
        assert_eq!(used.count_total, 0, "{count} headers");
    }
}

#[test]
fn reading_allocates_for_the_header_map_alone() {
    let limits = Limits::default();
    // The map takes two; `http` copies each name that it has no constant for, which are four of twelve.
    for (count, allowed) in [(0, 0), (2, 2), (12, 2 + 4)] {
        let (mut head, ()) = Request::post("/v1/invoices?page=2").body(()).unwrap().into_parts();
        head.headers = headers(count);
        let mut out = BytesMut::new();
        let body = [7; 100_000];
        wire::put_request(&mut out, &head, Payload::Inline(&body), None, &limits).unwrap();
        let frame = out.split_off(4).freeze();
        // As a frame comes from a connection: already shared.
        let shared = frame.clone();
        let used = measure(|| drop(wire::read_request(shared, &limits).unwrap()));
        assert_eq!(used.count_total, allowed, "{count} headers");
        assert!(used.bytes_total < 4096, "{} bytes for {count} headers: nothing is copied", used.bytes_total);
    }
}

#[test]
fn reading_an_answer_and_its_chunks_allocates_for_the_header_map_alone() {
    let limits = Limits::default();
    let mut out = BytesMut::new();
    wire::put_response(&mut out, StatusCode::OK, &HeaderMap::new(), Payload::Inline(b"ok"), None, &limits)
        .unwrap();
    let response = out.split_off(4).freeze();
    out.clear();
    wire::put_data(&mut out, Payload::Inline(b"data"), &limits).unwrap();
    let data = out.split_off(4).freeze();
    let (response, data): (Bytes, Bytes) = (response.clone(), data.clone());
    let (shared_response, shared_data) = (response.clone(), data.clone());
    let used = measure(|| {
        drop(wire::read_response(shared_response, &limits, &Method::GET).unwrap());
        drop(wire::read_chunk(shared_data, &limits).unwrap());
    });
    assert_eq!(used.count_total, 0);
    assert_eq!((&response[response.len() - 2..], &data[data.len() - 4..]), (&b"ok"[..], &b"data"[..]));
}
