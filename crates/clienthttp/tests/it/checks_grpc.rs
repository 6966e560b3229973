//! Active checks by the health protocol of gRPC (balancing 3.7), mostly answered by the health service of
//! tonic.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    response::{IntoResponse as _, Response as Answer},
};
use bytes::Bytes;
use peerage_clienthttp::{
    BoxError, Channel, Checks, Client, Condition, ConfigError, Dialer, HttpDialer, Peer,
};
use peerage_discovery::{StaticDiscovery, StaticPeer};
use tokio::time::sleep;
use tonic_health::{ServingStatus, server::HealthReporter};

/// Peers by node id, each an HTTP service in this process.
#[derive(Debug)]
struct Routers(HashMap<String, Router>);

impl Dialer for Routers {
    fn dial(&self, peer: &Peer) -> Result<Channel, BoxError> {
        Ok(Channel::new(self.0.get(peer.node_id()).ok_or("nobody there")?.clone()))
    }
}

async fn client_of(routers: impl IntoIterator<Item = Router>, checks: Checks) -> Client {
    let routers: HashMap<_, _> =
        routers.into_iter().enumerate().map(|(i, router)| (format!("billing-{}", i + 1), router)).collect();
    let peers = (1..=routers.len() as u16).map(|i| {
        let addr: std::net::SocketAddr = ([127, 0, 0, 1], i).into();
        StaticPeer::new(addr).node_id(format!("billing-{i}"))
    });
    let source = StaticDiscovery::new("billing", peers).unwrap();
    Client::builder_with(source).dialer(Routers(routers)).checks(checks).rng_seed(1).build().await.unwrap()
}

fn conditions(client: &Client) -> Vec<Condition> {
    client.view().peers.iter().map(|peer| peer.condition).collect()
}

/// A peer with the health service, and what sets its answers.
async fn healthy() -> (Router, HealthReporter) {
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status("billing", ServingStatus::Serving).await;
    let grpc = tonic::service::Routes::new(service).into_axum_router();
    (Router::new().route("/", axum::routing::get(async || "pong")).merge(grpc), reporter)
}

#[tokio::test(start_paused = true)]
async fn b_3_7_what_a_peer_says_by_grpc_is_believed_at_once() {
    let ((one, _kept), (two, health)) = (healthy().await, healthy().await);
    let client = client_of([one, two], Checks::grpc("billing").unwrap()).await;
    sleep(Duration::from_secs(12)).await;
    assert_eq!(conditions(&client), [Condition::Up; 2]);

    // Far from any check: they are seconds apart.
    health.set_service_status("billing", ServingStatus::NotServing).await;
    sleep(Duration::from_millis(10)).await;
    assert_eq!(conditions(&client), [Condition::Up, Condition::Down]);
    for _ in 0..10 {
        let answer = client.get("/").send().await.unwrap();
        assert_eq!(answer.peer().unwrap().node_id(), "billing-1");
    }
    health.set_service_status("billing", ServingStatus::Serving).await;
    sleep(Duration::from_millis(10)).await;
    assert_eq!(conditions(&client), [Condition::Up; 2]);

    // It is still heard after many checks, each of which takes the place of the one before.
    sleep(Duration::from_secs(300)).await;
    health.set_service_status("billing", ServingStatus::Unknown).await;
    sleep(Duration::from_millis(10)).await;
    assert_eq!(conditions(&client), [Condition::Up, Condition::Down]);
    sleep(Duration::from_secs(30)).await;
    assert_eq!(conditions(&client), [Condition::Up, Condition::Down], "and says so again when asked");
    assert!(client.view().peers.iter().all(|peer| peer.recent_failed == 0), "checks are no calls");
}

#[tokio::test(start_paused = true)]
async fn b_3_7_a_service_that_the_peer_does_not_know_is_down() {
    let ((one, _one), (two, mut health)) = (healthy().await, healthy().await);
    health.clear_service_status("billing").await;
    let client = client_of([one, two], Checks::grpc("billing").unwrap()).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(conditions(&client), [Condition::Up, Condition::Down]);
}

type Makes = fn() -> Answer;

/// A peer that answers each check like that, and how often it was asked.
fn answering(answer: impl Fn() -> Answer + Clone + Send + Sync + 'static) -> (Router, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let router = Router::new().fallback(move || {
        count.fetch_add(1, Ordering::Relaxed);
        let answer = answer();
        async move { answer }
    });
    (router, asked)
}

const GRPC: [(&str, &str); 1] = [("content-type", "application/grpc")];

/// Frames of an answer that then goes on for ever.
fn frames(bytes: &'static [u8]) -> axum::body::Body {
    use futures_util::{StreamExt as _, stream};
    let first = stream::iter([Ok::<_, Infallible>(Bytes::from_static(bytes))]);
    axum::body::Body::from_stream(first.chain(stream::pending()))
}

#[tokio::test(start_paused = true)]
async fn b_3_7_a_peer_without_the_protocol_counts_as_serving_and_is_asked_once() {
    let answers: [Makes; 3] = [
        || ([("content-type", "application/grpc"), ("grpc-status", "12")], "").into_response(),
        || http::StatusCode::NOT_FOUND.into_response(),
        || {
            let trailers = http::HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-status"),
                http::HeaderValue::from_static("12"),
            )]);
            let body = http_body_util::StreamBody::new(futures_util::stream::iter([Ok::<_, Infallible>(
                http_body::Frame::<Bytes>::trailers(trailers),
            )]));
            (GRPC, axum::body::Body::new(body)).into_response()
        },
    ];
    let (routers, asked): (Vec<_>, Vec<_>) = answers.into_iter().map(answering).unzip();
    let client = client_of(routers, Checks::grpc("").unwrap()).await;
    sleep(Duration::from_secs(120)).await;
    assert_eq!(conditions(&client), [Condition::Up; 3]);
    assert_eq!(asked.iter().map(|asked| asked.load(Ordering::Relaxed)).collect::<Vec<_>>(), [1; 3]);
}

#[tokio::test(start_paused = true)]
async fn b_3_7_nothing_understood_or_nothing_in_time_fails_a_check() {
    let answers: [(&str, Makes); 7] = [
        ("never a word", || (GRPC, frames(b"")).into_response()),
        ("half a word", || (GRPC, frames(b"\0\0\0\0\x02\x08")).into_response()),
        ("compressed", || (GRPC, frames(b"\x01\0\0\0\x02\x08\x01")).into_response()),
        ("a claim of 4 GiB", || (GRPC, frames(b"\0\xff\xff\xff\xff\x08\x01")).into_response()),
        ("no message", || (GRPC, frames(b"\0\0\0\0\x02\xff\xff")).into_response()),
        ("a page", || ([("content-type", "text/html")], "\0\0\0\0\x02\x08\x01").into_response()),
        ("another status", || http::StatusCode::BAD_GATEWAY.into_response()),
    ];
    for (what, answer) in answers {
        let ((bad, asked), (good, _health)) = (answering(answer), healthy().await);
        let client = client_of([good, bad], Checks::grpc("billing").unwrap()).await;
        // Within 10 s, then every 9 to 11 s, and a second each.
        while asked.load(Ordering::Relaxed) < 2 {
            sleep(Duration::from_secs(1)).await;
        }
        sleep(Duration::from_secs(2)).await;
        assert_eq!(conditions(&client), [Condition::Up; 2], "{what}: two failures are not three");
        sleep(Duration::from_secs(12)).await;
        assert_eq!(conditions(&client), [Condition::Up, Condition::Down], "{what}");
    }
}

#[tokio::test]
async fn b_3_7_grpc_over_http2() {
    let (router, health) = healthy().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    // Ports that nobody listens at.
    let dead = peerage_tests::Refuser::new();
    let peers = [("billing-1", addr), ("billing-2", dead.addr())];
    let source =
        StaticDiscovery::new("billing", peers.map(|(id, addr)| StaticPeer::new(addr).node_id(id))).unwrap();
    let client = Client::builder_with(source)
        .dialer(HttpDialer::http2())
        .checks(Checks::grpc("billing").unwrap().every(Duration::from_millis(100)).unwrap())
        .build()
        .await
        .unwrap();
    let until = async |wanted: [Condition; 2]| {
        // A view is looked at: it tells nobody that it changed. The limit is below.
        while conditions(&client) != wanted {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let all = async {
        until([Condition::Up, Condition::Down]).await;
        health.set_service_status("billing", ServingStatus::NotServing).await;
        until([Condition::Down, Condition::Down]).await;
        health.set_service_status("billing", ServingStatus::Serving).await;
        until([Condition::Up, Condition::Down]).await;
    };
    tokio::time::timeout(Duration::from_secs(30), all).await.expect("what it says arrives");
    server.abort();
}

#[tokio::test]
async fn b_0_4_checks_by_grpc_need_http2_and_a_name_of_some_length() {
    assert!(matches!(Checks::grpc(&"x".repeat(4_097)), Err(ConfigError::Setting { setting: "checks", .. })));
    let source = StaticDiscovery::new("billing", [StaticPeer::new("127.0.0.1:1")]).unwrap();
    let refused = Client::builder_with(source).checks(Checks::grpc("billing").unwrap()).build_lazy();
    let Err(ConfigError::Setting { setting: "checks", why }) = refused else { panic!("{refused:?}") };
    assert!(why.contains("HttpDialer::http2()"), "{why}");
}
