//! Where a redirect leads, and whether it may.

use http::HeaderMap;
use url::Url;

use crate::PolicyError;
use crate::trust::{location, secure_redirect, strip_credentials};

fn urls(chain: &[&str]) -> Vec<Url> {
    chain.iter().map(|url| Url::parse(url).unwrap()).collect()
}

#[test]
fn the_secure_redirect_rule_is_this_table() {
    let table: [(&str, &[&str], &str, bool); 8] = [
        ("T-129", &["https://host/a"], "https://host/b", true),
        ("T-130", &["https://host/a"], "https://other/b", true),
        ("T-131", &["http://127.0.0.1/a"], "http://127.0.0.1/b", true),
        ("T-132", &["http://127.0.0.1/a"], "https://127.0.0.1/b", true),
        ("T-133", &["https://host/a"], "http://host/b", false),
        ("T-134", &["https://127.0.0.1/a"], "http://127.0.0.1/b", false),
        ("T-135", &["http://host/a", "https://host/b"], "http://host/c", false),
        ("T-136", &["https://host/a"], "ftp://host/b", false),
    ];
    for (row, chain, next, allowed) in table {
        let judged = secure_redirect(&urls(chain), &Url::parse(next).unwrap());
        assert_eq!(judged.is_ok(), allowed, "{row}");
        if !allowed {
            assert!(matches!(judged, Err(PolicyError::TlsFloor { .. })), "{row}");
        }
    }
}

#[test]
fn t138_the_tenth_redirect_is_refused() {
    let chain: Vec<Url> = (0..10).map(|n| Url::parse(&format!("https://host/{n}")).unwrap()).collect();
    let next = Url::parse("https://host/next").unwrap();
    assert!(secure_redirect(&chain[..9], &next).is_ok(), "ten requests are allowed");
    let error = secure_redirect(&chain, &next).unwrap_err();
    assert!(error.to_string().contains("10 redirects"), "{error}");
}

#[test]
fn a_location_is_followed_or_not() {
    let current = Url::parse("https://cluster.example/et/r/info/refs?service=x").unwrap();
    let long = format!("https://n1.cluster.example/{}", "x".repeat(9 * 1024));
    type Row<'a> = (&'static str, Vec<&'a [u8]>, Option<&'static str>);
    let table: Vec<Row<'_>> = vec![
        ("SV-R01", vec![b"https://n1.cluster.example/x"], Some("https://n1.cluster.example/x")),
        ("SV-R03", vec![b"/other"], Some("https://cluster.example/other")),
        ("SV-R04", vec![b"//n1.cluster.example/x"], Some("https://n1.cluster.example/x")),
        ("SV-R05", vec![b"HTTPS://N1.CLUSTER.EXAMPLE/x"], Some("https://n1.cluster.example/x")),
        ("SV-R19", vec![], None),
        ("SV-R20", vec![b"https://a.example/", b"https://b.example/"], None),
        ("SV-R21", vec![b"https://a.example/", b"https://a.example/"], Some("https://a.example/")),
        ("SV-R22", vec![b"https://n1.cluster.example/\r\nX: y"], None),
        ("SV-R23", vec![b"https://x:s3cret@n1.cluster.example/"], Some("https://n1.cluster.example/")),
        ("SV-R24", vec![b"https://n1.cluster.example@evil.test/"], Some("https://evil.test/")),
        ("SV-R25", vec![b"https://evil.test\\@n1.cluster.example/"], None),
        ("SV-R25", vec![b"/\\evil.test/x"], None),
        ("SV-R25", vec![b"\\\\evil.test"], None),
        ("SV-R27", vec!["https://n1.cluster\u{3002}example/x".as_bytes()], None),
        ("SV-R28", vec![long.as_bytes()], None),
        ("", vec![b""], None),
        ("", vec![b"https://"], None),
        ("", vec![b"https://a.example/#secret"], Some("https://a.example/")),
    ];
    for (row, values, expected) in table {
        let found = location(&current, values);
        assert_eq!(found.as_ref().map(Url::as_str), expected, "{row}");
    }
}

#[test]
fn what_the_hook_set_and_every_credential_stays_in_the_cluster() {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("authorization", "Bearer T"),
        ("cookie", "a=b"),
        ("proxy-authorization", "Basic x"),
        ("x-entire-scope", "S"),
        ("x-marked", "M"),
        ("git-protocol", "version=2"),
        ("user-agent", "u"),
    ] {
        headers.insert(name, value.parse().unwrap());
    }
    headers.get_mut("x-marked").unwrap().set_sensitive(true);
    strip_credentials(&mut headers, &["x-entire-scope".parse().unwrap()]);
    let mut left: Vec<&str> = headers.keys().map(http::HeaderName::as_str).collect();
    left.sort_unstable();
    assert_eq!(left, ["git-protocol", "user-agent"]);
}
