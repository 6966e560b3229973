//! Rules 12 to 14: full lists, their rhythm, and when silence proves nothing.

use super::*;
use crate::{Status, Trouble};

fn adaptive() -> Script {
    Script::with(|o| o.resync = Resync::Adaptive)
}

#[test]
fn d073_a_peer_that_is_missing_in_a_fresh_browse_leaves_after_five_seconds() {
    let mut script = Script::new();
    script.resolved(record("p1"));
    script.resolved(record("p2"));
    script.world.push((record("p2"), 4_900));
    script.until(10_000);
    script.log.clear();
    script.input(Input::Refresh);
    script.until(30_000);
    assert_eq!(script.news(), ["15001 left p1 silent"]);
}

#[test]
fn d052_sm_a_peer_that_died_quietly_leaves_within_40_s_among_few_and_75_s_among_many() {
    for (others, latest) in [(0_u32, 40_000), (49, 40_000), (60, 75_000)] {
        let mut script = adaptive();
        for i in 0..others {
            script.resolved(record(&format!("o{i}")));
            script.world.push((record(&format!("o{i}")), 50));
        }
        script.resolved(record("p1"));
        // It dies just after it answered a browse.
        script.world.push((record("p1"), 50));
        script.until(120_000);
        script.log.clear();
        let last_answer = *script.browses.last().unwrap() + 50;
        script.world.retain(|(r, _)| r.full_name != full("p1"));
        script.until(300_000);
        let news = script.news();
        assert_eq!(news.len(), 1, "only this one leaves: {news:?}");
        let (ms, what) = news[0].split_once(' ').unwrap();
        assert_eq!(what, "left p1 silent");
        let took = ms.parse::<u64>().unwrap() - last_answer;
        assert!(took <= latest, "{took} ms among {others} others");
    }
}

#[test]
fn d062_sm_the_rhythm_is_30_s_up_to_50_peers_and_60_s_above() {
    for (peers, least, most) in [(50, 27_000, 33_100), (51, 54_000, 66_100)] {
        let mut script = adaptive();
        for i in 0..peers {
            script.resolved(record(&format!("p{i}")));
            script.world.push((record(&format!("p{i}")), 50));
        }
        script.until(600_000);
        let gaps: Vec<u64> = script.browses.windows(2).map(|w| w[1] - w[0]).skip(1).collect();
        assert!(gaps.iter().all(|g| (least..=most).contains(g)), "{peers}: {gaps:?}");
        let mut distinct = gaps.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert!(distinct.len() > 2, "spread, so that many processes do not ask at once: {gaps:?}");
    }
}

#[test]
fn the_rhythm_can_be_chosen_down_to_five_seconds() {
    let mut script = Script::with(|o| o.resync = Resync::Every(Duration::from_secs(1)));
    script.until(60_000);
    let gaps: Vec<u64> = script.browses.windows(2).map(|w| w[1] - w[0]).collect();
    assert!(gaps.iter().all(|g| (4_500..=5_600).contains(g)), "{gaps:?}");

    let mut script = Script::new();
    script.until(600_000);
    assert_eq!(script.browses, [0], "or never");
}

#[test]
fn d060_sm_a_peer_that_the_library_withdraws_every_two_minutes_never_leaves() {
    // Hosts of reference peers do not answer address questions: 119 s after an announcement the library gives up.
    let mut script = adaptive();
    script.resolved(record("ref"));
    script.world.push((record("ref"), 60));
    script.later(119_000, Input::Removed(full("ref")));
    script.later(238_000, Input::Removed(full("ref")));
    script.until(300_000);
    let news = script.news();
    assert_eq!(news.iter().filter(|n| n.contains("left")).count(), 0, "{news:?}");
    assert_eq!(news.iter().filter(|n| n.contains("suspected")).count(), 2, "{news:?}");
    assert_eq!(news.iter().filter(|n| n.contains("cleared")).count(), 2, "{news:?}");
}

#[test]
fn d076_sm_what_the_old_browse_still_says_counts() {
    let mut script = Script::new();
    script.says_stopped = false;
    script.until(2_000);
    script.input(Input::Refresh);
    script.later(2_300, Input::Resolved(record("late")));
    script.until(2_400);
    assert_eq!(script.ids(), ["late"]);
    assert_eq!(script.browses, [0], "the next browse waits for the library's word");
    script.until(3_000);
    assert_eq!(script.browses, [0, 2_500], "or half a second");
}

#[test]
fn d075_sm_after_twenty_losses_nobody_of_300_has_left() {
    let mut script = adaptive();
    for i in 0..300 {
        script.resolved(record(&format!("p{i:03}")));
        script.world.push((record(&format!("p{i:03}")), 50));
    }
    script.until(10_000);
    script.log.clear();
    // The burst takes the answers of most of them away.
    let world = std::mem::take(&mut script.world);
    for _ in 0..20 {
        script.lose();
        let ms = script.ms();
        script.removed("p007");
        script.until(ms + 1_500);
        assert!(script.shared.machine.is_frozen(script.now));
    }
    let last = script.ms();
    script.until(last + 50_000);
    assert!(script.shared.machine.is_frozen(script.now), "frozen until 60 s after the third-last");
    script.world = world;
    script.until(last + 61_000);
    assert!(!script.shared.machine.is_frozen(script.now), "then it is normal again");
    let thaw = *script.browses.last().unwrap();
    assert!(thaw <= last + 60_000, "and everybody is asked: {thaw}");
    script.until(last + 120_000);
    let news = script.news();
    assert_eq!(news.iter().filter(|n| n.contains("left")).count(), 0, "{news:?}");
    assert_eq!(script.ids().len(), 300);
}

#[test]
fn rule_14_one_loss_freezes_for_eight_seconds_and_complaints_still_count() {
    let mut script = Script::new();
    for label in ["gone", "dead", "p1"] {
        script.resolved(record(label));
    }
    script.world.push((record("p1"), 40));
    script.until(10_000);
    script.log.clear();
    script.lose();
    script.later(11_000, Input::Removed(full("gone")));
    script.later(11_000, Input::Report("dead".into(), Report::Unreachable));
    script.until(18_000);
    let news = script.news();
    assert_eq!(
        news,
        [
            "11000 suspected dead unreachable",
            "11000 suspected gone withdrawn",
            "11309 cleared gone",
            "13300 left dead unreachable"
        ],
        "only a failed verification removes a peer"
    );
    // At 18 s the freeze ends with a fresh browse, and the silent one is found out.
    script.until(30_000);
    assert_eq!(script.news(), ["23001 left gone silent"]);
}

#[test]
fn d086_sm_a_daemon_that_is_gone_leaves_the_list_as_it_is() {
    let mut script = Script::new();
    script.resolved(record("p1"));
    script.world.push((record("p1"), 40));
    script.until(2_000);
    // In the middle of a fresh browse and a verification.
    script.input(Input::Refresh);
    script.report("p1", Report::Unreachable);
    script.removed("p1");
    script.until(2_010);
    script.input(Input::Down);
    script.browse.daemon_down();
    script.steps.clear();
    script.until(65_000);
    assert_eq!(
        script.news(),
        ["0 joined p1", "2000 suspected p1 unreachable"],
        "without a daemon nobody is judged"
    );
    let action = script.browse.daemon_up(script.now);
    script.act(action);
    script.until(80_000);
    assert_eq!(script.news(), ["65045 cleared p1"]);
}

#[test]
fn status_texts_of_trouble_exist_for_each_kind() {
    for what in [Trouble::EventOverflow, Trouble::ManyForMdns, Trouble::DaemonLost, Trouble::NoSocket] {
        let status = Status::degraded(what, Instant::now());
        assert!(!status.to_string().is_empty());
    }
}

#[test]
fn before_silence_takes_anybody_away_the_library_is_asked_for_all_that_it_knows() {
    // A forged goodbye right after a browse began makes a record that the living peer then renews: the library tells
    // nothing of that, as the record is not new.
    let mut script = Script::new();
    script.resolved(record("p1"));
    script.until(5_000);
    script.removed("p1");
    script.hidden.push(record("p1"));
    script.until(20_000);
    assert_eq!(script.news(), ["0 joined p1", "5000 suspected p1 withdrawn", "5254 cleared p1"]);
    assert_eq!(script.peeks, [5_252], "50 ms before the end of the window");

    // The same for the judgement of a browse, and for a verification by a browse.
    let mut script = Script::new();
    script.resolved(record("p1"));
    script.until(5_000);
    script.hidden.push(record("p1"));
    script.input(Input::Refresh);
    script.until(20_000);
    assert_eq!((script.news(), script.peeks.clone()), (vec!["0 joined p1".to_owned()], vec![4_950 + 5_001]));

    let dotted = Record { full_name: full("a.b"), ..record("p1") };
    let mut script = Script::new();
    script.resolved(dotted.clone());
    script.until(5_000);
    script.hidden.push(dotted);
    script.report("p1", Report::Unreachable);
    script.until(20_000);
    assert_eq!(script.news(), ["0 joined p1", "5000 suspected p1 unreachable", "6953 cleared p1"]);
}

#[test]
fn lost_packets_make_silence_void_and_everybody_is_asked_again() {
    let mut script = Script::new();
    for label in ["judged", "withdrawn"] {
        script.resolved(record(label));
    }
    script.until(5_000);
    script.log.clear();
    script.removed("withdrawn");
    // What the look shows, each time it is made.
    for ms in [5_253, 9_952] {
        script.schedule(script.at(ms), Step::Lossy);
    }
    script.until(10_100);
    assert_eq!(
        script.news(),
        [
            "5000 suspected withdrawn withdrawn",
            "5303 cleared withdrawn",
            "6301 suspected judged silent",
            "6301 suspected withdrawn silent",
            "10001 cleared judged",
            "10001 cleared withdrawn"
        ]
    );
    // Without losses the next browses decide.
    script.until(40_000);
    let left: Vec<String> = script.news().into_iter().filter(|n| n.contains("left")).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn d010_sm_a_browse_that_knows_one_family_first_changes_nothing() {
    let both = Record { addresses: heard(&["10.0.0.11", "fe80::5"]), ..record("p1") };
    let only_v6 = Record { addresses: heard(&["fe80::5"]), ..record("p1") };
    let mut script = Script::new();
    script.resolved(both.clone());
    script.until(5_000);
    script.input(Input::Refresh);
    script.later(5_060, Input::Resolved(only_v6.clone()));
    script.later(6_090, Input::Resolved(both));
    script.until(10_000);
    assert_eq!(script.news(), ["0 joined p1"]);

    // It is believed when the other family does not come, and at any other time at once.
    script.input(Input::Refresh);
    script.later(10_060, Input::Resolved(only_v6.clone()));
    script.until(14_000);
    assert_eq!(script.news(), ["11506 updated p1"]);
    script.resolved(Record { addresses: heard(&["10.0.0.11", "fe80::5"]), ..record("p1") });
    script.later(14_100, Input::Resolved(only_v6));
    script.until(14_200);
    assert_eq!(script.news(), ["14005 updated p1", "14100 updated p1"]);
}
