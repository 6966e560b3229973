//! Slow start: a peer that is new, or back, gets its share little by little (B-2.9).
//!
//! It is done by thinning: a candidate that is new is kept with a probability that grows. Making it look
//! expensive instead would leave it idle under light load and flood it at the end.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::{InvalidPolicy, SECOND};

/// The least share of a peer that is new.
const LEAST: f64 = 0.1;
/// How long a peer that was ejected takes to its full share.
const AFTER_EJECTION: u64 = 5 * SECOND;

/// How fast new peers get their share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Warmup {
    window: u64,
    aggression: f64,
}

impl Default for Warmup {
    fn default() -> Self {
        Self { window: 10 * SECOND, aggression: 1.0 }
    }
}

impl Warmup {
    /// How long a peer that joins takes to its full share: above 0, at most an hour. Default 10 s.
    ///
    /// # Errors
    ///
    /// [`InvalidPolicy`] outside that range.
    pub fn window(self, window: Duration) -> Result<Self, InvalidPolicy> {
        if window.is_zero() || window > Duration::from_secs(3_600) {
            return Err(InvalidPolicy("warm-up window: above 0, at most an hour"));
        }
        // An hour in nanoseconds fits.
        Ok(Self { window: window.as_nanos() as u64, ..self })
    }

    /// 1 grows evenly, more grows fast first: 0.1 to 10. Default 1.
    ///
    /// # Errors
    ///
    /// [`InvalidPolicy`] outside that range.
    pub fn aggression(self, aggression: f64) -> Result<Self, InvalidPolicy> {
        let fits = (0.1..=10.0).contains(&aggression);
        fits.then_some(Self { aggression, ..self }).ok_or(InvalidPolicy("warm-up aggression: 0.1 to 10"))
    }

    /// What part of its share a peer gets at `age` of `window`.
    fn factor(self, age: u64, window: u64) -> f64 {
        if age >= window {
            return 1.0;
        }
        let part = age as f64 / window as f64;
        let part = if self.aggression == 1.0 { part } else { part.powf(1.0 / self.aggression) };
        part.max(LEAST)
    }
}

/// When a peer became usable, and how long its slow start is. Kept by each peer.
#[derive(Debug)]
pub(crate) struct SlowStart {
    born: AtomicU64,
    /// 0 for the window of the settings.
    window: AtomicU64,
}

impl SlowStart {
    pub(crate) const fn new(now: u64) -> Self {
        Self { born: AtomicU64::new(now), window: AtomicU64::new(0) }
    }

    /// It is back after an ejection.
    pub(crate) fn is_back(&self, now: u64) {
        self.born.store(now, Ordering::Relaxed);
        self.window.store(AFTER_EJECTION, Ordering::Relaxed);
    }

    pub(crate) fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.born.load(Ordering::Relaxed))
    }

    /// Its window; `settings` is the one for peers that join.
    pub(crate) fn window(&self, settings: Warmup) -> u64 {
        match self.window.load(Ordering::Relaxed) {
            0 => settings.window,
            window => window,
        }
    }

    /// What part of its share it gets.
    pub(crate) fn factor(&self, settings: Warmup, now: u64) -> f64 {
        settings.factor(self.age(now), self.window(settings))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b_2_9_the_factor_grows_from_a_tenth() {
        let even = Warmup::default();
        for (second, factor) in [(0, 0.1), (1, 0.1), (2, 0.2), (5, 0.5), (9, 0.9), (10, 1.0), (11, 1.0)] {
            assert_eq!(even.factor(second * SECOND, 10 * SECOND), factor, "{second}");
        }
        let fast = even.aggression(2.0).expect("valid");
        assert_eq!(fast.factor(SECOND, 4 * SECOND), 0.5);
        assert_eq!(fast.factor(0, 4 * SECOND), 0.1);
    }

    #[test]
    fn b_2_9_a_peer_that_is_back_has_its_own_window() {
        let slow = SlowStart::new(0);
        assert_eq!(slow.factor(Warmup::default(), 5 * SECOND), 0.5);
        slow.is_back(20 * SECOND);
        assert_eq!(slow.factor(Warmup::default(), 20 * SECOND), 0.1);
        assert_eq!(slow.factor(Warmup::default(), 24 * SECOND), 0.8);
        assert_eq!(slow.factor(Warmup::default(), 25 * SECOND), 1.0);
    }

    #[test]
    fn b_0_4_bad_warm_ups_are_refused() {
        let warmup = Warmup::default();
        assert!(warmup.window(Duration::ZERO).is_err());
        assert!(warmup.window(Duration::MAX).is_err());
        for aggression in [0.0, -1.0, f64::NAN, f64::INFINITY, 10.1] {
            assert!(warmup.aggression(aggression).is_err(), "{aggression}");
        }
    }
}
