//! Where an answer points, if that is inside the service. Pure.

use std::borrow::Cow;

use http::{
    HeaderMap, HeaderName, Method, StatusCode, Uri,
    header::{
        CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_LOCATION, CONTENT_TYPE, HOST, LOCATION,
        TRANSFER_ENCODING,
    },
    request::Parts,
    uri::{Authority, PathAndQuery},
};

/// The longest location that is looked at (S-026).
const LONGEST: usize = 8 * 1024;

/// The next request of a chain.
#[derive(Debug, PartialEq)]
pub(crate) struct Next {
    pub(crate) target: PathAndQuery,
    method: Method,
    pub(crate) drops_body: bool,
}

/// The request that follows `head`, if the answer to it is a redirect inside the service: to a relative
/// location, or to one with the authority of the request. `by_default` is the authority of a request that
/// names none.
pub(crate) fn next(
    head: &Parts,
    by_default: &Authority,
    status: StatusCode,
    headers: &HeaderMap,
) -> Option<Next> {
    let becomes_get = match status {
        StatusCode::SEE_OTHER => head.method != Method::HEAD,
        // What everybody does, and RFC 9110 §15.4.2 allows.
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => head.method == Method::POST,
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => false,
        _ => return None,
    };
    let location = location(headers)?;
    let inside = within(location, own_authority(head, by_default)?)?;
    let target = resolve(&inside, &head.uri)?;
    let method = if becomes_get { Method::GET } else { head.method.clone() };
    Some(Next { target, method, drops_body: becomes_get })
}

impl Next {
    /// Turns `head` into the next request.
    pub(crate) fn apply(self, head: &mut Parts) {
        let mut uri = std::mem::take(&mut head.uri).into_parts();
        uri.path_and_query = Some(self.target);
        // Scheme and authority were there, or not, with another path already.
        head.uri = Uri::from_parts(uri).unwrap_or_default();
        head.method = self.method;
        if self.drops_body {
            for name in ABOUT_THE_BODY {
                head.headers.remove(name);
            }
        }
    }
}

const ABOUT_THE_BODY: [HeaderName; 6] =
    [CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_LOCATION, CONTENT_TYPE, TRANSFER_ENCODING];

/// The one location of an answer, if it is one that may be looked at (S-026).
fn location(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(LOCATION).iter();
    let location = all.next()?;
    if all.any(|other| other != location) || location.len() > LONGEST {
        return None;
    }
    let is_plain = |byte: &u8| (0x21..=0x7E).contains(byte) && *byte != b'\\';
    location.as_bytes().iter().all(is_plain).then(|| location.to_str().ok())?
}

/// Who the request was for, as the peer saw it.
fn own_authority<'a>(head: &'a Parts, by_default: &'a Authority) -> Option<&'a str> {
    match (head.headers.get(HOST), head.uri.authority()) {
        (Some(host), _) => host.to_str().ok(),
        (None, Some(authority)) => Some(authority.as_str()),
        (None, None) => Some(by_default.as_str()),
    }
}

/// The part of `location` behind an authority, which must be `own`.
fn within<'a>(location: &'a str, own: &str) -> Option<Cow<'a, str>> {
    let behind_scheme = match location.split_once(':') {
        // A colon behind `/`, `?` or `#` belongs to no scheme.
        Some((scheme, rest)) if !scheme.contains(['/', '?', '#']) => {
            let is_http = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
            return if is_http { behind_authority(rest.strip_prefix("//")?, own) } else { None };
        }
        _ => location,
    };
    match behind_scheme.strip_prefix("//") {
        Some(rest) => behind_authority(rest, own),
        None => Some(location.into()),
    }
}

fn behind_authority<'a>(rest: &'a str, own: &str) -> Option<Cow<'a, str>> {
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at_checked(end)?;
    // Userinfo makes it another text, so it is not followed.
    let is_own = authority.eq_ignore_ascii_case(own);
    // An authority without a path means the root.
    is_own.then(|| if target.starts_with('/') { target.into() } else { format!("/{target}").into() })
}

/// Resolves a reference without scheme and authority against the target of the request (RFC 3986 §5.2).
fn resolve(reference: &str, base: &Uri) -> Option<PathAndQuery> {
    let reference = reference.split_once('#').map_or(reference, |(before, _)| before);
    let (path, query) = match reference.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (reference, None),
    };
    let (path, query) = if path.is_empty() {
        (base.path().to_owned(), query.or_else(|| base.query()))
    } else if path.starts_with('/') {
        (without_dots(path), query)
    } else {
        let directory = base.path().rsplit_once('/').map_or("", |(directory, _)| directory);
        (without_dots(&format!("{directory}/{path}")), query)
    };
    match query {
        Some(query) => format!("{path}?{query}").try_into().ok(),
        None => path.try_into().ok(),
    }
}

/// An absolute path without `.` and `..` (RFC 3986 §5.2.4).
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." => {}
            ".." => {
                kept.pop();
            }
            segment => {
                kept.push(segment);
                continue;
            }
        }
        if is_last {
            kept.push("");
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn follow(method: &str, uri: &str, status: u16, location: &[&str]) -> Option<(String, String)> {
        let (mut head, ()) = Request::builder().method(method).uri(uri).body(()).unwrap().into_parts();
        head.headers.insert(CONTENT_TYPE, "text/plain".parse().unwrap());
        let headers =
            location.iter().map(|value| (LOCATION, http::HeaderValue::from_bytes(value.as_bytes()).unwrap()));
        let own = Authority::from_static("billing");
        let next = next(&head, &own, StatusCode::from_u16(status).unwrap(), &headers.collect())?;
        let drops_body = next.drops_body;
        next.apply(&mut head);
        assert_eq!(head.headers.contains_key(CONTENT_TYPE), !drops_body);
        Some((head.method.to_string(), head.uri.to_string()))
    }

    #[test]
    fn s020_h027_what_is_followed_and_how() {
        for (method, uri, status, location, expected) in [
            ("GET", "/a", 307, "/b", Some(("GET", "/b"))),
            ("POST", "/a", 307, "/b", Some(("POST", "/b"))),
            ("POST", "/a", 308, "/b", Some(("POST", "/b"))),
            ("POST", "/a", 303, "/b", Some(("GET", "/b"))),
            ("PUT", "/a", 303, "/b", Some(("GET", "/b"))),
            ("HEAD", "/a", 303, "/b", Some(("HEAD", "/b"))),
            ("POST", "/a", 301, "/b", Some(("GET", "/b"))),
            ("POST", "/a", 302, "/b", Some(("GET", "/b"))),
            ("PUT", "/a", 302, "/b", Some(("PUT", "/b"))),
            ("GET", "/a", 300, "/b", None),
            ("GET", "/a", 304, "/b", None),
            ("GET", "/a", 305, "/b", None),
            ("GET", "/a", 200, "/b", None),
            ("GET", "/v1/a?x=1", 307, "b?y=2", Some(("GET", "/v1/b?y=2"))),
            ("GET", "/v1/a?x=1", 307, "?y=2", Some(("GET", "/v1/a?y=2"))),
            ("GET", "/v1/a", 307, "../b#frag", Some(("GET", "/b"))),
            ("GET", "/v1/a", 307, "../../../b/./c/..", Some(("GET", "/b/"))),
            ("GET", "/v1/a", 307, "/x/%2e%2e/b:c", Some(("GET", "/x/%2e%2e/b:c"))),
            ("GET", "/a", 307, "http://billing/b", Some(("GET", "/b"))),
            ("GET", "/a", 307, "HTTPS://BILLING", Some(("GET", "/"))),
            ("GET", "/a", 307, "//billing?q", Some(("GET", "/?q"))),
            ("GET", "http://other:1/a", 307, "http://other:1/b", Some(("GET", "http://other:1/b"))),
            ("GET", "http://other:1/a", 307, "/b", Some(("GET", "http://other:1/b"))),
            ("GET", "http://other:1/a", 307, "http://billing/b", None),
            ("GET", "/a", 307, "http://billing:80/b", None),
            ("GET", "/a", 307, "http://u:p@billing/b", None),
            ("GET", "/a", 307, "http://billing@evil/b", None),
            ("GET", "/a", 307, "ftp://billing/b", None),
            ("GET", "/a", 307, "javascript:alert(1)", None),
            ("GET", "/a", 307, "http:/b", None),
        ] {
            let expected = expected.map(|(method, uri)| (method.to_owned(), uri.to_owned()));
            assert_eq!(
                follow(method, uri, status, &[location]),
                expected,
                "{method} {uri} {status} {location}"
            );
        }
    }

    #[test]
    fn s026_h028_hostile_locations_are_handed_over() {
        let long = format!("/{}", "a".repeat(LONGEST));
        for location in [
            &["http://evil/"] as &[_],
            &["//evil/"],
            &["https://evil.test\\@billing/"],
            &["/\\evil.test/x"],
            &["\\\\evil.test"],
            &["/a b"],
            &["/a\tb"],
            &["/ü"],
            &[long.as_str()],
            &["/a", "/b"],
            &[],
        ] {
            assert_eq!(follow("GET", "/a", 307, location), None, "{location:?}");
        }
        assert_eq!(
            follow("GET", "/a", 307, &["/b", "/b"]),
            Some(("GET".into(), "/b".into())),
            "one and the same"
        );
    }
}
