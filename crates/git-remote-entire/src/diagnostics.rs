//! What is said on stderr. Stdout belongs to the protocol.

use std::error::Error;
use std::fmt::Write as _;
use std::io::Write as _;

/// The most that is shown of a text that came from somewhere else, after escaping.
pub const MAX_SHOWN: usize = 1024;

/// A text of foreign origin in one line: everything that could move a cursor, hide or forge a line becomes
/// `\u{…}`, bytes that are no UTF-8 `\xff`; cut at [`MAX_SHOWN`] bytes (S-204).
pub fn escaped(text: &[u8]) -> String {
    escape(text, false)
}

/// As [`escaped`], but line breaks and tabs stay: for a message that may hold lines from a server.
pub fn escaped_lines(text: &str) -> String {
    escape(text.as_bytes(), true)
}

fn escape(text: &[u8], lines: bool) -> String {
    const CUT: &str = " […]";
    let mut shown = String::new();
    let mut part = String::new();
    let put = |shown: &mut String, part: &str| {
        let fits = shown.len() + part.len() + CUT.len() <= MAX_SHOWN;
        shown.push_str(if fits { part } else { CUT });
        fits
    };
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            part.clear();
            match c {
                '\n' | '\t' if lines => part.push(c),
                // C0, DEL, C1; line and paragraph separators; bidi controls; zero width.
                '\0'..='\u{1f}'
                | '\u{7f}'..='\u{9f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}'
                | '\u{200b}'..='\u{200f}'
                | '\u{feff}' => drop(write!(part, "\\u{{{:x}}}", u32::from(c))),
                _ => part.push(c),
            }
            if !put(&mut shown, &part) {
                return shown;
            }
        }
        for byte in chunk.invalid() {
            part.clear();
            let _ = write!(part, "\\x{byte:02x}");
            if !put(&mut shown, &part) {
                return shown;
            }
        }
    }
    shown
}

/// An error and what it came from, in one message. A cause whose text its effect already tells is left out.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

/// Writes `fatal: <text>` and a line break to stderr. A stderr that is gone changes nothing.
pub fn fatal(text: &str) {
    say("fatal: ", text);
}

/// Writes `warning: <text>` and a line break to stderr.
pub fn warning(text: &str) {
    say("warning: ", text);
}

/// Writes a line of what `ENTIRE_DEBUG` asks for.
pub fn debug(text: &str) {
    say("[git-remote-entire] ", text);
}

fn say(prefix: &str, text: &str) {
    // One write, so that lines of this process and of a child do not mix.
    let line = format!("{prefix}{}\n", escaped_lines(text.trim_end()));
    let _ = std::io::stderr().write_all(line.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_cannot_move_the_cursor_or_forge_a_line() {
        for (row, text, shown) in [
            ("SV-L01", "a\u{1b}[31mred".as_bytes(), "a\\u{1b}[31mred"),
            ("SV-L02", b"ok\nERROR forged line", "ok\\u{a}ERROR forged line"),
            ("SV-L03", "\u{85}\u{9b}\u{2028}".as_bytes(), "\\u{85}\\u{9b}\\u{2028}"),
            ("SV-L04", "abc\u{202e}fdp.exe".as_bytes(), "abc\\u{202e}fdp.exe"),
            ("SV-L05", "pa\u{200b}ypal".as_bytes(), "pa\\u{200b}ypal"),
            ("SV-L06", b"\xff\xfe", "\\xff\\xfe"),
            ("SV-W10", b"\x1b]8;;http://x\x07\x1b[2J", "\\u{1b}]8;;http://x\\u{7}\\u{1b}[2J"),
        ] {
            assert_eq!(escaped(text), shown, "{row}");
        }
        assert_eq!(escaped_lines("a\n\tb\r\u{7f}"), "a\n\tb\\u{d}\\u{7f}", "server text keeps its lines");
    }

    #[test]
    fn sv_l07_a_long_text_is_cut_at_a_character() {
        let ascii = escaped(&vec![b'A'; 1 << 20]);
        assert!(ascii.len() <= 1024 && ascii.ends_with("A […]"), "{}", ascii.len());
        let wide = escaped("é".repeat(1000).as_bytes());
        assert!(wide.len() <= 1024 && wide.ends_with("é […]"), "{}", wide.len());
        assert_eq!(escaped(&vec![b'A'; 1000]), "A".repeat(1000), "what fits is whole");
    }
}
