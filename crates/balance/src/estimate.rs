//! How long a peer takes and how often it fails, forgotten over time (B-2.5).
//!
//! Both are one machine word each: the value as `f32` in the upper half, in the lower half the *tick*
//! (65,536 ns) it was true at. A word is read as of now, so nobody has to age it.
//!
//! The functions are the arithmetic; what peers keep is in [`PeerState`](crate::PeerState).

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{MILLISECOND, Outcome, SECOND};

/// After this time an estimate counts a third: the time constant of the latency.
pub const TAU: u64 = 10 * SECOND;
/// The time constant of the success ratio.
pub const TAU_SUCCESS: u64 = 30 * SECOND;
/// The estimate of a peer when nothing is known of any.
pub const FIRST: f64 = 30.0 * MILLISECOND as f64;
/// An estimate or a measured time is at least this, 1 µs.
pub const LEAST: f64 = 1_000.0;
/// And at most this, 600 s.
pub const MOST: f64 = 600.0 * SECOND as f64;
/// The second candidate is taken if its cost is below this part of the first one's.
pub const MARGIN: f64 = 0.8;
/// A peer that fails always costs a hundred times what it would.
const LEAST_RATIO: f64 = 0.01;
/// An estimate that no answer has renewed for so long says less about a peer than one more call would.
pub(crate) const FORGOTTEN: u64 = 5 * SECOND;
/// One in so many calls that would avoid such a peer goes to it.
pub(crate) const TRIED: u64 = 100;
/// What one outcome moves the success ratio.
const STEP: f64 = 1.0 / 8.0;

/// The tick at time `t`. It wraps after 78 hours.
#[must_use]
pub const fn tick(t: u64) -> u32 {
    (t >> 16) as u32
}

/// Nanoseconds from one tick to another; 0 if `now` is the earlier one.
#[must_use]
pub const fn between(then: u32, now: u32) -> u64 {
    let ticks = now.wrapping_sub(then);
    if ticks >= 1 << 31 { 0 } else { (ticks as u64) << 16 }
}

/// `e^(−elapsed/tau)`.
#[must_use]
#[inline]
pub fn decay(elapsed: u64, tau: u64) -> f64 {
    // Usual under load: nothing to forget yet.
    if elapsed == 0 { 1.0 } else { (-(elapsed as f64) / tau as f64).exp() }
}

/// The estimate `e` after `elapsed`.
#[must_use]
pub fn project(e: f64, elapsed: u64) -> f64 {
    (e * decay(elapsed, TAU)).max(LEAST)
}

/// The estimate `e` of `elapsed` ago once an answer took `r`: a longer one is believed at once, a shorter
/// one as far as the old was forgotten.
#[must_use]
pub fn updated(e: f64, elapsed: u64, r: f64) -> f64 {
    let k = decay(elapsed, TAU);
    learned((e * k).max(LEAST), k, sane(r, FIRST))
}

/// The estimate after a time `r`, where it was `d` and `k` of what is older is left.
fn learned(d: f64, k: f64, r: f64) -> f64 {
    sane(if r > d { r } else { d + r * (1.0 - k) }, FIRST)
}

/// The success ratio `s` after `elapsed`: without news it goes back to 1.
#[must_use]
pub fn project_ratio(s: f64, elapsed: u64) -> f64 {
    1.0 - (1.0 - s) * decay(elapsed, TAU_SUCCESS)
}

/// The success ratio `s` of `elapsed` ago once another call succeeded or failed.
#[must_use]
pub fn updated_ratio(s: f64, elapsed: u64, succeeded: bool) -> f64 {
    let s = project_ratio(s, elapsed);
    (s + (f64::from(u8::from(succeeded)) - s) * STEP).clamp(0.0, 1.0)
}

/// What one more call on a peer costs: `estimate` and `stall` in nanoseconds, `weight` relative to the mean.
#[must_use]
pub fn cost(estimate: f64, stall: u64, pending: u32, weight: f64, success: f64) -> f64 {
    estimate.max(stall as f64) * (1.0 + f64::from(pending) / weight) / success.max(LEAST_RATIO)
}

/// `value` within the limits of a time; `otherwise` for what is not a number.
#[inline]
fn sane(value: f64, otherwise: f64) -> f64 {
    if value.is_nan() { otherwise } else { value.clamp(LEAST, MOST) }
}

/// A value and when it was true.
#[derive(Debug)]
pub(crate) struct Word(AtomicU64);

impl Word {
    pub(crate) const fn new(value: f32, now: u64) -> Self {
        Self(AtomicU64::new(Self::pack(value, now)))
    }

    const fn pack(value: f32, now: u64) -> u64 {
        ((value.to_bits() as u64) << 32) | tick(now) as u64
    }

    pub(crate) fn set(&self, value: f32, now: u64) {
        self.0.store(Self::pack(value, now), Ordering::Relaxed);
    }

    /// The value, and how long ago it was true.
    #[inline]
    pub(crate) fn read(&self, now: u64) -> (f32, u64) {
        Self::unpack(self.0.load(Ordering::Relaxed), now)
    }

    const fn unpack(word: u64, now: u64) -> (f32, u64) {
        (f32::from_bits((word >> 32) as u32), between(word as u32, tick(now)))
    }

    /// Replaces the value by what `next` makes of it and of its age; `None` leaves it.
    #[inline]
    fn update(&self, now: u64, next: impl Fn(f32, u64) -> Option<f32>) {
        // Relaxed: the word is all there is.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            let (value, age) = Self::unpack(word, now);
            next(value, age).map(|value| Self::pack(value, now))
        });
    }
}

/// The latency estimate of a peer. A guess is stored as a negative number until the first sample.
#[derive(Debug)]
pub(crate) struct Latency(Word);

impl Latency {
    pub(crate) const fn guess(e: f64, now: u64) -> Self {
        Self(Word::new(-(e as f32), now))
    }

    pub(crate) fn set_guess(&self, e: f64, now: u64) {
        self.0.set(-(sane(e, FIRST) as f32), now);
    }

    /// Whatever was known is no longer true: this is.
    pub(crate) fn restart(&self, r: u64, now: u64) {
        self.0.set(sane(r as f64, FIRST) as f32, now);
    }

    /// The estimate as of `now`, D.
    #[inline]
    pub(crate) fn at(&self, now: u64) -> f64 {
        let (e, age) = self.0.read(now);
        project(f64::from(e.abs()), age)
    }

    /// How old the estimate is.
    pub(crate) fn age(&self, now: u64) -> u64 {
        self.0.read(now).1
    }

    /// Whether it comes from calls, and is no guess.
    pub(crate) fn is_sampled(&self) -> bool {
        self.0.read(0).0 > 0.0
    }

    /// A call took `r` and ended with `outcome`.
    #[inline]
    pub(crate) fn sample(&self, outcome: Outcome, r: u64, now: u64) {
        let r = sane(r as f64, FIRST);
        self.0.update(now, |e, age| {
            // Usual under load: nothing was forgotten since the last sample, and this one is no peak. It
            // would change nothing, and threads shall not fight for the word. (A guess is below 0.)
            if age == 0 && r <= f64::from(e) {
                return None;
            }
            let k = decay(age, TAU);
            let d = (f64::from(e.abs()) * k).max(LEAST);
            let r = match outcome {
                Outcome::Success | Outcome::Ignored => r,
                // It may raise the estimate, never lower it.
                Outcome::Soft | Outcome::Hard | Outcome::Throttled => r.max(d),
                Outcome::Cancelled if r > d => r,
                _ => return None,
            };
            Some(learned(d, k, r) as f32)
        });
    }
}

/// The success ratio of a peer.
#[derive(Debug)]
pub(crate) struct Ratio(Word);

impl Ratio {
    pub(crate) const fn new(now: u64) -> Self {
        Self(Word::new(1.0, now))
    }

    pub(crate) fn reset(&self, now: u64) {
        self.0.set(1.0, now);
    }

    /// The ratio as of `now`, S.
    #[inline]
    pub(crate) fn at(&self, now: u64) -> f64 {
        let (s, age) = self.0.read(now);
        // The usual peer, and no exponential.
        if s >= 1.0 { 1.0 } else { project_ratio(f64::from(s), age) }
    }

    #[inline]
    pub(crate) fn sample(&self, outcome: Outcome, now: u64) {
        let succeeded = outcome == Outcome::Success;
        if !succeeded && !outcome.is_failure() {
            return;
        }
        self.0.update(now, |s, age| {
            // A success leaves a ratio of 1 as it is.
            (s < 1.0 || !succeeded).then(|| updated_ratio(f64::from(s), age, succeeded) as f32)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: f64 = 1e6;

    #[test]
    fn b_2_5_the_estimate_by_its_vectors() {
        assert_eq!(project(10.0 * MS, SECOND).round(), 9_048_374.0);
        assert_eq!(updated(10.0 * MS, SECOND, 5.0 * MS).round(), 9_524_187.0);
        assert_eq!(project(10.0 * MS, 10 * SECOND).round(), 3_678_794.0);
        assert!(
            (project(100.0 * MS, 23_025_850_930) - 10.0 * MS).abs() < 1.0,
            "100 ms become 10 ms in 23.03 s"
        );
        assert_eq!(updated(10.0 * MS, SECOND, 50.0 * MS), 50.0 * MS, "a peak is believed at once");
    }

    #[test]
    fn b_2_5_the_packed_word_holds_the_vectors_within_a_ten_thousandth() {
        let near = |value: f64, expected: f64| (value / expected - 1.0).abs() < 1e-4;
        for start in [0, 1, 65_535, 7 * SECOND, 78 * 3_600 * SECOND - 1] {
            let latency = Latency::guess(10.0 * MS, start);
            assert!(!latency.is_sampled());
            assert!(near(latency.at(start + SECOND), 9_048_374.0));
            assert!(near(latency.at(start + 10 * SECOND), 3_678_794.0));
            latency.sample(Outcome::Success, 5_000_000, start + SECOND);
            assert!(near(latency.at(start + SECOND), 9_524_187.0), "{start}");
            assert!(latency.is_sampled());
        }
    }

    #[test]
    fn b_0_1_ticks_wrap_and_never_run_backwards() {
        assert_eq!((tick(65_535), tick(65_536), tick(u64::MAX)), (0, 1, u32::MAX));
        assert_eq!(between(5, 7), 2 << 16);
        assert_eq!(between(u32::MAX, 1), 2 << 16);
        assert_eq!(between(7, 5), 0);
        assert_eq!(between(0, (1 << 31) - 1), ((1 << 31) - 1) << 16);
        assert_eq!(between(0, 1 << 31), 0);
    }

    #[test]
    fn b_2_5_which_outcomes_move_the_estimate() {
        let after = |outcome, r: u64| {
            let latency = Latency::guess(10.0 * MS, 0);
            latency.sample(outcome, r, 0);
            (latency.at(0) / MS).round()
        };
        for outcome in [Outcome::Soft, Outcome::Hard, Outcome::Throttled, Outcome::Cancelled] {
            assert_eq!(after(outcome, 200_000), 10.0, "{outcome:?} never lowers it");
            assert_eq!(after(outcome, 50_000_000), 50.0, "{outcome:?} raises it");
        }
        for outcome in [Outcome::Dial, Outcome::Identity] {
            assert_eq!(after(outcome, 50_000_000), 10.0, "{outcome:?} leaves it alone");
        }
        // With the clock standing still only peaks count, so that it moves here shows what was measured.
        for outcome in [Outcome::Success, Outcome::Ignored] {
            let latency = Latency::guess(10.0 * MS, 0);
            latency.sample(outcome, 1_000_000, TAU);
            assert!((latency.at(TAU) / MS - (3.678_794 + 0.632_121)).abs() < 0.001);
        }
        let failed = Latency::guess(10.0 * MS, 0);
        failed.sample(Outcome::Hard, 1_000_000, TAU);
        assert!(failed.at(TAU) / MS > 3.678 + 3.678 * 0.63, "a fast failure counts as the estimate itself");
    }

    #[test]
    fn b_2_5_within_one_tick_a_peak_counts_and_less_does_not() {
        let latency = Latency::guess(10.0 * MS, 0);
        latency.sample(Outcome::Success, 5_000_000, 1);
        assert!(latency.is_sampled(), "it is no guess any more, though the number is the same");
        assert_eq!((latency.at(2) / MS).round(), 10.0);
        latency.sample(Outcome::Success, 12_000_000, 2);
        assert_eq!((latency.at(2) / MS).round(), 12.0);
        latency.sample(Outcome::Success, 11_000_000, 65_535);
        assert_eq!((latency.at(65_535) / MS).round(), 12.0);
        latency.sample(Outcome::Success, 2_000_000, TAU);
        assert!((latency.at(TAU) / MS - (4.414_553 + 1.264_241)).abs() < 0.001, "a tick later it does");
    }

    #[test]
    fn b_2_5_the_success_ratio_falls_by_an_eighth_and_recovers_by_itself() {
        let ratio = Ratio::new(0);
        ratio.sample(Outcome::Success, 0);
        assert_eq!(ratio.at(0), 1.0);
        for (outcome, expected) in [
            (Outcome::Hard, 0.875),
            (Outcome::Ignored, 0.875),
            (Outcome::Cancelled, 0.875),
            (Outcome::Identity, 0.875),
            (Outcome::Soft, 0.765_625),
            (Outcome::Dial, 0.669_921_875),
            (Outcome::Throttled, 0.586_181_640_625),
            (Outcome::Success, 0.637_908_935_546_875),
        ] {
            ratio.sample(outcome, 0);
            assert!((ratio.at(0) - expected).abs() < 1e-6, "{outcome:?}: {}", ratio.at(0));
        }
        let gap = 1.0 - ratio.at(0);
        let after = 1.0 - ratio.at(TAU_SUCCESS);
        assert!((after / gap - (-1.0_f64).exp()).abs() < 1e-3);
    }

    #[test]
    fn b_2_5_the_cost_by_hand() {
        assert_eq!(cost(10.0, 0, 0, 1.0, 1.0), 10.0);
        assert_eq!(cost(10.0, 40, 1, 1.0, 1.0), 80.0, "the stall is the larger");
        assert_eq!(cost(10.0, 0, 3, 2.0, 0.5), 50.0);
        assert_eq!(cost(10.0, 0, 0, 1.0, 0.0), 1_000.0, "a hundred times at most");
    }

    #[test]
    fn b_0_4_no_absurd_number_enters() {
        for absurd in [f64::NAN, f64::INFINITY, -1.0, 0.0, 1e300] {
            for value in [updated(10.0 * MS, 0, absurd), updated(absurd.abs(), SECOND, 5.0 * MS)] {
                assert!((LEAST..=MOST).contains(&value), "{absurd}: {value}");
            }
        }
        let latency = Latency::guess(FIRST, 0);
        latency.sample(Outcome::Success, u64::MAX, 0);
        assert!((latency.at(0) / MOST - 1.0).abs() < 1e-6, "600 s at most");
        latency.set_guess(f64::NAN, 0);
        assert!((latency.at(0) / FIRST - 1.0).abs() < 1e-6);
    }
}
