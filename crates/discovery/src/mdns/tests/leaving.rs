//! Rules 8 to 11 and §6.5: goodbyes, lost interfaces, complaints.

use super::*;

/// A peer that is listed and answers every browse after 40 ms.
fn with_living(labels: &[&str]) -> Script {
    let mut script = Script::new();
    for label in labels {
        script.resolved(record(label));
        script.world.push((record(label), 40));
    }
    script.until(5_000);
    script.log.clear();
    script
}

/// A peer that is listed and answers nothing.
fn with_dead(labels: &[&str]) -> Script {
    let mut script = with_living(labels);
    script.world.clear();
    script
}

#[test]
fn d070_a_withdrawn_peer_that_answers_was_never_gone() {
    let mut script = with_living(&["p1"]);
    script.removed("p1");
    assert_eq!(script.news(), ["5000 suspected p1 withdrawn"]);
    assert_eq!(script.ids(), ["p1"], "in doubt it stays listed");
    script.until(20_000);
    assert_eq!(script.log, ["5041 cleared p1"]);
    assert_eq!(script.browses, [0, 5_001], "one fresh browse was enough");
}

#[test]
fn d070_an_answer_250_ms_later_is_in_time() {
    let mut script = with_dead(&["p1"]);
    script.removed("p1");
    script.later(5_250, Input::Resolved(record("p1")));
    script.until(20_000);
    assert_eq!(script.news(), ["5000 suspected p1 withdrawn", "5250 cleared p1"]);
}

#[test]
fn d071_sv_m14_silence_in_the_window_after_a_withdrawal_is_a_goodbye() {
    // The window is 300 ms and 1 ms for each peer, from the start of the fresh browse at 5001.
    let mut script = with_dead(&["p1"]);
    script.removed("p1");
    script.until(20_000);
    assert_eq!(script.news(), ["5000 suspected p1 withdrawn", "5302 left p1 goodbye"], "SV-M14");

    let labels: Vec<String> = (0..100).map(|i| format!("p{i}")).collect();
    let mut script = with_living(&labels.iter().map(String::as_str).collect::<Vec<_>>());
    script.world.retain(|(r, _)| r.full_name != full("p7"));
    script.removed("p7");
    script.until(20_000);
    assert_eq!(script.news(), ["5000 suspected p7 withdrawn", "5401 left p7 goodbye"]);
}

#[test]
fn d071_the_window_ends_at_1300_ms_whatever_the_number_of_peers() {
    let mut script = Script::with(|o| o.max_peers = 1_024);
    for i in 0..1_020 {
        script.resolved(record(&format!("p{i}")));
        script.world.push((record(&format!("p{i}")), 40));
    }
    script.until(5_000);
    script.log.clear();
    script.world.remove(3);
    script.removed("p3");
    script.until(9_000);
    assert_eq!(script.news(), ["5000 suspected p3 withdrawn", "6301 left p3 goodbye"]);
}

#[test]
fn d071_with_old_evidence_the_reason_is_expired() {
    for (silent_for, reason) in [(99_000, "goodbye"), (101_000, "expired")] {
        let mut script = with_dead(&["p1"]);
        // The last evidence is from the start.
        script.until(silent_for);
        script.log.clear();
        script.removed("p1");
        script.until(silent_for + 1_000);
        let left = format!("{} left p1 {reason}", silent_for + 302);
        assert_eq!(script.news().last(), Some(&left));
    }
}

#[test]
fn d071_who_has_just_spoken_has_longer_to_answer() {
    // A responder repeats a record once a second at most, so this one may stay silent until 6.1 s.
    let mut script = with_dead(&["p1"]);
    script.resolved(record("p1"));
    script.removed("p1");
    script.later(6_090, Input::Resolved(record("p1")));
    script.until(20_000);
    assert_eq!(script.news(), ["5000 suspected p1 withdrawn", "6090 cleared p1"]);
}

#[test]
fn s127_d072_a_peer_that_answers_calls_survives_its_withdrawal() {
    let mut script = with_dead(&["p1"]);
    for second in (5..=65).step_by(5) {
        script.later(second * 1_000, Input::Report("p1".into(), Report::Alive));
    }
    script.later(6_000, Input::Removed(full("p1")));
    script.until(100_000);
    assert_eq!(
        script.news(),
        ["6000 suspected p1 withdrawn", "75000 left p1 goodbye"],
        "ten seconds after the last call that it answered"
    );
    let asked = script.browses.iter().filter(|ms| (10_000..70_000).contains(*ms)).count();
    assert!((5..=7).contains(&asked), "asked for again every ten seconds: {:?}", script.browses);
}

#[test]
fn d072_a_complaint_ends_the_stay_of_a_peer_that_is_missing() {
    let mut script = with_dead(&["p1"]);
    script.report("p1", Report::Alive);
    script.removed("p1");
    script.later(8_000, Input::Report("p1".into(), Report::Unreachable));
    script.until(20_000);
    assert_eq!(script.news(), ["5000 suspected p1 withdrawn", "8000 left p1 unreachable"]);
}

#[test]
fn d074_a_hundred_withdrawals_in_ten_milliseconds_are_one_fresh_browse() {
    let labels: Vec<String> = (0..100).map(|i| format!("p{i}")).collect();
    let mut script = with_dead(&labels.iter().map(String::as_str).collect::<Vec<_>>());
    for (i, label) in labels.iter().enumerate() {
        script.later(5_000 + i as u64 / 10, Input::Removed(full(label)));
    }
    script.until(20_000);
    let news = script.news();
    assert_eq!(script.browses, [0, 5_001]);
    assert_eq!(news.iter().filter(|n| n.contains("left") && n.contains("goodbye")).count(), 100);
    assert!(script.ids().is_empty());
}

#[test]
fn t03_sm_the_second_of_two_goodbyes_in_one_second_is_doubted_soon() {
    // The library reports a goodbye a second after it was said. The fresh browse that confirms the first makes it
    // forget the second, so only the silence of that one can tell.
    let mut script = with_dead(&["p1", "p2"]);
    script.world.push((record("p3"), 40));
    script.resolved(record("p3"));
    script.later(6_000, Input::Removed(full("p1")));
    script.until(20_000);
    assert_eq!(
        script.news(),
        [
            "5000 joined p3",
            "6000 suspected p1 withdrawn",
            "6304 left p1 goodbye",
            "7301 suspected p2 silent",
            "11001 left p2 silent"
        ]
    );
}

#[test]
fn one_that_answers_late_is_doubted_and_cleared() {
    let mut script = with_dead(&["p1"]);
    script.resolved(record("slow"));
    script.world.push((record("slow"), 1_600));
    script.later(7_000, Input::Removed(full("p1")));
    script.until(30_000);
    assert_eq!(
        script.news(),
        [
            "5000 joined slow",
            "7000 suspected p1 withdrawn",
            "7303 left p1 goodbye",
            "8301 suspected slow silent",
            "8601 cleared slow"
        ]
    );
}

#[test]
fn d055_sm_an_interface_that_goes_and_comes_back_costs_nobody() {
    let mut script = with_dead(&["p1", "p2"]);
    script.later(6_000, Input::Interfaces(Arc::new(no_network())));
    script.later(6_001, Input::Removed(full("p1")));
    script.later(10_000, Input::Interfaces(Arc::new(lan())));
    script.later(10_900, Input::Resolved(record("p1")));
    script.later(10_900, Input::Resolved(record("p2")));
    script.until(60_000);
    assert_eq!(
        script.news(),
        [
            "6000 suspected p1 source_lost",
            "6000 suspected p2 source_lost",
            "10900 cleared p1",
            "10900 cleared p2"
        ]
    );
}

#[test]
fn d055b_sm_an_interface_that_stays_away_takes_its_peers_after_30_s() {
    let mut script = with_dead(&["p1"]);
    script.later(6_000, Input::Interfaces(Arc::new(no_network())));
    // Asking goes on meanwhile, and proves nothing.
    script.later(8_000, Input::Refresh);
    script.until(60_000);
    assert_eq!(script.news(), ["6000 suspected p1 source_lost", "36000 left p1 silent"]);
}

#[test]
fn d056_sm_an_address_that_changes_is_an_update() {
    let mut script = with_dead(&["p1"]);
    script.resolved(Record { addresses: heard(&["10.0.0.11", "10.0.0.44"]), ..record("p1") });
    script.later(6_000, Input::Resolved(Record { addresses: heard(&["10.0.0.44"]), ..record("p1") }));
    script.until(7_000);
    assert_eq!(script.news(), ["5000 updated p1", "6000 updated p1"]);
    assert_eq!(script.addresses("p1"), ["10.0.0.44:9999"]);
}

#[test]
fn our_own_new_network_decides_anew_which_addresses_are_on_the_link() {
    let mut script = with_living(&["p1"]);
    script.world.clear();
    let renumbered = table(vec![iface(LINK, "eth0", &[("10.9.0.1", 24)], Verdict::Used)]);
    script.input(Input::Interfaces(Arc::new(renumbered)));
    script.later(5_500, Input::Resolved(Record { addresses: heard(&["10.9.0.11"]), ..record("p1") }));
    script.until(20_000);
    assert_eq!(script.news(), ["5500 updated p1"], "a second without a usable address is not told");
}

#[test]
fn a_peer_without_a_usable_address_for_a_second_is_in_doubt() {
    let mut script = with_dead(&["p1"]);
    script.resolved(Record { addresses: heard(&["8.8.8.8"]), ..record("p1") });
    script.until(20_000);
    assert_eq!(script.news(), ["6000 suspected p1 withdrawn", "6401 left p1 goodbye"]);
}

#[test]
fn d053_sm_an_unreachable_peer_that_does_not_answer_leaves_in_two_seconds() {
    let mut script = with_dead(&["p1"]);
    script.report("p1", Report::Unreachable);
    assert_eq!(script.news(), ["5000 suspected p1 unreachable"], "in doubt at once");
    script.until(20_000);
    assert_eq!(script.log, ["7000 left p1 unreachable"]);
    assert_eq!(script.verified, [(5_000, full("p1"))]);
}

#[test]
fn d054_sm_complaints_about_a_living_peer_are_one_verification() {
    let mut script = with_living(&["p1"]);
    for i in 0..20 {
        script.later(5_000 + i * 50, Input::Report("p1".into(), Report::Unreachable));
    }
    script.until(20_000);
    assert_eq!(script.news(), ["5000 suspected p1 unreachable", "7300 cleared p1"]);
    assert_eq!(script.verified, [(5_000, full("p1"))]);
}

#[test]
fn d054_sm_a_dotted_label_is_verified_by_a_fresh_browse() {
    // For such a label the library would ask for a wrong name, and drop a live peer.
    let living = Record { full_name: full("a.b"), ..record("dotted") };
    let mut script = Script::new();
    script.resolved(living.clone());
    script.world.push((living, 1_100));
    script.until(5_000);
    script.log.clear();
    for i in 0..20 {
        script.later(5_000 + i * 50, Input::Report("dotted".into(), Report::Unreachable));
    }
    script.until(20_000);
    assert_eq!(script.news(), ["5000 suspected dotted unreachable", "6101 cleared dotted"]);
    assert_eq!((script.verified.len(), script.browses.len()), (0, 2));

    script.world.clear();
    script.later(30_000, Input::Report("dotted".into(), Report::Unreachable));
    script.until(40_000);
    assert_eq!(
        script.news(),
        ["30000 suspected dotted unreachable", "32001 left dotted unreachable"],
        "two seconds from the start of that browse"
    );
}

#[test]
fn a_complaint_right_after_a_verification_waits_for_its_turn() {
    let mut script = with_living(&["p1"]);
    script.report("p1", Report::Unreachable);
    script.later(8_000, Input::Report("p1".into(), Report::Unreachable));
    script.until(20_000);
    assert_eq!(
        script.news(),
        [
            "5000 suspected p1 unreachable",
            "7300 cleared p1",
            "8000 suspected p1 unreachable",
            "12300 cleared p1"
        ]
    );
    assert_eq!(script.verified, [(5_000, full("p1")), (10_000, full("p1"))], "five seconds apart");
}

#[test]
fn an_answered_call_takes_a_complaint_back() {
    let mut script = with_dead(&["p1"]);
    script.report("p1", Report::Unreachable);
    script.later(5_500, Input::Report("p1".into(), Report::Alive));
    script.until(8_000);
    assert_eq!(script.news()[..2], ["5000 suspected p1 unreachable", "5500 cleared p1"]);
}

#[test]
fn a_fresh_browse_in_the_middle_of_a_verification_decides_it() {
    // The library forgets what it was verifying; the peer has two seconds to answer the browse.
    let mut script = with_dead(&["p1"]);
    script.report("p1", Report::Unreachable);
    script.later(6_000, Input::Refresh);
    script.until(20_000);
    assert_eq!(script.news(), ["5000 suspected p1 unreachable", "8001 left p1 unreachable"]);

    let mut script = with_living(&["p1"]);
    script.report("p1", Report::Unreachable);
    script.later(6_000, Input::Refresh);
    script.until(20_000);
    assert_eq!(script.news(), ["5000 suspected p1 unreachable", "6041 cleared p1"]);
}

#[test]
fn d061_d063_sm_a_goodbye_takes_only_the_one_that_said_it() {
    // The library reports neighbours on a shared host name as removed, too.
    let mut script = with_living(&["p1", "p2"]);
    script.world.retain(|(r, _)| r.full_name != full("p1"));
    script.later(6_000, Input::Removed(full("p1")));
    script.later(6_000, Input::Removed(full("p2")));
    script.until(20_000);
    let news = script.news();
    assert_eq!(news.iter().filter(|n| n.contains("left")).collect::<Vec<_>>(), ["6303 left p1 goodbye"]);
    assert!(news.contains(&"6041 cleared p2".to_owned()), "{news:?}");
}

#[test]
fn reports_about_nobody_do_nothing() {
    let mut script = with_living(&["p1"]);
    script.report("nobody", Report::Unreachable);
    script.report("", Report::Alive);
    script.until(20_000);
    assert_eq!(script.news(), [""; 0]);
}
