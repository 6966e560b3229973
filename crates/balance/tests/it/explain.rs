//! Why a pick went where it went (B-10.3).

use std::sync::Arc;

use peerage_balance::{Balancer, How, LeaveOut, Outcome, PickInput, Policy, Settings, What};

use crate::model::{MS, SECOND, peer};

fn balancer(policy: Policy) -> Balancer<usize> {
    let balancer = Balancer::new(Settings { policy, seed: Some(1), ..Settings::default() });
    balancer.update(0, (0..3).map(peer));
    balancer
}

#[test]
fn b_10_3_a_pick_shows_both_candidates_and_what_kept_the_others_out() {
    let balancer = balancer(Policy::PeakEwma);
    let members = balancer.set().members().to_vec();
    for _ in 0..2 {
        let mut lease = balancer.pick_by(&PickInput::new(0), |_| Some(2)).unwrap();
        balancer.head(&mut lease, Outcome::Dial, 0);
    }
    let mut slow = balancer.pick_by(&PickInput::new(0), |_| Some(1)).unwrap();
    slow.sent(0);
    balancer.head(&mut slow, Outcome::Success, 80 * MS);

    let explained = balancer.pick_explained(&PickInput::new(100 * MS));
    let (lease, why) = (explained.picked.unwrap(), explained.why);
    assert_eq!(*lease.peer(), 0, "the faster one");
    assert_eq!(
        (why.policy(), why.steps(), why.chosen()),
        (Policy::PeakEwma, &[How::All][..], Some(members[0].key()))
    );
    let [a, b] = why.candidates() else { panic!("{why}") };
    let (fast, slow) = if a.key == *members[0].key() { (a, b) } else { (b, a) };
    assert!(!fast.is_sampled && slow.is_sampled && slow.pending == 1 && slow.age.abs_diff(20 * MS) < MS);
    assert!(slow.estimate.abs_diff(80 * MS) < MS && slow.cost > 0.8 * fast.cost && fast.cost < slow.cost);
    let text = why.to_string();
    assert!(text.starts_with("picked peer-0 by peak_ewma, among all\n"), "{text}");
    for part in [
        "peer-1: takes 79.8",
        "1 calls, 100 % succeed, weight 1, cost 159.",
        "peer-0: is guessed to take 29.7",
        "peer-2 is ejected for another ",
    ] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
}

#[test]
fn b_10_3_each_way_to_a_peer_has_its_name() {
    let balancer = balancer(Policy::RoundRobin);
    for _ in 0..2 {
        let mut lease = balancer.pick_by(&PickInput::new(0), |_| Some(2)).unwrap();
        balancer.head(&mut lease, Outcome::Dial, 0);
    }
    let probe = balancer.pick_explained(&PickInput::new(2 * SECOND).repeatable(true));
    assert_eq!(probe.why.steps(), [How::Probe]);
    drop(probe);
    let mut tried = LeaveOut::default();
    balancer.set().members().iter().for_each(|member| tried.add(member.key()));
    let again = balancer.pick_explained(&PickInput::new(0).without(&tried));
    assert_eq!(again.why.steps().last(), Some(&How::TriedAgain));
    let text = again.why.to_string();
    assert!(text.contains(" by round_robin, among all, one that was tried already"), "{text}");
    let members = balancer.set().members().to_vec();
    members.iter().for_each(|member| balancer.not_identified(member, 20 * MS));
    let nobody = balancer.pick_explained(&PickInput::new(20 * MS));
    assert!(nobody.picked.is_err());
    let text = nobody.why.to_string();
    assert!(
        text.starts_with("picked nobody by round_robin") && text.contains("peer-1 did not prove who it is"),
        "{text}"
    );
    assert!(!text.contains("one that"), "nobody was found in any way: {text}");
}

#[test]
fn b_10_3_a_candidate_that_is_drawn_again_is_told_once() {
    let balancer = balancer(Policy::PeakEwma);
    let mut tried = LeaveOut::default();
    balancer.set().members().iter().for_each(|member| tried.add(member.key()));
    for _ in 0..20 {
        let again = balancer.pick_explained(&PickInput::new(0).without(&tried));
        let mut keys: Vec<_> = again.why.candidates().iter().map(|one| one.key.as_str()).collect();
        let drawn = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert!(drawn >= 2 && keys.len() == drawn, "{}", again.why);
    }
}

#[test]
fn b_2_5_a_trial_that_succeeds_makes_up_for_an_old_estimate_and_nothing_else_does() {
    let now = 16 * SECOND;
    for (is_trial, outcome, is_afresh) in
        [(true, Outcome::Success, true), (true, Outcome::Soft, false), (false, Outcome::Success, false)]
    {
        let balancer = balancer(Policy::PeakEwma);
        let stalled = Arc::clone(&balancer.set().members()[1]);
        let by_hand = |now| balancer.pick_by(&PickInput::new(now), |_| Some(1)).unwrap();
        let mut slow = by_hand(0);
        slow.sent(0);
        balancer.head(&mut slow, Outcome::Success, 10 * SECOND);
        drop(slow);
        let tried = || {
            let picks = (0..10_000).map(|_| balancer.pick_explained(&PickInput::new(now).repeatable(true)));
            let trial = picks.into_iter().find(|pick| pick.why.steps().contains(&How::Trial));
            trial.expect("one of a hundred").picked.unwrap()
        };
        let mut lease = if is_trial { tried() } else { by_hand(now) };
        assert_eq!(*lease.peer(), 1);
        lease.sent(now);
        balancer.head(&mut lease, outcome, now + 5 * MS);
        let estimate = stalled.state().estimate(now + 5 * MS);
        // 10 s are 5.5 s by now.
        let is_new = estimate.abs_diff(5 * MS) < MS;
        assert!(is_new || estimate > 5 * SECOND, "{estimate}");
        assert_eq!(is_new, is_afresh, "{outcome:?} of a trial: {is_trial}; {estimate}");
    }
}

#[test]
fn b_10_3_notices_tell_the_life_of_a_peer_and_are_counted() {
    let balancer = balancer(Policy::RoundRobin);
    for _ in 0..2 {
        let mut lease = balancer.pick_by(&PickInput::new(0), |_| Some(2)).unwrap();
        balancer.head(&mut lease, Outcome::Dial, 0);
    }
    let mut lease = balancer.pick(&PickInput::new(2 * SECOND).repeatable(true)).unwrap();
    balancer.head(&mut lease, Outcome::Success, 2 * SECOND);
    balancer.update(3 * SECOND, (0..2).map(peer));
    assert!(balancer.has_notices());
    let notices = balancer.take_notices();
    let of_2 = notices.iter().filter(|n| n.key.as_ref().is_some_and(|key| key.as_str() == "peer-2"));
    let words: Vec<_> = of_2.map(|notice| notice.what.as_str()).collect();
    assert_eq!(words, ["joined", "ejected", "probing", "back", "left"]);
    assert!(!balancer.has_notices() && balancer.take_notices().is_empty());
    let counters = balancer.counters();
    assert_eq!((counters.ejections, counters.probes, counters.probes_succeeded), (1, 1, 1));
    for i in 0..3_000 {
        balancer.throttled(&balancer.set().members()[0].clone(), None, i * 2 * SECOND);
    }
    assert_eq!(balancer.take_notices().len(), 1_024, "bounded");
    assert!(balancer.counters().notices_lost >= 1_900);
    assert!(matches!(notices[0].what, What::Joined));
}
