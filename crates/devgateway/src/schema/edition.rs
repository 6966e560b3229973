//! Protobuf of edition 2023 in the words of proto2, for a compiler that knows no editions.
//!
//! Fields have no labels there, and presence as proto2's `optional` has it: the label is written before each. What
//! proto2 would let pass and the edition does not is refused: labels, groups, reserved names as texts, open enums
//! that do not begin with 0. Features stay as they are: to proto2 they are options without a meaning.

use super::scan::{Token, next, position};

/// In tokens. Only lists of reserved names are long; of one that is longer the rest is left to the compiler.
const STATEMENT_MAX: usize = 10_000;

/// What a pair of braces is around.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Block {
    Message,
    Extend,
    /// Where its first value stands, if that is not 0, and whether it is closed.
    Enum {
        not_zero: Option<usize>,
        seen: bool,
        closed: bool,
    },
    /// Nothing in it is changed.
    Other,
}

/// `source`, whose statement `edition = "2023"` stands at `edition`.
///
/// # Errors
///
/// `line:column: what`, for what the edition does not have.
pub(super) fn in_proto2(source: &str, edition: (usize, usize)) -> Result<String, String> {
    let mut reading = Reading { source, inserted: Vec::new(), open: Vec::new(), closed: false };
    let mut statement: Vec<(usize, Token<'_>)> = Vec::new();
    // Whether it has its `=` already.
    let mut assigns = false;
    let mut brackets = 0_usize;
    // Braces inside of a statement, as of an option's value.
    let mut values = 0_usize;
    let mut rest = source;
    while let Some((at, token, after)) = next(source, rest) {
        rest = after;
        let in_value = brackets > 0 || values > 0 || assigns;
        match token {
            Token::Mark('{') if in_value && !reading.is_group(&statement) => values += 1,
            Token::Mark('}') if values > 0 => values -= 1,
            Token::Mark('[') => brackets += 1,
            Token::Mark(']') => brackets = brackets.saturating_sub(1),
            _ if brackets > 0 || values > 0 => {}
            Token::Mark('{') => {
                reading.begin(&statement)?;
                statement.clear();
                assigns = false;
            }
            Token::Mark('}') => {
                reading.end()?;
                statement.clear();
                assigns = false;
            }
            Token::Mark(';') => {
                reading.statement(&statement)?;
                statement.clear();
                assigns = false;
            }
            token => {
                assigns |= token == Token::Mark('=');
                if statement.len() < STATEMENT_MAX {
                    statement.push((at, token));
                }
            }
        }
    }
    let mut text = String::with_capacity(source.len() + reading.inserted.len() * 9);
    let mut done = 0;
    // The statement itself has no fields in it.
    let head = [(edition.0, "syntax = \"proto2\"")];
    for (at, words) in head.into_iter().chain(reading.inserted.into_iter().filter(|(at, _)| *at > edition.1))
    {
        text.push_str(source.get(done..at).unwrap_or_default());
        text.push_str(words);
        done = if at == edition.0 { edition.1 } else { at };
    }
    text.push_str(source.get(done..).unwrap_or_default());
    Ok(text)
}

struct Reading<'s> {
    source: &'s str,
    /// In the order of their places.
    inserted: Vec<(usize, &'static str)>,
    open: Vec<Block>,
    /// Whether enums are closed unless they say otherwise.
    closed: bool,
}

impl Reading<'_> {
    fn fault<T>(&self, at: usize, what: &str) -> Result<T, String> {
        let (line, column) = position(self.source, at);
        Err(format!("{line}:{column}: {what}"))
    }

    fn is_group(&self, statement: &[(usize, Token<'_>)]) -> bool {
        let in_message = matches!(self.open.last(), Some(Block::Message | Block::Extend | Block::Other));
        in_message && statement.iter().take(2).any(|(_, token)| *token == Token::Word("group"))
    }

    fn begin(&mut self, statement: &[(usize, Token<'_>)]) -> Result<(), String> {
        if let Some((at, _)) = statement.first()
            && self.is_group(statement)
        {
            return self.fault(*at, "group syntax is not allowed in editions");
        }
        self.open.push(match statement.first() {
            Some((_, Token::Word("message"))) => Block::Message,
            Some((_, Token::Word("extend"))) => Block::Extend,
            Some((_, Token::Word("enum"))) => {
                Block::Enum { not_zero: None, seen: false, closed: self.closed }
            }
            _ => Block::Other,
        });
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        match self.open.pop() {
            Some(Block::Enum { not_zero: Some(at), closed: false, .. }) => {
                self.fault(at, "first value of open enum must have numeric value zero")
            }
            _ => Ok(()),
        }
    }

    fn statement(&mut self, statement: &[(usize, Token<'_>)]) -> Result<(), String> {
        let Some((at, first)) = statement.first().copied() else { return Ok(()) };
        let closes = match statement {
            [
                (_, Token::Word("option")),
                (_, Token::Word("features.enum_type")),
                _,
                (_, Token::Word(kind)),
            ] => Some(*kind == "CLOSED"),
            _ => None,
        };
        let in_fields = matches!(self.open.last(), Some(Block::Message | Block::Extend));
        match (self.open.last_mut(), first) {
            (None, _) => self.closed = closes.unwrap_or(self.closed),
            (Some(Block::Other), _) => {}
            (_, Token::Word("reserved")) => return self.reserved(statement),
            (Some(Block::Enum { not_zero, seen, closed }), _) => {
                if let Some(closes) = closes {
                    *closed = closes;
                } else if first != Token::Word("option") && !std::mem::replace(seen, true) {
                    let is_zero = matches!(statement, [_, _, (_, Token::Word(number)), ..]
                        if number.trim_start_matches("0x").trim_start_matches("0X").bytes().all(|b| b == b'0'));
                    *not_zero = (!is_zero).then_some(at);
                }
            }
            (_, Token::Word("optional" | "required")) if in_fields => {
                return self.fault(at, "field label is not allowed in editions: use features.field_presence");
            }
            (_, Token::Word("option" | "extensions" | "repeated")) => {}
            (_, Token::Word("map")) if matches!(statement.get(1), Some((_, Token::Mark('<')))) => {}
            (_, Token::Word(_)) if in_fields => self.inserted.push((at, "optional ")),
            _ => {}
        }
        Ok(())
    }

    /// Names are words here and texts in proto2.
    fn reserved(&mut self, statement: &[(usize, Token<'_>)]) -> Result<(), String> {
        for (at, token) in statement.get(1..).unwrap_or_default() {
            match token {
                Token::Text(_) => return self.fault(*at, "reserved names must be identifiers in editions"),
                Token::Word(word)
                    if !["to", "max"].contains(word) && !word.starts_with(|c: char| c.is_ascii_digit()) =>
                {
                    self.inserted.push((*at, "\""));
                    self.inserted.push((*at + word.len(), "\""));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<String, String> {
        let source = format!("edition = \"2023\";\n{body}");
        in_proto2(&source, (0, 16)).map(|text| text.split_once('\n').unwrap().1.to_owned())
    }

    #[test]
    fn fields_get_the_label_that_the_edition_leaves_out() {
        for (edition, proto2) in [
            ("message M { string a = 1; }", "message M { optional string a = 1; }"),
            (
                "message M { .p.N n = 1; repeated N m = 2; }",
                "message M { optional .p.N n = 1; repeated N m = 2; }",
            ),
            ("message M { oneof o { string a = 1; } map<string, M> m = 3; }", ""),
            ("message M { extensions 100 to max; option deprecated = true; }", ""),
            ("extend M { string x = 100; }", "extend M { optional string x = 100; }"),
            (
                "message M { message N { N n = 1; } N n = 2; }",
                "message M { message N { optional N n = 1; } optional N n = 2; }",
            ),
            (
                "message M { string a = 1 [(o) = { a: 1; b { c: 2; } }, default = \";\"]; }",
                "message M { optional string a = 1 [(o) = { a: 1; b { c: 2; } }, default = \";\"]; }",
            ),
            (
                "option (o) = { x: 1; y { z: 2; } }; service S { rpc X(M) returns (M) { option (o) = 1; } }",
                "",
            ),
            (
                "message M { reserved foo, bar; reserved 1, 4 to max; }",
                "message M { reserved \"foo\", \"bar\"; reserved 1, 4 to max; }",
            ),
            ("message map { map m = 1; }", "message map { optional map m = 1; }"),
        ] {
            let wanted = if proto2.is_empty() { edition } else { proto2 };
            assert_eq!(read(edition).as_deref(), Ok(wanted));
        }
    }

    #[test]
    fn what_the_edition_has_not_is_refused_at_its_place() {
        for (edition, fault) in [
            ("message M { optional string a = 1; }", "2:13: field label"),
            ("message M { required string a = 1; }", "2:13: field label"),
            ("message M { group G = 1 { } }", "2:13: group"),
            ("message M { repeated group G = 1 { } }", "2:13: group"),
            ("message M { reserved \"foo\"; }", "2:22: reserved names"),
            ("enum E { A = 1; }", "2:10: first value"),
            ("enum E { A = -1; B = 0; }", "2:10: first value"),
        ] {
            let said = read(edition).unwrap_err();
            assert!(said.starts_with(fault), "{edition}: {said}");
        }
        for closed in [
            "enum E { A = 0; B = 7; }",
            "enum E { option features.enum_type = CLOSED; A = 1; }",
            "option features.enum_type = CLOSED; enum E { A = 1; }",
        ] {
            assert_eq!(read(closed).as_deref(), Ok(closed));
        }
    }

    #[test]
    fn what_is_long_takes_no_longer_than_it_is() {
        // A quadratic reading would take minutes.
        let fields = "string a = 1; ".repeat(100_000);
        let text = read(&format!("message M {{ {fields} }}")).unwrap();
        assert_eq!(text.matches("optional string").count(), 100_000);
        assert!(read(&"a ".repeat(1_000_000)).is_ok());
    }

    #[test]
    fn whatever_the_text_is_the_reading_ends() {
        for body in [
            "}",
            "{",
            "message M {",
            "]",
            "message M { [ }",
            "enum E {",
            "reserved é;",
            "=",
            "message M { é é = 1; }",
        ] {
            drop(read(body));
        }
    }
}
