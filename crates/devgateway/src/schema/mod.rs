//! What a binding describes its service with: checked, and reduced to a hash.

mod edition;
pub(crate) mod graphql;
pub(crate) mod openapi;
pub(crate) mod proto;
mod scan;
mod yaml;

use std::fmt::Write as _;

use aws_lc_rs::digest::{Context, SHA256};

use crate::names::SlotKey;
use crate::refusal::Refusal;

/// The form of a service description.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Kind {
    /// Protobuf source.
    Proto,
    /// An OpenAPI document.
    OpenApi,
    /// A GraphQL endpoint.
    GraphQl,
    /// The gateway's own, taken at its start.
    Internal,
}

impl Kind {
    /// As refusals spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Proto => "proto",
            Self::OpenApi => "openapi",
            Self::GraphQl => "graphql",
            Self::Internal => "internalproto",
        }
    }

    /// What a refusal at the slot begins with.
    pub(crate) const fn prefix(self) -> &'static str {
        match self {
            Self::Proto | Self::Internal => "gateway",
            Self::OpenApi => "openapi",
            Self::GraphQl => "graphql",
        }
    }
}

/// A description that passed the checks of Register. Those of the slot come when one is made.
#[derive(Clone, Debug)]
pub(crate) struct Schema {
    kind: Kind,
    hash: [u8; 32],
    /// Why no slot can be made of it, found when it was read and told when it matters: a conflict with the slot
    /// that is there comes first.
    invalid: Option<Invalid>,
    /// Why no GraphQL schema can be built with it.
    pub(crate) unbuildable: Option<String>,
}

/// A fault that shows only where a slot is made.
#[derive(Clone, Debug)]
pub(crate) struct Invalid {
    /// `validate` or `parse introspection`.
    pub(crate) step: &'static str,
    pub(crate) text: String,
}

impl Schema {
    pub(crate) fn new(kind: Kind, hash: [u8; 32], invalid: Option<Invalid>) -> Self {
        Self { kind, hash, invalid, unbuildable: None }
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// The checks of making a slot.
    pub(crate) fn validate(&self, key: &SlotKey) -> Result<(), Refusal> {
        match &self.invalid {
            None => Ok(()),
            Some(Invalid { step, text }) => {
                Err(Refusal::of(self.kind.prefix(), format_args!("{step} {key}: {text}")))
            }
        }
    }
}

/// SHA-256 of the parts, one after the other.
pub(crate) fn sha256<'p>(parts: impl IntoIterator<Item = &'p [u8]>) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes everything");
        text
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Words and marks of protobuf, YAML and JSON, in any order.
    fn soup() -> impl Strategy<Value = String> {
        let words = prop::sample::select(vec![
            "syntax = \"proto3\";",
            "edition = \"2023\";",
            "message M",
            "enum E",
            "service S",
            "rpc X(M) returns (M)",
            "{",
            "}",
            "import \"a.proto\";",
            "option (a).b = ",
            "oneof o",
            "map<string, M> m = 1;",
            "extend M",
            "reserved 1 to max;",
            "group G = 1",
            "string s = 1;",
            ";",
            "[",
            "]",
            "<",
            ">",
            "\"",
            "'",
            "//",
            "/*",
            "*/",
            "\n",
            "\n  ",
            "- ",
            ": ",
            "a",
            "&a ",
            "*a",
            "<<",
            "? ",
            "| ",
            "%YAML 1.2\n",
            "---\n",
            "...",
            "!!str ",
            "openapi: 3.0.0\n",
            "\u{feff}",
            "\t",
            "1",
            "-",
            "0x7fffffffffffffff",
            "1e999",
            ".nan",
            "é",
            "\0",
            "\\u",
            "{\"openapi\":\"3.0.0\",",
            "\"info\":{}",
            ",",
        ]);
        prop::collection::vec(words, 0..60).prop_map(|words| words.concat())
    }

    proptest! {
        #[test]
        fn no_text_brings_a_reader_down(text in soup(), import in soup()) {
            let imports = [("a.proto".to_owned(), bytes::Bytes::from(import))].into();
            let _ = proto::compile("x", text.as_bytes(), &imports);
            let _ = openapi::read(text.as_bytes());
        }

        #[test]
        fn no_bytes_bring_a_reader_down(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = proto::compile("x", &bytes, &Default::default());
            let _ = openapi::read(&bytes);
            let _ = graphql::read(&bytes);
        }
    }
}
