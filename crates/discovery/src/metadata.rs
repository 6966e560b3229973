//! What a peer says about itself: an ordered list of pairs, of which nothing is believed (S-120).

use std::{
    fmt::{self, Display, Formatter},
    sync::Arc,
};

use crate::{
    error::DiscoveryError,
    escape::{escape, escape_bytes},
};

/// The most pairs of one peer.
pub const MAX_PAIRS: usize = 64;
/// The most bytes of a key.
pub const MAX_KEY: usize = 64;
/// The most bytes of a value.
pub const MAX_VALUE: usize = 255;
/// The most bytes of all pairs that are announced, the pair of the node id and a length byte each
/// included: one packet without fragments.
pub const MAX_ANNOUNCED: usize = 1300;
/// The most bytes of a string in a TXT record (RFC 1035 §3.3).
const MAX_TXT_STRING: usize = 255;

/// Keys that hold one of these are never announced (S-133).
const SECRETS: [&str; 7] = ["token", "secret", "password", "authorization", "bearer", "cookie", "private"];

/// The pairs of a peer, in the order of the wire. Cheap to clone.
///
/// Keys are printable ASCII without `=`, compared without case, shown as they were written; the first
/// of equal keys counts. Values are bytes; a key may also stand alone, as a flag. All of it comes from
/// the network: it never selects a credential, a trust root or a scheme, and goes into a path, a header
/// or a metric label only through [`token`](Self::token).
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Metadata(Arc<[Pair]>);

#[derive(Clone, PartialEq, Eq)]
struct Pair {
    key: Box<str>,
    value: Option<Box<[u8]>>,
}

impl Metadata {
    /// Pairs of our own, each checked.
    ///
    /// # Errors
    ///
    /// [`DiscoveryError::InvalidMetadata`] for a key that is empty, longer than 64 bytes, not printable
    /// ASCII, holds `=` or is there twice, for a value of more than 255 bytes and for a 65th pair.
    pub fn new<K: AsRef<str>, V: AsRef<[u8]>>(
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, DiscoveryError> {
        pairs.into_iter().fold(Self::builder(), |builder, (key, value)| builder.pair(key, value)).build()
    }

    /// Nothing yet; for pairs and flags of our own.
    pub fn builder() -> MetadataBuilder {
        MetadataBuilder::default()
    }

    /// Pairs that came from somebody else: what breaks a rule or a limit is left out, and the peer
    /// stays (S-126). Also tells how many were left out for a limit or a key that is no key; a repeated
    /// key and an empty one are not counted, as they are allowed on the wire (RFC 6763 §6.4).
    pub fn received<'a>(pairs: impl IntoIterator<Item = (&'a [u8], Option<&'a [u8]>)>) -> (Self, usize) {
        let mut kept: Vec<Pair> = Vec::new();
        let mut cut = 0;
        for (key, value) in pairs {
            if key.is_empty() {
                continue;
            }
            let key = std::str::from_utf8(key).ok().filter(|key| key_rule(key).is_none());
            let fits = kept.len() < MAX_PAIRS && value.is_none_or(|value| value.len() <= MAX_VALUE);
            match key {
                Some(key) if find(&kept, key).is_some() => {}
                Some(key) if fits => kept.push(Pair { key: key.into(), value: value.map(Into::into) }),
                _ => cut += 1,
            }
        }
        (Self(kept.into()), cut)
    }

    /// The value of `key`; none if the key is not there or is a flag.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        find(&self.0, key)?.value.as_deref()
    }

    /// The value of `key` if it is UTF-8. It may hold any character: show it with [`escape`](crate::escape()).
    pub fn get_str(&self, key: &str) -> Option<&str> {
        std::str::from_utf8(self.get(key)?).ok()
    }

    /// The value of `key` if it is 1–64 letters, digits, `-`, `.` or `_` of ASCII and not only dots:
    /// safe as a metric label, a path segment or a header value (S-131).
    pub fn token(&self, key: &str) -> Option<&str> {
        self.get_str(key).filter(|value| {
            (1..=64).contains(&value.len())
                && value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
                && value.bytes().any(|b| b != b'.')
        })
    }

    /// Whether `key` is there, with or without a value.
    pub fn flag(&self, key: &str) -> bool {
        find(&self.0, key).is_some()
    }

    /// The pairs in the order of the wire; a flag has no value.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, Option<&[u8]>)> + '_ {
        self.0.iter().map(|pair| (&*pair.key, pair.value.as_deref()))
    }

    /// How many pairs there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether these pairs may be announced by mDNS together with `id=<node_id>`.
    ///
    /// # Errors
    ///
    /// [`DiscoveryError::InvalidMetadata`] for a key `id`, which is ours, and for a pair of more than
    /// 255 bytes; [`DiscoveryError::SecretInMetadata`] for a key named like a secret;
    /// [`DiscoveryError::MetadataTooLarge`] over [`MAX_ANNOUNCED`].
    pub fn check_announced(&self, node_id: &str) -> Result<(), DiscoveryError> {
        let mut len = 1 + "id=".len() + node_id.len();
        for (key, value) in self.iter() {
            let pair = key.len() + value.map_or(0, |value| 1 + value.len());
            let lower = key.to_ascii_lowercase();
            if lower == "id" {
                return Err(invalid(key, "is the node id, which is sent anyway"));
            }
            if SECRETS.iter().any(|secret| lower.contains(secret)) {
                return Err(DiscoveryError::SecretInMetadata { key: key.to_owned() });
            }
            if pair > MAX_TXT_STRING {
                return Err(invalid(key, "makes a pair of more than 255 bytes"));
            }
            len += 1 + pair;
        }
        if len > MAX_ANNOUNCED {
            return Err(DiscoveryError::MetadataTooLarge { len, limit: MAX_ANNOUNCED });
        }
        Ok(())
    }

    /// These pairs, and those of `other` whose keys are missing, as far as the limit allows.
    #[must_use]
    pub(crate) fn filled_from(&self, other: &Self) -> Self {
        let missing: Vec<_> = other.0.iter().filter(|pair| !self.flag(&pair.key)).collect();
        if missing.is_empty() {
            return self.clone();
        }
        Self(self.0.iter().chain(missing).take(MAX_PAIRS).cloned().collect())
    }
}

/// Prints the pairs as they would stand in a list: `zone=z1, canary`; escaped.
impl Display for Metadata {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (index, (key, value)) in self.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{}", escape(key))?;
            if let Some(value) = value {
                write!(f, "={}", escape_bytes(value))?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "Metadata({self})")
    }
}

/// Pairs and flags of our own.
#[derive(Clone, Debug, Default)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct MetadataBuilder {
    pairs: Vec<(String, Option<Vec<u8>>)>,
}

impl MetadataBuilder {
    /// Adds a key with a value, which may be empty.
    pub fn pair(mut self, key: impl AsRef<str>, value: impl AsRef<[u8]>) -> Self {
        self.pairs.push((key.as_ref().to_owned(), Some(value.as_ref().to_vec())));
        self
    }

    /// Adds a key without a value.
    pub fn flag(mut self, key: impl AsRef<str>) -> Self {
        self.pairs.push((key.as_ref().to_owned(), None));
        self
    }

    /// Checks the pairs.
    ///
    /// # Errors
    ///
    /// [`DiscoveryError::InvalidMetadata`], as [`Metadata::new`].
    pub fn build(self) -> Result<Metadata, DiscoveryError> {
        let mut checked: Vec<Pair> = Vec::with_capacity(self.pairs.len());
        for (key, value) in self.pairs {
            let rule = if find(&checked, &key).is_some() {
                Some("is given twice")
            } else if checked.len() == MAX_PAIRS {
                Some("is beyond the limit of 64 pairs")
            } else if value.as_ref().is_some_and(|value| value.len() > MAX_VALUE) {
                Some("has a value of more than 255 bytes")
            } else {
                key_rule(&key)
            };
            if let Some(rule) = rule {
                return Err(invalid(&key, rule));
            }
            checked.push(Pair { key: key.into(), value: value.map(Into::into) });
        }
        Ok(Metadata(checked.into()))
    }
}

fn find<'a>(pairs: &'a [Pair], key: &str) -> Option<&'a Pair> {
    pairs.iter().find(|pair| pair.key.eq_ignore_ascii_case(key))
}

/// The rule that a key breaks, if it breaks one (RFC 6763 §6.4).
fn key_rule(key: &str) -> Option<&'static str> {
    if key.is_empty() {
        Some("is empty")
    } else if key.len() > MAX_KEY {
        Some("is longer than 64 bytes")
    } else if key.contains('=') {
        Some("holds `=`")
    } else if !key.bytes().all(|b| matches!(b, b' '..=b'~')) {
        Some("is not printable ASCII")
    } else {
        None
    }
}

fn invalid(key: &str, rule: &'static str) -> DiscoveryError {
    DiscoveryError::InvalidMetadata { key: key.to_owned(), rule }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(strings: &[&[u8]]) -> (Metadata, usize) {
        Metadata::received(strings.iter().map(|string| match string.iter().position(|&b| b == b'=') {
            Some(at) => (&string[..at], Some(&string[at + 1..])),
            None => (*string, None),
        }))
    }

    #[test]
    fn d008_s126_received_pairs_are_read_leniently() {
        let (metadata, cut) = received(&[b"A=1", b"a=2", b"b", b"=x", b"c=\xff", b"d="]);
        assert_eq!(cut, 0);
        assert_eq!(metadata.get("a"), Some(&b"1"[..]));
        assert_eq!(metadata.get_str("A"), Some("1"));
        assert!(metadata.flag("b") && metadata.flag("B"));
        assert_eq!(metadata.get("b"), None, "a flag has no value");
        assert_eq!(metadata.get("d"), Some(&b""[..]), "an empty value is one");
        assert!(!metadata.flag("") && !metadata.flag("e"));
        assert_eq!(metadata.get("c"), Some(&b"\xff"[..]));
        assert_eq!(metadata.get_str("c"), None);
        let pairs: Vec<_> = metadata.iter().collect();
        let expected: [(&str, Option<&[u8]>); 4] =
            [("A", Some(b"1")), ("b", None), ("c", Some(b"\xff")), ("d", Some(b""))];
        assert_eq!(pairs, expected, "in the order of the wire");
        assert_eq!(metadata.to_string(), r"A=1, b, c=\xff, d=");
    }

    #[test]
    fn s126_what_exceeds_a_limit_is_cut_and_counted() {
        let many: Vec<Vec<u8>> = (0..100).map(|i| format!("k{i}=v").into_bytes()).collect();
        let many: Vec<&[u8]> = many.iter().map(Vec::as_slice).collect();
        let (metadata, cut) = received(&many);
        assert_eq!((metadata.len(), cut), (64, 36));
        assert!(metadata.flag("k63") && !metadata.flag("k64"), "the first 64 stay");

        let (key64, key65) = ("k".repeat(64), "K".repeat(65));
        let (long, longer) = (format!("v={}", "x".repeat(255)), format!("w={}", "x".repeat(256)));
        let (metadata, cut) = received(&[
            key64.as_bytes(),
            key65.as_bytes(),
            long.as_bytes(),
            longer.as_bytes(),
            "ä=1".as_bytes(),
            b"\xff=1",
            b"\x01=1",
        ]);
        assert_eq!(cut, 5);
        assert_eq!(metadata.len(), 2);
        assert!(metadata.flag(&key64));
        assert_eq!(metadata.get("v").map(<[u8]>::len), Some(255));
    }

    #[test]
    fn d045_own_pairs_are_checked() {
        let full = (0..64).map(|i| (format!("k{i}"), "v"));
        assert_eq!(Metadata::new(full.clone()).unwrap().len(), 64);
        let more = Metadata::new(full.chain([("last".to_owned(), "v")]));
        assert_eq!(more, Err(invalid("last", "is beyond the limit of 64 pairs")));

        let value = [b'x'; 256];
        assert!(Metadata::new([("k", &value[..255])]).is_ok());
        assert_eq!(
            Metadata::new([("k", &value[..256])]),
            Err(invalid("k", "has a value of more than 255 bytes"))
        );
        assert!(Metadata::new([("k".repeat(64), "v")]).is_ok());
        for (key, rule) in [
            ("", "is empty"),
            ("k".repeat(65).as_str(), "is longer than 64 bytes"),
            ("a=b", "holds `=`"),
            ("ä", "is not printable ASCII"),
            ("a\tb", "is not printable ASCII"),
            ("a\u{7f}", "is not printable ASCII"),
        ] {
            assert_eq!(Metadata::new([(key, "v")]), Err(invalid(key, rule)));
        }
        assert_eq!(Metadata::new([("a", "1"), ("A", "2")]), Err(invalid("A", "is given twice")));
        assert_eq!(
            Metadata::builder().pair("a", "").flag("A").build().unwrap_err(),
            invalid("A", "is given twice")
        );
    }

    #[test]
    fn s133_secrets_are_not_announced() {
        for key in [
            "api_token",
            "TOKEN",
            "x-secret-y",
            "Password",
            "authorization",
            "bearer",
            "set-cookie",
            "PrivateKey",
        ] {
            let metadata = Metadata::new([(key, "v")]).unwrap();
            let refused = DiscoveryError::SecretInMetadata { key: key.to_owned() };
            assert_eq!(metadata.check_announced("n"), Err(refused));
        }
        assert_eq!(Metadata::new([("tok", "v"), ("cook", "v")]).unwrap().check_announced("n"), Ok(()));
    }

    #[test]
    fn d045_what_is_announced_fits_into_one_packet() {
        for key in ["id", "ID"] {
            let refused = invalid(key, "is the node id, which is sent anyway");
            assert_eq!(Metadata::new([(key, "v")]).unwrap().check_announced("n"), Err(refused));
        }
        let value = [b'x'; 255];
        // `k=` and 253 bytes are the 255 of one string.
        assert_eq!(Metadata::new([("k", &value[..253])]).unwrap().check_announced("n"), Ok(()));
        assert_eq!(
            Metadata::new([("k", &value[..254])]).unwrap().check_announced("n"),
            Err(invalid("k", "makes a pair of more than 255 bytes"))
        );
        // `id=n` takes 5 bytes with its length, five full strings 1,280: 15 of 1,300 are left.
        let pairs = |last: usize| {
            let full = (0..5).map(|i| (format!("k{i}"), &value[..252]));
            Metadata::new(full.chain([("l".to_owned(), &value[..last])])).unwrap()
        };
        assert_eq!(pairs(12).check_announced("n"), Ok(()));
        let too_large = DiscoveryError::MetadataTooLarge { len: 1301, limit: 1300 };
        assert_eq!(pairs(13).check_announced("n"), Err(too_large.clone()));
        assert_eq!(pairs(12).check_announced("nn"), Err(too_large));
    }

    #[test]
    fn s131_only_tokens_go_into_labels_and_paths() {
        let longest = "x".repeat(64);
        let metadata = Metadata::new([
            ("zone", "eu-1.a_B"),
            ("path", "../../etc"),
            ("role", "<script>"),
            ("dots", ".."),
            ("empty", ""),
            ("long", longest.as_str()),
            ("longer", &format!("{longest}x")),
        ])
        .unwrap();
        assert_eq!(metadata.token("zone"), Some("eu-1.a_B"));
        assert_eq!(metadata.token("long"), Some(longest.as_str()));
        for key in ["path", "role", "dots", "empty", "longer", "missing"] {
            assert_eq!(metadata.token(key), None, "{key}");
        }
    }

    #[test]
    fn missing_keys_are_filled_in() {
        let best = Metadata::new([("a", "1"), ("b", "2")]).unwrap();
        let rest = Metadata::new([("B", "3"), ("c", "4")]).unwrap();
        let expected = Metadata::new([("a", "1"), ("b", "2"), ("c", "4")]).unwrap();
        assert_eq!(best.filled_from(&rest), expected);
        assert_eq!(best.filled_from(&best), best);
    }
}
