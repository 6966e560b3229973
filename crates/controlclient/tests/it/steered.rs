//! Gateways whose answers name another place (S-157).

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use peerage_controlclient::{Bearer, Gateway, Outcome, Registration, StartPolicy, pb};
use peerage_tests::Canary;
use prost::Message;
use tokio::net::TcpListener;

use crate::kit::{ADDR, LIMIT, greeter, ms, reaches_where, secs};

/// One call as it came.
#[derive(Clone, Debug)]
struct Seen {
    method: String,
    authority: String,
    authorization: Option<String>,
    message: Bytes,
}

type Calls = Arc<Mutex<Vec<Seen>>>;

/// A field that no message has, with another address in it.
fn foreign(elsewhere: SocketAddr) -> BytesMut {
    let text = elsewhere.to_string();
    let mut field = BytesMut::from(&[0xa2, 0x06, text.len() as u8][..]);
    field.put_slice(text.as_bytes());
    field
}

/// What a gateway that wants us elsewhere answers.
fn answer(method: &str, calls: usize, elsewhere: SocketAddr) -> (u16, Vec<u8>) {
    match (method, calls) {
        // Elsewhere, says HTTP.
        ("Register", 0) => (307, Vec::new()),
        ("Register", _) => {
            let id = format!("http://{elsewhere}/{calls}");
            (200, pb::RegisterResponse { registration_id: id, ttl_seconds: 60 }.encode_to_vec())
        }
        // The first registration is forgotten at its second beat.
        ("Heartbeat", 1) => (200, pb::HeartbeatResponse { ok: false }.encode_to_vec()),
        ("Heartbeat", _) => (200, pb::HeartbeatResponse { ok: true }.encode_to_vec()),
        ("ListServices", _) => {
            let service = pb::ServiceInfo {
                namespace: "greeter".into(),
                version: "v1".into(),
                hash_hex: elsewhere.to_string(),
                replica_count: 1,
                manual_deprecation_reason: format!("use {elsewhere}"),
            };
            let services = pb::ListServicesResponse { services: vec![service], ..Default::default() };
            (200, services.encode_to_vec())
        }
        _ => (200, Vec::new()),
    }
}

async fn gateway(listener: TcpListener, calls: Calls, elsewhere: SocketAddr) {
    while let Ok((stream, _)) = listener.accept().await {
        let calls = calls.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let calls = calls.clone();
                async move {
                    let (head, body) = request.into_parts();
                    let message = body.collect().await.unwrap().to_bytes();
                    let method = head.uri.path().rsplit('/').next().unwrap_or_default().to_owned();
                    let before = {
                        let mut calls = calls.lock().unwrap();
                        let before = calls.iter().filter(|call| call.method == method).count();
                        calls.push(Seen {
                            method: method.clone(),
                            authority: head.uri.authority().map(ToString::to_string).unwrap_or_default(),
                            authorization: head
                                .headers
                                .get(AUTHORIZATION)
                                .map(|value| value.to_str().unwrap().to_owned()),
                            message,
                        });
                        before
                    };
                    let (status, mut message) = answer(&method, before, elsewhere);
                    message.extend_from_slice(&foreign(elsewhere));
                    let mut frame = BytesMut::new();
                    frame.put_u8(0);
                    frame.put_u32(message.len() as u32);
                    frame.put_slice(&message);
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", "0".parse().unwrap());
                    trailers.insert("grpc-retry-pushback-ms", "0".parse().unwrap());
                    let frames =
                        [Ok::<_, Infallible>(Frame::data(frame.freeze())), Ok(Frame::trailers(trailers))];
                    let response = Response::builder()
                        .status(status)
                        .header("content-type", "application/grpc")
                        .header("location", format!("http://{elsewhere}/"))
                        .header("alt-svc", format!("h2=\"{elsewhere}\"; ma=86400; persist=1"))
                        .header("refresh", format!("0; url=http://{elsewhere}/"))
                        .header("www-authenticate", format!("Bearer realm=\"http://{elsewhere}/\""))
                        .header("set-cookie", format!("gateway={elsewhere}"))
                        .body(StreamBody::new(futures_util::stream::iter(frames)))
                        .unwrap();
                    Ok::<_, Infallible>(response)
                }
            });
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            drop(connection.await);
        });
    }
}

#[tokio::test]
async fn s157_nothing_in_an_answer_leads_elsewhere() {
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (here, there) = (listener.local_addr().unwrap(), elsewhere.local_addr().unwrap());
    let visits = Arc::new(AtomicUsize::new(0));
    let visited = visits.clone();
    let watching = tokio::spawn(async move {
        while elsewhere.accept().await.is_ok() {
            visited.fetch_add(1, Ordering::Relaxed);
        }
    });
    let calls = Calls::default();
    let serving = tokio::spawn(gateway(listener, calls.clone(), there));

    let canary = Canary::new();
    let bearer = Bearer::new(canary.secret()).unwrap();
    let builder = |policy| {
        Registration::builder(Gateway::new(here.to_string()).bearer(bearer.clone()), ADDR)
            .service(greeter())
            .instance("me")
            .ttl(secs(60))
            .heartbeat_interval(ms(100))
            // No call is given up while its answer may yet come.
            .heartbeat_deadline(LIMIT)
            .deregister_deadline(LIMIT)
            .check_served(1)
            .start_policy(policy)
    };
    // A redirection is not followed.
    let error = builder(StartPolicy::FailFast(LIMIT)).start().await.unwrap_err();
    assert!(error.failure().is_some(), "{error:?}");

    let registration = builder(StartPolicy::FailFast(LIMIT)).start().await.unwrap();
    let again = format!("http://{there}/2");
    reaches_where(
        &registration,
        "live",
        |state| matches!(state, peerage_controlclient::State::Live { id, .. } if **id == *again),
    )
    .await;
    assert_eq!(registration.snapshot().gateway, here.to_string());
    assert_eq!(registration.shutdown(LIMIT).await, Outcome::Deregistered);

    let calls = calls.lock().unwrap().clone();
    let bearer = format!("Bearer {}", canary.secret());
    for call in &calls {
        assert_eq!(call.authority, here.to_string(), "{call:?}");
        assert_eq!(call.authorization.as_deref(), Some(&*bearer), "{}", call.method);
    }
    let registers: Vec<_> = calls.iter().filter(|call| call.method == "Register").collect();
    assert_eq!(registers.len(), 3);
    let request = pb::RegisterRequest::decode(&registers[0].message[5..]).unwrap();
    assert_eq!((&*request.addr, &*request.instance_id), (ADDR, "me"));
    assert!(registers.iter().all(|call| call.message == registers[0].message), "the same bytes each time");
    assert_eq!(visits.load(Ordering::Relaxed), 0, "nobody went there");
    serving.abort();
    watching.abort();
}
