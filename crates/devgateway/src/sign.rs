//! Who may have a subscription token signed, and with which secret (controlplane §3.18). Pure.

use std::collections::BTreeMap;
use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::refusal::Refusal;

/// A secret of the gateway: never shown, wiped when dropped.
#[derive(Clone, Eq, PartialEq)]
pub(crate) struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
    }

    /// Compares in constant time. An empty secret is none, and nobody has it.
    pub(crate) fn is(&self, other: &[u8]) -> bool {
        !self.0.is_empty() && verify_slices_are_equal(&self.0, other).is_ok()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// What signing needs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Signing {
    /// Who has it may have tokens signed.
    pub(crate) signer: Option<Secret>,
    /// So may who has this.
    pub(crate) admin: Option<Secret>,
    /// The secret for the empty key id.
    pub(crate) unnamed: Option<Secret>,
    pub(crate) keyed: BTreeMap<String, Secret>,
    /// Subscriptions need no token, so none is signed.
    pub(crate) insecure: bool,
}

/// An answer with status OK.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Signed {
    Ok {
        hmac: String,
    },
    /// The caller may not sign.
    Denied,
    NotConfigured(&'static str),
    UnknownKid,
}

impl Signing {
    /// Signs `channel` for the holder of a good bearer. `bearer` is the first `authorization` value.
    pub(crate) fn sign(
        &self,
        bearer: Option<&str>,
        channel: &str,
        kid: &str,
        timestamp: i64,
    ) -> Result<Signed, Refusal> {
        if !self.may_sign(bearer) {
            return Ok(Signed::Denied);
        }
        if channel.is_empty() {
            return Err(Refusal::control("channel is required"));
        }
        if self.insecure {
            return Ok(Signed::NotConfigured("subscriptions are insecure: no token is needed"));
        }
        if self.unnamed.is_none() && self.keyed.is_empty() {
            return Ok(Signed::NotConfigured("no subscription secret is configured"));
        }
        let secret = match kid {
            "" => self.unnamed.as_ref().or_else(|| self.keyed.get("")),
            _ => self.keyed.get(kid),
        };
        Ok(match secret {
            Some(secret) => Signed::Ok { hmac: token(&secret.0, kid, channel, timestamp) },
            None => Signed::UnknownKid,
        })
    }

    fn may_sign(&self, bearer: Option<&str>) -> bool {
        let Some(shown) = bearer.and_then(credential) else { return false };
        // Both are compared, so that the time says nothing of which one it was.
        let matches =
            [&self.signer, &self.admin].map(|held| held.as_ref().is_some_and(|held| held.is(&shown)));
        matches.contains(&true)
    }
}

/// What follows `Bearer `, decoded when it is hexadecimal.
pub(crate) fn credential(header: &str) -> Option<Zeroizing<Vec<u8>>> {
    let text = header.strip_prefix("Bearer ")?.trim();
    Some(Zeroizing::new(unhex(text).unwrap_or_else(|| text.as_bytes().to_vec())))
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let pair = |at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(pair).collect()
}

/// HMAC-SHA-256 over key id (unless it is empty), channel and time, each on a line, as base64.
fn token(secret: &[u8], kid: &str, channel: &str, timestamp: i64) -> String {
    let message = match kid {
        "" => format!("{channel}\n{timestamp}"),
        _ => format!("{kid}\n{channel}\n{timestamp}"),
    };
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    STANDARD.encode(hmac::sign(&key, message.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_those_of_the_three_vectors() {
        for (secret, kid, channel, timestamp, expected) in [
            ("legacy-key", "", "events.x", 1_700_000_000, "L7VAFHMtA890F9T/mBDEQB8AUsQGfOrZr054IZoGpkc="),
            ("rotated-key", "v2", "events.x", 1_700_000_000, "e4sTcSex1FIFdbrzm0SL4vVeix1xYh4Amu+Yuk5UBdg="),
            ("k", "", "events.greeter.Greetings.alice", 1, "6GUq0kOyZvlFkbFazLQKiTSjgBdIipSpa99QfGEpeCk="),
        ] {
            assert_eq!(token(secret.as_bytes(), kid, channel, timestamp), expected);
        }
    }

    #[test]
    fn a_credential_is_hexadecimal_or_the_bytes_themselves() {
        for (header, bytes) in [
            ("Bearer 6b6579", Some(&b"key"[..])),
            ("Bearer  6B6579 ", Some(b"key")),
            ("Bearer key", Some(b"key")),
            ("Bearer abc", Some(b"abc")),
            ("Bearer é", Some("é".as_bytes())),
            ("bearer 6b6579", None),
            ("Bearer", None),
            ("", None),
        ] {
            assert_eq!(credential(header).as_ref().map(|bytes| bytes.as_slice()), bytes, "{header}");
        }
    }

    #[test]
    fn an_empty_secret_opens_nothing_and_none_is_shown() {
        let signing = Signing { signer: Some(Secret::new(b"")), ..Signing::default() };
        assert!(!signing.may_sign(Some("Bearer ")));
        let shown = format!("{:?}", Signing { admin: Some(Secret::new(b"CANARY")), ..Signing::default() });
        assert!(!shown.contains("CANARY") && !shown.contains("67, 65"), "{shown}");
    }
}
