//! When a peer is taken out, and for how long (B-3.3): settings and arithmetic.

use std::sync::atomic::Ordering;

use crate::{InvalidPolicy, Outcome, PeerState, SECOND, unit, window::Tally};

/// The first ejection lasts so long, each further one twice as long.
const SHORTEST: u64 = SECOND;
/// But not longer, but for up to half of it at random, so that clients do not come back together.
const LONGEST: u64 = 60 * SECOND;
/// So much normal service makes up for one ejection.
const FORGIVEN_AFTER: u64 = 10 * SECOND;
/// Without a call that may be a probe, a dial is one after this time.
pub(crate) const DIAL_AFTER: u64 = 5 * SECOND;
/// A peer is not looked at again for so long after it was spared.
pub(crate) const SPARED: u64 = 100 * crate::MILLISECOND;
/// The guard needs as many outcomes of others.
const GUARD_OUTCOMES: u64 = 20;
const GUARD_PRIOR: f64 = 10.0;
/// Rule R4: so many peers with as many outcomes each, and so many standard deviations.
const STATISTICAL_PEERS: usize = 5;
const STATISTICAL_OUTCOMES: u64 = 100;
const STATISTICAL_SIGMAS: f64 = 1.9;

/// When peers that fail are taken out. Every setting is checked when it is made.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    dial_run: u32,
    hard_run: u32,
    outcomes: u32,
    failed_share: f64,
    statistical: bool,
    panic: Panic,
}

/// What picks do while more than half of the peers, by weight, are out (B-3.4).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Panic {
    /// Use those that failed as well: some call may succeed.
    #[default]
    UseAll,
    /// Answer that there are no peers, to spare the few that are left.
    Refuse,
}

/// Which rule took a peer out.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Rule {
    /// Dials failed in a row.
    Dial,
    /// Hard failures in a row.
    HardRun,
    /// Too large a part of the outcomes of ten seconds failed.
    Ratio,
    /// It fails more often than the others do.
    Statistical,
    /// It failed its probe.
    Probe,
}

impl Rule {
    /// A fixed word for logs and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dial => "dial",
            Self::HardRun => "hard_run",
            Self::Ratio => "ratio",
            Self::Statistical => "statistical",
            Self::Probe => "probe",
        }
    }
}

impl Default for Health {
    fn default() -> Self {
        Self {
            dial_run: 2,
            hard_run: 5,
            outcomes: 20,
            failed_share: 0.5,
            statistical: false,
            panic: Panic::default(),
        }
    }
}

impl Health {
    /// Dials that fail in a row until a peer is out: 1 to 1,000. Default 2.
    ///
    /// # Errors
    ///
    /// [`InvalidPolicy`] outside that range.
    pub fn dial_failures(self, count: u32) -> Result<Self, InvalidPolicy> {
        let fits = (1..=1_000).contains(&count);
        fits.then_some(Self { dial_run: count, ..self }).ok_or(InvalidPolicy("dial failures: 1 to 1,000"))
    }

    /// Hard failures in a row until a peer is out: 1 to 1,000. Default 5.
    ///
    /// # Errors
    ///
    /// [`InvalidPolicy`] outside that range.
    pub fn hard_failures(self, count: u32) -> Result<Self, InvalidPolicy> {
        let fits = (1..=1_000).contains(&count);
        fits.then_some(Self { hard_run: count, ..self }).ok_or(InvalidPolicy("hard failures: 1 to 1,000"))
    }

    /// The part of at least `outcomes` (1 to 1,000,000, default 20) within ten seconds that must have
    /// failed: above 0, at most 1; default 0.5.
    ///
    /// # Errors
    ///
    /// [`InvalidPolicy`] outside those ranges.
    pub fn failed_share(self, share: f64, outcomes: u32) -> Result<Self, InvalidPolicy> {
        if !(share > 0.0 && share <= 1.0 && (1..=1_000_000).contains(&outcomes)) {
            return Err(InvalidPolicy("failed share: above 0, at most 1, of 1 to 1,000,000 outcomes"));
        }
        Ok(Self { failed_share: share, outcomes, ..self })
    }

    /// Whether a peer is also out if it fails more often than the others do: its success rate is more than
    /// 1.9 standard deviations below the mean, of at least five peers with at least 100 outcomes each.
    /// Default no.
    ///
    /// The peer itself is one of those that mean and deviation are of, so of few peers only one is ever that
    /// far from all: of *n* numbers none is more than √(n−1) deviations from their mean, two for five. To
    /// compare it with the others alone would take out, of few peers that are alike, one that has bad luck.
    #[must_use]
    pub const fn statistical(mut self, on: bool) -> Self {
        self.statistical = on;
        self
    }

    /// What picks do while most peers are out.
    #[must_use]
    pub const fn panic(mut self, panic: Panic) -> Self {
        self.panic = panic;
        self
    }

    pub(crate) const fn panic_uses_all(&self) -> bool {
        matches!(self.panic, Panic::UseAll)
    }

    pub(crate) const fn is_statistical(&self) -> bool {
        self.statistical
    }

    /// Counts a failure and names the rule it fires, if any.
    pub(crate) fn fired(&self, state: &PeerState, outcome: Outcome, now: u64) -> Option<Rule> {
        match outcome {
            Outcome::Dial if state.dial_run.fetch_add(1, Ordering::Relaxed) + 1 >= self.dial_run => {
                return Some(Rule::Dial);
            }
            Outcome::Hard if state.hard_run.fetch_add(1, Ordering::Relaxed) + 1 >= self.hard_run => {
                return Some(Rule::HardRun);
            }
            Outcome::Dial | Outcome::Hard | Outcome::Soft => {}
            _ => return None,
        }
        let tally = state.window.tally(now);
        (tally.total() >= u64::from(self.outcomes) && tally.failed_share() >= self.failed_share)
            .then_some(Rule::Ratio)
    }
}

/// Whether a failure is everybody's: then nobody is taken out for it.
///
/// # Deviation
///
/// A peer is taken to have done as the others do in ten calls before those that are known. Without that,
/// while 30 % of all calls fail, the first five calls to a peer fail by chance in some of many clients.
/// While the others are well it changes nothing.
pub(crate) fn is_shared(own: Tally, others: Tally) -> bool {
    let theirs = others.failed_share();
    let share = (own.failed as f64 + GUARD_PRIOR * theirs) / (own.total() as f64 + GUARD_PRIOR);
    others.total() >= GUARD_OUTCOMES && share < 2.0 * theirs
}

/// Whether the success rate of `own` is far below those of `all`, its own included.
pub(crate) fn is_outlier(own: Tally, all: impl Iterator<Item = Tally> + Clone) -> bool {
    let rates =
        all.filter(|tally| tally.total() >= STATISTICAL_OUTCOMES).map(|tally| 1.0 - tally.failed_share());
    let count = rates.clone().count();
    if count < STATISTICAL_PEERS || own.total() < STATISTICAL_OUTCOMES {
        return false;
    }
    let mean = rates.clone().sum::<f64>() / count as f64;
    let variance = rates.map(|rate| (rate - mean).powi(2)).sum::<f64>() / count as f64;
    1.0 - own.failed_share() < mean - STATISTICAL_SIGMAS * variance.sqrt()
}

/// Most peers of `count` that may be out at once: half of them, so one of two and never one that is alone.
pub(crate) const fn most_out(count: usize) -> usize {
    count / 2
}

/// How long the ejection number `count` (from 1) lasts, by the random number `z`.
#[must_use]
pub fn ejection_time(count: u32, z: u64) -> u64 {
    let doublings = count.saturating_sub(1).min(30);
    let base = (SHORTEST << doublings).min(LONGEST);
    // At most 90 s.
    (base as f64 * (1.0 + 0.5 * unit(z))) as u64
}

/// What is left of an ejection count after so much normal service.
pub(crate) fn forgiven(count: u32, service: u64) -> u32 {
    count.saturating_sub(u32::try_from(service / FORGIVEN_AFTER).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(ok: u64, failed: u64) -> Tally {
        Tally { ok, failed }
    }

    #[test]
    fn b_3_3_ejection_times_double_up_to_a_minute() {
        for (count, seconds) in (1..=9).zip([1, 2, 4, 8, 16, 32, 60, 60, 60]) {
            let (least, most) = (ejection_time(count, 0), ejection_time(count, u64::MAX));
            assert_eq!(least / SECOND, seconds, "{count}");
            assert!(most <= seconds * SECOND * 3 / 2 && most > seconds * SECOND * 149 / 100, "{count}");
        }
        assert!(ejection_time(u32::MAX, 0) >= 60 * SECOND);
    }

    #[test]
    fn b_3_8_the_cap_by_its_numbers() {
        assert_eq!([0, 1, 2, 3, 4, 10].map(most_out), [0, 0, 1, 1, 2, 5]);
    }

    #[test]
    fn b_3_3_the_guard_spares_a_peer_for_what_all_do() {
        assert!(is_shared(tally(7, 3), tally(14, 6)));
        assert!(is_shared(tally(50, 50), tally(14, 6)), "0.5 is below twice 0.3");
        assert!(!is_shared(tally(30, 70), tally(14, 6)), "0.7 is not");
        assert!(is_shared(tally(0, 5), tally(14, 6)), "5 of 5 may be chance: 8 of 15");
        assert!(!is_shared(tally(0, 10), tally(14, 6)), "13 of 20");
        assert!(!is_shared(tally(5, 5), tally(90, 10)), "6 of 20 is more than twice 0.1");
        assert!(!is_shared(tally(0, 5), tally(0, 19)), "too few others");
        assert!(!is_shared(tally(0, 5), tally(100, 0)));
    }

    #[test]
    fn b_3_3_an_outlier_is_two_deviations_below() {
        let good = [tally(99, 1); 6];
        let is_outlier = |own: Tally| is_outlier(own, good.into_iter().chain([own]));
        assert!(is_outlier(tally(90, 10)));
        assert!(!is_outlier(tally(99, 1)));
        assert!(!is_outlier(tally(80, 10)), "too few outcomes");
        assert!(
            !super::is_outlier(tally(50, 50), [tally(99, 1); 3].into_iter().chain([tally(50, 50)])),
            "too few peers"
        );
    }

    #[test]
    fn b_3_3_service_forgives() {
        assert_eq!(forgiven(3, 10 * SECOND - 1), 3);
        assert_eq!(forgiven(3, 20 * SECOND), 1);
        assert_eq!(forgiven(3, u64::MAX), 0);
    }

    #[test]
    fn b_0_4_bad_health_settings_are_refused() {
        let health = Health::default;
        assert!(health().dial_failures(0).is_err() && health().hard_failures(1_001).is_err());
        for (share, outcomes) in [(0.0, 20), (1.1, 20), (f64::NAN, 20), (0.5, 0), (0.5, u32::MAX)] {
            assert!(health().failed_share(share, outcomes).is_err(), "{share} of {outcomes}");
        }
    }
}
