//! `peerage proxy`: HTTP/1.1 and HTTP/2 in, the mesh out.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::service::TowerToHyperService;
use peerage::Mesh;
use peerage::clienthttp::{ClientError, PeerInfo, Phase, ServingLayer};
use serde_json::json;
use tokio::net::TcpListener;
use tower_layer::Layer;
use tower_service::Service;

use crate::args::{Global, Proxy};
use crate::output::{Chain, Failure, Output};
use crate::page;
use crate::page::calls::{Calls, Proxied};
use crate::serve;
use crate::setup;
use crate::stop::Stop;
use crate::upstream::{AnswerBody, plain};

struct Front {
    mesh: Mesh,
    service: Option<String>,
    /// Noted while there is a page.
    calls: Option<Arc<Calls>>,
}

/// [`Front`] as the service of a connection. Behind a [`ServingLayer`]: a call that is passed on has no more time
/// than the caller gave it, is no new one if it is a repeat, and its error says so if it was repeated already.
#[derive(Clone)]
struct Passing(Arc<Front>);

impl Service<Request<Incoming>> for Passing {
    type Response = Response<AnswerBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let front = self.0.clone();
        Box::pin(async move { Ok(front.answer(request).await) })
    }
}

pub(crate) async fn run(global: &Global, output: Output, args: Proxy) -> Result<(), Failure> {
    if !args.listen.ip().is_loopback() && !args.danger_listen {
        return Err(Failure::usage(format!(
            "--listen {}: whoever reaches this address could call every service; listen on 127.0.0.1, or add \
             --danger-listen if that is meant",
            args.listen
        )));
    }
    let mut stop = Stop::listen().map_err(|error| Failure::chain("cannot listen for signals", &error))?;
    let mesh = setup::mesh(global, args.limits, args.danger_plaintext_credentials)?;
    if let Some(service) = &args.service {
        mesh.client(service).map_err(setup::mesh_failure)?;
    }
    let listener = TcpListener::bind(args.listen)
        .await
        .map_err(|error| Failure::chain(format_args!("cannot listen on {}", args.listen), &error))?;
    let address = listener.local_addr().map_err(|error| Failure::chain("cannot listen", &error))?;
    let page = match args.status {
        Some(address) => Some(page::bind("--status", address, Some(args.danger_listen)).await?),
        None => None,
    };
    let shown_at = page.as_ref().map(TcpListener::local_addr).transpose();
    let shown_at = shown_at.map_err(|error| Failure::chain("cannot listen", &error))?;
    let more = shown_at.map(|address| ("status", json!(address.to_string())));
    output.ready(&address, more.as_slice())?;
    if !output.json {
        let host = if args.service.is_some() { address.ip().to_string() } else { "NAME.localhost".into() };
        eprintln!("peerage: http://{host}:{}/ reaches a peer; Ctrl-C ends", address.port());
        if let Some(address) = shown_at {
            eprintln!("peerage: http://{address}/ shows what happens");
        }
    }

    serve(listener, page, mesh, args.service, args.drain, &mut stop).await;
    Ok(())
}

/// Answers HTTP on `listener` until asked to stop, then lets running calls finish, at most for `drain`; meanwhile
/// shows on `page` what happens.
pub(crate) async fn serve(
    listener: TcpListener,
    page: Option<TcpListener>,
    mesh: Mesh,
    service: Option<String>,
    drain: Duration,
    stop: &mut Stop,
) {
    let calls = page.is_some().then(Arc::<Calls>::default);
    let shown = calls.clone().map(|calls| Proxied { mesh: mesh.clone(), calls });
    let shown = page.zip(shown);
    let mut page_stop = stop.clone();
    let showing = async {
        if let Some((listener, shown)) = shown {
            page::serve(listener, Arc::new(shown), &mut page_stop).await;
        }
    };
    let front = Arc::new(Front { mesh, service, calls });
    let passing = TowerToHyperService::new(ServingLayer::new().layer(Passing(front.clone())));
    let (is_done, ()) = tokio::join!(serve::serve(listener, passing, drain, stop), showing);
    if !is_done {
        eprintln!("peerage: calls still running after {drain:?} were cut");
    }
    front.mesh.close(drain).await;
}

impl Front {
    async fn answer(&self, mut request: Request<Incoming>) -> Response<AnswerBody> {
        if request.method() == Method::CONNECT || asks_for_websocket(&request) {
            return plain(
                StatusCode::NOT_IMPLEMENTED,
                "neither CONNECT nor WebSocket is carried by this proxy\n",
            );
        }
        let service = match self.service_of(&request) {
            Ok(service) => service,
            Err(answer) => return *answer,
        };
        let client = match self.mesh.client(&service) {
            Ok(client) => client,
            Err(error) => return plain(StatusCode::NOT_FOUND, format!("{}\n", Chain(&error))),
        };
        drop_named_by_connection(request.headers_mut());
        let noted = self.calls.as_ref().map(|calls| calls.begin(&service, &mut request));
        match client.send(request).await {
            Ok(mut answer) => {
                if let Some(call) = noted {
                    call.answered(&answer);
                }
                let peer = answer.extensions().get::<PeerInfo>().map(|peer| peer.node_id().to_owned());
                if let Some(value) = peer.and_then(|id| HeaderValue::from_bytes(id.as_bytes()).ok()) {
                    answer.headers_mut().insert("peerage-peer", value);
                }
                answer.map(|body| body.map_err(Into::into).boxed_unsync())
            }
            Err(error) => {
                if let Some(call) = noted {
                    call.failed(&error);
                }
                plain(status_of(&error), format!("{}\n", Chain(&error)))
            }
        }
    }

    /// `billing` for `billing.localhost:8080` and for `billing`.
    fn service_of(&self, request: &Request<Incoming>) -> Result<String, Box<Response<AnswerBody>>> {
        if let Some(service) = &self.service {
            return Ok(service.clone());
        }
        let authority = match request.uri().authority() {
            Some(authority) => Some(authority.as_str()),
            None => request.headers().get(header::HOST).and_then(|host| host.to_str().ok()),
        };
        let host = authority.map(host_of).unwrap_or_default().to_ascii_lowercase();
        let name = host.strip_suffix(".localhost").unwrap_or(&host);
        if name.is_empty() || name == "localhost" || name.contains(['.', ':']) {
            return Err(Box::new(plain(
                StatusCode::NOT_FOUND,
                "The host of a request names the service: http://NAME.localhost, such as http://billing.localhost. \
                 `peerage peers` lists who is there.\n",
            )));
        }
        Ok(name.to_owned())
    }
}

/// The authority without its port.
fn host_of(authority: &str) -> &str {
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if host.starts_with('[') {
        return host;
    }
    host.rsplit_once(':').map_or(host, |(host, _)| host).trim_end_matches('.')
}

/// Fields that are about the caller's connection go no further (RFC 9110 §7.6.1). Those that always are go with
/// the frames; these are the ones that only the caller knows.
fn drop_named_by_connection(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name| *name != header::HOST)
        .collect();
    for name in named {
        headers.remove(name);
    }
}

/// An `Upgrade: h2c`, which curl sends, may be ignored; a WebSocket without its answer would hang.
fn asks_for_websocket<B>(request: &Request<B>) -> bool {
    request.headers().get_all(header::UPGRADE).iter().any(|value| {
        value.to_str().is_ok_and(|value| {
            value.split(',').any(|token| {
                token.trim().get(..9).is_some_and(|token| token.eq_ignore_ascii_case("websocket"))
            })
        })
    })
}

/// Which status tells an HTTP client what went wrong on the way to the peer.
fn status_of(error: &ClientError) -> StatusCode {
    match error {
        ClientError::NoPeers { .. } | ClientError::Saturated { .. } | ClientError::Closed { .. } => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        ClientError::Timeout { where_: Phase::RequestBody, .. } => StatusCode::REQUEST_TIMEOUT,
        ClientError::Timeout { .. } => StatusCode::GATEWAY_TIMEOUT,
        ClientError::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        ClientError::InsecureTransport { .. } => StatusCode::FORBIDDEN,
        _ => StatusCode::BAD_GATEWAY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_the_authority_without_port_and_user() {
        for (authority, host) in [
            ("billing.localhost:8080", "billing.localhost"),
            ("billing.localhost.", "billing.localhost"),
            ("user@billing:80", "billing"),
            ("[::1]:8080", "[::1]:8080"),
        ] {
            assert_eq!(host_of(authority), host);
        }
    }

    #[test]
    fn what_the_connection_header_names_goes_no_further() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "keep-alive, X-Mine"),
            ("connection", "host,,\u{e9}"),
            ("x-mine", "1"),
            ("x-other", "2"),
        ] {
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
        }
        headers.insert("host", HeaderValue::from_static("billing"));
        drop_named_by_connection(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["connection", "host", "x-other"]);
    }

    #[test]
    fn a_websocket_is_told_from_an_offer_of_http_2() {
        let request = |value: &str| Request::builder().header("upgrade", value).body(()).unwrap();
        assert!(asks_for_websocket(&request("websocket")));
        assert!(asks_for_websocket(&request("h2c, WebSocket")));
        assert!(!asks_for_websocket(&request("h2c")));
    }
}
