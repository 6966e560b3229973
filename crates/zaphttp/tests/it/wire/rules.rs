//! Rules S-070 to S-088 and rows Z-008 to Z-014 from both sides of each limit.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Version};
use peerage_zaphttp::wire::{self, Answer, Chunk, ChunkFrame, Expected, FrameType, Limits, Pairs, WireError};

use super::kit::{Naive, block, chunk, text_pairs};

const MIB_64: usize = 67_108_864;

#[test]
fn s072_z013_a_length_of_nothing_or_over_the_limit_is_refused_from_its_prefix() {
    let limits = Limits::default();
    let too_long = |len| WireError::FrameTooLong { len, limit: MIB_64 };
    assert_eq!(wire::frame_len([0, 0, 0, 0], &limits), Err(WireError::EmptyFrame));
    assert_eq!(wire::frame_len([4, 0, 0, 1], &limits), Err(too_long(MIB_64 + 1)));
    assert_eq!(wire::frame_len([0xff; 4], &limits), Err(too_long(0xffff_ffff)));
    assert_eq!(wire::frame_len([4, 0, 0, 0], &limits), Ok(MIB_64), "the limit is inclusive");
    assert_eq!(wire::frame_len([0, 0, 0, 1], &limits), Ok(1));
    assert_eq!(wire::frame_len([0, 0, 1, 0], &limits), Ok(256), "the prefix is big-endian");
}

#[test]
fn s072_a_setting_lowers_the_frame_limit_and_never_raises_it() {
    let low = Limits { max_frame_len: 100, ..Limits::default() };
    assert_eq!(wire::frame_len([0, 0, 0, 100], &low), Ok(100));
    assert_eq!(wire::frame_len([0, 0, 0, 101], &low), Err(WireError::FrameTooLong { len: 101, limit: 100 }));
    let high = Limits { max_frame_len: usize::MAX, ..Limits::default() };
    assert_eq!(
        wire::frame_len([4, 0, 0, 1], &high),
        Err(WireError::FrameTooLong { len: MIB_64 + 1, limit: MIB_64 })
    );
    let mut frame = Naive::request();
    frame.body = vec![0; 25];
    assert_eq!(frame.frame().len(), 101);
    assert_eq!(
        wire::decode_request(&frame.frame(), &low),
        Err(WireError::FrameTooLong { len: 101, limit: 100 })
    );
    frame.body.pop();
    assert_eq!(wire::decode_request(&frame.frame(), &low).map(|parts| parts.body.len()), Ok(24));
}

#[test]
fn z014_a_frame_of_64_mib_is_accepted_and_one_byte_more_is_not() {
    let limits = Limits::default();
    let mut frame = Naive::response(200);
    frame.body = vec![7; MIB_64 - 74];
    let mut frame = frame.frame();
    assert_eq!(frame.len(), MIB_64);
    let parts = wire::decode_response(&frame, &limits).expect("64 MiB are allowed");
    assert_eq!(parts.body.len(), MIB_64 - 74);
    frame.push(0);
    assert_eq!(
        wire::decode_response(&frame, &limits),
        Err(WireError::FrameTooLong { len: MIB_64 + 1, limit: MIB_64 })
    );
}

#[test]
fn z008_s078_a_frame_in_the_wrong_place_is_refused_by_both_names() {
    let limits = Limits::default();
    let request = Naive::request().frame();
    let response = Naive::response(200).frame();
    let head = Naive { kind: 3, ..Naive::response(200) }.frame();
    let (data, end) = (chunk(4, b"x"), chunk(5, b""));
    let text = |error: WireError| error.to_string();

    for (frame, name) in [
        (&response, "expected a request, got a response"),
        (&head, "expected a request, got a response head"),
        (&data, "expected a request, got a data frame"),
        (&end, "expected a request, got an end frame"),
    ] {
        assert_eq!(wire::decode_request(frame, &limits).map_err(text), Err(name.to_owned()));
    }
    for (frame, name) in [
        (&request, "expected a response or response head, got a request"),
        (&data, "expected a response or response head, got a data frame"),
        (&end, "expected a response or response head, got an end frame"),
    ] {
        assert_eq!(wire::decode_response(frame, &limits).map_err(text), Err(name.to_owned()));
    }
    for (frame, name) in [
        (&request, "expected a data or end frame, got a request"),
        (&response, "expected a data or end frame, got a response"),
        (&head, "expected a data or end frame, got a response head"),
    ] {
        assert_eq!(wire::decode_chunk(frame, &limits).map_err(text), Err(name.to_owned()));
    }
    let types = [&request, &response, &head, &data, &end].map(|frame| wire::frame_type(frame));
    let (request, response) = (FrameType::Request, FrameType::Response);
    assert_eq!(
        types,
        [Ok(request), Ok(response), Ok(FrameType::Head), Ok(FrameType::Data), Ok(FrameType::End)]
    );
    let mut unknown = data;
    unknown[7] = 0xff;
    assert_eq!(wire::frame_type(&unknown), Err(WireError::Type { expected: Expected::Frame, got: 0xff }));
}

#[test]
fn z009_the_header_of_every_kind_of_frame_is_checked() {
    let limits = Limits::default();
    let frames = [Naive::request().frame(), Naive::response(200).frame(), chunk(4, b"data"), chunk(5, b"")];
    for frame in frames {
        let size = frame.len() as u32;
        let object_len: usize = if frame[7] < 4 { 48 } else { 8 };
        let verdict = |frame: &[u8]| match frame[7] {
            1 => wire::decode_request(frame, &limits).err(),
            2 => wire::decode_response(frame, &limits).err(),
            _ => wire::decode_chunk(frame, &limits).err(),
        };
        let with = |at: usize, bytes: &[u8]| {
            let mut frame = frame.clone();
            frame[at..at + bytes.len()].copy_from_slice(bytes);
            verdict(&frame)
        };
        let root = |root: u32| Some(WireError::Root { root, object_len, size });
        assert_eq!(verdict(&frame), None);
        assert_eq!(with(3, b" "), Some(WireError::Magic));
        assert_eq!(with(4, &[0, 0]), Some(WireError::Version { version: 0 }));
        assert_eq!(with(4, &[2, 0]), None);
        assert_eq!(with(4, &[3, 0]), Some(WireError::Version { version: 3 }));
        assert_eq!(with(4, &[0xff, 0xff]), Some(WireError::Version { version: 65535 }));
        assert_eq!(with(12, &15u32.to_le_bytes()), Some(WireError::Size { size: 15, received: frame.len() }));
        let over = size + 1;
        assert_eq!(
            with(12, &over.to_le_bytes()),
            Some(WireError::Size { size: over, received: frame.len() })
        );
        assert_eq!(with(8, &0u32.to_le_bytes()), root(0));
        assert_eq!(with(8, &15u32.to_le_bytes()), root(15));
        assert_eq!(with(8, &size.to_le_bytes()), root(size));
        // The last place where the object fits, and the first where it does not.
        let last = size - object_len as u32;
        assert_ne!(with(8, &last.to_le_bytes()), root(last));
        assert_eq!(with(8, &(last + 1).to_le_bytes()), root(last + 1));
    }
}

#[test]
fn s073_z010_a_slot_of_any_field_outside_the_frame_is_refused() {
    let limits = Limits::default();
    let mut request = Naive::request().headers(&[("a", "b")]).trailers(&[("c", "d")]);
    request.body = b"body".to_vec();
    let fields = ["method", "target", "protocol", "headers", "body", "trailers"];
    for (index, field) in fields.into_iter().enumerate() {
        let frame = request.frame();
        let at = 16 + 8 * index;
        for (rel, len) in [(0xffff_ffff_u32, 1_u32), (1, 0xffff_ffff), (0xffff_fff0, 0x20), (0xffff_ffff, 0)]
        {
            let mut frame = frame.clone();
            frame[at..at + 4].copy_from_slice(&rel.to_le_bytes());
            frame[at + 4..at + 8].copy_from_slice(&len.to_le_bytes());
            let refused = wire::decode_request(&frame, &limits).map_err(|error| error.to_string());
            assert_eq!(refused, Err(format!("the slot of the {field} points outside the frame")));
        }
        // Up to the last byte, and one more.
        let rel = (frame.len() - at) as u32;
        for (rel, len, inside) in
            [(rel, 0_u32, true), (rel - 1, 1, true), (rel, 1, false), (rel - 1, 2, false)]
        {
            let mut frame = frame.clone();
            frame[at..at + 4].copy_from_slice(&rel.to_le_bytes());
            frame[at + 4..at + 8].copy_from_slice(&len.to_le_bytes());
            let refused = matches!(wire::decode_request(&frame, &limits), Err(WireError::Slot { .. }));
            assert_eq!(refused, !inside, "{field}: rel {rel}, len {len}");
        }
    }
    for kind in [4, 5] {
        let mut frame = chunk(kind, b"data");
        frame[20] = 5;
        assert!(matches!(wire::decode_chunk(&frame, &limits), Err(WireError::Slot { .. })));
    }
}

#[test]
fn z011_s074_a_lying_pair_block_is_refused_wherever_it_stands() {
    let limits = Limits::default();
    let lies: [&[u8]; 8] = [
        &[1, 0, 0],
        &[1, 0, 0, 0],
        &[1, 0, 0, 0, 2, 0, 0, 0, b'a', 0, 0, 0, 0],
        &[1, 0, 0, 0, 1, 0, 0, 0, b'a', 0, 0, 0],
        &[1, 0, 0, 0, 1, 0, 0, 0, b'a', 1, 0, 0, 0],
        &[0xff, 0, 0, 0, 1, 0, 0, 0, b'a', 0, 0, 0, 0],
        &[1, 0, 0, 0, 1, 0, 0, 0, b'a', 0, 0, 0, 0, 0],
        &[0, 0, 0, 0, 0],
    ];
    for lie in lies {
        let refused = WireError::Pairs { len: lie.len() };
        assert_eq!(Pairs::parse(lie, &limits), Err(refused));
        let headers = Naive { headers: lie.to_vec(), ..Naive::request() };
        assert_eq!(wire::decode_request(&headers.frame(), &limits), Err(refused));
        let trailers = Naive { trailers: lie.to_vec(), ..Naive::request() };
        assert_eq!(wire::decode_request(&trailers.frame(), &limits), Err(refused));
        let headers = Naive { headers: lie.to_vec(), ..Naive::response(200) };
        assert_eq!(wire::decode_response(&headers.frame(), &limits), Err(refused));
        let trailers = Naive { trailers: lie.to_vec(), ..Naive::response(200) };
        assert_eq!(wire::decode_response(&trailers.frame(), &limits), Err(refused));
        assert_eq!(wire::decode_chunk(&chunk(5, lie), &limits), Err(refused), "in an end frame");
        assert_eq!(
            wire::decode_chunk(&chunk(4, lie), &limits),
            Ok(ChunkFrame::Data(lie)),
            "data is no block"
        );
    }
    let huge = [0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0, b'a', 0, 0, 0, 0];
    let claimed = allocation_counter::measure(|| {
        let refused = WireError::TooManyPairs { count: 0xffff_ffff, limit: 256 };
        assert_eq!(Pairs::parse(&huge, &limits), Err(refused));
    });
    assert_eq!(claimed.count_total, 0, "nothing is reserved for a claim");
}

#[test]
fn s074_the_limits_on_pairs_hold_from_both_sides_and_can_be_set() {
    let pairs = |count: usize| block(&vec![(b"a".to_vec(), Vec::new()); count]);
    let limits = Limits::default();
    assert_eq!(Pairs::parse(&pairs(256), &limits).map(|pairs| pairs.len()), Ok(256));
    assert_eq!(Pairs::parse(&pairs(257), &limits), Err(WireError::TooManyPairs { count: 257, limit: 256 }));
    let two = Limits { max_pairs: 2, max_block_len: 22, ..limits };
    assert_eq!(Pairs::parse(&pairs(2), &two).map(|pairs| pairs.len()), Ok(2));
    assert_eq!(Pairs::parse(&pairs(3), &two), Err(WireError::BlockTooLong { len: 31, limit: 22 }));
    let three = Limits { max_block_len: 31, ..two };
    assert_eq!(Pairs::parse(&pairs(3), &three), Err(WireError::TooManyPairs { count: 3, limit: 2 }));
}

#[test]
fn s074_more_names_than_http_can_hold_are_refused() {
    let limits = Limits { max_pairs: 100_000, max_block_len: 8 << 20, ..Limits::default() };
    let names: Vec<_> = (0..40_000).map(|number| (format!("x-{number}").into_bytes(), Vec::new())).collect();
    let frame = Naive { headers: block(&names), ..Naive::request() }.frame();
    assert_eq!(wire::decode_request(&frame, &limits).map(|parts| parts.headers.len()), Ok(40_000));
    let refused = wire::read_request(frame.into(), &limits).expect_err("its map holds 24,576");
    assert_eq!(refused, WireError::TooManyPairs { count: 40_000, limit: 24_576 });
    let names: Vec<_> =
        (0..30_000).map(|number| (b"x-one".to_vec(), format!("{number}").into_bytes())).collect();
    let frame = Naive { trailers: block(&names), ..Naive::request() }.frame();
    let (_, trailers) = wire::read_request(frame.into(), &limits).expect("values of one name");
    assert_eq!(trailers.map(|trailers| trailers.len()), Some(30_000));
}

#[test]
fn s070_a_null_slot_and_no_block_are_no_pairs() {
    let none = Pairs::parse(&[], &Limits::default()).expect("no block");
    assert!(none.is_empty());
    assert_eq!(none.iter().next(), None);
    let zero = Pairs::parse(&[0; 4], &Limits::default()).expect("count 0");
    assert_eq!((zero.len(), zero.iter().len()), (0, 0));
    assert_eq!(zero, none);
}

#[test]
fn s075_z024_every_byte_of_a_name_and_a_value_is_judged() {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let value = |byte: u8| byte == b'\t' || (byte >= 0x20 && byte != 0x7f);
    let limits = Limits::default();
    for byte in 0..=u8::MAX {
        let name = block(&[(vec![b'x', byte, b'y'], b"v".to_vec())]);
        let accepted = Pairs::parse(&name, &limits);
        assert_eq!(accepted.is_ok(), token(byte), "byte {byte} in a name");
        assert!(token(byte) || accepted == Err(WireError::Name { index: 0 }));

        let text = block(&[(b"a".to_vec(), b"b".to_vec()), (b"x".to_vec(), vec![b'x', byte, b'y'])]);
        let accepted = Pairs::parse(&text, &limits);
        assert_eq!(accepted.is_ok(), value(byte), "byte {byte} in a value");
        assert!(value(byte) || accepted == Err(WireError::Value { index: 1 }));
    }
}

#[test]
fn s076_every_byte_of_a_method_and_a_target_is_judged() {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let limits = Limits::default();
    for byte in 0..=u8::MAX {
        let method = Naive { method: vec![b'A', byte], ..Naive::request() }.frame();
        assert_eq!(wire::decode_request(&method, &limits).is_ok(), token(byte), "byte {byte} in a method");
        let target = Naive { second: vec![b'/', byte], ..Naive::request() }.frame();
        // A fragment is no part of a request target, and would vanish on its way to the handler.
        let visible = (0x21..=0x7e).contains(&byte) && byte != b'#';
        assert_eq!(wire::decode_request(&target, &limits).is_ok(), visible, "byte {byte} in a target");
    }
}

#[test]
fn s076_a_target_has_to_go_with_its_method() {
    let limits = Limits::default();
    let read = |method: &str, target: &str| {
        let request = Naive {
            method: method.as_bytes().to_vec(),
            second: target.as_bytes().to_vec(),
            ..Naive::request()
        };
        wire::read_request(request.frame().into(), &limits).map(|(request, _)| request.uri().to_string())
    };
    let refused = |target: &str| Err(WireError::Target { len: target.len() });
    for (method, target) in [
        ("GET", "/"),
        ("GET", "/a?b=c&d=%20"),
        ("GET", "http://h.test/a"),
        ("OPTIONS", "*"),
        ("CONNECT", "h.test:443"),
        ("CONNECT", "[::1]:443"),
    ] {
        assert_eq!(read(method, target), Ok(target.to_owned()), "{method} {target}");
    }
    for (method, target) in [
        ("GET", "h.test:443"),
        ("GET", "nonsense"),
        ("GET", "http://"),
        ("GET", "?a"),
        ("CONNECT", "/"),
        ("CONNECT", "*"),
        ("CONNECT", "http://h.test/"),
    ] {
        assert_eq!(read(method, target), refused(target), "{method} {target}");
    }
}

#[test]
fn s077_the_reason_and_the_protocol_are_text() {
    let limits = Limits::default();
    for byte in 0..=u8::MAX {
        let reason = Naive { second: vec![byte], ..Naive::response(200) }.frame();
        let text = byte == b'\t' || (byte >= 0x20 && byte != 0x7f);
        assert_eq!(wire::decode_response(&reason, &limits).is_ok(), text, "byte {byte} in a reason");
        let proto = Naive { proto: vec![byte], ..Naive::request() }.frame();
        let visible = (0x21..=0x7e).contains(&byte);
        assert_eq!(wire::decode_request(&proto, &limits).is_ok(), visible, "byte {byte} in a protocol");
    }
    let none = Naive { proto: Vec::new(), second: Vec::new(), ..Naive::response(200) }.frame();
    let parts = wire::decode_response(&none, &limits).expect("both may be empty");
    assert_eq!((parts.proto, parts.reason), ("HTTP/1.1", &b""[..]));
}

#[test]
fn s077_the_protocol_becomes_a_version() {
    let limits = Limits::default();
    for (proto, version) in [
        ("HTTP/1.1", Version::HTTP_11),
        ("", Version::HTTP_11),
        ("HTTP/1.0", Version::HTTP_10),
        ("HTTP/2.0", Version::HTTP_2),
        ("HTTP/3.0", Version::HTTP_3),
        ("GOPHER", Version::HTTP_11),
    ] {
        let request = Naive { proto: proto.into(), ..Naive::request() };
        let (request, _) = wire::read_request(request.frame().into(), &limits).expect("a protocol");
        assert_eq!(request.version(), version, "{proto}");
    }
}

#[test]
fn s078_chunks_of_a_stream_are_read_as_slices_of_their_frame() {
    let limits = Limits::default();
    let frame = Bytes::from(chunk(4, b"data: 0\n\n"));
    let Ok(Chunk::Data(data)) = wire::read_chunk(frame.clone(), &limits) else { panic!("a data frame") };
    assert_eq!(data, "data: 0\n\n");
    assert_eq!(data.as_ptr(), frame[24..].as_ptr(), "the data is not copied");

    let frame = chunk(5, &block(&text_pairs(&[("X-Sum", "1"), ("Cookie", "c"), ("x-sum", "2")])));
    let Ok(Chunk::End(Some(trailers))) = wire::read_chunk(frame.into(), &limits) else { panic!("trailers") };
    assert_eq!(trailers.get_all("x-sum").iter().collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(trailers.len(), 2, "a cookie in the trailers is dropped");

    let Ok(Chunk::End(None)) = wire::read_chunk(chunk(5, b"").into(), &limits) else { panic!("no trailers") };
}

#[test]
fn s079_what_has_to_be_a_header_is_dropped_from_trailers() {
    let limits = Limits::default();
    let forbidden = [
        "Authorization",
        "Proxy-Authorization",
        "Host",
        "Content-Length",
        "Transfer-Encoding",
        "Connection",
        "Cookie",
        "Set-Cookie",
        "Trailer",
        "TE",
        "Upgrade",
        "Keep-Alive",
        "Proxy-Connection",
    ];
    for name in forbidden {
        let pairs = [(name, "trailers"), ("X-Ok", "1")];
        let request = Naive::request().trailers(&pairs).frame();
        let (request, trailers) = wire::read_request(request.into(), &limits).expect("accepted");
        assert_eq!(request.headers(), &HeaderMap::new(), "trailers stay trailers");
        let trailers = trailers.expect("X-Ok is there");
        assert_eq!((trailers.len(), &trailers["x-ok"]), (1, &HeaderValue::from_static("1")), "{name}");

        let response = Naive::response(200).trailers(&pairs[..1]).frame();
        let answer = wire::read_response(response.into(), &limits, &Method::GET);
        let Ok(Answer::Whole(response, None)) = answer else { panic!("{name} is no trailer") };
        assert_eq!(response.headers(), &HeaderMap::new());
    }
}

#[test]
fn s080_z025_the_body_slot_is_the_only_length() {
    let limits = Limits::default();
    let pairs =
        [("Connection", "close"), ("Transfer-Encoding", "chunked"), ("Content-Length", "5"), ("X", "y")];
    let mut request = Naive::request().headers(&pairs);
    request.body = b"123456789".to_vec();
    let (request, _) = wire::read_request(request.frame().into(), &limits).expect("accepted");
    assert_eq!(request.body(), "123456789");
    assert_eq!(request.headers().len(), 1, "{:?}", request.headers());
    assert_eq!(request.headers()["x"], "y");

    let mut response = Naive::response(200).headers(&pairs);
    response.body = b"123456789".to_vec();
    let answer = wire::read_response(response.frame().into(), &limits, &Method::GET);
    let Ok(Answer::Whole(response, None)) = answer else { panic!("accepted whole") };
    assert_eq!(response.body(), "123456789");
    assert_eq!(response.headers().len(), 1, "{:?}", response.headers());
}

#[test]
fn s081_of_several_hosts_the_last_is_the_only_one() {
    let request = Naive::request().headers(&[("HOST", "a"), ("X", "y"), ("host", "b"), ("Host", "c")]);
    let (request, _) = wire::read_request(request.frame().into(), &Limits::default()).expect("accepted");
    assert_eq!(request.headers().get_all("host").iter().collect::<Vec<_>>(), ["c"]);
    assert_eq!(request.headers().len(), 2);
    assert_eq!(request.uri().authority(), None, "no authority is made up");
}

#[test]
fn s086_no_refusal_repeats_a_byte_of_the_frame() {
    const MARK: &str = "smuggled";
    let limits = Limits::default();
    let marked = |text: &str| format!("{MARK}{text}{MARK}");
    let frames = [
        Naive { method: marked(" ").into(), ..Naive::request() },
        Naive { second: marked(" ").into(), ..Naive::request() },
        Naive { proto: marked("\n").into(), ..Naive::request() },
        Naive::request().headers(&[(&marked(":"), "v")]),
        Naive::request().headers(&[("n", &marked("\n"))]),
        Naive::request().trailers(&[("n", &marked("\0"))]),
        Naive { headers: marked("").into(), ..Naive::request() },
    ];
    for naive in frames {
        let refused = wire::decode_request(&naive.frame(), &limits).expect_err("each breaks a rule");
        let text = format!("{refused} {refused:?}");
        assert!(!text.contains(MARK), "{text}");
        assert!(text.is_ascii() && !text.contains('\n'), "{text}");
    }
    let reason = Naive { second: marked("\n").into(), ..Naive::response(200) };
    let refused = wire::decode_response(&reason.frame(), &limits).expect_err("a line break");
    assert!(!format!("{refused} {refused:?}").contains(MARK));
}

#[test]
fn s087_the_low_byte_of_the_flags_means_nothing() {
    let limits = Limits::default();
    let plain = Naive::request().headers(&[("a", "b")]).frame();
    let expected = wire::decode_request(&plain, &limits).expect("plain");
    for low in 0..=u8::MAX {
        let mut frame = plain.clone();
        frame[6] = low;
        assert_eq!(wire::decode_request(&frame, &limits), Ok(expected), "low byte {low}");
    }
}

#[test]
fn s088_headers_as_json_are_a_bad_pair_block() {
    let limits = Limits::default();
    for json in ["{}", r#"{"Host":["a"]}"#, r#"[["Host","a"]]"#, "null"] {
        let frame = Naive { headers: json.into(), ..Naive::request() }.frame();
        let refused = wire::decode_request(&frame, &limits).expect_err("the old wire is not spoken");
        assert!(
            matches!(refused, WireError::Pairs { .. } | WireError::TooManyPairs { .. }),
            "{json}: {refused}"
        );
    }
}

#[test]
fn z012_bytes_behind_the_size_are_ignored_and_no_slot_reaches_them() {
    let limits = Limits::default();
    let mut frame = Naive::request().frame();
    frame.extend(b"behind");
    let parts = wire::decode_request(&frame, &limits).expect("ignored");
    assert_eq!(parts.body, b"");
    // A body slot at 48 that starts where the frame ends.
    let rel = frame.len() - 6 - 48;
    frame[48..52].copy_from_slice(&(rel as u32).to_le_bytes());
    frame[52..56].copy_from_slice(&6u32.to_le_bytes());
    assert!(matches!(wire::decode_request(&frame, &limits), Err(WireError::Slot { .. })));
}

#[test]
fn nothing_is_copied_into_http_types() {
    let mut naive =
        Naive::request().headers(&[("X-Trace-Id", "0af7651916cd43dd")]).trailers(&[("X-Sum", "abc")]);
    naive.second = b"/a/long/enough/target".to_vec();
    naive.body = b"the body".to_vec();
    let frame = Bytes::from(naive.frame());
    let inside = |bytes: &[u8]| frame.as_ptr_range().contains(&bytes.as_ptr());
    let (request, trailers) = wire::read_request(frame.clone(), &Limits::default()).expect("accepted");
    assert!(inside(request.uri().path().as_bytes()));
    assert!(inside(request.headers()["x-trace-id"].as_bytes()));
    assert!(inside(request.body()));
    assert!(inside(trailers.expect("one trailer")["x-sum"].as_bytes()));
}
