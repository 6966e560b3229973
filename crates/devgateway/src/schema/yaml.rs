//! YAML, as far as an OpenAPI document needs it: one document, as the JSON value it stands for.
//!
//! The parser is pulled event by event, so that depth and size (aliases multiply) have limits of ours.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};

const DEPTH_MAX: usize = 100;
/// Nodes, and bytes of texts, after aliases were followed.
const SIZE_MAX: usize = 16 * 1024 * 1024;

/// Reads the first document.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    let mut loader = Loader::default();
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| error.to_string())?;
        match loader.take(event) {
            Ok(None) => {}
            Ok(Some(document)) => return Ok(document),
            Err(text) => return Err(format!("line {}: {text}", span.start.line())),
        }
    }
    Err("there is no document".into())
}

#[derive(Debug)]
enum Open {
    List(Vec<Value>),
    Map(Mapping),
}

#[derive(Debug, Default)]
struct Mapping {
    members: Map<String, Value>,
    /// The key that waits for its value.
    key: Option<String>,
    /// Values of `<<`, which fill in what the mapping itself does not say.
    merged: Vec<Value>,
}

#[derive(Debug, Default)]
struct Loader {
    /// What is open, and its anchor.
    stack: Vec<(Open, usize)>,
    anchors: BTreeMap<usize, Value>,
    size: usize,
}

impl Loader {
    fn take(&mut self, event: Event<'_>) -> Result<Option<Value>, String> {
        let (value, anchor) = match event {
            Event::SequenceStart(anchor, _) => return self.open(Open::List(Vec::new()), anchor),
            Event::MappingStart(anchor, _) => return self.open(Open::Map(Mapping::default()), anchor),
            Event::Scalar(text, style, anchor, tag) => {
                if self.wants_key() {
                    self.grow(text.len())?;
                    return self.key(text.into_owned());
                }
                let is_text = tag.is_some_and(|tag| tag.suffix == "str") || style != ScalarStyle::Plain;
                let value = if is_text { Value::String(text.into_owned()) } else { plain(&text) };
                (value, anchor)
            }
            Event::Alias(anchor) => {
                let value = self.anchors.get(&anchor).ok_or("an alias without its anchor")?;
                // Counted before it is copied.
                let size = size_of(value);
                self.grow(size)?;
                (self.anchors.get(&anchor).cloned().unwrap_or_default(), 0)
            }
            Event::SequenceEnd | Event::MappingEnd => match self.stack.pop() {
                Some((Open::List(list), anchor)) => (Value::Array(list), anchor),
                Some((Open::Map(mapping), anchor)) => (mapping.finish(), anchor),
                None => return Err("something ends that did not begin".into()),
            },
            _ => return Ok(None),
        };
        self.put(value, anchor)
    }

    fn open(&mut self, open: Open, anchor: usize) -> Result<Option<Value>, String> {
        if self.wants_key() {
            return Err("keys must be texts".into());
        }
        if self.stack.len() >= DEPTH_MAX {
            return Err(format!("nested deeper than {DEPTH_MAX}"));
        }
        self.grow(0)?;
        self.stack.push((open, anchor));
        Ok(None)
    }

    fn wants_key(&self) -> bool {
        matches!(self.stack.last(), Some((Open::Map(Mapping { key: None, .. }), _)))
    }

    fn key(&mut self, text: String) -> Result<Option<Value>, String> {
        if let Some((Open::Map(mapping), _)) = self.stack.last_mut() {
            if mapping.members.contains_key(&text) {
                return Err(format!("key {text:?} is there twice"));
            }
            mapping.key = Some(text);
        }
        Ok(None)
    }

    fn put(&mut self, value: Value, anchor: usize) -> Result<Option<Value>, String> {
        if let Value::String(text) = &value {
            self.grow(text.len())?;
        }
        if anchor > 0 {
            let size = size_of(&value);
            self.grow(size)?;
            self.anchors.insert(anchor, value.clone());
        }
        match self.stack.last_mut() {
            None => return Ok(Some(value)),
            Some((Open::List(list), _)) => list.push(value),
            Some((Open::Map(mapping), _)) => match mapping.key.take() {
                Some(key) if key == "<<" => mapping.merged.push(value),
                Some(key) => drop(mapping.members.insert(key, value)),
                None => return Err("keys must be texts".into()),
            },
        }
        Ok(None)
    }

    fn grow(&mut self, bytes: usize) -> Result<(), String> {
        self.size += bytes + 1;
        if self.size > SIZE_MAX {
            return Err("the document is too large once its aliases are followed".into());
        }
        Ok(())
    }
}

impl Mapping {
    fn finish(mut self) -> Value {
        for merged in self.merged {
            let sources = match merged {
                Value::Array(list) => list,
                one => vec![one],
            };
            for (key, value) in sources.into_iter().filter_map(object).flatten() {
                self.members.entry(key).or_insert(value);
            }
        }
        Value::Object(self.members)
    }
}

fn object(value: Value) -> Option<Map<String, Value>> {
    match value {
        Value::Object(map) => Some(map),
        _ => None,
    }
}

/// A scalar without quotes.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => {
            let is_number =
                text.trim_start_matches(['+', '-']).starts_with(|c: char| c.is_ascii_digit() || c == '.');
            let number = text.trim_start_matches('+').parse::<i64>().map(Value::from).ok().or_else(|| {
                let number = text.parse::<f64>().ok().filter(|_| is_number)?;
                serde_json::Number::from_f64(number).map(Value::Number)
            });
            number.unwrap_or_else(|| Value::String(text.into()))
        }
    }
}

fn size_of(value: &Value) -> usize {
    1 + match value {
        Value::String(text) => text.len(),
        Value::Array(list) => list.iter().map(size_of).sum(),
        Value::Object(map) => map.iter().map(|(key, value)| key.len() + size_of(value)).sum(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_the_json_it_stands_for() {
        let text = "openapi: 3.0.3\ninfo: &i {title: \"a b\", version: '1'}\npaths:\n  /x:\n    get: {responses: {200: {description: ok}}}\n\
                    n: [1, -2.5, true, ~, 3.1, 0x]\nagain: *i\nmerged: {<<: *i, title: other}\n";
        let value = parse(text).expect("it is YAML");
        assert_eq!(
            value,
            serde_json::json!({
                "openapi": "3.0.3",
                "info": {"title": "a b", "version": "1"},
                "paths": {"/x": {"get": {"responses": {"200": {"description": "ok"}}}}},
                "n": [1, -2.5, true, null, 3.1, "0x"],
                "again": {"title": "a b", "version": "1"},
                "merged": {"version": "1", "title": "other"},
            })
        );
    }

    #[test]
    fn hostile_documents_end_as_errors() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let alias = format!("*a{}", level - 1);
            bomb += &format!("a{level}: &a{level} [{}]\n", vec![alias; 10].join(", "));
        }
        for text in [
            bomb,
            "[".repeat(100_000),
            "- ".repeat(10_000),
            "{".into(),
            "a: b: c".into(),
            "a: 1\na: 2".into(),
            "*x".into(),
            String::new(),
        ] {
            assert!(parse(&text).is_err(), "{}", &text[..text.len().min(40)]);
        }
    }
}
