//! The status page of `peerage gateway`: what is registered, as HTML, JSON and a stream of changes.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::sse::{Event as Push, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Json, Response};
use axum::routing::get;
use futures_util::stream::{self, Stream};
use http::{HeaderValue, StatusCode, header};
use peerage_devgateway::{DevGateway, Events, RegistrationView, Rpc, ServiceView};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::output::Failure;

const PAGE: &str = include_str!("status.html");
/// Everything the page needs is in the page, and nothing else may be loaded into it.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Loopback only: the page shows who is registered where.
pub(super) async fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    if !address.ip().is_loopback() {
        return Err(Failure::usage(format!(
            "--status {address}: the page is for this host alone; listen on 127.0.0.1"
        )));
    }
    TcpListener::bind(address)
        .await
        .map_err(|error| Failure::chain(format_args!("cannot listen on {address}"), &error))
}

/// Ends only with an error.
pub(super) async fn serve(listener: TcpListener, gateway: Arc<DevGateway>) -> Result<(), Failure> {
    let pages = Router::new()
        .route("/", get(|| async { Html(PAGE) }))
        .route("/api/v1/registrations", get(registrations))
        .route("/api/v1/services", get(services))
        .route("/api/v1/events", get(events))
        .route("/metrics", get(metrics))
        .layer(middleware::from_fn(guard))
        .with_state(gateway);
    axum::serve(listener, pages).await.map_err(|error| Failure::chain("the status page", &error))
}

/// A page of another site must not read this one through a name that it pointed here.
async fn guard(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name).trim_matches(['[', ']']);
    let is_here = name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if !is_here {
        return (StatusCode::MISDIRECTED_REQUEST, "this page is for this host alone\n").into_response();
    }
    let mut answer = next.run(request).await;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

async fn registrations(State(gateway): State<Arc<DevGateway>>) -> Json<Value> {
    Json(registrations_json(&gateway))
}

async fn services(State(gateway): State<Arc<DevGateway>>) -> Json<Value> {
    Json(services_json(&gateway))
}

fn registrations_json(gateway: &DevGateway) -> Value {
    let now = gateway.now();
    let one = |registration: &RegistrationView| {
        let ends = registration.last_heartbeat + registration.ttl;
        let left = u64::try_from(ends.saturating_sub(now).as_millis()).unwrap_or(u64::MAX);
        json!({
            "registration_id": registration.id,
            "addr": registration.addr,
            "instance_id": registration.instance_id,
            "slots": registration.slots,
            "ttl_seconds": registration.ttl.as_secs(),
            "lease_left_ms": left,
            "heartbeats": registration.beats,
        })
    };
    json!({ "registrations": gateway.registrations().iter().map(one).collect::<Vec<_>>() })
}

fn services_json(gateway: &DevGateway) -> Value {
    let one = |service: &ServiceView| {
        json!({
            "namespace": service.namespace,
            "version": service.version,
            "kind": service.kind.name(),
            "hash": service.hash,
            "replicas": service.replica_count,
            "deprecation": service.deprecation,
        })
    };
    json!({
        "services": gateway.services().iter().map(one).collect::<Vec<_>>(),
        "stable": gateway.stable(),
    })
}

/// Both lists, now, after each event, and every other second for the time that runs.
async fn events(State(gateway): State<Arc<DevGateway>>) -> Sse<impl Stream<Item = Result<Push, Infallible>>> {
    let events = gateway.events();
    let pushes = stream::unfold((gateway, events, true), |(gateway, mut events, is_first)| async move {
        if !is_first && !change(&mut events).await {
            return None;
        }
        let data =
            json!({ "registrations": registrations_json(&gateway), "services": services_json(&gateway) });
        Some((Ok(Push::default().data(data.to_string())), (gateway, events, false)))
    });
    Sse::new(pushes).keep_alive(KeepAlive::default())
}

/// Waits for an event, or for a second; then takes what else came within a moment. False: the gateway is gone.
async fn change(events: &mut Events) -> bool {
    const REFRESH: Duration = Duration::from_secs(1);
    const GATHER: Duration = Duration::from_millis(50);
    match tokio::time::timeout(REFRESH, events.next()).await {
        Ok(None) => return false,
        Ok(Some(_)) => {}
        Err(_) => return true,
    }
    let rest = async { while events.next().await.is_some() {} };
    tokio::time::timeout(GATHER, rest).await.ok();
    true
}

/// OpenMetrics.
async fn metrics(State(gateway): State<Arc<DevGateway>>) -> impl IntoResponse {
    let mut text = format!(
        "# TYPE peerage_gateway_registrations gauge\npeerage_gateway_registrations {}\n\
         # TYPE peerage_gateway_slots gauge\npeerage_gateway_slots {}\n\
         # TYPE peerage_gateway_connections gauge\npeerage_gateway_connections {}\n\
         # TYPE peerage_gateway_calls counter\n",
        gateway.registrations().len(),
        gateway.services().len(),
        gateway.connections()
    );
    for rpc in Rpc::ALL {
        text += &format!("peerage_gateway_calls_total{{rpc=\"{rpc}\"}} {}\n", gateway.count(rpc));
    }
    text += "# EOF\n";
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
}
