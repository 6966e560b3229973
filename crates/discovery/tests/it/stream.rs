//! Changes as a stream (discovery §4.1).

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use peerage_discovery::{
    Change, Discovery, LeaveReason, Metric, Peer, PeerState, Publisher, Snapshot, StaticPeer, Status,
    Subscription, SuspectWhy, WINDOW,
};
use proptest::prelude::*;
use tokio::time::Instant;

use crate::common::{block_on, entries, ids, next, peer, service, started};

/// What a subscriber knows who believes nothing but the stream.
#[derive(Default)]
struct Replay {
    version: u64,
    peers: BTreeMap<(u16, String), Peer>,
    status: Option<Status>,
}

impl Replay {
    fn apply(&mut self, version: u64, change: Change) {
        assert!(version >= self.version, "versions never go back");
        self.version = version;
        let key = |peer: &Peer| (peer.priority(), peer.node_id().to_owned());
        match change {
            Change::Resync(snapshot) => {
                self.peers = snapshot.peers().iter().map(|peer| (key(peer), peer.clone())).collect();
                self.status = Some(snapshot.status().clone());
            }
            Change::Joined(peer) => assert_eq!(self.peers.insert(key(&peer), peer), None, "it was not there"),
            Change::Updated { old, new } => {
                assert_eq!(self.peers.remove(&key(&old)), Some(old), "as it was");
                assert_eq!(self.peers.insert(key(&new), new), None);
            }
            Change::Suspected(peer) => {
                assert!(!peer.is_up());
                assert!(self.peers.insert(key(&peer), peer).is_some());
            }
            Change::Cleared(peer) => {
                assert!(peer.is_up());
                assert!(self.peers.insert(key(&peer), peer).is_some());
            }
            Change::Left { peer, .. } => assert_eq!(self.peers.remove(&key(&peer)), Some(peer), "as it was"),
            Change::Status(status) => self.status = Some(status),
            other => assert!(matches!(other, Change::Conflict { .. } | Change::Lagged(_)), "{other:?}"),
        }
    }

    fn assert_is(&self, snapshot: &Snapshot) {
        assert_eq!(self.version, snapshot.version());
        assert!(self.peers.values().eq(snapshot.peers()), "{:#?} is not {snapshot:#?}", self.peers);
        assert_eq!(self.status.as_ref(), Some(snapshot.status()));
    }
}

/// Everything that is there.
fn drain(subscription: &mut Subscription) -> Vec<(u64, Change)> {
    let mut items = Vec::new();
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let mut subscription = std::pin::Pin::new(subscription);
    while let std::task::Poll::Ready(Some(item)) =
        futures_core::Stream::poll_next(subscription.as_mut(), &mut context)
    {
        items.push(item);
    }
    items
}

#[test]
fn d027_the_stream_leads_from_version_to_version() {
    let discovery = started(&["a", "b"]);
    let mut subscription = discovery.subscribe();
    let mut replay = Replay::default();
    let lists: [&[&str]; 10] = [
        &["a", "b", "c"],
        &["b", "c"],
        &["b", "c"],
        &["c", "b"],
        &[],
        &["x"],
        &["y"],
        &["y", "x"],
        &["a"],
        &["a", "b"],
    ];
    for list in lists {
        discovery.set(entries(list)).unwrap();
        for (version, change) in drain(&mut subscription) {
            replay.apply(version, change);
        }
        replay.assert_is(&discovery.snapshot());
    }
    // The third list is as the second, and what equals makes no version: ten lists and the one of `start`.
    assert_eq!(discovery.snapshot().version(), 10);
}

#[derive(Clone, Debug)]
enum Step {
    Put { id: u8, port: u16, priority: u16 },
    Replace { id: u8, port: u16 },
    Remove { id: u8 },
    Set { ids: Vec<u8>, port: u16 },
    Suspect { id: u8, why: SuspectWhy },
    Clear { id: u8 },
    Status { is_ready: bool },
    Publish,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let id = || 0u8..12;
    let port = || 1u16..4;
    let why =
        prop_oneof![Just(SuspectWhy::Silent), Just(SuspectWhy::Withdrawn), Just(SuspectWhy::Unreachable)];
    let step = prop_oneof![
        4 => (id(), port(), 0u16..3).prop_map(|(id, port, priority)| Step::Put { id, port, priority }),
        1 => (id(), port()).prop_map(|(id, port)| Step::Replace { id, port }),
        2 => id().prop_map(|id| Step::Remove { id }),
        1 => (prop::collection::vec(id(), 0..6), port()).prop_map(|(ids, port)| Step::Set { ids, port }),
        2 => (id(), why).prop_map(|(id, why)| Step::Suspect { id, why }),
        1 => id().prop_map(|id| Step::Clear { id }),
        1 => any::<bool>().prop_map(|is_ready| Step::Status { is_ready }),
        3 => Just(Step::Publish),
    ];
    prop::collection::vec(step, 1..80)
}

fn put(id: u8, port: u16, priority: u16) -> Peer {
    peer(&format!("n{id}"), &format!("10.0.0.{id}:{port}")).to_builder().priority(priority).build().unwrap()
}

proptest! {
    /// Whatever a source does to its table: the list is that of a naive model, sorted, and the stream leads to it.
    #[test]
    fn d027_replaying_the_stream_gives_the_snapshot_which_is_that_of_the_model(steps in steps()) {
        const LIMIT: usize = 8;
        let publisher = Publisher::with_limit(&service(), LIMIT);
        let mut subscription = publisher.subscribe();
        let mut replay = Replay::default();
        let mut model: BTreeMap<String, Peer> = BTreeMap::new();
        let start = Instant::now();
        for (at, step) in steps.into_iter().enumerate() {
            let now = start + Duration::from_millis(at as u64);
            let node_id = |id: u8| format!("n{id}");
            publisher.edit(now, |table, now| match step {
                Step::Put { id, port, priority } => {
                    let peer = put(id, port, priority);
                    if model.contains_key(&node_id(id)) || model.len() < LIMIT {
                        model.insert(node_id(id), peer.clone());
                    }
                    table.put(peer, now);
                }
                Step::Replace { id, port } => {
                    let peer = put(id, port, 0);
                    if model.contains_key(&node_id(id)) || model.len() < LIMIT {
                        model.insert(node_id(id), peer.clone());
                    }
                    table.replace(peer, now);
                }
                Step::Remove { id } => {
                    let removed = table.remove(&node_id(id), LeaveReason::Expired, now);
                    assert_eq!(removed, model.remove(&node_id(id)));
                }
                Step::Set { ids, port } => {
                    let list: BTreeMap<String, Peer> = ids.iter().map(|&id| (node_id(id), put(id, port, 0))).collect();
                    table.set(list.values().cloned().collect(), LeaveReason::Removed, now);
                    model = list;
                }
                Step::Suspect { id, why } => {
                    if let Some(peer) = model.get_mut(&node_id(id)) {
                        let since = match peer.state() {
                            PeerState::Suspect { since, .. } => since,
                            PeerState::Up => now,
                        };
                        *peer = peer.with_state(PeerState::Suspect { since, why });
                    }
                    table.suspect(&node_id(id), why, now);
                }
                Step::Clear { id } => {
                    if let Some(peer) = model.get_mut(&node_id(id)) {
                        *peer = peer.with_state(PeerState::Up);
                    }
                    table.clear(&node_id(id), now);
                }
                Step::Status { is_ready } => {
                    table.set_status(if is_ready { Status::Ready } else { Status::NoInterface }, now);
                }
                Step::Publish => {}
            });
            if matches!(step_kind(&publisher), Published::Pending) && at % 3 == 0 {
                publisher.publish();
            }
            let items = drain(&mut subscription);
            let mut places = items.iter().map(|(_, change)| place(change)).collect::<Vec<_>>();
            places.dedup();
            prop_assert!(places.is_sorted(), "`Left`, `Joined`, the rest: {:?}", items);
            for (version, change) in items {
                replay.apply(version, change);
            }
            replay.assert_is(&publisher.snapshot());
        }
        publisher.publish();
        let snapshot = publisher.snapshot();
        let mut expected: Vec<&Peer> = model.values().collect();
        expected.sort_by(|a, b| (a.priority(), a.node_id()).cmp(&(b.priority(), b.node_id())));
        prop_assert!(expected.iter().copied().eq(snapshot.peers()), "{:#?} is not {:#?}", snapshot, expected);
        prop_assert_eq!(snapshot.peer_count(), expected.iter().filter(|peer| peer.is_up()).count());
        prop_assert_eq!(publisher.peer_count(), snapshot.peer_count());
        for id in 0..12 {
            let node_id = format!("n{id}");
            prop_assert_eq!(snapshot.get(&node_id), model.get(&node_id));
        }
    }
}

enum Published {
    Pending,
    Nothing,
}

fn step_kind(publisher: &Publisher) -> Published {
    if publisher.due().is_some() { Published::Pending } else { Published::Nothing }
}

fn place(change: &Change) -> u8 {
    match change {
        Change::Resync(_) => 0,
        Change::Left { .. } => 1,
        Change::Joined(_) => 2,
        Change::Status(_) => 4,
        _ => 3,
    }
}

#[tokio::test]
async fn d028_a_reader_that_sleeps_is_told_what_it_missed() {
    let discovery = started(&["a"]);
    let (mut sleeper, mut reader) = (discovery.subscribe(), discovery.subscribe());
    assert!(matches!(next(&mut sleeper).await, Some(Change::Resync(_))));
    let mut read = drain(&mut reader).len();
    for port in 1..=300 {
        discovery.set([StaticPeer::new(format!("10.0.0.9:{port}")).node_id("a")]).unwrap();
        read +=
            drain(&mut reader).iter().filter(|(_, change)| matches!(change, Change::Updated { .. })).count();
    }
    assert_eq!(read, 301, "one that reads misses nothing");

    assert_eq!(next(&mut sleeper).await, Some(Change::Lagged(300)));
    assert_eq!(next(&mut sleeper).await, Some(Change::Resync(discovery.snapshot())));
    assert_eq!(drain(&mut sleeper), []);
    discovery.set(entries(&["b"])).unwrap();
    assert_eq!(drain(&mut sleeper).len(), 2, "and goes on from there");
    let lagged = |metric: &Metric| metric.name == "discovery_lagged";
    assert_eq!(discovery.metrics().into_iter().find(lagged).map(|metric| metric.value), Some(300));
}

#[tokio::test]
async fn d028_the_queue_holds_256_changes() {
    let discovery = started(&["a"]);
    let mut subscription = discovery.subscribe();
    let change =
        |port: u16| discovery.set([StaticPeer::new(format!("10.0.0.9:{port}")).node_id("a")]).unwrap();
    (1..=256).for_each(change);
    let items = drain(&mut subscription);
    assert_eq!(items.len(), 257);
    assert!(items.iter().skip(1).all(|(_, change)| matches!(change, Change::Updated { .. })));

    // One that never read gets its first item all the same.
    let mut subscription = discovery.subscribe();
    let first = discovery.snapshot();
    (300..=556).for_each(change);
    let expected = [Change::Resync(first), Change::Lagged(257), Change::Resync(discovery.snapshot())];
    assert_eq!(drain(&mut subscription).into_iter().map(|(_, change)| change).collect::<Vec<_>>(), expected);
}

#[test]
fn d028_a_sleeper_learns_of_the_end_as_well() {
    let discovery = started(&["a"]);
    let mut sleeper = discovery.subscribe();
    for port in 1..=300 {
        discovery.set([StaticPeer::new(format!("10.0.0.9:{port}")).node_id("a")]).unwrap();
    }
    block_on(discovery.stop());
    let items: Vec<_> = drain(&mut sleeper).into_iter().skip(1).map(|(_, change)| change).collect();
    assert_eq!(items, [Change::Lagged(301), Change::Resync(discovery.snapshot())]);
    assert_eq!(block_on(sleeper.next()), None);
}

#[test]
fn d029_200_events_within_5_ms_are_one_version() {
    let publisher = Publisher::new(&service());
    let start = Instant::now();
    for at in 0..200u32 {
        let now = start + Duration::from_micros(24 * u64::from(at));
        let peer = peer(&format!("n{at:03}"), "10.0.0.1:80");
        publisher.edit(now, |table, now| table.put(peer, now));
        assert!(!publisher.flush(now), "the window is open");
    }
    assert_eq!(publisher.due(), Some(start + WINDOW));
    assert!(!publisher.flush(start + WINDOW - Duration::from_nanos(1)));
    assert!(publisher.flush(start + WINDOW));
    assert_eq!((publisher.snapshot().version(), publisher.peer_count()), (1, 200));
    assert!(!publisher.flush(start + WINDOW), "nothing more");
}

#[tokio::test]
async fn d029_a_source_without_a_loop_is_published_all_the_same() {
    let publisher = Publisher::new(&service());
    let mut subscription = publisher.subscribe();
    for _ in 0..3 {
        let before = publisher.snapshot().version();
        let endpoint = format!("10.0.0.1:{}", before + 1);
        publisher.edit_soon(Instant::now(), |table, now| table.put(peer("a", &endpoint), now));
        let published =
            tokio::time::timeout(crate::common::LIMIT, subscription.changed()).await.unwrap().unwrap();
        assert_eq!((published.version(), ids(&published)), (before + 1, vec!["a"]));
    }
}

#[test]
fn d006_evidence_alone_publishes_nothing() {
    let discovery = started(&["a"]);
    let (before, mut subscription) = (discovery.snapshot(), discovery.subscribe());
    assert_eq!(drain(&mut subscription).len(), 1);
    let seen = before.get("a").unwrap().last_seen();
    discovery.report("a", peerage_discovery::Report::Alive);
    discovery.set(entries(&["a"])).unwrap();
    assert!(discovery.snapshot().is(&before));
    assert_eq!(drain(&mut subscription), []);
    assert!(before.get("a").unwrap().last_seen() > seen, "in a snapshot that was taken before");
    assert!(before.get("a").unwrap().last_alive().is_some());
}

#[test]
fn d022_readers_never_see_a_torn_set() {
    // In optimised code 10 s; else 4,000 versions, for what could be torn is torn at a switch of versions.
    const TIME: Duration = Duration::from_secs(10);
    const VERSIONS: u64 = 4_000;
    let list = |epoch: u16| {
        (0..20).map(move |at| {
            StaticPeer::new(format!("10.0.0.{at}:{epoch}")).node_id(format!("n{:02}", at % 20))
        })
    };
    let discovery = Arc::new(started(&[]));
    discovery.set(list(1)).unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..8)
        .map(|_| {
            let (discovery, is_over) = (discovery.clone(), is_over.clone());
            thread::spawn(move || {
                let mut last = 0;
                let mut reads = 0u64;
                while !is_over.load(Ordering::Relaxed) {
                    let snapshot = discovery.snapshot();
                    assert!(snapshot.version() >= last, "versions never go back");
                    last = snapshot.version();
                    reads += 1;
                    let ports: Vec<u16> = snapshot.peers().iter().map(|peer| peer.address().port()).collect();
                    assert_eq!(ports.len(), 20);
                    assert!(ports.iter().all(|port| Some(port) == ports.first()), "torn: {ports:?}");
                    assert!(snapshot.peers().is_sorted_by_key(Peer::node_id));
                    thread::yield_now();
                }
                reads
            })
        })
        .collect();
    let (begin, mut versions) = (Instant::now(), 1);
    while if cfg!(debug_assertions) { versions < VERSIONS } else { begin.elapsed() < TIME } {
        versions += 1;
        discovery.set(list(u16::try_from(1 + versions % 60_000).unwrap())).unwrap();
        thread::yield_now();
    }
    is_over.store(true, Ordering::Relaxed);
    assert!(discovery.snapshot().version() >= versions);
    for reader in readers {
        assert!(reader.join().unwrap() > 0);
    }
}
