//! The strings of a TXT record, from anybody: the limits hold, the first of equal keys counts, and nothing is printed
//! as it came.

use allocation_counter::measure;
use peerage_discovery::mdns::txt_pairs;
use peerage_discovery::{MAX_KEY, MAX_PAIRS, MAX_VALUE, Metadata, escape_bytes};

/// The most bytes that are shown of one text.
const SHOWN: usize = 1024;

/// A list of byte strings, each behind its length: one byte, or 255 and a byte that is added.
pub fn txt_records(data: &[u8]) {
    let strings = strings(data);
    let mut read = None;
    let used = measure(|| read = Some(txt_pairs(strings.iter().copied())));
    let (metadata, cut) = read.expect("it was read a moment ago");
    assert!(used.bytes_total <= 4 * data.len() as u64 + 16 * 1024, "{} bytes", used.bytes_total);

    assert!(metadata.len() <= MAX_PAIRS);
    assert!(metadata.len() + cut <= strings.len());
    assert_eq!(metadata.iter().count(), metadata.len());
    let mut rest = strings.iter();
    for (index, (key, value)) in metadata.iter().enumerate() {
        assert!((1..=MAX_KEY).contains(&key.len()));
        assert!(key.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'='), "{key:?}");
        assert!(value.is_none_or(|value| value.len() <= MAX_VALUE));
        assert!(
            !metadata.iter().take(index).any(|(other, _)| other.eq_ignore_ascii_case(key)),
            "{key:?} twice"
        );
        assert!(metadata.flag(key) && metadata.get(key) == value);
        let string = string_of(key, value);
        assert!(rest.any(|candidate| **candidate == *string), "{key:?} is not in its place");
        if let Some(token) = metadata.token(key) {
            assert!((1..=64).contains(&token.len()) && token.bytes().any(|byte| byte != b'.'));
            assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)));
        }
        let shown = escape_bytes(value.unwrap_or_default()).to_string();
        assert!(shown.len() <= SHOWN);
    }
    for shown in [metadata.to_string(), format!("{metadata:?}")] {
        assert!(!shown.contains(is_unsafe), "{shown:?}");
    }

    // What was read obeys the rules for what a program says about itself, and comes back as it is.
    let ours = metadata.iter().fold(Metadata::builder(), |builder, (key, value)| match value {
        Some(value) => builder.pair(key, value),
        None => builder.flag(key),
    });
    assert_eq!(ours.build().expect("what was accepted can be announced"), metadata);
    let again: Vec<Vec<u8>> = metadata.iter().map(|(key, value)| string_of(key, value)).collect();
    assert_eq!(txt_pairs(again.iter().map(Vec::as_slice)), (metadata, 0));
}

fn strings(mut data: &[u8]) -> Vec<&[u8]> {
    let mut strings = Vec::new();
    while let Some((len, rest)) = data.split_first() {
        let (more, rest) = match (len, rest.split_first()) {
            (255, Some((more, rest))) => (*more, rest),
            _ => (0, rest),
        };
        let len = usize::from(*len) + usize::from(more);
        let (string, rest) = rest.split_at(len.min(rest.len()));
        strings.push(string);
        data = rest;
    }
    strings
}

fn string_of(key: &str, value: Option<&[u8]>) -> Vec<u8> {
    match value {
        Some(value) => [key.as_bytes(), b"=", value].concat(),
        None => key.as_bytes().to_vec(),
    }
}

/// What S-204 wants escaped.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}
