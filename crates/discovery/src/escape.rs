//! Text of foreign origin, made safe to print.
//!
//! Node ids, metadata and names come from whoever is on the network. Printed as they are, they could
//! clear a terminal, forge a log line, or turn the direction of the text around them (S-204).

use std::fmt::{self, Display, Formatter, Write};

/// The most bytes that are shown, the mark of a cut included.
const LIMIT: usize = 1024;
/// Ends a text that was cut.
const MARK: &str = "…";

/// Shows `text` with control, bidirectional and zero-width characters as `\u{…}`, cut to 1,024 bytes.
pub fn escape(text: &str) -> impl Display + '_ {
    Escaped(text.as_bytes())
}

/// Shows `bytes` as [`escape`] does; what is not UTF-8 appears as `\xff`.
pub fn escape_bytes(bytes: &[u8]) -> impl Display + '_ {
    Escaped(bytes)
}

struct Escaped<'a>(&'a [u8]);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        // What fits into the limit is written whole. Of what does not, as much is written as leaves
        // room for the mark; hence the length is known before the first byte goes out.
        let room = if fits(self.0) { LIMIT } else { LIMIT - MARK.len() };
        let mut used = 0;
        for piece in pieces(self.0) {
            used += piece.len();
            if used > room {
                return f.write_str(MARK);
            }
            piece.write(f)?;
        }
        Ok(())
    }
}

fn fits(bytes: &[u8]) -> bool {
    // No piece is shorter than the bytes it stands for.
    bytes.len() <= LIMIT && pieces(bytes).map(Piece::len).sum::<usize>() <= LIMIT
}

/// What is never split by the cut.
#[derive(Clone, Copy)]
enum Piece {
    Plain(char),
    Escaped(char),
    Byte(u8),
}

impl Piece {
    fn len(self) -> usize {
        match self {
            Self::Plain(c) => c.len_utf8(),
            Self::Escaped(c) => c.escape_unicode().len(),
            Self::Byte(_) => r"\xff".len(),
        }
    }

    fn write(self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(c) => f.write_char(c),
            Self::Escaped(c) => write!(f, "{}", c.escape_unicode()),
            Self::Byte(byte) => write!(f, "\\x{byte:02x}"),
        }
    }
}

fn pieces(bytes: &[u8]) -> impl Iterator<Item = Piece> + '_ {
    bytes.utf8_chunks().flat_map(|chunk| {
        let valid =
            chunk.valid().chars().map(|c| if is_dangerous(c) { Piece::Escaped(c) } else { Piece::Plain(c) });
        valid.chain(chunk.invalid().iter().copied().map(Piece::Byte))
    })
}

fn is_dangerous(c: char) -> bool {
    // `is_control` is C0, DEL and C1.
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}')
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s204_foreign_text_is_shown_escaped() {
        let rows: &[(&str, &[u8], &str)] = &[
            ("SV-L01", b"a\x1b[31mred", r"a\u{1b}[31mred"),
            ("SV-L02", b"ok\nERROR forged line", r"ok\u{a}ERROR forged line"),
            ("SV-L03", "\u{85}\u{9b}\u{2028}".as_bytes(), r"\u{85}\u{9b}\u{2028}"),
            ("SV-L04", "abc\u{202e}fdp.exe".as_bytes(), r"abc\u{202e}fdp.exe"),
            ("SV-L05", "pa\u{200b}ypal".as_bytes(), r"pa\u{200b}ypal"),
            ("SV-L06", b"\xff\xfe", r"\xff\xfe"),
            ("S-204: what is no danger stays", "Zürich-1 \\n ✓".as_bytes(), "Zürich-1 \\n ✓"),
            ("S-204: DEL", b"\x7f", r"\u{7f}"),
            ("S-204: line breaks and tabs too", b"\r\t\0", r"\u{d}\u{9}\u{0}"),
            (
                "S-204: every class from both ends",
                "\u{2029}\u{202a}\u{2066}\u{2069}\u{200f}\u{feff}".as_bytes(),
                r"\u{2029}\u{202a}\u{2066}\u{2069}\u{200f}\u{feff}",
            ),
            (
                "S-204: their neighbours are shown",
                "\u{200a}\u{2010}\u{2027}\u{202f}\u{2065}\u{206a}\u{a0}".as_bytes(),
                "\u{200a}\u{2010}\u{2027}\u{202f}\u{2065}\u{206a}\u{a0}",
            ),
        ];
        for (row, text, shown) in rows {
            assert_eq!(escape_bytes(text).to_string(), *shown, "{row}");
        }
    }

    #[test]
    fn sv_l07_long_text_is_cut_at_1024_bytes_with_a_mark() {
        assert_eq!("SV-L07".len(), 6);
        let cut = escape(&"A".repeat(1 << 20)).to_string();
        assert_eq!(cut, format!("{}…", "A".repeat(1021)));
        assert_eq!(escape(&"A".repeat(1024)).to_string(), "A".repeat(1024), "what just fits is whole");
        assert_eq!(escape(&"A".repeat(1025)).to_string().len(), 1024);
        // 1,021 bytes of room: 510 characters of two bytes, never half of one.
        assert_eq!(escape(&"ä".repeat(1000)).to_string(), format!("{}…", "ä".repeat(510)));
        // 1,021 bytes of room: 204 escapes of five bytes (`\u{1}`), never part of one.
        assert_eq!(escape(&"\u{1}".repeat(1000)).to_string(), format!("{}…", r"\u{1}".repeat(204)));
    }
}
