//! Subscription tokens: what a gateway signs, and how a subscriber's is judged (controlplane §3.18).

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

pub use crate::pb::SubscribeAuthCode;

/// How far a token's time may be from ours, either way, unless set otherwise.
pub const DEFAULT_SKEW: Duration = Duration::from_secs(300);

/// The secrets that tokens are signed with: one without a name, and some by key id. `Debug` shows no
/// secret.
#[derive(Clone, Default)]
pub struct Secrets {
    unnamed: Option<hmac::Key>,
    keyed: BTreeMap<String, hmac::Key>,
}

/// A token as a subscriber shows it. `None` is an argument that is missing or of the wrong type.
#[derive(Clone, Copy, Default)]
#[non_exhaustive]
pub struct Token<'t> {
    /// The signature in base64.
    pub hmac: Option<&'t str>,
    /// Seconds since 1970.
    pub timestamp: Option<i64>,
    /// The id of the key; empty, or not given, for the unnamed one.
    pub kid: Kid<'t>,
}

/// A token's key id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kid<'t> {
    /// The unnamed secret.
    #[default]
    Unnamed,
    /// The secret of this id.
    Named(&'t str),
    /// An argument that is no string.
    NotAString,
}

impl Secrets {
    /// No secrets: nothing verifies.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the secret without a name.
    #[must_use]
    pub fn unnamed(mut self, secret: impl AsRef<[u8]>) -> Self {
        self.unnamed = Some(hmac::Key::new(hmac::HMAC_SHA256, secret.as_ref()));
        self
    }

    /// Sets the secret of a key id. For the empty id the unnamed secret wins.
    #[must_use]
    pub fn keyed(mut self, kid: impl Into<String>, secret: impl AsRef<[u8]>) -> Self {
        self.keyed.insert(kid.into(), hmac::Key::new(hmac::HMAC_SHA256, secret.as_ref()));
        self
    }

    /// Whether there is no secret at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.unnamed.is_none() && self.keyed.is_empty()
    }

    fn key(&self, kid: &str) -> Option<&hmac::Key> {
        self.unnamed.as_ref().filter(|_| kid.is_empty()).or_else(|| self.keyed.get(kid))
    }

    /// The signature of a token in base64; `None` if there is no secret of that id.
    #[must_use]
    pub fn sign(&self, kid: &str, channel: &str, timestamp: i64) -> Option<String> {
        let key = self.key(kid)?;
        Some(STANDARD.encode(hmac::sign(key, signed(kid, channel, timestamp).as_bytes())))
    }

    /// Judges a token for `channel`; `now` in seconds since 1970. In this order: malformed, unknown key,
    /// too old, too new, signature.
    #[must_use]
    pub fn verify(&self, token: &Token<'_>, channel: &str, now: i64, skew: Duration) -> SubscribeAuthCode {
        let kid = match token.kid {
            Kid::Unnamed => "",
            Kid::Named(kid) => kid,
            Kid::NotAString => return SubscribeAuthCode::Malformed,
        };
        let (Some(hmac), Some(timestamp)) = (token.hmac, token.timestamp) else {
            return SubscribeAuthCode::Malformed;
        };
        let Some(key) = self.key(kid) else { return SubscribeAuthCode::UnknownKid };
        let skew = i64::try_from(skew.as_secs()).unwrap_or(i64::MAX);
        if timestamp < now.saturating_sub(skew) {
            return SubscribeAuthCode::TooOld;
        }
        if timestamp > now.saturating_add(skew) {
            return SubscribeAuthCode::TooNew;
        }
        let Ok(tag) = STANDARD.decode(hmac) else { return SubscribeAuthCode::SignatureMismatch };
        // Compares in constant time.
        match hmac::verify(key, signed(kid, channel, timestamp).as_bytes(), &tag) {
            Ok(()) => SubscribeAuthCode::Ok,
            Err(_) => SubscribeAuthCode::SignatureMismatch,
        }
    }
}

impl<'t> Token<'t> {
    /// A whole token; an empty `kid` is the unnamed secret.
    #[must_use]
    pub fn new(kid: &'t str, hmac: &'t str, timestamp: i64) -> Self {
        let kid = if kid.is_empty() { Kid::Unnamed } else { Kid::Named(kid) };
        Self { hmac: Some(hmac), timestamp: Some(timestamp), kid }
    }
}

/// What is signed: no newline at the end.
fn signed(kid: &str, channel: &str, timestamp: i64) -> String {
    if kid.is_empty() { format!("{channel}\n{timestamp}") } else { format!("{kid}\n{channel}\n{timestamp}") }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { unnamed, keyed } = self;
        f.debug_struct("Secrets")
            .field("unnamed", &unnamed.as_ref().map(|_| "[redacted]"))
            .field("keyed", &keyed.keys().collect::<Vec<_>>())
            .finish()
    }
}

impl fmt::Debug for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hmac, timestamp, kid } = self;
        f.debug_struct("Token")
            .field("hmac", &hmac.map(|_| "[redacted]"))
            .field("timestamp", timestamp)
            .field("kid", kid)
            .finish()
    }
}
