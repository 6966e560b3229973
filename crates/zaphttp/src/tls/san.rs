//! Names in certificates: those a peer has, and the one that says it is a certain node.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use rustls_pki_types::{DnsName, ServerName};

use super::TlsConfigError;

/// One subject alternative name, as a certificate contains it. DNS names compare without case; a
/// wildcard names no node and never matches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum San {
    /// A DNS name.
    Dns(DnsName<'static>),
    /// An IP address.
    Ip(IpAddr),
    /// A URI, such as `spiffe://cluster.example/billing-1`.
    Uri(Arc<str>),
}

impl San {
    /// A DNS name.
    ///
    /// # Errors
    ///
    /// [`TlsConfigError::BadName`] if `name` is not one.
    pub fn dns(name: &str) -> Result<Self, TlsConfigError> {
        dns_name(name).map(|name| Self::Dns(name.to_lowercase_owned())).ok_or(TlsConfigError::BadName)
    }

    /// A URI, compared byte by byte.
    ///
    /// # Errors
    ///
    /// [`TlsConfigError::BadName`] if `uri` is not printable ASCII or has no scheme.
    pub fn uri(uri: &str) -> Result<Self, TlsConfigError> {
        let has_scheme = uri.split_once(':').is_some_and(|(scheme, rest)| {
            scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && !rest.is_empty()
        });
        if !has_scheme || !uri.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TlsConfigError::BadName);
        }
        Ok(Self::Uri(uri.into()))
    }

    /// The name that is sent to the server and verified by TLS itself; a URI cannot be sent.
    pub(super) fn server_name(&self) -> Option<ServerName<'static>> {
        match self {
            Self::Dns(name) => Some(ServerName::DnsName(name.clone())),
            Self::Ip(address) => Some(ServerName::from(*address)),
            Self::Uri(_) => None,
        }
    }
}

impl From<IpAddr> for San {
    fn from(address: IpAddr) -> Self {
        Self::Ip(address)
    }
}

impl fmt::Display for San {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name.as_ref()),
            Self::Ip(address) => address.fmt(f),
            Self::Uri(uri) => f.write_str(uri),
        }
    }
}

/// How the certificates of a cluster name its nodes: from a node id to the [`San`] that must be there.
#[derive(Clone)]
#[non_exhaustive]
pub enum NodeNames {
    /// The node id is an IP address or a DNS name: `billing-1`.
    Plain,
    /// The node id and a domain are the DNS name: `billing-1.mesh.example` under `mesh.example`.
    Under(Arc<str>),
    /// A prefix and the node id are a URI: `spiffe://mesh.example/billing-1` after `spiffe://mesh.example/`.
    Uri(Arc<str>),
    /// Any other rule; `None` for a node that has no name.
    Custom(Arc<NodeRule>),
}

/// A rule from a node id to its name.
type NodeRule = dyn Fn(&str) -> Option<San> + Send + Sync;

impl NodeNames {
    /// The name that a certificate of this node contains.
    ///
    /// # Errors
    ///
    /// [`TlsConfigError::BadName`] for a node id that no certificate of this kind can contain. Such a
    /// peer must not be dialled.
    pub fn of(&self, node_id: &str) -> Result<San, TlsConfigError> {
        match self {
            Self::Plain => match node_id.parse::<IpAddr>() {
                Ok(address) => Ok(San::Ip(address)),
                Err(_) => San::dns(node_id),
            },
            Self::Under(domain) => San::dns(&format!("{node_id}.{}", domain.trim_start_matches('.'))),
            // The node id is one segment: it must not reach into the rest of the path.
            Self::Uri(_) if node_id.is_empty() || node_id.contains(['/', '?', '#', '%']) => {
                Err(TlsConfigError::BadName)
            }
            Self::Uri(prefix) => San::uri(&format!("{prefix}{node_id}")),
            Self::Custom(rule) => rule(node_id).ok_or(TlsConfigError::BadName),
        }
    }
}

impl fmt::Debug for NodeNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain => f.write_str("Plain"),
            Self::Under(domain) => f.debug_tuple("Under").field(domain).finish(),
            Self::Uri(prefix) => f.debug_tuple("Uri").field(prefix).finish(),
            Self::Custom(_) => f.write_str("Custom"),
        }
    }
}

/// All names of a verified certificate. Names come from the subject alternative names alone, never from
/// the common name (S-052).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerNames {
    dns: Vec<String>,
    ips: Vec<IpAddr>,
    uris: Vec<String>,
}

impl PeerNames {
    /// DNS names in lower case, wildcards included.
    pub fn dns(&self) -> &[String] {
        &self.dns
    }

    /// IP addresses.
    pub fn ips(&self) -> &[IpAddr] {
        &self.ips
    }

    /// URIs.
    pub fn uris(&self) -> &[String] {
        &self.uris
    }

    /// Whether the certificate has this very name; a wildcard is not one.
    pub fn contains(&self, name: &San) -> bool {
        match name {
            San::Dns(name) => self.dns.iter().any(|own| own.eq_ignore_ascii_case(name.as_ref())),
            San::Ip(address) => self.ips.contains(address),
            San::Uri(uri) => self.uris.iter().any(|own| **own == **uri),
        }
    }

    /// From a certificate in DER; nothing if it has no such names or is malformed.
    pub(super) fn of(certificate: &[u8]) -> Self {
        let mut names = Self::default();
        // A half-read list could lack the name that matters, or hold one that was never meant.
        if names.collect(certificate).is_none() { Self::default() } else { names }
    }

    fn collect(&mut self, certificate: &[u8]) -> Option<()> {
        let mut alternatives = Der(alternative_names(certificate)?);
        while !alternatives.0.is_empty() {
            match alternatives.next()? {
                (DNS_NAME, name) => {
                    let name = std::str::from_utf8(name).ok()?;
                    let base = name.strip_prefix("*.").unwrap_or(name);
                    if dns_name(base).is_some() {
                        self.dns.push(name.to_ascii_lowercase());
                    }
                }
                (URI, uri) => {
                    let uri = std::str::from_utf8(uri).ok()?;
                    if uri.bytes().all(|byte| byte.is_ascii_graphic()) {
                        self.uris.push(uri.to_owned());
                    }
                }
                (IP_ADDRESS, address) => {
                    if let Ok(v4) = <[u8; 4]>::try_from(address) {
                        self.ips.push(Ipv4Addr::from(v4).into());
                    } else if let Ok(v6) = <[u8; 16]>::try_from(address) {
                        self.ips.push(Ipv6Addr::from(v6).into());
                    }
                }
                _ => {}
            }
        }
        Some(())
    }
}

/// A DNS name without the final dot, with which certificates do not have them.
fn dns_name(text: &str) -> Option<DnsName<'_>> {
    DnsName::try_from(text).ok().filter(|_| !text.ends_with('.'))
}

/// The contents of the subjectAltName extension (RFC 5280, 4.1 and 4.2.1.6).
fn alternative_names(certificate: &[u8]) -> Option<&[u8]> {
    let certificate = Der(certificate).expect(SEQUENCE)?;
    let mut fields = Der(Der(certificate).expect(SEQUENCE)?);
    let extensions = loop {
        match fields.next()? {
            (EXTENSIONS, list) => break Der(list).expect(SEQUENCE)?,
            _ => continue,
        }
    };
    let mut extensions = Der(extensions);
    while !extensions.0.is_empty() {
        let mut extension = Der(extensions.expect(SEQUENCE)?);
        let is_san = extension.expect(OBJECT_IDENTIFIER)? == SUBJECT_ALT_NAME;
        let (mut tag, mut value) = extension.next()?;
        if tag == BOOLEAN {
            (tag, value) = extension.next()?;
        }
        if is_san {
            return if tag == OCTET_STRING { Der(value).expect(SEQUENCE) } else { None };
        }
    }
    None
}

/// What is left of some DER. Tags of one byte and lengths of at most three are all that X.509 needs here.
pub(super) struct Der<'a>(pub(super) &'a [u8]);

impl<'a> Der<'a> {
    pub(super) fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (len, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x83 => {
                let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (digits.iter().fold(0, |len, &digit| len << 8 | usize::from(digit)), rest)
            }
            _ => return None,
        };
        let (value, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        Some((tag, value))
    }

    pub(super) fn expect(&mut self, expected: u8) -> Option<&'a [u8]> {
        self.next().filter(|&(tag, _)| tag == expected).map(|(_, value)| value)
    }
}

const BOOLEAN: u8 = 0x01;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
pub(super) const SEQUENCE: u8 = 0x30;
const EXTENSIONS: u8 = 0xa3;
const DNS_NAME: u8 = 0x82;
const URI: u8 = 0x86;
const IP_ADDRESS: u8 = 0x87;
/// 2.5.29.17
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

#[cfg(test)]
mod tests {
    use super::*;
    use peerage_tests::TestCa;
    use proptest::prelude::*;

    fn certificate() -> Vec<u8> {
        let ca = TestCa::new();
        let leaf = ca.leaf().dns("*.n1.example").uri("spiffe://x/n1");
        leaf.names(&["n1", "10.0.0.1", "::1"]).issue().certificate().to_vec()
    }

    #[test]
    fn s052_all_kinds_of_names_are_read() {
        let names = PeerNames::of(&certificate());
        assert_eq!(names.dns(), ["*.n1.example", "n1"]);
        assert_eq!(names.uris(), ["spiffe://x/n1"]);
        assert_eq!(names.ips(), [IpAddr::from([10, 0, 0, 1]), Ipv6Addr::LOCALHOST.into()]);
        assert!(names.contains(&San::dns("N1").unwrap()) && !names.contains(&San::dns("n2").unwrap()));
        assert!(!names.contains(&San::dns("a.n1.example").unwrap()), "a wildcard names no node");
    }

    #[test]
    fn s063_names_that_could_mislead_are_left_out() {
        let ca = TestCa::new();
        let leaf = ca.leaf().dns("n1\0.evil").dns("n1 ").dns("n1.").dns("").dns("n*");
        let leaf = leaf.uri("spiffe://x/n1\n").dns("good").issue();
        let names = PeerNames::of(leaf.certificate());
        assert_eq!(names.dns(), ["good"]);
        assert_eq!(names.uris(), [""; 0]);
    }

    #[test]
    fn a_certificate_without_names_has_none() {
        let leaf = TestCa::new().leaf().common_name("n1").issue();
        assert_eq!(PeerNames::of(leaf.certificate()), PeerNames::default());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            PeerNames::of(&bytes);
        }

        #[test]
        fn a_damaged_certificate_is_read_without_a_panic(at in 0_usize..600, value in any::<u8>(), cut in 0_usize..600) {
            thread_local!(static GOOD: Vec<u8> = certificate());
            let mut bytes = GOOD.with(Clone::clone);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            PeerNames::of(&bytes);
            bytes.truncate(cut);
            PeerNames::of(&bytes);
        }
    }
}
