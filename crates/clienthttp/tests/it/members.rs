//! Peers that come, move and go (clienthttp 1, 5; threats C).

use std::time::Duration;

use peerage_clienthttp::ClientError;
use peerage_discovery::{LeaveReason, Report, SourceId};
use peerage_tests::{Refuser, ScriptedServer};

use crate::kit::{Announcer, Elsewhere, Peer, client_of, until};

const SOON: Duration = Duration::from_secs(2);

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

#[tokio::test]
async fn a_running_call_survives_that_its_peer_leaves() {
    let slow = ScriptedServer::start(|mut conn| async move {
        conn.read_frame().await;
        // The answer comes when the client has been told: see below.
        conn.stall().await;
    })
    .await;
    let source = Announcer::new(SourceId::Static);
    source.join("billing-1", &[slow.addr()]);
    let client = source.client().request_timeout(Duration::from_millis(300)).build().await.unwrap();
    let calling = tokio::spawn({
        let client = client.clone();
        async move { client.get("/").send().await }
    });
    slow.events()
        .eventually(SOON, "the request", |events| {
            events.iter().any(|event| matches!(event, peerage_tests::ServerEvent::Received { .. }))
        })
        .await;
    source.leave("billing-1");
    let error = calling.await.unwrap().unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "it had all of its time: {error:?}");
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
    assert!((15..=20).contains(&attempts(10).await), "nobody doubts it yet");
    assert!(source.reports.all().contains(&("billing-2".to_owned(), Report::Unreachable)));
    assert_eq!(source.refreshes.count(), 1, "at most once a second");

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
