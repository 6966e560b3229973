//! What is sent again (balancing 4 and 5; threats C and K).

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, http::StatusCode, response::IntoResponse};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method};
use peerage_clienthttp::{Body, Client, ClientBuilder, ClientError, Outcome, Policy, RetryPolicy, Stage};
use peerage_tests::{Facts, Refuser, ScriptedServer, ServerEvent};
use peerage_zaphttp::wire::{Limits, Payload, put_response};
use tokio::time::Instant;

use crate::kit::{InMemory, PATIENCE, Peer, at, client_of, fixed};

fn client_at(addresses: &[(&str, SocketAddr)]) -> ClientBuilder {
    Client::builder_with(fixed(addresses.iter().map(|(id, addr)| at(id, *addr)))).rng_seed(1)
}

/// Reads a request and closes.
async fn closes_after_reading() -> ScriptedServer {
    ScriptedServer::start(|mut conn| async move {
        conn.read_frame().await;
        conn.close().await;
    })
    .await
}

fn frames(server: &ScriptedServer) -> usize {
    server
        .events()
        .look(|events| events.iter().filter(|event| matches!(event, ServerEvent::Received { .. })).count())
}

/// Answers with this status, for ever.
async fn answering(id: &str, status: u16, headers: &[(&'static str, &'static str)]) -> Peer {
    let headers: HeaderMap =
        headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
    let router = Router::new().fallback(move || {
        let answer = (StatusCode::from_u16(status).unwrap(), headers.clone(), "no").into_response();
        async move { answer }
    });
    Peer::serve(id, router).await
}

#[tokio::test]
async fn h033_a_post_lost_after_it_was_read_is_not_sent_twice() {
    let bad = closes_after_reading().await;
    let (one, two) = (Peer::start("billing-1").await, Peer::start("billing-2").await);
    let all = [("billing-1", one.addr()), ("billing-2", two.addr()), ("billing-3", bad.addr())];
    // Ejection would spare half of them.
    let client = client_at(&all).balance(Policy::RoundRobin).health(None).build().await.unwrap();
    let mut lost = 0;
    for _ in 0..30 {
        match client.post("/").body("x").send().await {
            Ok(answer) => assert_eq!(answer.attempts().unwrap().count(), 1),
            Err(error) => {
                lost += 1;
                assert!(matches!(error, ClientError::OutcomeUnknown { .. }), "{error:?}");
                assert!(!error.is_retryable() && error.was_sent() && error.request().is_none());
                let text = error.to_string();
                assert!(
                    text.starts_with("lost the peer before its answer, the outcome is unknown"),
                    "{text}"
                );
            }
        }
    }
    assert_eq!((lost, frames(&bad)), (10, 10), "each that met it was sent to it, and to nobody else");
    assert_eq!(one.seen.count() + two.seen.count(), 20);

    for _ in 0..6 {
        let answer = client.get("/").send().await.unwrap();
        assert_eq!(answer.status(), 200, "what may be repeated is");
    }
}

#[tokio::test]
async fn a_status_that_asks_for_it_is_tried_elsewhere_once() {
    for status in [502, 503, 504] {
        let bad = answering("billing-1", status, &[]).await;
        let good = Peer::start("billing-2").await;
        let client = client_of([&bad, &good]).balance(Policy::RoundRobin).build().await.unwrap();
        for _ in 0..4 {
            assert_eq!(client.get("/").send().await.unwrap().status(), 200, "{status}");
        }
        let mut statuses: Vec<_> = Vec::new();
        for _ in 0..2 {
            statuses.push(client.post("/").send().await.unwrap().status().as_u16());
        }
        statuses.sort_unstable();
        assert_eq!(statuses, [200, status], "a POST is handed what it got");
    }
}

#[tokio::test]
async fn s224_a_call_is_sent_twice_at_most_and_the_last_answer_is_handed_over() {
    let all = [answering("billing-1", 503, &[]).await, answering("billing-2", 503, &[]).await];
    let client = client_of(&all).build().await.unwrap();
    for _ in 0..10 {
        let answer = client.get("/").send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.attempts().unwrap().count()), (503, 2));
    }
    let seen: usize = all.iter().map(|peer| peer.seen.count()).sum();
    assert_eq!(seen, 20, "2 for each");
    let numbers: Vec<_> = all
        .iter()
        .flat_map(|peer| peer.seen.all())
        .filter_map(|seen| seen.header("peerage-attempt").map(str::to_owned))
        .collect();
    assert_eq!(numbers, ["2"; 10]);

    let never = client_of(&all).retry(RetryPolicy::never()).build().await.unwrap();
    assert_eq!(never.get("/").send().await.unwrap().attempts().unwrap().count(), 1);
}

/// An answer, as a frame.
fn ok() -> BytesMut {
    let (mut answer, headers) = (BytesMut::new(), HeaderMap::new());
    let payload = Payload::Inline(b"x");
    put_response(&mut answer, StatusCode::OK, &headers, payload, None, &Limits::default()).unwrap();
    answer
}

#[tokio::test]
async fn s224_a_call_on_a_stale_connection_is_sent_once_more_on_a_fresh_one_and_by_one_layer() {
    let server = ScriptedServer::start(|mut conn| async move {
        if conn.number() == 0 {
            conn.read_frame().await;
            conn.send(&ok()).await;
        }
        conn.read_frame().await;
        conn.close().await;
    })
    .await;
    let client = client_at(&[("billing-1", server.addr())]).build().await.unwrap();
    let first = client.get("/").send().await.unwrap();
    assert_eq!(first.bytes().await.unwrap(), "x");
    assert_eq!(frames(&server), 1);

    let error = client.get("/").send().await.unwrap_err();
    assert!(matches!(error, ClientError::OutcomeUnknown { .. }), "{error:?}");
    let stages: Vec<_> = error.attempts().unwrap().iter().map(|attempt| attempt.stage).collect();
    assert_eq!(stages, [Stage::Stale, Stage::Ambiguous]);
    assert_eq!((frames(&server), server.connection_count()), (3, 2), "two layers would have sent it thrice");
}

#[tokio::test]
async fn after_a_stale_connection_no_other_idle_one_is_tried() {
    // As a server that restarts behind something that keeps connections open: all of them are gone.
    let both_asked = Facts::<()>::new();
    let asked = both_asked.clone();
    let server = ScriptedServer::start(move |mut conn| {
        let asked = asked.clone();
        async move {
            conn.read_frame().await;
            asked.push(());
            asked.at_least(2, PATIENCE).await;
            conn.send(&ok()).await;
            if conn.number() > 1 {
                return conn.stall().await;
            }
            conn.read_frame().await;
            conn.close().await;
        }
    })
    .await;
    let client = client_at(&[("billing-1", server.addr())]).build().await.unwrap();
    let (one, two) = tokio::join!(client.get("/").send(), client.get("/").send());
    assert_eq!((one.unwrap().status(), two.unwrap().status()), (StatusCode::OK, StatusCode::OK));
    assert_eq!((frames(&server), server.connection_count()), (2, 2));

    let answer = client.get("/").send().await.unwrap();
    let stages: Vec<_> = answer.attempts().unwrap().iter().map(|attempt| attempt.stage).collect();
    assert_eq!(stages, [Stage::Stale, Stage::Answered]);
    assert_eq!((frames(&server), server.connection_count()), (4, 3));
}

#[tokio::test]
async fn a_request_that_is_given_back_is_the_one_that_was_given() {
    let refuser = Refuser::new();
    let client = client_at(&[("billing-1", refuser.addr())]).bearer("T0KEN").build().await.unwrap();
    let error = client.get("/").header("x-own", "1").send().await.unwrap_err();
    let request = error.into_request().expect("nothing was sent");
    let headers: Vec<_> = request.headers().keys().map(|name| name.as_str()).collect();
    assert_eq!(headers, ["x-own"], "no credential of ours above all");
}

#[tokio::test]
async fn b_5_3_s224_a_total_outage_is_not_made_worse_than_by_a_fifth() {
    let all = [answering("billing-1", 502, &[]).await, answering("billing-2", 502, &[]).await];
    let client = client_of(&all).build().await.unwrap();
    for _ in 0..200 {
        assert_eq!(client.get("/").send().await.unwrap().status(), 502);
    }
    let seen: usize = all.iter().map(|peer| peer.seen.count()).sum();
    // A fifth of the calls, and the reserve of one a second for ten seconds; one more for each second it took.
    assert!((201..=260).contains(&seen), "{seen} requests for 200 calls");

    let without = client_of(&all).budget(None).build().await.unwrap();
    for _ in 0..50 {
        without.get("/").send().await.unwrap();
    }
    let more: usize = all.iter().map(|peer| peer.seen.count()).sum();
    assert_eq!(more - seen, 100, "without a budget each is sent twice");
}

#[tokio::test]
async fn b_3_3_a_peer_that_fails_is_taken_out_and_comes_back_by_a_probe() {
    let healed = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let state = healed.clone();
    let router = Router::new().fallback(move || {
        let status = if state.load(Ordering::Relaxed) { 200 } else { 502 };
        async move { StatusCode::from_u16(status).unwrap() }
    });
    let bad = Peer::serve("billing-1", router).await;
    let good = [Peer::start("billing-2").await, Peer::start("billing-3").await];
    let client = client_of([&bad, &good[0], &good[1]]).build().await.unwrap();
    for _ in 0..100 {
        assert_eq!(client.get("/").send().await.unwrap().status(), 200);
    }
    // R2: five in a row, and nothing for the second that it is out; a probe after that, and less and less of them, if
    // these calls took longer.
    let seen = bad.seen.count();
    assert!((5..=12).contains(&seen), "{seen} of 100 calls went to the peer that fails");
    assert!(client.explain().contains("ejected"), "{}", client.explain());

    healed.store(true, Ordering::Relaxed);
    let post = client.post("/").send().await.unwrap();
    assert_eq!(post.status(), 200, "what may not be repeated is never the probe");
    let begin = Instant::now();
    while bad.seen.count() < seen + 5 {
        assert!(begin.elapsed() < 2 * PATIENCE, "{}", client.explain());
        assert_eq!(client.get("/").send().await.unwrap().status(), 200);
    }
    assert!(!client.explain().contains("ejected"), "{}", client.explain());
}

#[tokio::test(start_paused = true)]
async fn b_3_3_a_body_that_is_a_stream_is_never_the_probe() {
    let healed = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let state = healed.clone();
    let failing = Router::new().fallback(move || {
        let status = if state.load(Ordering::Relaxed) { 200 } else { 502 };
        async move { StatusCode::from_u16(status).unwrap() }
    });
    let good = Router::new().fallback(async || "good");
    let client = InMemory::serve(good).and("billing-1", failing).client(3).build().await.unwrap();
    for _ in 0..100 {
        assert_eq!(client.get("/").send().await.unwrap().status(), 200);
    }
    assert!(client.explain().contains("ejected"), "{}", client.explain());
    healed.store(true, Ordering::Relaxed);
    // On the paused clock: a probe is due by then.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let frames = futures_util::stream::once(async {
        tokio::task::yield_now().await;
        Ok::<_, std::convert::Infallible>(http_body::Frame::data(Bytes::from_static(b"slow")))
    });
    let body = Body::new(http_body_util::StreamBody::new(Box::pin(frames)));
    let put = client.put("/").body(body).send().await.unwrap();
    assert_ne!(put.peer().unwrap().node_id(), "billing-1", "it may come as slowly as it likes");
    let get = client.get("/").send().await.unwrap();
    assert_eq!(get.peer().unwrap().node_id(), "billing-1", "this one is");
}

#[tokio::test]
async fn s224_marks_keep_repeats_from_multiplying() {
    let marked = answering("billing-1", 503, &[("peerage-no-retry", "1")]).await;
    let client = client_of([&marked]).build().await.unwrap();
    assert_eq!(client.get("/").send().await.unwrap().attempts().unwrap().count(), 1, "the answer says so");

    let plain = answering("billing-1", 503, &[]).await;
    let client = client_of([&plain]).build().await.unwrap();
    let serving = HeaderMap::from_iter([("peerage-attempt".parse().unwrap(), "2".parse().unwrap())]);
    let answer = client.get("/").serving(&serving).send().await.unwrap();
    assert_eq!(answer.attempts().unwrap().count(), 1, "who serves a repeat does not repeat");
    let passed_on = client.get("/").header("peerage-attempt", "3").send().await.unwrap();
    assert_eq!(passed_on.attempts().unwrap().count(), 1, "neither does who passes one on");
    let numbers: Vec<_> =
        plain.seen.all().iter().map(|seen| seen.header("peerage-attempt").unwrap().to_owned()).collect();
    assert_eq!(numbers, ["2", "3"]);

    let is_marked = |answer: &peerage_clienthttp::Response| {
        let mut headers = HeaderMap::new();
        answer.attempts().unwrap().mark_answer(&mut headers);
        headers.get("peerage-no-retry").is_some_and(|mark| mark == "1")
    };
    assert!(is_marked(&answer), "it was refused a resend");
    assert!(is_marked(&client.get("/").send().await.unwrap()), "it was sent again");
    assert!(
        !is_marked(&client.post("/").send().await.unwrap()),
        "it was sent once, and there was no more to it"
    );

    let hung = closes_after_reading().await;
    let client = client_at(&[("billing-1", hung.addr())]).build().await.unwrap();
    let mut headers = HeaderMap::new();
    client.post("/").send().await.unwrap_err().mark_answer(&mut headers);
    assert!(headers.is_empty());
    client.get("/").send().await.unwrap_err().mark_answer(&mut headers);
    assert_eq!(headers["peerage-no-retry"], "1");
}

#[tokio::test]
async fn retry_after_is_waited_for_if_there_is_nobody_else() {
    let hits = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&hits);
    let router = Router::new().fallback(move || {
        let first = count.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            match first {
                true => (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "1")], "later").into_response(),
                false => "now".into_response(),
            }
        }
    });
    let peer = Peer::serve("billing-1", router).await;
    let client = client_of([&peer]).build().await.unwrap();
    let began = Instant::now();
    let answer = client.get("/").send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "now");
    assert!((1_000..15_000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());

    let long = answering("billing-1", 429, &[("retry-after", "31")]).await;
    let client = client_of([&long]).build().await.unwrap();
    let began = Instant::now();
    assert_eq!(client.get("/").send().await.unwrap().status(), 429);
    assert!(began.elapsed() < Duration::from_secs(20), "too long a wait is the caller's to decide about");
    let error = client.get("/").send().await.unwrap_err();
    assert!(error.to_string().contains("asked for a pause"), "the peer is left alone as it asked: {error}");
}

#[tokio::test]
async fn s041_a_401_says_nothing_about_other_calls_on_its_connection() {
    let router = Router::new().fallback(async |headers: HeaderMap| {
        let known = headers.get("authorization").is_some_and(|value| value == "Bearer good");
        if known { (StatusCode::OK, "in") } else { (StatusCode::UNAUTHORIZED, "out") }
    });
    let peer = Peer::serve("billing-1", router).await;
    let client = client_of([&peer]).build().await.unwrap();
    let status = async |token: &'static str| {
        client.get("/").bearer_auth(token).send().await.unwrap().status().as_u16()
    };
    assert_eq!([status("good").await, status("bad").await, status("good").await], [200, 401, 200]);
    assert_eq!(client.get("/").send().await.unwrap().status(), 401);
    assert_eq!(
        (peer.server.connection_count(), peer.seen.count()),
        (1, 4),
        "one connection, nothing repeated"
    );
}

#[tokio::test]
async fn a_server_that_restarts_costs_no_idempotent_call() {
    let peer = Peer::start("billing-1").await;
    let proxy = peerage_tests::FaultProxy::start(peer.addr()).await;
    let client = client_at(&[("billing-1", proxy.addr())]).build().await.unwrap();
    for _ in 0..5 {
        client.get("/").send().await.unwrap();
        proxy.reset_all();
        client.get("/").send().await.unwrap();
    }
}

/// A body that is read piece by piece.
fn streamed(pieces: usize, len: usize) -> Body {
    let pieces = (0..pieces).map(move |_| Ok::<_, std::convert::Infallible>(Bytes::from(vec![b'x'; len])));
    Body::new(axum::body::Body::from_stream(futures_util::stream::iter(pieces)))
}

async fn echo(id: &str) -> Peer {
    let count = async |body: Bytes| format!("{}", body.len());
    let router = Router::new().fallback(count).layer(axum::extract::DefaultBodyLimit::disable());
    Peer::serve(id, router).await
}

#[tokio::test]
async fn a_streamed_body_is_sent_again_as_far_as_it_was_kept() {
    let (refuser, good, bad) =
        (Refuser::new(), echo("billing-2").await, answering("billing-3", 503, &[]).await);
    for (pieces, len) in [(3, 10), (16, 4 << 10)] {
        // Not sent, whatever the method; and answered 503, for one that may be repeated.
        let client =
            client_at(&[("billing-1", refuser.addr()), ("billing-2", good.addr())]).build().await.unwrap();
        for _ in 0..2 {
            let answer = client.post("/").body(streamed(pieces, len)).send().await.unwrap();
            assert_eq!(answer.text().await.unwrap(), (pieces * len).to_string());
        }
        let client = client_of([&good, &bad]).build().await.unwrap();
        for _ in 0..2 {
            let answer = client.put("/").body(streamed(pieces, len)).send().await.unwrap();
            assert_eq!(answer.text().await.unwrap(), (pieces * len).to_string());
        }
    }
    // One piece more than 64 KiB: it still goes where nothing was sent, and no further.
    let client =
        client_at(&[("billing-1", refuser.addr()), ("billing-2", good.addr())]).build().await.unwrap();
    for _ in 0..2 {
        let answer = client.post("/").body(streamed(17, 4 << 10)).send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), (17 * (4 << 10)).to_string());
    }
    let client = client_of([&bad]).build().await.unwrap();
    let answer = client.put("/").body(streamed(17, 4 << 10)).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.attempts().unwrap().count()), (503, 1));
    // In memory there is no limit.
    let client = client_of([&good, &bad]).build().await.unwrap();
    for _ in 0..2 {
        let answer = client.put("/").body(vec![b'x'; 1 << 20]).send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), (1 << 20).to_string());
    }
    let full = http_body_util::Full::new(Bytes::from(vec![b'x'; 1 << 20]));
    for _ in 0..2 {
        let request = http::Request::put("/").body(full.clone()).unwrap();
        assert_eq!(client.send(request).await.unwrap().status(), 200, "whatever its type");
    }
}

#[tokio::test]
async fn a_body_that_fails_ends_the_call_and_blames_nobody() {
    let peer = Peer::start("billing-1").await;
    let client = client_of([&peer]).build().await.unwrap();
    let failing = |pieces: usize| {
        let good = (0..pieces).map(|_| Ok(Bytes::from_static(b"x")));
        let all = good.chain([Err("the disk is gone")]);
        Body::new(axum::body::Body::from_stream(futures_util::stream::iter(all.collect::<Vec<_>>())))
    };
    for pieces in [0, 1, 2] {
        let error = client.put("/").body(failing(pieces)).send().await.unwrap_err();
        assert!(matches!(error, ClientError::Body { .. }), "{error:?}");
        let attempts = error.attempts().unwrap();
        assert_eq!((attempts.count(), attempts.last().unwrap().stage), (1, Stage::NotSent));
        let mut chain = String::new();
        let mut next: Option<&dyn std::error::Error> = Some(&error);
        while let Some(error) = next {
            chain += &format!("{error}; ");
            next = error.source();
        }
        assert!(chain.contains("the disk is gone"), "{chain}");
    }
    assert_eq!(peer.seen.count(), 0);
}

#[tokio::test]
async fn an_idempotency_key_counts_if_told() {
    let (bad, good) = (answering("billing-1", 503, &[]).await, Peer::start("billing-2").await);
    let statuses = async |client: Client| {
        let mut statuses = Vec::new();
        for _ in 0..2 {
            let answer =
                client.request(Method::POST, "/").header("idempotency-key", "7").send().await.unwrap();
            statuses.push(answer.status().as_u16());
        }
        statuses.sort_unstable();
        statuses
    };
    let by_default = client_of([&bad, &good]).build().await.unwrap();
    assert_eq!(statuses(by_default).await, [200, 503]);
    let honoured =
        client_of([&bad, &good]).retry(RetryPolicy::default().idempotency_key(true)).build().await.unwrap();
    assert_eq!(statuses(honoured).await, [200, 200]);
}

/// A gRPC service that ends every call in its head, with these fields.
async fn ending(id: &str, headers: &[(&'static str, &'static str)]) -> Peer {
    answering(id, 200, &[headers, &[("content-type", "application/grpc")]].concat()).await
}

fn grpc(client: &Client) -> peerage_clienthttp::RequestBuilder {
    client.post("/billing.Billing/Charge").header("content-type", "application/grpc+proto").body("message")
}

#[tokio::test]
async fn b_3_1_b_4_3_a_grpc_call_that_ends_in_its_head_is_judged_by_its_status() {
    let unavailable = ending("billing-1", &[("grpc-status", "14")]).await;
    let good = ending("billing-2", &[("grpc-status", "0")]).await;
    let client = client_of([&unavailable, &good]).balance(Policy::RoundRobin).build().await.unwrap();
    let status = |answer: &peerage_clienthttp::Response| answer.headers()["grpc-status"].clone();
    for _ in 0..4 {
        let answer = grpc(&client).idempotent().send().await.unwrap();
        assert_eq!(status(&answer), "0", "UNAVAILABLE goes to another peer");
    }
    let resent: Vec<_> =
        good.seen.all().into_iter().filter(|seen| seen.header("peerage-attempt") == Some("2")).collect();
    assert!(!resent.is_empty());
    assert!(resent.iter().all(|seen| seen.header("grpc-previous-rpc-attempts") == Some("1")));
    assert!(good.seen.all().iter().all(|seen| seen.header("grpc-timeout").is_some_and(|t| t.ends_with('u'))));
    // What is not marked is sent once, and the peer is out after five in a row all the same.
    let mut failed = 0;
    for _ in 0..20 {
        let answer = grpc(&client).send().await.unwrap();
        assert_eq!(answer.attempts().unwrap().count(), 1);
        failed += usize::from(status(&answer) == "14");
    }
    assert!((1..=5).contains(&failed), "{failed}");
    assert!(client.explain().contains("is ejected"), "{}", client.explain());

    for (headers, outcome) in [
        (&[("grpc-status", "5")][..], Outcome::Success),
        (&[("grpc-status", "13")], Outcome::Soft),
        (&[("grpc-status", "none")], Outcome::Soft),
        (&[("grpc-status", "8")], Outcome::Throttled),
        (&[("grpc-status", "14"), ("grpc-retry-pushback-ms", "-1")], Outcome::Hard),
        (&[("grpc-status", "14"), ("grpc-retry-pushback-ms", "86400000")], Outcome::Throttled),
        (&[("grpc-status", "14"), ("peerage-no-retry", "1")], Outcome::Hard),
    ] {
        let peer = ending("billing-1", headers).await;
        let client = client_of([&peer]).build().await.unwrap();
        let answer = grpc(&client).idempotent().send().await.unwrap();
        let attempts = answer.attempts().unwrap();
        assert_eq!((attempts.count(), attempts.last().unwrap().outcome), (1, outcome), "{headers:?}");
    }
    // The same field of an answer that is no gRPC says nothing.
    let plain = client_of([&unavailable]).build().await.unwrap();
    let answer = plain.get("/").send().await.unwrap();
    assert_eq!(answer.attempts().unwrap().last().unwrap().outcome, Outcome::Success);
}

#[tokio::test]
async fn b_8_a_grpc_call_has_the_time_that_its_caller_gives_it() {
    let peer = ending("billing-1", &[("grpc-status", "0")]).await;
    let client = client_of([&peer]).build().await.unwrap();
    for given in ["20S", "99999999H", "soon"] {
        grpc(&client).header("grpc-timeout", given).send().await.unwrap();
    }
    let left: Vec<(u64, u64)> = peer
        .seen
        .all()
        .iter()
        .map(|seen| {
            let micros = seen.header("grpc-timeout").unwrap().strip_suffix('u').unwrap();
            (seen.header("peerage-timeout-ms").unwrap().parse().unwrap(), micros.parse().unwrap())
        })
        .collect();
    for ((millis, micros), most) in left.into_iter().zip([20_000, 30_000, 30_000]) {
        assert!((1..=most).contains(&millis) && (1..=most * 1_000).contains(&micros), "{millis} {micros}");
    }
    let refuser = Refuser::new();
    let client = client_at(&[("billing-1", refuser.addr())]).build().await.unwrap();
    let error = grpc(&client).header("grpc-timeout", "20S").send().await.unwrap_err();
    let request = error.into_request().expect("nothing was sent");
    assert_eq!(request.headers()["grpc-timeout"], "20S", "as it was given");
    assert!(!request.headers().contains_key("grpc-previous-rpc-attempts"));
}
