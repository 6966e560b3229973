use std::time::Duration;

use super::core::{BACK, DOWN, KEPT};
use super::*;
use crate::{
    change::{Change, Claim, LeaveReason},
    metadata::Metadata,
    peer::{Peer, PeerState, SuspectWhy},
    table::Table,
};

/// A core, its table, and the versions that were published.
struct Bed {
    core: Core,
    table: Table,
    now: Instant,
    version: u64,
    published: Vec<Snapshot>,
    changes: Vec<Change>,
}

impl Bed {
    fn new(mode: Mode, priorities: &[u16]) -> Self {
        let now = Instant::now();
        let sources =
            priorities.iter().enumerate().map(|(at, &priority)| (format!("s{at}").into(), priority));
        let mut bed = Self {
            core: Core::new(mode, sources.collect(), now),
            table: Table::new(service(), 1024),
            now,
            version: 0,
            published: Vec::new(),
            changes: Vec::new(),
        };
        for at in 0..priorities.len() {
            bed.core.change(at, 0, Change::Status(Status::Ready), now);
        }
        bed.settle();
        bed
    }

    /// The source said all of `changes` in one version.
    fn says(&mut self, at: usize, changes: impl IntoIterator<Item = Change>) {
        self.version += 1;
        for change in changes {
            self.core.change(at, self.version, change, self.now);
        }
        self.settle();
    }

    /// As the task does it: apply, publish, and the second half of a switch.
    fn settle(&mut self) {
        self.core.apply(&mut self.table, self.now);
        self.publish();
        self.core.end_overlap();
        self.core.apply(&mut self.table, self.now);
        self.publish();
    }

    fn publish(&mut self) {
        if let Some(publication) = self.table.publish() {
            self.published.push(publication.snapshot);
            self.changes.extend(publication.changes);
        }
    }

    /// Lets time pass, waking only when the core wants to be woken.
    fn passes(&mut self, time: Duration) {
        let end = self.now + time;
        let mut wakes = 0;
        while let Some(at) = self.core.soonest().filter(|&at| at <= end) {
            assert!(at >= self.now, "woken for the past");
            self.now = at;
            self.settle();
            wakes += 1;
            assert!(wakes < 10, "a busy loop");
        }
        self.now = end;
        self.settle();
    }

    fn ids(&self) -> Vec<&str> {
        self.table.iter().map(Peer::node_id).collect()
    }

    fn up(&self) -> Vec<&str> {
        self.table.iter().filter(|peer| peer.is_up()).map(Peer::node_id).collect()
    }

    fn get(&self, node_id: &str) -> &Peer {
        self.table.get(node_id).unwrap()
    }

    fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }
}

fn service() -> ServiceType {
    "t".parse().unwrap()
}

fn peer(node_id: &str, endpoints: &[&str]) -> Peer {
    let endpoints = endpoints.iter().map(|text| text.parse().unwrap());
    Peer::builder(node_id, &service()).endpoints(endpoints).build().unwrap()
}

fn joined(node_id: &str) -> Change {
    Change::Joined(peer(node_id, &["10.0.0.1:80"]))
}

fn left(node_id: &str, reason: LeaveReason) -> Change {
    Change::Left { peer: peer(node_id, &["10.0.0.1:80"]), reason }
}

fn suspect(peer: &Peer, why: SuspectWhy) -> Peer {
    peer.with_state(PeerState::Suspect { since: Instant::now(), why })
}

#[test]
fn d098_one_id_in_two_sources_is_one_peer_until_both_dropped_it() {
    let mut bed = Bed::new(Mode::Union, &[1, 0]);
    let pairs = |pairs: &[(&str, &str)]| Metadata::new(pairs.iter().copied()).unwrap();
    let worse =
        peer("a", &["10.0.0.1:80", "10.0.0.2:80"]).to_builder().metadata(pairs(&[("zone", "w"), ("x", "w")]));
    let worse = worse.source(SourceId::Static).build().unwrap();
    let best = peer("a", &["10.0.0.2:80", "10.0.0.3:80"]).to_builder().metadata(pairs(&[("zone", "b")]));
    let best = best.source(SourceId::Mdns).origin("a._t._tcp.local.").build().unwrap();

    bed.says(0, [Change::Joined(worse.clone())]);
    assert_eq!(bed.get("a").priority(), 1, "that of the source");
    assert_eq!(bed.get("a").addresses(), worse.addresses());
    bed.says(1, [Change::Joined(best.clone())]);
    let both = bed.get("a");
    assert_eq!(both.addresses(), peer("a", &["10.0.0.2:80", "10.0.0.3:80", "10.0.0.1:80"]).addresses());
    assert_eq!(*both.metadata(), pairs(&[("zone", "b"), ("x", "w")]));
    assert_eq!(
        (both.priority(), both.source(), both.also_from()),
        (0, &SourceId::Mdns, &[SourceId::Static][..])
    );
    assert_eq!(both.origin(), "a._t._tcp.local.");
    assert_eq!(bed.ids(), ["a"]);

    let own = best.to_builder().priority(7).build().unwrap();
    bed.says(1, [Change::Updated { old: best.clone(), new: own }]);
    assert_eq!(bed.get("a").priority(), 7, "its own comes before that of the source");

    bed.take_changes();
    bed.says(1, [left("a", LeaveReason::Goodbye)]);
    assert_eq!(bed.get("a").addresses(), worse.addresses());
    assert!(matches!(bed.take_changes().as_slice(), [Change::Updated { .. }]));
    bed.says(0, [left("a", LeaveReason::Expired)]);
    assert_eq!(bed.ids(), [""; 0]);
    let changes = bed.take_changes();
    assert!(matches!(changes.as_slice(), [Change::Left { reason: LeaveReason::Expired, .. }]), "{changes:?}");
}

#[test]
fn d098_up_if_anybody_says_so_and_seen_when_anybody_saw() {
    let mut bed = Bed::new(Mode::Union, &[0, 1]);
    let (first, second) = (peer("a", &["10.0.0.1:80"]), peer("a", &["10.0.0.2:80"]));
    bed.says(0, [Change::Joined(first.clone())]);
    bed.says(1, [Change::Joined(second.clone())]);
    bed.says(0, [Change::Suspected(suspect(&first, SuspectWhy::Withdrawn))]);
    assert!(bed.get("a").is_up());
    let doubtful = suspect(&second, SuspectWhy::Silent);
    bed.says(1, [Change::Suspected(doubtful)]);
    assert!(matches!(bed.get("a").state(), PeerState::Suspect { why: SuspectWhy::Withdrawn, .. }));
    bed.says(1, [Change::Cleared(second.clone())]);
    assert!(bed.get("a").is_up());

    let later = Instant::now() + Duration::from_secs(100);
    let published = bed.published.last().unwrap().clone();
    second.heard(later);
    assert_eq!(published.get("a").unwrap().last_seen(), later, "without a new snapshot");
}

#[test]
fn d098_a_replaced_peer_is_replaced_in_the_merge_too() {
    let mut bed = Bed::new(Mode::Union, &[0]);
    bed.says(0, [joined("a")]);
    bed.take_changes();
    let other = peer("a", &["10.0.0.9:80"]);
    bed.says(0, [left("a", LeaveReason::Replaced), Change::Joined(other)]);
    let changes = bed.take_changes();
    assert!(
        matches!(changes.as_slice(), [Change::Left { reason: LeaveReason::Replaced, .. }, Change::Joined(_)]),
        "{changes:?}"
    );
}

#[test]
fn conflicts_and_status_pass_through_a_merge() {
    let mut bed = Bed::new(Mode::Union, &[0, 1]);
    bed.take_changes();
    let claim = |origin: &str| Claim::new(SourceId::Mdns, origin, None);
    let conflict = Change::Conflict { node_id: "a".into(), kept: claim("x"), refused: claim("y") };
    bed.says(1, [conflict.clone()]);
    assert_eq!(bed.take_changes(), [conflict]);

    bed.says(1, [Change::Status(Status::NoInterface)]);
    let reports = [SourceReport::new("s0", Status::Ready), SourceReport::new("s1", Status::NoInterface)];
    let degraded = Status::degraded(Trouble::Sources(reports.into()), bed.now);
    assert_eq!(bed.table.status(), &degraded);
    assert_eq!(degraded.to_string(), "s0 works; s1: no interface is usable");
    let first = bed.now;
    bed.passes(Duration::from_secs(1));
    let since = |bed: &Bed| match bed.table.status() {
        Status::Degraded { since, .. } => Some(*since),
        _ => None,
    };
    bed.says(0, [Change::Status(Status::degraded(Trouble::ManyForMdns, bed.now))]);
    assert_eq!(since(&bed), Some(first), "since the first trouble");
    bed.says(0, [Change::Status(Status::Ready)]);
    bed.says(1, [Change::Status(Status::Ready)]);
    assert_eq!(since(&bed), None);
    bed.says(1, [Change::Status(Status::NoInterface)]);
    assert_eq!(since(&bed), Some(bed.now), "new trouble");

    bed.says(0, [Change::Status(Status::NoInterface)]);
    assert_eq!(bed.table.status(), &Status::NoInterface);
    bed.says(0, [Change::Status(Status::Starting)]);
    bed.says(1, [Change::Status(Status::Ready)]);
    assert_eq!(bed.table.status(), &Status::Ready, "one that starts is no trouble");
}

#[test]
fn d100_a_source_that_ended_keeps_its_set_and_is_in_doubt_after_5_min() {
    let mut bed = Bed::new(Mode::Union, &[0, 1]);
    bed.says(0, [joined("a"), joined("b")]);
    bed.says(1, [joined("b"), joined("c")]);
    bed.says(0, [left("a", LeaveReason::Stopped), left("b", LeaveReason::Stopped)]);
    assert_eq!(bed.up(), ["a", "b", "c"]);
    assert_eq!(bed.table.status().as_str(), "degraded");
    bed.passes(KEPT - Duration::from_nanos(1));
    assert_eq!(bed.up(), ["a", "b", "c"]);
    bed.passes(Duration::from_nanos(1));
    assert_eq!(bed.up(), ["b", "c"], "b is known from elsewhere");
    assert!(matches!(bed.get("a").state(), PeerState::Suspect { why: SuspectWhy::SourceLost, .. }));
    bed.passes(KEPT * 10);
    assert_eq!(bed.ids(), ["a", "b", "c"]);
    assert_eq!(bed.core.soonest(), None);
}

#[test]
fn d100_a_source_that_errs_is_in_doubt_after_5_min_and_believed_again_when_it_works() {
    let mut bed = Bed::new(Mode::Union, &[0]);
    bed.says(0, [joined("a")]);
    let missing = |now| Change::Status(Status::degraded(Trouble::FileMissing, now));
    bed.says(0, [missing(bed.now)]);
    bed.passes(KEPT - Duration::from_secs(1));
    let invalid = Trouble::FileInvalid { line: 1, column: 1, why: "x".into() };
    bed.says(0, [Change::Status(Status::degraded(invalid, bed.now))]);
    assert_eq!(bed.up(), ["a"]);
    bed.passes(Duration::from_secs(1));
    assert_eq!((bed.ids(), bed.up().len()), (vec!["a"], 0), "other trouble is trouble still");
    bed.take_changes();
    bed.says(0, [joined("b"), Change::Status(Status::Ready)]);
    assert_eq!(bed.up(), ["a", "b"]);
    let changes = bed.take_changes();
    assert!(
        changes.iter().any(|change| matches!(change, Change::Cleared(peer) if peer.node_id() == "a")),
        "{changes:?}"
    );

    // Trouble that does not blind is no reason for doubt.
    bed.says(0, [Change::Status(Status::degraded(Trouble::ManyForMdns, bed.now))]);
    bed.passes(KEPT * 2);
    assert_eq!(bed.up(), ["a", "b"]);
}

#[test]
fn a_resync_says_everything_anew() {
    let mut bed = Bed::new(Mode::Union, &[0]);
    bed.says(0, [joined("a"), joined("b")]);
    let peers = vec![peer("b", &["10.0.0.9:80"]), peer("c", &["10.0.0.1:80"])];
    let snapshot = Snapshot::from_sorted_by_node_id(9, peers, Status::Ready);
    bed.says(0, [Change::Lagged(3), Change::Resync(snapshot)]);
    assert_eq!(bed.ids(), ["b", "c"]);
    assert_eq!(bed.get("b").address().to_string(), "10.0.0.9:80");
    let stopped = Snapshot::empty(10, Status::Stopped);
    bed.says(0, [Change::Lagged(3), Change::Resync(stopped)]);
    assert_eq!(bed.up(), ["b", "c"], "it ended, which says nothing about the peers");
}

#[test]
fn d099_failover_turns_down_after_3_s_and_back_after_5_s() {
    let mut bed = Bed::new(Mode::Failover, &[0, 1]);
    bed.says(0, [joined("a"), joined("b")]);
    bed.says(1, [joined("x")]);
    assert_eq!(bed.ids(), ["a", "b"]);

    bed.says(0, [left("a", LeaveReason::Goodbye)]);
    assert_eq!(bed.ids(), ["b"], "one is enough");
    let published = bed.published.len();
    bed.says(0, [left("b", LeaveReason::Goodbye)]);
    assert_eq!((bed.ids(), bed.up().len()), (vec!["b"], 0), "the last one is held, in doubt");
    bed.passes(DOWN - Duration::from_nanos(1));
    assert_eq!((bed.core.active(), bed.ids()), (0, vec!["b"]));
    bed.passes(Duration::from_nanos(1));
    assert_eq!((bed.core.active(), bed.ids(), bed.up()), (1, vec!["x"], vec!["x"]));
    let lists: Vec<Vec<&str>> = bed.published[published..]
        .iter()
        .map(|snapshot| snapshot.peers().iter().map(Peer::node_id).collect())
        .collect();
    assert_eq!(lists, [vec!["b"], vec!["b", "x"], vec!["x"]], "both sets in one version");

    bed.says(0, [joined("c")]);
    bed.passes(Duration::from_secs(4));
    bed.says(0, [left("c", LeaveReason::Goodbye)]);
    bed.says(0, [joined("c")]);
    bed.passes(BACK - Duration::from_nanos(1));
    assert_eq!((bed.core.active(), bed.ids()), (1, vec!["x"]), "5 s without a break");
    bed.passes(Duration::from_nanos(1));
    assert_eq!((bed.core.active(), bed.ids()), (0, vec!["c"]));
    assert!(bed.published.iter().rev().take(2).all(|snapshot| snapshot.get("b").is_none()), "b is long gone");
    let emptied =
        bed.published.iter().filter(|snapshot| snapshot.version() > 1 && snapshot.peers().is_empty());
    assert_eq!(emptied.count(), 0, "no moment without peers");
}

#[test]
fn d099_peers_in_doubt_do_not_count_and_are_shown() {
    let mut bed = Bed::new(Mode::Failover, &[0, 1]);
    let first = peer("a", &["10.0.0.1:80"]);
    bed.says(0, [Change::Joined(first.clone())]);
    bed.says(1, [joined("x")]);
    bed.says(0, [Change::Suspected(suspect(&first, SuspectWhy::Silent))]);
    bed.passes(Duration::from_secs(2));
    bed.says(0, [Change::Cleared(first.clone())]);
    bed.passes(Duration::from_secs(2));
    assert_eq!((bed.core.active(), bed.up()), (0, vec!["a"]), "it came back in time");
    bed.says(0, [Change::Suspected(suspect(&first, SuspectWhy::Silent))]);
    bed.passes(DOWN);
    assert_eq!((bed.core.active(), bed.ids()), (1, vec!["x"]));
}

#[test]
fn d099_without_an_alternative_the_truth_is_shown_in_the_end() {
    let mut bed = Bed::new(Mode::Failover, &[0, 1]);
    bed.says(0, [joined("a")]);
    bed.says(0, [left("a", LeaveReason::Goodbye)]);
    assert_eq!(bed.ids(), ["a"]);
    bed.passes(DOWN);
    assert_eq!(bed.ids(), [""; 0]);
    assert_eq!(bed.core.soonest(), None);
    // Now the first that comes is taken at once.
    bed.says(1, [joined("x")]);
    assert_eq!((bed.core.active(), bed.ids()), (1, vec!["x"]));
}

#[test]
fn d099_a_list_that_is_replaced_is_no_break() {
    let mut bed = Bed::new(Mode::Failover, &[1, 0, 2]);
    bed.says(1, [joined("a")]);
    bed.says(2, [joined("x")]);
    assert_eq!((bed.core.active(), bed.ids()), (1, vec!["a"]), "by priority, not by position");
    bed.passes(Duration::from_secs(60));
    let published = bed.published.len();
    bed.says(1, [left("a", LeaveReason::Removed), joined("b")]);
    bed.passes(Duration::from_secs(60));
    assert_eq!((bed.core.active(), bed.ids(), bed.published.len()), (1, vec!["b"], published + 1));
}

#[test]
fn d099_two_switches_before_a_version_is_out_leave_nothing_behind() {
    let mut bed = Bed::new(Mode::Failover, &[0, 1, 2]);
    bed.says(0, [joined("a")]);
    bed.says(1, [joined("x")]);
    bed.says(2, [joined("y")]);
    // Both end without a peer, one right after the other.
    for at in [0, 1] {
        let last = if at == 0 { "a" } else { "x" };
        bed.core.change(at, 9, left(last, LeaveReason::Goodbye), bed.now);
        bed.core.ended(at, None, bed.now);
        bed.core.apply(&mut bed.table, bed.now);
    }
    bed.settle();
    assert_eq!((bed.core.active(), bed.ids()), (2, vec!["y"]));
    assert_eq!(bed.published.last().map(|snapshot| snapshot.peers().len()), Some(1));
}

#[test]
fn d099_a_source_that_could_not_start_is_not_waited_for() {
    let mut bed = Bed::new(Mode::Failover, &[0, 1]);
    bed.core.ended(0, Some("no".into()), bed.now);
    bed.says(1, [joined("x")]);
    assert_eq!((bed.core.active(), bed.ids()), (1, vec!["x"]));
}

proptest::proptest! {
    /// Whatever the sources say in whatever order, a union is what an independent model makes of their lists.
    #[test]
    fn d098_a_union_is_the_union_of_what_the_sources_said(
        script in proptest::collection::vec((0usize..3, 0u8..6, 0u8..4), 1..60),
    ) {
        let mut bed = Bed::new(Mode::Union, &[2, 0, 1]);
        let mut model: [std::collections::BTreeMap<String, Peer>; 3] = Default::default();
        for (at, id, action) in script {
            let node_id = format!("n{id}");
            let known = model[at].get(&node_id).cloned();
            let fresh = peer(&node_id, &[&format!("10.0.{at}.{action}:80")]);
            let change = match (known, action) {
                (None, _) => { model[at].insert(node_id, fresh.clone()); Change::Joined(fresh) }
                (Some(old), 0) => { model[at].remove(&node_id); Change::Left { peer: old, reason: LeaveReason::Expired } }
                (Some(old), 1) => {
                    let new = suspect(&old, SuspectWhy::Silent);
                    model[at].insert(node_id, new.clone());
                    Change::Suspected(new)
                }
                (Some(old), _) => { model[at].insert(node_id, fresh.clone()); Change::Updated { old, new: fresh } }
            };
            bed.says(at, [change]);
            for id in 0..6 {
                let node_id = format!("n{id}");
                // Best priority first.
                let said: Vec<&Peer> = [1, 2, 0].iter().filter_map(|&at| model[at].get(&node_id)).collect();
                let shown = bed.table.get(&node_id);
                proptest::prop_assert_eq!(shown.is_some(), !said.is_empty());
                if let Some(shown) = shown {
                    let endpoints: Vec<_> = said.iter().map(|peer| peer.address().clone()).collect();
                    proptest::prop_assert_eq!(shown.addresses(), endpoints);
                    proptest::prop_assert_eq!(shown.is_up(), said.iter().any(|peer| peer.is_up()));
                }
            }
        }
    }
}
