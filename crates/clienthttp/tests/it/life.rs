//! The end of calls and clients (clienthttp 7; threats C, K).

use std::{
    future::Future,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use axum::Router;
use peerage_clienthttp::{Client, ClientError};
use peerage_discovery::SourceId;
use peerage_tests::{Direction, FaultProxy, Leaks, ProxyEvent, alone};
use tokio::time::{Instant, timeout};

use crate::kit::{Announcer, PATIENCE, Peer, client_of, gated, until};

/// Polls a future so often and not once more.
struct Polls<F> {
    inner: Pin<Box<F>>,
    left: usize,
}

impl<F: Future> Future for Polls<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        match self.inner.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if self.left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}

#[tokio::test]
async fn h029_s045_s223_a_call_dropped_anywhere_leaves_nothing() {
    let router = Router::new().fallback(async || {
        let pieces = (0..3).map(|_| Ok::<_, std::convert::Infallible>(bytes::Bytes::from_static(b"piece")));
        axum::response::Response::new(axum::body::Body::from_stream(futures_util::stream::iter(pieces)))
    });
    let peer = Peer::serve("billing-1", router).await;
    let proxy = FaultProxy::start(peer.addr()).await;
    let source = Announcer::new(SourceId::Static);
    source.join("billing-1", &[proxy.addr()]);
    let client = source.client().build().await.unwrap();
    let mut finished = 0;
    for polls in 1.. {
        let whole = async {
            let answer = client.get("/").send().await.unwrap();
            answer.bytes().await.unwrap()
        };
        let body = Polls { inner: Box::pin(whole), left: polls }.await;
        assert!(format!("{client:?}").contains("running: 0"), "after {polls} polls: {client:?}");
        assert!(client.explain().contains(", 0 calls"), "after {polls} polls: {}", client.explain());
        if let Some(body) = body {
            assert_eq!(body, "piecepiecepiece");
            finished += 1;
            if finished == 3 {
                break;
            }
        }
        assert!(polls < 200, "it never finishes");
    }
    // What was cut off was closed; only clean connections were kept.
    until(|| peer.server.connection_count() <= 1).await;
    let before = proxy.connection_count();
    client.get("/").send().await.unwrap().bytes().await.unwrap();
    assert!(proxy.connection_count() <= before + 1);
}

#[tokio::test]
async fn h029_a_body_dropped_half_read_gives_up_its_connection_only() {
    let (peer, gate) = gated("billing-1").await;
    let proxy = FaultProxy::start(peer.addr()).await;
    let source = Announcer::new(SourceId::Static);
    source.join("billing-1", &[proxy.addr()]);
    let client = source.client().build().await.unwrap();
    let mut calls: Vec<_> = (0..3).map(|_| Box::pin(client.get("/").send())).collect();
    for (call, number) in calls.iter_mut().zip(1..) {
        tokio::select! {
            _ = call => panic!("the gate is shut"),
            () = until(|| peer.seen.count() == number) => {}
        }
    }
    assert_eq!(proxy.connection_count(), 3);
    calls.pop();
    let closed = ProxyEvent::Closed { conn: 2, direction: Direction::Up };
    proxy.events().eventually(PATIENCE, "the end of the third", |events| events.contains(&closed)).await;
    gate.add_permits(3);
    for call in calls {
        assert_eq!(call.await.unwrap().text().await.unwrap(), "through");
    }
    client.get("/").timeout(Duration::from_millis(1)).send().await.unwrap_err();
    assert_eq!(proxy.connection_count(), 3, "the other two were kept");
}

#[tokio::test]
async fn h030_close_lets_running_calls_finish() {
    let (peer, gate) = gated("billing-1").await;
    let source = Announcer::new(SourceId::Static);
    source.join("billing-1", &[peer.addr()]);
    let client = source.client().build().await.unwrap();
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.get("/").send().await.unwrap().text().await.unwrap() })
        })
        .collect();
    until(|| peer.seen.count() == 50).await;

    let deadline = Instant::now() + PATIENCE;
    let mut closing = pin!(client.close(deadline));
    assert!(timeout(Duration::from_millis(20), closing.as_mut()).await.is_err(), "50 calls are running");
    let error = client.get("/").body("mine").send().await.unwrap_err();
    assert!(matches!(error, ClientError::Closed { .. }), "{error:?}");
    assert!(error.request().is_some());
    gate.add_permits(50);
    closing.await;
    for call in calls {
        assert_eq!(call.await.unwrap(), "through");
    }
    until(|| peer.server.connection_count() == 0).await;
    let began = Instant::now();
    client.close(deadline).await;
    assert!(Instant::now() < deadline && began.elapsed() < PATIENCE / 2, "the second close does nothing");
    assert!(!source.has_ended(), "who handed discovery in decides about it");
}

#[tokio::test]
async fn h030_close_waits_no_longer_than_it_may() {
    let (peer, _gate) = gated("billing-1").await;
    let client = client_of([&peer]).build().await.unwrap();
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.get("/").send().await }
    });
    until(|| peer.seen.count() == 1).await;
    let began = Instant::now();
    client.close(began + Duration::from_millis(50)).await;
    assert!((50..10_000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    call.abort();
}

#[test]
fn h031_s223_nothing_is_left_of_a_client_that_was_dropped() {
    alone::run("life::h031_s223_nothing_is_left_of_a_client_that_was_dropped", &[], || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let peer = Peer::start("billing-1").await;
            let make = async || {
                let client = client_of([&peer]).min_peers(1).build().await.unwrap();
                client.get("/").send().await.unwrap().bytes().await.unwrap();
                client
            };
            drop(make().await);
            until(|| peer.server.connection_count() == 0).await;
            let before = Leaks::now();
            let clients = [make().await, make().await, make().await];
            let clones: Vec<Client> = clients.to_vec();
            drop(clients);
            assert!(clones[0].get("/").send().await.is_ok(), "the last clone counts");
            assert!(Leaks::now().descriptors() > before.descriptors());
            drop(clones);
            before.gone(PATIENCE).await;
        });
    });
}

#[test]
fn s222_a_client_out_of_descriptors_fails_new_work_and_recovers() {
    let name = "life::s222_a_client_out_of_descriptors_fails_new_work_and_recovers";
    alone::run_with_descriptors(name, 64, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (peer, gate) = gated("billing-1").await;
            let client = client_of([&peer]).build().await.unwrap();
            let calling = || {
                let client = client.clone();
                tokio::spawn(async move { client.get("/").send().await?.text().await })
            };
            let running = calling();
            until(|| peer.seen.count() == 1).await;

            let mut hoard = Vec::new();
            while let Ok(file) = std::fs::File::open("/dev/null") {
                hoard.push(file);
            }
            assert!(hoard.len() > 20);
            // New work needs a connection of its own, and there is none to be had.
            let error = client.post("/").body("mine").send().await.unwrap_err();
            assert!(matches!(error, ClientError::Connect { .. }) && error.is_retryable(), "{error:?}");
            assert!(error.into_request().is_some(), "nothing was sent");
            // Old work lives, and what can do with its connection too.
            gate.add_permits(2);
            assert_eq!(running.await.unwrap().unwrap(), "through");
            assert_eq!(calling().await.unwrap().unwrap(), "through");

            drop(hoard);
            let began = Instant::now();
            let both = [calling(), calling()];
            until(|| peer.seen.count() == 4).await;
            println!("new work after {:?} of at most 1 s", began.elapsed());
            assert_eq!(peer.server.connection_count(), 2, "a new connection came up");
            gate.add_permits(2);
            for call in both {
                assert_eq!(call.await.unwrap().unwrap(), "through");
            }
        });
    });
}

#[tokio::test]
async fn s220_more_calls_than_may_run_are_refused_and_given_back() {
    let (peer, gate) = gated("billing-1").await;
    let client = client_of([&peer]).max_in_flight(2).build().await.unwrap();
    let calls: Vec<_> = (0..2)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.get("/").send().await.unwrap().text().await.unwrap() })
        })
        .collect();
    until(|| peer.seen.count() == 2).await;
    let error = client.post("/x").body("mine").send().await.unwrap_err();
    assert!(matches!(error, ClientError::Saturated { .. }) && error.is_retryable(), "{error:?}");
    assert_eq!(error.to_string(), "saturated: 2 calls of this client are running");
    let request = error.into_request().unwrap();
    assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/x"));
    gate.add_permits(3);
    for call in calls {
        call.await.unwrap();
    }
    assert_eq!(client.get("/").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn b_7_1_a_peer_at_its_limit_is_passed_over_and_all_at_theirs_are_saturated() {
    let [(one, gate), (two, other_gate)] = [gated("billing-1").await, gated("billing-2").await];
    let client = client_of([&one, &two]).max_in_flight_per_peer(2).build().await.unwrap();
    let calls: Vec<_> = (0..4)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.get("/").send().await.unwrap().text().await.unwrap() })
        })
        .collect();
    until(|| one.seen.count() + two.seen.count() == 4).await;
    assert_eq!((one.seen.count(), two.seen.count()), (2, 2));
    let error = client.get("/").send().await.unwrap_err();
    assert!(matches!(error, ClientError::Saturated { .. }) && error.is_retryable(), "{error:?}");
    assert_eq!(error.explanation().unwrap().kept_out.len(), 2);
    gate.add_permits(10);
    until(|| calls.iter().filter(|call| call.is_finished()).count() == 2).await;
    let answer = client.get("/").send().await.unwrap();
    assert_eq!(answer.peer().unwrap().node_id(), "billing-1", "the one that has room");
    other_gate.add_permits(10);
    for call in calls {
        assert_eq!(call.await.unwrap(), "through");
    }
}
