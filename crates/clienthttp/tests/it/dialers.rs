//! Other ways to a peer (clienthttp 5, 6).

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use axum::{Router, routing::get};
use bytes::Bytes;
use http::{Request, Response};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use peerage_clienthttp::{
    Body, Client, ClientBuilder, ClientError, HttpDialer, HttpVersion, Outcome, Phase, Policy, Stage,
    TestDialer,
};
use peerage_tests::{Facts, FaultProxy};
use tokio::{net::TcpListener, task::JoinSet, time::Instant};
use tower::{Service, ServiceBuilder, ServiceExt};

use crate::kit::{Peer, at, client_of, fixed, until};

#[tokio::test]
async fn h037_in_memory_peers_need_no_socket() {
    let router = |name: &'static str| {
        Router::new().route(
            "/v1/{what}",
            get(
                async move |axum::extract::Path(what): axum::extract::Path<String>,
                            headers: http::HeaderMap| {
                    format!("{name} {what} {}", headers["host"].to_str().unwrap())
                },
            ),
        )
    };
    let peers = TestDialer::serve("billing-1", router("one")).and_serve("billing-2", router("two"));
    let client = Client::builder("billing")
        .discovery(peers.discovery("billing").unwrap())
        .dialer(peers)
        .balance(Policy::RoundRobin)
        .bearer("goes along: it never leaves the process")
        .build()
        .await
        .unwrap();
    let mut answers = std::collections::BTreeSet::new();
    for _ in 0..4 {
        let answer = client.get("/v1/x?y=1").send().await.unwrap();
        answers.insert(answer.text().await.unwrap());
    }
    assert_eq!(answers.into_iter().collect::<Vec<_>>(), ["one x billing", "two x billing"]);
    let answer = client.get("http://other/v1/z").send().await.unwrap().text().await.unwrap();
    assert!(answer.ends_with(" z other"), "{answer}");
}

/// An ordinary web server.
struct Web {
    addr: SocketAddr,
    seen: Facts<http::request::Parts>,
    _connections: tokio::task::AbortHandle,
}

impl Web {
    async fn serve(version: HttpVersion, router: Router) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let seen: Facts<http::request::Parts> = Facts::new();
        let facts = seen.clone();
        let service = tower::service_fn(move |request: Request<hyper::body::Incoming>| {
            let (head, body) = request.into_parts();
            facts.push(head.clone());
            router.clone().oneshot(Request::from_parts(head, body))
        });
        let connections = tokio::spawn(async move {
            let mut running = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = TowerToHyperService::new(service.clone());
                running.spawn(async move {
                    // The tests look at what the client says, not at how the server's side ends.
                    let io = TokioIo::new(stream);
                    match version {
                        HttpVersion::Http2 => {
                            let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                            http2.serve_connection(io, service).await.is_ok()
                        }
                        _ => hyper::server::conn::http1::Builder::new()
                            .serve_connection(io, service)
                            .await
                            .is_ok(),
                    }
                });
            }
        });
        Self { addr, seen, _connections: connections.abort_handle() }
    }

    async fn start(version: HttpVersion, id: &'static str) -> Self {
        Self::serve(version, Router::new().fallback(async move || id)).await
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self._connections.abort();
    }
}

fn web_client(version: HttpVersion, addresses: &[SocketAddr]) -> ClientBuilder {
    let ids = ["billing-1", "billing-2", "billing-3"];
    let list = ids.into_iter().zip(addresses).map(|(id, addr)| at(id, *addr));
    let dialer = if version == HttpVersion::Http2 { HttpDialer::http2() } else { HttpDialer::http1() };
    Client::builder_with(fixed(list)).dialer(dialer).rng_seed(1)
}

const BOTH: [HttpVersion; 2] = [HttpVersion::Http1, HttpVersion::Http2];

#[tokio::test]
async fn h038_a_bearer_over_http() {
    // As H-004, H-019.
    for version in BOTH {
        let web = Web::start(version, "billing-1").await;
        let client = web_client(version, &[web.addr]).bearer("T0KEN").build().await.unwrap();
        let answer = client.get("/v1/x?y=1").send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "billing-1");
        client.get("http://whatever/v1/x?y=1").send().await.unwrap();
        client.put("/v1/x?y=1").header("host", "own:1").body("hello").send().await.unwrap();
        let seen = web.seen.all();
        let bearers: Vec<_> =
            seen.iter().map(|head| head.headers["authorization"].to_str().unwrap()).collect();
        assert_eq!(bearers, ["Bearer T0KEN"; 3]);
        let host = |head: &http::request::Parts| {
            let authority = head.uri.authority().map(|authority| authority.to_string());
            authority.unwrap_or_else(|| head.headers["host"].to_str().unwrap().to_owned())
        };
        assert_eq!(
            seen.iter().map(host).collect::<Vec<_>>(),
            ["billing", "whatever", "own:1"],
            "{version:?}"
        );
        assert!(seen.iter().all(|head| head.uri.path_and_query().unwrap() == "/v1/x?y=1"));
        assert!(client.get("https://billing/").send().await.is_err());
    }
}

#[tokio::test]
async fn h038_calls_over_http_are_spread_over_few_connections() {
    // As H-015.
    for version in BOTH {
        let webs = [
            Web::start(version, "billing-1").await,
            Web::start(version, "billing-2").await,
            Web::start(version, "billing-3").await,
        ];
        let mut proxies = Vec::new();
        for web in &webs {
            proxies.push(FaultProxy::start(web.addr).await);
        }
        let addresses: Vec<_> = proxies.iter().map(FaultProxy::addr).collect();
        let client = web_client(version, &addresses).balance(Policy::RoundRobin).build().await.unwrap();
        for _ in 0..300 {
            client.get("/").send().await.unwrap().bytes().await.unwrap();
        }
        let counts: Vec<_> = webs.iter().map(|web| web.seen.count()).collect();
        assert_eq!(counts, [100; 3], "{version:?}");
        let connections: Vec<_> = proxies.iter().map(FaultProxy::connection_count).collect();
        // A connection of HTTP/1.1 is free when its task has noticed the end, which nobody waits for.
        let few = if version == HttpVersion::Http2 { 1 } else { 10 };
        assert!(connections.iter().all(|count| (1..=few).contains(count)), "{version:?}: {connections:?}");
    }
}

#[tokio::test]
async fn h038_a_silent_web_server_costs_the_time_of_the_call() {
    // As H-024.
    for version in BOTH {
        let router = Router::new().fallback(async || std::future::pending::<&str>().await);
        let web = Web::serve(version, router).await;
        let client = web_client(version, &[web.addr])
            .request_timeout(Duration::from_millis(100))
            .build()
            .await
            .unwrap();
        let began = Instant::now();
        let error = client.get("/").send().await.unwrap_err();
        assert!((100..10_000).contains(&began.elapsed().as_millis()), "{version:?}: {:?}", began.elapsed());
        assert!(error.is_timeout(), "{error:?}");
    }
}

#[tokio::test]
async fn h038_calls_over_http_can_be_dropped() {
    // As H-029.
    for version in BOTH {
        let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
        let wait = gate.clone();
        let router = Router::new().fallback(move || async move {
            wait.acquire().await.unwrap().forget();
            "through"
        });
        let web = Web::serve(version, router).await;
        let client = web_client(version, &[web.addr]).build().await.unwrap();
        for _ in 0..5 {
            let dropped = tokio::time::timeout(Duration::from_millis(10), client.get("/").send()).await;
            assert!(dropped.is_err());
        }
        assert!(client.explain().contains(", 0 calls"), "{}", client.explain());
        assert!(format!("{client:?}").contains("running: 0"));
        gate.add_permits(20);
        assert_eq!(client.get("/").send().await.unwrap().text().await.unwrap(), "through", "{version:?}");
    }
}

#[tokio::test]
async fn h038_what_was_not_sent_over_http_moves_on_and_a_lost_post_does_not() {
    for version in BOTH {
        let refuser = peerage_tests::Refuser::new();
        let web = Web::start(version, "billing-1").await;
        let client = web_client(version, &[web.addr, refuser.addr()]).build().await.unwrap();
        for _ in 0..6 {
            assert_eq!(client.post("/").body("x").send().await.unwrap().status(), 200, "{version:?}");
        }
        let closes = peerage_tests::ScriptedServer::start(|mut conn| async move {
            conn.read(24).await;
            conn.close().await;
        })
        .await;
        let client = web_client(version, &[closes.addr()]).build().await.unwrap();
        let error = client.post("/").body("x").send().await.unwrap_err();
        assert!(matches!(error, ClientError::OutcomeUnknown { .. }), "{version:?}: {error:?}");
    }
}

#[tokio::test]
async fn b_4_2_a_web_server_that_no_connection_reaches_was_not_sent_the_call() {
    for version in BOTH {
        let holes = [peerage_tests::BlackHole::new(), peerage_tests::BlackHole::new()];
        let client = web_client(version, &holes.each_ref().map(|hole| hole.addr()));
        let client = client.per_try_timeout(Duration::from_millis(20)).build().await.unwrap();
        let error = client.post("/").body("x").send().await.unwrap_err();
        let stages: Vec<_> = error.attempts().unwrap().iter().map(|attempt| attempt.stage).collect();
        assert_eq!(stages, [Stage::NotSent; 5], "{version:?}: any method goes on to the next peer");
        assert!(
            matches!(error, ClientError::Timeout { where_: Phase::Connect, .. }),
            "{version:?}: {error:?}"
        );
        assert!(error.is_retryable() && error.request().is_some(), "{error:?}");

        let client = web_client(version, &[holes[0].addr()]).request_timeout(Duration::from_millis(20));
        let error = client.build().await.unwrap().post("/").body("x").send().await.unwrap_err();
        assert!(
            matches!(error, ClientError::Timeout { where_: Phase::Connect, .. }),
            "{version:?}: {error:?}"
        );
        assert!(!error.was_sent(), "{error:?}");
    }
}

/// An HTTP/2 server that answers the first request on each connection with a GOAWAY after that stream, and closes.
async fn going_away(last_stream: u8) -> peerage_tests::ScriptedServer {
    peerage_tests::ScriptedServer::start(move |mut conn| async move {
        // The preface, and what a server must begin with: a frame of settings, here none.
        conn.read(24).await;
        conn.send(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
        loop {
            let head = conn.read(9).await;
            let [high, middle, low, kind, ..] = head[..] else { return };
            conn.read(usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low)).await;
            // HEADERS.
            if kind == 1 {
                break;
            }
        }
        conn.send(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, last_stream, 0, 0, 0, 0]).await;
        // Read on, so that no reset overtakes what was sent.
        conn.half_close().await;
        conn.read_to_end().await;
    })
    .await
}

#[tokio::test]
async fn b_4_2_a_stream_above_the_last_one_of_a_goaway_was_not_sent() {
    let web = Web::start(HttpVersion::Http2, "billing-2").await;
    let (before, after) = (going_away(0).await, going_away(1).await);
    let client = web_client(HttpVersion::Http2, &[before.addr(), web.addr]);
    let client = client.balance(Policy::RoundRobin).health(None).build().await.unwrap();
    let mut stages = Vec::new();
    for _ in 0..4 {
        let answer = client.post("/").body("x").send().await.unwrap();
        assert_eq!(answer.peer().unwrap().node_id(), "billing-2");
        for attempt in answer.attempts().unwrap().iter() {
            stages.push(attempt.stage);
            // It says itself that nothing is wrong (B-9.3).
            assert!([Outcome::Success, Outcome::Cancelled].contains(&attempt.outcome), "{attempt:?}");
        }
    }
    assert!(stages.contains(&Stage::NotSent), "it was asked: {stages:?}");
    assert!(stages.iter().all(|stage| [Stage::NotSent, Stage::Answered].contains(stage)), "{stages:?}");

    // The stream it was sent on is not above: what became of it is unknown.
    let client = web_client(HttpVersion::Http2, &[after.addr(), web.addr]);
    let client = client.balance(Policy::RoundRobin).health(None).build().await.unwrap();
    let mut lost = 0;
    for _ in 0..4 {
        match client.post("/").body("x").send().await {
            Ok(answer) => assert_eq!(answer.attempts().unwrap().count(), 1),
            Err(error) => {
                assert!(matches!(error, ClientError::OutcomeUnknown { .. }), "{error:?}");
                lost += 1;
            }
        }
    }
    assert_eq!(lost, 2);
}

#[tokio::test]
async fn h039_tower_layers_fit_around_the_client() {
    let peer = Peer::start("billing-1").await;
    let client = client_of([&peer]).build().await.unwrap();
    let mut layered = ServiceBuilder::new()
        .layer(tower_http::trace::TraceLayer::new_for_http())
        .layer(tower::timeout::TimeoutLayer::new(Duration::from_secs(5)))
        .layer(tower::limit::ConcurrencyLimitLayer::new(4))
        .service(client.clone());
    let request = Request::get("/").body(http_body_util::Full::new(Bytes::new())).unwrap();
    let ready = ServiceExt::<Request<http_body_util::Full<Bytes>>>::ready(&mut layered).await.unwrap();
    let response: Response<_> = ready.call(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let boxed: Request<http_body_util::combinators::BoxBody<Bytes, Infallible>> = Request::put("/")
        .body(http_body_util::combinators::BoxBody::new(http_body_util::Full::from("x")))
        .unwrap();
    assert_eq!(client.oneshot(boxed).await.unwrap().status(), 200);
    assert_eq!(peer.seen.count(), 2);
}

#[tokio::test]
async fn a_channel_can_be_any_service() {
    #[derive(Clone, Debug)]
    struct Echo;
    impl peerage_clienthttp::Dialer for Echo {
        fn dial(
            &self,
            peer: &peerage_clienthttp::Peer,
        ) -> Result<peerage_clienthttp::Channel, peerage_clienthttp::BoxError> {
            if peer.node_id() == "billing-2" {
                return Err("not that one".into());
            }
            Ok(peerage_clienthttp::Channel::new(tower::service_fn(async |request: Request<Body>| {
                Ok::<_, Infallible>(Response::new(request.into_body()))
            })))
        }
    }
    let list = [at("billing-1", ([127, 0, 0, 1], 1).into()), at("billing-2", ([127, 0, 0, 1], 2).into())];
    let client = Client::builder_with(fixed(list)).dialer(Echo).build().await.unwrap();
    for _ in 0..4 {
        let answer = client.post("/").body("hello").send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "hello");
    }
    until(|| client.explain().contains(", 0 calls")).await;
}
