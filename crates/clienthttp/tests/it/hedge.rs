//! Second copies of late calls (balancing 6).

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::Router;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use peerage_clienthttp::{Body, Client, HedgePolicy, Outcome, Response};
use tokio::time::{Instant, sleep, timeout};

use crate::kit::InMemory;

const MS: fn(u64) -> Duration = Duration::from_millis;

/// Answers with that status after that time, and counts; under `/warm` at once, without counting.
fn answers(status: u16, after: Duration, seen: &Arc<AtomicUsize>) -> Router {
    let seen = Arc::clone(seen);
    let slow = move || {
        seen.fetch_add(1, Ordering::Relaxed);
        async move {
            sleep(after).await;
            StatusCode::from_u16(status).unwrap()
        }
    };
    Router::new().route("/warm", axum::routing::get(async || "warm")).fallback(slow)
}

/// Saves up ten hedges.
async fn warm(client: &Client) {
    for _ in 0..20 {
        client.get("/warm").send().await.unwrap();
    }
}

/// A copy after 20 ms, for half of the calls.
fn eager() -> HedgePolicy {
    HedgePolicy::default().per_call(0.5).unwrap().delay(MS(20)).unwrap()
}

/// Two peers that answer with those statuses after those times.
async fn pair(one: (u16, u64), two: (u16, u64)) -> (Client, Arc<AtomicUsize>) {
    let seen = Arc::new(AtomicUsize::new(0));
    let dialer =
        InMemory::serve(answers(one.0, MS(one.1), &seen)).and("billing-2", answers(two.0, MS(two.1), &seen));
    let client = dialer.client(2).hedge(eager()).health(None).build().await.unwrap();
    (client, seen)
}

/// Calls until one went to `billing-1` first, and waits for what is left of it.
async fn first_to_one(client: &Client) -> (Response, Duration) {
    warm(client).await;
    for _ in 0..2 {
        let began = Instant::now();
        let answer = client.get("/").send().await.unwrap();
        let took = began.elapsed();
        sleep(MS(60)).await;
        let first = answer.attempts().unwrap().iter().find(|attempt| !attempt.is_hedge).unwrap();
        if first.peer.node_id() == "billing-1" {
            return (answer, took);
        }
    }
    panic!("round robin, and two calls");
}

#[tokio::test(start_paused = true)]
async fn b_6_a_late_call_gets_a_copy_at_another_peer_and_the_first_good_answer_wins() {
    let (client, _) = pair((200, 1_000), (200, 10)).await;
    let (answer, took) = first_to_one(&client).await;
    assert_eq!((took, answer.status().as_u16()), (MS(30), 200));
    assert_eq!(answer.peer().unwrap().node_id(), "billing-2");
    let attempts: Vec<_> = answer.attempts().unwrap().iter().cloned().collect();
    assert_eq!(attempts.len(), 2);
    let (lost, won) = (&attempts[0], &attempts[1]);
    assert_eq!((lost.outcome, lost.is_hedge, lost.elapsed), (Outcome::Cancelled, false, MS(30)));
    assert_eq!((won.outcome, won.is_hedge, won.elapsed), (Outcome::Success, true, MS(10)));
    assert_ne!(lost.peer.node_id(), won.peer.node_id());
    let text = answer.attempts().unwrap().to_string();
    assert!(text.contains("was given up, as another peer answered first"), "{text}");
    let view = client.view();
    assert!(view.peers.iter().all(|peer| peer.in_flight == 0 && peer.awaiting == 0), "{view}");
    // At least as long as it was waited for: 30 ms, and the 50 ms it had to end by itself.
    let estimate = view.peers[0].estimate.as_millis();
    assert!((79..=81).contains(&estimate) && view.peers[0].success_ratio == 1.0, "{estimate} ms");
    assert_eq!(view.hedge_delay, Some(MS(20)));
}

#[tokio::test(start_paused = true)]
async fn b_6_a_loser_that_ends_soon_keeps_its_connection_and_another_loses_it() {
    for (slow, kept) in [(60, 1), (1_000, 0)] {
        let (client, _) = pair((200, slow), (200, 10)).await;
        first_to_one(&client).await;
        assert_eq!(client.view().peers[0].connections, Some(kept), "an answer after {slow} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn b_6_a_failure_is_not_the_answer_while_the_other_copy_runs() {
    // The first fails 30 ms after the copy went out, which answers 70 ms later.
    let (client, seen) = pair((503, 50), (200, 100)).await;
    let (answer, took) = first_to_one(&client).await;
    assert_eq!((answer.status().as_u16(), took), (200, MS(120)));
    assert!((2..=4).contains(&seen.load(Ordering::Relaxed)));
    let outcomes: Vec<_> = answer.attempts().unwrap().iter().map(|attempt| attempt.outcome).collect();
    assert_eq!(outcomes, [Outcome::Hard, Outcome::Success]);

    // If both fail, that is it: a hedged call is not sent again.
    let (client, seen) = pair((503, 50), (502, 100)).await;
    let (answer, _) = first_to_one(&client).await;
    assert_eq!((answer.status().as_u16(), answer.attempts().unwrap().count()), (502, 2), "the last answer");
    assert!((2..=4).contains(&seen.load(Ordering::Relaxed)), "two for each");
    let mut headers = HeaderMap::new();
    answer.attempts().unwrap().mark_answer(&mut headers);
    assert!(headers.contains_key("peerage-no-retry"), "nor further up");
}

#[tokio::test(start_paused = true)]
async fn b_6_only_what_may_be_repeated_and_lies_in_memory_is_hedged_and_only_if_asked() {
    let seen = Arc::new(AtomicUsize::new(0));
    let slow = InMemory::serve(answers(200, MS(100), &seen));
    let on = slow.client(3).hedge(eager()).build().await.unwrap();
    let off = slow.client(3).build().await.unwrap();
    let streamed = || {
        let pieces =
            futures_util::stream::iter(["x"; 2].map(|x| Ok::<_, std::convert::Infallible>(Bytes::from(x))));
        Body::new(axum::body::Body::from_stream(pieces))
    };
    let repeated = HeaderMap::from_iter([("peerage-attempt".parse().unwrap(), "2".parse().unwrap())]);
    warm(&on).await;
    for (what, request, copies) in [
        ("by the client", on.get("/"), 2),
        ("unless the call does not want it", on.get("/").hedge(false), 1),
        ("a POST", on.post("/"), 1),
        ("a POST that may be repeated", on.post("/").idempotent(), 2),
        ("a stream", on.put("/").body(streamed()), 1),
        ("serving a repeat", on.get("/").serving(&repeated), 1),
        ("by default", off.get("/"), 1),
    ] {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.attempts().unwrap().count(), copies, "{what}");
        sleep(MS(60)).await;
    }
    assert_eq!(off.view().hedge_delay, None);
    // By the call: the delay has to be learned, from a hundred of them.
    for _ in 0..101 {
        assert_eq!(off.get("/").hedge(true).send().await.unwrap().attempts().unwrap().count(), 1);
    }
    let delay = off.view().hedge_delay.unwrap();
    assert!((MS(100)..=MS(101)).contains(&delay), "{delay:?}");
}

#[tokio::test(start_paused = true)]
async fn b_6_without_a_second_peer_there_is_no_copy() {
    let seen = Arc::new(AtomicUsize::new(0));
    let client =
        InMemory::serve(answers(200, MS(100), &seen)).client(1).hedge(eager()).build().await.unwrap();
    for _ in 0..20 {
        assert_eq!(client.get("/").send().await.unwrap().attempts().unwrap().count(), 1);
    }
    assert_eq!(seen.load(Ordering::Relaxed), 20);
}

#[tokio::test(start_paused = true)]
async fn b_6_copies_are_within_both_budgets() {
    let seen = Arc::new(AtomicUsize::new(0));
    let slow = InMemory::serve(answers(200, MS(100), &seen));
    let tenth = HedgePolicy::default().per_call(0.1).unwrap().delay(MS(20)).unwrap();
    let client = slow.client(3).hedge(tenth).build().await.unwrap();
    for _ in 0..200 {
        client.get("/").send().await.unwrap();
    }
    assert_eq!(seen.swap(0, Ordering::Relaxed), 220, "a tenth more");
    let none = peerage_clienthttp::BudgetPolicy::default().per_call(0.0).unwrap().per_second(0).unwrap();
    let client = slow.client(3).hedge(tenth).budget(none).build().await.unwrap();
    for _ in 0..50 {
        client.get("/").send().await.unwrap();
    }
    assert_eq!(seen.load(Ordering::Relaxed), 50, "what may not be sent again may not be sent twice");
}

#[tokio::test(start_paused = true)]
async fn b_6_a_hundredth_of_slow_calls_does_not_show_and_costs_five_percent() {
    const CALLS: usize = 2_000;
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&seen);
    let router = Router::new().fallback(move || {
        let number = counted.fetch_add(1, Ordering::Relaxed);
        async move {
            // Spread so that no two of the slow ones meet.
            let slow = number % 100 == 37;
            sleep(if slow { MS(1_000) } else { MS(9 + number as u64 % 3) }).await;
        }
    });
    let client = InMemory::serve(router).client(3).hedge(HedgePolicy::default()).build().await.unwrap();
    let mut times = Vec::new();
    for _ in 0..CALLS {
        let began = Instant::now();
        client.get("/").send().await.unwrap();
        times.push(began.elapsed());
    }
    times.drain(..200);
    times.sort_unstable();
    let p99 = times[times.len() * 99 / 100];
    let extra = seen.load(Ordering::Relaxed) - CALLS;
    println!("p99 {p99:?}, {extra} copies of {CALLS} calls");
    assert!(p99 <= MS(50), "{p99:?}");
    assert!(extra as f64 <= CALLS as f64 * 0.051, "{extra}");
    assert!(extra >= 15, "the slow ones had copies: {extra}");
}

#[tokio::test(start_paused = true)]
async fn h029_a_hedged_call_dropped_at_any_time_leaves_nothing() {
    let seen = Arc::new(AtomicUsize::new(0));
    let client =
        InMemory::serve(answers(200, MS(100), &seen)).client(3).hedge(eager()).build().await.unwrap();
    for wait in [0, 1, 10, 20, 21, 50, 99, 101] {
        for _ in 0..4 {
            let _dropped = timeout(MS(wait), client.get("/").send()).await;
        }
        sleep(MS(60)).await;
        let view = client.view();
        assert!(view.peers.iter().all(|peer| peer.in_flight == 0 && peer.awaiting == 0), "{wait} ms: {view}");
        assert_eq!(view.in_flight, 0);
    }
}
