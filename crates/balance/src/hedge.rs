//! Hedging: a second copy of a call that takes unusually long (B-6).

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::{Budget, InvalidPolicy, MILLISECOND, Outcome, SECOND};

/// A histogram is filled for so long.
const FILLED_FOR: u64 = 30 * SECOND;
/// The delay is computed anew after so long.
const REFRESHED: u64 = 3 * SECOND;
/// No hedge before so many samples.
const SAMPLES: u64 = 100;
/// No hedge earlier than this after the call.
const LEAST_DELAY: u64 = MILLISECOND;
/// Hedges that can be saved up, in thousandths.
const MOST_SAVED: i64 = 20 * SCALE;
const SCALE: i64 = 1_000;

/// Response times from 1 µs to 60 s, each known to a thousandth: a fixed 68 KiB.
#[derive(Clone)]
struct Histogram {
    counts: Box<[u32]>,
    total: u64,
}

/// Each doubling of the time has so many buckets, so a bucket is a thousandth of its time wide.
const PER_DOUBLING: u64 = 1 << DOUBLING_BITS;
const DOUBLING_BITS: u32 = 10;
/// Microseconds.
const MOST: u64 = 60_000_000;

impl Histogram {
    fn new() -> Self {
        Self { counts: vec![0; Self::bucket(MOST) + 1].into(), total: 0 }
    }

    /// Below 2,048 µs each microsecond has its own; then each doubling is cut into 1,024.
    const fn bucket(micros: u64) -> usize {
        let doublings = (64 - (micros | 1).leading_zeros()).saturating_sub(DOUBLING_BITS + 1);
        (doublings as u64 * PER_DOUBLING + (micros >> doublings)) as usize
    }

    /// The longest time that falls into a bucket, in microseconds.
    const fn longest(bucket: usize) -> u64 {
        let doublings = (bucket as u64 / PER_DOUBLING).saturating_sub(1);
        ((bucket as u64 - doublings * PER_DOUBLING + 1) << doublings) - 1
    }

    fn count(&mut self, nanos: u64) {
        let micros = nanos.div_ceil(1_000).min(MOST);
        if let Some(count) = self.counts.get_mut(Self::bucket(micros)) {
            *count = count.saturating_add(1);
            self.total += 1;
        }
    }

    fn clear(&mut self) {
        self.counts.fill(0);
        self.total = 0;
    }
}

/// The time that `part` of the samples of both do not exceed, in nanoseconds.
fn quantile(a: &Histogram, b: &Histogram, part: f64) -> u64 {
    let rank = (((a.total + b.total) as f64 * part).ceil() as u64).max(1);
    let mut seen = 0;
    let counts = a.counts.iter().zip(&b.counts).map(|(a, b)| u64::from(*a) + u64::from(*b));
    let bucket = counts.take_while(|count| {
        seen += count;
        seen < rank
    });
    Histogram::longest(bucket.count()).min(MOST) * 1_000
}

/// What a [`Hedging`] allows. Every setting is checked when it is made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HedgePolicy {
    /// In thousandths.
    per_call: i64,
    delay: Option<u64>,
}

impl Default for HedgePolicy {
    fn default() -> Self {
        Self { per_call: 50, delay: None }
    }
}

impl HedgePolicy {
    /// Hedges per call: 0.001 to 0.5, in thousandths. Default 0.05. Unless it is fixed, the delay is the time
    /// that all calls but this part take.
    ///
    /// # Errors
    ///
    /// [`InvalidPolicy`] outside that range.
    pub fn per_call(self, part: f64) -> Result<Self, InvalidPolicy> {
        if !(0.001..=0.5).contains(&part) {
            return Err(InvalidPolicy("hedged part of the calls: 0.001 to 0.5"));
        }
        Ok(Self { per_call: (part * SCALE as f64).round() as i64, ..self })
    }

    /// The delay after which a call is late: 1 ms to 60 s. By default it is learned from the calls.
    ///
    /// # Errors
    ///
    /// [`InvalidPolicy`] outside that range.
    pub fn delay(self, delay: Duration) -> Result<Self, InvalidPolicy> {
        let nanos = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
        let fits = (LEAST_DELAY..=60 * SECOND).contains(&nanos);
        fits.then_some(Self { delay: Some(nanos), ..self }).ok_or(InvalidPolicy("hedge delay: 1 ms to 60 s"))
    }
}

/// When a second copy of a call is sent, and whether it may be. One for each service.
#[derive(Debug)]
pub struct Hedging {
    /// Hedges per call, in thousandths.
    per_call: i64,
    /// If it is not learned.
    fixed_delay: Option<u64>,
    state: Mutex<State>,
}

struct State {
    filling: Histogram,
    finished: Histogram,
    filling_since: u64,
    refreshed: Option<u64>,
    delay: Option<u64>,
    saved: i64,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("delay", &self.delay)
            .field("saved", &self.saved)
            .finish_non_exhaustive()
    }
}

impl Default for Hedging {
    fn default() -> Self {
        Self::new(&HedgePolicy::default())
    }
}

impl Hedging {
    /// Nothing is known yet, and nothing saved.
    #[must_use]
    pub fn new(policy: &HedgePolicy) -> Self {
        let state = State {
            filling: Histogram::new(),
            finished: Histogram::new(),
            filling_since: 0,
            refreshed: None,
            delay: None,
            saved: 0,
        };
        Self { per_call: policy.per_call, fixed_delay: policy.delay, state: Mutex::new(state) }
    }

    /// A call that may be hedged begins: it pays in, and is told after which time its head is late.
    /// `None` while too little is known.
    pub fn begin(&self, now: u64) -> Option<u64> {
        self.state(|state| {
            state.saved = (state.saved + self.per_call).min(MOST_SAVED);
            if self.fixed_delay.is_some() {
                return self.fixed_delay;
            }
            state.refresh(now, 1.0 - self.per_call as f64 / SCALE as f64);
            state.delay
        })
    }

    /// An attempt ended after `took`. Fast failures do not count: they would shorten the delay.
    pub fn record(&self, outcome: Outcome, took: u64, now: u64) {
        self.state(|state| {
            let is_late = state.delay.is_some_and(|delay| took >= delay);
            match outcome {
                Outcome::Success | Outcome::Ignored | Outcome::Cancelled => {}
                // A timeout, or a failure that took as long.
                Outcome::Hard if is_late => {}
                _ => return,
            }
            state.turn(now);
            state.filling.count(took);
        });
    }

    /// The delay after which a call is late now; `None` while too little is known.
    pub fn delay(&self) -> Option<u64> {
        self.fixed_delay.or_else(|| self.state(|state| state.delay))
    }

    /// Whether a copy may be sent now: draws from the hedges saved and from the budget of resends, if there
    /// is one, or from neither.
    #[must_use]
    pub fn try_hedge<'b>(&self, budget: impl Into<Option<&'b Budget>>, now: u64) -> bool {
        let budget = budget.into();
        self.state(|state| {
            let allowed = state.saved >= SCALE && budget.is_none_or(|budget| budget.withdraw(now));
            if allowed {
                state.saved -= SCALE;
            }
            allowed
        })
    }

    fn state<T>(&self, then: impl FnOnce(&mut State) -> T) -> T {
        then(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    fn turn(&mut self, now: u64) {
        if now.saturating_sub(self.filling_since) >= FILLED_FOR {
            std::mem::swap(&mut self.filling, &mut self.finished);
            self.filling.clear();
            if now.saturating_sub(self.filling_since) >= 2 * FILLED_FOR {
                // Nothing was heard for so long that both are old.
                self.finished.clear();
            }
            self.filling_since = now;
        }
    }

    fn refresh(&mut self, now: u64, part: f64) {
        if self.refreshed.is_some_and(|at| now.saturating_sub(at) < REFRESHED) {
            return;
        }
        self.turn(now);
        let enough = self.filling.total + self.finished.total >= SAMPLES;
        self.delay = enough.then(|| quantile(&self.filling, &self.finished, part).max(LEAST_DELAY));
        // Until there are enough, each call asks again.
        self.refreshed = enough.then_some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BudgetPolicy;

    fn micros(nanos: Option<u64>) -> Option<u64> {
        nanos.map(|nanos| nanos / 1_000)
    }

    #[test]
    fn b_6_buckets_are_a_thousandth_wide() {
        for micros in (0..5_000).chain([12_345, 999_999, 1_000_000, 33_333_333, MOST]) {
            let longest = Histogram::longest(Histogram::bucket(micros));
            assert!(longest >= micros && (longest - micros) * 1_000 <= micros, "{micros}: {longest}");
            assert_eq!(Histogram::bucket(longest), Histogram::bucket(micros));
            assert_eq!(Histogram::bucket(longest + 1), Histogram::bucket(micros) + 1);
        }
        assert!(Histogram::new().counts.len() * size_of::<u32>() <= 70 * 1_024);
    }

    #[test]
    fn b_6_the_delay_is_the_95th_percentile_after_100_samples() {
        let hedging = Hedging::default();
        for i in 1..=99 {
            hedging.record(Outcome::Success, i * 10 * MILLISECOND, 0);
            assert_eq!(hedging.begin(0), None, "{i}");
        }
        hedging.record(Outcome::Success, 1_000 * MILLISECOND, 0);
        let delay = micros(hedging.begin(0)).unwrap();
        assert!((950_000..=950_950).contains(&delay), "{delay}");
    }

    #[test]
    fn b_6_fast_failures_do_not_shorten_it_and_timeouts_count() {
        let hedging = Hedging::default();
        (0..200).for_each(|_| hedging.record(Outcome::Success, 10 * MILLISECOND, 0));
        (0..1_000).for_each(|_| hedging.record(Outcome::Hard, 100_000, 0));
        (0..1_000).for_each(|_| hedging.record(Outcome::Dial, 100_000, 0));
        let delay = micros(hedging.begin(0)).unwrap();
        assert!((10_000..=10_010).contains(&delay), "{delay}");
        (0..200).for_each(|_| hedging.record(Outcome::Hard, 80 * MILLISECOND, 0));
        let delay = micros(hedging.begin(3 * SECOND)).unwrap();
        assert!((80_000..=80_080).contains(&delay), "{delay}");
    }

    #[test]
    fn b_6_it_is_refreshed_every_3_s_forgets_in_a_minute_and_is_at_least_1_ms() {
        let hedging = Hedging::default();
        (0..100).for_each(|_| hedging.record(Outcome::Success, 100_000, 0));
        assert_eq!(micros(hedging.begin(0)), Some(1_000));
        (0..1_000).for_each(|_| hedging.record(Outcome::Success, 50 * MILLISECOND, SECOND));
        assert_eq!(micros(hedging.begin(2 * SECOND)), Some(1_000), "not yet");
        assert!(micros(hedging.begin(3 * SECOND)) >= Some(50_000));
        (0..200).for_each(|_| hedging.record(Outcome::Success, 5 * MILLISECOND, 31 * SECOND));
        assert!(micros(hedging.begin(32 * SECOND)) >= Some(50_000), "the finished one still counts");
        (0..200).for_each(|_| hedging.record(Outcome::Success, 5 * MILLISECOND, 62 * SECOND));
        assert!(micros(hedging.begin(63 * SECOND)) <= Some(5_005));
        assert_eq!(hedging.begin(200 * SECOND), None, "a long silence");
    }

    #[test]
    fn b_6_a_hedge_needs_both_budgets() {
        let (hedging, budget) = (Hedging::default(), Budget::new(&BudgetPolicy::default()));
        assert!(!hedging.try_hedge(&budget, 0), "nothing in reserve");
        (0..1_000).for_each(|_| {
            hedging.begin(0);
        });
        let before = budget.balance(0);
        assert_eq!((0..50).filter(|_| hedging.try_hedge(&budget, 0)).count(), 10, "the budget's reserve");
        assert_eq!(before - budget.balance(0), 10_000);
        (0..1_000).for_each(|_| budget.deposit(0));
        assert_eq!((0..50).filter(|_| hedging.try_hedge(&budget, 0)).count(), 10, "20 were saved in all");
        assert_eq!(budget.balance(0), 190_000, "nothing is drawn if nothing is saved");
    }

    #[test]
    fn b_0_4_bad_parts_are_refused() {
        for part in [0.0, -1.0, 0.51, f64::NAN] {
            assert!(HedgePolicy::default().per_call(part).is_err(), "{part}");
        }
        for delay in [Duration::ZERO, Duration::from_micros(999), Duration::from_secs(61), Duration::MAX] {
            assert!(HedgePolicy::default().delay(delay).is_err(), "{delay:?}");
        }
    }

    #[test]
    fn b_6_a_fixed_delay_holds_from_the_first_call_on() {
        let policy = HedgePolicy::default().delay(Duration::from_millis(7)).expect("valid");
        let hedging = Hedging::new(&policy);
        (0..200).for_each(|_| hedging.record(Outcome::Success, 50 * MILLISECOND, 0));
        assert_eq!((hedging.begin(0), hedging.delay()), (Some(7 * MILLISECOND), Some(7 * MILLISECOND)));
        for _ in 0..20 {
            hedging.begin(0);
        }
        assert!(hedging.try_hedge(None, 0), "without a budget of resends its own is enough");
        assert!(!hedging.try_hedge(None, 0), "21 calls pay for one");
    }
}
