//! Where a peer can be dialled.

use std::{
    fmt::{self, Display, Formatter},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    str::FromStr,
    sync::Arc,
};

use crate::error::DiscoveryError;

/// An address that can be dialled: an IP address or a host name, and a port.
///
/// `Display` and `FromStr` are inverse: `192.0.2.7:80`, `[2001:db8::1]:80`, `[fe80::1%3]:80` (the scope
/// is the interface index), `ta.internal:8443`. When parsing, the scope may also be the name of an
/// interface that is there now. Host names are in lower case and without a final dot.
///
/// # Deviation
/// The reference prints IPv6 addresses without brackets and loses their scope; we do neither.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_enums, reason = "what can be dialled over IP is an address or a name")]
pub enum Endpoint {
    /// An IP address; IPv6 with its scope, without flow information.
    Ip(SocketAddr),
    /// A host name that the dialer resolves. [`Endpoint::name`] checks it.
    Name {
        /// In lower case, without a final dot.
        host: Arc<str>,
        /// The port.
        port: u16,
    },
}

impl Endpoint {
    /// A host name and a port.
    ///
    /// # Errors
    ///
    /// [`DiscoveryError::InvalidEndpoint`] if `host` is no host name, or one that resolvers read as an
    /// IPv4 address (`10.1`, `0x7f.1`).
    pub fn name(host: &str, port: u16) -> Result<Self, DiscoveryError> {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        check_host(&host)?;
        Ok(Self::Name { host: host.into(), port })
    }

    /// The port.
    pub fn port(&self) -> u16 {
        match self {
            Self::Ip(address) => address.port(),
            Self::Name { port, .. } => *port,
        }
    }

    /// The IP address, if it is one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Ip(address) => Some(address.ip()),
            Self::Name { .. } => None,
        }
    }

    /// The IP address and port, if it is one.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Name { .. } => None,
        }
    }

    /// Whether this is an IP address of the own host's loopback. A name never is, not even
    /// `localhost`: what it resolves to is not ours to promise.
    pub fn is_loopback(&self) -> bool {
        self.ip().is_some_and(|ip| ip.to_canonical().is_loopback())
    }
}

impl Display for Endpoint {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl FromStr for Endpoint {
    type Err = DiscoveryError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(rest) = text.strip_prefix('[') {
            let Some((host, port)) = rest.rsplit_once("]:") else {
                return Err(invalid(text, "must be of the form `[address]:port`"));
            };
            return parse_v6(host, parse_port(port)?);
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(invalid(text, "has no port"));
        };
        let port = parse_port(port)?;
        if host.contains(':') {
            return Err(invalid(host, "needs brackets around an IPv6 address"));
        }
        match host.parse::<Ipv4Addr>() {
            Ok(ip) => Ok(Self::Ip((ip, port).into())),
            Err(_) => Self::name(host, port),
        }
    }
}

impl TryFrom<&str> for Endpoint {
    type Error = DiscoveryError;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl TryFrom<String> for Endpoint {
    type Error = DiscoveryError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        match address {
            // Flow information belongs to a packet, not to a place.
            SocketAddr::V6(v6) => Self::Ip(SocketAddrV6::new(*v6.ip(), v6.port(), 0, v6.scope_id()).into()),
            SocketAddr::V4(_) => Self::Ip(address),
        }
    }
}

fn parse_v6(text: &str, port: u16) -> Result<Endpoint, DiscoveryError> {
    let (ip, scope) = match text.split_once('%') {
        Some((ip, scope)) => (ip, parse_scope(scope)?),
        None => (text, 0),
    };
    let ip: Ipv6Addr = ip.parse().map_err(|_| invalid(ip, "is not an IPv6 address"))?;
    Ok(Endpoint::Ip(SocketAddrV6::new(ip, port, 0, scope).into()))
}

fn parse_scope(text: &str) -> Result<u32, DiscoveryError> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().map_err(|_| invalid(text, "is no interface index"));
    }
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let named = interfaces.into_iter().find(|interface| interface.name == text);
    named.and_then(|interface| interface.index).ok_or_else(|| invalid(text, "is no interface of this host"))
}

/// `u16::from_str` would also take a plus sign.
fn parse_port(text: &str) -> Result<u16, DiscoveryError> {
    let digits = (1..=5).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().ok_or_else(|| invalid(text, "is not a port"))
}

fn check_host(host: &str) -> Result<(), DiscoveryError> {
    let label_is_valid = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if host.is_empty() {
        return Err(invalid(host, "has no host"));
    }
    if host.len() > 253 || !host.split('.').all(label_is_valid) {
        return Err(invalid(host, "is not a host name"));
    }
    // `getaddrinfo` takes `10.1` and `0x7f.1` for addresses, behind the back of the address policy.
    let last = host.rsplit('.').next().unwrap_or_default();
    let hex = last.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    if hex || last.bytes().all(|b| b.is_ascii_digit()) {
        return Err(invalid(host, "is neither an IPv4 address nor a host name"));
    }
    Ok(())
}

fn invalid(part: &str, rule: &'static str) -> DiscoveryError {
    let part = if part.is_empty() { "the empty text" } else { part };
    DiscoveryError::InvalidEndpoint { part: part.to_owned(), rule }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn endpoint() -> impl Strategy<Value = Endpoint> {
        prop_oneof![
            (any::<Ipv4Addr>(), any::<u16>()).prop_map(|(ip, port)| Endpoint::Ip((ip, port).into())),
            (any::<Ipv6Addr>(), any::<u16>(), prop_oneof![Just(0), any::<u32>()])
                .prop_map(|(ip, port, scope)| Endpoint::Ip(SocketAddrV6::new(ip, port, 0, scope).into())),
            ("[a-z_][a-z0-9_]{0,20}(\\.[a-z]([a-z0-9-]{0,30}[a-z0-9])?){0,3}", any::<u16>())
                .prop_map(|(host, port)| Endpoint::Name { host: host.into(), port }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]
        #[test]
        fn d004_what_is_printed_is_parsed_back(endpoint in endpoint()) {
            let text = endpoint.to_string();
            prop_assert_eq!(text.parse::<Endpoint>(), Ok(endpoint), "{}", text);
        }
    }

    #[test]
    fn d004_endpoints_have_one_text_form() {
        let rows = [
            ("192.0.2.7:80", "192.0.2.7:80", Some("192.0.2.7")),
            ("[2001:DB8::1]:80", "[2001:db8::1]:80", Some("2001:db8::1")),
            ("[fe80::1%3]:80", "[fe80::1%3]:80", Some("fe80::1")),
            ("TA.Internal.:8443", "ta.internal:8443", None),
            ("_x.a-b:1", "_x.a-b:1", None),
            ("ta:0", "ta:0", None),
            ("ta:00080", "ta:80", None),
        ];
        for (text, shown, ip) in rows {
            let endpoint: Endpoint = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(endpoint.to_string(), shown);
            assert_eq!(endpoint.ip(), ip.map(|ip| ip.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn s134_what_is_no_endpoint_is_refused() {
        let longest = "a.".repeat(126) + "a";
        assert_eq!(longest.len(), 253);
        assert!(Endpoint::name(&longest, 1).is_ok());
        let too_long = format!("{longest}a:1");
        let label = format!("{}.x:1", "l".repeat(64));
        for text in [
            "",
            "80",
            "ta",
            ":80",
            ".:80",
            "ta:",
            "ta:+80",
            "ta:65536",
            "ta:000080",
            "ta:8x",
            "::1:80",
            "[::1]",
            "[::1]80",
            "[::1:80",
            "[1.2.3.4]:80",
            "[::1%]:80",
            "[::1%99999999999]:80",
            "a..b:1",
            "-a:1",
            "a-:1",
            "a b:1",
            "ä:1",
            "a/b:1",
            "u@h:1",
            "10.1:80",
            "0x7f.1:80",
            "1.2.3.256:80",
            "127.1.:80",
            "0x7f000001:1",
            &too_long,
            &label,
        ] {
            let error = text.parse::<Endpoint>().unwrap_err();
            assert_eq!(error.code(), "invalid_endpoint", "{text:?}");
        }
    }

    #[test]
    fn d005_a_scope_may_be_an_interface_name() {
        let loopback = if_addrs::get_if_addrs().unwrap().into_iter().find(|i| i.is_loopback()).unwrap();
        let text = format!("[fe80::1%{}]:80", loopback.name);
        let expected: Ipv6Addr = "fe80::1".parse().unwrap();
        let scope = loopback.index.unwrap();
        assert_eq!(text.parse(), Ok(Endpoint::Ip(SocketAddrV6::new(expected, 80, 0, scope).into())));
        assert_eq!(
            "[fe80::1%nosuch]:80".parse::<Endpoint>(),
            Err(DiscoveryError::InvalidEndpoint {
                part: "nosuch".to_owned(),
                rule: "is no interface of this host"
            })
        );
    }

    #[test]
    fn only_loopback_addresses_are_loopback() {
        for (text, expected) in [
            ("127.0.0.1:1", true),
            ("127.9.9.9:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("128.0.0.1:1", false),
            ("localhost:1", false),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().is_loopback(), expected, "{text}");
        }
    }
}
