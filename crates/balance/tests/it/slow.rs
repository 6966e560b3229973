//! Slow start (B-2.9), zones (B-2.8), subsets (B-2.7) and shares by weight (B-2.3) in virtual time.

use std::{collections::HashSet, num::NonZeroUsize};

use peerage_balance::{Announced, Balancer, PickInput, Policy, Settings, Weight, Zone};

use crate::model::{MS, Model, Queue, SECOND, exponential, ok, peer, seeds, usual};

const MEAN: f64 = 10.0 * MS as f64;

/// Relative share of the last of 10 peers in six slots of 2 s after it joined, mean over the seeds.
fn warming(policy: Policy) -> [f64; 6] {
    let mut sums = [0.0; 6];
    let seeds = seeds();
    let count = seeds.end as f64;
    for seed in seeds {
        let mut model = Model::new(9, seed, Settings { policy, ..Settings::default() });
        model.calls(15 * 200, 200.0, 10, |_, _, random| ok(usual(MEAN, random)));
        model.balancer.update(model.now, (0..10).map(peer));
        let joined = model.now;
        let mut slots = [[0.0; 2]; 6];
        while model.now < joined + 12 * SECOND {
            let next = model.now + exponential(SECOND as f64 / 200.0, &model.world);
            model.until(next);
            let got = model.call(true, &mut |_, _, random| ok(usual(MEAN, random)));
            if let Some(slot) = slots.get_mut(((next - joined) / (2 * SECOND)) as usize) {
                slot[0] += 1.0;
                slot[1] += f64::from(u8::from(got == Some(9)));
            }
        }
        for (sum, [all, own]) in sums.iter_mut().zip(slots) {
            *sum += own / all * 10.0 / count;
        }
    }
    sums
}

#[test]
fn b_2_9_a_new_peer_gets_its_share_little_by_little() {
    for policy in [Policy::LeastLoaded, Policy::PeakEwma] {
        let shares = warming(policy);
        println!("{policy:?} slow start in 2 s slots: {shares:.2?}");
        for (share, factor) in shares.into_iter().zip([0.125, 0.3, 0.5, 0.7, 0.9, 1.0]) {
            assert!((share - factor).abs() <= 0.2, "{policy:?}: {shares:.2?}");
        }
    }
}

#[test]
fn b_2_9_a_restart_of_all_peers_changes_no_share() {
    for seed in seeds() {
        let mut model = Model::new(5, seed, Settings::default());
        model.calls(2_000, 200.0, 5, |_, _, random| ok(usual(MEAN, random)));
        let renewed = (5..10).map(peer);
        model.balancer.update(model.now, renewed);
        let counts = model.calls(4_000, 2_000.0, 10, |_, _, random| ok(usual(MEAN, random)));
        for count in &counts[5..] {
            assert!((700..=900).contains(count), "seed {seed}: {counts:?}");
        }
    }
}

fn in_zone(index: usize, zone: &str) -> Announced<usize> {
    Announced { zone: Some(zone.into()), ..peer(index) }
}

fn zoned(n: usize, local: usize) -> impl Iterator<Item = Announced<usize>> {
    (0..n).map(move |index| in_zone(index, if index < local { "a" } else { "b" }))
}

#[test]
fn b_2_8_the_local_part_is_exact() {
    let cases = [(0.0, 1.0), (0.5, 0.6)];
    for (seed, (callers, part)) in seeds().flat_map(|seed| cases.map(|case| (seed, case))) {
        let zone = Zone::new("a").callers(callers).unwrap();
        let settings = Settings { zone: Some(zone), seed: Some(seed), ..Settings::default() };
        let balancer = Balancer::new(settings);
        balancer.update(0, zoned(10, 3));
        assert_eq!(balancer.set().local_part(), Some(part));
        let local = (0..100_000).filter(|_| *balancer.pick(&PickInput::new(0)).unwrap().peer() < 3).count();
        assert!((local as f64 / 1e5 - part).abs() <= 0.01, "{local}, seed {seed}");
    }
}

#[test]
fn b_2_8_other_zones_of_the_region_come_before_other_regions() {
    let zone = Zone::new("a").region("north").callers(1.0).unwrap();
    let balancer = Balancer::new(Settings { zone: Some(zone), seed: Some(1), ..Settings::default() });
    let at =
        |index, zone: &str, region: &str| Announced { region: Some(region.into()), ..in_zone(index, zone) };
    let all = [at(0, "a", "north"), at(1, "a", "north"), at(2, "b", "north"), at(3, "c", "south")];
    balancer.update(0, all.clone());
    let counts = |now: u64| {
        let mut counts = [0; 4];
        (0..10_000).for_each(|_| counts[*balancer.pick(&PickInput::new(now)).unwrap().peer()] += 1);
        counts
    };
    assert_eq!(counts(0)[3], 0);
    assert!(counts(0)[2] > 4_500, "half of the weight is local, so half of the calls are");
    let member = balancer.set().members()[2].clone();
    balancer.throttle(&member, SECOND, 20 * MS);
    assert!(counts(20 * MS)[3] > 3_000, "the other region, while nobody else is there");
}

/// Calls that stayed local, and the 99th percentile in ms.
fn zones(seed: u64, zone: Option<Zone>, rate: f64, calls: usize) -> (f64, f64) {
    let settings = Settings { policy: Policy::PeakEwma, zone, limit: 100_000, ..Settings::default() };
    let mut model = Model::new(0, seed, settings);
    model.balancer.update(model.now, zoned(10, 3));
    let mut queues: Vec<_> = (0..10).map(|_| Queue::new(1)).collect();
    let mut times = Vec::new();
    let counts = model.calls(calls, rate, 10, |peer, now, random| {
        let took = queues[peer].takes(now, exponential(MEAN, random)) + if peer < 3 { 0 } else { 2 * MS };
        times.push(took);
        ok(took)
    });
    times.sort_unstable();
    let local: u64 = counts[..3].iter().sum();
    (local as f64 / calls as f64, times[times.len() * 99 / 100] as f64 / MS as f64)
}

#[test]
fn b_2_8_a_zone_that_is_full_spills_over() {
    let mean = |zone: Option<Zone>, rate| {
        let seeds = seeds();
        let count = seeds.end as f64;
        let runs = seeds.map(|seed| zones(seed, zone.clone(), rate, 20_000));
        runs.fold((0.0, 0.0), |sum, run| (sum.0 + run.0 / count, sum.1 + run.1 / count))
    };
    for (load, rate, least_local, most) in [("0.97", 291.0, 0.6, 1.3), ("3", 900.0, 0.0, 1.6)] {
        let (local, near) = mean(Some(Zone::new("a")), rate);
        let (_, blind) = mean(None, rate);
        println!(
            "{load} x local capacity: {:.0} % stay, p99 {near:.1} ms against {blind:.1} ms",
            local * 100.0
        );
        assert!(local >= least_local, "{local} stay local at {load} of its capacity");
        assert!(near <= most * blind, "{near} ms against {blind} ms at {load} of its capacity");
    }
}

fn eligible(balancer: &Balancer<usize>) -> HashSet<usize> {
    balancer.set().eligible().iter().map(|member| *member.peer()).collect()
}

#[test]
fn b_2_7_a_subset_changes_by_one_member_at_most() {
    for seed in 0..20 {
        let settings = Settings { subset: NonZeroUsize::new(5), seed: Some(seed), ..Settings::default() };
        let balancer = Balancer::new(settings);
        balancer.update(0, (0..20).map(peer));
        let all = eligible(&balancer);
        assert_eq!(all.len(), 5);
        balancer.update(0, (1..20).map(peer));
        assert!(all.difference(&eligible(&balancer)).count() <= 1);
        balancer.update(0, (0..21).map(peer));
        assert!(all.difference(&eligible(&balancer)).count() <= 1);
        balancer.update(0, (0..5).map(peer));
        assert_eq!(eligible(&balancer).len(), 5, "as many as there are");
    }
}

#[test]
fn b_2_7_others_join_until_half_of_the_subset_is_usable() {
    let settings = Settings { subset: NonZeroUsize::new(5), seed: Some(3), ..Settings::default() };
    let balancer = Balancer::new(settings);
    balancer.update(0, (0..20).map(peer));
    let own = eligible(&balancer);
    for (out, usable) in (1..).zip([4, 3, 3, 3, 3]) {
        let now = out * SECOND;
        let member = balancer.set().eligible().iter().find(|m| own.contains(m.peer())).unwrap().clone();
        balancer.throttle(&member, 100 * SECOND, now);
        assert_eq!(eligible(&balancer).len(), usable, "{out} out");
    }
    assert!(eligible(&balancer).is_disjoint(&own));
    balancer.update(100 * SECOND, (0..20).map(peer));
    assert_eq!(eligible(&balancer), own, "they are back");
}

fn weighted(policy: Policy) -> Balancer<usize> {
    let balancer = Balancer::new(Settings { policy, seed: Some(5), ..Settings::default() });
    let weights = [1, 2, 4];
    balancer.update(0, (0..3).map(|i| Announced { weight: Weight::new(weights[i]), ..peer(i) }));
    balancer
}

#[test]
fn b_2_3_weighted_round_robin_is_exact() {
    let balancer = weighted(Policy::WeightedRoundRobin);
    let mut counts = [0; 3];
    (0..7_000).for_each(|_| counts[*balancer.pick(&PickInput::new(0)).unwrap().peer()] += 1);
    assert_eq!(counts, [1_000, 2_000, 4_000]);
    balancer.update(0, (0..3).map(peer));
    let mut counts = [0; 3];
    (0..3_000).for_each(|_| counts[*balancer.pick(&PickInput::new(0)).unwrap().peer()] += 1);
    assert_eq!(counts, [1_000; 3], "equal weights are plain round robin");
}

#[test]
fn b_2_4_shares_follow_the_weights_under_load() {
    for policy in [Policy::LeastLoaded, Policy::PeakEwma] {
        let balancer = weighted(policy);
        let held: Vec<_> = (0..1_400).map(|_| balancer.pick(&PickInput::new(0)).unwrap()).collect();
        let mut counts = [0.0_f64; 3];
        held.iter().for_each(|lease| counts[*lease.peer()] += 1.0 / 1_400.0);
        for (share, weight) in counts.into_iter().zip([1.0, 2.0, 4.0]) {
            assert!((share * 7.0 / weight - 1.0).abs() < 0.2, "{policy:?}: {counts:?}");
        }
    }
}

#[test]
fn b_2_6_a_key_stays_with_its_peer_until_that_is_full() {
    let settings = Settings { policy: Policy::Sticky, seed: Some(1), ..Settings::default() };
    for n in [10, 300] {
        let balancer = Balancer::new(settings.clone());
        balancer.update(0, (0..n).map(peer));
        let pick = |key: &str| {
            balancer.pick(&PickInput::new(0).key(Some(peerage_balance::key_hash(key.as_bytes())))).unwrap()
        };
        for key in ["alice", "bob", ""] {
            let first = *pick(key).peer();
            assert!((0..50).all(|_| *pick(key).peer() == first), "{key} of {n}");
        }
        let home = *pick("alice").peer();
        let member = balancer.set().members()[home].clone();
        balancer.throttle(&member, SECOND, 0);
        let away = *pick("alice").peer();
        assert!(away != home && (0..50).all(|_| *pick("alice").peer() == away), "one fallback, of {n}");
        balancer.update(2 * SECOND, (0..n).map(peer));
        assert_eq!(
            *balancer
                .pick(&PickInput::new(2 * SECOND).key(Some(peerage_balance::key_hash(b"alice"))))
                .unwrap()
                .peer(),
            home
        );
    }
    let balancer = Balancer::new(settings);
    balancer.update(0, (0..10).map(peer));
    let key = Some(peerage_balance::key_hash(b"alice"));
    let held: Vec<_> = (0..100).map(|_| balancer.pick(&PickInput::new(0).key(key)).unwrap()).collect();
    let most = balancer.set().members().iter().map(|member| member.state().pending()).max();
    assert_eq!(most, Some(15), "a share and a half of 100 calls");
    drop(held);
}

#[test]
fn b_2_6_zipf_keys_keep_to_the_bound() {
    let worst = seeds().map(zipf).fold(0.0, f64::max);
    println!("Zipf keys: pending over average {worst:.2} at most");
    assert!(worst <= 1.56, "{worst}");
}

/// The most that a peer had pending, over the average.
fn zipf(seed: u64) -> f64 {
    let settings = Settings { policy: Policy::Sticky, ..Settings::default() };
    let mut model = Model::new(10, seed, settings);
    // A call is finished when its place is needed: 200 are pending all the time.
    let mut held = std::collections::VecDeque::new();
    let mut worst = 0.0_f64;
    for _ in 0..20_000 {
        let rank = (1_000_f64.powf(peerage_balance::unit(model.world.next_u64()))) as u64;
        let key = Some(peerage_balance::key_hash(&rank.to_le_bytes()));
        held.push_back(model.balancer.pick(&PickInput::new(model.now).key(key)).unwrap());
        if held.len() > 200 {
            held.pop_front();
            let set = model.balancer.set();
            let most = set.members().iter().map(|member| member.state().pending()).max().unwrap();
            worst = worst.max(f64::from(most) / 20.0);
        }
        model.now += MS;
    }
    worst
}
