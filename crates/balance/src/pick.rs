//! Picking among the peers of a set (B-1.4, B-2).

use std::sync::{Arc, atomic::Ordering};

use crate::{
    Balancer, DRAWS, Lease, LeaveOut, Member, PickError, PickErrorKind, Policy, RoundRobin, Set,
    estimate::{MARGIN, TRIED},
    explain::{How, Trace},
    group::Group,
    index_below,
    lease::Kind,
    mix,
    sticky::{RANKED, by_weight, fair_share, next_best},
    two_below, unit,
    zone::SPILL,
};

/// What a pick is asked for.
#[derive(Clone, Copy, Debug)]
#[must_use = "it is an input of `Balancer::pick`"]
pub struct PickInput<'a> {
    leave_out: Option<&'a LeaveOut>,
    key: Option<u64>,
    repeatable: bool,
    now: u64,
}

impl<'a> PickInput<'a> {
    /// A pick at `now` for a call that must not be repeated and has no key.
    pub const fn new(now: u64) -> Self {
        Self { leave_out: None, key: None, repeatable: false, now }
    }

    /// Without these peers, if there are others.
    pub const fn without(self, leave_out: &'a LeaveOut) -> Self {
        Self { leave_out: Some(leave_out), ..self }
    }

    /// For a call with this [`key_hash`](crate::key_hash): calls of one key go to one peer if the policy is
    /// sticky.
    pub const fn key(self, hash: Option<u64>) -> Self {
        Self { key: hash, ..self }
    }

    /// Whether the call may be sent again: only such a call is sent to a peer to find out whether it
    /// works again.
    pub const fn repeatable(self, yes: bool) -> Self {
        Self { repeatable: yes, ..self }
    }

    pub(crate) const fn now(&self) -> u64 {
        self.now
    }

    pub(crate) fn leave_out(&self) -> &'a LeaveOut {
        static NOBODY: LeaveOut = LeaveOut::EMPTY;
        self.leave_out.unwrap_or(&NOBODY)
    }
}

/// A peer that a call was counted on. A pair, and not a lease, so that it stays in registers until the end.
type Chosen<'p, P, C> = (&'p Arc<Member<P, C>>, Kind);

/// Counts a call on a peer, if it has room.
#[inline]
fn begin<P, C>(member: &Arc<Member<P, C>>) -> Option<Chosen<'_, P, C>> {
    member.begin().then_some((member, Kind::Call))
}

/// What a policy looks at.
struct Look<'p, P, C> {
    set: &'p Set<P, C>,
    group: &'p Group<P, C>,
    turn: &'p RoundRobin,
    input: &'p PickInput<'p>,
    /// Where it goes if the group is much more expensive than those elsewhere.
    elsewhere: Option<&'p Group<P, C>>,
}

impl<P, C> Look<'_, P, C> {
    fn is_usable(&self, member: &Member<P, C>) -> bool {
        self.set.is_usable(member, self.input.leave_out(), self.input.now)
    }

    fn cost(&self, member: &Member<P, C>) -> f64 {
        member.state.cost(self.set.eligible.relative_weight(member), self.input.now)
    }
}

impl<P: Clone, C> Balancer<P, C> {
    /// Picks a peer by the policy and counts a call on it.
    ///
    /// # Errors
    ///
    /// [`PickError`], whose text tells what keeps each peer out.
    #[inline]
    pub fn pick(&self, input: &PickInput<'_>) -> Result<Lease<P, C>, PickError<P, C>> {
        self.pick_traced(input, &mut ())
    }

    #[inline]
    pub(crate) fn pick_traced(
        &self,
        input: &PickInput<'_>,
        trace: &mut impl Trace<P, C>,
    ) -> Result<Lease<P, C>, PickError<P, C>> {
        let mut failed = None;
        match self.begun(input, trace, &mut failed) {
            Some((member, kind)) => Ok(Lease::of(member, kind)),
            None => Err(failed.unwrap_or_else(|| self.error(&self.set.load(), input.now))),
        }
    }

    /// The peer of a pick, on which the call is counted now; or why there is none.
    ///
    /// The error is not returned, so that a result fits into two registers: it costs more to move it through
    /// memory than to choose a peer.
    fn begun(
        &self,
        input: &PickInput<'_>,
        trace: &mut impl Trace<P, C>,
        failed: &mut Option<PickError<P, C>>,
    ) -> Option<(Arc<Member<P, C>>, Kind)> {
        self.rebuild_if_due(input.now);
        let set = self.set.load();
        if let Some(member) = self.probe(&set, input) {
            trace.how(How::Probe);
            return Some((member, Kind::Probe));
        }
        if set.is_panic {
            self.board.panic_pick();
            if set.is_refused {
                *failed = Some(PickError::new(PickErrorKind::NoPeers, Arc::clone(&set), input.now));
                return None;
            }
        }
        let [turn, local_turn, remote_turn] = &self.turns;
        let look = |group, turn, elsewhere| Look { set: &set, group, turn, input, elsewhere };
        let in_zone = set.zones.as_ref().and_then(|zones| {
            let draw = match (self.plan.policy, input.key) {
                // A key stays where it is.
                (Policy::Sticky, Some(key)) => mix(!key),
                _ => self.random.next_u64(),
            };
            let (how, look) = if unit(draw) < zones.part {
                (How::Local, look(&zones.local, local_turn, Some(&zones.remote)))
            } else {
                (How::Remote, look(&zones.remote, remote_turn, None))
            };
            trace.how(how);
            self.pick_in(&look, trace)
        });
        let picked = in_zone.or_else(|| {
            trace.how(How::All);
            self.pick_in(&look(&set.eligible, turn, None), trace)
        });
        match picked {
            Some((member, kind)) => Some((Arc::clone(member), kind)),
            None => {
                let member = self.pick_again(&set, input, trace);
                if member.is_none() {
                    *failed = Some(self.error(&set, input.now));
                }
                Some((member?, Kind::Call))
            }
        }
    }

    fn pick_in<'p>(&self, look: &Look<'p, P, C>, trace: &mut impl Trace<P, C>) -> Option<Chosen<'p, P, C>> {
        if look.group.is_empty() {
            return None;
        }
        let by_policy = match (self.plan.policy, look.input.key) {
            (Policy::RoundRobin | Policy::WeightedRoundRobin, _) => self.by_turn(look),
            (Policy::Random, _) => self.at_random(look),
            (Policy::Sticky, Some(key)) => self.by_key(key, look).or_else(|| self.least_loaded(look, trace)),
            (Policy::LeastLoaded | Policy::Sticky, _) => self.least_loaded(look, trace),
            (Policy::PeakEwma, _) => self.peak_ewma(look, trace),
        };
        by_policy.or_else(|| self.scan(look, trace))
    }

    fn by_turn<'p>(&self, look: &Look<'p, P, C>) -> Option<Chosen<'p, P, C>> {
        let group = look.group;
        let (before, from_turn) = group.turns.split_at_checked(look.turn.turn(group.turns.len())?)?;
        let of_turn = |turn: &u32| group.get(*turn as usize);
        let is_usable = |m: &&Arc<Member<P, C>>| look.is_usable(m) && !self.is_thinned(look, m);
        // Nearly always it is the first, and no chain of two lists is needed.
        let first = from_turn.first().and_then(of_turn).filter(is_usable).and_then(begin);
        first.or_else(|| {
            let others = from_turn.iter().skip(1).chain(before).filter_map(of_turn);
            others.filter(is_usable).find_map(begin)
        })
    }

    fn at_random<'p>(&self, look: &Look<'p, P, C>) -> Option<Chosen<'p, P, C>> {
        let group = look.group;
        let draw = |_| group.get(index_below(self.random.next_u64(), group.len()));
        let drawn = (0..DRAWS).filter_map(draw);
        drawn.filter(|m| look.is_usable(m) && !self.is_thinned(look, m)).find_map(begin)
    }

    fn by_key<'p>(&self, key: u64, look: &Look<'p, P, C>) -> Option<Chosen<'p, P, C>> {
        let group = look.group;
        if let Some(table) = &group.sticky {
            let members = table.maglev.indexes(key).filter_map(|index| table.members.get(index));
            return members.filter(|member| look.is_usable(member)).find_map(begin);
        }
        let of_all = self.total.as_ref().filter(|_| look.set.zones.is_none());
        let pending = of_all.map_or_else(
            || group.members.iter().map(|member| u64::from(member.state.pending())).sum(),
            |total| total.load(Ordering::Relaxed),
        );
        let has_room = |member: &&Arc<Member<P, C>>| {
            let Some(bound) = self.sticky_bound else { return true };
            let share = fair_share(bound, pending, member.weight.get(), group.whole_weight);
            u64::from(member.state.pending()) < share
        };
        let hash_of = |index| group.get(index).map_or(u64::MAX, |member| member.hash);
        let mut last = None;
        for _ in 0..RANKED {
            let plain = group.spreads.iter().map(|spread| mix(key ^ spread));
            let ranked = if group.has_equal_weights {
                next_best(plain, hash_of, last)
            } else {
                // The bits of a number above 0 are in its order.
                let weights = group.members.iter().map(|member| member.weight.get());
                let scores = plain.zip(weights).map(|(score, weight)| by_weight(score, weight).to_bits());
                next_best(scores, hash_of, last)
            }?;
            let member = group.get(ranked.index)?;
            if look.is_usable(member)
                && has_room(&member)
                && let Some(chosen) = begin(member)
            {
                return Some(chosen);
            }
            last = Some(ranked);
        }
        None
    }

    fn least_loaded<'p>(
        &self,
        look: &Look<'p, P, C>,
        trace: &mut impl Trace<P, C>,
    ) -> Option<Chosen<'p, P, C>> {
        let load = |member: &Member<P, C>, other: &Member<P, C>| {
            u64::from(member.state.pending()) * u64::from(other.weight.get())
        };
        self.of_two(look, trace, |a, b| load(b, a) < load(a, b), |_| false, Some)
    }

    fn peak_ewma<'p>(&self, look: &Look<'p, P, C>, trace: &mut impl Trace<P, C>) -> Option<Chosen<'p, P, C>> {
        let is_better = |a: &Member<P, C>, b: &Member<P, C>| look.cost(b) < MARGIN * look.cost(a);
        let is_tried = |other: &Member<P, C>| self.is_tried(look.input, other);
        self.of_two(look, trace, is_better, is_tried, |chosen| self.spill(look, chosen))
    }

    /// Whether a call goes to the worse of two all the same. A peer that stalled once would be avoided until
    /// its estimate has faded, most of a minute, since nobody calls it and so nothing better is learned. It
    /// is one call at a time, one that may be sent again, and few of all.
    fn is_tried(&self, input: &PickInput<'_>, other: &Member<P, C>) -> bool {
        input.repeatable
            && other.state.is_forgotten(input.now)
            && self.random.next_u64().is_multiple_of(TRIED)
    }

    /// Somebody elsewhere, if that is much better.
    fn spill<'p>(
        &self,
        look: &Look<'p, P, C>,
        chosen: &'p Arc<Member<P, C>>,
    ) -> Option<&'p Arc<Member<P, C>>> {
        let Some(elsewhere) = look.elsewhere else { return Some(chosen) };
        let drawn = elsewhere.get(index_below(self.random.next_u64(), elsewhere.len()));
        let other = drawn.filter(|other| look.is_usable(other));
        Some(other.filter(|other| look.cost(chosen) > SPILL * look.cost(other)).unwrap_or(chosen))
    }

    /// The better of two candidates, the first if they are alike.
    fn of_two<'p>(
        &self,
        look: &Look<'p, P, C>,
        trace: &mut impl Trace<P, C>,
        second_is_better: impl Fn(&Member<P, C>, &Member<P, C>) -> bool,
        is_tried: impl Fn(&Member<P, C>) -> bool,
        finally: impl Fn(&'p Arc<Member<P, C>>) -> Option<&'p Arc<Member<P, C>>>,
    ) -> Option<Chosen<'p, P, C>> {
        let group = look.group;
        for _ in 0..DRAWS {
            let (a, b) = self.two(look);
            let (Some(a), Some(b)) = (group.get(a), group.get(b)) else { return None };
            trace.candidates(look.set, a, b, look.input);
            let chosen = if Arc::ptr_eq(a, b) {
                look.is_usable(a).then_some(a)
            } else {
                match (look.is_usable(a), look.is_usable(b)) {
                    (true, true) => {
                        let (better, other) = if second_is_better(a, b) { (b, a) } else { (a, b) };
                        if is_tried(other) && other.begin() {
                            trace.how(How::Trial);
                            return Some((other, Kind::Trial));
                        }
                        Some(better)
                    }
                    (true, false) => Some(a),
                    (false, true) => Some(b),
                    (false, false) => None,
                }
            };
            if let Some(chosen) = chosen.and_then(&finally).and_then(begin) {
                return Some(chosen);
            }
        }
        None
    }

    /// Two candidates; of those in slow start some are passed over.
    fn two(&self, look: &Look<'_, P, C>) -> (usize, usize) {
        let group = look.group;
        let draw = || match &group.alias {
            _ if group.len() < 2 => (0, 0),
            Some(alias) => alias.two(&self.random),
            None => two_below(self.random.next_u64(), group.len()),
        };
        let (a, b) = draw();
        if look.input.now >= look.set.slow_until || group.len() < 2 {
            return (a, b);
        }
        let is_thinned = |index| group.get(index).is_some_and(|member| self.is_thinned(look, member));
        let passed_over = if is_thinned(a) {
            a
        } else if is_thinned(b) {
            b
        } else {
            return (a, b);
        };
        // Once again, without it.
        match &group.alias {
            Some(_) => match draw() {
                (c, d) if c == passed_over => (d, d),
                (c, d) if d == passed_over => (c, c),
                pair => pair,
            },
            None => {
                let (c, d) = two_below(self.random.next_u64(), group.len() - 1);
                let place = |index| index + usize::from(index >= passed_over);
                (place(c), place(d))
            }
        }
    }

    /// Whether a peer in slow start is passed over this time.
    fn is_thinned(&self, look: &Look<'_, P, C>, member: &Member<P, C>) -> bool {
        let (Some(warmup), now) = (self.plan.warmup, look.input.now) else { return false };
        if now >= look.set.slow_until {
            return false;
        }
        let factor = member.state.slow().factor(warmup, now);
        factor < 1.0 && unit(self.random.next_u64()) >= factor
    }

    /// The first usable member from a random place on.
    #[cold]
    fn scan<'p>(&self, look: &Look<'p, P, C>, trace: &mut impl Trace<P, C>) -> Option<Chosen<'p, P, C>> {
        trace.how(How::Scan);
        let members: &'p [_] = &look.group.members;
        let (before, after) = members.split_at_checked(index_below(self.random.next_u64(), members.len()))?;
        let usable = after.iter().chain(before).filter(|member| look.is_usable(member));
        usable.into_iter().find_map(begin)
    }

    /// Takes the permit to probe an ejected peer, if one is free (B-1.4 step 1).
    fn probe(&self, set: &Set<P, C>, input: &PickInput<'_>) -> Option<Arc<Member<P, C>>> {
        if input.repeatable && input.now >= self.probe_due.at() {
            self.take_probe(set, input.leave_out(), input.now, 0)
        } else {
            None
        }
    }

    /// Nothing was usable: a peer that could not be reached just now is better than none, and so is one
    /// that was tried (B-1.4 step 5).
    #[cold]
    fn pick_again(
        &self,
        set: &Arc<Set<P, C>>,
        input: &PickInput<'_>,
        trace: &mut impl Trace<P, C>,
    ) -> Option<Arc<Member<P, C>>> {
        let (nobody, leave_out, now) = (LeaveOut::EMPTY, input.leave_out(), input.now);
        let cost = |member: &Member<P, C>| match self.plan.policy {
            Policy::PeakEwma => member.state.cost(set.eligible.relative_weight(member), now),
            _ => f64::from(member.state.pending()) / f64::from(member.weight.get().max(1)),
        };
        let least = |is_good: &dyn Fn(&Member<P, C>) -> bool| {
            let good = set.working().filter(|member| is_good(member));
            good.min_by(|a, b| cost(a).total_cmp(&cost(b))).filter(|member| member.begin())
        };
        trace.how(How::LastResort);
        let last_resort = least(&|member| member.is_last_resort(leave_out, now));
        let member = last_resort.or_else(|| {
            trace.how(How::TriedAgain);
            least(&|member| set.is_usable(member, &nobody, now))
                .or_else(|| least(&|member| member.is_last_resort(&nobody, now)))
        });
        member.cloned()
    }

    /// Picks with a chooser of the caller: it is given the peers that can be used and returns an index.
    ///
    /// It is called once, or once more if its choice turns out not to be usable. Only the second list is
    /// an allocation. A probe that is due goes before it.
    ///
    /// # Errors
    ///
    /// As [`pick`](Self::pick); [`PickErrorKind::NoneChosen`] if it returns `None`.
    pub fn pick_by(
        &self,
        input: &PickInput<'_>,
        mut choose: impl FnMut(&[P]) -> Option<usize>,
    ) -> Result<Lease<P, C>, PickError<P, C>> {
        let (leave_out, now) = (input.leave_out(), input.now);
        self.rebuild_if_due(now);
        let set = self.set.load();
        if let Some(member) = self.probe(&set, input) {
            return Ok(Lease::of(member, Kind::Probe));
        }
        let counted =
            |member: &Arc<Member<P, C>>| member.begin().then(|| Lease::of(Arc::clone(member), Kind::Call));
        let error = |kind| PickError::new(kind, Arc::clone(&set), now);
        if set.is_panic {
            self.board.panic_pick();
            if set.is_refused {
                return Err(error(PickErrorKind::NoPeers));
            }
        }
        if leave_out.is_empty() && !set.eligible().is_empty() {
            let chosen = choose(set.peers()).and_then(|index| set.eligible().get(index));
            let chosen = chosen.ok_or_else(|| error(PickErrorKind::NoneChosen))?;
            if set.is_usable(chosen, leave_out, now)
                && let Some(lease) = counted(chosen)
            {
                return Ok(lease);
            }
        }
        let usable = |leave_out: &LeaveOut| -> Vec<_> {
            set.working().filter(|member| set.is_usable(member, leave_out, now)).collect()
        };
        let mut members = usable(leave_out);
        if members.is_empty() {
            members.extend(set.working().filter(|member| member.is_last_resort(leave_out, now)));
        }
        if members.is_empty() && !leave_out.is_empty() {
            members = usable(&LeaveOut::EMPTY);
        }
        if members.is_empty() {
            return Err(self.error(&set, now));
        }
        let peers: Vec<P> = members.iter().map(|member| member.peer.clone()).collect();
        let chosen = choose(&peers).and_then(|index| members.get(index));
        let chosen = chosen.ok_or_else(|| error(PickErrorKind::NoneChosen))?;
        counted(chosen).ok_or_else(|| error(PickErrorKind::Saturated))
    }

    /// Whether a peer could be picked that is not in `leave_out`.
    pub fn has_other(&self, leave_out: &LeaveOut, now: u64) -> bool {
        let set = self.set.load();
        let is_other = |member: &Arc<Member<P, C>>| {
            set.is_usable(member, leave_out, now) || member.is_last_resort(leave_out, now)
        };
        !set.is_refused && set.working().any(is_other)
    }

    /// The least estimate of the usable peers not in `leave_out`, in nanoseconds; 0 if there is none or
    /// none is known yet. A resend that could not end in time is not worth beginning (B-5.1, B-8).
    pub fn best_estimate(&self, leave_out: &LeaveOut, now: u64) -> u64 {
        let set = self.set.load();
        let usable = set.working().filter(|member| set.is_usable(member, leave_out, now));
        let sampled = usable.map(|member| &member.state).filter(|state| state.is_sampled());
        sampled.map(|state| state.estimate(now)).min().unwrap_or(0)
    }
}
