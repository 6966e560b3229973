//! What bytes may stand where, and which headers travel.

use http::{HeaderName, header};

/// How a header is treated on its way into or out of a frame (zaphttp §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Travel {
    /// As it is.
    Yes,
    /// Exactly one: the last.
    Host,
    /// Only when its value is `trailers`.
    Te,
    /// Declares which names belong into the trailer block; does not travel itself.
    Trailer,
    /// Not at all: a second length, or a matter of one HTTP/1 connection.
    No,
}

/// `name` in lower case, as `http::HeaderName` holds it.
#[inline(always)]
pub(super) fn travel(name: &str) -> Travel {
    // By length alone most names are none of these, and this is asked of every header.
    if name.len() > 17 || SPECIAL_LENS & 1 << name.len() == 0 { Travel::Yes } else { special(name) }
}

/// A name that is often seen. To know it again costs less than to check and to spell it, and one that no
/// standard has is not copied.
pub(super) fn common(name: &[u8]) -> Option<HeaderName> {
    Some(match name {
        b"accept" => header::ACCEPT,
        b"host" => header::HOST,
        b"user-agent" => header::USER_AGENT,
        b"content-type" => header::CONTENT_TYPE,
        b"authorization" => header::AUTHORIZATION,
        b"peerage-timeout-ms" => TIMEOUT,
        b"traceparent" => TRACEPARENT,
        _ => return None,
    })
}

const TIMEOUT: HeaderName = HeaderName::from_static("peerage-timeout-ms");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

fn special(name: &str) -> Travel {
    match name.as_bytes() {
        b"host" => Travel::Host,
        b"te" => Travel::Te,
        b"trailer" => Travel::Trailer,
        b"content-length" | b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding"
        | b"upgrade" => Travel::No,
        _ => Travel::Yes,
    }
}

/// The lengths of the names in [`travel`], a bit each.
const SPECIAL_LENS: u32 = 1 << 2 | 1 << 4 | 1 << 7 | 1 << 10 | 1 << 14 | 1 << 16 | 1 << 17;

/// Whether a field means something in a trailer block. What frames the message, routes it, or says who
/// sent it has to come before the body, where it is looked at (S-079, RFC 9110 §6.5.1).
pub(super) fn may_trail(name: &str) -> bool {
    travel(name) == Travel::Yes
        && !matches!(name.as_bytes(), b"authorization" | b"proxy-authorization" | b"cookie" | b"set-cookie")
}

/// A value of `TE` that means something on this wire.
pub(super) fn is_trailers(value: &[u8]) -> bool {
    value.trim_ascii().eq_ignore_ascii_case(b"trailers")
}

/// RFC 9110 §5.6.2: what methods and names are made of.
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().fold(true, |good, &byte| good & is_token_byte(byte))
}

/// What `http::HeaderValue` holds: any byte but controls, TAB allowed, DEL not.
pub(super) fn is_value(bytes: &[u8]) -> bool {
    let suspicious = |word| below(word, 0x20) | equals(word, 0x7f);
    !any_word(bytes, b' ', suspicious)
        || bytes.iter().all(|&byte| byte == b'\t' || (byte >= 0x20 && byte != 0x7f))
}

/// What a request line can hold. A fragment is no part of a target, and `http::Uri` would drop it silently.
pub(super) fn is_target(bytes: &[u8]) -> bool {
    let refused = |word| not_graphic(word) | equals(word, b'#');
    !bytes.is_empty() && bytes.len() <= super::MAX_TARGET_LEN && !any_word(bytes, b'/', refused)
}

/// A protocol name, as in a status line.
pub(super) fn is_proto(bytes: &[u8]) -> bool {
    !any_word(bytes, b'/', not_graphic)
}

/// Whether `found` is not zero for any eight bytes; short ones are filled up with `filler`.
///
/// Most names and values are a few words long, where this is faster than bytes one by one and faster than
/// what the compiler makes of a loop over them.
fn any_word(bytes: &[u8], filler: u8, found: impl Fn(u64) -> u64) -> bool {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut all = words.iter().fold(0, |all, word| all | found(u64::from_le_bytes(*word)));
    if let Some(last) = bytes.last_chunk::<8>() {
        all |= found(u64::from_le_bytes(*last));
    } else {
        let mut last = [filler; 8];
        for (place, byte) in last.iter_mut().zip(rest) {
            *place = *byte;
        }
        all |= found(u64::from_le_bytes(last));
    }
    all != 0
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// Not zero if any byte of `word` is below `limit`, which is at most 0x80.
fn below(word: u64, limit: u8) -> u64 {
    // A borrow can only come out of a byte that is below, so a wrong hit always stands beside a right one.
    word.wrapping_sub(ONES * u64::from(limit)) & !word & HIGH
}

/// Not zero if any byte of `word` is `byte`.
fn equals(word: u64, byte: u8) -> u64 {
    below(word ^ (ONES * u64::from(byte)), 1)
}

/// Not zero if any byte of `word` is not visible ASCII.
fn not_graphic(word: u64) -> u64 {
    below(word, 0x21) | equals(word, 0x7f) | (word & HIGH)
}

fn is_token_byte(byte: u8) -> bool {
    TOKEN_BYTES.get(usize::from(byte)).copied().unwrap_or_default()
}

static TOKEN_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut rest: &[u8] = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    while let [byte, behind @ ..] = rest {
        #[expect(clippy::indexing_slicing, reason = "256 entries, and a byte is one of them")]
        {
            table[*byte as usize] = true;
        }
        rest = behind;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    /// Every byte at every place of texts of up to three words, among bytes that are fine.
    #[test]
    fn s075_s076_a_byte_is_judged_wherever_it_stands() {
        for len in 1..=24 {
            for at in 0..len {
                for byte in 0..=u8::MAX {
                    let mut text = vec![b'x'; len];
                    text[at] = byte;
                    let value = byte == b'\t' || (byte >= 0x20 && byte != 0x7f);
                    let graphic = (0x21..=0x7e).contains(&byte);
                    assert_eq!(is_value(&text), value, "byte {byte} at {at} of {len} in a value");
                    assert_eq!(
                        is_target(&text),
                        graphic && byte != b'#',
                        "byte {byte} at {at} of {len} in a target"
                    );
                    assert_eq!(is_proto(&text), graphic, "byte {byte} at {at} of {len} in a protocol");
                }
            }
        }
    }

    /// A hit may not hide or make up another one beside it.
    #[test]
    fn s075_s076_two_bytes_are_judged_side_by_side() {
        for first in 0..=u8::MAX {
            for second in 0..=u8::MAX {
                let text = [b'x', first, second, b'x', b'x', b'x', b'x', b'x'];
                let value = |byte| byte == b'\t' || (byte >= 0x20 && byte != 0x7f);
                let target = |byte| (0x21..=0x7e).contains(&byte) && byte != b'#';
                assert_eq!(is_value(&text), value(first) && value(second), "{first}, {second}");
                assert_eq!(is_target(&text), target(first) && target(second), "{first}, {second}");
            }
        }
    }

    #[test]
    fn a_common_name_is_the_one_that_is_spelt() {
        let names = [
            "accept",
            "host",
            "user-agent",
            "content-type",
            "authorization",
            "peerage-timeout-ms",
            "traceparent",
        ];
        for name in names {
            assert_eq!(common(name.as_bytes()), Some(HeaderName::from_static(name)));
            let other = name.replacen('e', "E", 1).replacen("ho", "Ho", 1).replacen("au", "Au", 1);
            assert_eq!(common(other.as_bytes()), None, "{other} is the business of who knows case");
        }
        assert_eq!(common(b""), None);
    }

    #[test]
    fn nothing_is_a_value_and_a_protocol_but_no_token_and_no_target() {
        assert!(is_value(b"") && is_proto(b""));
        assert!(!is_token(b"") && !is_target(b""));
    }

    #[test]
    fn z025_names_of_the_connection_do_not_travel_and_their_neighbours_do() {
        for name in
            ["content-length", "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"]
        {
            assert_eq!(travel(name), Travel::No, "{name}");
            for neighbour in [format!("x{name}"), format!("{name}x"), name.replacen('e', "x", 1)] {
                assert_eq!(travel(&neighbour), Travel::Yes, "{neighbour}");
            }
        }
        assert_eq!(
            [travel("host"), travel("te"), travel("trailer")],
            [Travel::Host, Travel::Te, Travel::Trailer]
        );
        assert_eq!(travel(&"x".repeat(100)), Travel::Yes);
    }
}
