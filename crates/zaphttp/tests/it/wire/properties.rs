//! What holds for all frames (testing §4, L3).

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use peerage_zaphttp::wire::{
    self, Answer, ChunkFrame, Limits, Pairs, Payload, RequestFrame, ResponseFrame, WireError,
};
use proptest::collection::vec;
use proptest::prelude::*;

use super::kit::{Naive, block, chunk};

type PairList = Vec<(Vec<u8>, Vec<u8>)>;

fn name() -> impl Strategy<Value = Vec<u8>> {
    "[!#$%&'*+.^_`|~0-9A-Za-z-]{1,20}".prop_map(String::into_bytes)
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![Just(b'\t'), 0x20..=0x7e_u8, 0x80..=0xff_u8], 0..40)
}

fn pairs() -> impl Strategy<Value = PairList> {
    vec((name(), value()), 0..12)
}

fn method() -> impl Strategy<Value = String> {
    prop_oneof![Just("GET".to_owned()), "[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}"]
}

fn target() -> impl Strategy<Value = String> {
    "/[a-zA-Z0-9/._~%=&+;,:@!$'()*-]{0,60}(\\?[a-zA-Z0-9/._~%=&+-]{0,30})?"
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..100)
}

fn naive_request() -> impl Strategy<Value = Naive> {
    (method(), target(), pairs(), body(), pairs()).prop_map(|(method, target, headers, body, trailers)| {
        Naive {
            method: method.into_bytes(),
            second: target.into_bytes(),
            headers: block(&headers),
            body,
            trailers: block(&trailers),
            ..Naive::request()
        }
    })
}

fn naive_response() -> impl Strategy<Value = Naive> {
    (200..1000_u16, value(), pairs(), body(), pairs(), any::<bool>()).prop_map(
        |(status, reason, headers, body, trailers, head)| Naive {
            kind: if head { 3 } else { 2 },
            second: reason,
            headers: block(&headers),
            body: if head { Vec::new() } else { body },
            trailers: if head { Vec::new() } else { block(&trailers) },
            ..Naive::response(status)
        },
    )
}

/// Any of the frames that somebody could send.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        naive_request().prop_map(|naive| naive.frame()),
        naive_response().prop_map(|naive| naive.frame()),
        body().prop_map(|data| chunk(4, &data)),
        pairs().prop_map(|pairs| chunk(5, &block(&pairs))),
    ]
}

/// Gives a frame to every decoder; what one accepts has to be written and decoded to the same.
fn judge(frame: &[u8]) {
    let limits = Limits::default();
    let mut out = BytesMut::new();
    if let Ok(parts) = wire::decode_request(frame, &limits) {
        parts.put(&mut out, &limits).expect("what was accepted can be written");
        assert_eq!(wire::decode_request(&out[4..], &limits), Ok(parts));
    }
    out.clear();
    if let Ok(parts) = wire::decode_response(frame, &limits) {
        parts.put(&mut out, &limits).expect("what was accepted can be written");
        let again = wire::decode_response(&out[4..], &limits).expect("ours decodes");
        let reason = if parts.reason.is_empty() { again.reason } else { parts.reason };
        assert_eq!(again, ResponseFrame { reason, ..parts });
    }
    out.clear();
    if let Ok(chunk) = wire::decode_chunk(frame, &limits) {
        chunk.put(&mut out, &limits).expect("what was accepted can be written");
        assert_eq!(wire::decode_chunk(&out[4..], &limits), Ok(chunk));
    }
    let bytes = Bytes::copy_from_slice(frame);
    let refused = wire::decode_request(frame, &limits).is_err();
    assert!(wire::read_request(bytes.clone(), &limits).is_err() || !refused);
    assert_eq!(
        wire::read_response(bytes.clone(), &limits, &Method::GET).err(),
        wire::decode_response(frame, &limits).err()
    );
    assert_eq!(wire::read_chunk(bytes, &limits).err(), wire::decode_chunk(frame, &limits).err());
}

proptest! {
    #[test]
    fn a_request_written_by_hand_is_decoded_and_written_the_same(naive in naive_request()) {
        let (limits, frame) = (Limits::default(), naive.frame());
        let parts = wire::decode_request(&frame, &limits).expect("a valid request");
        prop_assert_eq!(parts.method.as_bytes(), &naive.method);
        prop_assert_eq!(parts.target.as_bytes(), &naive.second);
        prop_assert_eq!(parts.body, &naive.body);
        let list = |pairs: Pairs<'_>| -> PairList { pairs.iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect() };
        prop_assert_eq!(block(&list(parts.headers)), naive.headers);
        prop_assert_eq!(block(&list(parts.trailers)), naive.trailers);
        let mut out = BytesMut::new();
        parts.put(&mut out, &limits).expect("what was accepted can be written");
        prop_assert_eq!(&out[..4], (frame.len() as u32).to_be_bytes());
        prop_assert_eq!(&out[4..], frame);
    }

    #[test]
    fn a_response_written_by_hand_is_decoded_and_written_the_same(naive in naive_response()) {
        let (limits, frame) = (Limits::default(), naive.frame());
        let parts = wire::decode_response(&frame, &limits).expect("a valid response");
        prop_assert_eq!(Some(parts.status), naive.status);
        prop_assert_eq!(parts.is_head, naive.kind == 3);
        prop_assert_eq!((parts.reason, parts.body), (&naive.second[..], &naive.body[..]));
        let mut out = BytesMut::new();
        parts.put(&mut out, &limits).expect("what was accepted can be written");
        if !parts.reason.is_empty() {
            prop_assert_eq!(&out[4..], frame);
        }
    }

    #[test]
    fn a_request_comes_back_as_it_was_sent(
        method in method(),
        target in target(),
        pairs in pairs(),
        body in body(),
        trailers in pairs(),
    ) {
        prop_assume!(method != "CONNECT");
        let limits = Limits::default();
        let request = Request::builder().method(method.as_str()).uri(&target).body(()).expect("a request");
        let (mut head, ()) = request.into_parts();
        head.headers = map(&pairs);
        let trailers = map(&trailers);
        let mut out = BytesMut::new();
        wire::put_request(&mut out, &head, Payload::Inline(&body), Some(&trailers), &limits).expect("within limits");
        let (again, trailers_again) = wire::read_request(out.split_off(4).freeze(), &limits).expect("ours is read");
        prop_assert_eq!(again.method().as_str(), method);
        prop_assert_eq!(again.uri(), &target.parse::<Uri>().expect("a target"));
        prop_assert_eq!(again.headers(), &head.headers);
        prop_assert_eq!(again.body(), &body);
        prop_assert_eq!(*trailers_again.unwrap_or_default(), trailers);
    }

    #[test]
    fn a_response_comes_back_as_it_was_sent(
        status in 200..1000_u16,
        pairs in pairs(),
        body in body(),
        trailers in pairs(),
    ) {
        prop_assume!(![204, 304].contains(&status));
        let (limits, headers, trailers) = (Limits::default(), map(&pairs), map(&trailers));
        let status = StatusCode::from_u16(status).expect("a status");
        let mut out = BytesMut::new();
        wire::put_response(&mut out, status, &headers, Payload::Inline(&body), Some(&trailers), &limits)
            .expect("within limits");
        let answer = wire::read_response(out.split_off(4).freeze(), &limits, &Method::GET);
        let Ok(Answer::Whole(again, trailers_again)) = answer else { panic!("whole") };
        prop_assert_eq!((again.status(), again.headers()), (status, &headers));
        prop_assert_eq!(again.body(), &body);
        prop_assert_eq!(*trailers_again.unwrap_or_default(), trailers);
    }

    #[test]
    fn s070_any_bytes_are_judged_without_a_panic(bytes in vec(any::<u8>(), 0..200)) {
        judge(&bytes);
    }

    #[test]
    fn s070_any_bytes_behind_a_good_header_are_judged_without_a_panic(
        kind in 1..6_u8,
        bytes in vec(prop_oneof![Just(0), 0..64_u8, any::<u8>()], 8..200),
    ) {
        let mut frame = vec![0x5a, 0x41, 0x50, 0, 1, 0, 0, kind, 16, 0, 0, 0];
        frame.extend((16 + bytes.len() as u32).to_le_bytes());
        frame.extend(bytes);
        judge(&frame);
    }

    #[test]
    fn s070_one_changed_byte_is_refused_or_means_what_it_re_encodes_to(
        mut frame in frame(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let at = at.index(frame.len());
        frame[at] = byte;
        judge(&frame);
    }

    #[test]
    fn s070_a_frame_split_anywhere_is_not_a_frame(frame in frame()) {
        let limits = Limits::default();
        for len in 0..frame.len() {
            let part = &frame[..len];
            let refused = if len < 16 {
                WireError::TooShort { len }
            } else {
                WireError::Size { size: frame.len() as u32, received: len }
            };
            prop_assert_eq!(wire::frame_type(part), Err(refused));
            prop_assert_eq!(wire::decode_request(part, &limits), Err(refused));
            prop_assert_eq!(wire::decode_response(part, &limits), Err(refused));
            prop_assert_eq!(wire::decode_chunk(part, &limits), Err(refused));
        }
    }

    #[test]
    fn a_body_split_into_chunks_anywhere_is_the_same_body(body in body(), at in any::<prop::sample::Index>()) {
        let limits = Limits::default();
        let at = at.index(body.len() + 1);
        let mut joined: Vec<u8> = Vec::new();
        for piece in [&body[..at], &body[at..]] {
            let mut out = BytesMut::new();
            wire::put_data(&mut out, Payload::Inline(piece), &limits).expect("short");
            let Ok(ChunkFrame::Data(data)) = wire::decode_chunk(&out[4..], &limits) else { panic!("data") };
            joined.extend(data);
        }
        prop_assert_eq!(joined, body);
    }

    #[test]
    fn raw_parts_written_and_decoded_are_the_same(pairs in pairs(), body in body(), target in target()) {
        let limits = Limits::default();
        let mut written = BytesMut::new();
        wire::put_pairs(&mut written, pairs.iter().map(|(n, v)| (&n[..], &v[..])), &limits).expect("valid pairs");
        prop_assert_eq!(&written[..], block(&pairs));
        let headers = Pairs::parse(&written, &limits).expect("ours is parsed");
        let parts = RequestFrame { method: "PUT", target: &target, proto: "HTTP/1.1", headers, body: &body, trailers: headers };
        let mut out = BytesMut::new();
        parts.put(&mut out, &limits).expect("valid parts");
        prop_assert_eq!(wire::decode_request(&out[4..], &limits), Ok(parts));
    }
}

/// The pairs that travel in every block: none of them is special by its name.
fn map(pairs: &PairList) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        let name = HeaderName::from_bytes(&[b"x-", &name[..]].concat()).expect("a token");
        map.append(name, HeaderValue::from_bytes(value).expect("a value"));
    }
    map
}
