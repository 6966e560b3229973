//! A second, naive writer of frames and readers of the vector files, independent of the code under test.

use peerage_zaphttp::wire::WireError;
use serde_json::Value;

/// The parts of a frame of six slots, written in the order of zaphttp §2.
#[derive(Clone, Debug)]
pub(super) struct Naive {
    pub(super) kind: u8,
    /// The status of a response; none in a request.
    pub(super) status: Option<u16>,
    pub(super) method: Vec<u8>,
    /// Target or reason.
    pub(super) second: Vec<u8>,
    pub(super) proto: Vec<u8>,
    pub(super) headers: Vec<u8>,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Vec<u8>,
}

impl Naive {
    pub(super) fn request() -> Self {
        Self {
            kind: 1,
            status: None,
            method: b"GET".to_vec(),
            second: b"/".to_vec(),
            proto: b"HTTP/1.1".to_vec(),
            headers: Vec::new(),
            body: Vec::new(),
            trailers: Vec::new(),
        }
    }

    pub(super) fn response(status: u16) -> Self {
        Self { kind: 2, status: Some(status), second: b"OK".to_vec(), method: Vec::new(), ..Self::request() }
    }

    pub(super) fn headers(self, pairs: &[(&str, &str)]) -> Self {
        Self { headers: block(&text_pairs(pairs)), ..self }
    }

    pub(super) fn trailers(self, pairs: &[(&str, &str)]) -> Self {
        Self { trailers: block(&text_pairs(pairs)), ..self }
    }

    /// The frame without its prefix.
    pub(super) fn frame(&self) -> Vec<u8> {
        let fields = [&self.method, &self.second, &self.proto, &self.headers, &self.body, &self.trailers];
        let mut object = Vec::new();
        let mut tail = Vec::new();
        for (index, field) in fields.into_iter().enumerate() {
            match self.status {
                Some(status) if index == 0 => object.extend(u64::from(status).to_le_bytes()),
                _ if field.is_empty() => object.extend([0; 8]),
                _ => {
                    let rel = 48 - 8 * index + tail.len();
                    object.extend((rel as u32).to_le_bytes());
                    object.extend((field.len() as u32).to_le_bytes());
                    tail.extend(field);
                }
            }
        }
        frame(self.kind, &[object, tail].concat())
    }
}

/// A data or end frame.
pub(super) fn chunk(kind: u8, data: &[u8]) -> Vec<u8> {
    let slot = if data.is_empty() { [0; 8] } else { (8 + ((data.len() as u64) << 32)).to_le_bytes() };
    frame(kind, &[&slot, data].concat())
}

fn frame(kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x5a, 0x41, 0x50, 0, 1, 0, 0, kind, 16, 0, 0, 0];
    frame.extend((16 + rest.len() as u32).to_le_bytes());
    frame.extend(rest);
    frame
}

/// A pair block of these pairs, count and all; no pairs are no block.
pub(super) fn block(pairs: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    if pairs.is_empty() {
        return Vec::new();
    }
    let mut block = (pairs.len() as u32).to_le_bytes().to_vec();
    for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
        block.extend((text.len() as u32).to_le_bytes());
        block.extend(text);
    }
    block
}

pub(super) fn text_pairs(pairs: &[(&str, &str)]) -> Vec<(Vec<u8>, Vec<u8>)> {
    pairs.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
}

pub(super) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().filter_map(|digit| digit.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// `text`, or `{ "repeat": text, "times": n }`; a character up to U+00FF is the byte of that number.
pub(super) fn bytes_of(value: &Value) -> Vec<u8> {
    match value {
        Value::String(text) => text
            .chars()
            .map(|char| u8::try_from(u32::from(char)).expect("a character up to U+00FF"))
            .collect(),
        repeat => bytes_of(&repeat["repeat"]).repeat(times(repeat)),
    }
}

/// `[[name, value], …]`, or `{ "repeat": [name, value], "times": n }`.
pub(super) fn pairs_of(value: &Value) -> Vec<(Vec<u8>, Vec<u8>)> {
    match value {
        Value::Array(pairs) => pairs.iter().map(|pair| (bytes_of(&pair[0]), bytes_of(&pair[1]))).collect(),
        repeat => {
            let pair = (bytes_of(&repeat["repeat"][0]), bytes_of(&repeat["repeat"][1]));
            vec![pair; times(repeat)]
        }
    }
}

fn times(repeat: &Value) -> usize {
    repeat["times"].as_u64().expect("a repeat has times") as usize
}

/// The class of a refusal, as the vector files name it.
pub(super) fn class(error: &WireError) -> &'static str {
    match error {
        WireError::EmptyFrame => "empty",
        WireError::FrameTooLong { .. } => "frame too long",
        WireError::TooShort { .. } => "too short",
        WireError::Magic => "magic",
        WireError::Version { .. } => "version",
        WireError::Size { .. } => "size",
        WireError::Type { .. } => "type",
        WireError::Root { .. } => "root",
        WireError::Slot { .. } => "slot",
        WireError::Method { .. } => "method",
        WireError::Target { .. } => "target",
        WireError::Proto { .. } => "proto",
        WireError::Status { .. } => "status",
        WireError::NotFinal { .. } => "not final",
        WireError::Reason { .. } => "reason",
        WireError::BodyInHead { .. } => "body in head",
        WireError::TrailersInHead { .. } => "trailers in head",
        WireError::Pairs { .. } => "pairs",
        WireError::TooManyPairs { .. } => "too many",
        WireError::BlockTooLong { .. } => "too long",
        WireError::Name { .. } => "name",
        WireError::Value { .. } => "value",
        other => panic!("a class without a name: {other:?}"),
    }
}
