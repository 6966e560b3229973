//! What a client tells of its peers and picks (clienthttp 7, balancing 10.3).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use axum::Router;
use http::StatusCode;
use peerage_clienthttp::{ClientError, Condition, How, Policy, RoundRobin};
use peerage_discovery::SourceId;
use peerage_tests::Refuser;

use crate::kit::{Announcer, InMemory, Peer, client_of, until};

/// Answers with a status that can be changed.
fn answers(status: &Arc<AtomicU16>) -> Router {
    let status = Arc::clone(status);
    Router::new().fallback(move || {
        let status = StatusCode::from_u16(status.load(Ordering::Relaxed)).unwrap();
        async move { status }
    })
}

#[tokio::test(start_paused = true)]
async fn b_10_3_a_view_tells_of_each_peer() {
    let (good, bad) = (Arc::new(AtomicU16::new(200)), Arc::new(AtomicU16::new(502)));
    let dialer = InMemory::serve(answers(&good)).and("billing-2", answers(&bad));
    let client = dialer.client(3).build().await.unwrap();
    let view = client.view();
    assert_eq!(view.service.to_string(), "_billing._tcp");
    assert_eq!((view.peers.len(), view.policy, view.in_flight), (3, Some(Policy::LeastLoaded), 0));
    assert!(view.peers.iter().all(|peer| peer.condition == Condition::Up && peer.why_out.is_none()));
    assert_eq!((view.resends_left, view.is_panic), (Some(10.0), false));

    for _ in 0..30 {
        assert_eq!(client.get("/").send().await.unwrap().status(), 200);
    }
    let view = client.view();
    let ejected = &view.peers[1];
    assert_eq!((ejected.peer.node_id(), ejected.condition), ("billing-2", Condition::Ejected));
    let out_for = ejected.out_for.unwrap();
    assert!(
        (800..=1_500).contains(&out_for.as_millis()),
        "1 s and up to half more, less its age: {out_for:?}"
    );
    let why = ejected.why_out.as_deref().unwrap();
    assert!(why.starts_with("is ejected for another"), "{why}");
    // (7/8)^5 after five failures.
    assert!((ejected.success_ratio - 0.512_9).abs() < 0.01, "{}", ejected.success_ratio);
    assert_eq!((ejected.recent_ok, ejected.recent_failed), (0, 5));
    assert_eq!((view.peers[0].recent_failed, view.peers[0].connections), (0, Some(1)));
    assert!(view.peers[0].succeeded.is_some() && ejected.succeeded.is_none());
    assert_eq!(view.counters.ejections, 1);
    let text = client.explain();
    assert!(text.starts_with("_billing._tcp: 3 peers\n") && text.contains("is ejected"), "{text}");
}

#[tokio::test]
async fn b_9_2_a_peer_that_left_is_shown_while_calls_to_it_run() {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let wait = Arc::clone(&gate);
    let router = Router::new().fallback(move || async move {
        wait.acquire().await.unwrap().forget();
        "through"
    });
    let peer = Peer::serve("billing-1", router).await;
    let source = Announcer::new(SourceId::Static);
    source.join("billing-1", &[peer.addr()]);
    let client = source.client().build().await.unwrap();
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.get("/").send().await.unwrap().text().await.unwrap() }
    });
    until(|| peer.seen.count() == 1).await;
    source.leave("billing-1");
    until(|| client.view().peers[0].condition == Condition::Draining).await;
    assert_eq!(client.view().peers[0].in_flight, 1);
    gate.add_permits(1);
    assert_eq!(call.await.unwrap(), "through");
    assert!(client.view().peers.is_empty());
}

#[tokio::test]
async fn b_10_3_a_pick_is_explained() {
    let all = [Peer::start("billing-1").await, Peer::start("billing-2").await];
    let client = client_of(&all).balance(Policy::PeakEwma).build().await.unwrap();
    for _ in 0..20 {
        client.get("/").send().await.unwrap();
    }
    let why = client.explain_pick();
    assert_eq!((why.policy, why.steps.as_slice()), (Some(Policy::PeakEwma), [How::All].as_slice()));
    let mut candidates: Vec<_> = why.candidates.iter().map(|one| one.key.as_str()).collect();
    candidates.sort_unstable();
    assert_eq!(candidates, ["billing-1", "billing-2"]);
    let chosen = why.chosen.as_ref().unwrap();
    let cost =
        |of_chosen: bool| why.candidates.iter().find(|c| (c.key == *chosen) == of_chosen).unwrap().cost;
    assert!(cost(true) * 0.8 <= cost(false), "{why}");
    let text = why.to_string();
    assert!(text.starts_with(&format!("picked {chosen} by peak_ewma")) && text.contains("cost"), "{text}");
    assert_eq!(client.view().peers.iter().map(|peer| peer.in_flight).sum::<u32>(), 0, "it let go of it");
}

#[tokio::test]
async fn b_10_3_a_call_tells_of_its_own_picks() {
    let (peer, refuser) = (Peer::start("billing-1").await, Refuser::new());
    let source = Announcer::new(SourceId::Static);
    source.join("billing-1", &[peer.addr()]);
    source.join("billing-2", &[refuser.addr()]);
    let make = || source.client().min_peers(2).health(None);
    for client in [make(), make().picker(RoundRobin::new())] {
        let client = client.build().await.unwrap();
        let by_policy = client.view().policy.is_some();
        let plain = client.get("/").send().await.unwrap();
        assert!(plain.attempts().unwrap().iter().all(|attempt| attempt.pick.is_none()), "nobody asked");
        let mut second_tries = 0;
        for _ in 0..4 {
            let answer = client.get("/").explain().send().await.unwrap();
            for attempt in answer.attempts().unwrap().iter() {
                let why = attempt.pick.as_ref().unwrap();
                assert_eq!(why.chosen.as_ref().unwrap().as_str(), attempt.peer.node_id());
                assert_eq!((why.policy.is_some(), why.peer_count), (by_policy, 2));
            }
            second_tries += answer.attempts().unwrap().count() - 1;
        }
        assert!(second_tries > 0, "the peer that refuses was tried");
    }
}

#[tokio::test]
async fn b_10_3_nobody_is_explained_too() {
    let peer = Peer::start("billing-1").await;
    let source = Announcer::new(SourceId::Static);
    source.join_with("billing-1", &[peer.addr()], &[("weight", "0")]);
    let client = source.client().build().await.unwrap();
    for explain in [false, true] {
        let request = client.get("/");
        let request = if explain { request.explain() } else { request };
        let error = request.send().await.unwrap_err();
        assert!(matches!(error, ClientError::NoPeers { .. }), "{error:?}");
        let why = error.explanation().unwrap();
        assert_eq!((why.policy, &why.chosen, why.peer_count), (Some(Policy::LeastLoaded), &None, 1));
        assert_eq!(why.failure.as_deref(), Some("every known peer is kept out"));
        assert_eq!(
            (why.kept_out[0].key.as_str(), why.kept_out[0].condition),
            ("billing-1", Condition::NoWork)
        );
        assert!(why.to_string().contains("billing-1 wants no new work (weight 0)"), "{why}");
    }
    source.leave("billing-1");
    until(|| client.view().peers.is_empty()).await;
    let at_once = client.get("/").timeout(Duration::from_millis(20)).send().await.unwrap_err();
    assert_eq!(at_once.explanation().unwrap().peer_count, 0);
}
