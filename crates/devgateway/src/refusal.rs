//! Refusals with the texts that clients match on.

use std::fmt;

/// Why a handler refused a call: the text of a gRPC status UNKNOWN.
///
/// The texts are the gateway's wire: clients have nothing else to tell refusals apart (controlplane §3.2, §4.8).
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Refusal(String);

impl Refusal {
    /// A refusal of the control plane itself.
    pub(crate) fn control(text: impl fmt::Display) -> Self {
        Self(format!("controlplane: {text}"))
    }

    /// A refusal with a prefix of its own (`gateway:`, `openapi:`, `graphql:`).
    pub(crate) fn of(part: &str, text: impl fmt::Display) -> Self {
        Self(format!("{part}: {text}"))
    }

    /// The text as it goes over the wire.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }
}

/// At most `len` bytes of `text`, ending between two characters.
pub(crate) fn cut(text: &str, len: usize) -> &str {
    let end = (0..=len.min(text.len())).rev().find(|&at| text.is_char_boundary(at));
    end.and_then(|end| text.get(..end)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_is_between_two_characters() {
        assert_eq!(cut("aéb", 2), "a");
        assert_eq!(cut("aéb", 3), "aé");
        assert_eq!(cut("aéb", 9), "aéb");
    }
}
