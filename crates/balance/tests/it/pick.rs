//! Picks, leases and updates (B-1, B-2.1, B-2.2).

use std::{sync::Arc, thread};

use peerage_balance::{
    Announced, Balancer, Flags, Generator, Lease, LeaveOut, Outcome, PeerKey, PickErrorKind, PickInput,
    Policy, Settings, Weight, index_below,
};
use proptest::prelude::*;

use crate::model::seeds;

type Ids = Balancer<String>;

fn ids(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("peer-{i}")).collect()
}

fn announced(id: &str) -> Announced<String> {
    Announced::new(id.to_owned(), id, format!("address of {id}"), ())
}

fn balancer(n: usize, settings: Settings) -> Ids {
    let balancer = Balancer::new(settings);
    balancer.update(0, ids(n).iter().map(|id| announced(id)));
    balancer
}

fn seeded(seed: u64) -> Settings {
    Settings { policy: Policy::RoundRobin, seed: Some(seed), ..Settings::default() }
}

fn random(seed: u64) -> Settings {
    Settings { policy: Policy::Random, ..seeded(seed) }
}

fn key(id: &str) -> PeerKey {
    PeerKey::new(id, "")
}

fn without(ids: &[&str]) -> LeaveOut {
    let mut leave_out = LeaveOut::default();
    ids.iter().for_each(|id| leave_out.add(&key(id)));
    leave_out
}

fn pick(balancer: &Ids) -> String {
    balancer.pick(&PickInput::new(0)).expect("a peer").peer().clone()
}

fn counts(n: usize, picks: impl IntoIterator<Item = String>) -> Vec<u64> {
    let mut counts = vec![0; n];
    for id in picks {
        counts[id.trim_start_matches("peer-").parse::<usize>().unwrap()] += 1;
    }
    counts
}

#[test]
fn b_round_robin_gives_each_its_turn_in_one_order() {
    let balancer = balancer(3, seeded(7));
    let picks: Vec<_> = (0..9).map(|_| pick(&balancer)).collect();
    assert_eq!(counts(3, picks.clone()), [3, 3, 3]);
    assert_eq!(picks[..3], picks[3..6], "the order repeats");
    assert_eq!(picks[..3], picks[6..], "the order repeats");
}

#[test]
fn b_round_robin_from_many_threads_is_exact() {
    let balancer = Arc::new(balancer(7, seeded(1)));
    let threads: Vec<_> = (0..16)
        .map(|_| {
            let balancer = Arc::clone(&balancer);
            thread::spawn(move || counts(7, (0..7_000).map(|_| pick(&balancer))))
        })
        .collect();
    let mut sums = [0; 7];
    for thread in threads {
        for (sum, count) in sums.iter_mut().zip(thread.join().unwrap()) {
            *sum += count;
        }
    }
    assert_eq!(sums, [16_000; 7]);
    assert!(balancer.set().members().iter().all(|member| member.state().pending() == 0));
}

#[test]
fn b_clients_with_different_seeds_have_their_own_order() {
    let orders: std::collections::HashSet<Vec<_>> = (0..20)
        .map(|seed| {
            let balancer = balancer(5, seeded(seed));
            (0..5).map(|_| pick(&balancer)).collect()
        })
        .collect();
    assert!(orders.len() >= 15, "only {} orders among 20 clients", orders.len());
}

#[test]
fn b_2_1_the_turn_of_a_peer_left_out_is_that_of_the_next_in_the_order() {
    let balancer = balancer(4, seeded(7));
    let order: Vec<_> = (0..4).map(|_| pick(&balancer)).collect();
    for (place, out) in order.iter().enumerate() {
        let leave_out = without(&[out]);
        let without_it = || balancer.pick(&PickInput::new(0).without(&leave_out)).unwrap().peer().clone();
        let picks: Vec<_> = (0..4).map(|_| without_it()).collect();
        let mut expected = order.clone();
        expected[place] = order[(place + 1) % 4].clone();
        assert_eq!(picks, expected, "{order:?} without {out}");
    }
}

#[test]
fn b_2_3_the_turn_of_a_peer_left_out_is_that_of_the_next_in_the_table() {
    let balancer = Balancer::new(Settings { policy: Policy::WeightedRoundRobin, ..seeded(1) });
    let weights = [5, 1, 1].map(Weight::new);
    balancer.update(0, (0..3).map(|i| Announced { weight: weights[i], ..announced(&format!("peer-{i}")) }));
    // By hand: without the first, in 0 0 0 1 2 0 0 each of its turns goes on to the second, the last two round
    // the end of the table.
    for (out, expected) in [("peer-0", [0, 6, 1]), ("peer-1", [5, 0, 2]), ("peer-2", [6, 1, 0])] {
        let leave_out = without(&[out]);
        let without_it = |_| balancer.pick(&PickInput::new(0).without(&leave_out)).unwrap().peer().clone();
        assert_eq!(counts(3, (0..7).map(without_it)), expected, "without {out}");
    }
}

#[test]
fn b_round_robin_with_one_peer_out_gives_it_nothing() {
    let balancer = balancer(3, seeded(3));
    let leave_out = without(&["peer-1"]);
    let picks =
        (0..300).map(|_| balancer.pick(&PickInput::new(0).without(&leave_out)).unwrap().peer().clone());
    let counts = counts(3, picks);
    assert_eq!(counts[1], 0);
    assert_eq!(counts[0] + counts[2], 300);
}

#[test]
fn b_the_turn_goes_on_over_updates() {
    let balancer = balancer(4, seeded(9));
    let mut picks = Vec::new();
    for _ in 0..8 {
        picks.push(pick(&balancer));
        balancer.update(0, ids(4).iter().map(|id| announced(id)));
    }
    assert_eq!(counts(4, picks), [2, 2, 2, 2]);
}

#[test]
fn b_random_is_uniform() {
    const PICKS: u32 = 100_000;
    for (n, seed) in [2, 3, 10].into_iter().flat_map(|n| seeds().map(move |seed| (n, seed))) {
        let balancer = balancer(n, random(seed));
        let p = 1.0 / n as f64;
        let tolerance = 5.0 * (f64::from(PICKS) * p * (1.0 - p)).sqrt();
        for count in counts(n, (0..PICKS).map(|_| pick(&balancer))) {
            let off = (count as f64 - f64::from(PICKS) * p).abs();
            assert!(off <= tolerance, "{count} of {PICKS} among {n}, seed {seed}");
        }
    }
}

#[test]
fn b_random_with_one_seed_is_one_sequence() {
    let picks = |seed| {
        let balancer = balancer(10, random(seed));
        (0..100).map(|_| pick(&balancer)).collect::<Vec<_>>()
    };
    assert_eq!(picks(5), picks(5));
    assert_ne!(picks(5), picks(6));
}

#[test]
fn b_random_follows_the_draws_of_its_generator() {
    // The generator gives the client's own number and the first turn before the picks.
    let generator = Generator::seeded(42);
    let (_, _) = (generator.next_u64(), generator.next_u64());
    let balancer = balancer(10, random(42));
    for _ in 0..100 {
        assert_eq!(pick(&balancer), format!("peer-{}", index_below(generator.next_u64(), 10)));
    }
}

#[test]
fn b_a_lease_counts_and_uncounts_at_every_step() {
    let balancer = balancer(1, seeded(1));
    let state = || Arc::clone(&balancer.set().members()[0]);
    let figures = || (state().state().pending(), state().state().awaiting());
    let take = || balancer.pick(&PickInput::new(0)).unwrap();

    let lease = take();
    assert_eq!(figures(), (1, 0), "begun");
    drop(lease);
    assert_eq!(figures(), (0, 0), "dropped before it was sent");

    let mut lease = take();
    lease.sent(100);
    lease.sent(200);
    assert_eq!(figures(), (1, 1), "sent, once");
    drop(lease);
    assert_eq!(figures(), (0, 0), "dropped before the head");

    let mut lease = take();
    assert_eq!(balancer.head(&mut lease, Outcome::Success, 50), None, "a head of what was not sent");
    lease.sent(100);
    assert_eq!(figures(), (1, 0), "and nothing is awaited after it");
    drop(lease);

    let mut lease = take();
    lease.sent(100);
    assert_eq!(balancer.head(&mut lease, Outcome::Success, 350), Some(250));
    assert_eq!(balancer.head(&mut lease, Outcome::Success, 400), None, "a second head");
    assert_eq!(figures(), (1, 0), "the body is still read");
    drop(lease);
    assert_eq!(figures(), (0, 0), "finished");
}

#[test]
fn b_a_stall_is_seen_while_nobody_answers() {
    let balancer = balancer(1, seeded(1));
    let member = Arc::clone(&balancer.set().members()[0]);
    let take = || balancer.pick(&PickInput::new(0)).unwrap();
    assert_eq!(member.state().stalled_for(1_000), 0, "nobody waits");
    let (mut a, mut b) = (take(), take());
    a.sent(1_000);
    b.sent(1_500);
    assert_eq!(member.state().stalled_for(3_000), 2_000, "since the first was sent");
    let _ = balancer.head(&mut a, Outcome::Hard, 3_000);
    assert_eq!(member.state().stalled_for(3_000), 2_000, "a failure is no progress");
    let mut c = take();
    c.sent(3_500);
    let _ = balancer.head(&mut b, Outcome::Success, 4_000);
    assert_eq!(member.state().stalled_for(5_000), 1_000, "since the last answer");
    drop(c);
    assert_eq!(member.state().stalled_for(9_000), 0);
}

#[test]
fn b_the_limit_holds_and_says_so() {
    let balancer = balancer(2, Settings { limit: 2, ..seeded(1) });
    let leases: Vec<_> = (0..4).map(|_| balancer.pick(&PickInput::new(0)).unwrap()).collect();
    let error = balancer.pick(&PickInput::new(0)).unwrap_err();
    assert_eq!(error.kind(), PickErrorKind::Saturated);
    assert_eq!(
        error.to_string(),
        "every peer has as many calls as it may; peer-0 has its limit of 2 calls; peer-1 has its limit of 2 calls"
    );
    drop(leases);
    assert!(balancer.pick(&PickInput::new(0)).is_ok());
}

#[test]
fn b_each_reason_of_an_empty_pick() {
    let balancer: Ids = Balancer::new(seeded(1));
    let kind = |now| balancer.pick(&PickInput::new(now)).unwrap_err().kind();
    assert_eq!(kind(0), PickErrorKind::NotReady);
    balancer.update(0, []);
    assert_eq!(kind(0), PickErrorKind::NoPeers);

    balancer.update(0, [Announced { weight: Weight::new(0), ..announced("peer-0") }]);
    assert_eq!(kind(0), PickErrorKind::AllExcluded);
    let error = balancer.pick(&PickInput::new(0)).unwrap_err();
    assert_eq!(error.to_string(), "every known peer is kept out; peer-0 wants no new work (weight 0)");

    balancer.update(0, ids(2).iter().map(|id| announced(id)));
    let set = balancer.set();
    balancer.throttle(&set.members()[0], 5_000_000_000, 0);
    balancer.throttle(&set.members()[1], 2_000_000_000, 0);
    assert_eq!(kind(0), PickErrorKind::AllThrottled { retry_after: std::time::Duration::from_secs(2) });
    let error = balancer.pick(&PickInput::new(0)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "every peer asked for a pause, the shortest 2s; peer-0 asked for a pause for another 5s; \
         peer-1 asked for a pause for another 2s"
    );
    assert_eq!(balancer.pick(&PickInput::new(2_000_000_000)).unwrap().peer(), "peer-1", "its pause is over");

    balancer.quarantine(&set.members()[1], u64::MAX, 2_000_000_000);
    assert_eq!(kind(3_000_000_000), PickErrorKind::AllExcluded, "kept out for two reasons");
}

#[test]
fn b_a_peer_that_was_tried_is_better_than_none() {
    let balancer = balancer(3, seeded(1));
    let leave_out = without(&["peer-0", "peer-1", "peer-2"]);
    let first = balancer.pick(&PickInput::new(0).without(&leave_out)).unwrap();
    let second = balancer.pick(&PickInput::new(0).without(&leave_out)).unwrap();
    assert_ne!(first.peer(), second.peer(), "the one with the fewest calls");
    assert!(!balancer.has_other(&leave_out, 0));
    assert!(balancer.has_other(&without(&["peer-0"]), 0));
}

#[test]
fn b_a_suspect_peer_stays_usable() {
    let balancer: Ids = Balancer::new(seeded(1));
    balancer.update(0, [Announced { suspect: true, ..announced("peer-0") }]);
    assert_eq!(pick(&balancer), "peer-0");
    assert_eq!(balancer.set().members()[0].state().flags(0), Flags::SUSPECT);
    balancer.update(0, [announced("peer-0")]);
    assert_eq!(balancer.set().members()[0].state().flags(0), Flags::default());
}

#[test]
fn b_the_share_of_a_peer_that_is_out_is_spread_over_all() {
    let balancer = balancer(4, seeded(3));
    balancer.throttle(&balancer.set().members()[2], 1_000_000_000, 20_000_000);
    let picks = |now: u64| {
        let picks = (0..600).map(|_| balancer.pick(&PickInput::new(now)).unwrap().peer().clone());
        counts(4, picks.collect::<Vec<_>>())
    };
    assert_eq!(picks(20_000_000), [200, 200, 0, 200], "at once, and its neighbour gets no more than others");
    balancer.throttle(&balancer.set().members()[1], 2_000_000_000, 21_000_000);
    assert_eq!(
        picks(21_000_000)[1..3],
        [0, 0],
        "the list is not built anew so soon, and still it is not picked"
    );
    assert_eq!(picks(30_000_000), [300, 0, 0, 300]);
    assert_eq!(picks(1_000_000_000), [200, 0, 200, 200], "the first pause is over");
    assert_eq!(picks(2_000_000_000), [150; 4]);
}

#[test]
fn b_a_suspect_peer_that_cannot_be_reached_is_the_last_resort() {
    let balancer = balancer(2, seeded(1));
    let by_hand = |leave_out: &LeaveOut| {
        balancer
            .pick_by(&PickInput::new(0).without(leave_out), |peers| (!peers.is_empty()).then_some(0))
            .unwrap()
            .peer()
            .clone()
    };
    let unreachable = |id: &str| {
        let others = if id == "peer-0" { without(&["peer-1"]) } else { without(&["peer-0"]) };
        let lease = balancer.pick(&PickInput::new(0).without(&others)).unwrap();
        balancer.unreachable(lease.member(), 0);
    };
    unreachable("peer-0");
    assert_eq!(
        counts(2, (0..4).map(|_| pick(&balancer))),
        [2, 2],
        "one failure of a peer that nobody doubts"
    );

    let doubted = |id: &str| Announced { suspect: true, ..announced(id) };
    balancer.update(0, [doubted("peer-0"), announced("peer-1")]);
    unreachable("peer-0");
    assert_eq!(counts(2, (0..4).map(|_| pick(&balancer))), [0, 4]);
    assert_eq!(by_hand(&LeaveOut::default()), "peer-1");
    assert!(balancer.has_other(&without(&["peer-1"]), 0));
    let last_resort = balancer.pick(&PickInput::new(0).without(&without(&["peer-1"]))).unwrap();
    assert_eq!(last_resort.peer(), "peer-0", "better than one that was tried");
    assert_eq!(by_hand(&without(&["peer-1"])), "peer-0");

    balancer.update(0, [doubted("peer-0"), doubted("peer-1")]);
    unreachable("peer-1");
    assert_eq!(
        counts(2, (0..8).map(|_| pick(&balancer))).iter().sum::<u64>(),
        8,
        "nobody is better than another"
    );
    balancer.update(0, ["peer-0", "peer-1"].map(announced));
    assert_eq!(counts(2, (0..8).map(|_| pick(&balancer))), [4, 4], "the doubt was taken back");
}

#[test]
fn b_state_survives_a_short_absence_and_every_change() {
    let balancer = balancer(2, seeded(1));
    let hold: Vec<Lease<_>> = (0..4).map(|_| balancer.pick(&PickInput::new(0)).unwrap()).collect();

    let changes = balancer.update(0, [Announced { weight: Weight::new(9), ..announced("peer-1") }]);
    assert_eq!(changes.left.iter().map(|member| member.peer().as_str()).collect::<Vec<_>>(), ["peer-0"]);
    assert!(changes.moved.is_empty());
    assert!(changes.left[0].state().flags(0).contains(Flags::DRAINING));
    assert_eq!(balancer.member(&key("peer-1")).unwrap().state().pending(), 2, "metadata changed");
    assert!(balancer.member(&key("peer-0")).is_none());
    assert!((0..10).all(|_| pick(&balancer) == "peer-1"), "no new picks while it drains");

    let moved = Announced { address: "elsewhere".into(), ..announced("peer-0") };
    let changes = balancer.update(59_000_000_000, [moved, announced("peer-1")]);
    assert!(changes.left.is_empty() && changes.moved.is_empty(), "its old self left before");
    assert_eq!(balancer.member(&key("peer-0")).unwrap().state().pending(), 2, "back within 60 s");

    let moved = Announced { address: "elsewhere 2".into(), ..announced("peer-0") };
    let changes = balancer.update(59_000_000_000, [moved, announced("peer-1")]);
    assert_eq!(changes.moved.iter().map(|member| member.address()).collect::<Vec<_>>(), ["elsewhere"]);

    balancer.update(60_000_000_000, []);
    balancer.update(120_000_000_000, ids(2).iter().map(|id| announced(id)));
    assert!(
        balancer.set().members().iter().all(|member| member.state().pending() == 0),
        "forgotten after 60 s"
    );
    drop(hold);
    assert!(balancer.set().members().iter().all(|member| member.state().pending() == 0));
}

#[test]
fn b_two_names_for_one_address_are_one_peer() {
    let balancer: Ids = Balancer::new(seeded(1));
    let at = |id: &str, address: &str, last_seen| Announced {
        address: address.into(),
        last_seen,
        ..announced(id)
    };
    balancer.update(0, [at("old", "x", 1), at("other", "y", 0), at("new", "x", 2), at("older", "x", 0)]);
    let set = balancer.set();
    let names: Vec<_> = set.members().iter().map(|member| member.peer().as_str()).collect();
    assert_eq!(names, ["new", "other"]);
    let changes = balancer.update(0, [at("new", "x", 3), at("new", "z", 4)]);
    assert_eq!(balancer.set().members().len(), 1, "one identity is one peer");
    assert_eq!(changes.left.len(), 1);
}

#[test]
fn b_a_chooser_of_the_caller_sees_what_can_be_used() {
    let balancer = balancer(3, seeded(1));
    let seen = |leave_out: &LeaveOut, now| {
        let mut lists = Vec::new();
        let lease = balancer.pick_by(&PickInput::new(now).without(leave_out), |peers| {
            lists.push(peers.join(" "));
            (!peers.is_empty()).then_some(0)
        });
        (lease.map(|lease| lease.peer().clone()).map_err(|error| error.kind()), lists)
    };
    let all = "peer-0 peer-1 peer-2".to_owned();
    assert_eq!(
        seen(&LeaveOut::default(), 0),
        (Ok("peer-0".into()), vec![all.clone()]),
        "in the announced order"
    );
    assert_eq!(seen(&without(&["peer-0"]), 0), (Ok("peer-1".into()), vec!["peer-1 peer-2".into()]));
    let everybody = without(&["peer-0", "peer-1", "peer-2"]);
    assert_eq!(
        seen(&everybody, 0),
        (Ok("peer-0".into()), vec![all.clone()]),
        "tried ones are better than none"
    );
    balancer.throttle(&balancer.set().members()[0], 10, 0);
    assert_eq!(
        seen(&LeaveOut::default(), 0),
        (Ok("peer-1".into()), vec![all.clone(), "peer-1 peer-2".into()])
    );
    // The list is built anew after 10 ms, and when the pause is over.
    balancer.throttle(&balancer.set().members()[0], 30_000_000, 0);
    assert_eq!(seen(&LeaveOut::default(), 10_000_000), (Ok("peer-1".into()), vec!["peer-1 peer-2".into()]));
    assert_eq!(seen(&LeaveOut::default(), 30_000_000), (Ok("peer-0".into()), vec![all]));

    let none = balancer.pick_by(&PickInput::new(0), |_| None).unwrap_err();
    assert_eq!(none.kind(), PickErrorKind::NoneChosen);
    let beyond = balancer.pick_by(&PickInput::new(40_000_000), |peers| Some(peers.len())).unwrap_err();
    assert_eq!(beyond.kind(), PickErrorKind::NoneChosen);
    let empty: Ids = Balancer::new(seeded(1));
    assert_eq!(empty.pick_by(&PickInput::new(0), |_| Some(0)).unwrap_err().kind(), PickErrorKind::NotReady);
    assert!(balancer.set().members().iter().all(|member| member.state().pending() == 0));
}

#[test]
fn b_picks_and_completions_do_not_allocate() {
    let policies = [
        Policy::RoundRobin,
        Policy::WeightedRoundRobin,
        Policy::Random,
        Policy::LeastLoaded,
        Policy::PeakEwma,
        Policy::Sticky,
    ];
    for settings in policies.map(|policy| Settings { policy, adaptive_limit: true, ..seeded(1) }) {
        for n in [1, 3, 1_024] {
            let balancer = balancer(n, settings.clone());
            let leave_out = if n > 1 { without(&["peer-0"]) } else { LeaveOut::default() };
            let call = || {
                for _ in 0..100 {
                    for outcome in [Outcome::Success, Outcome::Soft, Outcome::Success, Outcome::Cancelled] {
                        let input = PickInput::new(0).without(&leave_out).key(Some(7)).repeatable(true);
                        let mut lease = balancer.pick(&input).unwrap();
                        lease.sent(1);
                        balancer.head(&mut lease, outcome, 2);
                    }
                }
                for _ in 0..100 {
                    drop(balancer.pick_by(&PickInput::new(0), |peers| Some(peers.len() - 1)).unwrap());
                }
            };
            call(); // the first load in a thread registers it
            assert_eq!(allocation_counter::measure(call).count_total, 0, "{settings:?}, {n} peers");
        }
    }
}

#[test]
fn b_10_2_counters_return_to_zero_after_random_leases() {
    const OUTCOMES: [Outcome; 6] =
        [Outcome::Success, Outcome::Hard, Outcome::Dial, Outcome::Soft, Outcome::Ignored, Outcome::Cancelled];
    let operations = if cfg!(debug_assertions) { 20_000 } else { 1_000_000 };
    for policy in [Policy::Random, Policy::PeakEwma, Policy::RoundRobin] {
        let settings = Settings { limit: 3, policy, ..seeded(1) };
        let balancer = Arc::new(balancer(5, settings));
        let threads: Vec<_> = (0..16)
            .map(|thread| {
                let balancer = Arc::clone(&balancer);
                thread::spawn(move || {
                    let random = Generator::seeded(thread);
                    let mut held = Vec::new();
                    for now in 0..operations {
                        let now = now * 1_000_000;
                        let z = random.next_u64();
                        let outcome = OUTCOMES[index_below(z << 8, 6)];
                        match z % 6 {
                            0 | 1 => {
                                let input = PickInput::new(now).repeatable(z & 64 == 0);
                                held.extend(balancer.pick(&input).ok());
                            }
                            2 => held.iter_mut().for_each(|lease: &mut Lease<_>| lease.sent(now)),
                            3 => held.iter_mut().for_each(|lease| {
                                balancer.head(lease, outcome, now);
                            }),
                            4 => held.extend(balancer.dial_probe(now)),
                            _ => held.truncate(index_below(z, held.len())),
                        }
                        let set = balancer.set();
                        let pending = set.members().iter().map(|m| m.state().pending()).max();
                        assert!(pending <= Some(3 + 16), "the limit, and at most one try a thread above it");
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let set = balancer.set();
        let flags = |m: &Arc<peerage_balance::Member<String>>| m.state().flags(u64::MAX);
        let out = set.members().iter().filter(|member| flags(member).contains(Flags::EJECTED)).count();
        assert!(out <= 2, "{out} of 5 out");
        for member in set.members() {
            assert_eq!((member.state().pending(), member.state().awaiting()), (0, 0));
            assert!(!member.state().flags(u64::MAX).contains(Flags::PROBING), "no permit is lost");
        }
        assert!(
            balancer.counters().ejections > 0 && balancer.counters().probes > 0,
            "{:?}",
            balancer.counters()
        );
    }
}

#[test]
fn b_3_3_of_many_threads_one_gets_the_permit() {
    for round in 0..50 {
        let balancer = Arc::new(balancer(3, seeded(round)));
        for _ in 0..2 {
            let mut lease =
                balancer.pick(&PickInput::new(0).without(&without(&["peer-1", "peer-2"]))).unwrap();
            balancer.head(&mut lease, Outcome::Dial, 0);
        }
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let balancer = Arc::clone(&balancer);
                thread::spawn(move || balancer.pick(&PickInput::new(2_000_000_000).repeatable(true)).unwrap())
            })
            .collect();
        let leases: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!(leases.iter().filter(|lease| lease.is_probe()).count(), 1);
    }
}

proptest! {
    /// Whatever is out, a pick gives a usable peer if there is one, and an error that counts nothing otherwise.
    #[test]
    fn b_a_pick_is_usable_or_an_error(
        n in 0_usize..12,
        out in proptest::collection::vec(any::<(u8, bool)>(), 0..8),
        policy in any::<bool>(),
        seed: u64,
    ) {
        let balancer = balancer(n, if policy { random(seed) } else { seeded(seed) });
        let mut leave_out = LeaveOut::default();
        for (peer, throttled) in out {
            let Some(member) = balancer.member(&key(&format!("peer-{peer}"))) else { continue };
            if throttled { balancer.throttle(&member, 10, 0) } else { leave_out.add(member.key()) }
        }
        let open = |member: &peerage_balance::Member<String>| member.state().flags(5) == Flags::default();
        let set = balancer.set();
        let usable = set.members().iter().filter(|m| open(m) && !leave_out.contains(m.key())).count();
        for _ in 0..20 {
            match balancer.pick(&PickInput::new(5).without(&leave_out)) {
                Ok(lease) => {
                    prop_assert!(open(lease.member()));
                    prop_assert!(usable == 0 || !leave_out.contains(lease.member().key()));
                }
                Err(_) => prop_assert_eq!(set.members().iter().filter(|m| open(m)).count(), 0),
            }
        }
        prop_assert!(set.members().iter().all(|m| m.state().pending() == 0));
    }

    /// The eligible list follows any script of announcements as a simple model says.
    #[test]
    fn b_membership_follows_a_simple_model(
        script in proptest::collection::vec(proptest::collection::vec((0_u8..6, 0_u32..3), 0..6), 1..20),
    ) {
        let balancer: Ids = Balancer::new(seeded(1));
        for (step, list) in script.into_iter().enumerate() {
            let mut model: Vec<(String, u32)> = Vec::new();
            for (id, weight) in &list {
                let id = format!("peer-{id}");
                if !model.iter().any(|(known, _)| *known == id) {
                    model.push((id, *weight));
                }
            }
            balancer.update(step as u64, list.iter().map(|(id, weight)| {
                Announced { weight: Weight::new(*weight), ..announced(&format!("peer-{id}")) }
            }));
            model.retain(|(_, weight)| *weight > 0);
            let set = balancer.set();
            let eligible: Vec<_> = set.eligible().iter().map(|m| (m.peer().clone(), u32::from(m.weight().get()))).collect();
            prop_assert_eq!(eligible, model);
        }
    }
}
