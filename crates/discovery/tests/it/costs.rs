//! What reading costs. Times are in the example `figures`, on a machine that is told.

use allocation_counter::measure;
use peerage_discovery::{Discovery, Report};

use crate::common::started;

#[test]
fn d023_t08_reading_allocates_nothing() {
    let node_ids: Vec<String> = (0..1000).map(|at| format!("n{at:03}")).collect();
    let node_ids: Vec<&str> = node_ids.iter().map(String::as_str).collect();
    let discovery = started(&node_ids);
    // The first read of a thread sets up what `arc-swap` keeps per thread.
    drop(discovery.snapshot());
    // 1e5 of each instead of 1e6: an allocation would show in the first.
    let counted = measure(|| {
        for _ in 0..100_000 {
            assert_eq!(discovery.peers().len(), 1000);
            assert_eq!(discovery.peer_count(), 1000);
            assert_eq!(discovery.snapshot().version(), 1);
        }
    });
    assert_eq!((counted.count_total, counted.bytes_total), (0, 0));

    let counted = measure(|| {
        for _ in 0..1000 {
            assert!(discovery.get("n500").is_some());
            discovery.report("n500", Report::Alive);
            assert!(discovery.status().trouble().is_none());
        }
    });
    assert_eq!(counted.count_total, 0, "nor does a report of what is known");
}
