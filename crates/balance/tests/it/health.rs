//! Ejection, probes and panic (B-3).

use std::collections::HashSet;

use peerage_balance::{
    Announced, Balancer, Flags, Generator, Health, LeaveOut, Member, Outcome, Panic, PickErrorKind,
    PickInput, Policy, Rule, Settings, Weight, What, unit,
};

use crate::model::{MS, Model, SECOND, fails, ok, peer, seeds, usual};

pub(crate) type Peers = Balancer<usize>;

pub(crate) fn peers(n: usize) -> Peers {
    with(n, Health::default())
}

pub(crate) fn with(n: usize, health: Health) -> Peers {
    seeded(1, n, health)
}

fn seeded(seed: u64, n: usize, health: Health) -> Peers {
    let settings = Settings {
        policy: Policy::RoundRobin,
        seed: Some(seed),
        health: Some(health),
        ..Settings::default()
    };
    let balancer = Balancer::new(settings);
    balancer.update(0, (0..n).map(peer));
    balancer
}

/// A call to that peer, if picks give it.
fn try_call(balancer: &Peers, index: usize, outcome: Outcome, now: u64) -> bool {
    let by_hand = |peers: &[usize]| peers.iter().position(|peer| *peer == index);
    match balancer.pick_by(&PickInput::new(now), by_hand) {
        Ok(mut lease) => {
            lease.sent(now);
            balancer.head(&mut lease, outcome, now);
            true
        }
        Err(_) => false,
    }
}

pub(crate) fn call(balancer: &Peers, index: usize, outcome: Outcome, now: u64) {
    assert!(try_call(balancer, index, outcome, now), "peer {index} can be picked");
}

pub(crate) fn member(balancer: &Peers, index: usize) -> std::sync::Arc<Member<usize>> {
    std::sync::Arc::clone(balancer.set().members().iter().find(|m| *m.peer() == index).unwrap())
}

pub(crate) fn is_out(balancer: &Peers, index: usize, now: u64) -> bool {
    member(balancer, index).state().flags(now).contains(Flags::EJECTED)
}

fn probe(balancer: &Peers, outcome: Outcome, now: u64) -> Option<usize> {
    let mut lease = balancer.pick(&PickInput::new(now).repeatable(true)).unwrap();
    let is_probe = lease.is_probe();
    lease.sent(now);
    balancer.head(&mut lease, if is_probe { outcome } else { Outcome::Success }, now);
    is_probe.then(|| *lease.peer())
}

#[test]
fn b_3_3_two_dials_or_five_hard_failures_take_a_peer_out() {
    let rules = [(Outcome::Dial, 2, Rule::Dial), (Outcome::Hard, 5, Rule::HardRun)];
    for (seed, (outcome, count, rule)) in seeds().flat_map(|seed| rules.map(|rule| (seed, rule))) {
        let balancer = seeded(seed, 10, Health::default());
        for i in 1..=count {
            assert!(!is_out(&balancer, 3, 0), "{outcome:?} {i}, seed {seed}");
            call(&balancer, 3, outcome, 0);
        }
        assert!(is_out(&balancer, 3, 0));
        let ejected =
            balancer.take_notices().into_iter().find(|n| matches!(n.what, What::Ejected { .. })).unwrap();
        let What::Ejected { rule: fired, until } = ejected.what else { unreachable!() };
        assert_eq!(fired, rule);
        assert!((SECOND..=SECOND * 3 / 2).contains(&until), "{until}");
        let picks: HashSet<_> =
            (0..100).map(|_| *balancer.pick(&PickInput::new(0)).unwrap().peer()).collect();
        assert!(!picks.contains(&3) && picks.len() == 9);
    }
}

#[test]
fn b_3_3_a_success_ends_a_run_and_others_do_not_count() {
    let balancer = peers(10);
    for _ in 0..5 {
        for _ in 0..4 {
            call(&balancer, 3, Outcome::Hard, 0);
        }
        call(&balancer, 3, Outcome::Dial, 0);
        (0..9).for_each(|_| call(&balancer, 3, Outcome::Success, 0));
    }
    assert!(!is_out(&balancer, 3, 0));
    for outcome in
        [Outcome::Soft, Outcome::Ignored, Outcome::Throttled, Outcome::Cancelled, Outcome::Identity]
    {
        (0..10).for_each(|_| call(&balancer, 4, outcome, 0));
    }
    assert!(!is_out(&balancer, 4, 0), "10 soft failures are too few outcomes");
}

#[test]
fn b_3_3_half_of_twenty_outcomes_take_a_peer_out() {
    let balancer = peers(10);
    (0..10).for_each(|_| call(&balancer, 3, Outcome::Success, 0));
    (0..9).for_each(|_| call(&balancer, 3, Outcome::Soft, SECOND));
    assert!(!is_out(&balancer, 3, SECOND), "19 outcomes");
    call(&balancer, 3, Outcome::Soft, SECOND);
    assert!(is_out(&balancer, 3, SECOND), "10 of 20");

    let balancer = peers(10);
    (0..10).for_each(|_| call(&balancer, 3, Outcome::Success, 0));
    (0..19).for_each(|_| call(&balancer, 3, Outcome::Soft, 10 * SECOND));
    assert!(!is_out(&balancer, 3, 10 * SECOND), "the successes are of another ten seconds");
}

#[test]
fn b_3_3_the_guard_spares_a_peer_while_others_fail_as_well() {
    let balancer = peers(3);
    for index in [1, 2] {
        (0..4).for_each(|_| call(&balancer, index, Outcome::Hard, 0));
        (0..7).for_each(|_| call(&balancer, index, Outcome::Success, 0));
    }
    (0..8).for_each(|_| call(&balancer, 0, Outcome::Success, 0));
    (0..5).for_each(|_| call(&balancer, 0, Outcome::Hard, 0));
    assert!(!is_out(&balancer, 0, 0), "5 of 13 is less than twice 8 of 22");
    assert_eq!(balancer.counters().spared_by_guard, 1);
    call(&balancer, 0, Outcome::Hard, 99 * MS);
    assert_eq!(balancer.counters().spared_by_guard, 1, "not looked at again so soon");
    call(&balancer, 0, Outcome::Hard, 100 * MS);
    assert_eq!(balancer.counters().spared_by_guard, 2);
    for _ in 0..30 {
        call(&balancer, 0, Outcome::Hard, 200 * MS);
    }
    assert!(!is_out(&balancer, 0, 200 * MS));
    call(&balancer, 0, Outcome::Hard, 300 * MS);
    assert!(is_out(&balancer, 0, 300 * MS), "38 of 46 is more");
}

#[test]
fn b_3_8_the_most_that_are_out_at_once() {
    let sizes = [(1, 0), (2, 1), (3, 1), (4, 2), (10, 5)];
    for (seed, (n, most)) in seeds().flat_map(|seed| sizes.map(|size| (seed, size))) {
        for outcome in [Outcome::Dial, Outcome::Hard] {
            let balancer = seeded(seed, n, Health::default());
            for round in 0..20 {
                for index in 0..n {
                    try_call(&balancer, index, outcome, round * 100 * MS);
                }
                let out = (0..n).filter(|index| is_out(&balancer, *index, 0)).count();
                assert!(out <= most, "{out} of {n} out");
            }
            let out = (0..n).filter(|index| is_out(&balancer, *index, 0)).count();
            // What all of them do is nobody's fault.
            assert!(out == most || outcome == Outcome::Hard, "{out} of {n} peers");
            assert!(balancer.pick(&PickInput::new(2 * SECOND)).is_ok(), "somebody is left");
        }
    }
}

#[test]
fn b_3_8_the_last_eligible_peer_stays() {
    let balancer = peers(4);
    balancer.throttle(&member(&balancer, 0), 100 * SECOND, 0);
    balancer.quarantine(&member(&balancer, 1), 100 * SECOND, 0);
    (0..2).for_each(|_| call(&balancer, 2, Outcome::Dial, 20 * MS));
    assert!(is_out(&balancer, 2, 20 * MS));
    (0..9).for_each(|_| call(&balancer, 3, Outcome::Dial, 40 * MS));
    assert!(!is_out(&balancer, 3, 40 * MS), "two of four may be out, but nobody else is eligible");
}

#[test]
fn b_3_8_times_between_ejections_double_and_differ_between_clients() {
    let run = |seed, count| {
        let settings = Settings { policy: Policy::RoundRobin, seed: Some(seed), ..Settings::default() };
        let balancer: Peers = Balancer::new(settings);
        balancer.update(0, (0..3).map(peer));
        (0..2).for_each(|_| call(&balancer, 0, Outcome::Dial, 0));
        let mut times = Vec::new();
        let mut last = 0;
        let mut now = 0;
        while times.len() < count {
            now += 10 * MS;
            assert!(now < 600 * SECOND, "probes at {times:?} and no more");
            if probe(&balancer, Outcome::Dial, now) == Some(0) {
                times.push(now - last);
                last = now;
            }
        }
        times
    };
    let mut others = HashSet::new();
    for seed in seeds() {
        let times = run(seed, 8);
        for (time, seconds) in times.iter().zip([1, 2, 4, 8, 16, 32, 60, 60]) {
            let least = seconds * SECOND;
            assert!(
                (least..=least * 3 / 2 + 10 * MS).contains(time),
                "{time} after {seconds} s, seed {seed}"
            );
        }
        others.insert(times[0] / (10 * MS));
    }
    assert!(others.len() > 10, "clients do not stay in step: {others:?}");
}

#[test]
fn b_3_3_one_probe_at_a_time_and_none_that_may_not_be_repeated() {
    let balancer = peers(3);
    (0..2).for_each(|_| call(&balancer, 0, Outcome::Dial, 0));
    let now = 2 * SECOND;
    for _ in 0..100 {
        assert!(!balancer.pick(&PickInput::new(now)).unwrap().is_probe(), "it may not be repeated");
    }
    let repeatable = PickInput::new(now).repeatable(true);
    let probe = balancer.pick(&repeatable).unwrap();
    assert!(probe.is_probe() && *probe.peer() == 0);
    assert!(member(&balancer, 0).state().flags(now).contains(Flags::PROBING));
    for _ in 0..100 {
        assert!(!balancer.pick(&repeatable).unwrap().is_probe(), "one permit");
    }
    drop(probe);
    let again = balancer.pick(&repeatable).unwrap();
    assert!(again.is_probe(), "it was given back");
    drop(again);
    let mut tried = LeaveOut::default();
    tried.add(member(&balancer, 0).key());
    assert!(!balancer.pick(&repeatable.without(&tried)).unwrap().is_probe(), "the call has tried it");
    let later = PickInput::new(now + SECOND).repeatable(true);
    assert!(balancer.pick_by(&later, |_| Some(0)).unwrap().is_probe(), "pickers of the caller probe, too");
}

#[test]
fn b_3_3_a_probe_that_nobody_could_take_is_looked_for_again_after_10_ms() {
    let balancer = peers(3);
    (0..2).for_each(|_| call(&balancer, 0, Outcome::Dial, 0));
    let now = 2 * SECOND;
    let mut tried = LeaveOut::default();
    tried.add(member(&balancer, 0).key());
    let is_probe = |input: &PickInput<'_>| balancer.pick(input).unwrap().is_probe();
    assert!(!is_probe(&PickInput::new(now).repeatable(true).without(&tried)), "the call has tried it");
    assert!(!is_probe(&PickInput::new(now + 10 * MS - 1).repeatable(true)), "not each call looks at all");
    assert!(is_probe(&PickInput::new(now + 10 * MS).repeatable(true)));
}

#[test]
fn b_3_3_what_a_probe_says() {
    use Outcome::{Cancelled, Dial, Hard, Identity, Ignored, Soft, Success, Throttled};
    for (outcome, is_out_then, is_probed_again) in [
        (Success, false, false),
        (Soft, true, false),
        (Hard, true, false),
        (Dial, true, false),
        (Throttled, true, false),
        (Identity, true, false),
        (Ignored, true, true),
        (Cancelled, true, true),
    ] {
        let balancer = peers(3);
        (0..2).for_each(|_| call(&balancer, 0, Dial, 0));
        let now = 2 * SECOND;
        assert_eq!(probe(&balancer, outcome, now), Some(0));
        assert_eq!(is_out(&balancer, 0, now), is_out_then, "{outcome:?}");
        assert!(!member(&balancer, 0).state().flags(now).contains(Flags::PROBING), "{outcome:?}");
        assert_eq!(probe(&balancer, Success, now).is_some(), is_probed_again, "{outcome:?}");
    }
}

#[test]
fn b_3_3_a_permit_that_is_over_is_not_given_back_for_another() {
    let balancer = peers(3);
    let eject = |now| (0..2).for_each(|_| call(&balancer, 0, Outcome::Dial, now));
    let probe = |now| balancer.pick(&PickInput::new(now).repeatable(true)).unwrap();
    let is_probing = |now| member(&balancer, 0).state().flags(now).contains(Flags::PROBING);
    eject(0);
    let mut failed = probe(2 * SECOND);
    balancer.head(&mut failed, Outcome::Hard, 2 * SECOND);
    let of_old_address = probe(6 * SECOND);
    assert!(failed.is_probe() && of_old_address.is_probe());
    drop(failed);
    assert!(is_probing(6 * SECOND), "its outcome ended its permit");

    let moved = Announced { address: "192.0.2.9:9".into(), ..peer(0) };
    balancer.update(7 * SECOND, [moved, peer(1), peer(2)]);
    eject(7 * SECOND);
    let now = probe(9 * SECOND);
    assert!(now.is_probe());
    drop(of_old_address);
    assert!(is_probing(9 * SECOND), "the permit of another address is nobody's");
    drop(now);
    assert!(!is_probing(9 * SECOND));
}

#[test]
fn b_3_3_an_ejection_never_ends_by_itself() {
    let balancer = peers(3);
    (0..2).for_each(|_| call(&balancer, 0, Outcome::Dial, 0));
    assert!(is_out(&balancer, 0, 3_600 * SECOND));
    let picks = (0..300).map(|_| *balancer.pick(&PickInput::new(3_600 * SECOND)).unwrap().peer());
    assert!(picks.into_iter().all(|index| index != 0));
}

#[test]
fn b_3_3_without_calls_a_dial_is_the_probe_after_five_seconds() {
    let balancer = peers(3);
    assert_eq!(balancer.dial_probe_at(), None);
    (0..2).for_each(|_| call(&balancer, 0, Outcome::Dial, 0));
    let at = balancer.dial_probe_at().unwrap();
    assert!((6 * SECOND..=13 * SECOND / 2).contains(&at), "{at}");
    assert!(balancer.dial_probe(at - 1).is_none());
    assert_eq!(balancer.dial_probe_at(), Some(at), "to ask too early changes nothing");
    let mut lease = balancer.dial_probe(at).unwrap();
    assert!(lease.is_probe() && balancer.dial_probe(at).is_none(), "one permit");
    balancer.head(&mut lease, Outcome::Success, at + MS);
    assert!(!is_out(&balancer, 0, at + MS));
    assert!(balancer.take_notices().iter().any(|notice| notice.what == What::Back));
}

#[test]
fn b_3_3_ten_seconds_of_normal_service_make_up_for_one_ejection() {
    for (service, next) in
        [(0, 4), (10 * SECOND - 1, 4), (10 * SECOND, 2), (20 * SECOND, 1), (3_600 * SECOND, 1)]
    {
        let balancer = peers(3);
        (0..2).for_each(|_| call(&balancer, 0, Outcome::Dial, 0));
        assert_eq!(probe(&balancer, Outcome::Dial, 2 * SECOND), Some(0));
        assert_eq!(probe(&balancer, Outcome::Success, 6 * SECOND), Some(0), "it was out twice");
        let now = 6 * SECOND + service;
        (0..2).for_each(|_| call(&balancer, 0, Outcome::Dial, now));
        let lasts = member(&balancer, 0).state().until(now).unwrap() - now;
        assert!((next * SECOND..=next * SECOND * 3 / 2).contains(&lasts), "{lasts} after {service}");
    }
}

#[test]
fn b_3_3_a_peer_that_is_back_starts_slowly_and_afresh() {
    let balancer = peers(10);
    balancer.update(20 * SECOND, (0..10).map(peer));
    (0..5).for_each(|_| call(&balancer, 0, Outcome::Hard, 20 * SECOND));
    assert!(is_out(&balancer, 0, 20 * SECOND));
    let now = 22 * SECOND;
    assert_eq!(probe(&balancer, Outcome::Success, now), Some(0));
    let share = |now| {
        let picks = (0..10_000).filter(|_| *balancer.pick(&PickInput::new(now)).unwrap().peer() == 0);
        picks.count() as f64 / 1_000.0
    };
    let (at_once, later, full) = (share(now + 10 * MS), share(now + 5 * SECOND / 2), share(now + 5 * SECOND));
    assert!((at_once - 0.1).abs() < 0.05, "{at_once}");
    assert!((later - 0.5).abs() < 0.1, "{later}");
    assert!((full - 1.0).abs() < 0.01, "{full}");
    (0..4).for_each(|_| call(&balancer, 0, Outcome::Hard, now));
    assert!(!is_out(&balancer, 0, now), "its run began anew");
}

#[test]
fn b_3_8_failures_that_everybody_shares_eject_nobody() {
    for seed in seeds() {
        let mut model = Model::new(10, seed, Settings::default());
        model.calls(60_000, 1_000.0, 10, |_, _, random| {
            let took = usual(10.0 * MS as f64, random);
            if unit(random.next_u64()) < 0.3 { fails(took) } else { ok(took) }
        });
        let counters = model.balancer.counters();
        let by_rule = counters.ejections - (counters.probes - counters.probes_succeeded);
        assert!(by_rule <= 1, "seed {seed}: {counters:?}");
    }
}

#[test]
fn b_3_3_a_peer_that_fails_every_call_gets_five_and_a_few_probes() {
    for seed in seeds() {
        let mut model = Model::new(10, seed, Settings::default());
        model.calls(2_000, 1_000.0, 10, |_, _, random| ok(usual(10.0 * MS as f64, random)));
        // A success that is still under way would end the run.
        model.until(model.now + SECOND);
        let counts = model.calls(60_000, 1_000.0, 10, |peer, _, random| {
            if peer == 0 { fails(MS / 5) } else { ok(usual(10.0 * MS as f64, random)) }
        });
        println!("seed {seed}: a peer that fails every call got {} of 60,000", counts[0]);
        assert!((9..=12).contains(&counts[0]), "seed {seed}: {}", counts[0]);
    }
}

/// Whatever happened before, a peer that answers is eligible again within 60 s · 1.5 + 5 s.
#[test]
fn b_3_8_from_every_state_a_peer_that_answers_comes_back() {
    const OUTCOMES: [Outcome; 8] = [
        Outcome::Success,
        Outcome::Ignored,
        Outcome::Soft,
        Outcome::Hard,
        Outcome::Dial,
        Outcome::Throttled,
        Outcome::Identity,
        Outcome::Cancelled,
    ];
    for seed in 0..if cfg!(debug_assertions) { 200 } else { 2_000 } {
        let random = Generator::seeded(seed);
        let n = 1 + (seed % 5) as usize;
        let balancer = peers(n);
        let (mut now, mut held) = (0, Vec::new());
        for _ in 0..500 {
            let z = random.next_u64();
            now += z % [MS, 100 * MS, 5 * SECOND][(z >> 20) as usize % 3];
            match (z >> 30) % 12 {
                0 => balancer.throttled(&member(&balancer, (z >> 8) as usize % n), None, now),
                1 => balancer.not_identified(&member(&balancer, (z >> 8) as usize % n), now),
                2 => held.clear(),
                3 => {
                    let suspect = |i: usize| Announced { suspect: (z >> (40 + i)) & 1 == 1, ..peer(i) };
                    balancer.update(now, (0..n).map(suspect));
                }
                4 => held.extend(balancer.dial_probe(now)),
                5 => balancer.checked(&member(&balancer, (z >> 8) as usize % n), z & 1 == 1, now),
                _ => {
                    let input = PickInput::new(now).repeatable(z & 1 == 1);
                    if let Ok(mut lease) = balancer.pick(&input) {
                        assert!(
                            z & 1 == 1 || !lease.is_probe(),
                            "a probe may be lost: it must be repeatable"
                        );
                        lease.sent(now);
                        if z & 2 == 2 {
                            balancer.head(&mut lease, OUTCOMES[(z >> 50) as usize % 8], now);
                        }
                        held.push(lease);
                    }
                }
            }
            held.truncate(20);
            let out = (0..n).filter(|index| is_out(&balancer, *index, now)).count();
            assert!(out < n.max(2), "seed {seed}: never all");
        }
        drop(held);
        // Everything is well again, and the sources and the checks say so.
        balancer.update(now, (0..n).map(peer));
        let healed = now;
        while now < healed + 95 * SECOND {
            now += 100 * MS;
            for index in 0..n {
                balancer.checked(&member(&balancer, index), true, now);
            }
            if let Ok(mut lease) = balancer.pick(&PickInput::new(now).repeatable(seed % 2 == 0)) {
                balancer.head(&mut lease, Outcome::Success, now);
            }
            if let Some(mut lease) = balancer.dial_probe(now) {
                balancer.head(&mut lease, Outcome::Success, now);
            }
        }
        let set = balancer.set();
        assert_eq!(
            set.eligible().len(),
            n,
            "seed {seed}: {:?}",
            set.members().iter().map(|m| m.state().flags(now)).collect::<Vec<_>>()
        );
        assert!(!set.is_panic());
        assert!(set.members().iter().all(|m| m.state().pending() == 0 && m.state().awaiting() == 0));
    }
}

#[test]
fn b_3_4_panic_uses_those_that_failed_and_nobody_else() {
    let balancer = with(4, Health::default());
    let whole = |weight| {
        (0..4).map(move |i| Announced { weight: Weight::new(if i < 2 { weight } else { 1 }), ..peer(i) })
    };
    balancer.update(0, whole(1));
    for index in [0, 1] {
        (0..2).for_each(|_| call(&balancer, index, Outcome::Dial, 0));
    }
    assert!(!balancer.set().is_panic(), "half of the weight is left");
    balancer.quarantine(&member(&balancer, 2), 100 * SECOND, 20 * MS);
    assert!(balancer.set().is_panic());
    let picks: HashSet<_> =
        (0..100).map(|_| *balancer.pick(&PickInput::new(20 * MS)).unwrap().peer()).collect();
    assert_eq!(picks, HashSet::from([0, 1, 3]), "those that failed are used, an impostor never");
    assert!(balancer.counters().panic_picks >= 100);
    balancer.update(200 * SECOND, whole(1));
    assert!(!balancer.set().is_panic());
    let notices = balancer.take_notices();
    let panics = notices.iter().filter(|n| matches!(n.what, What::PanicOn | What::PanicOff));
    let panics: Vec<_> = panics.map(|notice| (notice.at, notice.key.is_none(), notice.what)).collect();
    assert_eq!(panics, [(20 * MS, true, What::PanicOn), (200 * SECOND, true, What::PanicOff)]);
}

#[test]
fn b_3_4_panic_may_refuse_instead() {
    let balancer = with(4, Health::default().panic(Panic::Refuse));
    balancer
        .update(0, (0..4).map(|i| Announced { weight: Weight::new(if i < 2 { 5 } else { 1 }), ..peer(i) }));
    for index in [0, 1] {
        (0..2).for_each(|_| call(&balancer, index, Outcome::Dial, 0));
    }
    let refused = balancer.pick(&PickInput::new(20 * MS)).unwrap_err();
    assert_eq!(refused.kind(), PickErrorKind::NoPeers);
    assert!(refused.to_string().contains("peer-0 is ejected for another"), "{refused}");
    assert!(probe(&balancer, Outcome::Success, 2 * SECOND).is_some(), "a probe still finds out");
}

#[test]
fn b_3_5_a_throttle_lasts_as_asked_and_half_a_minute_at_most() {
    let balancer = peers(2);
    for (index, asked, seconds) in [(0, None, 1), (1, Some(365 * 86_400), 30)] {
        balancer.throttled(&member(&balancer, index), asked.map(std::time::Duration::from_secs), 0);
        assert_eq!(member(&balancer, index).state().until(0), Some(seconds * SECOND));
    }
    let error = balancer.pick(&PickInput::new(0)).unwrap_err();
    let shortest = std::time::Duration::from_secs(1);
    assert_eq!(error.kind(), PickErrorKind::AllThrottled { retry_after: shortest });
    assert_eq!(*balancer.pick(&PickInput::new(SECOND)).unwrap().peer(), 0);
}

#[test]
fn b_3_6_an_impostor_is_out_for_a_minute_whatever_else() {
    let balancer = peers(1);
    balancer.not_identified(&member(&balancer, 0), 0);
    assert!(balancer.pick(&PickInput::new(60 * SECOND - 1)).is_err());
    assert!(balancer.pick(&PickInput::new(60 * SECOND)).is_ok());
}

#[test]
fn b_3_7_three_failed_checks_take_a_peer_down_and_two_bring_it_up() {
    let balancer = peers(3);
    let check = |passed, now| {
        balancer.checked(&member(&balancer, 0), passed, now);
        member(&balancer, 0).state().flags(now).contains(Flags::DOWN)
    };
    let checks = [false, false, true, false, false, false, true, false, true, true, false];
    let down: Vec<_> = (1..).zip(checks).map(|(i, passed)| check(passed, i * SECOND)).collect();
    assert_eq!(down, [false, false, false, false, false, true, true, true, true, false, false]);
    let alone = peers(1);
    (0..3).for_each(|i| alone.checked(&member(&alone, 0), false, i));
    assert!(alone.pick(&PickInput::new(3)).is_ok(), "down alone does not empty a set of one");
    for (first, least, most) in [(true, 0, 10), (false, 9, 11)] {
        for z in [0, u64::MAX / 2, u64::MAX] {
            let next = peerage_balance::next_check(0, first, z);
            assert!((least * SECOND..=most * SECOND).contains(&next) && next > 0);
        }
    }
}

#[test]
fn b_9_1_a_doubted_peer_that_cannot_be_dialled_is_passed_over_at_once() {
    let balancer = peers(3);
    let doubted = |doubted: &[usize]| {
        let doubted = doubted.to_vec();
        (0..3).map(move |i| Announced { suspect: doubted.contains(&i), ..peer(i) })
    };
    balancer.update(0, doubted(&[0, 1]));
    let mut running = balancer.pick_by(&PickInput::new(0), |_| Some(0)).unwrap();
    call(&balancer, 0, Outcome::Dial, 0);
    call(&balancer, 1, Outcome::Dial, 20 * MS);
    assert!(!balancer.set().is_panic(), "they count as gone, not as out");
    let picks =
        |now| (0..30).map(|_| *balancer.pick(&PickInput::new(now)).unwrap().peer()).collect::<HashSet<_>>();
    assert_eq!(picks(40 * MS), HashSet::from([2]));
    balancer.update(SECOND, doubted(&[0, 1]));
    assert_eq!(picks(SECOND), HashSet::from([2]), "as long as the doubt lasts");
    balancer.head(&mut running, Outcome::Success, 2 * SECOND);
    assert_eq!(picks(2 * SECOND), HashSet::from([0, 2]), "it plainly lives");
    balancer.update(3 * SECOND, doubted(&[]));
    assert_eq!(picks(3 * SECOND), HashSet::from([0, 1, 2]));
}

#[test]
fn b_9_1_a_confirmed_doubt_does_not_put_off_the_probes_of_an_ejected_peer() {
    let balancer = peers(3);
    let announce = |now, doubted: &[usize]| {
        let announced = (0..3).map(|i| Announced { suspect: doubted.contains(&i), ..peer(i) });
        drop(balancer.update(now, announced));
    };
    let picked = |now| balancer.pick(&PickInput::new(now).repeatable(true)).unwrap();
    // Ejected after two, and then it was the client that told the source.
    (0..2).for_each(|_| call(&balancer, 0, Outcome::Dial, 0));
    announce(1, &[0]);
    let mut first = picked(1_500 * MS);
    assert!(first.is_probe() && *first.peer() == 0);
    balancer.head(&mut first, Outcome::Dial, 1_500 * MS);
    let flags = member(&balancer, 0).state().flags(1_500 * MS);
    assert!(flags.contains(Flags::EJECTED.union(Flags::DRAINING)), "the doubt is confirmed: {flags:?}");
    // The second ejection lasts two to three seconds.
    assert!(!picked(3_499 * MS).is_probe());
    let mut second = picked(4_500 * MS);
    assert!(second.is_probe() && *second.peer() == 0);
    balancer.head(&mut second, Outcome::Success, 4_500 * MS);
    assert_eq!(member(&balancer, 0).state().flags(4_500 * MS), Flags::SUSPECT);
    let peers: HashSet<_> = (0..200).map(|_| *picked(4_600 * MS).peer()).collect();
    assert_eq!(peers, HashSet::from([0, 1, 2]), "the source has not heard of it yet, and it is used");
}

#[test]
fn b_1_1_a_new_address_ends_the_ejection() {
    let balancer = peers(3);
    (0..2).for_each(|_| call(&balancer, 0, Outcome::Dial, 0));
    let mut old = balancer.pick(&PickInput::new(2 * SECOND).repeatable(true)).unwrap();
    assert!(old.is_probe());
    let moved = |i: usize| Announced { address: "elsewhere".into(), ..peer(i) };
    balancer.update(2 * SECOND, [moved(0), peer(1), peer(2)]);
    assert!(!is_out(&balancer, 0, 2 * SECOND));
    for _ in 0..2 {
        balancer.head(&mut old, Outcome::Dial, 2 * SECOND);
    }
    assert!(!is_out(&balancer, 0, 2 * SECOND), "calls to the old address say nothing");
    assert_eq!(member(&balancer, 0).state().success_ratio(2 * SECOND), 1.0);
}

#[test]
fn b_2_5_a_new_peer_is_guessed_to_be_like_the_others() {
    let balancer = peers(2);
    let estimate = |i| member(&balancer, i).state().estimate(SECOND);
    assert!(estimate(0).abs_diff(27_145_122) < 3_000, "30 ms, a second ago: {}", estimate(0));
    for (index, took) in [(0, 100 * MS), (1, 200 * MS)] {
        let mut others = LeaveOut::default();
        others.add(member(&balancer, 1 - index).key());
        let mut lease = balancer.pick(&PickInput::new(0).without(&others)).unwrap();
        lease.sent(SECOND - took);
        balancer.head(&mut lease, Outcome::Success, SECOND);
    }
    balancer.update(SECOND, (0..3).map(peer));
    assert!(estimate(2).abs_diff(150 * MS) < 100, "{}", estimate(2));
    assert!(!member(&balancer, 2).state().is_sampled());
}
