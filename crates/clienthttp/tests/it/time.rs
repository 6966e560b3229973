//! Time: deadlines, attempts that hang, bodies that trickle (clienthttp 2, balancing 8).

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use axum::{
    Router,
    body::Body as AxumBody,
    response::{IntoResponse as _, Response as AxumResponse},
};
use bytes::Bytes;
use futures_util::StreamExt;
use peerage_clienthttp::{
    Body, CallOptions, Client, ClientBuilder, ClientError, Outcome, Phase, RetryPolicy, Stage,
};
use peerage_discovery::{Report, SourceId};
use peerage_tests::Facts;
use tokio::time::{Instant, sleep};

use crate::kit::{Announcer, InMemory, NOWHERE, Peer, Seen, at, client_of, fixed};

const MS: fn(u64) -> Duration = Duration::from_millis;

fn client_at(addresses: &[(&str, SocketAddr)]) -> ClientBuilder {
    Client::builder_with(fixed(addresses.iter().map(|(id, addr)| at(id, *addr)))).rng_seed(1)
}

/// `pieces` pieces, each after `pause`.
fn trickle(pieces: usize, pause: Duration) -> Router {
    Router::new().fallback(move || async move {
        let pieces = futures_util::stream::iter(0..pieces).then(move |_| async move {
            sleep(pause).await;
            Ok::<_, Infallible>(Bytes::from_static(b"piece"))
        });
        AxumResponse::new(AxumBody::from_stream(pieces))
    })
}

#[tokio::test(start_paused = true)]
async fn h024_a_silent_peer_costs_the_time_of_the_call_and_is_blamed() {
    let dialer = InMemory::serve(Router::new().fallback(std::future::pending::<String>));
    let source = Announcer::new(SourceId::Static);
    source.join("billing-1", &[NOWHERE]);
    let client = source.client().dialer(dialer).request_timeout(MS(100)).build().await.unwrap();
    let began = Instant::now();
    let error = client.get("/").send().await.unwrap_err();
    assert_eq!(began.elapsed().as_millis(), 100);
    assert!(matches!(error, ClientError::Timeout { where_: Phase::Head, attempts: 1, .. }), "{error:?}");
    assert!(error.is_timeout() && !error.is_retryable() && error.request().is_none());
    let attempt = error.attempts().unwrap().last().unwrap();
    assert_eq!((attempt.outcome, attempt.stage), (Outcome::Hard, Stage::Ambiguous), "it is to blame");
    assert_eq!(source.reports.all(), [("billing-1".to_owned(), Report::Unreachable)]);
    let text = "timed out while waiting for the answer after 1 attempts: \
                billing-1 (127.0.0.1:1) was tried and did not answer in time";
    assert_eq!(error.to_string(), text);
}

#[tokio::test(start_paused = true)]
async fn h025_a_body_slower_than_the_deadline_is_an_error_and_its_connection_is_closed() {
    let dialer = InMemory::serve(trickle(1_000, MS(20)));
    let client = client_at(&[("billing-1", NOWHERE)]).dialer(dialer.clone());
    let client = client.request_timeout(MS(150)).build().await.unwrap();
    let began = Instant::now();
    let mut answer = client.get("/").send().await.unwrap();
    let error = loop {
        match answer.chunk().await {
            Ok(piece) => assert_eq!(piece.as_deref(), Some(b"piece".as_slice())),
            Err(error) => break error,
        }
    };
    assert_eq!(began.elapsed().as_millis(), 150);
    assert!(matches!(error, ClientError::Timeout { where_: Phase::Body, .. }), "{error:?}");
    assert_eq!(error.peer().unwrap().node_id(), "billing-1");
    assert_eq!(answer.chunk().await.unwrap(), None, "nothing comes after an error");
    sleep(MS(1)).await;
    assert_eq!(dialer.connection_count(), 0, "it is not kept");
}

#[tokio::test(start_paused = true)]
async fn h026_a_body_may_take_for_ever_if_told() {
    const PIECES: usize = 3_600;
    let began = Instant::now();
    let dialer = InMemory::serve(trickle(PIECES, MS(1_000)));
    let client = client_at(&[("billing-1", NOWHERE)]).dialer(dialer);
    let client = client.request_timeout(MS(100)).body_timeout(None).build().await.unwrap();
    let text = client.get("/").send().await.unwrap().text().await.unwrap();
    assert_eq!(text, "piece".repeat(PIECES));
    assert!(began.elapsed() >= Duration::from_secs(3_600), "an hour: {:?}", began.elapsed());

    // By the call, over a client that says otherwise.
    let dialer = InMemory::serve(trickle(PIECES, MS(1_000)));
    let client = client_at(&[("billing-1", NOWHERE)]).dialer(dialer);
    let client = client.request_timeout(MS(100)).build().await.unwrap();
    let text = client.get("/").body_timeout(None).send().await.unwrap().text().await.unwrap();
    assert_eq!(text.len(), 5 * PIECES);
    let began = Instant::now();
    let body_timeout = Duration::from_secs(60);
    let error = client.get("/").body_timeout(body_timeout).send().await.unwrap().text().await.unwrap_err();
    assert!(error.is_timeout(), "{error:?}");
    assert_eq!(began.elapsed().as_secs(), 60);
    // And by nothing: the time of the call covers the body.
    let began = Instant::now();
    let error = client.get("/").send().await.unwrap().text().await.unwrap_err();
    assert!(error.is_timeout(), "{error:?}");
    assert_eq!(began.elapsed().as_millis(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_asks_for_a_day_of_rest_gets_half_a_minute() {
    let busy = (http::StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "86400")], "later");
    let dialer = InMemory::serve(Router::new().fallback(async move || busy));
    let client = client_at(&[("billing-1", NOWHERE)]).dialer(dialer).build().await.unwrap();
    assert_eq!(client.post("/").send().await.unwrap().status(), 503);
    for (later, rests) in [(0, true), (29, true), (2, false)] {
        tokio::time::advance(Duration::from_secs(later)).await;
        let text = client.explain();
        assert_eq!(text.contains("asked for a pause"), rests, "{later} s later: {text}");
    }
}

/// Takes requests and never answers.
fn silent() -> Router {
    Router::new().fallback(std::future::pending::<String>)
}

/// Answers at once, and counts.
fn good() -> (Router, Facts<()>) {
    let asked: Facts<()> = Facts::new();
    let facts = asked.clone();
    let router = Router::new().fallback(move || {
        facts.push(());
        async { "good" }
    });
    (router, asked)
}

#[tokio::test(start_paused = true)]
async fn a_hung_peer_costs_no_idempotent_call() {
    let (router, asked) = good();
    let dialer = InMemory::serve(router).and("billing-2", silent());
    let client = dialer.client(2).request_timeout(Duration::from_secs(5)).per_try_timeout(MS(100));
    let client = client.build().await.unwrap();
    let mut slow = 0;
    for _ in 0..20 {
        let began = Instant::now();
        let answer = client.get("/").send().await.unwrap();
        assert_eq!(answer.peer().unwrap().node_id(), "billing-1");
        if answer.attempts().unwrap().count() == 2 {
            slow += 1;
            // The time of one attempt, and at most 25 ms of pause before the next.
            assert!((100..=126).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
        }
    }
    // Five failures in a row (B-3.3, R2).
    assert!((1..=5).contains(&slow), "{slow} calls met it before it was passed over");
    assert_eq!(asked.count(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_hung_peer_is_not_sent_what_must_not_be_doubled_twice() {
    let (router, asked) = good();
    let dialer = InMemory::serve(router).and("billing-2", silent());
    let client = dialer.client(2).per_try_timeout(MS(50)).build().await.unwrap();
    let mut failed = 0;
    for _ in 0..4 {
        match client.post("/").body("x").send().await {
            Ok(answer) => assert_eq!(answer.attempts().unwrap().count(), 1),
            Err(error) => {
                failed += 1;
                assert!(matches!(error, ClientError::Timeout { attempts: 1, .. }), "{error:?}");
            }
        }
    }
    assert_eq!(asked.count() + failed, 4);
    assert!(failed > 0);
    let answer = client.post("/").body("x").idempotent().send().await.unwrap();
    assert_eq!(answer.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_black_hole_costs_the_connect_timeout_and_any_call_moves_on() {
    let (router, _) = good();
    let dialer = InMemory::serve(router).and_hole("billing-2").connect_timeout(MS(100));
    let client = dialer.client(2).build().await.unwrap();
    for _ in 0..4 {
        let began = Instant::now();
        let answer = client.post("/").body("x").send().await.unwrap();
        assert_eq!(answer.peer().unwrap().node_id(), "billing-1");
        assert!(began.elapsed() <= MS(101), "{:?}", began.elapsed());
    }
    let (router, _) = good();
    let alone = InMemory::serve(router).and_hole("billing-1").connect_timeout(MS(20));
    let alone = alone.client(1).build().await.unwrap();
    let error = alone.post("/").body("x").send().await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout { where_: Phase::Connect, attempts: 5, .. }), "{error:?}");
    assert!(error.is_connect() && error.is_retryable());
    let request = error.into_request().expect("nothing was sent");
    assert_eq!((request.method().as_str(), request.uri().to_string().as_str()), ("POST", "/"));
    assert!(request.headers().is_empty(), "as it was given: {:?}", request.headers());
}

#[tokio::test(start_paused = true)]
async fn no_call_takes_longer_than_its_deadline() {
    let policy = RetryPolicy::default().sends(5).unwrap();
    for seed in 0..40 {
        let slow_head = Router::new().fallback(async || {
            sleep(MS(40)).await;
            (http::StatusCode::SERVICE_UNAVAILABLE, "no")
        });
        let busy = Router::new()
            .fallback(async || (http::StatusCode::TOO_MANY_REQUESTS, [("retry-after", "1")], "later"));
        let dialer = InMemory::serve(slow_head).and("billing-2", busy).and("billing-3", silent());
        let client = dialer.and_hole("billing-4").connect_timeout(MS(60)).client(4);
        let client = client.retry(policy).per_try_timeout(MS(60)).rng_seed(seed);
        let client = client.request_timeout(MS(200)).build().await.unwrap();
        let calls = (0..8).map(|_| async {
            let began = Instant::now();
            let _outcome = client.get("/").send().await;
            began.elapsed()
        });
        for took in futures_util::future::join_all(calls).await {
            assert!(took <= MS(210), "seed {seed}: {took:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_peer_is_told_how_much_time_is_left() {
    let seen: Facts<Seen> = Facts::new();
    let facts = seen.clone();
    let dialer = InMemory::serve(Router::new().fallback(move |request: http::Request<AxumBody>| {
        facts.push(Seen::of(&request));
        async { "told" }
    }));
    let client = dialer.client(1).request_timeout(Duration::from_secs(30)).build().await.unwrap();
    let none = dialer.client(1).request_timeout(None).build().await.unwrap();
    client.get("/").send().await.unwrap();
    client.get("/").timeout(MS(1_500)).send().await.unwrap();
    client.get("/").header("peerage-timeout-ms", "99999999").send().await.unwrap();
    none.get("/").send().await.unwrap();
    let serving =
        http::HeaderMap::from_iter([("peerage-timeout-ms".parse().unwrap(), "800".parse().unwrap())]);
    client.get("/").serving(&serving).send().await.unwrap();
    none.get("/").serving(&serving).send().await.unwrap();
    let left: Vec<Option<u64>> = seen
        .all()
        .iter()
        .map(|seen| seen.header("peerage-timeout-ms").map(|left| left.parse().unwrap()))
        .collect();
    // Ours, not what a caller passes on; 5 ms are kept for the answer; time may have gone by in whole
    // milliseconds, as the timers count.
    let expected = [Some(30_000), Some(1_500), Some(30_000), None, Some(795), Some(795)];
    assert_eq!(left, expected);
}

#[tokio::test]
async fn a_call_that_serves_one_with_no_time_left_is_not_made() {
    let peer = Peer::start("billing-1").await;
    let client = client_of([&peer]).build().await.unwrap();
    let serving = http::HeaderMap::from_iter([("grpc-timeout".parse().unwrap(), "5m".parse().unwrap())]);
    let mut request = http::Request::get("/").body(String::new()).unwrap();
    request.extensions_mut().insert(CallOptions::new().serving(&serving));
    let error = client.send(request).await.unwrap_err();
    assert!(error.is_timeout(), "{error:?}");
    assert_eq!(peer.server.connection_count(), 0);
}

/// A body of which the second half never comes.
fn half_a_body() -> Body {
    let half = futures_util::stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"half"))]);
    let frames = half.chain(futures_util::stream::pending()).map(|piece| piece.map(http_body::Frame::data));
    Body::new(http_body_util::StreamBody::new(frames))
}

#[tokio::test(start_paused = true)]
async fn b_8_a_caller_that_is_slow_to_give_its_body_puts_no_blame_on_the_peer() {
    let (router, asked) = good();
    let source = Announcer::new(SourceId::Static);
    source.join("billing-1", &[NOWHERE]);
    source.join("billing-2", &[SocketAddr::from(([127, 0, 0, 1], 2))]);
    let client = source.client().dialer(InMemory::serve(router)).request_timeout(MS(1_000));
    let client = client.per_try_timeout(MS(100)).build().await.unwrap();
    // Six in a row would take out either of them.
    for method in [http::Method::POST, http::Method::PUT].into_iter().cycle().take(24) {
        let began = Instant::now();
        let error = client.request(method, "/").body(half_a_body()).send().await.unwrap_err();
        assert_eq!(began.elapsed().as_millis(), 1_000, "no attempt has begun that could be over sooner");
        assert!(
            matches!(error, ClientError::Timeout { where_: Phase::RequestBody, attempts: 1, .. }),
            "{error:?}"
        );
        assert!(!error.was_sent(), "{error:?}");
        let attempt = error.attempts().unwrap().last().unwrap();
        assert_eq!((attempt.outcome, attempt.stage), (Outcome::Cancelled, Stage::NotSent));
    }
    let view = client.view();
    assert!(view.peers.iter().all(|peer| peer.recent_failed == 0 && peer.success_ratio > 0.999), "{view}");
    assert_eq!((source.reports.count(), source.refreshes.count(), asked.count()), (0, 0, 0));
    assert_eq!(client.get("/").send().await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn b_8_the_time_of_an_attempt_begins_when_its_body_is_there() {
    let (router, _) = good();
    let client = InMemory::serve(router).client(1).per_try_timeout(MS(100)).build().await.unwrap();
    let pieces = futures_util::stream::iter(0..5).then(|_| async {
        sleep(MS(80)).await;
        Ok::<_, Infallible>(http_body::Frame::data(Bytes::from_static(b"piece")))
    });
    let body = Body::new(http_body_util::StreamBody::new(pieces));
    let answer = client.post("/").body(body).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.attempts().unwrap().count()), (200, 1));

    let silent = InMemory::serve(silent()).client(1).per_try_timeout(MS(100)).build().await.unwrap();
    let began = Instant::now();
    let piece = futures_util::stream::once(async {
        sleep(MS(80)).await;
        Ok::<_, Infallible>(http_body::Frame::data(Bytes::from_static(b"piece")))
    });
    let body = Body::new(http_body_util::StreamBody::new(Box::pin(piece)));
    let error = silent.post("/").body(body).send().await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout { where_: Phase::Head, .. }), "{error:?}");
    assert_eq!(began.elapsed().as_millis(), 180);
    let attempt = error.attempts().unwrap().last().unwrap();
    assert_eq!((attempt.outcome, attempt.stage), (Outcome::Hard, Stage::Ambiguous));
}

#[tokio::test(start_paused = true)]
async fn b_0_4_limits_beyond_all_time_are_no_panic() {
    let (router, _) = good();
    let (source, dialer) = (Announcer::new(SourceId::Static), InMemory::serve(router));
    let patient = RetryPolicy::default().ready_wait(Duration::MAX);
    let client = source.client().dialer(dialer.clone()).retry(patient).min_peers(0).build().await.unwrap();
    let began = Instant::now();
    let error = client.get("/").timeout(MS(50)).send().await.unwrap_err();
    assert!(matches!(error, ClientError::NoPeers { .. }), "{error:?}");
    assert_eq!(began.elapsed().as_millis(), 50);
    // Without any limit it waits for as long as it takes.
    let (answer, ()) = tokio::join!(client.get("/").timeout(Duration::MAX).send(), async {
        sleep(Duration::from_secs(86_400)).await;
        source.join("billing-1", &[NOWHERE]);
    });
    assert_eq!(answer.unwrap().status(), 200);
    let client = source.client().dialer(dialer).discover_timeout(Duration::MAX).build().await.unwrap();
    assert_eq!(client.get("/").body_timeout(Duration::MAX).send().await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn b_8_calls_with_next_to_no_time_take_nobody_out() {
    let slow = Router::new().fallback(async || {
        sleep(MS(20)).await;
        "slow"
    });
    let client = InMemory::serve(slow).client(2).build().await.unwrap();
    for _ in 0..30 {
        let error = client.get("/").timeout(MS(10)).send().await.unwrap_err();
        assert!(error.is_timeout(), "{error:?}");
        assert_eq!(error.attempts().unwrap().last().unwrap().outcome, Outcome::Cancelled);
    }
    let view = client.view();
    assert!(view.peers.iter().all(|peer| peer.recent_failed == 0), "{view}");
    assert_eq!(client.get("/").send().await.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn b_8_a_body_that_comes_at_the_last_moment_leaves_the_peer_no_fair_chance() {
    for slow in [Duration::ZERO, MS(900)] {
        let client = InMemory::serve(silent()).connect_time(slow).client(2).request_timeout(MS(1_000));
        let client = client.build().await.unwrap();
        for _ in 0..12 {
            let last = futures_util::stream::once(async {
                sleep(MS(950)).await;
                Ok::<_, Infallible>(http_body::Frame::data(Bytes::from_static(b"all")))
            });
            let body = Body::new(http_body_util::StreamBody::new(Box::pin(last)));
            let error = client.put("/").body(body).send().await.unwrap_err();
            let attempt = error.attempts().unwrap().last().unwrap();
            assert_eq!(
                (attempt.outcome, attempt.elapsed.as_millis()),
                (Outcome::Cancelled, 1_000),
                "{error:?}"
            );
        }
        let view = client.view();
        assert!(view.peers.iter().all(|peer| peer.recent_failed == 0), "{view}");
    }
}

#[tokio::test(start_paused = true)]
async fn b_8_who_answers_that_the_time_it_was_told_is_over_is_blamed_no_more_than_who_is_silent() {
    let obeys = Router::new().fallback(|request: http::Request<AxumBody>| async move {
        let told = &request.headers()["peerage-timeout-ms"];
        sleep(MS(told.to_str().unwrap().parse().unwrap())).await;
        if request.headers().contains_key("content-type") {
            return ([("grpc-status", "4")], "").into_response();
        }
        http::StatusCode::GATEWAY_TIMEOUT.into_response()
    });
    let client = InMemory::serve(obeys).client(1).build().await.unwrap();
    for (given, grpc, outcome) in [
        (19_900, false, Outcome::Cancelled),
        (19_900, true, Outcome::Cancelled),
        // All the time of a call that has enough.
        (200_900, false, Outcome::Hard),
        (200_900, true, Outcome::Hard),
    ] {
        let call = client.post("/").timeout(Duration::from_micros(given));
        let call = if grpc { call.header("content-type", "application/grpc") } else { call };
        let answer = call.send().await.unwrap();
        assert_eq!(answer.attempts().unwrap().last().unwrap().outcome, outcome, "{given} {grpc}");
    }
    // With time left it is a failure of its own.
    let hasty = Router::new().fallback(async || http::StatusCode::GATEWAY_TIMEOUT);
    let client = InMemory::serve(hasty).client(1).build().await.unwrap();
    let answer = client.post("/").timeout(MS(20)).send().await.unwrap();
    assert_eq!(answer.attempts().unwrap().last().unwrap().outcome, Outcome::Hard);
}
