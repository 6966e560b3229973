//! What debug output may show of a request and its answer (transport §14).
//!
//! The library writes through `tracing` and asks nobody whether it may; a program that wants the
//! reference's lines on stderr decides with [`is_enabled`] and writes them with [`line()`].

use std::ffi::OsStr;
use std::io;
use std::time::Duration;

use http::header::{AUTHORIZATION, PROXY_AUTHORIZATION};
use http::{HeaderMap, HeaderValue, Method};
use url::Url;

use crate::trust;

/// What stands in the place of a secret.
pub const REDACTED: &str = "***REDACTED***";

/// How much of a body a preview shows.
const MAX_PREVIEW: usize = 512;

/// JSON members whose values are credentials.
const TOKENS: [&str; 4] = ["access_token", "id_token", "refresh_token", "subject_token"];

/// Whether debug output is on, by the value of `ENTIRE_DEBUG`: anything but nothing.
pub fn is_enabled(value: Option<&OsStr>) -> bool {
    value.is_some_and(|value| !value.is_empty())
}

/// Writes one line of debug output, if it is on.
///
/// # Errors
///
/// If it cannot be written.
pub fn line(to: &mut dyn io::Write, value: Option<&OsStr>, text: &str) -> io::Result<()> {
    if is_enabled(value) { writeln!(to, "[git-remote-entire] {}", redact_urls(text)) } else { Ok(()) }
}

/// The headers with every value of `Authorization` and `Proxy-Authorization` replaced. The input stays.
pub fn redact_headers(headers: &HeaderMap) -> HeaderMap {
    let mut shown = headers.clone();
    for name in [AUTHORIZATION, PROXY_AUTHORIZATION] {
        if let http::header::Entry::Occupied(mut values) = shown.entry(name) {
            values.iter_mut().for_each(|value| *value = HeaderValue::from_static(REDACTED));
        }
    }
    shown
}

/// The text with the userinfo of every `http://` and `https://` URL replaced. An `@` elsewhere stays.
pub fn redact_urls(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + "://".len());
        shown.push_str(before);
        rest = after;
        let scheme = before.strip_suffix("://").unwrap_or_default();
        let ends_with = |scheme: &str, name: &str| {
            scheme
                .len()
                .checked_sub(name.len())
                .and_then(|from| scheme.get(from..))
                .is_some_and(|end| end.eq_ignore_ascii_case(name))
        };
        if ends_with(scheme, "http") || ends_with(scheme, "https") {
            let authority =
                rest.split(|c: char| "/?#\"'<>".contains(c) || c.is_whitespace() || c.is_control());
            let authority = authority.into_iter().next().unwrap_or_default();
            if let Some(userinfo) = authority.rfind('@') {
                shown.push_str(REDACTED);
                rest = rest.get(userinfo..).unwrap_or_default();
            }
        }
    }
    shown.push_str(rest);
    shown
}

/// The text with the values of token members replaced, wherever they stand in it and however they nest.
pub fn redact_json(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find('"') {
        let (before, quoted) = rest.split_at(open);
        shown.push_str(before);
        let end = end_of_text(quoted);
        let (key, after) = quoted.split_at(end);
        shown.push_str(key);
        rest = after;
        let is_token = TOKENS.iter().any(|token| key.trim_matches('"') == *token);
        let value = after.trim_start().strip_prefix(':').map(str::trim_start);
        if let Some(value) = value.filter(|value| is_token && value.starts_with('"')) {
            shown.push_str(after.get(..after.len() - value.len()).unwrap_or_default());
            shown.push('"');
            shown.push_str(REDACTED);
            shown.push('"');
            rest = value.get(end_of_text(value)..).unwrap_or_default();
        }
    }
    shown.push_str(rest);
    shown
}

/// Where a text that begins with a quote ends, its closing quote included; a cut one ends with the input.
fn end_of_text(text: &str) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The beginning of a body, fit to be shown: redacted first, then cut; nothing of a pack.
pub fn body_preview(body: &[u8]) -> String {
    let (text, mark) = match body.windows(4).position(|four| four == b"PACK") {
        Some(at) => (body.get(..at + 4).unwrap_or(body), " [PACK_DATA]"),
        None => (body, ""),
    };
    let shown = redact_json(&redact_urls(&String::from_utf8_lossy(text)));
    let cut = boundary(&shown, MAX_PREVIEW);
    format!("{}{mark}", shown.get(..cut).unwrap_or_default())
}

/// The last character boundary up to `limit`.
fn boundary(text: &str, limit: usize) -> usize {
    (0..=limit.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

pub(crate) fn trace_request(head: &http::request::Parts, url: &Url) {
    if tracing::enabled!(tracing::Level::TRACE) {
        tracing::trace!(
            http.request.method = %head.method,
            url.full = %shown_url(url),
            headers = ?redact_headers(&head.headers),
            "request"
        );
    }
}

pub(crate) fn trace_answer(method: &Method, url: &Url, head: &http::response::Parts, elapsed: Duration) {
    tracing::debug!(
        http.request.method = %method,
        url.full = %shown_url(url),
        http.response.status_code = head.status.as_u16(),
        elapsed_ms = elapsed.as_millis(),
        "answered"
    );
    if tracing::enabled!(tracing::Level::TRACE) {
        // A Location can hold a credential.
        let mut headers = redact_headers(&head.headers);
        headers.remove(http::header::LOCATION);
        headers.remove(http::header::SET_COOKIE);
        tracing::trace!(headers = ?headers, "head of the answer");
    }
}

/// Without userinfo; a query is Git's own.
fn shown_url(url: &Url) -> String {
    format!("{}{}", trust::shown(url), url.path())
}
