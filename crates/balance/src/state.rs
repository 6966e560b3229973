//! What is going on with a peer: counters, flags, estimates (B-1.2).

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::{
    Outcome,
    estimate::{FORGOTTEN, Latency, Ratio},
    limit::Adaptive,
    permit::FlagWord,
    slow::SlowStart,
    waits::Waits,
    window::Window,
};

/// Why a peer is not picked; several can hold.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Flags(u32);

impl Flags {
    /// Out after failures, until a probe succeeds.
    pub const EJECTED: Self = Self(1);
    /// Ejected, and one call is finding out whether it works again.
    pub const PROBING: Self = Self(1 << 1);
    /// It asked for less, for a while.
    pub const THROTTLED: Self = Self(1 << 2);
    /// Active checks say that it does not work.
    pub const DOWN: Self = Self(1 << 3);
    /// It did not prove who it is.
    pub const QUARANTINED: Self = Self(1 << 4);
    /// It left, or it cannot be reached while the source doubts that it is alive; running calls finish.
    pub const DRAINING: Self = Self(1 << 5);
    /// The source doubts that it is alive. The one flag that leaves it usable.
    pub const SUSPECT: Self = Self(1 << 6);

    /// Whether all of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// What is set in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is set here and not in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether nothing is set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// The flags that end by themselves.
const TIMED: [Flags; 2] = [Flags::THROTTLED, Flags::QUARANTINED];
/// What a panic set overlooks.
pub(crate) const OVERLOOKED: Flags =
    Flags::SUSPECT.union(Flags::EJECTED).union(Flags::PROBING).union(Flags::DOWN);

/// The source doubts that it is alive, and it could not be reached.
pub(crate) const DOUBT_CONFIRMED: Flags = Flags::SUSPECT.union(Flags::DRAINING);

/// What is going on with a peer right now. Shared by all sets the peer was ever part of.
///
/// What every call touches comes first and fills one cache line; with the outcome window it is two.
#[derive(Debug)]
#[repr(C, align(64))] // its own cache lines: counting a call on one peer must not slow picks of another
pub struct PeerState {
    flags: FlagWord,
    limit: AtomicU32,
    pending: AtomicU32,
    /// How often the peer got another address. Calls on an earlier one say nothing of it.
    pub(crate) moves: AtomicU32,
    waits: Waits,
    latency: Latency,
    success: Ratio,
    /// When a call to it last succeeded, in ns, 0 for never.
    succeeded_at: AtomicU64,
    /// Failures in a row.
    pub(crate) hard_run: AtomicU32,
    pub(crate) dial_run: AtomicU32,

    pub(crate) adaptive: Option<Box<Adaptive>>,
    pub(crate) window: Window,

    pub(crate) health: Vitals,
    slow: SlowStart,
    /// When each of [`TIMED`] ends. A flag whose time is over counts as not set and is not cleared: that
    /// would race with setting it again.
    until: [AtomicU64; 2],
}

/// What ejection needs to know. Changed by failures; never read by a pick.
#[derive(Debug, Default)]
pub(crate) struct Vitals {
    /// When the next probe of an ejected peer is due.
    pub(crate) probe_at: AtomicU64,
    /// Exponent of the ejection time, as of `back_at`.
    pub(crate) eject_count: AtomicU32,
    /// When it last became usable after an ejection.
    pub(crate) back_at: AtomicU64,
    /// Not looked at again before, because the last look said no.
    pub(crate) spared_until: AtomicU64,
    /// Active checks of one kind in a row: failures in the upper half, successes in the lower.
    pub(crate) checks: AtomicU32,
}

impl PeerState {
    pub(crate) fn new(limit: u32, guess: f64, adaptive: bool, now: u64) -> Self {
        let adaptive = adaptive.then(Box::<Adaptive>::default);
        Self {
            flags: FlagWord::new(),
            limit: AtomicU32::new(adaptive.as_ref().map_or(limit, |adaptive| adaptive.limit())),
            pending: AtomicU32::new(0),
            moves: AtomicU32::new(0),
            waits: Waits::new(),
            latency: Latency::guess(guess, now),
            success: Ratio::new(now),
            succeeded_at: AtomicU64::new(0),
            hard_run: AtomicU32::new(0),
            dial_run: AtomicU32::new(0),
            adaptive,
            window: Window::new(),
            health: Vitals::default(),
            slow: SlowStart::new(now),
            until: [const { AtomicU64::new(0) }; 2],
        }
    }

    /// It has another address: what was learned is of another place (B-1.1). Running calls stay counted.
    pub(crate) fn moved(&self, guess: f64, now: u64) {
        self.moves.fetch_add(1, Ordering::AcqRel);
        self.latency.set_guess(guess, now);
        self.success.reset(now);
        self.window.clear();
        let Vitals { eject_count, checks, .. } = &self.health;
        for count in [&self.hard_run, &self.dial_run, eject_count, checks] {
            count.store(0, Ordering::Relaxed);
        }
        self.health.spared_until.store(0, Ordering::Relaxed);
        for flag in [Flags::EJECTED, Flags::PROBING, Flags::DOWN] {
            self.set_flag(flag, false);
        }
    }

    /// It works again, after a probe or a trial that took `took`: what was learned before is of another day.
    /// Without that time it is expected to be like the others, whose estimate is `guess`.
    pub(crate) fn is_well(&self, took: Option<u64>, guess: impl FnOnce() -> f64, now: u64) {
        match took {
            Some(took) => self.latency.restart(took, now),
            None => self.latency.set_guess(guess(), now),
        }
        self.success.reset(now);
    }

    /// Whether nothing runs on it and the last news is old: it may be better than it looks.
    #[inline]
    pub(crate) fn is_forgotten(&self, now: u64) -> bool {
        self.latency.age(now) >= FORGOTTEN && self.pending() == 0
    }

    /// Calls begun and not finished, until the last byte of the body.
    #[inline]
    pub fn pending(&self) -> u32 {
        self.pending.load(Ordering::Relaxed)
    }

    /// Calls sent that have no response head yet.
    #[inline]
    pub fn awaiting(&self) -> u32 {
        self.waits.awaiting()
    }

    /// For how long some call has been waiting without any answer arriving; 0 if none waits.
    #[inline]
    pub fn stalled_for(&self, now: u64) -> u64 {
        self.waits.stalled_for(now)
    }

    /// How long a call is expected to take from `sent` to its head, in nanoseconds.
    pub fn estimate(&self, now: u64) -> u64 {
        // At most 600 s.
        self.latency.at(now) as u64
    }

    /// Whether [`estimate`](Self::estimate) comes from calls. It is a guess until then.
    pub fn is_sampled(&self) -> bool {
        self.latency.is_sampled()
    }

    /// How long ago the estimate last changed, in nanoseconds.
    pub fn estimate_age(&self, now: u64) -> u64 {
        self.latency.age(now)
    }

    /// The part of the calls that succeed lately, 0 to 1.
    pub fn success_ratio(&self, now: u64) -> f64 {
        self.success.at(now)
    }

    /// Outcomes of the last ten seconds: successes and failures.
    pub fn recent(&self, now: u64) -> (u64, u64) {
        let tally = self.window.tally(now);
        (tally.ok, tally.failed)
    }

    /// When a call to it last succeeded.
    pub fn succeeded_at(&self) -> Option<u64> {
        Some(self.succeeded_at.load(Ordering::Relaxed)).filter(|at| *at > 0)
    }

    /// What one more call costs by the rules of peak EWMA; `weight` relative to the mean of the set.
    #[inline]
    pub(crate) fn cost(&self, weight: f64, now: u64) -> f64 {
        let (estimate, success) = (self.latency.at(now), self.success.at(now));
        crate::estimate::cost(estimate, self.stalled_for(now), self.pending(), weight, success)
    }

    /// What an outcome says about speed and success. `took` is `None` if its time says nothing.
    #[inline]
    pub(crate) fn learn(&self, outcome: Outcome, took: Option<u64>, now: u64) {
        if let Some(took) = took {
            self.latency.sample(outcome, took, now);
        }
        self.success.sample(outcome, now);
        match outcome {
            Outcome::Success => {
                self.window.count(true, now);
                self.succeeded_at.store(now.max(1), Ordering::Relaxed);
            }
            Outcome::Soft | Outcome::Hard | Outcome::Dial => self.window.count(false, now),
            _ => {}
        }
        if let (Some(adaptive), Some(took)) = (&self.adaptive, took) {
            let limit = adaptive.sample(outcome, took, self.pending(), now);
            self.limit.store(limit, Ordering::Relaxed);
        }
    }

    pub(crate) const fn slow(&self) -> &SlowStart {
        &self.slow
    }

    /// The flags that hold at `now`.
    #[inline]
    pub fn flags(&self, now: u64) -> Flags {
        let flags = Flags(self.flags.load());
        // The usual case costs one load.
        if flags.is_empty() { flags } else { self.without_ended(flags, now) }
    }

    fn without_ended(&self, mut flags: Flags, now: u64) -> Flags {
        for (flag, until) in TIMED.iter().zip(&self.until) {
            if flags.contains(*flag) && until.load(Ordering::Relaxed) <= now {
                flags = flags.without(*flag);
            }
        }
        flags
    }

    /// When the first of the flags that hold at `now` and end by themselves ends.
    pub(crate) fn next_end(&self, now: u64) -> Option<u64> {
        self.ends(now).min()
    }

    /// When the longest of the flags that hold at `now` and have an end ends. For an ejected peer: when it
    /// is probed.
    pub fn until(&self, now: u64) -> Option<u64> {
        let probe = self.probe_at().filter(|at| *at > now);
        self.ends(now).chain(probe).max()
    }

    /// When the next probe of an ejected peer is due; `None` for others, and while it is being probed.
    pub(crate) fn probe_at(&self) -> Option<u64> {
        let flags = Flags(self.flags.load());
        let is_waiting = flags.contains(Flags::EJECTED) && !flags.contains(Flags::PROBING);
        is_waiting.then(|| self.health.probe_at.load(Ordering::Relaxed))
    }

    fn ends(&self, now: u64) -> impl Iterator<Item = u64> + '_ {
        let flags = self.flags(now);
        let ends = TIMED.iter().zip(&self.until).filter(move |(flag, _)| flags.contains(**flag));
        ends.map(|(_, until)| until.load(Ordering::Relaxed))
    }

    /// The most calls pending at once.
    #[inline]
    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Whether nothing is held against it but what is overlooked.
    #[inline]
    pub(crate) fn is_open(&self, overlooked: Flags, now: u64) -> bool {
        // The usual case costs one load.
        Flags(self.flags.load()).without(overlooked).is_empty()
            || self.flags(now).without(overlooked).is_empty()
    }

    /// Whether it would be open if somebody could reach it.
    pub(crate) fn is_open_but_unreachable(&self, now: u64) -> bool {
        let flags = self.flags(now).without(Flags::SUSPECT);
        !flags.is_empty() && flags.without(Flags::DOWN.union(Flags::DRAINING)).is_empty()
    }

    /// Whether all that keeps an ejected peer out is that it failed, and that it is in doubt because of that.
    pub(crate) fn is_held_for_failing_alone(&self, now: u64) -> bool {
        let flags = self.flags(now);
        let doubt = if flags.contains(DOUBT_CONFIRMED) { DOUBT_CONFIRMED } else { Flags::SUSPECT };
        flags.without(Flags::EJECTED.union(doubt)).is_empty()
    }

    /// Takes a peer out that is in doubt anyway (B-9.1). Returns whether that is news.
    pub(crate) fn confirm_doubt(&self) -> bool {
        // A doubt that is taken back at this moment may be followed by DRAINING: the next update mends that.
        let flags = Flags(self.flags.load());
        let is_news = flags.contains(Flags::SUSPECT) && !flags.contains(Flags::DRAINING);
        if is_news {
            self.set_flag(Flags::DRAINING, true);
        }
        is_news
    }

    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.pending() >= self.limit()
    }

    /// Sets a flag that ends by itself. The longer of two times holds.
    pub(crate) fn set_until(&self, flag: Flags, until: u64) {
        let Some((_, end)) = TIMED.iter().zip(&self.until).find(|(timed, _)| **timed == flag) else { return };
        // The end first: who sees the flag (acquire) sees an end at least as late.
        end.fetch_max(until, Ordering::Relaxed);
        self.set_flag(flag, true);
    }

    /// Returns whether it was set before.
    pub(crate) fn set_flag(&self, flag: Flags, on: bool) -> bool {
        Flags(self.flags.set(flag.0, on)).contains(flag)
    }

    /// Takes the one permit to probe an ejected peer.
    pub(crate) fn try_probe(&self) -> bool {
        self.flags.take(Flags::EJECTED.0, Flags::PROBING.0)
    }

    /// Counts a call, unless there are `limit` already.
    #[inline]
    pub(crate) fn try_begin(&self) -> bool {
        let before = self.pending.fetch_add(1, Ordering::Relaxed);
        if before >= self.limit() {
            self.pending.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        true
    }

    pub(crate) const fn waits(&self) -> &Waits {
        &self.waits
    }

    #[inline]
    pub(crate) fn finish(&self) {
        self.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimate::FIRST;

    #[test]
    fn b_timed_flags_end_by_themselves() {
        let is_open = |state: &PeerState, now| state.is_open(Flags::SUSPECT, now);
        let state = PeerState::new(1, FIRST, false, 0);
        state.set_until(Flags::THROTTLED, 100);
        state.set_until(Flags::THROTTLED, 50);
        assert!(state.flags(99).contains(Flags::THROTTLED), "the longer of two throttles holds");
        assert_eq!(state.until(99), Some(100));
        assert!(!is_open(&state, 99) && is_open(&state, 100));
        state.set_until(Flags::QUARANTINED, 200);
        assert_eq!(state.flags(150), Flags::QUARANTINED);
        assert_eq!((state.until(150), state.until(200)), (Some(200), None));
        state.set_flag(Flags::SUSPECT, true);
        assert!(is_open(&state, 200), "a suspect peer stays usable");
        state.set_flag(Flags::DRAINING, true);
        assert!(!is_open(&state, u64::MAX), "draining has no end");
    }

    #[test]
    fn b_3_3_an_ejection_does_not_end_by_itself_and_has_one_permit() {
        let state = PeerState::new(1, FIRST, false, 0);
        assert!(!state.try_probe(), "only an ejected peer is probed");
        state.health.probe_at.store(100, Ordering::Relaxed);
        state.set_flag(Flags::EJECTED, true);
        assert!(!state.is_open(Flags::SUSPECT, u64::MAX));
        assert!(state.is_open(OVERLOOKED, 0), "panic overlooks it");
        assert_eq!((state.until(99), state.until(100), state.probe_at()), (Some(100), None, Some(100)));
        assert!(state.try_probe());
        assert!(!state.try_probe(), "the permit is taken");
        assert_eq!(state.probe_at(), None);
        state.set_flag(Flags::PROBING, false);
        assert!(state.try_probe(), "and was given back");
    }

    #[test]
    fn b_1_1_a_move_forgets_what_was_learned_and_keeps_what_runs() {
        let state = PeerState::new(9, FIRST, false, 0);
        assert!(state.try_begin());
        for _ in 0..3 {
            state.learn(Outcome::Hard, Some(500_000_000), 1);
        }
        state.set_flag(Flags::EJECTED, true);
        assert!(state.success_ratio(1) < 0.7 && state.estimate(1) > 400_000_000);
        state.moved(FIRST, 2);
        assert_eq!((state.success_ratio(2), state.recent(2), state.pending()), (1.0, (0, 0), 1));
        assert!(!state.is_sampled() && state.flags(2).is_empty());
        assert!((state.estimate(2) as f64 / FIRST - 1.0).abs() < 1e-6);
    }
}
