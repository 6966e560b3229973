//! `vectors/frames.json`: each row is a frame and what has to come of it.

use std::collections::BTreeSet;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Uri};
use peerage_zaphttp::wire::{self, Answer, Limits, Pairs, WireError};
use serde_json::Value;

use super::kit::{Naive, block, bytes_of, class, hex, pairs_of};

const FRAMES: &str = include_str!("../../vectors/frames.json");

/// Rows that are code: every byte of the base frame, each with every value.
const IN_CODE: [&str; 1] = ["SV-F60"];

fn file() -> Value {
    serde_json::from_str(FRAMES).expect("the vectors are JSON")
}

fn base(file: &Value, of: &str) -> Vec<u8> {
    hex(file[format!("{of}_base")].as_str().expect("a base frame"))
}

/// The frames of a row: one, or one for each length it is cut to.
fn frames(file: &Value, row: &Value) -> Vec<Vec<u8>> {
    let decoder = row["decoder"].as_str().unwrap_or("request");
    let mut frame = match row.get("fields") {
        Some(fields) => built(decoder, fields).frame(),
        None => base(file, row["base"].as_str().unwrap_or(decoder)),
    };
    for (offset, bytes) in row["patch"].as_object().into_iter().flatten() {
        let (offset, bytes) =
            (offset.parse::<usize>().expect("an offset"), hex(bytes.as_str().expect("hex")));
        frame[offset..offset + bytes.len()].copy_from_slice(&bytes);
    }
    if let Some(bytes) = row["append"].as_str() {
        frame.extend(hex(bytes));
    }
    let lens: Vec<usize> = match (&row["cut"], &row["cut_range"]) {
        (Value::Array(lens), _) => lens.iter().map(|len| len.as_u64().expect("a length") as usize).collect(),
        (_, Value::Array(range)) => {
            let end = |index: usize| range[index].as_u64().expect("a length") as usize;
            (end(0)..=end(1)).collect()
        }
        _ => vec![frame.len()],
    };
    lens.into_iter().map(|len| frame[..len].to_vec()).collect()
}

fn built(decoder: &str, fields: &Value) -> Naive {
    let mut naive = if decoder == "request" { Naive::request() } else { Naive::response(200) };
    for (field, value) in fields.as_object().expect("fields") {
        match field.as_str() {
            "method" => naive.method = bytes_of(value),
            "target" | "reason" => naive.second = bytes_of(value),
            "proto" => naive.proto = bytes_of(value),
            "status" => naive.status = Some(value.as_u64().expect("a number") as u16),
            "head" => naive.kind = 3,
            "headers" => naive.headers = block(&pairs_of(value)),
            "header_block" => naive.headers = hex(value.as_str().expect("hex")),
            "body" => naive.body = bytes_of(value),
            "trailers" => naive.trailers = block(&pairs_of(value)),
            other => panic!("no such field: {other}"),
        }
    }
    naive
}

/// What came of a frame: the parts that a row can ask for.
#[derive(Default)]
struct Parts {
    method: Option<String>,
    target: Option<String>,
    proto: String,
    status: Option<u16>,
    reason: Vec<u8>,
    headers: Vec<(Vec<u8>, Vec<u8>)>,
    body: Vec<u8>,
    trailers: Vec<(Vec<u8>, Vec<u8>)>,
}

fn decode(decoder: &str, frame: &[u8], limits: &Limits) -> Result<Parts, WireError> {
    let owned = |pairs: Pairs<'_>| pairs.iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect();
    if decoder == "request" {
        let parts = wire::decode_request(frame, limits)?;
        Ok(Parts {
            method: Some(parts.method.to_owned()),
            target: Some(parts.target.to_owned()),
            proto: parts.proto.to_owned(),
            headers: owned(parts.headers),
            body: parts.body.to_vec(),
            trailers: owned(parts.trailers),
            ..Parts::default()
        })
    } else {
        let parts = wire::decode_response(frame, limits)?;
        Ok(Parts {
            status: Some(parts.status),
            reason: parts.reason.to_vec(),
            proto: parts.proto.to_owned(),
            headers: owned(parts.headers),
            body: parts.body.to_vec(),
            trailers: owned(parts.trailers),
            ..Parts::default()
        })
    }
}

/// The same as `http` types.
struct Http {
    uri: Option<Uri>,
    status: Option<u16>,
    headers: HeaderMap,
    body: Bytes,
    trailers: HeaderMap,
}

fn read(decoder: &str, to: &str, frame: &[u8], limits: &Limits) -> Result<Http, WireError> {
    let frame = Bytes::copy_from_slice(frame);
    if decoder == "request" {
        let (request, trailers) = wire::read_request(frame, limits)?;
        let (head, body) = request.into_parts();
        let trailers = trailers.map(|trailers| *trailers).unwrap_or_default();
        return Ok(Http { uri: Some(head.uri), status: None, headers: head.headers, body, trailers });
    }
    let method = Method::from_bytes(to.as_bytes()).expect("a method");
    let (head, body, trailers) = match wire::read_response(frame, limits, &method)? {
        Answer::Whole(response, trailers) => {
            let (head, body) = response.into_parts();
            (head, body, trailers)
        }
        Answer::Head(response) => (response.into_parts().0, Bytes::new(), None),
    };
    let trailers = trailers.map(|trailers| *trailers).unwrap_or_default();
    Ok(Http { uri: None, status: Some(head.status.as_u16()), headers: head.headers, body, trailers })
}

fn listed(map: &HeaderMap) -> Vec<(Vec<u8>, Vec<u8>)> {
    map.iter().map(|(name, value)| (name.as_str().as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
}

fn check_parts(parts: &Parts, expected: &Value, row: &str) {
    for (part, value) in expected.as_object().expect("parts") {
        match part.as_str() {
            "method" => assert_eq!(parts.method.as_deref(), value.as_str(), "{row}"),
            "target" => assert_eq!(parts.target.as_deref(), value.as_str(), "{row}"),
            "proto" => assert_eq!(Some(parts.proto.as_str()), value.as_str(), "{row}"),
            "status" => assert_eq!(parts.status.map(u64::from), value.as_u64(), "{row}"),
            "reason" => assert_eq!(parts.reason, bytes_of(value), "{row}"),
            "headers" => assert_eq!(parts.headers, pairs_of(value), "{row}"),
            "header_count" => assert_eq!(Some(parts.headers.len() as u64), value.as_u64(), "{row}"),
            "body" => assert_eq!(parts.body, bytes_of(value), "{row}"),
            "trailers" => assert_eq!(parts.trailers, pairs_of(value), "{row}"),
            other => panic!("{row}: no such part: {other}"),
        }
    }
}

fn check_http(http: &Http, expected: &Value, row: &str) {
    for (part, value) in expected.as_object().expect("parts") {
        match part.as_str() {
            "authority" => {
                let authority = http.uri.as_ref().and_then(Uri::authority);
                assert_eq!(authority.map(http::uri::Authority::as_str), value.as_str(), "{row}");
            }
            "status" => assert_eq!(http.status.map(u64::from), value.as_u64(), "{row}"),
            "headers" => assert_eq!(listed(&http.headers), pairs_of(value), "{row}"),
            "body" => assert_eq!(http.body, bytes_of(value), "{row}"),
            "trailers" => assert_eq!(listed(&http.trailers), pairs_of(value), "{row}"),
            other => panic!("{row}: no such part: {other}"),
        }
    }
}

#[test]
fn sv_f_frames_come_to_what_their_rows_say() {
    let (file, limits) = (file(), Limits::default());
    let rows = file["rows"].as_array().expect("rows");
    for row in rows {
        let name = format!("{}, {}", row["id"], row["what"]);
        let decoder = row["decoder"].as_str().unwrap_or("request");
        for frame in frames(&file, row) {
            let decoded = decode(decoder, &frame, &limits);
            let read = read(decoder, row["to"].as_str().unwrap_or("GET"), &frame, &limits);
            if let Value::Array(classes) = &row["error"] {
                let Err(error) = decoded else { panic!("{name}: accepted") };
                assert!(classes.contains(&class(&error).into()), "{name}: refused as {error:?}");
                assert_eq!(read.err(), Some(error), "{name}: both ways to read refuse for one reason");
                if let Some(text) = row["text"].as_str() {
                    assert_eq!(error.to_string(), text, "{name}");
                }
            } else {
                let parts = decoded.unwrap_or_else(|error| panic!("{name}: {error}"));
                let http = read.unwrap_or_else(|error| panic!("{name}: {error}"));
                check_parts(&parts, &row["parts"], &name);
                if row.get("http").is_some() {
                    check_http(&http, &row["http"], &name);
                }
            }
        }
    }
}

#[test]
fn sv_f_rows_are_all_there() {
    let file = file();
    let named: BTreeSet<&str> = file["rows"]
        .as_array()
        .expect("rows")
        .iter()
        .filter_map(|row| row["id"].as_str())
        .chain(IN_CODE)
        .collect();
    let wanted: Vec<String> = (1..=67).map(|number| format!("SV-F{number:02}")).collect();
    assert_eq!(named.into_iter().collect::<Vec<_>>(), wanted);
}

/// SV-F60: every byte of the base frame replaced by each of 256 values.
#[test]
fn sv_f60_a_changed_byte_is_refused_or_means_what_it_re_encodes_to() {
    let (file, limits) = (file(), Limits::default());
    let base = base(&file, "request");
    let mut out = BytesMut::new();
    let mut accepted = 0;
    for at in 0..base.len() {
        for byte in 0..=u8::MAX {
            let mut frame = base.clone();
            frame[at] = byte;
            let Ok(parts) = wire::decode_request(&frame, &limits) else { continue };
            accepted += 1;
            out.clear();
            parts.put(&mut out, &limits).expect("what was accepted can be written");
            let again = wire::decode_request(&out[wire::PREFIX_LEN..], &limits);
            assert_eq!(again, Ok(parts), "byte {at} = {byte}");
        }
    }
    // By hand: the low byte of the flags (256), and each byte that stays what it was, at the least.
    assert!(accepted > 256 + base.len(), "only {accepted} were accepted");
}
