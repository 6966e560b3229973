//! Starting, stopping, waiting (discovery §4).

use std::{
    sync::{Arc, Barrier},
    thread,
    time::Duration,
};

use peerage_discovery::{
    Change, Discovery, DiscoveryError, LeaveReason, Report, SourceId, Status, check_node_id,
};
use tokio::time::Instant;

use crate::common::{LIMIT, block_on, entries, fixed, ids, next, service, started};

#[test]
fn d020_start_is_once_and_stop_is_for_good() {
    let discovery = fixed(&["a"]);
    assert_eq!((discovery.snapshot().version(), discovery.peers().len()), (0, 0), "nothing before `start`");
    assert_eq!(discovery.status(), Status::Idle);
    assert_eq!(discovery.start(), Ok(()));
    let first = discovery.snapshot();
    assert_eq!((first.version(), ids(&first), first.status()), (1, vec!["a"], &Status::Ready));
    assert_eq!(discovery.start(), Err(DiscoveryError::AlreadyStarted));
    assert!(discovery.snapshot().is(&first), "nothing changed");

    for _ in 0..3 {
        block_on(discovery.stop());
        let last = discovery.snapshot();
        assert_eq!((last.version(), last.peers().len(), last.status()), (2, 0, &Status::Stopped));
    }
    assert_eq!(discovery.start(), Err(DiscoveryError::Stopped));
    assert_eq!(discovery.set(entries(&["b"])), Err(DiscoveryError::Stopped));
    discovery.report("a", Report::Unreachable);
    discovery.refresh();
    assert_eq!(discovery.snapshot().version(), 2);

    let never_started = fixed(&["a"]);
    block_on(never_started.stop());
    assert_eq!(never_started.start(), Err(DiscoveryError::Stopped));
}

#[test]
fn d020_eight_threads_that_stop_make_one_end() {
    let discovery = Arc::new(started(&["a", "b"]));
    // A report makes a task, so that there is something to wait for.
    discovery.report("a", Report::Unreachable);
    let mut subscription = discovery.subscribe();
    let barrier = Arc::new(Barrier::new(8));
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let (discovery, barrier) = (discovery.clone(), barrier.clone());
            thread::spawn(move || {
                barrier.wait();
                block_on(discovery.stop());
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let left = block_on(async {
        let mut left = Vec::new();
        while let Some((_, change)) = subscription.next().await {
            if let Change::Left { peer, reason } = change {
                left.push((peer.node_id().to_owned(), reason));
            }
        }
        left
    });
    assert_eq!(left, [("a".to_owned(), LeaveReason::Stopped), ("b".to_owned(), LeaveReason::Stopped)]);
}

#[tokio::test(start_paused = true)]
async fn d024_wait_ready_tells_at_the_deadline_what_is_missing() {
    let discovery = started(&["a"]);
    let start = Instant::now();
    let error = discovery.wait_ready(2, start + Duration::from_secs(1)).await.unwrap_err();
    let waited = start.elapsed();
    assert!((Duration::from_millis(1000)..Duration::from_millis(1050)).contains(&waited), "{waited:?}");
    let why = "no other peer was seen".to_owned();
    let expected = DiscoveryError::NotReady { service: service(), want: 2, have: 1, suspects: 0, why };
    assert_eq!(error, expected);
    let text = "1 of 2 peers of _t._tcp after the wait (0 in doubt): no other peer was seen";
    assert_eq!(error.to_string(), text);
}

#[test]
fn d024_wait_ready_needs_no_runtime() {
    let discovery = fixed(&["a"]);
    let soon = Instant::now() + Duration::from_millis(30);
    let error = block_on(discovery.wait_ready(1, soon)).unwrap_err();
    assert!(Instant::now() >= soon);
    assert_eq!(error.code(), "not_ready");
    assert!(error.to_string().ends_with("discovery was not started"), "{error}");
    discovery.start().unwrap();
    assert_eq!(ids(&block_on(discovery.wait_ready(1, soon)).unwrap()), ["a"], "checked before it waits");
}

#[tokio::test(start_paused = true)]
async fn d025_wait_ready_is_woken_by_the_publication() {
    let discovery = started(&["a"]);
    let start = Instant::now();
    let wait = discovery.wait_ready(2, start + LIMIT);
    let join = async {
        // The waiter is asleep by now.
        tokio::task::yield_now().await;
        discovery.set(entries(&["a", "b"])).unwrap();
    };
    let (ready, ()) = tokio::join!(wait, join);
    assert_eq!(ids(&ready.unwrap()), ["a", "b"]);
    assert_eq!(start.elapsed(), Duration::ZERO, "no timer ran");
}

#[tokio::test]
async fn d025_wait_ready_for_nobody_is_at_once() {
    let discovery = fixed(&[]);
    assert_eq!(discovery.wait_ready(0, Instant::now()).await.unwrap().version(), 0);
}

#[tokio::test]
async fn d026_d031_stop_ends_waiters_and_streams() {
    let discovery = Arc::new(started(&["a", "b"]));
    let waiter = tokio::spawn({
        let discovery = discovery.clone();
        async move { discovery.wait_ready(3, Instant::now() + LIMIT).await }
    });
    let mut subscription = discovery.subscribe();
    let mut latest = discovery.subscribe();
    assert!(matches!(next(&mut subscription).await, Some(Change::Resync(_))));
    discovery.stop().await;

    assert_eq!(waiter.await.unwrap(), Err(DiscoveryError::Stopped));
    for expected in ["a", "b"] {
        let Some(Change::Left { peer, reason: LeaveReason::Stopped }) = next(&mut subscription).await else {
            panic!("{expected} leaves")
        };
        assert_eq!(peer.node_id(), expected);
    }
    assert_eq!(next(&mut subscription).await, None);
    assert_eq!(next(&mut subscription).await, None, "and stays ended");
    let last = latest.changed().await.unwrap();
    assert_eq!((last.peers().len(), last.status()), (0, &Status::Stopped));
    assert_eq!(latest.changed().await, None);

    let mut late = discovery.subscribe();
    assert_eq!(next(&mut late).await, Some(Change::Resync(last)));
    assert_eq!(next(&mut late).await, None);
}

#[tokio::test]
async fn d031_dropping_the_last_handle_is_a_stop() {
    let discovery = started(&["a"]);
    let mut subscription = discovery.subscribe();
    assert!(matches!(next(&mut subscription).await, Some(Change::Resync(_))));
    drop(discovery);
    let left = next(&mut subscription).await;
    assert!(matches!(left, Some(Change::Left { reason: LeaveReason::Stopped, .. })), "{left:?}");
    assert_eq!(next(&mut subscription).await, None);
}

#[test]
fn s121_node_ids_have_two_limits() {
    assert_eq!(check_node_id(&"n".repeat(255)), Ok(()));
    for node_id in [&"n".repeat(256), "", "\u{1b}[2J"] {
        assert_eq!(check_node_id(node_id).unwrap_err().code(), "invalid_node_id", "{node_id:?}");
    }
}

/// Nothing of what a peer says changes what it is to us (S-120): the type has no place for it.
#[test]
fn s120_metadata_is_only_metadata() {
    let listed = peerage_discovery::StaticPeer::new("10.0.0.1:80")
        .pair("scheme", "http")
        .pair("tls", "off")
        .pair("id", "somebody-else")
        .pair("priority", "7");
    let discovery = peerage_discovery::StaticDiscovery::new("t", [listed]).unwrap();
    discovery.start().unwrap();
    let peer = discovery.get("10.0.0.1:80").unwrap();
    assert_eq!((peer.node_id(), peer.priority(), peer.source()), ("10.0.0.1:80", 0, &SourceId::Static));
    assert_eq!(peer.metadata().len(), 4);
}
