//! The demo, as the README's first command.

use crate::kit::{run, text};

#[test]
fn the_demo_ends_well_with_one_peer_killed_and_one_hung() {
    let output = run(&["--json", "demo"]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}\n{}", text(&output.stderr));
    for step in ["1 certificates", "1 gateway", "2 services", "3 calls", "4 trouble", "5 gateway", "6 git"] {
        assert!(said.contains(&format!("\"step\":\"{step}\"")), "{step} is not shown: {said}");
    }
    let summary =
        said.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()).next_back();
    let summary = summary.expect("a summary");
    assert_eq!(summary["calls"], 6_000);
    assert_eq!(summary["failed"], 0);
}
