//! A limit of calls per peer that follows what the peer can take (B-7.2).

use std::sync::{Mutex, PoisonError};

use crate::{MILLISECOND, Outcome};

const START: f64 = 20.0;
const LEAST: f64 = 4.0;
const MOST: f64 = 1_000.0;
/// A window is at least that long.
const WINDOW: u64 = 100 * MILLISECOND;
/// And holds at least that many samples.
const SAMPLES: u32 = 10;
/// Every so many windows the limit is halved, to see how fast the peer is when it has little to do.
const PROBE_EVERY: u32 = 50;
/// So many of those are remembered.
const PROBES: usize = 6;
/// How much slower than idle is fine.
const TOLERANCE: f64 = 1.5;

/// The limit of one peer.
#[derive(Debug, Default)]
pub(crate) struct Adaptive(Mutex<AdaptiveLimit>);

impl Adaptive {
    pub(crate) fn limit(&self) -> u32 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).limit()
    }

    /// Takes a call into account and returns the limit that follows.
    pub(crate) fn sample(&self, outcome: Outcome, took: u64, in_flight: u32, now: u64) -> u32 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).sample(outcome, took, in_flight, now)
    }
}

/// The adaptive limit as a pure state machine: told of each call, it says how many may run at once.
///
/// It compares the time of calls with that of a peer that has little to do. To know the latter, it halves
/// the limit for a moment every 50 windows.
///
/// # Deviation
///
/// A peer that is not at its limit is known without that, so then the probe leaves room for twice what is
/// in flight. Halving it would turn calls away at half of the load that the peer can take.
#[derive(Clone, Debug)]
pub struct AdaptiveLimit {
    limit: f64,
    began: Option<u64>,
    samples: u32,
    sum: f64,
    most_in_flight: u32,
    /// A peer that asks for less, or keeps silent, is heard once per window.
    has_shrunk: bool,
    /// Windows closed so far.
    windows: u32,
    probing: bool,
    probe_limit: f64,
    first: Option<f64>,
    probes: [f64; PROBES],
    probe_count: usize,
}

impl Default for AdaptiveLimit {
    fn default() -> Self {
        Self {
            limit: START,
            began: None,
            samples: 0,
            sum: 0.0,
            most_in_flight: 0,
            has_shrunk: false,
            windows: 0,
            probing: false,
            probe_limit: LEAST,
            first: None,
            probes: [f64::INFINITY; PROBES],
            probe_count: 0,
        }
    }
}

impl AdaptiveLimit {
    /// How many calls may run at once, 4 to 1,000.
    #[must_use]
    pub fn limit(&self) -> u32 {
        // At most 1,000.
        if self.probing { self.limit.min(self.probe_limit) as u32 } else { self.limit as u32 }
    }

    /// Takes a call into account that ended with `outcome` after `took`, while `in_flight` were running.
    /// Returns the limit that follows.
    pub fn sample(&mut self, outcome: Outcome, took: u64, in_flight: u32, now: u64) -> u32 {
        let began = *self.began.get_or_insert(now);
        self.most_in_flight = self.most_in_flight.max(in_flight);
        match outcome {
            Outcome::Throttled | Outcome::Hard => {
                if !self.has_shrunk {
                    self.limit = (self.limit * 0.9).max(LEAST);
                    self.has_shrunk = true;
                }
            }
            Outcome::Success | Outcome::Ignored | Outcome::Soft => {
                self.samples += 1;
                self.sum += took as f64;
            }
            Outcome::Dial | Outcome::Identity | Outcome::Cancelled => {}
        }
        if self.samples >= SAMPLES && now.saturating_sub(began) >= WINDOW {
            self.close(now);
        }
        self.limit()
    }

    fn close(&mut self, now: u64) {
        let mean = self.sum / f64::from(self.samples);
        let first = *self.first.get_or_insert(mean);
        if self.probing {
            if let Some(probe) = self.probes.get_mut(self.probe_count % PROBES) {
                *probe = mean;
            }
            self.probe_count += 1;
        } else if f64::from(self.most_in_flight) >= self.limit / 2.0 {
            let least = self.probes.iter().copied().fold(f64::INFINITY, f64::min);
            let base = if least.is_finite() { least } else { first };
            let gradient = (TOLERANCE * base / mean.max(1.0)).clamp(0.5, 1.0);
            let new = self.limit * gradient + self.limit.sqrt().max(4.0);
            self.limit = (0.8 * self.limit + 0.2 * new).clamp(LEAST, MOST);
        }
        self.windows += 1;
        self.probing = self.windows % PROBE_EVERY == PROBE_EVERY - 1;
        // A peer that has less to do than it may is seen idle as it is: nobody is turned away for that.
        let spare = f64::from(self.most_in_flight) + 1.0 < self.limit;
        let in_use = if spare { 2.0 * f64::from(self.most_in_flight) } else { 0.0 };
        self.probe_limit = (self.limit / 2.0).max(LEAST).max(in_use);
        self.began = Some(now);
        (self.samples, self.sum, self.most_in_flight, self.has_shrunk) = (0, 0.0, 0, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One window of ten calls of `mean` milliseconds with `in_flight` running.
    fn window(limit: &mut AdaptiveLimit, clock: &mut u64, mean: u64, in_flight: u32) -> u32 {
        for _ in 0..9 {
            limit.sample(Outcome::Success, mean * MILLISECOND, in_flight, *clock);
        }
        *clock += WINDOW;
        limit.sample(Outcome::Success, mean * MILLISECOND, in_flight, *clock)
    }

    #[test]
    fn b_7_2_the_limit_grows_while_calls_stay_fast() {
        let (mut limit, mut clock) = (AdaptiveLimit::default(), 0);
        assert_eq!(limit.limit(), 20);
        // 0.8·20 + 0.2·(20 + √20) = 20.89…
        assert_eq!(window(&mut limit, &mut clock, 10, 10), 20);
        assert!((limit.limit - 20.894_427_19).abs() < 1e-6);
        assert_eq!(window(&mut limit, &mut clock, 10, 9), 20, "less than half was used: no news");
        assert!((limit.limit - 20.894_427_19).abs() < 1e-6);
    }

    #[test]
    fn b_7_2_the_limit_falls_when_calls_get_slow() {
        let (mut limit, mut clock) = (AdaptiveLimit::default(), 0);
        window(&mut limit, &mut clock, 10, 0);
        // g = 1.5·10/20 = 0.75: 0.8·20 + 0.2·(15 + √20) = 19.89…
        window(&mut limit, &mut clock, 20, 20);
        assert!((limit.limit - 19.894_427_19).abs() < 1e-6, "{}", limit.limit);
        // No less than half a step: g = 0.5.
        let before = limit.limit;
        window(&mut limit, &mut clock, 1_000, 20);
        assert!((limit.limit - (0.8 * before + 0.2 * (0.5 * before + before.sqrt()))).abs() < 1e-9);
    }

    #[test]
    fn b_7_2_every_fiftieth_window_is_a_probe_at_half_the_limit() {
        let (mut limit, mut clock) = (AdaptiveLimit::default(), 0);
        for closed in 1..=200 {
            let now = window(&mut limit, &mut clock, 10, 0);
            assert_eq!(now, if closed % 50 == 49 { 10 } else { 20 }, "{closed} windows");
        }
        assert_eq!(limit.probe_count, 4);
    }

    #[test]
    fn b_7_2_a_peer_that_asks_for_less_is_heard_once_per_window() {
        let mut limit = AdaptiveLimit::default();
        assert_eq!(limit.sample(Outcome::Throttled, 1, 1, 0), 18);
        assert_eq!(limit.sample(Outcome::Hard, 1, 1, 1), 18);
        let mut clock = 1;
        window(&mut limit, &mut clock, 10, 0);
        assert_eq!(limit.sample(Outcome::Hard, 1, 1, clock), 16);
        for _ in 0..100 {
            window(&mut limit, &mut clock, 10, 0);
            limit.sample(Outcome::Hard, 1, 1, clock);
        }
        assert_eq!(limit.limit(), 4, "not below 4");
    }
}
