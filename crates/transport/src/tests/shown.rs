//! What a person gets to see: texts of servers, errors, debug output (transport §9, §13, §14).

use http::{HeaderMap, HeaderValue, StatusCode};

use crate::debug::{REDACTED, body_preview, is_enabled, line, redact_headers, redact_json, redact_urls};
use crate::error::push_too_large;
use crate::text::{one_line, server_text};
use crate::{
    ConnectBudgets, NodeConfig, ProxyError, ProxySettings, http_error_message, push_outcome_unknown,
};

#[test]
fn texts_of_foreign_origin_are_escaped() {
    let table: [(&str, &[u8], &str); 8] = [
        ("SV-L01", b"a\x1b[31mred", "a\\u{1b}[31mred"),
        ("SV-L02", b"ok\nERROR forged line", "ok\\u{a}ERROR forged line"),
        ("SV-L03", "\u{85}\u{9b}\u{2028}".as_bytes(), "\\u{85}\\u{9b}\\u{2028}"),
        ("SV-L04", "abc\u{202e}fdp.exe".as_bytes(), "abc\\u{202e}fdp.exe"),
        ("SV-L05", "pa\u{200b}ypal".as_bytes(), "pa\\u{200b}ypal"),
        ("SV-L06", b"\xff\xfe", "\\xff\\xfe"),
        ("", "gr\u{fc}n \u{1f980}".as_bytes(), "gr\u{fc}n \u{1f980}"),
        ("", b"\x7f\t\0", "\\u{7f}\\u{9}\\u{0}"),
    ];
    for (row, text, expected) in table {
        assert_eq!(one_line(text), expected, "{row}");
    }
}

#[test]
fn gb14_sv_l07_sv_w11_a_long_text_is_cut_at_a_character() {
    for text in ["A".repeat(1 << 20), "\u{1f980}".repeat(1 << 18), "\x1b]0;owned\x07".repeat(1 << 20)] {
        let shown = one_line(&text);
        assert!(shown.len() <= 1024 && shown.len() > 1000, "{} bytes", shown.len());
        assert!(shown.ends_with('\u{2026}') && !shown.chars().any(char::is_control));
        let of_server = server_text(text.as_bytes(), None).unwrap();
        assert!(of_server.len() <= 1024 && !of_server.chars().any(char::is_control));
        assert!(!of_server.contains("\\x"), "a character cut in two is no broken byte");
    }
    assert_eq!(one_line("A".repeat(1024)).len(), 1024, "what fits is not cut");
    assert!(!one_line("A".repeat(1024)).ends_with('\u{2026}'));
}

#[test]
fn a_servers_text_is_what_says_something() {
    // (body, content type, text)
    let table: [(&[u8], Option<&str>, Option<&str>); 10] = [
        (b"upstream connect error", None, Some("upstream connect error")),
        (b"  two\nlines\t.\n", Some("text/plain"), Some("two\nlines\t.")),
        (b"<html>Bad Gateway</html>", None, None),
        (b"\n<html>", None, None),
        (b"plain", Some("text/html; charset=utf-8"), None),
        (b"plain", Some("TEXT/HTML"), None),
        (b"", None, None),
        (b" \n", None, None),
        (b"a\x1b[2Jb\0", None, Some("a\\u{1b}[2Jb\\u{0}")),
        (b"\xffx", None, Some("\\xffx")),
    ];
    for (body, content_type, expected) in table {
        assert_eq!(server_text(body, content_type).as_deref(), expected, "{body:?}");
    }
}

#[test]
fn the_message_of_a_status_is_this_table() {
    let base = "https://n1.example/et/r";
    // (status, server text, message)
    let table = [
        (401, Some("expired"), "authentication failed: expired"),
        (404, Some("no such thing"), "no such thing"),
        (404, None, "repository not found: https://n1.example/et/r"),
        (413, Some("big"), "server error (HTTP 413): big"),
        (403, Some("no"), "server error (HTTP 403): no"),
        (500, None, "server error (HTTP 500)"),
        (502, Some(""), "server error (HTTP 502)"),
    ];
    for (status, text, expected) in table {
        let error = http_error_message(StatusCode::from_u16(status).unwrap(), text, base);
        assert_eq!(error.to_string(), expected);
    }
    let unauthorized = http_error_message(StatusCode::UNAUTHORIZED, None, base).to_string();
    assert!(unauthorized.starts_with("authentication failed: ") && unauthorized.contains("sign in"));
    let full = http_error_message(StatusCode::INSUFFICIENT_STORAGE, Some("free=1"), base).to_string();
    assert!(full.contains("low on disk space: free=1"), "{full}");
}

#[test]
fn t092_t093_t094_a_push_that_is_too_large_says_by_how_much() {
    let build = |text: &str| match push_too_large(Some(text.to_owned()).filter(|text| !text.is_empty())) {
        error @ ProxyError::PushTooLarge { size, limit, .. } => (error.to_string(), size, limit),
        other => panic!("{other}"),
    };
    let (text, size, limit) = build("push rejected: declared size 3221225472 exceeds limit 2147483648");
    assert_eq!(text, "entire: push too large: size 3221225472 exceeds limit 2147483648");
    assert_eq!((size, limit), (3_221_225_472, 2_147_483_648));
    assert_eq!(build("too big"), ("entire: push too large: too big".to_owned(), 0, 0));
    let (text, size, limit) = build("");
    assert!(text.starts_with("entire: push too large: ") && text.len() > 30, "{text}");
    assert_eq!((size, limit), (0, 0));
    // Numbers that fit no i64, or are none.
    for text in [
        "declared size 9223372036854775808 exceeds limit 1",
        "declared size 1 exceeds limit 9223372036854775808",
        "declared size -1 exceeds limit 1",
        "declared size  exceeds limit ",
    ] {
        assert_eq!(build(text).1, 0, "{text}");
        assert_eq!(build(text).2, 0, "{text}");
    }
}

#[test]
fn t091_an_unknown_outcome_is_wrapped_once() {
    let once = push_outcome_unknown(std::io::Error::other("cut"));
    let twice = push_outcome_unknown(once);
    let text = twice.to_string();
    assert_eq!(text.matches("lags").count(), 1, "{text}");
    assert!(text.contains("push outcome unknown: cut"));
    assert!(std::error::Error::source(&twice).unwrap().is::<std::io::Error>());
    let in_enum = push_outcome_unknown(ProxyError::from(twice));
    assert_eq!(in_enum.to_string(), text);
    let boxed: crate::BoxError = Box::new(in_enum);
    assert_eq!(push_outcome_unknown(boxed).to_string(), text);
}

#[test]
fn s251_the_connect_budgets_come_from_a_variable() {
    // (row, value, ordinary, probe, warned)
    let table = [
        ("T-189", None, 4, 10, false),
        ("T-190", Some("10"), 10, 10, false),
        ("T-191", Some("1"), 1, 1, false),
        ("T-192", Some("abc"), 4, 10, true),
        ("T-193", Some("0"), 4, 10, true),
        ("T-194", Some("-5"), 4, 10, true),
        ("T-195", Some(""), 4, 10, false),
        ("T-196", None, 4, 10, false),
        ("T-197", Some("2"), 2, 2, false),
        ("T-198", Some("10"), 10, 10, false),
        ("T-199", Some("20"), 20, 20, false),
        ("T-200", Some("abc"), 4, 10, true),
        ("T-201", Some("0"), 4, 10, true),
        ("SV-N20", Some("999999999999"), 86_400, 86_400, false),
        ("SV-N20", Some("99999999999999999999999999"), 86_400, 86_400, false),
        ("SV-N20", Some("+5"), 4, 10, true),
        ("SV-N20", Some("5s"), 4, 10, true),
        ("SV-N20", Some(" 5"), 4, 10, true),
        ("SV-N20", Some("\u{665}"), 4, 10, true),
    ];
    for (row, value, ordinary, probe, warned) in table {
        let (budgets, warning) = ConnectBudgets::from_variable(value);
        assert_eq!(
            (budgets.ordinary.as_secs(), budgets.probe.as_secs()),
            (ordinary, probe),
            "{row} {value:?}"
        );
        assert_eq!(warning.is_some(), warned, "{row} {value:?}");
        if let (Some(warning), Some(value)) = (warning, value) {
            assert!(
                warning.contains("ENTIRE_CONNECT_TIMEOUT_SECONDS") && warning.contains(value),
                "{warning}"
            );
        }
    }
}

#[test]
fn t202_s252_sv_n21_sv_n22_sv_n23_forward_proxies_come_from_variables() {
    let settings = |variables: &[(&str, &str)]| {
        ProxySettings::from_variables(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    };
    let target = |text: &str| url::Url::parse(text).unwrap();
    let one = settings(&[("HTTPS_PROXY", "http://proxy.example:8443"), ("NO_PROXY", "")]);
    assert_eq!(one.proxy_for(&target("https://n1.example/x")).as_deref(), Some("http://proxy.example:8443"));
    assert_eq!(one.proxy_for(&target("https://127.0.0.1/x")), None, "SV-N23: loopback is asked directly");
    assert_eq!(one.proxy_for(&target("https://localhost:1/x")), None);
    let secret = settings(&[("https_proxy", "http://u:s3cret@proxy:1"), ("no_proxy", "quiet.example")]);
    assert_eq!(secret.proxy_for(&target("https://n1.example/")).as_deref(), Some("http://proxy:1"), "SV-N21");
    assert!(!format!("{secret:?}").contains("s3cret"));
    assert_eq!(secret.proxy_for(&target("https://a.quiet.example/")), None);
    let cgi = settings(&[("HTTP_PROXY", "http://evil:1"), ("REQUEST_METHOD", "GET")]);
    assert_eq!(cgi.http, "", "SV-N22");
}

#[test]
fn the_repository_is_the_path_without_its_slashes() {
    let table = [
        ("T-178", "/et/alice/repo", "et/alice/repo"),
        ("T-179", "/et/alice/repo/", "et/alice/repo"),
        ("T-180", "/et/a/b", "et/a/b"),
        ("T-181", "/et/deeply/nested/path/repo", "et/deeply/nested/path/repo"),
        ("T-182", "", ""),
        ("T-183", "/et/", "et"),
        ("T-184", "/et/repo", "et/repo"),
        ("T-185", "/gh/alice/repo", "gh/alice/repo"),
        ("T-186", "/gh/alice/repo/", "gh/alice/repo"),
    ];
    for (row, path, expected) in table {
        let url = url::Url::parse(&format!("entire://eu.cluster.example{path}")).unwrap();
        assert_eq!(NodeConfig::resolve(&url, None).unwrap().repo_path, expected, "{row}");
    }
}

#[test]
fn t206_t207_debug_output_is_on_when_the_variable_holds_anything() {
    let log = |value: &str| {
        let mut out = Vec::new();
        line(&mut out, Some(value.as_ref()), "a line").unwrap();
        String::from_utf8(out).unwrap()
    };
    assert_eq!(log(""), "");
    assert_eq!(log("1"), "[git-remote-entire] a line\n");
    assert!(!is_enabled(Some("".as_ref())) && is_enabled(Some("true".as_ref())) && !is_enabled(None));
}

#[test]
fn redacted_headers() {
    let headers = |pairs: &[(&'static str, &'static str)]| -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    };
    // (row, headers, shown)
    #[rustfmt::skip]
    let table: [(&str, &[_], &[_]); 7] = [
        ("T-208", &[], &[]),
        ("T-209", &[("content-type", "a"), ("user-agent", "b")], &[("content-type", "a"), ("user-agent", "b")]),
        ("T-210", &[("authorization", "Bearer x"), ("content-type", "a")], &[("authorization", REDACTED), ("content-type", "a")]),
        ("T-211", &[("proxy-authorization", "Basic x")], &[("proxy-authorization", REDACTED)]),
        ("T-212", &[("cookie", "a=b")], &[("cookie", "a=b")]),
        ("T-213", &[("authorization", "x")], &[("authorization", REDACTED)]),
        ("T-214", &[("authorization", "x"), ("authorization", "y")], &[("authorization", REDACTED), ("authorization", REDACTED)]),
    ];
    for (row, given, expected) in table {
        let given = headers(given);
        let before = given.clone();
        assert_eq!(redact_headers(&given), headers(expected), "{row}");
        assert_eq!(given, before, "{}: the input is as it was", "T-215");
    }
}

#[test]
fn redacted_texts() {
    let long = "p".repeat(600);
    // (row, text, shown) for URLs
    let urls: [(&str, &str, &str); 7] = [
        (
            "T-216",
            "Location: https://x-token:secret@host.example/path/repo",
            "Location: https://***REDACTED***@host.example/path/repo",
        ),
        (
            "T-217",
            "<a href=\"https://x-token:abc123@host.example/path\">",
            "<a href=\"https://***REDACTED***@host.example/path\">",
        ),
        ("T-218", "http://user@host.example/path", "http://***REDACTED***@host.example/path"),
        (
            "T-219",
            "https://host.example/path?u=alice@example.com",
            "https://host.example/path?u=alice@example.com",
        ),
        ("T-220", "contact alice@example.com for access", "contact alice@example.com for access"),
        ("T-221", "https://a:b@h/x HTTPS://c@i/y", "https://***REDACTED***@h/x HTTPS://***REDACTED***@i/y"),
        ("", "ssh://a:b@h/x http://p@ss:w@rd@h/", "ssh://a:b@h/x http://***REDACTED***@h/"),
    ];
    for (row, text, expected) in urls {
        assert_eq!(redact_urls(text), expected, "{row}");
    }
    let json = [
        (
            "T-226",
            r#"{"access_token":"abc","token_type":"bearer","expires_in":3600}"#,
            r#"{"access_token":"***REDACTED***","token_type":"bearer","expires_in":3600}"#,
        ),
        (
            "T-227",
            r#"{"id_token":"a","refresh_token":"b\"c","subject_token":"d"}"#,
            r#"{"id_token":"***REDACTED***","refresh_token":"***REDACTED***","subject_token":"***REDACTED***"}"#,
        ),
        ("T-228", r#"{"access_token" : "abc"}"#, r#"{"access_token" : "***REDACTED***"}"#),
        ("T-229", r#"{"name":"alice"}"#, r#"{"name":"alice"}"#),
        (
            "T-230",
            r#"{"data":{"access_token":"abc","x":1},"y":"z"}"#,
            r#"{"data":{"access_token":"***REDACTED***","x":1},"y":"z"}"#,
        ),
        ("T-231", "not json at all", "not json at all"),
        ("T-232", r#"{"my_token":"a","token":"b"}"#, r#"{"my_token":"a","token":"b"}"#),
    ];
    for (row, text, expected) in json {
        assert_eq!(redact_json(text), expected, "{row}");
    }
    let html = format!("<a href=\"https://u:{long}@host.example/\">x</a>");
    let shown = body_preview(html.as_bytes());
    assert!(
        !shown.contains("ppp") && shown.contains("https://***REDACTED***@host.example/"),
        "T-222: {shown}"
    );
    let token = format!(r#"{{"access_token":"{long}"}}"#);
    let shown = body_preview(token.as_bytes());
    assert!(!shown.contains("ppp") && shown.contains(REDACTED), "T-223: {shown}");
    let mut pack = b"0008NAK\n0011PACK".to_vec();
    pack.extend((0..800).map(|n| (n % 251) as u8));
    let rows = [
        ("T-222", body_preview(b"plain"), "plain".to_owned()),
        ("T-223", body_preview(b""), String::new()),
        ("T-224", body_preview(br#"{"name":"alice"}"#), r#"{"name":"alice"}"#.to_owned()),
        ("T-225", body_preview(&pack), "0008NAK\n0011PACK [PACK_DATA]".to_owned()),
    ];
    for (row, shown, expected) in rows {
        assert_eq!(shown, expected, "{row}");
    }
    assert_eq!(body_preview("\u{fc}".repeat(600).as_bytes()).len(), 512);
}
