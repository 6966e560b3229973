//! Base URLs of replicas: one, and the list in an `X-Entire-Replicas` header.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use http::HeaderMap;
use url::Url;

use crate::trust::Host;

/// The header that names the replicas of a repository.
pub(crate) const REPLICAS_HEADER: &str = "x-entire-replicas";

/// How many replicas one header may name; the rest is ignored (transport §4).
pub(crate) const MAX_REPLICAS: usize = 32;

/// How much of the header is read.
const MAX_HEADER: usize = 8 * 1024;

/// The base URL of a server that has the repository: `scheme://host[:port]`, perhaps with a path prefix
/// that stands in front of the repository's path.
///
/// Always normal: host in lower case, no default port, no trailing slash, no userinfo, query or
/// fragment. Being a `Replica` says nothing about trust.
///
/// Cheap to clone.
#[derive(Clone)]
pub struct Replica {
    base: Arc<Base>,
}

struct Base {
    url: Url,
    text: String,
}

impl Replica {
    /// Reads a base URL, or tells that no two readers would agree on what it says (S-003, S-004).
    ///
    /// # Examples
    ///
    /// ```
    /// use peerage_transport::Replica;
    ///
    /// let replica = Replica::parse("HTTPS://N1.Cluster.Example:443/").expect("a base URL");
    /// assert_eq!(replica.as_str(), "https://n1.cluster.example");
    /// assert!(Replica::parse("https://evil.test\\@n1.cluster.example").is_none());
    /// ```
    pub fn parse(raw: &str) -> Option<Self> {
        if !raw.bytes().all(|byte| (0x21..=0x7e).contains(&byte) && !b"\\\"<>^{|}`".contains(&byte)) {
            return None;
        }
        let (scheme, rest) = raw.split_once("://")?;
        if !scheme.eq_ignore_ascii_case("https") && !scheme.eq_ignore_ascii_case("http") {
            return None;
        }
        let authority = rest.split(['/', '?', '#']).next()?;
        if authority.is_empty() || authority.contains(['@', '%']) || rest.contains(['?', '#']) {
            return None;
        }
        let url = Url::parse(raw).ok()?;
        // The text and the parser have to name the same host: `127.1` and `127.0.0.1` do not.
        if Host::parse(authority_host(authority)?)? != Host::of(&url)? {
            return None;
        }
        let path = url.path().trim_end_matches('/').to_owned();
        let text = format!("{}{path}", url.origin().ascii_serialization());
        let url = Url::parse(&text).ok()?;
        Some(Self { base: Arc::new(Base { url, text }) })
    }

    /// The replicas that the lines of an `X-Entire-Replicas` header name (transport §4): order kept, the
    /// first of equal ones kept, whatever is no usable base URL dropped; at most 32 of at most 8 KiB.
    pub fn list<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Vec<Self> {
        parse(lines)
    }

    /// The origin of a URL that answered.
    pub(crate) fn of_origin(url: &Url) -> Option<Self> {
        Self::parse(&url.origin().ascii_serialization())
    }

    /// The base URL, without a trailing slash.
    pub fn as_str(&self) -> &str {
        &self.base.text
    }

    /// The base URL, parsed.
    pub fn url(&self) -> &Url {
        &self.base.url
    }

    /// `scheme://host[:port]` without the path prefix.
    pub fn origin(&self) -> String {
        self.base.url.origin().ascii_serialization()
    }

    /// Whether `url` points at this replica's server.
    pub(crate) fn is_origin_of(&self, url: &Url) -> bool {
        let own = &self.base.url;
        (own.scheme(), own.host(), own.port()) == (url.scheme(), url.host(), url.port())
    }
}

impl PartialEq for Replica {
    fn eq(&self, other: &Self) -> bool {
        self.base.text == other.base.text
    }
}

impl Eq for Replica {}

impl Hash for Replica {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.base.text.hash(state);
    }
}

impl fmt::Display for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.base.text)
    }
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.base.text, f)
    }
}

/// The host in `host`, `host:port` or `[v6]:port`; `None` if the port is not 1–65535 in its plain form.
fn authority_host(authority: &str) -> Option<&str> {
    let end = match authority.strip_prefix('[') {
        Some(rest) => rest.find(']')? + 2,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, port) = authority.split_at_checked(end)?;
    let is_port = |digits: &str| {
        !digits.starts_with('0')
            && digits.bytes().all(|byte| byte.is_ascii_digit())
            && digits.parse::<u16>().is_ok()
    };
    match port.strip_prefix(':') {
        Some(digits) => is_port(digits).then_some(host),
        None => port.is_empty().then_some(host),
    }
}

/// The replicas that an answer names (transport §4); empty means that it names none.
pub(crate) fn of_headers(headers: &HeaderMap) -> Vec<Replica> {
    let lines = headers.get_all(REPLICAS_HEADER).iter().map(http::HeaderValue::as_bytes);
    parse(lines)
}

/// Reads header lines as one list: order kept, first of equal items kept, 32 items and 8 KiB at most.
pub(crate) fn parse<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Vec<Replica> {
    let mut text = Vec::new();
    for line in lines {
        if !text.is_empty() {
            text.push(b',');
        }
        // One more byte than the limit tells whether the item at the limit was cut.
        text.extend(line.iter().take((MAX_HEADER + 1).saturating_sub(text.len())));
    }
    if text.len() > MAX_HEADER {
        let end = text.iter().rposition(|byte| *byte == b',').unwrap_or(0);
        text.truncate(end);
    }
    let mut replicas: Vec<Replica> = Vec::new();
    for item in text.split(|byte| *byte == b',') {
        let replica = std::str::from_utf8(item)
            .ok()
            .and_then(|item| Replica::parse(item.trim_matches([' ', '\t', '\r', '\n'])));
        if let Some(replica) = replica.filter(|replica| !replicas.contains(replica)) {
            replicas.push(replica);
            if replicas.len() == MAX_REPLICAS {
                break;
            }
        }
    }
    replicas
}
