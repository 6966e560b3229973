//! Active checks (balancing 3.7).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, routing::get};
use http::StatusCode;
use peerage_clienthttp::{Checks, Client, Condition, ConfigError};
use tokio::time::sleep;

use crate::kit::InMemory;

/// A peer whose `/healthz` can be made to fail, and is counted.
fn peer(is_well: &Arc<AtomicBool>, checks: &Arc<AtomicUsize>) -> Router {
    let (is_well, checks) = (Arc::clone(is_well), Arc::clone(checks));
    let healthz = move || {
        checks.fetch_add(1, Ordering::Relaxed);
        let status = if is_well.load(Ordering::Relaxed) { StatusCode::OK } else { StatusCode::NO_CONTENT };
        async move { status }
    };
    Router::new().route("/healthz", get(healthz)).fallback(async || "pong")
}

fn conditions(client: &Client) -> Vec<Condition> {
    client.view().peers.iter().map(|peer| peer.condition).collect()
}

#[tokio::test(start_paused = true)]
async fn b_3_7_three_failures_take_a_peer_out_and_two_passes_bring_it_back() {
    let (good, bad) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(true)));
    let (checks, _) = (Arc::new(AtomicUsize::new(0)), ());
    let dialer = InMemory::serve(peer(&good, &checks)).and("billing-2", peer(&bad, &checks));
    let client = dialer.client(3).checks(Checks::get("/healthz").unwrap()).build().await.unwrap();
    sleep(Duration::from_secs(60)).await;
    // Six or so for each: the first within 10 s, then every 9 to 11 s.
    let count = checks.swap(0, Ordering::Relaxed);
    assert!((15..=21).contains(&count), "{count} checks of three peers in a minute");
    assert_eq!(conditions(&client), [Condition::Up; 3]);

    bad.store(false, Ordering::Relaxed);
    sleep(Duration::from_secs(18)).await;
    assert_eq!(conditions(&client), [Condition::Up; 3], "two failures are not three");
    sleep(Duration::from_secs(16)).await;
    assert_eq!(conditions(&client), [Condition::Up, Condition::Down, Condition::Up]);
    for _ in 0..10 {
        let answer = client.get("/").send().await.unwrap();
        assert_ne!(answer.peer().unwrap().node_id(), "billing-2");
    }
    bad.store(true, Ordering::Relaxed);
    sleep(Duration::from_secs(8)).await;
    assert_eq!(conditions(&client)[1], Condition::Down, "one pass is not two");
    sleep(Duration::from_secs(15)).await;
    assert_eq!(conditions(&client), [Condition::Up; 3]);
    let view = client.view();
    assert!(
        view.peers.iter().all(|peer| peer.in_flight == 0 && peer.recent_failed == 0),
        "checks are no calls"
    );
}

#[tokio::test(start_paused = true)]
async fn b_3_7_a_peer_that_hangs_or_cannot_be_connected_to_fails_its_checks() {
    let hangs = Router::new().fallback(std::future::pending::<String>);
    let well = Router::new().route("/healthz", get(async || "fine"));
    let every_second = |checks: Checks| checks.every(Duration::from_secs(1)).unwrap();
    let dialer = InMemory::serve(well).and("billing-2", hangs);
    let client =
        dialer.client(3).checks(every_second(Checks::get("/healthz").unwrap())).build().await.unwrap();
    sleep(Duration::from_secs(6)).await;
    assert_eq!(conditions(&client), [Condition::Up, Condition::Down, Condition::Up]);
    let connects = dialer.client(3).checks(every_second(Checks::connect())).build().await.unwrap();
    sleep(Duration::from_secs(6)).await;
    assert_eq!(conditions(&connects), [Condition::Up; 3], "it takes connections");
    assert!(connects.view().peers.iter().all(|peer| peer.connections == Some(0)), "and none is kept");

    let slow = InMemory::serve(Router::new()).connect_time(Duration::from_secs(2));
    let client = slow.client(1).checks(every_second(Checks::connect())).build().await.unwrap();
    sleep(Duration::from_secs(6)).await;
    assert_eq!(conditions(&client), [Condition::Down]);
    assert_eq!(client.get("/").send().await.unwrap().status(), 404, "down does not empty a set of one");
}

#[tokio::test(start_paused = true)]
async fn b_3_7_at_most_sixteen_run_at_once_and_none_by_default() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (running, peak) = (Arc::clone(&now), Arc::clone(&most));
    let router = Router::new().fallback(move || {
        let (running, peak) = (Arc::clone(&running), Arc::clone(&peak));
        async move {
            peak.fetch_max(running.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            sleep(Duration::from_millis(500)).await;
            running.fetch_sub(1, Ordering::Relaxed);
        }
    });
    let dialer = InMemory::serve(router);
    let checks = Checks::get("/healthz").unwrap().every(Duration::from_millis(100)).unwrap();
    let client = dialer.client(40).checks(checks).build().await.unwrap();
    sleep(Duration::from_secs(10)).await;
    assert_eq!(most.swap(0, Ordering::Relaxed), 16);
    drop(client);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(now.load(Ordering::Relaxed), 0);
    most.store(0, Ordering::Relaxed);
    let _client = dialer.client(40).build().await.unwrap();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(most.load(Ordering::Relaxed), 0);
}

#[test]
fn b_0_4_bad_checks_are_refused() {
    for path in ["", "healthz", "http://evil/healthz", "//evil/x", "/a b"] {
        assert!(matches!(Checks::get(path), Err(ConfigError::Setting { .. })), "{path:?}");
    }
    for every in [0, 99, 3_600_001] {
        assert!(Checks::connect().every(Duration::from_millis(every)).is_err(), "{every} ms");
    }
    for timeout in [Duration::ZERO, Duration::from_secs(61), Duration::MAX] {
        assert!(Checks::connect().timeout(timeout).is_err(), "{timeout:?}");
    }
}
