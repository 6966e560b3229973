//! Several sources as one (discovery §12).

use std::sync::Arc;

use peerage_discovery::{
    Change, Discovery, DiscoveryError, Grade, LeaveReason, Merge, Peer, Report, StaticDiscovery, StaticPeer,
    Status, Trouble,
};
use tokio::time::Instant;

use crate::common::{Failing, LIMIT, Vanishing, entries, fixed, ids, next, service, trouble, until};

fn arc(discovery: impl Discovery) -> Arc<dyn Discovery> {
    Arc::new(discovery)
}

#[tokio::test]
async fn d098_a_union_follows_its_sources() {
    let (first, second) = (Arc::new(fixed(&["a", "b"])), Arc::new(fixed(&["b", "c"])));
    let merge = Merge::union([(first.clone() as Arc<dyn Discovery>, 0), (second.clone(), 1)]).unwrap();
    assert_eq!(merge.snapshot().version(), 0);
    merge.start().unwrap();
    assert_eq!(ids(&merge.snapshot()), ["a", "b", "c"]);
    assert_eq!(merge.status(), Status::Ready);
    let b = merge.get("b").unwrap();
    assert_eq!(b.addresses(), ["10.0.0.1:2".parse().unwrap(), "10.0.0.1:1".parse().unwrap()]);
    let priorities: Vec<u16> = merge.peers().iter().map(Peer::priority).collect();
    assert_eq!(priorities, [0, 0, 1]);

    first.set(entries(&["a"])).unwrap();
    let snapshot =
        until(&merge, |snapshot| snapshot.get("b").is_some_and(|b| b.addresses().len() == 1)).await;
    assert_eq!(ids(&snapshot), ["a", "b", "c"], "the other still has it");
    second.set(entries(&["c"])).unwrap();
    assert_eq!(ids(&until(&merge, |snapshot| snapshot.peers().len() == 2).await), ["a", "c"]);

    merge.report("c", Report::Unreachable);
    until(&merge, |snapshot| snapshot.suspect_count() == 1).await;
    assert!(merge.wait_ready(2, Instant::now()).await.is_err());
    merge.report("c", Report::Alive);
    assert_eq!(ids(&merge.wait_ready(2, Instant::now() + LIMIT).await.unwrap()), ["a", "c"]);
    assert!(merge.get("c").unwrap().last_alive().is_some());
}

#[tokio::test]
async fn d098_stopping_a_merge_stops_its_sources() {
    let source = Arc::new(fixed(&["a"]));
    let merge = Merge::union([(source.clone() as Arc<dyn Discovery>, 0), (arc(fixed(&["b"])), 0)]).unwrap();
    merge.start().unwrap();
    assert_eq!(merge.start(), Err(DiscoveryError::AlreadyStarted));
    let mut subscription = merge.subscribe();
    assert!(matches!(next(&mut subscription).await, Some(Change::Resync(_))));
    merge.stop().await;
    assert_eq!((source.status(), merge.status()), (Status::Stopped, Status::Stopped));
    for _ in 0..2 {
        let left = next(&mut subscription).await;
        assert!(matches!(left, Some(Change::Left { reason: LeaveReason::Stopped, .. })), "{left:?}");
    }
    assert_eq!(next(&mut subscription).await, None);
    assert_eq!(merge.start(), Err(DiscoveryError::Stopped));
}

#[tokio::test]
async fn d099_failover_uses_the_first_that_works() {
    let (first, second) = (Arc::new(fixed(&["a"])), Arc::new(fixed(&["x"])));
    let merge = Merge::failover([(first.clone() as Arc<dyn Discovery>, 0), (second.clone(), 1)]).unwrap();
    merge.start().unwrap();
    assert_eq!(ids(&merge.snapshot()), ["a"]);
    // The last one stays, in doubt, until the switch 3 s later; that is in the tests with a clock of their own.
    first.set([]).unwrap();
    let held = until(&merge, |snapshot| snapshot.suspect_count() == 1).await;
    assert_eq!(ids(&held), ["a"]);
    first.set(entries(&["b"])).unwrap();
    assert_eq!(ids(&until(&merge, |snapshot| snapshot.get("b").is_some()).await), ["b"]);
}

#[tokio::test]
async fn d100_one_source_that_fails_to_start_is_only_trouble() {
    for panics in [false, true] {
        let merge = Merge::union([(arc(Failing::new(panics)), 0), (arc(fixed(&["a"])), 1)]).unwrap();
        merge.start().unwrap();
        assert_eq!(ids(&merge.snapshot()), ["a"]);
        let said = if panics {
            "failing: the source failed: a source panicked: as it was told; static works"
        } else {
            "failing: the source failed: the discovery backend is busy; static works"
        };
        let Status::Degraded { what: Trouble::Sources(reports), .. } = merge.status() else {
            panic!("{:?}", merge.status())
        };
        assert_eq!(reports.len(), 2);
        assert_eq!(trouble(&merge.status()), said);
        // What is asked of all reaches those that work.
        merge.refresh();
        merge.report("a", Report::Unreachable);
        until(&merge, |snapshot| snapshot.suspect_count() == 1).await;
        merge.stop().await;
    }
}

#[tokio::test]
async fn d100_require_all_starts_all_or_nothing() {
    let good = Arc::new(fixed(&["a"]));
    let sources = [(good.clone() as Arc<dyn Discovery>, 0), (arc(Failing::new(false)), 1)];
    let merge = Merge::union(sources).unwrap().require_all();
    let error = merge.start().unwrap_err();
    let DiscoveryError::SourcesFailed { failed, source } = &error else { panic!("{error:?}") };
    assert_eq!((failed.len(), &*failed[0].name, &**source), (1, "failing", &DiscoveryError::Busy));
    assert_eq!(good.status(), Status::Stopped, "nothing is left running");
    assert_eq!(merge.status(), Status::Stopped);

    let merge = Merge::union([(arc(Failing::new(false)), 0), (arc(Failing::new(true)), 0)]).unwrap();
    let error = merge.start().unwrap_err();
    assert_eq!(error.code(), "sources_failed");
    let both = "not every source could be started: failing: the source failed: the discovery backend is busy; \
                failing 2: the source failed: a source panicked: as it was told";
    assert_eq!(error.to_string(), both);
}

#[tokio::test]
async fn d100_a_source_that_runs_already_is_as_good() {
    let source = Arc::new(fixed(&["a"]));
    source.start().unwrap();
    let merge = Merge::union([(source.clone() as Arc<dyn Discovery>, 0)]).unwrap().require_all();
    merge.start().unwrap();
    assert_eq!(ids(&merge.snapshot()), ["a"]);
    drop(merge);
    assert_eq!(source.peer_count(), 1, "dropping a merge is no word to its sources");
}

#[tokio::test]
async fn d100_a_source_that_ends_by_itself_keeps_what_it_said() {
    let ended = Arc::new(fixed(&["a"]));
    let other = Arc::new(fixed(&["b"]));
    let merge = Merge::union([(ended.clone() as Arc<dyn Discovery>, 0), (other.clone(), 1)]).unwrap();
    merge.start().unwrap();
    ended.stop().await;
    let snapshot = until(&merge, |snapshot| snapshot.status().trouble().is_some()).await;
    assert_eq!((ids(&snapshot), snapshot.peer_count()), (vec!["a", "b"], 2));
    assert_eq!(trouble(snapshot.status()), "static: the source failed: it ended; static 2 works");
}

/// A source from elsewhere that drops everything and tells nobody.
#[tokio::test]
async fn d100_a_source_that_vanishes_keeps_what_it_said() {
    let vanishing = Arc::new(Vanishing::default());
    let merge = Merge::union([(vanishing.clone() as Arc<dyn Discovery>, 0)]).unwrap();
    merge.start().unwrap();
    assert_eq!((ids(&merge.snapshot()), merge.status()), (vec!["a"], Status::Ready));
    vanishing.0.lock().unwrap().take();
    let snapshot = until(&merge, |snapshot| snapshot.status().trouble().is_some()).await;
    assert_eq!((ids(&snapshot), snapshot.peer_count()), (vec!["a"], 1));
    assert_eq!(trouble(snapshot.status()), "vanishing: the source failed: it ended");
}

#[test]
fn d101_sources_of_a_merge_are_of_one_service_type() {
    let other = StaticDiscovery::new("other", [StaticPeer::new("10.0.0.1:80")]).unwrap();
    let error = Merge::union([(arc(fixed(&[])), 0), (arc(other), 1)]).unwrap_err();
    let rule = "is not the service type of the first source";
    assert_eq!(error, DiscoveryError::InvalidSource { part: "_other._tcp".to_owned(), rule });
    assert_eq!(Merge::failover([]).unwrap_err().code(), "invalid_source");
}

#[tokio::test]
async fn a_diagnosis_tells_of_every_source() {
    let merge = Merge::union([(arc(Failing::new(false)), 0), (arc(fixed(&["a", "b\u{202e}"])), 1)]).unwrap();
    merge.start().unwrap();
    let diagnosis = merge.diagnose().await;
    let findings: Vec<_> = diagnosis
        .findings
        .iter()
        .map(|found| (found.grade, found.subject.as_str(), found.text.as_str()))
        .collect();
    let trouble = "failing: the source failed: the discovery backend is busy; static works";
    let expected = [
        (Grade::Warning, "status", trouble),
        (Grade::Good, "peers", "2 up"),
        (Grade::Bad, "failing: status", "discovery was not started"),
        (Grade::Warning, "failing: peers", "none: discovery was not started"),
        (Grade::Good, "static: status", "discovery works"),
        (Grade::Good, "static: peers", "2 up"),
    ];
    assert_eq!(findings, expected);
    assert_eq!(diagnosis.verdict(), Grade::Bad);
    let text = diagnosis.to_string();
    assert!(text.starts_with("discovery of _t._tcp: bad\n  warning  status: failing:"), "{text}");
    assert_eq!(text.lines().count(), 7);
    assert_eq!(merge.service_type(), &service());
}
