//! Outcomes of the last ten seconds (B-3.2).

use std::sync::atomic::{AtomicU64, Ordering};

use crate::SECOND;

const BUCKETS: u64 = 10;
/// Bits of each of the two counts; a bucket that reaches four million stays there.
const COUNT_BITS: u32 = 22;
const COUNT_MOST: u64 = (1 << COUNT_BITS) - 1;
/// Below this counting takes no loop: so many threads that they fill the rest at once there are not.
const ROOMY: u64 = COUNT_MOST / 2;
const EPOCH_MASK: u64 = (1 << (64 - 2 * COUNT_BITS)) - 1;

/// Ten one-second buckets, each one word: which ten seconds it counts for, good and bad outcomes. A bucket
/// of another time counts as empty and is overwritten at its first use.
#[derive(Debug, Default)]
pub(crate) struct Window([AtomicU64; BUCKETS as usize]);

/// What a window holds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Tally {
    pub(crate) ok: u64,
    pub(crate) failed: u64,
}

impl Tally {
    pub(crate) const fn total(self) -> u64 {
        self.ok + self.failed
    }

    pub(crate) fn failed_share(self) -> f64 {
        if self.total() == 0 { 0.0 } else { self.failed as f64 / self.total() as f64 }
    }

    pub(crate) const fn plus(self, other: Self) -> Self {
        Self { ok: self.ok + other.ok, failed: self.failed + other.failed }
    }
}

const fn unpack(word: u64) -> (u64, Tally) {
    let tally = Tally { ok: (word >> COUNT_BITS) & COUNT_MOST, failed: word & COUNT_MOST };
    (word >> (2 * COUNT_BITS), tally)
}

impl Window {
    pub(crate) const fn new() -> Self {
        // No time has this epoch for the first 121 days of a clock.
        Self([const { AtomicU64::new(u64::MAX << (2 * COUNT_BITS)) }; BUCKETS as usize])
    }

    #[inline]
    pub(crate) fn count(&self, ok: bool, now: u64) {
        let second = now / SECOND;
        let epoch = (second / BUCKETS) & EPOCH_MASK;
        let Some(bucket) = self.0.get((second % BUCKETS) as usize) else { return };
        let (of, tally) = unpack(bucket.load(Ordering::Relaxed));
        if of == epoch && tally.ok.max(tally.failed) < ROOMY {
            // No loop. A bucket that is ten seconds older by now has one outcome too many.
            bucket.fetch_add(if ok { 1 << COUNT_BITS } else { 1 }, Ordering::Relaxed);
            return;
        }
        let _ = bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            let (of, tally) = unpack(word);
            let tally = if of == epoch { tally } else { Tally::default() };
            let good = (tally.ok + u64::from(ok)).min(COUNT_MOST);
            let bad = (tally.failed + u64::from(!ok)).min(COUNT_MOST);
            Some((epoch << (2 * COUNT_BITS)) | (good << COUNT_BITS) | bad)
        });
    }

    pub(crate) fn tally(&self, now: u64) -> Tally {
        let second = now / SECOND;
        // The last ten seconds, as many as there were.
        let first = second.saturating_sub(BUCKETS - 1);
        (first..=second).fold(Tally::default(), |sum, second| {
            let word = self.0.get((second % BUCKETS) as usize).map(|word| word.load(Ordering::Relaxed));
            match word.map(unpack) {
                Some((of, tally)) if of == (second / BUCKETS) & EPOCH_MASK => sum.plus(tally),
                _ => sum,
            }
        })
    }

    pub(crate) fn clear(&self) {
        self.0.iter().for_each(|bucket| bucket.store(u64::MAX << (2 * COUNT_BITS), Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(window: &Window, second: u64) -> (u64, u64) {
        let tally = window.tally(second * SECOND);
        (tally.ok, tally.failed)
    }

    #[test]
    fn b_3_2_ten_seconds_count_and_the_eleventh_does_not() {
        let window = Window::new();
        assert_eq!(tally(&window, 0), (0, 0));
        for second in 0..20 {
            window.count(true, second * SECOND);
            window.count(false, second * SECOND + SECOND - 1);
            window.count(false, second * SECOND);
            let seconds = (second + 1).min(10);
            assert_eq!(tally(&window, second), (seconds, 2 * seconds));
        }
        assert_eq!(tally(&window, 28), (1, 2), "the last second is the last to go");
        assert_eq!(tally(&window, 29), (0, 0));
    }

    #[test]
    fn b_3_2_an_old_bucket_is_cleared_on_first_use() {
        let window = Window::new();
        (0..100).for_each(|_| window.count(false, 3 * SECOND));
        window.count(true, 13 * SECOND);
        assert_eq!(tally(&window, 13), (1, 0));
        window.count(true, 1_000_003 * SECOND);
        assert_eq!(tally(&window, 1_000_003), (1, 0));
        window.clear();
        assert_eq!(tally(&window, 1_000_003), (0, 0));
    }

    #[test]
    fn b_3_2_a_bucket_is_not_taken_for_one_of_another_time() {
        for doublings in 0..20 {
            let (window, later) = (Window::new(), 3 + (BUCKETS << doublings));
            window.count(false, 3 * SECOND);
            assert_eq!(tally(&window, later), (0, 0), "{later}");
            window.count(true, later * SECOND);
            assert_eq!(tally(&window, later), (1, 0), "{later}");
        }
    }

    #[test]
    fn b_3_2_a_window_that_was_cleared_is_empty_at_any_time() {
        // The last is of the one epoch that empty buckets have.
        for second in [0, 3, 13, 1_000_003, (BUCKETS << 20) - 3] {
            let window = Window::new();
            assert_eq!(tally(&window, second), (0, 0), "new, {second}");
            (0..3).for_each(|_| window.count(true, second * SECOND));
            window.count(false, second * SECOND);
            assert_eq!(tally(&window, second), (3, 1), "{second}");
            window.clear();
            assert_eq!(tally(&window, second), (0, 0), "cleared, {second}");
            window.count(true, second * SECOND);
            assert_eq!(tally(&window, second), (1, 0), "{second}");
        }
    }

    #[test]
    fn b_3_2_a_full_bucket_stays_full() {
        let window = Window::new();
        window.0[0].store((COUNT_MOST << COUNT_BITS) | COUNT_MOST, Ordering::Relaxed);
        window.count(true, 0);
        window.count(false, 0);
        assert_eq!(tally(&window, 0), (COUNT_MOST, COUNT_MOST));
        assert_eq!(window.tally(0).failed_share(), 0.5);
    }
}
