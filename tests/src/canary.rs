//! Secrets that can be recognised wherever they turn up.

use std::hash::{BuildHasher, RandomState};

use crate::ca::base64;

/// A secret made for one test: `CANARY-` and 16 random letters.
#[derive(Clone, PartialEq, Eq)]
pub struct Canary {
    secret: String,
}

impl Canary {
    /// A new one.
    pub fn new() -> Self {
        let hasher = RandomState::new();
        let letters = (0_u64..16).map(|place| char::from(b'A' + (hasher.hash_one(place) % 26) as u8));
        Self {
            secret: letters
                .fold("CANARY-".to_owned(), |secret, letter| secret + letter.encode_utf8(&mut [0; 4])),
        }
    }

    /// The secret itself, to be used as a token or a password.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// How the secret shows in `text`: raw, reversed, in hex, percent-encoded, or in base64 at any of its
    /// three alignments. Empty if it does not.
    pub fn found_in(&self, text: impl AsRef<[u8]>) -> Vec<&'static str> {
        let text = text.as_ref();
        let mut found: Vec<_> = self
            .encodings()
            .into_iter()
            .filter(|(_, encoded)| text.windows(encoded.len()).any(|window| window == encoded.as_bytes()))
            .map(|(name, _)| name)
            .collect();
        found.dedup();
        found
    }

    /// Fails if the secret is in `text`.
    ///
    /// # Panics
    ///
    /// If it is; the message says in which encoding and where, not the secret.
    pub fn assert_absent(&self, place: &str, text: impl AsRef<[u8]>) {
        let found = self.found_in(text);
        assert!(found.is_empty(), "a secret is in {place}: {found:?}");
    }

    fn encodings(&self) -> Vec<(&'static str, String)> {
        let bytes = self.secret.as_bytes();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let percent: String = bytes.iter().map(|byte| format!("%{byte:02X}")).collect();
        let mut encodings = vec![
            ("raw", self.secret.clone()),
            ("reversed", self.secret.chars().rev().collect()),
            ("hex", hex.to_uppercase()),
            ("hex", hex),
            ("percent-encoded", percent.to_lowercase()),
            ("percent-encoded", percent),
        ];
        // Behind 0, 1 or 2 other bytes; the digits that hold bits of neighbours are left out.
        for (before, from) in [(0, 0), (1, 2), (2, 3)] {
            let whole = base64(&[&vec![0; before], bytes].concat());
            let bits = (before + bytes.len()) * 8;
            let inner: String = whole.chars().take(bits / 6).skip(from).collect();
            encodings.push(("base64", inner.replace('+', "-").replace('/', "_")));
            encodings.push(("base64", inner));
        }
        encodings
    }
}

impl Default for Canary {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Canary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Canary(<redacted>)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_canary_is_found_in_every_encoding() {
        let canary = Canary { secret: "CANARY-QWERTYUIOPASDFGH".to_owned() };
        // Written down from other tools (base64, xxd).
        for (encoding, text) in [
            ("raw", "token CANARY-QWERTYUIOPASDFGH!"),
            ("reversed", "HGFDSAPOIUYTREWQ-YRANAC"),
            ("hex", "43414e4152592d51574552545955494f5041534446474800"),
            ("percent-encoded", "%43%41%4E%41%52%59%2D%51%57%45%52%54%59%55%49%4F%50%41%53%44%46%47%48"),
            ("base64", "Q0FOQVJZLVFXRVJUWVVJT1BBU0RGR0g="),
            ("base64", "OkNBTkFSWS1RV0VSVFlVSU9QQVNERkdI"),
            ("base64", "YTpDQU5BUlktUVdFUlRZVUlPUEFTREZHSA=="),
        ] {
            assert_eq!(canary.found_in(text), [encoding], "{text}");
        }
        assert_eq!(canary.found_in("CANARY-QWERTYUIOPASDFG"), [""; 0], "one letter short");
    }

    #[test]
    fn a_canary_does_not_show_itself() {
        let canary = Canary::new();
        assert_eq!(canary.secret().len(), 23);
        canary.assert_absent("Debug", format!("{canary:?}"));
        assert_ne!(canary, Canary::new());
    }
}
