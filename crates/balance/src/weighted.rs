//! Tables that turn weights into shares: whose turn it is, and who is drawn (B-2.3, B-2.4).

use crate::{Generator, index_below};

/// Turns in a table, if the weights allow.
const MOST_TURNS: u64 = 4_096;

/// The turns of weighted round robin: indexes, each as often as its weight says and spread as evenly as
/// possible. Empty if all weights are equal: then plain round robin does the same.
///
/// Weights of 0 get no turn.
#[must_use]
pub fn turns(weights: &[u16]) -> Box<[u32]> {
    let counts = counts(weights);
    // Index i has deadlines (j + ½)/c_i. They are compared as fractions, so that equal ones are equal.
    let mut turns: Vec<(u64, u64, u32)> = Vec::new();
    for (index, count) in (0..).zip(counts) {
        turns.extend((0..count).map(|j| (2 * j + 1, count, index)));
    }
    turns.sort_unstable_by(|(j, count, index), (other_j, other_count, other)| {
        (j * other_count).cmp(&(other_j * count)).then(index.cmp(other))
    });
    turns.into_iter().map(|(_, _, index)| index).collect()
}

/// Turns of each index per round; none at all if the weights are equal.
fn counts(weights: &[u16]) -> Vec<u64> {
    let weights: Vec<u64> = weights.iter().copied().map(u64::from).collect();
    let common = weights.iter().copied().fold(0, gcd);
    let whole: u64 = weights.iter().sum();
    if common == 0 || weights.iter().all(|weight| *weight == common) {
        return Vec::new();
    }
    if whole / common <= MOST_TURNS {
        return weights.iter().map(|weight| weight / common).collect();
    }
    let scaled = |weight: u64| (weight * MOST_TURNS + whole / 2) / whole;
    weights.iter().map(|weight| if *weight == 0 { 0 } else { scaled(*weight).max(1) }).collect()
}

const fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Draws indexes with a probability by weight, from one random number each.
#[derive(Clone, Debug)]
pub struct Alias {
    /// For each index: below which lower half of a draw it is taken itself, and who is otherwise.
    slots: Box<[(u64, u32)]>,
}

impl Alias {
    /// The table for these weights, not all 0.
    #[must_use]
    pub fn new(weights: &[u16]) -> Self {
        let (n, whole) = (weights.len() as u64, weights.iter().copied().map(u64::from).sum::<u64>().max(1));
        // In n-ths of the whole: each slot holds `whole`, filled up by somebody who has more.
        let mut rest: Vec<u64> = weights.iter().map(|weight| u64::from(*weight) * n).collect();
        let (mut small, mut large): (Vec<u32>, Vec<u32>) =
            (0..n as u32).partition(|index| rest.get(*index as usize).is_some_and(|rest| *rest < whole));
        let mut slots: Vec<(u64, u32)> = (0..n as u32).map(|index| (1 << 32, index)).collect();
        while let (Some(poor), Some(rich)) = (small.pop(), large.last().copied()) {
            let have = rest.get(poor as usize).copied().unwrap_or(0);
            if let Some(slot) = slots.get_mut(poor as usize) {
                *slot = ((u128::from(have) << 32).div_euclid(u128::from(whole)) as u64, rich);
            }
            if let Some(rest) = rest.get_mut(rich as usize) {
                *rest -= whole - have;
                if *rest < whole {
                    large.pop();
                    small.push(rich);
                }
            }
        }
        Self { slots: slots.into() }
    }

    /// The index that the draw `z` stands for.
    #[must_use]
    pub fn index(&self, z: u64) -> usize {
        let index = index_below(z, self.slots.len());
        match self.slots.get(index) {
            Some((threshold, alias)) if z & 0xFFFF_FFFF >= *threshold => *alias as usize,
            _ => index,
        }
    }

    /// Two indexes, distinct unless one of them has nearly all the weight.
    pub(crate) fn two(&self, random: &Generator) -> (usize, usize) {
        let a = self.index(random.next_u64());
        let others = (0..crate::DRAWS).map(|_| self.index(random.next_u64()));
        (a, others.into_iter().find(|b| *b != a).unwrap_or(a))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn b_2_3_turns_by_their_vectors() {
        for (weights, expected) in [
            (&[5, 1, 1][..], &[0, 0, 0, 1, 2, 0, 0][..]),
            (&[1, 2, 4], &[2, 1, 2, 0, 2, 1, 2]),
            (&[3, 2], &[0, 1, 0, 1, 0]),
            (&[500, 100, 100], &[0, 0, 0, 1, 2, 0, 0]),
            (&[0, 3, 0, 2], &[1, 3, 1, 3, 1]),
            (&[7, 7, 7], &[]),
            (&[0, 0], &[]),
            (&[], &[]),
        ] {
            assert_eq!(*turns(weights), *expected, "{weights:?}");
        }
    }

    #[test]
    fn b_2_3_large_weights_are_scaled_and_nobody_is_forgotten() {
        let mut weights = vec![1000; 9];
        weights.push(1);
        let turns = turns(&weights);
        assert!(turns.len().abs_diff(4_096) <= 10, "{}", turns.len());
        assert_eq!(turns.iter().filter(|index| **index == 9).count(), 1);
    }

    #[test]
    fn b_2_4_the_alias_table_is_exact() {
        for weights in [&[1, 2, 4][..], &[1], &[1000, 1], &[3, 3, 3], &[0, 5, 1, 0, 9]] {
            let alias = Alias::new(weights);
            let whole: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
            let mut shares = vec![0.0; weights.len()];
            for (index, (threshold, other)) in alias.slots.iter().enumerate() {
                let own = *threshold as f64 / 2_f64.powi(32);
                shares[index] += own / weights.len() as f64;
                shares[*other as usize] += (1.0 - own) / weights.len() as f64;
            }
            for (share, weight) in shares.iter().zip(weights) {
                assert!((share - f64::from(*weight) / whole).abs() < 1e-8, "{weights:?}: {shares:?}");
            }
        }
    }

    proptest! {
        /// Any L successive picks give c_i each; no prefix is off by 2.
        #[test]
        fn b_2_3_every_prefix_is_fair(weights in proptest::collection::vec(0_u16..60, 1..12)) {
            let table = turns(&weights);
            let (counts, len) = (counts(&weights), table.len() as f64);
            let mut seen = vec![0_u64; weights.len()];
            for (k, index) in (1..).zip(&table) {
                seen[*index as usize] += 1;
                for (seen, count) in seen.iter().zip(&counts) {
                    let off = (*seen as f64 - f64::from(k) * *count as f64 / len).abs();
                    prop_assert!(off < 2.0, "{off} after {k} of {weights:?}");
                }
            }
            prop_assert!(table.is_empty() || seen == counts);
        }
    }
}
