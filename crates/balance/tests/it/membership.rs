//! From what sources say to the announced peers (B-9.1, B-9.5).

use std::collections::BTreeMap;

use peerage_balance::{Delta, Generator, Membership, PeerKey, Source, Standing, Step, index_below};

use crate::model::{MS, SECOND};

type Peers = Membership<u32>;

fn key(index: usize) -> PeerKey {
    PeerKey::new(&format!("peer-{index}"), "")
}

fn list(indexes: impl IntoIterator<Item = usize>) -> Vec<(PeerKey, u32)> {
    indexes.into_iter().map(|index| (key(index), 0)).collect()
}

fn of(n: usize) -> Peers {
    let mut peers = Peers::new();
    let step = peers.list(0, list(0..n));
    assert_eq!(step.deltas.len(), n);
    peers
}

fn standing(peers: &Peers, index: usize) -> Option<Standing> {
    peers.peers().find(|(of, ..)| **of == key(index)).map(|(.., standing)| standing)
}

fn count(peers: &Peers) -> usize {
    peers.peers().count()
}

#[test]
fn b_9_1_a_peer_missing_from_two_lists_and_for_ten_seconds_is_gone() {
    for second_list in [1, 9, 30] {
        let mut peers = of(4);
        let step = peers.list(SECOND, list(1..4));
        assert_eq!(step.deltas, [(key(0), Delta::Doubted)]);
        assert_eq!(standing(&peers, 0), Some(Standing::Suspect), "it is still used");
        let mut gone_at = None;
        for now in 2..60 {
            let step = if now == 1 + second_list {
                peers.list(now * SECOND, list(1..4))
            } else {
                peers.tick(now * SECOND, 0)
            };
            if step.deltas == [(key(0), Delta::Left)] {
                gone_at.get_or_insert(now);
            }
        }
        assert_eq!(gone_at, Some(1 + second_list.max(10)), "the later of both");
    }
}

#[test]
fn b_9_1_a_goodbye_is_believed_at_once() {
    let mut peers = of(1);
    assert_eq!(peers.goodbye(0, &key(0)).deltas, [(key(0), Delta::Left)]);
    assert_eq!(count(&peers), 0);
    assert_eq!(peers.goodbye(0, &key(0)), Step::default());
}

#[test]
fn b_9_1_a_doubted_peer_that_answers_is_kept_and_one_that_cannot_be_dialled_is_not() {
    let mut peers = of(4);
    let _ = peers.list(SECOND, list(2..4));
    let _ = peers.list(2 * SECOND, list(2..4));
    assert_eq!(peers.dial_failed(3 * SECOND, &key(1)).deltas, [(key(1), Delta::Left)]);
    assert_eq!(peers.dial_failed(3 * SECOND, &key(2)).deltas, [], "nobody doubts it");
    let mut gone_at = None;
    for now in 3..700 {
        peers.succeeded(now * SECOND, &key(0));
        if !peers.tick(now * SECOND, 0).deltas.is_empty() {
            gone_at.get_or_insert(now);
        }
    }
    assert!((601..=612).contains(&gone_at.unwrap()), "ten minutes: {gone_at:?}");
}

#[test]
fn b_9_1_what_expired_is_doubted_and_heard_again_is_not() {
    let mut peers = of(2);
    assert_eq!(peers.expired(SECOND, &key(0)).deltas, [(key(0), Delta::Doubted)]);
    assert_eq!(peers.expired(2 * SECOND, &key(0)), Step::default());
    assert_eq!(peers.heard(3 * SECOND, key(0), 0).deltas, [(key(0), Delta::Back)]);
    assert_eq!(peers.heard(3 * SECOND, key(0), 7).deltas, [(key(0), Delta::Changed)]);
    let _ = peers.expired(4 * SECOND, &key(0));
    assert!(peers.tick(14 * SECOND, 0).deltas.is_empty(), "it takes a list, too");
    let _ = peers.list(15 * SECOND, list([1]));
    assert_eq!(count(&peers), 1);
}

#[test]
fn b_9_1_an_empty_list_is_asked_about_twice_before_few_are_dropped() {
    for n in 1..=3 {
        let mut peers = of(n);
        let _ = peers.tick(0, 0);
        let step = peers.list(SECOND, []);
        assert!(step.refresh && step.guarded == 0, "asked again at once");
        assert_eq!(peers.next_tick(), Some(6 * SECOND));
        assert!(peers.list(SECOND + MS, []).deltas.is_empty());
        assert!(!peers.tick(6 * SECOND - MS, 0).refresh);
        assert!(peers.tick(6 * SECOND, 0).refresh, "and after 5 s");
        assert_eq!(count(&peers), n);
        assert_eq!(peers.list(6 * SECOND + MS, []).deltas.len(), n, "believed then");
        assert_eq!(count(&peers), 0);
    }
}

#[test]
fn b_9_1_most_of_many_missing_at_once_are_held_for_half_a_minute() {
    for (n, left, guarded) in [(4, 1, 3), (4, 2, 0), (10, 0, 10), (10, 4, 6), (10, 5, 0)] {
        let mut peers = of(n);
        let step = peers.list(SECOND, list(0..left));
        assert_eq!(step.guarded, guarded, "{left} of {n} left");
        let last = if guarded > 0 { 31 } else { 11 };
        for now in 2..last {
            assert!(peers.list(now * SECOND, list(0..left)).deltas.is_empty(), "{left} of {n} at {now} s");
        }
        let _ = peers.list(last * SECOND, list(0..left));
        assert_eq!(count(&peers), left, "{left} of {n}");
    }
}

#[test]
fn b_9_5_a_source_that_fails_for_ten_minutes_takes_nobody_away() {
    let mut peers = of(5);
    let mut seen = Vec::new();
    for now in 1..600 {
        let (failed, tick) = (peers.failed(now * SECOND), peers.tick(now * SECOND, 0));
        assert!(failed.deltas.is_empty() && tick.deltas.is_empty());
        seen.extend(failed.source.into_iter().chain(tick.source).map(|source| (now, source)));
    }
    assert_eq!(seen, [(1, Source::Failing), (300, Source::Stale)]);
    assert_eq!(count(&peers), 5);
    assert_eq!(peers.list(600 * SECOND, list(0..5)).source, Some(Source::Ok));
}

#[test]
fn b_9_5_a_source_that_flaps_takes_nobody_away() {
    for n in [1, 3, 4, 10] {
        let mut peers = of(n);
        for now in 1..600 {
            let step = peers.list(now * SECOND, list(if now % 2 == 0 { 0..n } else { 0..0 }));
            assert!(step.deltas.iter().all(|(_, delta)| *delta != Delta::Left), "{n} peers at {now} s");
            assert!(peers.tick(now * SECOND + 500 * MS, 0).deltas.is_empty());
        }
    }
}

#[test]
fn b_9_1_the_source_is_asked_about_every_half_minute_and_when_dials_fail() {
    let mut peers = of(1);
    let asked: Vec<_> = (0..200_000).filter(|now| peers.tick(now * MS, (7 * now) << 40).refresh).collect();
    assert!(asked.len() >= 5, "{asked:?}");
    for pair in asked.windows(2) {
        assert!((27_000..=33_001).contains(&(pair[1] - pair[0])), "{asked:?}");
    }
    let now = 200 * SECOND;
    let refreshes = (0..100).filter(|i| peers.dial_failed(now + i * 50 * MS, &key(0)).refresh).count();
    assert_eq!(refreshes, 5, "once a second");
}

/// The rules again, as plainly as can be: one record per peer, looked at after each event.
#[derive(Default)]
struct Naive {
    known: BTreeMap<usize, Option<Missing>>,
    succeeded: BTreeMap<usize, u64>,
}

#[derive(Clone, Copy)]
struct Missing {
    since: u64,
    earliest: u64,
    needs_list_from: u64,
    listed_without: bool,
}

impl Naive {
    fn list(&mut self, now: u64, list: &[usize]) {
        let newly: Vec<usize> =
            self.known.iter().filter(|(i, m)| m.is_none() && !list.contains(i)).map(|(i, _)| *i).collect();
        let size = self.known.len();
        let (wait, from) = match (size, newly.len()) {
            (4.., missing) if 2 * missing > size => (30 * SECOND, 0),
            (1..=3, 1..) if list.is_empty() => (5 * SECOND, 5 * SECOND),
            _ => (10 * SECOND, 0),
        };
        for (index, missing) in &mut self.known {
            match missing {
                _ if list.contains(index) => *missing = None,
                Some(missing) => {
                    missing.listed_without |= now >= missing.needs_list_from && now > missing.since
                }
                None => {
                    *missing = Some(Missing {
                        since: now,
                        earliest: now + wait,
                        needs_list_from: now + from,
                        listed_without: false,
                    });
                }
            }
        }
        list.iter().for_each(|index| {
            self.known.entry(*index).or_insert(None);
        });
        self.passes(now);
    }

    fn passes(&mut self, now: u64) {
        let succeeded = &self.succeeded;
        self.known.retain(|index, missing| {
            let Some(missing) = missing else { return true };
            if !missing.listed_without || now < missing.earliest {
                return true;
            }
            let recently = succeeded.get(index).is_some_and(|at| now - at <= 10 * SECOND);
            if recently && now - missing.since < 600 * SECOND {
                missing.earliest = now + 10 * SECOND;
            }
            recently && now - missing.since < 600 * SECOND
        });
        self.succeeded.retain(|index, _| self.known.contains_key(index));
    }
}

#[test]
fn b_9_5_random_scripts_agree_with_a_simple_model_at_every_step() {
    for seed in 0..100 {
        let random = Generator::seeded(seed);
        let (mut peers, mut naive) = (Peers::new(), Naive::default());
        let mut now = 0;
        for step in 0..300 {
            let z = random.next_u64();
            now += index_below(z, 8_000) as u64 * MS;
            let index = (z >> 8) as usize % 8;
            match z % 10 {
                0..4 => {
                    // Mostly all of them, sometimes few or none.
                    let mask = [0xFF, 0xFF, 0xFF, z >> 16, z >> 16 & z >> 24, 0][(z >> 40) as usize % 6];
                    let indexes: Vec<_> = (0..8).filter(|i| mask >> i & 1 == 1).collect();
                    let _ = peers.list(now, list(indexes.iter().copied()));
                    naive.list(now, &indexes);
                }
                4 => {
                    let _ = peers.heard(now, key(index), 0);
                    naive.known.insert(index, None);
                }
                5 => {
                    let _ = peers.goodbye(now, &key(index));
                    naive.known.remove(&index);
                }
                6 => {
                    let _ = peers.dial_failed(now, &key(index));
                    if matches!(naive.known.get(&index), Some(Some(_))) {
                        naive.known.remove(&index);
                    }
                }
                7 => {
                    peers.succeeded(now, &key(index));
                    if naive.known.contains_key(&index) {
                        naive.succeeded.insert(index, now);
                    }
                }
                8 => {
                    let _ = peers.failed(now);
                }
                _ => {
                    let _ = peers.tick(now, z);
                    naive.passes(now);
                }
            }
            naive.succeeded.retain(|index, _| naive.known.contains_key(index));
            let seen: Vec<_> = peers.peers().map(|(key, _, standing)| (key.clone(), standing)).collect();
            let standing =
                |missing: &Option<_>| if missing.is_some() { Standing::Suspect } else { Standing::Live };
            let expected: Vec<_> =
                naive.known.iter().map(|(i, missing)| (key(*i), standing(missing))).collect();
            assert_eq!(seen, expected, "seed {seed}, step {step}");
        }
    }
}
