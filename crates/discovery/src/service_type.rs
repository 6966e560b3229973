//! Service types: parsed once, valid ever after.

use std::{
    fmt::{self, Display, Formatter},
    str::FromStr,
    sync::Arc,
};

use crate::error::DiscoveryError;

/// The most characters of a service label (RFC 6335 §5.1).
const MAX_LABEL: usize = 15;
/// The most bytes of a subtype label (RFC 1035 §2.3.4).
const MAX_SUBTYPE: usize = 63;

/// A kind of service, such as `_billing._tcp`: what a peer is a peer of.
///
/// Accepts a plain name (`billing`), the DNS-SD form (`_billing._tcp`, with or without `.local` and a
/// final dot) and a subtype (`_v2._sub._billing._tcp`), in any case (discovery §2). A name that breaks
/// the rules is refused, never shortened or repaired.
///
/// ```
/// use peerage_discovery::ServiceType;
///
/// let billing: ServiceType = "billing".parse()?;
/// assert_eq!(billing.to_string(), "_billing._tcp");
/// assert_eq!(billing, "_BILLING._TCP.local.".parse()?);
/// # Ok::<(), peerage_discovery::DiscoveryError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceType {
    /// `_label._tcp` or `_label._udp`, in lower case.
    name: Arc<str>,
    subtype: Option<Arc<str>>,
}

impl ServiceType {
    /// The canonical form without a subtype: `_billing._tcp`.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// The label alone: `billing`. What backends other than mDNS call the service.
    pub fn base(&self) -> &str {
        let label = self.name.split_once('.').map_or(self.as_str(), |(label, _)| label);
        label.trim_start_matches('_')
    }

    /// `tcp` or `udp`.
    pub fn protocol(&self) -> &'static str {
        if self.name.ends_with("._udp") { "udp" } else { "tcp" }
    }

    /// The subtype as it was given, in lower case: `_v2`.
    pub fn subtype(&self) -> Option<&str> {
        self.subtype.as_deref()
    }

    /// The same service type without its subtype: what the peers are peers of.
    #[must_use]
    pub fn without_subtype(&self) -> Self {
        Self { name: self.name.clone(), subtype: None }
    }
}

/// Prints the canonical form, `_billing._tcp`; with `{:#}` the subtype before it.
impl Display for ServiceType {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.subtype {
            Some(subtype) if f.alternate() => write!(f, "{subtype}._sub.{}", self.name),
            _ => f.pad(&self.name),
        }
    }
}

impl fmt::Debug for ServiceType {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "ServiceType({self:#})")
    }
}

impl FromStr for ServiceType {
    type Err = DiscoveryError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let lower = text.to_ascii_lowercase();
        if !lower.contains(['.', '_']) {
            check_label(&lower)?;
            return Ok(Self { name: format!("_{lower}._tcp").into(), subtype: None });
        }

        let relative = lower.strip_suffix('.').unwrap_or(&lower);
        let (subtype, name) = match relative.split_once("._sub.") {
            Some((subtype, name)) => (Some(subtype), name),
            None => (None, relative),
        };
        let mut parts = name.splitn(3, '.');
        let label = parts.next().unwrap_or_default();
        let protocol = parts.next().unwrap_or_default();
        let Some(bare) = label.strip_prefix('_') else {
            return Err(invalid(label, "must begin with an underscore before a protocol"));
        };
        check_label(bare)?;
        if !matches!(protocol, "_tcp" | "_udp") {
            return Err(invalid(protocol, "must be `_tcp` or `_udp`"));
        }
        if let Some(domain) = parts.next().filter(|&domain| domain != "local") {
            return Err(invalid(domain, "is not the domain `local`"));
        }
        if let Some(subtype) = subtype {
            check_subtype(subtype)?;
        }
        Ok(Self { name: format!("{label}.{protocol}").into(), subtype: subtype.map(Into::into) })
    }
}

impl TryFrom<&str> for ServiceType {
    type Error = DiscoveryError;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl TryFrom<String> for ServiceType {
    type Error = DiscoveryError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<&Self> for ServiceType {
    fn from(service: &Self) -> Self {
        service.clone()
    }
}

/// The label rules of RFC 6335 §5.1, for a label without its underscore and in lower case.
fn check_label(label: &str) -> Result<(), DiscoveryError> {
    let rule = if label.is_empty() {
        "must not be empty"
    } else if !label.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-')) {
        "may hold only letters, digits and `-`"
    } else if label.len() > MAX_LABEL {
        "is longer than 15 characters"
    } else if !label.bytes().any(|b| b.is_ascii_lowercase()) {
        "must hold a letter"
    } else if label.starts_with('-') || label.ends_with('-') {
        "must not begin or end with `-`"
    } else if label.contains("--") {
        "must not hold `--`"
    } else {
        return Ok(());
    };
    Err(invalid(label, rule))
}

fn check_subtype(label: &str) -> Result<(), DiscoveryError> {
    let rule = if label.is_empty() {
        "must not be empty before `._sub`"
    } else if label.len() > MAX_SUBTYPE {
        "is longer than 63 bytes"
    } else if label.contains('.') {
        "must not hold a dot before `._sub`"
    } else if label.chars().any(char::is_control) {
        "must not hold a control character"
    } else {
        return Ok(());
    };
    Err(invalid(label, rule))
}

fn invalid(part: &str, rule: &'static str) -> DiscoveryError {
    let part = if part.is_empty() { "the empty label" } else { part };
    DiscoveryError::InvalidServiceType { part: part.to_owned(), rule }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> ServiceType {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn d001_all_spellings_of_a_name_are_one_service_type() {
        let spellings = [
            "liquidity-ta",
            "Liquidity-TA",
            "_liquidity-ta._tcp",
            "_liquidity-ta._tcp.",
            "_liquidity-ta._tcp.local",
            "_liquidity-ta._tcp.LOCAL.",
            "_LIQUIDITY-ta._TCP",
        ];
        for spelling in spellings {
            let service = parse(spelling);
            assert_eq!(service.to_string(), "_liquidity-ta._tcp", "{spelling}");
            assert_eq!(service, parse("liquidity-ta"), "{spelling}");
            assert_eq!(service.base(), "liquidity-ta");
            assert_eq!(service.protocol(), "tcp");
            assert_eq!(service.subtype(), None);
        }
        let udp = parse("_x._UDP.local.");
        assert_eq!((udp.as_str(), udp.base(), udp.protocol()), ("_x._udp", "x", "udp"));
        assert_ne!(udp, parse("x"));
    }

    #[test]
    fn d002_labels_follow_rfc_6335() {
        assert_eq!(parse("abcdefghijklmno").base().len(), 15);
        assert_eq!(parse("a").as_str(), "_a._tcp");
        assert_eq!(parse("1-a").as_str(), "_1-a._tcp");
        let rows = [
            ("abcdefghijklmnop", "abcdefghijklmnop", "is longer than 15 characters"),
            ("_abcdefghijklmnop._tcp", "abcdefghijklmnop", "is longer than 15 characters"),
            ("a--b", "a--b", "must not hold `--`"),
            ("-a", "-a", "must not begin or end with `-`"),
            ("a-", "a-", "must not begin or end with `-`"),
            ("123", "123", "must hold a letter"),
            ("foo bar", "foo bar", "may hold only letters, digits and `-`"),
            ("ä", "ä", "may hold only letters, digits and `-`"),
            ("", "the empty label", "must not be empty"),
            ("_x._sctp", "_sctp", "must be `_tcp` or `_udp`"),
            ("_x._tcp.example.", "example", "is not the domain `local`"),
            ("_x._tcp.local.example", "local.example", "is not the domain `local`"),
            ("_x._tcp..", "the empty label", "is not the domain `local`"),
            ("_x", "the empty label", "must be `_tcp` or `_udp`"),
            ("_._tcp", "the empty label", "must not be empty"),
            ("__x._tcp", "_x", "may hold only letters, digits and `-`"),
            ("x._tcp", "x", "must begin with an underscore before a protocol"),
            ("x.local", "x", "must begin with an underscore before a protocol"),
            (".", "the empty label", "must begin with an underscore before a protocol"),
            ("inst._x._tcp.local", "inst", "must begin with an underscore before a protocol"),
        ];
        for (text, part, rule) in rows {
            let expected = DiscoveryError::InvalidServiceType { part: part.to_owned(), rule };
            assert_eq!(text.parse::<ServiceType>(), Err(expected), "{text:?}");
        }
    }

    #[test]
    fn d003_a_subtype_is_told_apart() {
        for (text, subtype) in [
            ("_v2._sub._x._tcp.local", "_v2"),
            ("_V2._sub._x._tcp", "_v2"),
            ("v2._sub._x._tcp.local.", "v2"),
            ("ein typ._sub._x._tcp", "ein typ"),
        ] {
            let service = parse(text);
            assert_eq!(service.as_str(), "_x._tcp", "{text}");
            assert_eq!(service.to_string(), "_x._tcp", "{text}");
            assert_eq!(service.subtype(), Some(subtype), "{text}");
            assert_eq!(format!("{service:#}"), format!("{subtype}._sub._x._tcp"));
            assert_eq!(service.without_subtype(), parse("x"));
            assert_eq!(parse(&format!("{service:#}")), service);
        }
        let longest = "s".repeat(63);
        assert_eq!(parse(&format!("{longest}._sub._x._tcp")).subtype(), Some(longest.as_str()));
        for text in [
            format!("{longest}s._sub._x._tcp"),
            "._sub._x._tcp".to_owned(),
            "a.b._sub._x._tcp".to_owned(),
            "a\nb._sub._x._tcp".to_owned(),
            "_v2._sub._w._sub._x._tcp".to_owned(),
        ] {
            let error = text.parse::<ServiceType>().unwrap_err();
            assert_eq!(error.code(), "invalid_service_type", "{text:?}");
        }
    }
}
