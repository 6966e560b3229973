//! Waiting for room while every peer has its limit of calls (B-7.1).

use std::{convert::Infallible, future::pending, time::Duration};

use axum::{Router, routing::get};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::StatusCode;
use peerage_balance::RetryPolicy;
use peerage_clienthttp::{Client, ClientError, PickContext, Picker, TestDialer};
use peerage_tests::Facts;
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout},
};

use crate::kit::{PATIENCE, Peer, client_of, gated, until};

/// More than any of these tests takes.
const LONG: Duration = Duration::from_secs(600);
/// Callers that may wait, by the rule.
const MOST: usize = 1_024;

fn call(client: &Client, path: impl Into<String>) -> JoinHandle<Result<(), ClientError>> {
    let (client, path) = (client.clone(), path.into());
    tokio::spawn(async move { client.get(path).send().await.map(drop) })
}

/// That many wait now, so that who comes next is behind them.
async fn waiting(client: &Client, count: usize) {
    until(|| client.view().waiting == count).await;
}

/// A client of one peer that never answers, and may have one call.
async fn busy(wait: Duration) -> (Client, JoinHandle<Result<(), ClientError>>) {
    let dialer = TestDialer::serve("billing-1", Router::new().fallback(pending::<()>));
    let client = Client::builder("billing")
        .discovery(dialer.discovery("billing").unwrap())
        .dialer(dialer)
        .request_timeout(LONG)
        .max_in_flight_per_peer(1)
        .queue_wait(wait)
        .build()
        .await
        .unwrap();
    let first = call(&client, "/");
    until(|| client.view().peers.iter().any(|peer| peer.in_flight == 1)).await;
    (client, first)
}

#[tokio::test]
async fn b_7_1_calls_wait_for_room_and_get_it_in_order() {
    let (peer, gate) = gated("billing-1").await;
    let builder = client_of([&peer]).request_timeout(LONG).max_in_flight_per_peer(1);
    let client = builder.queue_wait(LONG).build().await.unwrap();
    let mut calls = vec![call(&client, "/0")];
    until(|| peer.seen.count() == 1).await;
    for number in 1..=4 {
        calls.push(call(&client, format!("/{number}")));
        waiting(&client, number).await;
    }
    assert!(
        client.explain().starts_with("_billing._tcp: 1 peers, 4 calls wait for room"),
        "{}",
        client.explain()
    );
    // One that gives up takes its place with it.
    calls.remove(2).abort();
    waiting(&client, 3).await;
    gate.add_permits(4);
    for call in calls {
        timeout(PATIENCE, call).await.unwrap().unwrap().unwrap();
    }
    let order: Vec<_> = peer.seen.all().iter().map(|seen| seen.uri.path().to_owned()).collect();
    assert_eq!(order, ["/0", "/1", "/3", "/4"]);
    assert_eq!(client.view().waiting, 0);
}

#[tokio::test]
async fn b_7_1_nobody_overtakes_who_waits() {
    let endless = || async {
        let pieces =
            stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"piece"))]).chain(stream::pending());
        axum::response::Response::new(axum::body::Body::from_stream(pieces))
    };
    let router = Router::new().route("/held", get(endless)).fallback(async || "through");
    let peer = Peer::serve("billing-1", router).await;
    let builder = client_of([&peer]).request_timeout(LONG).max_in_flight_per_peer(1);
    let client = builder.queue_wait(LONG).build().await.unwrap();
    let held = client.get("/held").send().await.unwrap();
    let waits = call(&client, "/waits");
    waiting(&client, 1).await;
    // There is room from here on, and the one that waits has not been given time to notice.
    drop(held);
    timeout(PATIENCE, client.get("/later").send()).await.unwrap().unwrap();
    waits.await.unwrap().unwrap();
    let order: Vec<_> = peer.seen.all().iter().map(|seen| seen.uri.path().to_owned()).collect();
    assert_eq!(order, ["/held", "/waits", "/later"]);
}

#[tokio::test(start_paused = true)]
async fn b_7_1_who_waited_long_enough_or_has_no_time_left_is_told() {
    let (client, _first) = busy(Duration::from_secs(7)).await;
    for (own, waits) in [(None, 7), (Some(3), 3)] {
        let (began, request) = (Instant::now(), client.get("/"));
        let request = match own {
            Some(seconds) => request.timeout(Duration::from_secs(seconds)),
            None => request,
        };
        let error = request.send().await.unwrap_err();
        assert!(matches!(error, ClientError::Saturated { .. }) && error.is_retryable(), "{error:?}");
        assert_eq!(began.elapsed().as_secs(), waits, "{error}");
        assert_eq!(error.explanation().unwrap().kept_out.len(), 1, "{error}");
    }
    assert_eq!(client.view().waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn b_7_1_more_than_1024_do_not_wait() {
    let (client, first) = busy(LONG).await;
    let calls: Vec<_> = (0..MOST).map(|_| call(&client, "/")).collect();
    waiting(&client, MOST).await;
    let began = Instant::now();
    let error = client.get("/").send().await.unwrap_err();
    assert!(matches!(error, ClientError::Saturated { .. }), "{error:?}");
    assert_eq!(began.elapsed(), Duration::ZERO, "{error}");
    assert_eq!(client.view().waiting, MOST, "and it leaves no trace");
    // The first of them is next, the others wait on.
    first.abort();
    waiting(&client, MOST - 1).await;
    calls.iter().for_each(JoinHandle::abort);
    waiting(&client, 0).await;
}

#[tokio::test(start_paused = true)]
async fn b_7_1_without_a_queue_nobody_waits() {
    let (client, _first) = busy(Duration::ZERO).await;
    let began = Instant::now();
    let error = client.get("/").send().await.unwrap_err();
    assert!(matches!(error, ClientError::Saturated { .. }), "{error:?}");
    assert_eq!(began.elapsed(), Duration::ZERO);
}

/// The first that can be used.
struct First;

impl Picker for First {
    fn pick<'p>(
        &self,
        peers: &'p [peerage_discovery::Peer],
        _: &PickContext<'_>,
    ) -> Option<&'p peerage_discovery::Peer> {
        peers.first()
    }
}

#[tokio::test(start_paused = true)]
async fn b_7_1_who_waits_learns_that_a_pause_is_over() {
    let asked = Facts::new();
    let facts = asked.clone();
    let pauses = Router::new().fallback(move || {
        facts.push(());
        let first = facts.count() == 1;
        async move {
            if first {
                (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "1")])
            } else {
                (StatusCode::OK, [("x", "1")])
            }
        }
    });
    let dialer =
        TestDialer::serve("billing-1", Router::new().fallback(pending::<()>)).and_serve("billing-2", pauses);
    let client = Client::builder("billing")
        .discovery(dialer.discovery("billing").unwrap())
        .dialer(dialer)
        .picker(First)
        .retry(RetryPolicy::never())
        .request_timeout(LONG)
        .max_in_flight_per_peer(1)
        .queue_wait(LONG)
        .build()
        .await
        .unwrap();
    let hung = call(&client, "/");
    until(|| client.view().peers.iter().any(|peer| peer.in_flight == 1)).await;
    assert_eq!(client.get("/").send().await.unwrap().status(), 429);
    let began = Instant::now();
    let answer = client.get("/").send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.peer().unwrap().node_id()), (200, "billing-2"));
    assert!((1_000..1_100).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    hung.abort();
}
