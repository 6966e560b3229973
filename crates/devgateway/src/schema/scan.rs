//! A first look at protobuf source: which imports it has and where, and how deep it nests.
//!
//! The compiler recurses as deep as its input nests, so what nests too deep must not reach it.

/// Deeper than any hand writes; protoc stops at 32 for messages.
const NESTING_MAX: usize = 100;

/// What the scan found.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) imports: Vec<Import>,
    /// Where the statement `edition = "2023"` stands, without its semicolon.
    pub(super) edition: Option<(usize, usize)>,
}

/// One `import` statement.
#[derive(Debug)]
pub(super) struct Import {
    pub(super) name: String,
    /// Of the opening quote; both count from 1.
    pub(super) line: usize,
    pub(super) column: usize,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Token<'s> {
    Word(&'s str),
    Text(&'s str),
    Mark(char),
}

/// Reads `source`. None: it nests too deep to be compiled.
pub(super) fn scan(source: &str) -> Option<Scan> {
    let mut found = Scan::default();
    let mut open = [0_usize; 4];
    let mut statement: Vec<(usize, Token<'_>)> = Vec::new();
    let mut rest = source;
    while let Some((at, token, after)) = next(source, rest) {
        rest = after;
        if let Token::Mark(mark) = token {
            // Each by itself: a closing mark of another sort must not hide an open one.
            for (open, (opening, closing)) in
                open.iter_mut().zip([('{', '}'), ('[', ']'), ('(', ')'), ('<', '>')])
            {
                *open += usize::from(mark == opening);
                *open = open.saturating_sub(usize::from(mark == closing));
            }
        }
        let depth: usize = open.iter().sum();
        if depth > NESTING_MAX {
            return None;
        }
        if depth > 0 {
            statement.clear();
            continue;
        }
        match token {
            Token::Mark(';') => {
                found.statement(source, &statement);
                statement.clear();
            }
            Token::Mark('}') => statement.clear(),
            // Longer ones are neither imports nor an edition.
            _ if statement.len() < 4 => statement.push((at, token)),
            _ => {}
        }
    }
    Some(found)
}

impl Scan {
    fn statement(&mut self, source: &str, tokens: &[(usize, Token<'_>)]) {
        match *tokens {
            [(_, Token::Word("import")), (at, Token::Text(name))]
            | [(_, Token::Word("import")), (_, Token::Word("public" | "weak")), (at, Token::Text(name))] => {
                let (line, column) = position(source, at);
                self.imports.push(Import { name: name.to_owned(), line, column });
            }
            [(from, Token::Word("edition")), (_, Token::Mark('=')), (at, Token::Text(text @ "2023"))] => {
                self.edition = Some((from, at + text.len() + 2));
            }
            _ => {}
        }
    }
}

/// Line and column of a byte, both from 1; the column counts bytes.
pub(super) fn position(source: &str, at: usize) -> (usize, usize) {
    let before = source.get(..at).unwrap_or(source);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().len() + 1;
    (line, column)
}

/// The next token, where it begins, and what follows it.
pub(super) fn next<'s>(source: &'s str, mut rest: &'s str) -> Option<(usize, Token<'s>, &'s str)> {
    loop {
        rest = rest.trim_start();
        if let Some(comment) = rest.strip_prefix("//") {
            rest = comment.split_once('\n').map_or("", |(_, after)| after);
        } else if let Some(comment) = rest.strip_prefix("/*") {
            rest = comment.split_once("*/").map_or("", |(_, after)| after);
        } else {
            break;
        }
    }
    let at = source.len() - rest.len();
    let first = rest.chars().next()?;
    if first == '"' || first == '\'' {
        let inside = rest.get(1..)?;
        let end = end_of_text(inside, first);
        return Some((at, Token::Text(inside.get(..end)?), inside.get(end + 1..).unwrap_or_default()));
    }
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.');
    if is_word(first) {
        let end = rest.find(|c: char| !is_word(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        return Some((at, Token::Word(word), after));
    }
    Some((at, Token::Mark(first), rest.get(first.len_utf8()..)?))
}

/// Length of what stands before the closing quote, the end of the line, or the end of all.
fn end_of_text(inside: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in inside.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '\n' => return at,
            _ if c == quote => return at,
            _ => {}
        }
    }
    inside.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_are_found_where_they_stand_and_not_in_comments_or_texts() {
        let source = "syntax=\"proto3\"; import \"a.proto\";\n// import \"no.proto\";\n/* import \"no.proto\"; */\n \
                      import public 'b.proto'; option x = \"import \\\"no.proto\\\";\"; message M { string import = 1; }";
        let scan = scan(source).expect("it is flat");
        let imports: Vec<_> =
            scan.imports.iter().map(|import| (import.name.as_str(), import.line, import.column)).collect();
        assert_eq!(imports, [("a.proto", 1, 25), ("b.proto", 4, 16)]);
    }

    #[test]
    fn nesting_is_bounded_whatever_nests() {
        for (open, close) in
            [("message M {", "}"), ("option (a) = {x:", "}"), ("[", "]"), ("<", ">"), ("{>", "<}")]
        {
            let nested = |depth: usize| format!("{}{}", open.repeat(depth), close.repeat(depth));
            assert!(scan(&nested(20)).is_some(), "{open}");
            assert!(scan(&nested(200_000)).is_none(), "{open}");
        }
        assert!(scan(&format!("// {}", "{".repeat(1000))).is_some(), "comments do not nest");
    }

    #[test]
    fn whatever_the_text_is_the_scan_ends() {
        for source in ["\"", "'\\", "/*", "//", "import", "import \"", "\u{feff}", "é\"é"] {
            assert!(scan(source).is_some(), "{source:?}");
        }
    }
}
