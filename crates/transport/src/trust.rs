//! Who may be asked, over which scheme, and who may see the credential: pure functions, and nothing else
//! in this crate compares host names.
//!
//! A replica URL comes from a response header, a `Location` or a file that any process of the user can
//! edit. The host rule decides whether it belongs to the cluster (transport §3.1), the scheme rule
//! whether it may be dialled at all (§3.2), and both stand once more in front of the credential.

use std::net::{Ipv4Addr, Ipv6Addr};

use http::header::{AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION};
use http::{HeaderMap, HeaderName};
use url::Url;

use crate::error::PolicyError;

/// How many requests one chain of redirects may have, the first included (S-025).
pub(crate) const MAX_CHAIN: usize = 10;

/// The longest `Location` that is looked at (threats §3).
const MAX_LOCATION: usize = 8 * 1024;

/// Whether `host` belongs to the trust domain that `cluster` names (transport §3.1).
///
/// Both may carry a port, which never matters. Equal hosts are in; so is a subdomain, if the cluster is
/// a name that one party registered: no IP address, no single label, no public suffix. A host that no
/// resolver and certificate would agree on (an empty label, a trailing dot, `0x7f.1`) is never in, and an
/// empty cluster has no members.
///
/// # Deviation
///
/// The host's registrable domain must be the cluster or an ancestor of it (S-002): below
/// `compute.amazonaws.com`, which is no public suffix, each child belongs to somebody else.
///
/// # Examples
///
/// ```
/// use peerage_transport::trust::host_in_cluster;
///
/// assert!(host_in_cluster("n1.eu.cluster.example:8443", "eu.cluster.example"));
/// assert!(!host_in_cluster("evil.test", "eu.cluster.example"));
/// assert!(!host_in_cluster("anybody.github.io", "github.io"), "a public suffix has no subdomains of its own");
/// ```
pub fn host_in_cluster(host: &str, cluster: &str) -> bool {
    match (Host::parse(strip_port(host)), Host::typed(strip_port(cluster))) {
        (Some(host), Some(cluster)) => host.is_in(&cluster),
        _ => false,
    }
}

/// A host, in the one form in which two of them are compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Host {
    /// Lower case, ASCII, checked label by label (S-004).
    Name(String),
    V4(Ipv4Addr),
    /// An IPv4-mapped address is not the IPv4 address (S-004).
    V6(Ipv6Addr),
}

impl Host {
    /// A host from the network: it has to be ASCII already (S-005). IPv6 with or without brackets.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if let Ok(address) = bare.unwrap_or(text).parse() {
            return Some(Self::V6(address));
        }
        if bare.is_some() {
            return None;
        }
        if let Ok(address) = text.parse() {
            return Some(Self::V4(address));
        }
        let name = text.to_ascii_lowercase();
        is_host_name(&name).then_some(Self::Name(name))
    }

    /// A host that a person typed: it may be Unicode and is converted once (S-005).
    pub(crate) fn typed(text: &str) -> Option<Self> {
        if text.is_ascii() {
            return Self::parse(text);
        }
        match url::Host::parse(text).ok()? {
            url::Host::Domain(name) => Self::parse(&name),
            url::Host::Ipv4(_) | url::Host::Ipv6(_) => None,
        }
    }

    /// The host of a URL, by the same rules as a text.
    pub(crate) fn of(url: &Url) -> Option<Self> {
        match url.host()? {
            url::Host::Domain(name) => Self::parse(name),
            url::Host::Ipv4(address) => Some(Self::V4(address)),
            url::Host::Ipv6(address) => Some(Self::V6(address)),
        }
    }

    /// Whether this is `cluster` or lies in it.
    pub(crate) fn is_in(&self, cluster: &Self) -> bool {
        if self == cluster {
            return true;
        }
        let (Self::Name(host), Self::Name(cluster)) = (self, cluster) else { return false };
        is_below(host, cluster)
            && is_registered(cluster)
            && registrable(host).is_some_and(|domain| domain == cluster || is_below(cluster, domain))
    }

    fn is_loopback(&self) -> bool {
        match self {
            Self::Name(name) => name == "localhost",
            Self::V4(address) => address.is_loopback(),
            Self::V6(address) => address.is_loopback(),
        }
    }
}

/// `name:443`, `1.2.3.4:443` and `[::1]:443` without the port; anything else as it is.
pub(crate) fn strip_port(text: &str) -> &str {
    let Some((host, port)) = text.rsplit_once(':') else { return text };
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    let is_bracketed = host.starts_with('[') && host.ends_with(']');
    if is_port && (is_bracketed || !host.contains(':')) { host } else { text }
}

/// Whether `name` lies below `parent`, at a label boundary.
fn is_below(name: &str, parent: &str) -> bool {
    name.strip_suffix(parent).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
}

/// A name that one party holds: two labels at least, and no public suffix.
fn is_registered(name: &str) -> bool {
    name.contains('.') && psl::suffix_str(name).is_some_and(|suffix| suffix != name)
}

/// The public suffix and one label. A list entry or not, the last label of a name is a suffix.
fn registrable(name: &str) -> Option<&str> {
    psl::domain_str(name)
}

/// Lower-case ASCII; every reader of it sees the same host (S-004).
fn is_host_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte))
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    let numeric = last.bytes().all(|byte| byte.is_ascii_digit())
        || last.strip_prefix("0x").is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
    name.len() <= 253
        && name.split('.').all(label)
        && !numeric
        // An `xn--` label has to decode, and to encode back to itself (RUSTSEC-2024-0421).
        && (!name.contains("xn--")
            || matches!(url::Host::parse(name), Ok(url::Host::Domain(read)) if read == name))
}

/// Whether `url` is plain HTTP to this machine: `localhost`, `127.0.0.0/8` or `::1` (S-008).
pub(crate) fn is_loopback_http(url: &Url) -> bool {
    url.scheme() == "http" && is_loopback(url)
}

/// Whether `url` names this machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    Host::of(url).is_some_and(|host| host.is_loopback())
}

/// The scheme rule (transport §3.2): `https` always; `http` to loopback where that is allowed and no
/// request was aimed at `https` before.
pub fn scheme_allowed(url: &Url, loopback_http: bool, https_seen: bool) -> bool {
    match url.scheme() {
        "https" => url.has_host(),
        "http" => loopback_http && !https_seen && is_loopback(url),
        _ => false,
    }
}

/// Whether a hop to `next` keeps `https`, and the chain its bound (transport §11, rules 2 and 3).
///
/// `chain` holds the requests made so far. A rule of the caller's own comes after this one.
///
/// # Errors
///
/// [`PolicyError::TlsFloor`] and [`PolicyError::TooManyRedirects`].
pub fn secure_redirect(chain: &[Url], next: &Url) -> Result<(), PolicyError> {
    if chain.iter().any(|url| url.scheme() == "https") && next.scheme() != "https" {
        return Err(PolicyError::TlsFloor { target: shown(next) });
    }
    if chain.len() >= MAX_CHAIN {
        return Err(PolicyError::TooManyRedirects);
    }
    Ok(())
}

/// Where a redirect leads, or `None` if it is not to be followed (S-026).
///
/// `values` are the raw `Location` headers; a relative one is read against `current`. Userinfo is
/// dropped here, so that it can neither become a credential nor be shown.
pub fn location<'a>(current: &Url, values: impl IntoIterator<Item = &'a [u8]>) -> Option<Url> {
    let mut values = values.into_iter();
    let first = values.next()?;
    if first.is_empty() || values.any(|other| other != first) || first.len() > MAX_LOCATION {
        return None;
    }
    if !first.iter().all(|byte| (0x21..=0x7e).contains(byte) && *byte != b'\\') {
        return None;
    }
    let mut url = current.join(std::str::from_utf8(first).ok()?).ok()?;
    // Only `data:` and its like have no place for userinfo, and they have none to remove either.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_fragment(None);
    Some(url)
}

/// Removes what must not leave the cluster (S-021): what the credential hook set, and everything that
/// is a credential by its name or by its mark.
pub(crate) fn strip_credentials(headers: &mut HeaderMap, set_by_hook: &[HeaderName]) {
    let secret: Vec<HeaderName> = headers
        .iter()
        .filter(|(name, value)| value.is_sensitive() || set_by_hook.contains(name))
        .map(|(name, _)| name.clone())
        .chain([AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION])
        .collect();
    for name in secret {
        headers.remove(name);
    }
}

/// Scheme, host and port: all of a URL that a message may show (S-028).
pub(crate) fn shown(url: &Url) -> String {
    match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{}://{host}:{port}", url.scheme()),
        (Some(host), None) => format!("{}://{host}", url.scheme()),
        (None, _) => format!("{}:", url.scheme()),
    }
}
