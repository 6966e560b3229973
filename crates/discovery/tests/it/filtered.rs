//! Views (discovery §16).

use std::sync::Arc;

use peerage_discovery::{Change, Discovery, DiscoveryError, Filtered, LeaveReason, Peer, StaticPeer, Status};

use crate::common::{ids, next, service, until};

fn entry(node_id: &str, zone: &str) -> StaticPeer {
    StaticPeer::new("10.0.0.1:80").node_id(node_id).pair("zone", zone)
}

fn is_near(peer: &Peer) -> bool {
    peer.metadata().token("zone") == Some("near")
}

#[tokio::test]
async fn a_view_has_only_what_matches() {
    let all = Arc::new(
        peerage_discovery::StaticDiscovery::new(
            service(),
            [entry("a", "near"), entry("b", "far"), entry("c", "near")],
        )
        .unwrap(),
    );
    let view = (all.clone() as Arc<dyn Discovery>).filtered(is_near);
    assert_eq!(view.snapshot().version(), 0);
    view.start().unwrap();
    assert_eq!(view.start(), Err(DiscoveryError::AlreadyStarted));
    assert_eq!(all.start(), Err(DiscoveryError::AlreadyStarted), "the view started it");
    assert_eq!(ids(&view.snapshot()), ["a", "c"]);
    assert_eq!((view.peer_count(), view.status()), (2, Status::Ready));
    assert!(view.get("b").is_none());
    assert_eq!(view.explain(), "1 peers do not match the filter; no other peer was seen");

    let mut subscription = view.subscribe();
    assert!(matches!(next(&mut subscription).await, Some(Change::Resync(_))));
    all.set([entry("a", "far"), entry("b", "near"), entry("d", "near")]).unwrap();
    let mut changes = Vec::new();
    for _ in 0..4 {
        changes.push(match next(&mut subscription).await {
            Some(Change::Left { peer, reason }) => format!("{} left: {reason}", peer.node_id()),
            Some(Change::Joined(peer)) => format!("{} joined", peer.node_id()),
            other => format!("{other:?}"),
        });
    }
    assert_eq!(changes, ["a left: removed", "c left: removed", "b joined", "d joined"]);
    assert_eq!(ids(&view.snapshot()), ["b", "d"]);
}

#[tokio::test]
async fn a_view_of_what_runs_follows_it_to_its_end() {
    let all = Arc::new(
        peerage_discovery::StaticDiscovery::new(service(), [entry("a", "near"), entry("b", "far")]).unwrap(),
    );
    all.start().unwrap();
    let (one, two) = (Filtered::new(all.clone(), is_near), Filtered::new(all.clone(), |peer| !is_near(peer)));
    one.start().unwrap();
    two.start().unwrap();
    assert_eq!((ids(&one.snapshot()), ids(&two.snapshot())), (vec!["a"], vec!["b"]));

    one.stop().await;
    assert_eq!((one.status(), one.peers().len()), (Status::Stopped, 0));
    assert_eq!(all.peer_count(), 2, "the source has other users");
    let mut subscription = two.subscribe();
    assert!(matches!(next(&mut subscription).await, Some(Change::Resync(_))));
    all.stop().await;
    let left = next(&mut subscription).await;
    assert!(matches!(left, Some(Change::Left { reason: LeaveReason::Stopped, .. })), "{left:?}");
    assert_eq!(next(&mut subscription).await, None);
    assert_eq!(two.status(), Status::Stopped);
}

#[tokio::test]
async fn states_cross_the_filter_too() {
    let all = Arc::new(
        peerage_discovery::StaticDiscovery::new(service(), [entry("a", "near"), entry("b", "near")]).unwrap(),
    );
    let view = Filtered::new(all.clone(), Peer::is_up);
    view.start().unwrap();
    view.report("a", peerage_discovery::Report::Unreachable);
    assert_eq!(ids(&until(&view, |snapshot| snapshot.peers().len() == 1).await), ["b"]);
    view.report("a", peerage_discovery::Report::Alive);
    assert_eq!(ids(&until(&view, |snapshot| snapshot.peers().len() == 2).await), ["a", "b"]);
}
