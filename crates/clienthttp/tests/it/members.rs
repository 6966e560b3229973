//! Peers that come, move and go (clienthttp 1, 5; threats C).

use std::{convert::Infallible, time::Duration};

use axum::{Router, body::Body as AxumBody, response::Response as AxumResponse};
use bytes::Bytes;
use futures_util::StreamExt;
use peerage_clienthttp::{Client, ClientError, Outcome, Response};
use peerage_discovery::{LeaveReason, Report, SourceId};
use peerage_tests::{Facts, Refuser};
use tokio::{task::JoinHandle, time::Instant};

use crate::kit::{Announcer, Elsewhere, InMemory, NOWHERE, PATIENCE, Peer, client_of, until};

const SOON: Duration = PATIENCE;

#[tokio::test]
async fn h016_a_dialer_is_asked_once_for_each_peer() {
    let peers = [Peer::start("billing-1").await, Peer::start("billing-2").await];
    let dialer = Elsewhere::at(peers[0].addr());
    let client = client_of(&peers).dialer(dialer.clone()).build().await.unwrap();
    let calls = (0..200).map(|_| client.get("/").send());
    for answer in futures_util::future::join_all(calls).await {
        answer.unwrap();
    }
    let mut dialled = dialer.dialled.all();
    dialled.sort();
    assert_eq!(dialled, ["billing-1", "billing-2"]);
}

#[tokio::test]
async fn h017_s221_peers_that_leave_take_their_connections_along() {
    let stays = Peer::start("billing-0").await;
    let leaves = Peer::start("billing-1").await;
    let source = Announcer::new(SourceId::Static);
    source.join("billing-0", &[stays.addr()]);
    source.join("billing-1", &[leaves.addr()]);
    let client = source.client().min_peers(2).build().await.unwrap();
    for _ in 0..4 {
        client.get("/").send().await.unwrap();
    }
    assert_eq!(leaves.server.connection_count(), 1);
    source.leave("billing-1");
    closed(&leaves).await;

    // Each of them is called once, or is at least known for a while.
    let memory = || client.explain().lines().count();
    for round in 0..10_000_u32 {
        let id = format!("passer-by-{round}");
        source.join(&id, &[stays.addr(), ([127, 0, 0, 1], 1).into()]);
        source.leave(&id);
        if round % 1_000 == 0 {
            client.get("/").send().await.unwrap();
        }
    }
    client.get("/").send().await.unwrap();
    assert_eq!(memory(), 2, "{}", client.explain());
    assert_eq!(stays.server.connection_count(), 1);
}

/// Waits until nobody is connected to the peer.
async fn closed(peer: &Peer) {
    until(|| peer.server.connection_count() == 0).await;
}

#[tokio::test]
async fn s044_h018_a_connection_belongs_to_the_node_it_was_made_for() {
    let one = Peer::start("billing-1").await;
    let proxy = peerage_tests::FaultProxy::start(one.addr()).await;
    let source = Announcer::new(SourceId::Static);
    source.join("billing-1", &[proxy.addr()]);
    let client = source.client().build().await.unwrap();
    client.get("/").send().await.unwrap();
    assert_eq!(proxy.connection_count(), 1);

    source.leave("billing-1");
    source.join("billing-2", &[proxy.addr()]);
    proxy.wait_ended(0, SOON).await;
    let answer = client.get("/").send().await.unwrap();
    assert_eq!(answer.peer().unwrap().node_id(), "billing-2");
    assert_eq!(proxy.connection_count(), 2, "the connection of billing-1 was not used");
}

#[tokio::test]
async fn h018_a_peer_that_moves_is_called_at_its_new_address() {
    let old = Peer::start("old").await;
    let new = Peer::start("new").await;
    let source = Announcer::new(SourceId::Static);
    source.join("billing-1", &[old.addr()]);
    let client = source.client().build().await.unwrap();
    assert_eq!(client.get("/").send().await.unwrap().text().await.unwrap(), "old");
    source.join_with("billing-1", &[old.addr()], &[("zone", "b")]);
    assert_eq!(client.get("/").send().await.unwrap().text().await.unwrap(), "old");
    assert_eq!(old.server.connection_count(), 1, "metadata is no reason to connect anew");
    source.join("billing-1", &[new.addr()]);
    closed(&old).await;
    assert_eq!(client.get("/").send().await.unwrap().text().await.unwrap(), "new");
}

/// A peer in memory that takes requests and never answers, and the source that has it.
fn hung() -> (InMemory, Facts<()>, Announcer) {
    let asked: Facts<()> = Facts::new();
    let facts = asked.clone();
    let router = Router::new().fallback(move || {
        facts.push(());
        std::future::pending::<&str>()
    });
    let source = Announcer::new(SourceId::Static);
    source.join("billing-1", &[NOWHERE]);
    (InMemory::serve(router), asked, source)
}

/// The call, begun: the peer has it.
async fn calling(client: &Client, asked: &Facts<()>) -> JoinHandle<Result<Response, ClientError>> {
    let (client, before) = (client.clone(), asked.count());
    let call = tokio::spawn(async move { client.post("/").body("x").send().await });
    asked.at_least(before + 1, SOON).await;
    call
}

#[tokio::test(start_paused = true)]
async fn a_running_call_survives_that_its_peer_leaves() {
    let (dialer, asked, source) = hung();
    let client = source.client().dialer(dialer).request_timeout(Duration::from_secs(30));
    let client = client.build().await.unwrap();
    let began = Instant::now();
    let call = calling(&client, &asked).await;
    source.leave("billing-1");
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "it had all of its time: {error:?}");
    assert_eq!(began.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn b_9_2_what_still_runs_30_s_after_its_peer_left_is_cut() {
    let (dialer, asked, source) = hung();
    let hour = Duration::from_secs(3_600);
    let client = source.client().dialer(dialer.clone()).request_timeout(hour).build().await.unwrap();
    let call = calling(&client, &asked).await;
    // Of paused time, as below: how long it ran before its peer left does not count.
    tokio::time::sleep(Duration::from_secs(100)).await;
    source.leave("billing-1");
    let left = Instant::now();
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(error, ClientError::Drained { .. }), "{error:?}");
    assert!(error.was_sent() && !error.is_retryable() && !error.is_timeout());
    let text = "drained: the peer left before the call ended: \
                billing-1 (127.0.0.1:1) was tried and had left before it answered";
    assert_eq!(error.to_string(), text);
    assert_eq!(error.attempts().unwrap().last().unwrap().outcome, Outcome::Cancelled, "it is not to blame");
    assert_eq!(left.elapsed().as_secs(), 30);

    // One that comes back keeps its calls; so do all of a client that says so.
    source.join("billing-1", &[NOWHERE]);
    let patient = source.client().dialer(dialer.clone()).request_timeout(None).drain(None);
    let patient = patient.build().await.unwrap();
    let calls = [calling(&client, &asked).await, calling(&patient, &asked).await];
    source.leave("billing-1");
    // Just before they would be cut; then far beyond.
    tokio::time::sleep(Duration::from_secs(29)).await;
    source.join("billing-1", &[NOWHERE]);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!calls[0].is_finished(), "it is back");
    source.leave("billing-1");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!calls[1].is_finished(), "for ever");
}

#[tokio::test(start_paused = true)]
async fn b_9_2_a_body_that_still_arrives_is_cut_and_a_call_that_may_be_repeated_moves_on() {
    let router = Router::new().fallback(async || {
        let pieces = futures_util::stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from_static(b"piece")));
        let pieces = pieces.take(1).chain(futures_util::stream::pending());
        AxumResponse::new(AxumBody::from_stream(pieces))
    });
    let source = Announcer::new(SourceId::Static);
    source.join("billing-1", &[NOWHERE]);
    let drain = Duration::from_secs(7);
    let dialer = InMemory::serve(router);
    let client =
        source.client().dialer(dialer.clone()).body_timeout(None).drain(drain).build().await.unwrap();
    let mut answer = client.get("/").send().await.unwrap();
    assert_eq!(answer.chunk().await.unwrap().unwrap(), "piece");
    source.leave("billing-1");
    let left = Instant::now();
    let error = answer.chunk().await.unwrap_err();
    assert!(matches!(error, ClientError::Drained { .. }), "{error:?}");
    assert_eq!((left.elapsed(), error.peer().unwrap().node_id()), (drain, "billing-1"));
    until(|| dialer.connection_count() == 0).await;

    let (hung, asked, source) = hung();
    let dialer = hung.and("billing-2", Router::new().fallback(async || "moved"));
    let client = source.client().dialer(dialer).drain(drain).build().await.unwrap();
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.get("/").send().await }
    });
    asked.at_least(1, SOON).await;
    source.join("billing-2", &[([127, 0, 0, 1], 2).into()]);
    source.leave("billing-1");
    let answer = call.await.unwrap().unwrap();
    assert_eq!(answer.text().await.unwrap(), "moved");
}

#[tokio::test]
async fn weight_zero_gets_no_new_work() {
    let peers = [Peer::start("billing-1").await, Peer::start("billing-2").await];
    let source = Announcer::new(SourceId::Static);
    source.join_with("billing-1", &[peers[0].addr()], &[("weight", "0")]);
    source.join_with("billing-2", &[peers[1].addr()], &[("weight", "many")]);
    let client = source.client().min_peers(2).build().await.unwrap();
    for _ in 0..6 {
        client.get("/").send().await.unwrap();
    }
    assert_eq!((peers[0].seen.count(), peers[1].seen.count()), (0, 6));
    assert!(client.explain().contains("wants no new work (weight 0)"), "{}", client.explain());
}

#[tokio::test]
async fn a_peer_that_refuses_is_reported_and_a_doubted_one_that_refuses_is_passed_over() {
    let (peer, refuser) = (Peer::start("billing-1").await, Refuser::new());
    let source = Announcer::new(SourceId::Static);
    source.join("billing-1", &[peer.addr()]);
    source.join("billing-2", &[refuser.addr()]);
    // Ejection would pass over it after two failures.
    let client = source.client().min_peers(2).health(None).build().await.unwrap();
    let attempts = async |calls: usize| {
        let mut attempts = 0;
        for _ in 0..calls {
            attempts += client.get("/").send().await.unwrap().attempts().unwrap().count();
        }
        attempts
    };
    let began = Instant::now();
    assert!((15..=20).contains(&attempts(10).await), "nobody doubts it yet");
    assert!(source.reports.all().contains(&("billing-2".to_owned(), Report::Unreachable)));
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap();
    assert!((1..=1 + seconds).contains(&source.refreshes.count()), "at most once a second");

    source.suspect("billing-2");
    assert!(attempts(10).await <= 12, "once it is doubted, one failure more is enough");
    assert_eq!(attempts(10).await, 10);
    assert!(client.explain().contains("cannot be reached"), "{}", client.explain());
    source.leave("billing-1");
    until(|| !client.explain().contains("billing-1")).await;
    let error = client.get("/").send().await.unwrap_err();
    assert!(matches!(error, ClientError::Connect { .. }), "it is better than nobody: {error:?}");
}

#[tokio::test]
async fn b_9_1_peers_that_a_source_loses_without_a_word_are_kept_in_doubt() {
    let peer = Peer::start("billing").await;
    let refuser = Refuser::new();
    let source = Announcer::new(SourceId::Mdns);
    let ids = ["billing-1", "billing-2", "billing-3", "billing-4", "billing-5"];
    // Different addresses, one of which is well: all of 127.0.0.0/8 is this host.
    for (id, last) in ids.iter().zip(1..) {
        let address = if last == 1 { peer.addr() } else { ([127, 0, 0, last], refuser.addr().port()).into() };
        source.join(id, &[address]);
    }
    let client = source.client().min_peers(5).build().await.unwrap();
    until(|| client.view().peers.len() == 5).await;
    let refreshes = source.refreshes.count();
    source.lose(&ids[1..], LeaveReason::Goodbye);
    until(|| client.view().peers.len() == 1).await;
    assert_eq!(source.refreshes.count(), refreshes, "a goodbye is believed");

    for (id, last) in ids.iter().zip(1..).skip(1) {
        source.join(id, &[([127, 0, 0, last], refuser.addr().port()).into()]);
    }
    until(|| client.view().peers.len() == 5).await;
    source.lose(&ids, LeaveReason::Expired);
    until(|| {
        client.view().peers.iter().all(|view| view.why_out.is_none() && source.refreshes.count() > refreshes)
    })
    .await;
    assert!(client.peers().is_empty(), "discovery has nobody");
    let answer = client.get("/").send().await.unwrap();
    assert_eq!(answer.status(), 200, "who lives is called");
    assert_eq!(client.view().peers.len(), 5);
    assert!(client.explain().contains("in doubt"), "{}", client.explain());
}
