//! Snapshots and their order (discovery §1.2, §1.3).

use std::time::Duration;

use peerage_discovery::{
    Change, Claim, Discovery, LeaveReason, Peer, Publisher, Put, SourceId, StaticPeer, Status, SuspectWhy,
    Table, Trouble,
};
use tokio::time::Instant;

use crate::common::{entries, ids, peer, service, started};

#[test]
fn d007_1000_peers_in_100_orders_are_one_snapshot() {
    let peers: Vec<Peer> = (0..1000u16)
        .map(|at| {
            let base = peer(&format!("n{:03}", at * 7 % 1000), "10.0.0.1:80");
            base.to_builder().priority(at % 3).build().unwrap()
        })
        .collect();
    let mut expected = peers.clone();
    expected
        .sort_by(|a, b| (a.priority(), a.node_id().as_bytes()).cmp(&(b.priority(), b.node_id().as_bytes())));
    let now = Instant::now();
    // A generator of its own, printed: the same seed is the same run.
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    println!("seed {seed:#x}");
    for _ in 0..100 {
        let mut order = peers.clone();
        for at in (1..order.len()).rev() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            order.swap(at, (seed >> 33) as usize % (at + 1));
        }
        let publisher = Publisher::new(&service());
        publisher.edit(now, |table, now| {
            order.into_iter().for_each(|peer| assert_eq!(table.put(peer, now), Put::Joined))
        });
        publisher.publish();
        let snapshot = publisher.snapshot();
        assert!(snapshot.peers() == expected);
        assert_eq!(snapshot.get("n007").map(Peer::node_id), Some("n007"));
        assert_eq!(snapshot.get("n1000"), None);
    }
}

#[test]
fn d007_the_order_is_that_of_bytes() {
    let discovery = started(&["b", "ä", "B", "a", "aa", "é"]);
    assert_eq!(ids(&discovery.snapshot()), ["B", "a", "aa", "b", "ä", "é"]);
}

#[test]
fn d021_a_snapshot_never_changes() {
    let discovery = started(&["a", "b"]);
    let (snapshot, peers) = (discovery.snapshot(), discovery.peers());
    let before = format!("{snapshot:?} {peers:?}");
    for port in 1..=1000 {
        discovery.set([StaticPeer::new(format!("10.0.0.9:{port}")).node_id("a")]).unwrap();
    }
    assert_eq!(format!("{snapshot:?} {peers:?}"), before);
    assert_eq!((snapshot.version(), discovery.snapshot().version()), (1, 1001));
}

#[test]
fn s123_a_full_list_drops_newcomers_and_nobody_else() {
    let now = Instant::now();
    let mut table = Table::new(service(), 2);
    assert_eq!(table.put(peer("b", "10.0.0.1:80"), now), Put::Joined);
    assert_eq!(table.put(peer("c", "10.0.0.1:80"), now), Put::Joined);
    assert_eq!(table.put(peer("a", "10.0.0.1:80"), now), Put::Full);
    assert_eq!(table.put(peer("c", "10.0.0.2:80"), now), Put::Updated);
    assert_eq!(table.put(peer("c", "10.0.0.2:80"), now), Put::Unchanged);
    assert_eq!(table.replace(peer("b", "10.0.0.3:80"), now), Put::Joined);
    let left: Vec<&str> = table.iter().map(Peer::node_id).collect();
    assert_eq!(left, ["b", "c"]);
    table.remove("b", LeaveReason::Goodbye, now);
    assert_eq!(table.put(peer("a", "10.0.0.1:80"), now), Put::Joined);
    assert_eq!(table.len(), 2);

    let builder = peerage_discovery::StaticDiscovery::builder(service()).unwrap();
    let discovery = builder.max_peers(2).build(entries(&["a", "b", "c"])).unwrap();
    discovery.start().unwrap();
    assert_eq!(ids(&discovery.snapshot()), ["a", "b"]);
    let ignored =
        discovery.metrics().into_iter().find(|metric| metric.label == Some(("why", "limit"))).unwrap();
    assert_eq!((ignored.name, ignored.value), ("discovery_ignored", 1));
    assert_eq!(discovery.explain(), "1 announcement ignored: the list is full");
}

#[test]
fn s123_the_default_limit_is_1024_peers() {
    let node_ids: Vec<String> = (0..1025).map(|at| format!("n{at:04}")).collect();
    let node_ids: Vec<&str> = node_ids.iter().map(String::as_str).collect();
    let discovery = started(&node_ids[..1024]);
    assert_eq!(discovery.peer_count(), 1024);
    discovery.set(entries(&node_ids)).unwrap();
    assert_eq!((discovery.peer_count(), discovery.get("n1024")), (1024, None));
}

#[test]
fn d006_evidence_goes_with_the_peer_from_version_to_version() {
    let start = Instant::now();
    let at = |secs| start + Duration::from_secs(secs);
    let seen = |endpoint: &str, secs| {
        Peer::builder("a", &service()).endpoint(endpoint).seen(at(secs)).build().unwrap()
    };
    let publisher = Publisher::new(&service());
    let put = |peer: Peer| publisher.edit(start, |table, now| table.put(peer, now));
    put(seen("10.0.0.1:80", 10));
    publisher.publish();
    let first = publisher.get("a").unwrap();
    assert_eq!(put(seen("10.0.0.1:80", 20)), Some(Put::Unchanged));
    assert!(!publisher.publish());
    assert_eq!(first.last_seen(), at(20), "heard again");

    assert_eq!(put(seen("10.0.0.2:80", 30)), Some(Put::Updated));
    publisher.publish();
    let second = publisher.get("a").unwrap();
    assert_eq!((first.last_seen(), second.last_seen()), (at(30), at(30)));
    first.answered(at(40));
    assert_eq!(second.last_alive(), Some(at(40)), "it is one peer");

    publisher.edit(start, |table, now| table.replace(seen("10.0.0.3:80", 5), now));
    publisher.publish();
    let third = publisher.get("a").unwrap();
    assert_eq!((third.last_seen(), third.last_alive()), (at(5), None), "and this is another");
}

#[test]
fn d027_the_items_of_a_version_are_in_the_order_of_the_list() {
    let publisher = Publisher::new(&service());
    let now = Instant::now();
    let with = |node_id: &str, priority| {
        peer(node_id, "10.0.0.1:80").to_builder().priority(priority).build().unwrap()
    };
    let mut subscription = publisher.subscribe();
    let mut items = || {
        publisher.publish();
        let mut items = Vec::new();
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        while let std::task::Poll::Ready(Some((_, change))) =
            futures_core::Stream::poll_next(std::pin::Pin::new(&mut subscription), &mut context)
        {
            items.push(match change {
                Change::Joined(peer) => format!("+{}", peer.node_id()),
                Change::Left { peer, .. } => format!("-{}", peer.node_id()),
                Change::Updated { new, .. } => format!("~{}", new.node_id()),
                Change::Suspected(peer) => format!("?{}", peer.node_id()),
                other => format!("{other:?}"),
            });
        }
        items
    };
    assert_eq!(items().len(), 1);
    publisher.edit(now, |table, now| {
        for (node_id, priority) in [("a", 2), ("b", 1), ("c", 2), ("d", 1), ("e", 0), ("f", 0)] {
            table.put(with(node_id, priority), now);
        }
    });
    assert_eq!(items(), ["+e", "+f", "+b", "+d", "+a", "+c"]);
    publisher.edit(now, |table, now| {
        table.remove("a", LeaveReason::Goodbye, now);
        table.remove("b", LeaveReason::Goodbye, now);
        table.put(with("c", 0), now);
        table.put(with("d", 3), now);
        table.suspect("d", SuspectWhy::Silent, now);
        table.suspect("f", SuspectWhy::Silent, now);
        table.put(with("x", 5), now);
        table.put(with("y", 4), now);
    });
    assert_eq!(items(), ["-b", "-a", "+y", "+x", "~c", "?f", "~d", "?d"]);
}

#[test]
fn s124_a_conflict_names_both_and_changes_nothing() {
    let publisher = Publisher::new(&service());
    let now = Instant::now();
    let kept =
        peer("a", "10.0.0.1:80").to_builder().source(SourceId::Mdns).origin("a on h1").build().unwrap();
    publisher.edit(now, |table, now| table.put(kept.clone(), now));
    publisher.publish();
    let before = publisher.snapshot();
    let mut subscription = publisher.subscribe();
    let refused = Claim::new(SourceId::Mdns, "a on \u{202e}h2", Some("10.0.0.66:80".parse().unwrap()));
    publisher.edit(now, |table, now| {
        table.conflict("a", Claim::from(&kept), refused.clone(), now);
        table.conflict("a", Claim::from(&kept), refused.clone(), now);
    });
    assert!(!publisher.publish(), "no new version");
    assert!(publisher.snapshot().is(&before));
    let items = crate::common::block_on(async { [subscription.next().await, subscription.next().await] });
    let conflict =
        Change::Conflict { node_id: "a".into(), kept: Claim::from(&kept), refused: refused.clone() };
    assert_eq!(items[1], Some((1, conflict)), "once");
    assert_eq!(refused.to_string(), r"a on \u{202e}h2 of mdns at 10.0.0.66:80");
    let conflicts = |publisher: &Publisher| {
        publisher
            .metrics(now)
            .into_iter()
            .find(|metric| metric.name == "discovery_conflicts")
            .map(|metric| metric.value)
    };
    assert_eq!(conflicts(&publisher), Some(1));
}

#[test]
fn what_cancels_out_within_a_window_makes_no_version() {
    let publisher = Publisher::new(&service());
    let now = Instant::now();
    publisher.edit(now, |table, now| table.put(peer("a", "10.0.0.1:80"), now));
    publisher.publish();
    publisher.edit(now, |table, now| {
        table.suspect("a", SuspectWhy::Silent, now);
        table.clear("a", now);
        table.put(peer("b", "10.0.0.1:80"), now);
        table.remove("b", LeaveReason::Goodbye, now);
        table.remove("a", LeaveReason::Goodbye, now);
        table.put(peer("a", "10.0.0.1:80"), now);
        table.set_status(Status::NoInterface, now);
        table.set_status(Status::Idle, now);
    });
    assert!(!publisher.publish());
    assert_eq!((publisher.snapshot().version(), publisher.due()), (1, None));
}

#[test]
fn a_status_is_a_version_with_the_same_peers() {
    let publisher = Publisher::new(&service());
    let now = Instant::now();
    publisher.edit(now, |table, now| table.put(peer("a", "10.0.0.1:80"), now));
    publisher.publish();
    let status = Status::degraded(Trouble::NoSocket, now);
    publisher.edit(now, |table, now| table.set_status(status.clone(), now));
    assert!(publisher.publish());
    let snapshot = publisher.snapshot();
    assert_eq!((snapshot.version(), ids(&snapshot), snapshot.status()), (2, vec!["a"], &status));
    assert_eq!(publisher.explain(), "no multicast socket can be opened");
}

#[test]
fn metrics_have_labels_from_fixed_sets() {
    let now = Instant::now();
    let publisher = Publisher::new(&service());
    publisher.edit(now, |table, now| {
        table.put(peer("a", "10.0.0.1:80"), now);
        table.put(peer("b", "10.0.0.2:80"), now)
    });
    publisher.publish();
    publisher.edit(now, |table, now| {
        table.suspect("a", SuspectWhy::Withdrawn, now);
        table.remove("b", LeaveReason::Goodbye, now)
    });
    publisher.publish();
    publisher.edit(now, |table, now| table.clear("a", now));
    publisher.publish();
    publisher.counters().full_list(now);
    let metrics = publisher.metrics(now + Duration::from_secs(7));
    let value = |name: &str, label: Option<(&str, &str)>| {
        let found: Vec<_> =
            metrics.iter().filter(|metric| metric.name == name && metric.label == label).collect();
        assert_eq!(found.len(), 1, "{name} {label:?}");
        found[0].value
    };
    assert_eq!(value("discovery_publishes", None), 3);
    assert_eq!(value("discovery_joined", None), 2);
    assert_eq!(value("discovery_left", Some(("reason", "goodbye"))), 1);
    assert_eq!(value("discovery_left", Some(("reason", "expired"))), 0);
    assert_eq!(value("discovery_suspected", Some(("why", "withdrawn"))), 1);
    assert_eq!(value("discovery_cleared", None), 1);
    assert_eq!(value("discovery_peers", Some(("state", "up"))), 1);
    assert_eq!(value("discovery_peers", Some(("state", "suspect"))), 0);
    assert_eq!(value("discovery_snapshot_version", None), 3);
    assert_eq!(value("discovery_seconds_since_full_list", None), 7);
    assert!(metrics.iter().all(|metric| metric.name.starts_with("discovery_")));
}
