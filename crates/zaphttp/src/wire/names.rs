//! What bytes may stand where, and which headers travel.

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

impl Travel {
    /// Whether a header of this kind and value is written as any other.
    pub(super) fn allows(self, value: &[u8]) -> bool {
        match self {
            Self::Yes => true,
            Self::Te => value.trim_ascii().eq_ignore_ascii_case(b"trailers"),
            Self::Host | Self::Trailer | Self::No => false,
        }
    }
}

/// `name` in lower case, as `http::HeaderName` holds it.
pub(super) fn travel(name: &str) -> Travel {
    match name.as_bytes() {
        b"host" => Travel::Host,
        b"te" => Travel::Te,
        b"trailer" => Travel::Trailer,
        b"content-length" | b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding"
        | b"upgrade" => Travel::No,
        _ => Travel::Yes,
    }
}

/// Whether a field means something in a trailer block. What frames the message, routes it, or says who
/// sent it has to come before the body, where it is looked at (S-079, RFC 9110 §6.5.1).
pub(super) fn may_trail(name: &str) -> bool {
    travel(name) == Travel::Yes
        && !matches!(name.as_bytes(), b"authorization" | b"proxy-authorization" | b"cookie" | b"set-cookie")
}

/// RFC 9110 §5.6.2: what methods and names are made of.
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| class(byte) & TOKEN != 0)
}

/// What `http::HeaderValue` holds: any byte but controls, TAB allowed, DEL not.
pub(super) fn is_value(bytes: &[u8]) -> bool {
    // No early way out, so that the compiler looks at many bytes at once.
    !bytes.iter().fold(false, |bad, &byte| bad | ((byte < 0x20) & (byte != b'\t')) | (byte == 0x7f))
}

/// What a request line can hold. A fragment is no part of a target, and `http::Uri` would drop it silently.
pub(super) fn is_target(bytes: &[u8]) -> bool {
    !bytes.is_empty()
        && bytes.len() <= super::MAX_TARGET_LEN
        && !bytes.iter().fold(false, |bad, &byte| bad | !byte.is_ascii_graphic() | (byte == b'#'))
}

/// A protocol name, as in a status line.
pub(super) fn is_proto(bytes: &[u8]) -> bool {
    bytes.iter().all(u8::is_ascii_graphic)
}

const TOKEN: u8 = 1;

fn class(byte: u8) -> u8 {
    CLASSES.get(usize::from(byte)).copied().unwrap_or_default()
}

static CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0u8;
    loop {
        let token = byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            );
        if token {
            #[expect(clippy::indexing_slicing, reason = "256 entries, and a byte is one of them")]
            {
                classes[byte as usize] = TOKEN;
            }
        }
        if byte == u8::MAX {
            break classes;
        }
        byte += 1;
    }
};
