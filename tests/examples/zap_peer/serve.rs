//! The server that foreign clients check.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use peerage_zaphttp::tls::{ClusterTls, ServerTls, TlsFiles};
use peerage_zaphttp::{Body, BoxError, ConnectionInfo, Listener, Server};
use tokio::io::AsyncReadExt;
use tokio::sync::Semaphore;
use tower::service_fn;

pub(crate) fn tls(directory: &Path) -> Result<ServerTls, BoxError> {
    let at = |name: &str| directory.join(name);
    let files = TlsFiles::new(at("ca.pem")).identity(at("node.pem"), at("node.key"));
    Ok(ClusterTls::load(files)?.server()?)
}

pub(crate) async fn run(tls: Option<ServerTls>) -> Result<(), BoxError> {
    let released = Arc::new(Semaphore::new(0));
    let service = service_fn(move |request| answer(request, released.clone()));
    let server = match tls {
        Some(tls) => Server::builder().tls(tls),
        None => Server::builder(),
    };
    let handle = server.serve(Listener::tcp("127.0.0.1:0").await?, service);
    let addr = handle.local_addr().ok_or("a TCP listener has an address")?;
    println!("ready {addr}");
    // Whoever started this closes our input when it is done, or dies.
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    handle.abort();
    Ok(())
}

async fn answer(request: Request<Body>, released: Arc<Semaphore>) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let mut response = Response::new(Body::default());
    let path = head.uri.path();
    match path {
        "/echo" => {
            let (Ok(method), Ok(target)) = (
                HeaderValue::from_str(head.method.as_str()),
                HeaderValue::from_str(
                    &head.uri.path_and_query().map_or_else(String::new, ToString::to_string),
                ),
            ) else {
                *response.status_mut() = StatusCode::BAD_REQUEST;
                return Ok(response);
            };
            let headers = response.headers_mut();
            headers.insert("echo-method", method);
            headers.insert("echo-target", target);
            let host = head.headers.get("host").cloned();
            headers.insert("echo-host", host.unwrap_or_else(|| HeaderValue::from_static("")));
            for (name, value) in head.headers.iter().filter(|(name, _)| name.as_str().starts_with("x-")) {
                if let Ok(name) = http::HeaderName::try_from(format!("echo-{name}")) {
                    headers.append(name, value.clone());
                }
            }
            match body.collect().await {
                Ok(body) => *response.body_mut() = Body::from(body.to_bytes()),
                Err(_) => *response.status_mut() = StatusCode::BAD_REQUEST,
            }
        }
        "/conn" => {
            let info = head.extensions.get::<ConnectionInfo>();
            let peer = info.and_then(ConnectionInfo::peer_addr).map(|addr| addr.to_string());
            *response.body_mut() = Body::from(peer.unwrap_or_default());
        }
        "/trailer" => {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-checksum", HeaderValue::from_static("abc123"));
            response.headers_mut().insert("trailer", HeaderValue::from_static("X-Checksum"));
            let frames = [Frame::data(Bytes::from_static(b"summed")), Frame::trailers(trailers)];
            let frames = stream::iter(frames.map(Ok::<_, Infallible>));
            *response.body_mut() = Body::new(StreamBody::new(frames));
        }
        "/events" => {
            response.headers_mut().insert("content-type", HeaderValue::from_static("text/event-stream"));
            let events = stream::unfold(0, move |count| {
                let released = released.clone();
                async move {
                    if count == 3 {
                        return None;
                    }
                    if count > 0 {
                        released.acquire().await.ok()?.forget();
                    }
                    let event = Bytes::from(format!("data: {count}\n\n"));
                    Some((Ok::<_, Infallible>(Frame::data(event)), count + 1))
                }
            });
            *response.body_mut() = Body::new(StreamBody::new(events));
        }
        "/release" => released.add_permits(1),
        "/cut" => {
            let cut: [Result<Frame<Bytes>, BoxError>; 2] =
                [Ok(Frame::data(Bytes::from_static(b"half a bo"))), Err("on purpose".into())];
            *response.body_mut() = Body::new(StreamBody::new(stream::iter(cut)));
        }
        "/panic" => panic!("on purpose"),
        _ => {
            let status = path.strip_prefix("/status/").and_then(|status| status.parse().ok());
            *response.status_mut() = status.unwrap_or(StatusCode::NOT_FOUND);
            if !matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
                *response.body_mut() = Body::from(format!("status {}", response.status().as_u16()));
            }
        }
    }
    Ok(response)
}
