//! How attempts ended, and what follows for the peer (B-3).

use std::sync::{Arc, atomic::Ordering};

use crate::{
    Balancer, Flags, Lease, LeaveOut, MILLISECOND, Member, Outcome, Rule, SECOND, Set, What,
    health::{DIAL_AFTER, SPARED, ejection_time, forgiven, is_outlier, is_shared, most_out},
    lease::Kind,
    state::DOUBT_CONFIRMED,
    window::Tally,
};

/// The longest pause that a peer may ask for (B-3.5), and the pause if it does not say.
const LONGEST_THROTTLE: u64 = 30 * SECOND;
const DEFAULT_THROTTLE: u64 = SECOND;
/// How long a peer that did not prove who it is stays out (B-3.6).
const QUARANTINE: u64 = 60 * SECOND;
/// How long a probe that is due and cannot be taken is left alone.
const LOOKED: u64 = 10 * MILLISECOND;
/// Active checks that change the verdict (B-3.7).
const FAILURES_TO_DOWN: u32 = 3;
const SUCCESSES_TO_UP: u32 = 2;
const CHECK_EVERY: u64 = 10 * SECOND;

impl<P: Clone, C> Balancer<P, C> {
    /// The attempt of `lease` has its outcome, mostly because the head arrived: the peer's estimate, its
    /// success ratio and its health follow. Returns how long it took since [`sent`](Lease::sent), if it was.
    ///
    /// The first outcome of a lease counts, later ones do not. A call that was given up before it was sent
    /// says nothing. No lock is taken unless a peer goes out or comes back.
    pub fn head(&self, lease: &mut Lease<P, C>, outcome: Outcome, now: u64) -> Option<u64> {
        let (is_news, took) = lease.end_wait(outcome, now);
        // An earlier address of the peer says nothing of where it is now.
        if is_news && lease.member().is_current() {
            lease.member().state.learn(outcome, took, now);
            if lease.is_probe() {
                self.probed(lease, outcome, took, now);
            } else {
                if lease.kind() == Kind::Trial && outcome == Outcome::Success {
                    lease.member().state.is_well(took, || self.typical_estimate(now), now);
                }
                self.judge(lease.member(), outcome, now);
            }
        }
        took
    }

    fn judge(&self, member: &Arc<Member<P, C>>, outcome: Outcome, now: u64) {
        let state = &member.state;
        if outcome == Outcome::Success {
            // Looked at first: most runs are 0, and a load leaves the line shared.
            for run in [&state.hard_run, &state.dial_run] {
                if run.load(Ordering::Relaxed) > 0 {
                    run.store(0, Ordering::Relaxed);
                }
            }
            if state.flags(now).contains(DOUBT_CONFIRMED) {
                self.lives(member, now);
            }
            return;
        }
        if outcome == Outcome::Dial {
            self.unreachable(member, now);
        }
        let Some(health) = &self.plan.health else { return };
        let mut rule = health.fired(state, outcome, now);
        let may_look = now >= state.health.spared_until.load(Ordering::Relaxed);
        if rule.is_none() && may_look && health.is_statistical() && outcome.is_failure() {
            let set = self.set.load();
            let tallies = set.eligible().iter().map(|member| member.state.window.tally(now));
            rule = is_outlier(state.window.tally(now), tallies).then_some(Rule::Statistical);
            if rule.is_none() {
                state.health.spared_until.store(now + SPARED, Ordering::Relaxed);
            }
        }
        if let Some(rule) = rule.filter(|_| may_look) {
            self.eject(member, rule, now);
        }
    }

    /// A call to a peer succeeded that the source doubts and that could not be reached before.
    #[cold]
    fn lives(&self, member: &Arc<Member<P, C>>, now: u64) {
        let known = self.known();
        let is_announced = known.get(&member.key).is_some_and(|known| known.left_at.is_none());
        if is_announced && member.state.set_flag(Flags::DRAINING, false) {
            drop(known);
            self.flags_changed(now);
        }
    }

    /// Takes a peer out, unless everybody fails or too many are out.
    #[cold]
    fn eject(&self, member: &Arc<Member<P, C>>, rule: Rule, now: u64) {
        // One at a time, so that two do not both see that there is room for one.
        let known = self.known();
        let (set, state) = (self.set.load(), &member.state);
        if state.flags(now).contains(Flags::EJECTED) {
            return;
        }
        let all = || set.working().filter(|other| other.is_known(now));
        let out = all().filter(|other| other.state.flags(now).contains(Flags::EJECTED)).count();
        let others = || {
            let others = all().filter(|other| !Arc::ptr_eq(&other.state, state));
            others.filter(|other| other.state.is_open(Flags::SUSPECT, now))
        };
        let spared = if out + 1 > most_out(all().count()) || others().next().is_none() {
            Some(What::SparedByCap)
        } else if rule != Rule::Dial
            && is_shared(
                state.window.tally(now),
                others().map(|other| other.state.window.tally(now)).fold(Tally::default(), Tally::plus),
            )
        {
            Some(What::SparedByGuard)
        } else {
            None
        };
        if let Some(spared) = spared {
            state.health.spared_until.store(now + SPARED, Ordering::Relaxed);
            self.board.post(now, Some(&member.key), spared);
            return;
        }
        self.out(member, rule, now);
        drop(known);
        self.flags_changed(now);
    }

    /// Out until its next probe. Only under the lock, or with the permit to probe it.
    fn out(&self, member: &Member<P, C>, rule: Rule, now: u64) {
        let vitals = &member.state.health;
        let service = now.saturating_sub(vitals.back_at.load(Ordering::Relaxed));
        let before = vitals.eject_count.load(Ordering::Relaxed);
        let before = if rule == Rule::Probe { before } else { forgiven(before, service) };
        let count = before.saturating_add(1);
        let until = now.saturating_add(ejection_time(count, self.random.next_u64()));
        vitals.eject_count.store(count, Ordering::Relaxed);
        vitals.probe_at.store(until, Ordering::Relaxed);
        member.state.set_flag(Flags::EJECTED, true);
        member.state.set_flag(Flags::PROBING, false);
        self.probe_due.no_later_than(until);
        self.board.post(now, Some(&member.key), What::Ejected { rule, until });
    }

    /// A probe has its outcome.
    #[cold]
    fn probed(&self, lease: &mut Lease<P, C>, outcome: Outcome, took: Option<u64>, now: u64) {
        let member = Arc::clone(lease.member());
        let (state, vitals) = (&member.state, &member.state.health);
        match outcome {
            Outcome::Success => {
                lease.end_probe();
                state.hard_run.store(0, Ordering::Relaxed);
                state.dial_run.store(0, Ordering::Relaxed);
                vitals.back_at.store(now, Ordering::Relaxed);
                state.window.clear();
                state.is_well(took, || self.typical_estimate(now), now);
                state.slow().is_back(now);
                state.set_flag(Flags::EJECTED, false);
                state.set_flag(Flags::PROBING, false);
                self.board.post(now, Some(&member.key), What::Back);
                self.flags_changed(now);
                if state.flags(now).contains(DOUBT_CONFIRMED) {
                    self.lives(&member, now);
                }
            }
            // They say nothing of the peer: the permit goes to the next call.
            Outcome::Ignored | Outcome::Cancelled => {}
            _ => {
                lease.end_probe();
                self.out(&member, Rule::Probe, now);
            }
        }
        if outcome == Outcome::Dial {
            self.unreachable(&member, now);
        }
    }

    /// Takes the permit of an ejected peer whose time is over since at least `grace`, and counts a call on it.
    #[cold]
    pub(crate) fn take_probe(
        &self,
        set: &Set<P, C>,
        leave_out: &LeaveOut,
        now: u64,
        grace: u64,
    ) -> Option<Arc<Member<P, C>>> {
        let is_due = |member: &&Arc<Member<P, C>>| {
            let state = &member.state;
            state.probe_at().is_some_and(|at| at.saturating_add(grace) <= now)
                && state.is_held_for_failing_alone(now)
                && member.has_room(leave_out)
        };
        let probed = set.working().filter(is_due).find(|member| member.begin_probe());
        match probed {
            Some(member) => {
                self.board.post(now, Some(member.key()), What::Probing);
                self.look_for_probes(0);
            }
            // It is paused, or the call has tried it: not every call shall look at all of them.
            None => self.look_for_probes(now.saturating_add(LOOKED)),
        }
        probed.cloned()
    }

    /// Finds out when the next probe is due, `not_before` that.
    pub(crate) fn look_for_probes(&self, not_before: u64) {
        self.probe_due.look(|| {
            let set = self.set.load();
            let next = set.working().filter_map(|member| member.state.probe_at()).min();
            next.map(|next| next.max(not_before))
        });
    }

    /// An ejected peer that no call has probed for 5 s: dial it, and report
    /// [`Success`](Outcome::Success) or [`Dial`](Outcome::Dial) with [`head`](Self::head).
    ///
    /// To be asked about once a second, or at [`dial_probe_at`](Self::dial_probe_at).
    pub fn dial_probe(&self, now: u64) -> Option<Lease<P, C>> {
        self.dial_probe_at().filter(|at| *at <= now)?;
        let member = self.take_probe(&self.set.load(), &LeaveOut::EMPTY, now, DIAL_AFTER)?;
        Some(Lease::of(member, Kind::Probe))
    }

    /// When a dial should probe a peer, if no call does before; `None` while nobody is ejected.
    pub fn dial_probe_at(&self) -> Option<u64> {
        let due = self.probe_due.at();
        (due < u64::MAX).then(|| due.saturating_add(DIAL_AFTER))
    }

    /// The peer could not be reached, or kept silent for all the time it had. One that was in doubt already
    /// is passed over from now on, until the source takes the doubt back or a call to it succeeds; unless
    /// there is nobody else (B-9.1). If it is ejected as well its probes go on, so that it is not out longer
    /// than one that nobody doubts. [`head`](Self::head) does this for [`Outcome::Dial`].
    pub fn unreachable(&self, member: &Member<P, C>, now: u64) {
        if member.state.confirm_doubt() {
            self.board.post(now, Some(&member.key), What::Confirmed);
            self.flags_changed(now);
        }
    }

    /// The peer asked for a pause: 30 s at most, and 1 s if it does not say how long (B-3.5).
    pub fn throttled(&self, member: &Member<P, C>, retry_after: Option<std::time::Duration>, now: u64) {
        let asked = retry_after.map_or(DEFAULT_THROTTLE, |wait| {
            u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX).min(LONGEST_THROTTLE)
        });
        self.throttle(member, now.saturating_add(asked), now);
    }

    /// Takes a peer out until then, because it asked for less (B-3.5).
    pub fn throttle(&self, member: &Member<P, C>, until: u64, now: u64) {
        if !member.state.flags(now).contains(Flags::THROTTLED) {
            self.board.post(now, Some(&member.key), What::Throttled { until });
        }
        member.state.set_until(Flags::THROTTLED, until);
        self.flags_changed(now);
    }

    /// Takes a peer out for 60 s, because it did not prove who it is (B-3.6).
    pub fn not_identified(&self, member: &Member<P, C>, now: u64) {
        self.quarantine(member, now.saturating_add(QUARANTINE), now);
    }

    /// Takes a peer out until then, because it did not prove who it is (B-3.6).
    pub fn quarantine(&self, member: &Member<P, C>, until: u64, now: u64) {
        self.board.post(now, Some(&member.key), What::Quarantined { until });
        member.state.set_until(Flags::QUARANTINED, until);
        self.flags_changed(now);
    }

    /// An active check of a peer ended (B-3.7): after three failures in a row it is
    /// [`DOWN`](Flags::DOWN), after two successes no longer.
    pub fn checked(&self, member: &Member<P, C>, passed: bool, now: u64) {
        let one_more = |checks: u32| {
            if passed { (checks & 0xFFFF).min(0xFFFE) + 1 } else { ((checks >> 16).min(0xFFFE) + 1) << 16 }
        };
        let checks = &member.state.health.checks;
        let before = checks
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |checks| Some(one_more(checks)))
            .unwrap_or_else(|checks| checks);
        let run = one_more(before);
        let verdict = match passed {
            true if run >= SUCCESSES_TO_UP => false,
            false if run >> 16 >= FAILURES_TO_DOWN => true,
            _ => return,
        };
        if member.state.set_flag(Flags::DOWN, verdict) != verdict {
            self.board.post(now, Some(&member.key), if verdict { What::Down } else { What::Up });
            self.flags_changed(now);
        }
    }
}

impl<P: Clone, C> Balancer<P, C> {
    /// A peer said of itself whether it serves, which needs no second time: it is or is not
    /// [`DOWN`](Flags::DOWN) from now on.
    pub fn told(&self, member: &Member<P, C>, serves: bool, now: u64) {
        for _ in 0..if serves { SUCCESSES_TO_UP } else { FAILURES_TO_DOWN } {
            self.checked(member, serves, now);
        }
    }
}

/// When a peer is checked next after `now`: every 10 s, a tenth more or less by the random number `z`.
/// `first` spreads the first checks over the whole interval.
#[must_use]
pub fn next_check(now: u64, first: bool, z: u64) -> u64 {
    next_check_of(CHECK_EVERY, now, first, z)
}

/// As [`next_check`], every so many nanoseconds.
#[must_use]
pub fn next_check_of(every: u64, now: u64, first: bool, z: u64) -> u64 {
    let part = crate::unit(z);
    let wait = if first { part } else { 0.9 + 0.2 * part };
    now.saturating_add((every as f64 * wait) as u64).max(now + MILLISECOND)
}
