//! What is written of `http` types, compared with frames written by hand.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use peerage_zaphttp::wire::{self, Answer, EncodeError, Limits, Pairs, Payload, RequestFrame, ResponseFrame};

use super::kit::{Naive, block, chunk, text_pairs};

fn prefixed(frame: Vec<u8>) -> Vec<u8> {
    [&(frame.len() as u32).to_be_bytes()[..], &frame].concat()
}

fn head(request: http::request::Builder) -> http::request::Parts {
    request.body(()).expect("a request").into_parts().0
}

fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(*name, HeaderValue::from_static(value));
    }
    map
}

fn request(request: http::request::Builder, body: &[u8], trailers: Option<&HeaderMap>) -> Vec<u8> {
    let mut out = BytesMut::new();
    wire::put_request(&mut out, &head(request), Payload::Inline(body), trailers, &Limits::default())
        .expect("a request that can be written");
    out.to_vec()
}

fn response(headers: &HeaderMap, body: &[u8], trailers: Option<&HeaderMap>) -> Vec<u8> {
    let mut out = BytesMut::new();
    wire::put_response(
        &mut out,
        StatusCode::OK,
        headers,
        Payload::Inline(body),
        trailers,
        &Limits::default(),
    )
    .expect("a response that can be written");
    out.to_vec()
}

#[test]
fn z002_a_bare_get_has_null_slots() {
    let frame = request(Request::get("/"), b"", None);
    assert_eq!(frame, prefixed(Naive::request().frame()));
}

#[test]
fn z004_declared_names_go_to_the_trailer_block() {
    let headers =
        map(&[("trailer", "X-Checksum, x-more"), ("x-checksum", "abc"), ("x-b", "b"), ("x-more", "m")]);
    let expected = Naive { body: b"body".to_vec(), ..Naive::response(200) }
        .headers(&[("x-b", "b")])
        .trailers(&[("x-checksum", "abc"), ("x-more", "m")]);
    assert_eq!(response(&headers, b"body", None), prefixed(expected.frame()));

    // What came after the body is the later word.
    let after = map(&[("x-checksum", "after"), ("x-last", "l")]);
    let expected = expected.trailers(&[("x-more", "m"), ("x-checksum", "after"), ("x-last", "l")]);
    assert_eq!(response(&headers, b"body", Some(&after)), prefixed(expected.frame()));
}

#[test]
fn z004_s079_a_declaration_cannot_move_what_has_to_be_a_header() {
    let headers =
        map(&[("trailer", "authorization, host, x-ok"), ("authorization", "Bearer x"), ("host", "h")]);
    let expected = Naive::response(200).headers(&[("authorization", "Bearer x"), ("host", "h")]);
    assert_eq!(response(&headers, b"", None), prefixed(expected.frame()));
}

#[test]
fn s079_forbidden_trailers_are_not_written() {
    let trailers =
        map(&[("authorization", "Bearer x"), ("content-length", "0"), ("x-ok", "1"), ("set-cookie", "a")]);
    let expected = Naive::response(200).trailers(&[("x-ok", "1")]);
    assert_eq!(response(&HeaderMap::new(), b"", Some(&trailers)), prefixed(expected.frame()));

    let mut out = BytesMut::new();
    wire::put_end(&mut out, Some(&trailers), &Limits::default()).expect("few trailers");
    assert_eq!(out, prefixed(chunk(5, &block(&text_pairs(&[("x-ok", "1")])))));
}

#[test]
fn z004_a_streamed_answer_keeps_its_declared_trailers_for_the_end() {
    let mut headers = map(&[
        ("trailer", "x-sum"),
        ("trailer", "cookie, x-gone, not a name"),
        ("x-sum", "1"),
        ("x-sum", "2"),
        ("cookie", "c"),
    ]);
    let mut out = BytesMut::new();
    let limits = Limits::default();
    wire::put_head(&mut out, StatusCode::OK, &headers, &limits).expect("a head");
    let expected = Naive { kind: 3, ..Naive::response(200) }.headers(&[("cookie", "c")]);
    assert_eq!(out, prefixed(expected.frame()), "declared names are not in the head");

    let taken = wire::take_declared_trailers(&mut headers).expect("two values");
    assert_eq!(*taken, map(&[("x-sum", "1"), ("x-sum", "2")]));
    assert_eq!(headers, map(&[("cookie", "c")]));
    assert_eq!(wire::take_declared_trailers(&mut headers), None);

    out.clear();
    wire::put_end(&mut out, Some(&taken), &limits).expect("an end");
    assert_eq!(out, prefixed(chunk(5, &block(&text_pairs(&[("x-sum", "1"), ("x-sum", "2")])))));
}

#[test]
fn z005_repeated_headers_are_repeated_pairs_in_order() {
    let frame =
        request(Request::get("/").header("x-a", "1").header("x-b", "b").header("x-a", "2"), b"", None);
    let expected = Naive::request().headers(&[("x-a", "1"), ("x-a", "2"), ("x-b", "b")]);
    assert_eq!(frame, prefixed(expected.frame()));
}

#[test]
fn z007_the_callee_sees_the_host_or_the_authority() {
    let hosted = |host: &str, target: &str| {
        let naive = Naive { second: target.as_bytes().to_vec(), ..Naive::request() };
        prefixed(naive.headers(&[("host", host)]).frame())
    };
    let get = |uri: &str| Request::get(uri);
    assert_eq!(request(get("http://h.test:81/a?b"), b"", None), hosted("h.test:81", "/a?b"));
    assert_eq!(request(get("http://h.test"), b"", None), hosted("h.test", "/"));
    assert_eq!(request(get("http://h.test?q=1"), b"", None), hosted("h.test", "/?q=1"));
    assert_eq!(request(get("http://h.test/").header("host", "other"), b"", None), hosted("other", "/"));
    assert_eq!(request(get("/").header("host", "a").header("host", "b"), b"", None), hosted("b", "/"));
    assert_eq!(
        request(get("http://user:secret@h.test/"), b"", None),
        hosted("h.test", "/"),
        "credentials in the URI are not for the callee"
    );
    let connect = Naive { method: b"CONNECT".to_vec(), second: b"h.test:443".to_vec(), ..Naive::request() };
    let frame = request(Request::connect("h.test:443"), b"", None);
    assert_eq!(frame, prefixed(connect.headers(&[("host", "h.test:443")]).frame()));
    let options = Naive { method: b"OPTIONS".to_vec(), second: b"*".to_vec(), ..Naive::request() };
    assert_eq!(request(Request::options("*"), b"", None), prefixed(options.frame()));
}

#[test]
fn z016_status_and_reason_leave_as_they_are() {
    for (status, reason) in [
        (200, "OK"),
        (204, "No Content"),
        (304, "Not Modified"),
        (404, "Not Found"),
        (418, "I'm a teapot"),
        (500, "Internal Server Error"),
        (503, "Service Unavailable"),
        (299, ""),
        (999, ""),
    ] {
        for body in [&b""[..], b"with a body"] {
            let expected = Naive { second: reason.into(), body: body.to_vec(), ..Naive::response(status) };
            let mut out = BytesMut::new();
            let code = StatusCode::from_u16(status).expect("a status");
            wire::put_response(
                &mut out,
                code,
                &HeaderMap::new(),
                Payload::Inline(body),
                None,
                &Limits::default(),
            )
            .expect("a final answer");
            assert_eq!(out, prefixed(expected.frame()), "{status}");
        }
    }
}

#[test]
fn s077_an_interim_status_is_not_written() {
    for status in [100, 101, 103, 199] {
        let code = StatusCode::from_u16(status).expect("a status");
        let mut out = BytesMut::from(&b"before"[..]);
        let limits = Limits::default();
        let headers = HeaderMap::new();
        let refused = EncodeError::Status { status };
        let whole = wire::put_response(&mut out, code, &headers, Payload::Inline(b""), None, &limits);
        assert_eq!(whole, Err(refused));
        assert_eq!(wire::put_head(&mut out, code, &headers, &limits), Err(refused));
        assert_eq!(out, "before");
    }
}

#[test]
fn z025_s080_what_means_nothing_on_this_wire_is_not_written() {
    let headers = map(&[
        ("connection", "keep-alive, x-other"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "close"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("content-length", "5"),
        ("te", "gzip"),
        ("te", " Trailers "),
        ("x-other", "o"),
    ]);
    let expected = Naive { body: b"123456789".to_vec(), ..Naive::response(200) }
        .headers(&[("te", " Trailers "), ("x-other", "o")]);
    assert_eq!(response(&headers, b"123456789", None), prefixed(expected.frame()));
}

#[test]
fn z024_s075_raw_pairs_that_no_decoder_accepts_are_not_written() {
    let limits = Limits::default();
    let refused = |name: &str, value: &str| {
        let mut out = BytesMut::from(&b"before"[..]);
        let pairs = [("fine", "fine"), (name, value)];
        let pairs = pairs.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let result = wire::put_pairs(&mut out, pairs, &limits);
        assert_eq!(out, "before");
        result
    };
    for name in ["", "a b", "a:b", "a\r\nb", ":authority", "\u{e9}", "a\0", "a\t"] {
        assert_eq!(refused(name, "v"), Err(EncodeError::Name { index: 1 }), "{name:?}");
    }
    for value in ["a\r\nb", "a\n", "\r", "\0", "\u{1b}", "\u{7f}"] {
        assert_eq!(refused("n", value), Err(EncodeError::Value { index: 1 }), "{value:?}");
    }
    let mut out = BytesMut::new();
    wire::put_pairs(&mut out, [(&b"X-Tab"[..], &b"a\tb\xff"[..])], &limits).expect("TAB and FF may stand");
    assert_eq!(out, block(&[(b"X-Tab".to_vec(), b"a\tb\xff".to_vec())]));
    out.clear();
    wire::put_pairs(&mut out, [], &limits).expect("no pairs");
    assert_eq!(out, "", "no pairs are no block");
}

#[test]
fn z024_s076_raw_fields_that_no_decoder_accepts_are_not_written() {
    let limits = Limits::default();
    let good = RequestFrame {
        method: "GET",
        target: "/",
        proto: "HTTP/1.1",
        headers: Pairs::default(),
        body: b"",
        trailers: Pairs::default(),
    };
    let mut out = BytesMut::new();
    let long = "A".repeat(65);
    for method in ["", "GE T", "GET\r\n", "\u{e9}", &long] {
        let refused = RequestFrame { method, ..good }.put(&mut out, &limits);
        assert_eq!(refused, Err(EncodeError::Method { len: method.len() }), "{method:?}");
    }
    let long = "/".repeat(65_535);
    for target in ["", "/a b", "/a\r\nX: y", "/\u{e9}", "/a#b", &long] {
        let refused = RequestFrame { target, ..good }.put(&mut out, &limits);
        assert_eq!(refused, Err(EncodeError::Target { len: target.len() }), "{target:?}");
    }
    let refused = RequestFrame { proto: "HTTP/1.1\r\nX: y", ..good }.put(&mut out, &limits);
    assert_eq!(refused, Err(EncodeError::Proto { len: 14 }));
    assert_eq!(out, "", "nothing was written");
    RequestFrame { proto: "", target: &"/".repeat(65_534), ..good }
        .put(&mut out, &limits)
        .expect("at the limit");

    let good = ResponseFrame {
        is_head: false,
        status: 0,
        reason: b"",
        proto: "",
        headers: Pairs::default(),
        body: b"",
        trailers: Pairs::default(),
    };
    out.clear();
    good.put(&mut out, &limits).expect("0 is written as 200");
    assert_eq!(out, prefixed(Naive::response(200).frame()));
    out.clear();
    for status in [99, 100, 199, 1000, u16::MAX] {
        let refused = ResponseFrame { status, ..good }.put(&mut out, &limits);
        assert_eq!(refused, Err(EncodeError::Status { status }));
    }
    let refused = ResponseFrame { reason: b"OK\r\nX: y", ..good }.put(&mut out, &limits);
    assert_eq!(refused, Err(EncodeError::Reason { len: 8 }));
    let refused = ResponseFrame { is_head: true, body: b"x", ..good }.put(&mut out, &limits);
    assert_eq!(refused, Err(EncodeError::HeadNotEmpty));
    let pairs = block(&text_pairs(&[("a", "b")]));
    let trailers = Pairs::parse(&pairs, &limits).expect("one pair");
    let refused = ResponseFrame { is_head: true, trailers, ..good }.put(&mut out, &limits);
    assert_eq!(refused, Err(EncodeError::HeadNotEmpty));
    assert_eq!(out, "", "nothing was written");
}

#[test]
fn s076_a_uri_that_is_no_request_target_is_not_written() {
    let refused = |request: http::request::Builder| {
        let mut out = BytesMut::new();
        let result =
            wire::put_request(&mut out, &head(request), Payload::Inline(b""), None, &Limits::default());
        assert_eq!(out, "");
        result.expect_err("refused")
    };
    let utf8 = http::Uri::try_from("/\u{e9}").expect("http keeps UTF-8");
    assert_eq!(refused(Request::get(utf8)), EncodeError::Target { len: 3 });
    assert_eq!(
        refused(Request::get("h.test:80")),
        EncodeError::Target { len: 0 },
        "authority-form is for CONNECT"
    );
    assert_eq!(refused(Request::connect("/")), EncodeError::Target { len: 0 });
    let method = Method::from_bytes(&[b'A'; 65]).expect("http has no limit");
    assert_eq!(refused(Request::builder().method(method).uri("/")), EncodeError::Method { len: 65 });
}

#[test]
fn s076_the_slash_that_a_bare_query_lacks_counts() {
    let query = format!("http://h?{}", "q".repeat(65_523));
    let uri = http::Uri::try_from(query).expect("65,532 bytes");
    let written = request(Request::get(uri), b"", None);
    let parts = wire::decode_request(&written[4..], &Limits::default()).expect("decodes");
    assert_eq!(parts.target.len(), 65_525);
}

#[test]
fn s074_the_limits_on_pairs_hold_when_writing() {
    let mut out = BytesMut::new();
    let limits = Limits { max_pairs: 2, max_block_len: 30, ..Limits::default() };
    let mut put = |headers: &HeaderMap, trailers: Option<&HeaderMap>| {
        let before = out.len();
        let (body, status) = (Payload::Inline(b""), StatusCode::OK);
        let result = wire::put_response(&mut out, status, headers, body, trailers, &limits).map(|_| ());
        assert!(result.is_ok() || out.len() == before, "nothing of a refused frame is written");
        result
    };
    let none = HeaderMap::new();
    let (two, three) = (map(&[("a", "1"), ("a", "2")]), map(&[("a", "1"), ("a", "2"), ("b", "3")]));
    let too_many = Err(EncodeError::TooManyPairs { count: 3, limit: 2 });
    assert_eq!(put(&two, Some(&two)), Ok(()));
    assert_eq!(put(&three, None), too_many);
    assert_eq!(put(&none, Some(&three)), too_many);
    // 4 + 8 + 1 + 17 is 30.
    let (fits, over) = (map(&[("a", "12345678901234567")]), map(&[("a", "123456789012345678")]));
    let too_long = Err(EncodeError::BlockTooLong { len: 31, limit: 30 });
    assert_eq!(put(&fits, Some(&fits)), Ok(()));
    assert_eq!(put(&over, None), too_long);
    assert_eq!(put(&none, Some(&over)), too_long);

    let mut out = BytesMut::new();
    assert_eq!(wire::put_head(&mut out, StatusCode::OK, &over, &limits), too_long);
    assert_eq!(wire::put_end(&mut out, Some(&three), &limits), too_many);
    let mut raw = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        wire::put_pairs(&mut out, pairs, &limits)
    };
    assert_eq!(raw(&[("a", "1"), ("a", "2"), ("b", "3")]), too_many);
    assert_eq!(raw(&[("a", "123456789012345678")]), too_long);
    assert_eq!(raw(&[("a", "12345678901234567")]), Ok(()));
}

#[test]
fn z014_a_frame_over_64_mib_is_not_written() {
    const MIB_64: usize = 67_108_864;
    let limits = Limits::default();
    let (mut out, none) = (BytesMut::new(), HeaderMap::new());
    let mut response = |len| {
        wire::put_response(&mut out, StatusCode::OK, &none, Payload::Detached(len), None, &limits).map(|_| ())
    };
    // 16 + 48 + "OK" + "HTTP/1.1"
    assert_eq!(response(MIB_64 - 74), Ok(()));
    assert_eq!(response(MIB_64 - 73), Err(EncodeError::FrameTooLong { len: MIB_64 + 1, limit: MIB_64 }));
    assert!(matches!(response(usize::MAX), Err(EncodeError::FrameTooLong { .. })), "no length wraps");
    let mut out = BytesMut::new();
    let mut data = |len| wire::put_data(&mut out, Payload::Detached(len), &limits).map(|_| ());
    assert_eq!(data(MIB_64 - 24), Ok(()));
    assert_eq!(data(MIB_64 - 23), Err(EncodeError::FrameTooLong { len: MIB_64 + 1, limit: MIB_64 }));
    let low = Limits { max_frame_len: 73, ..limits };
    let refused = wire::put_response(&mut out, StatusCode::OK, &none, Payload::Inline(b""), None, &low);
    assert_eq!(refused, Err(EncodeError::FrameTooLong { len: 74, limit: 73 }));
}

#[test]
fn a_detached_body_is_spliced_in_where_the_offset_says() {
    let limits = Limits::default();
    let (headers, trailers) = (map(&[("x-a", "a")]), map(&[("x-sum", "s")]));
    let body = b"the body that is written apart";
    let whole = response(&headers, body, Some(&trailers));

    let mut out = BytesMut::from(&b"an earlier frame"[..]);
    let start = out.len();
    let payload = Payload::Detached(body.len());
    let at = wire::put_response(&mut out, StatusCode::OK, &headers, payload, Some(&trailers), &limits)
        .expect("a response");
    let spliced = [&out[start..at], body, &out[at..]].concat();
    assert_eq!(spliced, whole);
    assert!(out.len() > at, "the trailer block stands behind the body");

    let mut out = BytesMut::new();
    let at = wire::put_data(&mut out, Payload::Detached(body.len()), &limits).expect("a data frame");
    assert_eq!([&out[..at], body].concat(), prefixed(chunk(4, body)));
    assert_eq!(at, out.len());

    let mut out = BytesMut::new();
    let at = wire::put_data(&mut out, Payload::Detached(0), &limits).expect("an empty data frame");
    assert_eq!((&out[..], at), (&prefixed(chunk(4, b""))[..], out.len()));
}

#[test]
fn sv_f67_an_answer_without_a_body_drops_its_trailers_too() {
    let frame = response(&HeaderMap::new(), b"body", Some(&map(&[("x-sum", "s")])));
    let frame = Bytes::from(frame).slice(wire::PREFIX_LEN..);
    let answer = wire::read_response(frame.clone(), &Limits::default(), &Method::HEAD);
    let Ok(Answer::Whole(answer, None)) = answer else { panic!("no trailers") };
    assert_eq!(answer.body(), "");
    let answer: Result<Answer, _> = wire::read_response(frame, &Limits::default(), &Method::POST);
    let Ok(Answer::Whole(answer, Some(_))) = answer else { panic!("trailers") };
    assert_eq!(Response::into_body(answer), "body");
}
