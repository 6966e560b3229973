//! Rules that compare: with the others, or with a part of all outcomes (B-3.3).

use peerage_balance::{Health, Outcome, Rule, What};

use crate::health::{Peers, call, is_out, with};
use crate::model::{MS, SECOND};

/// So many calls of that peer, without anybody being looked at for them after the first failure.
fn calls(balancer: &Peers, index: usize, good: usize, failed: usize) {
    (0..good).for_each(|_| call(balancer, index, Outcome::Success, 0));
    (0..failed).for_each(|_| call(balancer, index, Outcome::Soft, 0));
}

/// Compares, and has no other rule for soft failures.
fn comparing() -> Peers {
    comparing_of(10)
}

fn comparing_of(n: usize) -> Peers {
    with(n, Health::default().statistical(true).failed_share(1.0, 1_000_000).unwrap())
}

fn notices(balancer: &Peers) -> Vec<What> {
    balancer.take_notices().into_iter().map(|notice| notice.what).collect()
}

#[test]
fn b_3_3_a_peer_that_fails_more_often_than_the_others_is_out_if_asked_for() {
    for on in [false, true] {
        let balancer = with(10, Health::default().statistical(on));
        for index in (0..10).filter(|index| *index != 3) {
            calls(&balancer, index, 100, 0);
        }
        calls(&balancer, 3, 90, 9);
        // It was looked at with fewer than 100 outcomes, and is left alone for a while after that.
        call(&balancer, 3, Outcome::Soft, 50 * MS);
        assert!(!is_out(&balancer, 3, 50 * MS));
        call(&balancer, 3, Outcome::Soft, SECOND / 2);
        assert_eq!(is_out(&balancer, 3, SECOND / 2), on, "11 of 101, and nobody else fails");
        let rules = notices(&balancer).into_iter().filter_map(|what| match what {
            What::Ejected { rule, .. } => Some(rule),
            _ => None,
        });
        assert_eq!(rules.collect::<Vec<_>>(), if on { vec![Rule::Statistical] } else { vec![] });
    }
}

#[test]
fn b_3_3_the_share_that_takes_a_peer_out_is_a_setting() {
    for (share, outcomes, failures) in [(0.25, 8, 2), (1.0, 3, 3), (1.0, 1, 1)] {
        let balancer = with(10, Health::default().failed_share(share, outcomes).unwrap());
        (failures..outcomes).for_each(|_| call(&balancer, 3, Outcome::Success, 0));
        for failure in 1..=failures {
            assert!(!is_out(&balancer, 3, 0), "{failure} of {outcomes}");
            call(&balancer, 3, Outcome::Soft, 0);
        }
        assert!(is_out(&balancer, 3, 0), "{failures} of {outcomes}");
    }
}

#[test]
fn b_3_3_the_runs_that_take_a_peer_out_are_settings() {
    let health = Health::default;
    for count in [1, 3, 7, 1_000] {
        for (outcome, health) in [
            (Outcome::Dial, health().dial_failures(count).unwrap()),
            (Outcome::Hard, health().hard_failures(count).unwrap()),
        ] {
            // No share of them is a reason of its own.
            let balancer = with(10, health.failed_share(1.0, 1_000_000).unwrap());
            for failure in 1..=count {
                assert!(!is_out(&balancer, 3, 0), "{outcome:?} {failure} of {count}");
                call(&balancer, 3, outcome, 0);
            }
            assert!(is_out(&balancer, 3, 0), "{outcome:?} {count}");
        }
    }
}

#[test]
fn b_10_1_each_rule_has_its_word() {
    let words = [Rule::Dial, Rule::HardRun, Rule::Ratio, Rule::Statistical, Rule::Probe].map(Rule::as_str);
    assert_eq!(words, ["dial", "hard_run", "ratio", "statistical", "probe"]);
}

#[test]
fn b_3_3_one_among_many_that_fail_is_far_from_them_by_their_spread() {
    let balancer = comparing();
    (0..10).filter(|index| *index != 3).for_each(|index| calls(&balancer, index, 40, 60));
    calls(&balancer, 3, 30, 70);
    notices(&balancer);
    call(&balancer, 3, Outcome::Soft, SECOND / 2);
    // Nine at 0.4 and one at 0.3 are 2.8 deviations apart. The guard knows that all of them fail.
    assert_eq!(notices(&balancer), [What::SparedByGuard]);
}

#[test]
fn b_3_3_who_does_as_all_do_is_not_far_from_them() {
    let balancer = comparing();
    (0..10).filter(|index| *index != 3).for_each(|index| calls(&balancer, index, 50, 50));
    calls(&balancer, 3, 50, 49);
    notices(&balancer);
    call(&balancer, 3, Outcome::Soft, SECOND / 2);
    assert_eq!(notices(&balancer), [], "each has 50 of 100, and no deviation");
}

#[test]
fn b_3_3_the_guard_ends_at_twice_the_share_of_the_others() {
    for (failed_before, spared) in [(1, true), (2, false)] {
        // Others fail in 10 of 100. With ten calls like theirs, 2 of 9 are 3 of 19 and 3 of 10 are 4 of 20.
        let balancer = with(10, Health::default().failed_share(0.2, 9).unwrap());
        calls(&balancer, 0, 5, 1);
        (1..10).filter(|index| *index != 3).for_each(|index| calls(&balancer, index, 10, 1));
        calls(&balancer, 8, 5, 1);
        calls(&balancer, 3, 7, failed_before);
        notices(&balancer);
        call(&balancer, 3, Outcome::Soft, SECOND / 2);
        assert_eq!(is_out(&balancer, 3, SECOND / 2), !spared, "{failed_before} and one");
    }
}

#[test]
fn b_3_3_five_peers_are_enough_to_tell_who_is_far_from_all_of_them() {
    // Four of rate 1 and one of rate 0 have their mean at 0.8 and a deviation of 0.4: it is two below.
    for (n, failed, is_out_then) in [(4, [0; 4], false), (5, [0; 4], true), (5, [0, 0, 20, 40], false)] {
        let balancer = comparing_of(n);
        (1..n).for_each(|index| calls(&balancer, index, 100 - failed[index - 1], failed[index - 1]));
        calls(&balancer, 0, 1, 99);
        call(&balancer, 0, Outcome::Soft, SECOND / 2);
        assert_eq!(is_out(&balancer, 0, SECOND / 2), is_out_then, "{n} peers, {failed:?} of 100 failed");
    }
}
