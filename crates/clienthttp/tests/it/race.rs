//! Racing connects across peers (B-6), in virtual time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::Router;
use peerage_balance::{Outcome, RetryPolicy, Stage};
use peerage_clienthttp::{ClientError, Condition, PickContext, Picker};
use peerage_discovery::Peer;
use peerage_tests::Facts;
use tokio::time::{Instant, sleep};

use crate::kit::{InMemory, PATIENCE};

/// When another peer is tried as well, by the rule.
const STAGGER: Duration = Duration::from_millis(250);

/// Always the first one that can be used.
struct First;

impl Picker for First {
    fn pick<'p>(&self, peers: &'p [Peer], _: &PickContext<'_>) -> Option<&'p Peer> {
        peers.first()
    }
}

/// The second one if so it is said, if there is one.
struct Chosen(Arc<AtomicBool>);

impl Picker for Chosen {
    fn pick<'p>(&self, peers: &'p [Peer], _: &PickContext<'_>) -> Option<&'p Peer> {
        peers.get(usize::from(self.0.load(Ordering::Relaxed))).or_else(|| peers.first())
    }
}

/// Answers, and writes down what it was asked.
fn answering(asked: &Facts<String>) -> Router {
    let asked = asked.clone();
    Router::new().fallback(move |request: axum::extract::Request| async move {
        let number = request.headers().get("peerage-attempt");
        asked.push(format!("{} {number:?}", request.uri().path()));
    })
}

#[tokio::test(start_paused = true)]
async fn b_6_a_peer_that_is_slow_to_connect_to_races_another_one() {
    let asked = Facts::new();
    let peers =
        InMemory::serve(answering(&asked)).and_hole("billing-1").connect_timeout(Duration::from_secs(3));
    let client = peers.client(2).picker(First).request_timeout(PATIENCE).build().await.unwrap();
    for call in 1..=2 {
        let began = Instant::now();
        // Any method: nothing was sent to the first one.
        let answer = client.post("/once").body("mine").send().await.unwrap();
        assert_eq!(began.elapsed(), STAGGER, "call {call}");
        assert_eq!(answer.peer().unwrap().node_id(), "billing-2");
        let attempts = answer.attempts().unwrap();
        let stages: Vec<_> = attempts.iter().map(|attempt| attempt.stage).collect();
        assert_eq!((stages, attempts.sends()), (vec![Stage::NotSent, Stage::Answered], 1), "{attempts}");
        assert_eq!(asked.count(), call);
    }
    assert_eq!(asked.all(), ["/once None", "/once None"], "and no peer takes it for a repeat");
    // The connects that lost go on, and tell.
    sleep(Duration::from_secs(3)).await;
    assert_eq!(client.view().peers.first().unwrap().condition, Condition::Ejected);
    let began = Instant::now();
    client.post("/once").send().await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO, "nobody waits for it any more");
}

#[tokio::test(start_paused = true)]
async fn b_6_the_first_to_be_ready_gets_the_call_and_only_that_one() {
    let asked = Facts::new();
    let peers = InMemory::serve(answering(&asked)).connect_time(Duration::from_millis(300));
    let client = peers.client(2).picker(First).request_timeout(PATIENCE).build().await.unwrap();
    let began = Instant::now();
    let answer = client.post("/").send().await.unwrap();
    assert_eq!((began.elapsed().as_millis(), answer.peer().unwrap().node_id()), (300, "billing-1"));
    assert_eq!(answer.attempts().unwrap().count(), 1);
    sleep(PATIENCE).await;
    assert_eq!(asked.count(), 1);
    assert!(client.view().peers.iter().all(|peer| peer.condition == Condition::Up && peer.in_flight == 0));
}

#[tokio::test(start_paused = true)]
async fn b_6_one_that_connects_late_is_kept_for_the_next_call() {
    let asked = Facts::new();
    let peers = InMemory::serve(answering(&asked)).connect_time(Duration::from_millis(400));
    let second_first = Arc::new(AtomicBool::new(true));
    let client = peers.client(2).picker(Chosen(Arc::clone(&second_first))).request_timeout(PATIENCE);
    let client = client.build().await.unwrap();
    let mut calls = Vec::new();
    for second in [true, false, false] {
        second_first.store(second, Ordering::Relaxed);
        let began = Instant::now();
        let answer = client.get("/").send().await.unwrap();
        let by = answer.peer().unwrap().node_id().to_owned();
        calls.push((began.elapsed().as_millis(), by));
        sleep(PATIENCE).await;
    }
    let expected = [(400, "billing-2"), (250, "billing-2"), (0, "billing-1")];
    assert_eq!(calls, expected.map(|(took, by)| (took, by.to_owned())), "open, open elsewhere, open by now");
    assert_eq!(peers.connection_count(), 2, "the connect that was begun for the first call was given up");
}

#[tokio::test(start_paused = true)]
async fn b_6_alone_it_is_waited_for_as_long_as_there_is_time() {
    let asked = Facts::new();
    let peers = InMemory::serve(answering(&asked)).and_hole("billing-1");
    let client = peers.client(1).request_timeout(Duration::from_secs(2)).build().await.unwrap();
    let began = Instant::now();
    let error = client.get("/").send().await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error:?}");
    assert_eq!((began.elapsed().as_secs(), asked.count()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn b_8_who_wins_a_race_is_not_blamed_for_the_time_of_the_other() {
    let slow = Router::new().fallback(|| sleep(Duration::from_millis(80)));
    let peers = InMemory::serve(slow).and_hole("billing-1");
    let client =
        peers.client(2).picker(First).request_timeout(Duration::from_millis(300)).build().await.unwrap();
    // Five in a row would take it out.
    for _ in 0..8 {
        let error = client.get("/").send().await.unwrap_err();
        let attempts: Vec<_> = error.attempts().unwrap().iter().collect();
        let ids: Vec<_> = attempts.iter().map(|attempt| attempt.peer.node_id()).collect();
        assert_eq!(ids, ["billing-1", "billing-2"], "{error:?}");
        let last = attempts.last().unwrap();
        assert_eq!((last.outcome, last.elapsed.as_millis()), (Outcome::Cancelled, 50), "{error:?}");
    }
    let view = client.view();
    assert!(
        view.peers.iter().all(|peer| peer.condition == Condition::Up && peer.recent_failed == 0),
        "{view}"
    );
}

#[tokio::test(start_paused = true)]
async fn b_6_the_race_goes_on_without_one_that_refuses() {
    let asked = Facts::new();
    let peers = InMemory::serve(answering(&asked)).and_hole("billing-1");
    let peers = peers.and_hole("billing-2").and_refusing("billing-3", Duration::from_millis(30));
    let once = RetryPolicy::never();
    let client = peers.client(4).picker(First).retry(once).request_timeout(PATIENCE).build().await.unwrap();
    let began = Instant::now();
    let answer = client.post("/").send().await.unwrap();
    assert_eq!(
        began.elapsed().as_millis(),
        250 + 250 + 30,
        "one more each 250 ms, and at once when one fails"
    );
    assert_eq!(answer.peer().unwrap().node_id(), "billing-4");
    assert_eq!(asked.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn b_6_who_is_under_way_goes_on_when_the_first_one_fails() {
    let asked = Facts::new();
    let peers = InMemory::serve(answering(&asked)).connect_time(Duration::from_millis(100));
    let peers = peers.and_refusing("billing-1", Duration::from_millis(260));
    let once = RetryPolicy::never();
    let client = peers.client(2).picker(First).retry(once).request_timeout(PATIENCE).build().await.unwrap();
    let began = Instant::now();
    let answer = client.post("/").send().await.unwrap();
    assert_eq!(began.elapsed().as_millis(), 250 + 100, "its connect was not begun again");
    let attempts = answer.attempts().unwrap();
    let outcomes: Vec<_> = attempts.iter().map(|attempt| attempt.outcome).collect();
    assert_eq!((outcomes, attempts.sends()), (vec![Outcome::Dial, Outcome::Success], 1), "{attempts}");
    assert_eq!(asked.count(), 1);
}
