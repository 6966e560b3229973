//! The status page: HTML without anything foreign in it, the same as JSON, a stream of changes, metrics.
//!
//! What it shows is a [`Shown`]: the services that discovery sees (`status`), what a proxy makes of its peers
//! (`proxy --status`, `demo --stay`), what is registered at a gateway (`gateway --status`).

pub(crate) mod calls;
mod metrics;
pub(crate) mod services;
mod stream;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use aws_lc_rs::digest;
use axum::Router;
use axum::extract::{Path, Request, State};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Json, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::stream::BoxStream;
use http::{HeaderName, HeaderValue, StatusCode, header};
use hyper_util::service::TowerToHyperService;
use serde_json::Value;
use tokio::net::TcpListener;

pub(crate) use self::metrics::Metrics;
use self::stream::Streams;
use crate::output::Failure;
use crate::serve;
use crate::stop::Stop;

/// What a page shows.
pub(crate) trait Shown: Send + Sync + 'static {
    /// What the page is called.
    fn title(&self) -> &'static str;

    /// Its sections: what `/api/v1/NAME` answers. The page shows the sections it gets.
    fn sections(&self) -> Vec<(&'static str, Value)>;

    /// One of them.
    fn section(&self, name: &str) -> Option<Value> {
        self.sections().into_iter().find(|(own, _)| *own == name).map(|(_, value)| value)
    }

    /// Tells when there is news, beside what changes with time; ends when there will be none.
    fn news(&self) -> BoxStream<'static, ()>;

    /// For `/metrics`.
    fn measure(&self, metrics: &mut Metrics);
}

/// How long answers may take on the way out.
const DRAIN: Duration = Duration::from_secs(2);

/// Loopback only, unless --danger-listen was given, where there is such an option: the page shows who is where.
pub(crate) async fn bind(
    option: &str,
    address: SocketAddr,
    danger_listen: Option<bool>,
) -> Result<TcpListener, Failure> {
    if !address.ip().is_loopback() && danger_listen != Some(true) {
        let or = if danger_listen.is_some() { ", or add --danger-listen if that is meant" } else { "" };
        return Err(Failure::usage(format!(
            "{option} {address}: the page is for this host alone; listen on 127.0.0.1{or}"
        )));
    }
    TcpListener::bind(address)
        .await
        .map_err(|error| Failure::chain(format_args!("cannot listen on {address}"), &error))
}

/// Answers until asked to stop.
pub(crate) async fn serve(listener: TcpListener, shown: Arc<dyn Shown>, stop: &mut Stop) {
    let is_loopback = listener.local_addr().is_ok_and(|address| address.ip().is_loopback());
    let streams = Streams::new(shown.clone(), stop.clone());
    let pages = Router::new()
        .route("/", get(page))
        .route("/api/v1/{section}", get(section))
        .route("/metrics", get(measured))
        .with_state(shown)
        .merge(Router::new().route("/api/v1/events", get(stream::events)).with_state(streams))
        .layer(middleware::from_fn_with_state(Guard { is_loopback }, guard));
    serve::serve(listener, TowerToHyperService::new(pages), DRAIN, stop).await;
}

/// Who may ask.
#[derive(Clone, Copy)]
struct Guard {
    is_loopback: bool,
}

impl Guard {
    /// Whether this `Host` can only mean us. A page of another site must not read this one through a name that it
    /// pointed here; an address cannot be pointed elsewhere.
    fn admits(self, host: &str) -> bool {
        let is_port = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let name = match host.rsplit_once(':') {
            Some((name, port)) if is_port(port) && (name.ends_with(']') || !name.contains(':')) => name,
            _ => host,
        };
        let address = match name.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').and_then(|rest| Some(IpAddr::V6(rest.parse().ok()?))),
            None => name.parse().ok().map(IpAddr::V4),
        };
        name.eq_ignore_ascii_case("localhost")
            || address.is_some_and(|address| !self.is_loopback || address.to_canonical().is_loopback())
    }
}

async fn guard(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    // In HTTP/2 it is part of the target.
    let authority = request.uri().authority().map(|authority| authority.as_str());
    let host = authority.or_else(|| hosts.next().and_then(|host| host.to_str().ok()));
    let is_ours = host.is_some_and(|host| guard.admits(host)) && hosts.next().is_none();
    let mut answer = if is_ours {
        next.run(request).await
    } else {
        (StatusCode::MISDIRECTED_REQUEST, "this page is for this host alone\n").into_response()
    };
    let headers = answer.headers_mut();
    let mut set = |name: HeaderName, value: &'static str| {
        headers.insert(name, HeaderValue::from_static(value));
    };
    set(header::CONTENT_SECURITY_POLICY, &POLICY);
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::CACHE_CONTROL, "no-store");
    set(header::REFERRER_POLICY, "no-referrer");
    set(HeaderName::from_static("cross-origin-resource-policy"), "same-origin");
    answer
}

async fn page(State(shown): State<Arc<dyn Shown>>) -> Html<String> {
    Html(PAGE.replace("{title}", shown.title()))
}

async fn section(State(shown): State<Arc<dyn Shown>>, Path(name): Path<String>) -> Response {
    match shown.section(&name) {
        Some(value) => Json(value).into_response(),
        None => (StatusCode::NOT_FOUND, "there is no such section\n").into_response(),
    }
}

async fn measured(State(shown): State<Arc<dyn Shown>>) -> impl IntoResponse {
    let mut metrics = Metrics::default();
    shown.measure(&mut metrics);
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics.to_string())
}

const PAGE: &str = include_str!("page.html");

/// The page's own style and script may be used, by their hashes, and nothing else may be loaded into it.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |open: &str, close: &str| {
        let (_, rest) = PAGE.split_once(open).unwrap_or_default();
        let (text, _) = rest.split_once(close).unwrap_or_default();
        STANDARD.encode(digest::digest(&digest::SHA256, text.as_bytes()))
    };
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
        hash("<style>", "</style>"),
        hash("<script>", "</script>")
    )
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_host_are_admitted() {
        let here = Guard { is_loopback: true };
        for host in ["localhost", "LOCALHOST:1", "127.0.0.1", "127.9.9.9:8090", "[::1]", "[::1]:80"] {
            assert!(here.admits(host), "{host}");
        }
        for host in [
            "",
            ":80",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:80",
            "10.0.0.1",
            "0.0.0.0:8090",
            "[::]",
            "::1",
            "[::1",
            "[127.0.0.1]",
            "127.0.0.1:80:evil",
            "127.0.0.1:x",
            "localhost:",
            "user@localhost",
            "localhost.",
        ] {
            assert!(!here.admits(host), "{host}");
        }
        let anywhere = Guard { is_loopback: false };
        assert!(anywhere.admits("10.0.0.1:8090") && anywhere.admits("[fd00::1]:1"));
        assert!(!anywhere.admits("evil.example"), "a name may be pointed anywhere");
    }

    #[test]
    fn the_page_has_one_style_and_one_script_and_loads_nothing() {
        for part in ["<style>", "<script>"] {
            assert_eq!(PAGE.matches(part).count(), 1, "{part}");
        }
        assert!(!PAGE.contains("style=") && !PAGE.contains("innerHTML") && !PAGE.contains("http://"));
        assert!(!PAGE.contains("https://") && !PAGE.contains("src=") && !PAGE.contains("@import"));
        assert!(POLICY.matches("'sha256-").count() == 2 && !POLICY.contains("unsafe"), "{}", *POLICY);
    }
}
