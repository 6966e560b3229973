//! A gateway's words, made safe to print (S-204).

/// The most bytes that are kept, the mark of a cut included.
const LIMIT: usize = 1024;
const MARK: char = '…';

/// `text` with control, bidirectional and zero-width characters as `\u{…}`, cut to 1,024 bytes.
pub(crate) fn escaped(text: &str) -> String {
    let mut shown = String::new();
    let mut chars = text.chars();
    for c in chars.by_ref() {
        let before = shown.len();
        if is_dangerous(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
        if shown.len() > LIMIT {
            shown.truncate(before);
            while shown.len() + MARK.len_utf8() > LIMIT {
                shown.pop();
            }
            shown.push(MARK);
            break;
        }
    }
    shown
}

/// The same characters as in `peerage-discovery`'s `escape.rs`: neither crate depends on the other, and one for
/// these lines alone would be more to keep in step than they are.
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
    fn s204_a_gateways_words_are_escaped_and_cut() {
        assert_eq!(escaped("a\u{1b}[31mred\nERROR"), r"a\u{1b}[31mred\u{a}ERROR");
        assert_eq!(escaped("abc\u{202e}fdp.exe pa\u{200b}ypal"), r"abc\u{202e}fdp.exe pa\u{200b}ypal");
        assert_eq!(escaped("v(N ≥ 1)"), "v(N ≥ 1)", "what is no danger stays");
        assert_eq!(escaped(&"A".repeat(1024)), "A".repeat(1024), "what just fits is whole");
        assert_eq!(escaped(&"A".repeat(1 << 20)), format!("{}…", "A".repeat(1021)));
        assert_eq!(escaped(&"ä".repeat(1000)), format!("{}…", "ä".repeat(510)), "never half a character");
    }
}
