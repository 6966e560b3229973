//! What a call teaches about the speed of its peer (balancing 1.4, 2.5, 3.1).

use std::time::Duration;

use axum::Router;
use peerage_clienthttp::{Outcome, PeerView};
use tokio::time::{Instant, sleep, timeout};

use crate::kit::InMemory;

const MS: fn(u64) -> Duration = Duration::from_millis;

fn answers_after(wait: Duration) -> Router {
    Router::new().fallback(move || async move {
        sleep(wait).await;
        "pong"
    })
}

fn only(client: &peerage_clienthttp::Client) -> PeerView {
    let mut peers = client.view().peers;
    assert_eq!(peers.len(), 1);
    peers.remove(0)
}

/// Within what the packed word of an estimate loses.
fn near(estimate: Duration, expected: Duration) -> bool {
    estimate.abs_diff(expected) <= Duration::from_micros(100)
}

#[tokio::test(start_paused = true)]
async fn b_2_5_the_time_to_connect_is_not_in_the_estimate() {
    let dialer = InMemory::serve(answers_after(MS(40))).connect_time(MS(500));
    let client = dialer.client(1).build().await.unwrap();
    let guess = only(&client);
    assert!(!guess.is_sampled && near(guess.estimate, MS(30)), "{guess:?}");
    let began = Instant::now();
    let answer = client.get("/").send().await.unwrap();
    assert_eq!(began.elapsed(), MS(540));
    let attempt = answer.attempts().unwrap().last().unwrap();
    assert_eq!((attempt.connected, attempt.elapsed), (Some(MS(500)), MS(540)));
    let peer = only(&client);
    assert!(peer.is_sampled && near(peer.estimate, MS(40)), "{peer:?}");
}

#[tokio::test(start_paused = true)]
async fn b_1_4_a_call_that_connects_does_not_wait_for_an_answer_yet() {
    let dialer = InMemory::serve(answers_after(MS(40))).connect_time(MS(500));
    let client = dialer.client(1).build().await.unwrap();
    let mut call = Box::pin(client.get("/").send());
    assert!(timeout(MS(400), &mut call).await.is_err());
    let peer = only(&client);
    assert_eq!((peer.in_flight, peer.awaiting, peer.silent_for), (1, 0, Duration::ZERO));
    assert!(timeout(MS(120), &mut call).await.is_err());
    let peer = only(&client);
    assert_eq!(
        (peer.in_flight, peer.awaiting, peer.silent_for),
        (1, 1, MS(20)),
        "since the request went out"
    );
    call.await.unwrap();
    assert_eq!(only(&client).awaiting, 0);
}

#[tokio::test(start_paused = true)]
async fn b_3_1_a_call_dropped_by_its_caller_is_cancelled_and_its_time_counts_if_it_was_long() {
    let dialer = InMemory::serve(answers_after(Duration::from_secs(3_600)));
    let client = dialer.client(1).build().await.unwrap();
    // Shorter than expected: it says nothing.
    assert!(timeout(MS(20), client.get("/").send()).await.is_err());
    let peer = only(&client);
    assert!(!peer.is_sampled && peer.in_flight == 0 && peer.awaiting == 0, "{peer:?}");
    // Longer: so much it takes at least.
    assert!(timeout(MS(200), client.get("/").send()).await.is_err());
    let peer = only(&client);
    assert!(peer.is_sampled && near(peer.estimate, MS(200)), "{peer:?}");
    assert_eq!((peer.success_ratio, peer.recent_ok, peer.recent_failed), (1.0, 0, 0), "nobody is blamed");

    // Before it was sent it touches nothing but the count.
    let client = dialer.connect_time(Duration::from_secs(5)).client(1).build().await.unwrap();
    assert!(timeout(MS(200), client.get("/").send()).await.is_err());
    let peer = only(&client);
    assert!(!peer.is_sampled && peer.in_flight == 0, "{peer:?}");
}

#[tokio::test(start_paused = true)]
async fn b_8_a_call_whose_time_ends_while_it_connects_is_a_failed_dial() {
    let dialer = InMemory::serve(answers_after(MS(1))).connect_time(Duration::from_secs(60));
    let client = dialer.client(1).request_timeout(MS(300)).build().await.unwrap();
    let error = client.get("/").send().await.unwrap_err();
    assert!(error.is_connect() && error.is_timeout() && !error.was_sent(), "{error:?}");
    let attempt = error.attempts().unwrap().last().unwrap();
    assert_eq!((attempt.outcome, attempt.connected), (Outcome::Dial, None));
    assert!(!only(&client).is_sampled, "its silence says nothing of how fast it answers");
}
