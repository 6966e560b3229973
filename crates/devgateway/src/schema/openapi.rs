//! OpenAPI documents, JSON or YAML (controlplane §3.9).

use serde_json::{Map, Value};

use super::{Invalid, Kind, Schema, sha256, yaml};

const METHODS: [&str; 8] = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];

/// A document that could be read.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) schema: Schema,
    pub(crate) title: String,
    /// Something a person should hear of though it is accepted.
    pub(crate) warning: Option<String>,
}

/// Reads a document, and finds what would keep a slot from being made of it.
pub(crate) fn read(bytes: &[u8]) -> Result<Document, String> {
    let text = str::from_utf8(bytes).map_err(|_| "the document is not UTF-8")?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let Value::Object(document) = parse(text)? else {
        return Err("the document must be an object".into());
    };
    let openapi = text_of(&document, "openapi", "openapi")?.unwrap_or_default();
    let info = object_of(&document, "info")?;
    let title = match info {
        Some(info) => {
            text_of(info, "version", "info.version")?;
            text_of(info, "title", "info.title")?.unwrap_or_default()
        }
        None => "",
    };
    object_of(&document, "paths")?;
    if document.values().any(refers_elsewhere) {
        return Err("encountered disallowed external reference".into());
    }
    let invalid = fault(&document, openapi).map(|text| Invalid { step: "validate", text });
    let warning = (!openapi.starts_with("3.") && invalid.is_none())
        .then(|| format!("openapi is {openapi:?}, not 3.x: the gateway takes it, its readers may not"));
    Ok(Document {
        title: title.to_owned(),
        warning,
        schema: Schema::new(Kind::OpenApi, sha256([bytes]), invalid),
    })
}

/// JSON, whatever follows it; else YAML.
fn parse(text: &str) -> Result<Value, String> {
    let json = serde_json::Deserializer::from_str(text).into_iter::<Value>().next();
    match json {
        Some(Ok(value)) if value.is_object() => Ok(value),
        _ => yaml::parse(text),
    }
}

/// What the gateway's validator refuses, in its words.
fn fault(document: &Map<String, Value>, openapi: &str) -> Option<String> {
    if openapi.is_empty() {
        return Some("value of openapi must be a non-empty string".into());
    }
    let Some(Value::Object(info)) = document.get("info") else {
        return Some("invalid info: must be an object".into());
    };
    for key in ["version", "title"] {
        if info.get(key).and_then(Value::as_str).is_none_or(str::is_empty) {
            return Some(format!("invalid info: value of {key} must be a non-empty string"));
        }
    }
    let Some(Value::Object(paths)) = document.get("paths") else {
        let is_needed = !openapi.starts_with("3.1");
        return is_needed.then(|| "invalid paths: must be an object".into());
    };
    paths.iter().find_map(|(path, item)| {
        if path.starts_with("x-") {
            return None;
        }
        if !path.starts_with('/') {
            return Some(format!("invalid paths: path {path:?} does not start with a forward slash (/)"));
        }
        let operations = METHODS.iter().filter_map(|method| Some((method, item.get(method)?)));
        let mut without = operations.filter(|(_, operation)| {
            !operation.get("responses").is_some_and(Value::is_object) && !openapi.starts_with("3.1")
        });
        without.next().map(|(method, _)| {
            let method = method.to_ascii_uppercase();
            format!(
                "invalid paths: invalid path {path}: invalid operation {method}: value of responses must be an object"
            )
        })
    })
}

fn text_of<'d>(object: &'d Map<String, Value>, key: &str, name: &str) -> Result<Option<&'d str>, String> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("{name} must be a string")),
    }
}

fn object_of<'d>(
    object: &'d Map<String, Value>,
    key: &str,
) -> Result<Option<&'d Map<String, Value>>, String> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(inner)) => Ok(Some(inner)),
        Some(_) => Err(format!("{key} must be an object")),
    }
}

/// Whether a `$ref` leaves the document. Both parsers bound how deep it can be.
fn refers_elsewhere(value: &Value) -> bool {
    match value {
        Value::Object(map) => {
            map.get("$ref").and_then(Value::as_str).is_some_and(|target| !target.starts_with('#'))
                || map.values().any(refers_elsewhere)
        }
        Value::Array(list) => list.iter().any(refers_elsewhere),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::SlotKey;

    fn outcome(text: &str) -> Result<String, String> {
        let document = read(text.as_bytes())?;
        Ok(match document.schema.validate(&SlotKey::new("a", "v1")) {
            Ok(()) => document.title,
            Err(refusal) => refusal.text().to_owned(),
        })
    }

    #[test]
    fn what_the_gateway_takes_is_taken() {
        for text in [
            r#"{"openapi":"3.0.3","info":{"title":"t","version":"1"},"paths":{}}"#,
            "\u{feff}{\"openapi\":\"3.0.3\",\"info\":{\"title\":\"t\",\"version\":\"1\"},\"paths\":{}} trailing junk",
            "openapi: 3.0.3\ninfo: {title: t, version: '1'}\npaths: {}\n",
            r#"{"openapi":"3.1.0","info":{"title":"t","version":"1"}}"#,
            r#"{"openapi":"2.0","info":{"title":"t","version":"1"},"paths":{}}"#,
            r##"{"openapi":"3.0.0","info":{"title":"t","version":"1"},"paths":{},"x":{"$ref":"#/x"}}"##,
        ] {
            assert_eq!(outcome(text), Ok("t".into()), "{text}");
        }
        let warned = read(br#"{"openapi":"4.0.0","info":{"title":"t","version":"1"},"paths":{}}"#);
        assert!(warned.expect("it is read").warning.is_some());
    }

    #[test]
    fn what_the_gateway_refuses_is_refused_in_the_same_step() {
        for (text, says) in [
            (r#"{"swagger":"2.0"}"#, "openapi: validate a/v1: value of openapi must be a non-empty string"),
            (r#"{"openapi":"3.0.0"}"#, "openapi: validate a/v1: invalid info: must be an object"),
            (
                r#"{"openapi":"3.0.0","info":{"version":"1"},"paths":{}}"#,
                "openapi: validate a/v1: invalid info: value of title must be a non-empty string",
            ),
            (
                r#"{"openapi":"3.0.0","info":{"title":"t","version":"1"}}"#,
                "openapi: validate a/v1: invalid paths: must be an object",
            ),
        ] {
            assert_eq!(outcome(text), Ok(says.into()), "{text}");
        }
        for text in [
            "{",
            "[]",
            "3",
            "",
            "openapi: 3.1",
            r#"{"openapi":3}"#,
            r#"{"x":{"$ref":"other.yaml#/a"}}"#,
            "a: [",
            "\u{0}",
        ] {
            assert!(outcome(text).is_err(), "{text}");
        }
    }
}
