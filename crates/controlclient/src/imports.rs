//! What a `.proto` file imports, read without compiling it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

/// The import statements of a `.proto` text, in order.
///
/// A scanner, no parser: it knows comments, strings and nesting, and takes `import "x";` (also `public` and
/// `weak`) at the top level. From a text that is no valid `.proto` it takes what it understands; what is
/// wrong with the rest is the gateway's to say.
pub(crate) fn of(source: &str) -> Vec<String> {
    let mut scanner = Scanner { rest: source };
    let mut found = Vec::new();
    let mut depth = 0_usize;
    let mut statement_starts = true;
    while let Some(token) = scanner.next() {
        let first = statement_starts;
        statement_starts = false;
        match token {
            Token::Symbol('{') => {
                depth += 1;
                statement_starts = true;
            }
            Token::Symbol('}') => {
                depth = depth.saturating_sub(1);
                statement_starts = true;
            }
            Token::Symbol(';') => statement_starts = true,
            Token::Word("import") if first && depth == 0 => {
                let mut next = scanner.next();
                if matches!(next, Some(Token::Word("public" | "weak" | "option"))) {
                    next = scanner.next();
                }
                if let Some(Token::Text(name)) = next {
                    found.push(name);
                }
            }
            _ => {}
        }
    }
    found
}

/// Which of `files` the text `entry` reaches, and the first import that is nowhere: its name and the file
/// that has it (`None` for the entry).
pub(crate) fn reached<'f>(
    entry: &str,
    files: &'f BTreeMap<String, Bytes>,
) -> (BTreeSet<&'f str>, Option<(String, Option<&'f str>)>) {
    let mut reached = BTreeSet::new();
    let mut missing = None;
    let mut to_read: Vec<(Option<&str>, Vec<String>)> = vec![(None, of(entry))];
    while let Some((importer, names)) = to_read.pop() {
        for name in names {
            match files.get_key_value(&name) {
                Some((key, source)) if reached.insert(key.as_str()) => {
                    to_read.push((Some(key), of(&String::from_utf8_lossy(source))));
                }
                Some(_) => {}
                // The gateway has these itself.
                None if name.starts_with("google/protobuf/") => {}
                None => drop(missing.get_or_insert((name, importer))),
            }
        }
    }
    (reached, missing)
}

enum Token<'s> {
    Word(&'s str),
    Text(String),
    Symbol(char),
}

struct Scanner<'s> {
    rest: &'s str,
}

impl<'s> Scanner<'s> {
    fn next(&mut self) -> Option<Token<'s>> {
        loop {
            self.rest = self.rest.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
            if let Some(comment) = self.rest.strip_prefix("//") {
                self.rest = comment.split_once('\n').map_or("", |(_, rest)| rest);
            } else if let Some(comment) = self.rest.strip_prefix("/*") {
                self.rest = comment.split_once("*/").map_or("", |(_, rest)| rest);
            } else {
                break;
            }
        }
        let first = self.rest.chars().next()?;
        if first == '"' || first == '\'' {
            return Some(Token::Text(self.text(first)));
        }
        let word =
            self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(self.rest.len());
        let (token, len) = match self.rest.get(..word) {
            Some(word) if !word.is_empty() => (Token::Word(word), word.len()),
            _ => (Token::Symbol(first), first.len_utf8()),
        };
        self.rest = self.rest.get(len..).unwrap_or_default();
        Some(token)
    }

    /// The string that begins here, its simple escapes undone; it ends at the line's end at the latest.
    fn text(&mut self, quote: char) -> String {
        let mut text = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            if c == quote || c == '\n' {
                self.rest = self.rest.get(at + c.len_utf8()..).unwrap_or_default();
                return text;
            }
            if c == '\\' {
                text.extend(chars.next().map(|(_, escaped)| escaped));
            } else {
                text.push(c);
            }
        }
        self.rest = "";
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_are_found_and_nothing_else() {
        let source = r#"
            // import "comment.proto";
            /* import "block.proto"; */
            syntax = "proto3";
            import "a.proto"; import public "dir/b.proto";
            import weak 'c.proto';
            option x = "import \"text.proto\";";
            message import { string import = 1; }
            message M { string s = 1 [json_name = "import"]; }
            import"d.proto";
        "#;
        assert_eq!(of(source), ["a.proto", "dir/b.proto", "c.proto", "d.proto"]);
        assert!(of("message M { import \"x.proto\"; }").is_empty(), "not at the top level");
        assert!(of("import \"open").len() == 1 && of("/* never closed").is_empty());
    }

    #[test]
    fn what_is_reached_and_what_is_missing() {
        let files = BTreeMap::from([
            ("a.proto".to_owned(), Bytes::from("import \"b.proto\"; import \"google/protobuf/any.proto\";")),
            ("b.proto".to_owned(), Bytes::from("import \"a.proto\";")),
            ("c.proto".to_owned(), Bytes::from("import \"nowhere.proto\";")),
        ]);
        let (found, missing) = reached("import \"a.proto\";", &files);
        assert_eq!(found, BTreeSet::from(["a.proto", "b.proto"]), "a cycle ends");
        assert_eq!(missing, None, "nobody imports c.proto, so what it lacks does not matter");
        let (_, missing) = reached("import \"c.proto\";", &files);
        assert_eq!(missing, Some(("nowhere.proto".to_owned(), Some("c.proto"))));
        let (_, missing) = reached("import \"x.proto\";", &files);
        assert_eq!(missing, Some(("x.proto".to_owned(), None)));
    }
}
