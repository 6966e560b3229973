//! What the codec does, an operation at a time, buffers reused.

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use peerage_zaphttp::wire::{self, Limits, Payload};

/// A request as services send each other.
const SMALL: [(&str, &str); 3] = [("host", "greeter.local"), ("user-agent", "bench/1"), ("accept", "*/*")];

/// A request as browsers send it.
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

/// What is done with an operation: its name, what zaphttp §7 asks for in nanoseconds, and itself.
pub(crate) type Take<'t> = dyn FnMut(String, Option<u32>, &mut dyn FnMut()) + 't;

/// Hands over every operation, always in the same order.
pub(crate) fn operations(take: &mut Take<'_>) {
    small_or_twelve(take, "small", &SMALL, [60, 90]);
    small_or_twelve(take, "12 headers", &TWELVE, [180, 450]);
}

fn small_or_twelve(
    take: &mut Take<'_>,
    name: &str,
    pairs: &[(&'static str, &'static str)],
    [encode_target, decode_target]: [u32; 2],
) {
    let limits = Limits::default();
    let mut out = BytesMut::with_capacity(16 << 10);
    let mut figure = |operation: &str, target, run: &mut dyn FnMut()| {
        take(format!("{operation}, {name}"), target, run);
    };

    let mut request = Request::new(());
    *request.uri_mut() = http::Uri::from_static("/v1/greeting");
    *request.headers_mut() = map(pairs);
    let (head, ()) = request.into_parts();
    figure("encode request", Some(encode_target), &mut || {
        out.clear();
        let at = wire::put_request(&mut out, black_box(&head), Payload::Inline(b""), None, &limits);
        let _ = black_box(at);
    });
    let request = out.split().split_off(wire::PREFIX_LEN).freeze();
    figure("decode request", Some(decode_target), &mut || {
        let _ = black_box(wire::decode_request(black_box(&request), &limits));
    });
    figure("read request to http", None, &mut || {
        let _ = black_box(wire::read_request(black_box(request.clone()), &limits));
    });

    let headers = map(pairs);
    let body = Payload::Inline(b"Hello, World!");
    let mut out = BytesMut::with_capacity(16 << 10);
    figure("encode response", None, &mut || {
        out.clear();
        let at = wire::put_response(&mut out, StatusCode::OK, black_box(&headers), body, None, &limits);
        let _ = black_box(at);
    });
    let response: Bytes = out.split().split_off(wire::PREFIX_LEN).freeze();
    figure("decode response", None, &mut || {
        let _ = black_box(wire::decode_response(black_box(&response), &limits));
    });
    figure("read response to http", None, &mut || {
        let _ = black_box(wire::read_response(black_box(response.clone()), &limits, &Method::GET));
    });
}

fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .collect()
}
