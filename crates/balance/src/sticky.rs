//! Sticky by key: calls of one key go to one peer, and few keys move when peers do (B-2.6).

use crate::{hash64, mix, unit};

const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;
/// Slots of a Maglev table, a prime.
const SLOTS: u64 = 65_537;
/// From so many peers on a table is used instead of a score per peer.
pub(crate) const MOST_SCORED: usize = 256;
/// Places of the table that are tried after the first.
const FURTHER: u64 = 16;
/// Peers that are tried in the order of their scores.
pub(crate) const RANKED: usize = 4;

/// The hash of a call's key, which a pick is given.
#[must_use]
pub fn key_hash(key: &[u8]) -> u64 {
    hash64(key)
}

/// How well a key and a peer fit, by [`key_hash`] and [`hash64`] of the peer's identity: the peer with
/// the highest score is preferred, of equal ones the one with the lower hash.
#[must_use]
pub const fn score(key: u64, peer: u64) -> u64 {
    mix(key ^ spread(peer))
}

/// What of a peer's hash goes into its scores.
pub(crate) const fn spread(peer: u64) -> u64 {
    peer.wrapping_mul(SPREAD)
}

/// The same for peers of unequal weight.
#[must_use]
pub fn weighted_score(key: u64, peer: u64, weight: u16) -> f64 {
    by_weight(score(key, peer), weight)
}

pub(crate) fn by_weight(score: u64, weight: u16) -> f64 {
    -f64::from(weight) / unit(score).ln()
}

/// The most calls that a peer may have pending to take another: `bound` times its share of all.
#[must_use]
pub fn fair_share(bound: f64, pending: u64, weight: u16, whole: u64) -> u64 {
    // A count of calls: below 2⁵².
    (bound * (pending + 1) as f64 * f64::from(weight) / whole.max(1) as f64).ceil() as u64
}

/// The highest of the scores, of equal ones that of the lower hash, which `hash_of` tells. Only those are
/// looked at that come after `last`, so that calling it again gives the next best.
///
/// One pass for each: nearly always the first peer is the one, and keeping four costs more than the scan.
#[inline]
pub(crate) fn next_best(
    scores: impl Iterator<Item = u64>,
    hash_of: impl Fn(usize) -> u64,
    last: Option<Ranked>,
) -> Option<Ranked> {
    let mut best: Option<Ranked> = None;
    for (index, score) in scores.enumerate() {
        if best.as_ref().is_some_and(|best| score < best.score) {
            continue;
        }
        let ranked = Ranked { score, index };
        let precedes = |a: &Ranked, b: &Ranked| {
            a.score > b.score
                || (a.score == b.score && (hash_of(a.index), a.index) < (hash_of(b.index), b.index))
        };
        if last.as_ref().is_none_or(|last| precedes(last, &ranked))
            && best.as_ref().is_none_or(|best| precedes(&ranked, best))
        {
            best = Some(ranked);
        }
    }
    best
}

/// A peer of a scan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ranked {
    score: u64,
    pub(crate) index: usize,
}

/// A table that knows the peer of a key at once, for many peers. Every process builds the same.
#[derive(Clone, Debug)]
pub struct Maglev {
    table: Box<[u32]>,
    /// Hash and weight of each peer the table was made for.
    of: Box<[(u64, u16)]>,
}

impl Maglev {
    /// The table for peers with these hashes and weights, none of them 0. Takes about a millisecond.
    #[must_use]
    pub fn new(of: Box<[(u64, u16)]>) -> Self {
        const FREE: u32 = u32::MAX;
        let mut table = vec![FREE; SLOTS as usize].into_boxed_slice();
        let least = f64::from(of.iter().map(|(_, weight)| *weight).min().unwrap_or(1).max(1));
        // Each goes through the slots in an order of its own.
        let mut peers: Vec<_> = of
            .iter()
            .map(|(hash, weight)| {
                let step = mix(*hash) % (SLOTS - 1) + 1;
                (hash % SLOTS, step, f64::from(*weight) / least, 0.0)
            })
            .collect();
        let mut free = if peers.is_empty() { 0 } else { SLOTS };
        while free > 0 {
            for (index, (place, step, turns, credit)) in (0..).zip(&mut peers) {
                *credit += *turns;
                while *credit >= 1.0 && free > 0 {
                    *credit -= 1.0;
                    // A free one is met: the step is prime to the number of slots.
                    while table.get(*place as usize).is_some_and(|slot| *slot != FREE) {
                        *place = (*place + *step) % SLOTS;
                    }
                    if let Some(slot) = table.get_mut(*place as usize) {
                        *slot = index;
                    }
                    free -= 1;
                }
            }
        }
        Self { table, of }
    }

    /// Whether the table is for these peers.
    pub(crate) fn is_for(&self, of: &[(u64, u16)]) -> bool {
        *self.of == *of
    }

    /// The peers for a key: the one that has it, then up to 16 others to fall back on.
    pub fn indexes(&self, key: u64) -> impl Iterator<Item = usize> + '_ {
        let further = (1..=FURTHER).map(move |j| mix(key.wrapping_add(j)));
        let at = |key: u64| self.table.get((key % SLOTS) as usize).map(|index| *index as usize);
        std::iter::once(key).chain(further).filter_map(at)
    }

    /// The table: the index of the peer for each slot.
    #[must_use]
    pub fn table(&self) -> &[u32] {
        &self.table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(n: usize) -> Vec<u64> {
        (0..n).map(|i| hash64(format!("node-{i}").as_bytes())).collect()
    }

    fn letters() -> [u64; 5] {
        ["node-a", "node-b", "node-c", "node-d", "node-e"].map(|id| hash64(id.as_bytes()))
    }

    fn winner(key: u64, peers: &[(u64, u16)]) -> usize {
        let scores = peers.iter().map(|(hash, weight)| weighted_score(key, *hash, *weight));
        scores.enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap().0
    }

    fn equal(hashes: &[u64]) -> Box<[(u64, u16)]> {
        hashes.iter().map(|hash| (*hash, 1)).collect()
    }

    #[test]
    fn b_2_6_preferences_by_their_vectors() {
        let peers = letters();
        for (key, hash, order, best) in [
            ("alice", 0x73A3_EA48_5F2E_6049, "aecdb", 0xC284_1B22_1D2B_FED7),
            ("bob", 0x9287_8A3B_42BA_D03B, "cadbe", 0xF278_731C_8596_511F),
            ("repo/42", 0x1D66_47BD_9231_59FA, "cdeba", 0xAB95_AD7B_65AF_1B87),
            ("", 0xEF46_DB37_51D8_E999, "bdeca", 0xB605_9FA4_9244_E315_u64),
        ] {
            assert_eq!(key_hash(key.as_bytes()), hash);
            let mut scored: Vec<_> =
                peers.iter().zip("abcde".chars()).map(|(peer, name)| (score(hash, *peer), name)).collect();
            scored.sort_unstable_by(|a, b| b.cmp(a));
            assert_eq!(scored[0].0, best, "{key}");
            assert_eq!(scored.iter().map(|(_, name)| *name).collect::<String>(), order, "{key}");
            let next =
                |last| next_best(peers.iter().map(|peer| score(hash, *peer)), |index| peers[index], last);
            let ranked = std::iter::successors(next(None), |last| next(Some(*last)));
            let ranked: String = ranked.map(|ranked| ["a", "b", "c", "d", "e"][ranked.index]).collect();
            assert_eq!(ranked, order, "{key}");
        }
    }

    #[test]
    fn b_2_6_counts_by_their_vectors() {
        let keys: Vec<_> = (0..100_000).map(|i| key_hash(format!("key-{i}").as_bytes())).collect();
        let count = |peers: &[(u64, u16)]| {
            let mut counts = vec![0; peers.len()];
            keys.iter().for_each(|key| counts[winner(*key, peers)] += 1);
            counts
        };
        let [a, b, c, ..] = letters();
        assert_eq!(count(&equal(&letters())), [20_122, 19_886, 20_214, 19_900, 19_878]);
        assert_eq!(count(&[(a, 1), (b, 2), (c, 4)]), [14_303, 28_390, 57_307]);
        let ten = count(&equal(&hashes(10)));
        assert!(ten.iter().max().unwrap() * 10 <= 105_000, "max/avg at most 1.05: {ten:?}");
    }

    #[test]
    fn b_2_6_a_removal_moves_only_its_own_keys() {
        let all = equal(&hashes(10));
        let fewer: Vec<_> = all.iter().copied().filter(|peer| *peer != all[3]).collect();
        for i in 0..10_000 {
            let key = key_hash(format!("key-{i}").as_bytes());
            let before = all[winner(key, &all)];
            if before != all[3] {
                assert_eq!(fewer[winner(key, &fewer)], before, "key-{i}");
            }
        }
    }

    #[test]
    fn b_2_6_of_equal_scores_the_lower_hash_wins() {
        let peers = [(10, 9), (20, 7), (20, 3), (5, 1), (10, 2), (30, 5)];
        let next = |last| next_best(peers.iter().map(|peer| peer.0), |index| peers[index].1, last);
        let ranked = std::iter::successors(next(None), |last| next(Some(*last)));
        assert_eq!(ranked.map(|ranked| ranked.index).collect::<Vec<_>>(), [5, 2, 1, 4, 0, 3]);
    }

    #[test]
    fn b_2_6_the_bound_is_the_fair_share_and_a_half() {
        assert_eq!(fair_share(1.5, 0, 1, 10), 1, "the first call goes anywhere");
        assert_eq!(fair_share(1.5, 9, 1, 10), 2);
        assert_eq!(fair_share(1.5, 99, 1, 10), 15);
        assert_eq!(fair_share(1.5, 99, 4, 10), 60);
        assert_eq!(fair_share(1.25, 99, 1, 10), 13);
    }

    #[test]
    fn b_2_6_maglev_by_its_vector() {
        let maglev = Maglev::new(equal(&letters()));
        assert_eq!(maglev.table()[..12], [4, 0, 3, 2, 2, 1, 0, 2, 3, 3, 3, 0]);
        assert_eq!(Maglev::new(Box::default()).indexes(7).next(), Some(u32::MAX as usize), "nobody");
    }

    #[test]
    fn b_2_6_maglev_shares_and_removals() {
        for n in [300, 1_000] {
            let hashes = hashes(n);
            let all = Maglev::new(equal(&hashes));
            let mut counts = vec![0_u32; n];
            all.table().iter().for_each(|index| counts[*index as usize] += 1);
            let fair = SLOTS as f64 / n as f64;
            for count in counts {
                assert!((f64::from(count) / fair - 1.0).abs() < 0.02, "{count} of {fair}");
            }
            for gone in 0..20 {
                let mut left = hashes.clone();
                left.remove(gone as usize);
                let fewer = Maglev::new(equal(&left));
                let now = |b: u32| if b >= gone { b + 1 } else { b };
                let of_others = all.table().iter().zip(fewer.table()).filter(|(a, _)| **a != gone);
                let (changed, others) = of_others.fold((0, 0), |(changed, others), (a, b)| {
                    (changed + u32::from(*a != now(*b)), others + 1)
                });
                let share = f64::from(changed) / f64::from(others);
                assert!(share <= 0.012, "{share} of the slots of others changed at n = {n}");
            }
        }
        let weighted = Maglev::new([(hashes(3)[0], 1), (hashes(3)[1], 2), (hashes(3)[2], 4)].into());
        let shares = [0, 1, 2].map(|i| weighted.table().iter().filter(|index| **index == i).count());
        for (share, part) in shares.into_iter().zip([1.0, 2.0, 4.0]) {
            assert!((share as f64 / (SLOTS as f64 * part / 7.0) - 1.0).abs() < 0.02, "{shares:?}");
        }
    }
}
