//! pkt-lines, the framing of every Git dialogue (helper spec §10).
//!
//! Four hex digits say how long a packet is, themselves included. `0000`, `0001` and `0002` are signs without
//! content, `0003` means nothing, and no packet is longer than [`MAX_PACKET`].

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt};

/// The longest packet, its four length digits included.
pub const MAX_PACKET: usize = 65_520;

/// A sign that ends a message.
pub const FLUSH: &[u8] = b"0000";
/// The sign that ends an answer of protocol v2 on its way through a helper.
pub const RESPONSE_END: &[u8] = b"0002";

/// What four length digits announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the wire has these four and will have no other")]
pub enum Kind {
    /// A packet with a payload, which may be empty.
    Data,
    /// `0000`: the end of a message.
    Flush,
    /// `0001`: the end of a section.
    Delimiter,
    /// `0002`: the end of an answer.
    ResponseEnd,
}

/// Why something is no sequence of packets.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PacketError {
    /// Four bytes that announce no packet.
    #[error("bad pkt-line length {}", crate::diagnostics::escaped(digits))]
    BadLength {
        /// The four bytes.
        digits: [u8; 4],
    },
    /// The input ended inside a length.
    #[error("input ended inside a pkt-line length")]
    CutLength,
    /// The input ended inside a payload.
    #[error("input ended inside a pkt-line: {missing} bytes are missing")]
    CutPayload {
        /// How many bytes did not come.
        missing: usize,
    },
    /// A packet that would be longer than [`MAX_PACKET`].
    #[error("a pkt-line of {len} bytes exceeds the limit of {MAX_PACKET}")]
    TooLong {
        /// Its length, the length digits included.
        len: usize,
    },
    /// Reading failed.
    #[error("cannot read")]
    Read {
        /// What the reader said.
        #[source]
        source: io::Error,
    },
}

/// The kind of packet that four length digits announce, and how many bytes follow them.
///
/// # Errors
///
/// [`PacketError::BadLength`] for `0003`, for more than [`MAX_PACKET`], and for what is not hex.
pub fn header(digits: [u8; 4]) -> Result<(Kind, usize), PacketError> {
    let bad = || PacketError::BadLength { digits };
    let mut len = 0_usize;
    for digit in digits {
        // `to_digit` knows either case and no sign.
        let value = char::from(digit).to_digit(16).ok_or_else(bad)?;
        len = len * 16 + usize::try_from(value).map_err(|_| bad())?;
    }
    match len {
        0 => Ok((Kind::Flush, 0)),
        1 => Ok((Kind::Delimiter, 0)),
        2 => Ok((Kind::ResponseEnd, 0)),
        4..=MAX_PACKET => Ok((Kind::Data, len - 4)),
        _ => Err(bad()),
    }
}

/// Appends `payload` as one packet.
///
/// # Errors
///
/// [`PacketError::TooLong`]; `out` is unchanged then.
pub fn put(out: &mut Vec<u8>, payload: &[u8]) -> Result<(), PacketError> {
    let len = payload.len() + 4;
    if len > MAX_PACKET {
        return Err(PacketError::TooLong { len });
    }
    out.extend_from_slice(format!("{len:04x}").as_bytes());
    out.extend_from_slice(payload);
    Ok(())
}

/// Takes the first packet off `input`: its kind and its payload.
///
/// # Errors
///
/// As [`read`]; `input` is unchanged then. Empty input gives `None`.
pub fn take<'i>(input: &mut &'i [u8]) -> Result<Option<(Kind, &'i [u8])>, PacketError> {
    if input.is_empty() {
        return Ok(None);
    }
    let (digits, rest) = input.split_first_chunk::<4>().ok_or(PacketError::CutLength)?;
    let (kind, len) = header(*digits)?;
    let (payload, rest) =
        rest.split_at_checked(len).ok_or_else(|| PacketError::CutPayload { missing: len - rest.len() })?;
    *input = rest;
    Ok(Some((kind, payload)))
}

/// Reads one packet, its length digits included, into `packet` in place of what is there, and nothing behind it.
///
/// `None` if the input ends before the first byte. After an error `packet` holds what was read of it. Memory
/// follows what has arrived, not what is announced.
///
/// # Errors
///
/// Every variant of [`PacketError`] but [`TooLong`](PacketError::TooLong).
///
/// # Cancel safety
///
/// *Not* cancel-safe: part of a packet may have been read into `packet`.
pub async fn read<R>(input: &mut R, packet: &mut Vec<u8>) -> Result<Option<Kind>, PacketError>
where
    R: AsyncBufRead + Unpin + ?Sized,
{
    packet.clear();
    if fill(input, packet, 4).await? > 0 {
        return if packet.is_empty() { Ok(None) } else { Err(PacketError::CutLength) };
    }
    let digits = *packet.first_chunk::<4>().ok_or(PacketError::CutLength)?;
    let (kind, len) = header(digits)?;
    match fill(input, packet, len).await? {
        0 => Ok(Some(kind)),
        missing => Err(PacketError::CutPayload { missing }),
    }
}

/// The payload of a packet that [`read`] gave.
pub fn payload(packet: &[u8]) -> &[u8] {
    packet.get(4..).unwrap_or_default()
}

/// Appends `wanted` bytes; gives how many of them did not come.
async fn fill<R>(input: &mut R, packet: &mut Vec<u8>, mut wanted: usize) -> Result<usize, PacketError>
where
    R: AsyncBufRead + Unpin + ?Sized,
{
    while wanted > 0 {
        let ready = input.fill_buf().await.map_err(|source| PacketError::Read { source })?;
        if ready.is_empty() {
            break;
        }
        let part = ready.get(..wanted).unwrap_or(ready);
        packet.extend_from_slice(part);
        let len = part.len();
        input.consume(len);
        wanted -= len;
    }
    Ok(wanted)
}

/// Reads packets up to and including a flush, verbatim, behind what `message` holds.
///
/// `false`, and nothing appended, if the input ends before the first byte (G-069).
///
/// # Errors
///
/// As [`read`]; also [`PacketError::CutLength`] if the input ends between two packets.
///
/// # Cancel safety
///
/// *Not* cancel-safe: part of the message may have been read.
pub async fn read_message<R>(input: &mut R, message: &mut Vec<u8>) -> Result<bool, PacketError>
where
    R: AsyncBufRead + Unpin + ?Sized,
{
    let start = message.len();
    let mut packet = Vec::new();
    loop {
        match read(input, &mut packet).await? {
            None if message.len() == start => return Ok(false),
            None => return Err(PacketError::CutLength),
            Some(kind) => {
                message.extend_from_slice(&packet);
                if kind == Kind::Flush {
                    return Ok(true);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn message(mut input: &[u8]) -> (Result<bool, PacketError>, Vec<u8>) {
        let mut message = Vec::new();
        (read_message(&mut input, &mut message).await, message)
    }

    #[tokio::test]
    async fn g068_a_message_is_read_with_its_flush() {
        let input = b"000ahello\n000aworld\n0000";
        let (more, read) = message(input).await;
        assert!(more.unwrap());
        assert_eq!(read, input);
    }

    #[tokio::test]
    async fn g069_empty_input_is_no_message_and_no_error() {
        let (more, read) = message(b"").await;
        assert!(!more.unwrap());
        assert!(read.is_empty());
    }

    #[tokio::test]
    async fn g070_a_cut_length_is_an_error() {
        assert!(matches!(message(b"00").await.0, Err(PacketError::CutLength)));
        assert!(matches!(message(b"0005a").await.0, Err(PacketError::CutLength)), "no flush");
        assert!(matches!(message(b"0009abc").await.0, Err(PacketError::CutPayload { missing: 2 })));
    }

    #[tokio::test]
    async fn g071_delimiter_and_response_end_pass_through() {
        let input = b"000ahello\n0001000b world\n00020000";
        let (more, read) = message(input).await;
        assert!(more.unwrap());
        assert_eq!(read, input);
    }

    #[tokio::test]
    async fn a_message_takes_nothing_behind_its_flush() {
        let mut input: &[u8] = b"000ahello\n0000PACK";
        assert!(read_message(&mut input, &mut Vec::new()).await.unwrap());
        assert_eq!(input, b"PACK");
    }

    #[test]
    fn sv_w07_lengths_that_announce_nothing() {
        for digits in [b"zzzz", b"0003", b"fff1", b"fff5", b"ffff", b"+004", b" 004", b"-001", b"0x04"] {
            assert!(matches!(header(*digits), Err(PacketError::BadLength { .. })), "{digits:?}");
            let mut input: &[u8] = digits;
            assert!(take(&mut input).is_err());
            assert_eq!(input, digits);
        }
        for (digits, kind, len) in [
            (b"0000", Kind::Flush, 0),
            (b"0001", Kind::Delimiter, 0),
            (b"0002", Kind::ResponseEnd, 0),
            (b"0004", Kind::Data, 0),
            (b"000a", Kind::Data, 6),
            (b"000A", Kind::Data, 6),
            (b"fff0", Kind::Data, 65_516),
        ] {
            assert_eq!(header(*digits).unwrap(), (kind, len));
        }
        let mut input: &[u8] = b"00";
        assert!(matches!(take(&mut input), Err(PacketError::CutLength)));
    }

    #[test]
    fn a_packet_is_as_long_as_the_limit_and_not_longer() {
        let mut out = Vec::new();
        put(&mut out, &vec![b'x'; MAX_PACKET - 4]).unwrap();
        assert_eq!((out.len(), &out[..4]), (MAX_PACKET, b"fff0".as_slice()));
        let error = put(&mut out, &vec![b'x'; MAX_PACKET - 3]).unwrap_err();
        assert!(matches!(error, PacketError::TooLong { len: 65_521 }));
        assert_eq!(out.len(), MAX_PACKET, "unchanged");
    }
}
