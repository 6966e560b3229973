//! `entire://` URLs: which cluster, which path on its nodes (helper spec §2).

use crate::diagnostics::escaped;

/// Words in the place of a forge, which people type where the host belongs.
const FORGES: &[&str] = &["et", "gh"];

/// A remote repository, taken from the URL that the user typed.
///
/// No field holds a password, and [`user`](Self::user) is a hint for a credential helper only.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Address {
    /// `host` or `host:port` as typed; the trust domain.
    pub cluster_host: String,
    /// The path on every node, byte for byte as typed but for slashes at its end, with its leading `/`.
    pub path: String,
    /// The user name in the URL, decoded, or `None`.
    pub user: Option<String>,
    /// Whether the URL held a password, which is ignored.
    pub had_password: bool,
}

/// Why a URL names no repository. The texts show the URL without userinfo, escaped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// It cannot be parsed, or it holds what no URL of a repository needs (S-180).
    #[error("invalid URL \"{url}\": {reason}")]
    Invalid {
        /// The URL, fit to be shown.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Its scheme is another one.
    #[error("unsupported URL scheme \"{scheme}\": this helper serves entire:// URLs")]
    Scheme {
        /// The scheme, fit to be shown.
        scheme: String,
    },
    /// It has no host.
    #[error("missing host in URL \"{url}\"")]
    MissingHost {
        /// The URL, fit to be shown.
        url: String,
    },
    /// A forge id stands where the host belongs.
    #[error(
        "the cluster host is missing in URL \"{url}\": \"{forge}\" is a forge id, not a host; \
         write entire://<cluster-host>/{forge}/{rest}"
    )]
    ForgeForHost {
        /// The URL, fit to be shown.
        url: String,
        /// The forge id.
        forge: &'static str,
        /// `<owner>/<repo>`.
        rest: String,
    },
}

impl Address {
    /// Takes a URL apart.
    ///
    /// # Errors
    ///
    /// [`AddressError`], before anything else is done with the URL.
    pub fn parse(url: &str) -> Result<Self, AddressError> {
        let shown = || shown(url);
        let invalid = |reason| AddressError::Invalid { url: shown(), reason };
        let (scheme, rest) = url.split_once("://").ok_or_else(|| invalid("it has no scheme and host"))?;
        if scheme.is_empty() || !scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) {
            return Err(invalid("its scheme is none"));
        }
        if !scheme.eq_ignore_ascii_case("entire") {
            return Err(AddressError::Scheme { scheme: escaped(scheme.as_bytes()) });
        }
        if url.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(invalid("it contains a blank or a control character"));
        }
        if holds_encoded_control(url) {
            return Err(invalid("it contains an encoded control character"));
        }
        if url.bytes().any(|b| b"\\\"<>^`{|}".contains(&b)) {
            return Err(invalid("it contains a character that no URL may"));
        }
        // Query and fragment say nothing about a repository.
        let rest = rest.split(['?', '#']).next().unwrap_or_default();
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let (userinfo, host) = match authority.rsplit_once('@') {
            Some((userinfo, host)) => (Some(userinfo), host),
            None => (None, authority),
        };
        if host.is_empty() || FORGES.contains(&host) {
            return Err(missing_host(host, path, shown()));
        }
        check_host(host).map_err(invalid)?;
        let (user, had_password) = match userinfo {
            None => (None, false),
            Some(userinfo) => {
                let (user, password) = match userinfo.split_once(':') {
                    Some((user, _)) => (user, true),
                    None => (userinfo, false),
                };
                let user = decoded(user).ok_or_else(|| invalid("its user name cannot be read"))?;
                if user.starts_with('-') {
                    return Err(invalid("its user name begins with a dash"));
                }
                (Some(user).filter(|user| !user.is_empty()), password)
            }
        };
        // What follows on the wire brings its own slash.
        let path = Some(path.trim_end_matches('/')).filter(|path| !path.is_empty()).unwrap_or("/");
        Ok(Self { cluster_host: host.to_owned(), path: path.to_owned(), user, had_password })
    }

    /// The key of this repository in the node cache: the path without slashes around it.
    pub fn repo_path(&self) -> &str {
        self.path.trim_matches('/')
    }

    /// The host without its port.
    pub fn host_name(&self) -> &str {
        let host = self.cluster_host.as_str();
        match host.rsplit_once(':') {
            Some((name, port)) if !port.contains(']') => name,
            _ => host,
        }
    }

    /// Whether the host is this machine: `localhost`, 127.0.0.0/8 or `[::1]`.
    pub fn is_loopback(&self) -> bool {
        let name = self.host_name();
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        name.eq_ignore_ascii_case("localhost")
            || bare.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
    }
}

fn missing_host(host: &str, path: &str, url: String) -> AddressError {
    let whole = format!("{host}{path}");
    let mut pieces = whole.trim_start_matches('/').split('/');
    let (forge, owner, repo) = (pieces.next(), pieces.next(), pieces.next());
    let forge = FORGES.iter().find(|known| Some(**known) == forge);
    match (forge, owner, repo, pieces.next()) {
        (Some(forge), Some(owner), Some(repo), None) if !owner.is_empty() && !repo.is_empty() => {
            let rest = escaped(format!("{owner}/{repo}").as_bytes());
            AddressError::ForgeForHost { url, forge, rest }
        }
        _ => AddressError::MissingHost { url },
    }
}

fn check_host(host: &str) -> Result<(), &'static str> {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']').ok_or("its host has no closing bracket")?;
            let port = match after {
                "" => None,
                _ => Some(after.strip_prefix(':').ok_or("there is something behind its host")?),
            };
            address.parse::<std::net::Ipv6Addr>().map_err(|_| "its host is no IPv6 address")?;
            (None, port)
        }
        None => match host.split_once(':') {
            Some((name, port)) => (Some(name), Some(port)),
            None => (Some(host), None),
        },
    };
    if let Some(name) = name {
        if name.is_empty() {
            return Err("its host is empty");
        }
        if name.starts_with('-') {
            return Err("its host begins with a dash");
        }
        if name.bytes().any(|b| b.is_ascii() && !(b.is_ascii_alphanumeric() || b"-._".contains(&b))) {
            return Err("its host has a character that no host has");
        }
    }
    match port {
        None => Ok(()),
        Some(port) => match port.parse::<u16>() {
            // No sign, no leading zero: both would be read differently elsewhere.
            Ok(number) if number > 0 && number.to_string() == port => Ok(()),
            _ => Err("its port is no port"),
        },
    }
}

/// Whether `%00`–`%1f` or `%7f` is in it: no path and no name needs those.
fn holds_encoded_control(text: &str) -> bool {
    text.as_bytes().windows(3).any(|three| match three {
        [b'%', high, low] => {
            let value = |digit: &u8| char::from(*digit).to_digit(16);
            matches!((value(high), value(low)), (Some(0 | 1), Some(_)) | (Some(7), Some(15)))
        }
        _ => false,
    })
}

/// Undoes percent encoding; `None` for what is not encoded right or is no UTF-8.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let high = char::from(rest.next()?).to_digit(16)?;
        let low = char::from(rest.next()?).to_digit(16)?;
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

/// The URL as it may be shown: escaped, and with nothing of its userinfo, query and fragment.
fn shown(url: &str) -> String {
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None => (None, url),
    };
    let cut = rest.find(['?', '#']).and_then(|at| rest.get(..at)).unwrap_or(rest);
    let end = cut.find(['/', '\\']).unwrap_or(cut.len());
    let (authority, path) = cut.split_at(end);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let text = match scheme {
        Some(scheme) => format!("{scheme}://{host}{path}"),
        None => format!("{host}{path}"),
    };
    escaped(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> String {
        match Address::parse(url) {
            Ok(address) => panic!("{url:?} was read as {address:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn each_form_of_path_is_the_path_on_the_node_and_its_key() {
        for (url, host, path, key) in [
            ("entire://h/et/project/repo", "h", "/et/project/repo", "et/project/repo"),
            ("entire://h/gh/owner/repo", "h", "/gh/owner/repo", "gh/owner/repo"),
            ("entire://h:8443/git/owner/repo", "h:8443", "/git/owner/repo", "git/owner/repo"),
            ("ENTIRE://h/a/?x=y#z", "h", "/a", "a"),
            ("entire://[::1]:80/a", "[::1]:80", "/a", "a"),
            ("entire://h", "h", "/", ""),
        ] {
            let address = Address::parse(url).unwrap();
            assert_eq!((address.cluster_host.as_str(), address.path.as_str()), (host, path), "{url}");
            assert_eq!(address.repo_path(), key, "{url}");
        }
    }

    #[test]
    fn g144_a_forge_in_the_hosts_place_is_pointed_at() {
        for url in ["entire:///gh/o/r", "entire://gh/o/r"] {
            let text = refused(url);
            assert!(text.contains("the cluster host is missing"), "{text}");
            assert!(text.contains("entire://<cluster-host>/gh/o/r"), "{text}");
        }
    }

    #[test]
    fn g145_anything_shorter_is_a_missing_host_without_a_suggestion() {
        for url in
            ["entire://gh", "entire://gh/o", "entire:///x/o/r", "entire:///gh/o/", "entire:///gh/o/r/s"]
        {
            let text = refused(url);
            assert_eq!(text, format!("missing host in URL \"{url}\""));
        }
    }

    #[test]
    fn g146_another_scheme_and_a_broken_url_are_told_apart() {
        assert!(refused("https://h/et/o/r").contains("unsupported URL scheme"));
        assert!(refused("entire://h h/x").contains("invalid URL"));
        assert!(refused("h/x").contains("invalid URL"));
        assert!(refused("").contains("invalid URL"));
    }

    #[test]
    fn g147_an_encoded_path_is_kept_byte_for_byte() {
        let address = Address::parse("entire://h/et/o/a%3Fb%20c").unwrap();
        assert_eq!(address.path, "/et/o/a%3Fb%20c");
    }

    #[test]
    fn g148_userinfo_is_a_hint_at_most_and_the_password_nothing() {
        let address = Address::parse("entire://alice:pw@h/et/o/r").unwrap();
        assert_eq!(address.user.as_deref(), Some("alice"));
        assert!(address.had_password);
        assert_eq!((address.cluster_host.as_str(), address.repo_path()), ("h", "et/o/r"));
        assert!(!format!("{address:?}").contains("pw"));
        let named = Address::parse("entire://a%40b@h/r").unwrap();
        assert_eq!((named.user.as_deref(), named.had_password), (Some("a@b"), false));
    }

    #[test]
    fn a_url_as_a_weapon_is_refused_before_anything_starts() {
        for (row, urls) in [
            (
                "SV-W01",
                &[
                    "entire://cluster.example/a%0ahost=evil",
                    "entire://cluster.example/a%0D",
                    "entire://cluster.example/a%00",
                    "entire://cluster.example/%1b[2J",
                    "entire://cluster.example/%7F",
                    "entire://cluster.example/a\nb",
                    "entire://u%0as@cluster.example/a",
                ] as &[&str],
            ),
            ("SV-W02", &["entire://-oProxyCommand=x/a", "entire://-x@h/a", "entire://%2dx@h/a"]),
            ("SV-W03", &["entire:///a", "entire://h /a", "entire://h/a b", "entire://u@/a"]),
            (
                "S-180",
                &[
                    "entire://h:0/a",
                    "entire://h:+1/a",
                    "entire://h:01/a",
                    "entire://h:65536/a",
                    "entire://h:/a",
                    "entire://[::1/a",
                    "entire://[::1]x/a",
                    "entire://h%41/a",
                    "entire://h\\@evil/a",
                    "entire://a@b%zz@h/a",
                ],
            ),
        ] {
            for url in urls {
                let text = refused(url);
                assert!(!text.contains('\n') && !text.contains('\u{1b}'), "{row}: {text:?}");
            }
        }
        let text = refused("entire://alice:s3cret@h h/x?token=t0k");
        assert!(
            !text.contains("s3cret") && !text.contains("alice") && !text.contains("t0k"),
            "SV-L08: {text}"
        );
    }

    #[test]
    fn loopback_is_an_address_or_one_name() {
        for host in ["localhost", "LOCALHOST:1", "127.0.0.1:8080", "127.9.9.9", "[::1]:1", "[::1]"] {
            assert!(Address::parse(&format!("entire://{host}/a")).unwrap().is_loopback(), "{host}");
        }
        for host in ["x.localhost", "localhost.example", "128.0.0.1", "[::2]", "1.127.0.0.1"] {
            assert!(!Address::parse(&format!("entire://{host}/a")).unwrap().is_loopback(), "{host}");
        }
    }
}
