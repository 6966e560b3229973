//! What checks of a peer and the peer itself say, and who hears of it (B-3.5, B-3.7).

use std::collections::HashSet;

use peerage_balance::{Flags, PickInput, What};

use crate::health::{member, peers};
use crate::model::{MS, SECOND};

#[test]
fn b_3_5_a_throttle_that_goes_on_is_told_of_once() {
    let balancer = peers(3);
    balancer.take_notices();
    for (now, until) in [(0, 2 * SECOND), (SECOND, 4 * SECOND), (5 * SECOND, 6 * SECOND)] {
        balancer.throttle(&member(&balancer, 0), until, now);
        assert_eq!(member(&balancer, 0).state().until(now), Some(until));
    }
    let told: Vec<_> = balancer.take_notices().into_iter().map(|notice| (notice.at, notice.what)).collect();
    let throttled = |at, until| (at, What::Throttled { until });
    assert_eq!(told, [throttled(0, 2 * SECOND), throttled(5 * SECOND, 6 * SECOND)]);
}

#[test]
fn b_3_7_each_change_of_the_verdict_is_told_of_once_and_picks_follow_it() {
    let balancer = peers(3);
    balancer.take_notices();
    let mut now = 0;
    let mut after = |passed, checks| {
        for _ in 0..checks {
            // A set is made anew 10 ms after the last one at the earliest.
            now += 20 * MS;
            balancer.checked(&member(&balancer, 0), passed, now);
        }
        let picks = (0..30).map(|_| *balancer.pick(&PickInput::new(now)).unwrap().peer());
        let picks = picks.collect::<HashSet<_>>();
        (picks, balancer.take_notices().into_iter().map(|notice| notice.what).collect::<Vec<_>>())
    };
    let (all, others) = (HashSet::from([0, 1, 2]), HashSet::from([1, 2]));
    assert_eq!(after(true, 9), (all.clone(), vec![]), "it was up before");
    assert_eq!(after(false, 2), (all.clone(), vec![]));
    assert_eq!(after(false, 1), (others.clone(), vec![What::Down]));
    assert_eq!(after(false, 9), (others.clone(), vec![]));
    assert_eq!(after(true, 1), (others, vec![]));
    assert_eq!(after(true, 1), (all, vec![What::Up]));
}

#[test]
fn b_3_7_what_a_peer_says_of_itself_is_believed_at_once() {
    let balancer = peers(3);
    let told = |serves, now| {
        balancer.told(&member(&balancer, 0), serves, now);
        member(&balancer, 0).state().flags(now).contains(Flags::DOWN)
    };
    let says = [true, false, false, true, false, true, true];
    let down: Vec<_> = (1..).zip(says).map(|(i, serves)| told(serves, i * SECOND)).collect();
    assert_eq!(down, says.map(|serves| !serves));
}
