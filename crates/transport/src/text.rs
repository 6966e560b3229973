//! Texts of foreign origin, made fit for a terminal and a log (transport §13.3, S-204).

use std::fmt::Write as _;

use crate::error::ProxyError;

/// How much of an error body is read, and how long a foreign text may be in a message.
pub(crate) const MAX_TEXT: usize = 1024;

/// What stands where a text was cut.
const CUT: &str = "…";

/// A server's error body as a text of one or more lines; `None` if it says nothing to a person.
pub(crate) fn server_text(body: &[u8], content_type: Option<&str>) -> Option<String> {
    let body = body.get(..MAX_TEXT).unwrap_or(body);
    // A character that the limit cuts in two is left out, not shown as broken bytes.
    let body = match std::str::from_utf8(body) {
        Err(error) if error.error_len().is_none() => body.get(..error.valid_up_to()).unwrap_or(body),
        _ => body,
    };
    let html = content_type.is_some_and(|value| {
        value.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("text/html")
    });
    let body = body.trim_ascii();
    if html || body.is_empty() || body.starts_with(b"<") {
        return None;
    }
    Some(escape(body, true))
}

/// A text of foreign origin in one line: what could move a cursor, turn a text around or fake a line is
/// written as `\u{…}`, bytes that are no text as `\x…`, and the end is cut off at 1,024 bytes.
pub fn one_line(text: impl AsRef<[u8]>) -> String {
    escape(text.as_ref(), false)
}

fn escape(bytes: &[u8], keep_lines: bool) -> String {
    let shown = bytes.get(..MAX_TEXT).unwrap_or(bytes);
    let mut out = String::new();
    // Where the text can end so that the mark of a cut still fits.
    let mut room_for_mark = 0;
    let mut piece_done = |out: &String| {
        if out.len() <= MAX_TEXT - CUT.len() {
            room_for_mark = out.len();
        }
    };
    for chunk in shown.utf8_chunks() {
        for character in chunk.valid().chars() {
            if is_harmless(character) || (keep_lines && matches!(character, '\n' | '\t')) {
                out.push(character);
            } else {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{{{:x}}}", u32::from(character));
            }
            piece_done(&out);
        }
        // The limit may have cut a character in two: its first bytes are not broken ones.
        let is_cut_short = shown.len() < bytes.len() && shown.ends_with(chunk.invalid());
        for byte in chunk.invalid().iter().filter(|_| !is_cut_short) {
            let _ = write!(out, "\\x{byte:02x}");
            piece_done(&out);
        }
    }
    if out.len() > MAX_TEXT || shown.len() < bytes.len() {
        out.truncate(room_for_mark);
        out.push_str(CUT);
    }
    out
}

fn is_harmless(character: char) -> bool {
    !character.is_control()
        && !matches!(u32::from(character),
            0x200b..=0x200f | 0x2028..=0x202e | 0x2066..=0x2069 | 0xfeff)
}

/// `: text`, or what stands there without one.
pub(crate) fn or(text: Option<&str>, otherwise: &str) -> String {
    text.map_or_else(|| otherwise.to_owned(), |text| format!(": {text}"))
}

/// ` (text)` of a second error beside the one in the source chain.
pub(crate) fn aside(error: Option<&ProxyError>) -> String {
    error.map(|error| format!(" (its own target: {})", error.chain())).unwrap_or_default()
}

/// The end of the text of [`ProxyError::PushTooLarge`]; other tools look for its beginning.
pub(crate) fn too_large(size: i64, limit: i64, server_msg: &str) -> String {
    if limit > 0 {
        format!("size {size} exceeds limit {limit}")
    } else if server_msg.is_empty() {
        "the server did not name its limit".to_owned()
    } else {
        server_msg.to_owned()
    }
}

/// The numbers in `declared size <digits> exceeds limit <digits>`.
pub(crate) fn declared_size(text: &str) -> Option<(i64, i64)> {
    const BEFORE: &str = "declared size ";
    const BETWEEN: &str = " exceeds limit ";
    text.match_indices(BEFORE).find_map(|(at, _)| {
        let rest = text.get(at + BEFORE.len()..)?;
        let (size, rest) = rest.split_once(BETWEEN)?;
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let limit = rest.get(..end)?;
        (digits(size) && digits(limit)).then(|| Some((size.parse().ok()?, limit.parse().ok()?)))?
    })
}
