//! The peers at one moment (B-1.3).

use std::{num::NonZeroUsize, sync::Arc};

use crate::{
    Flags, Health, LeaveOut, Member, Policy, Zone,
    group::Group,
    hash::hash64_seeded,
    slow::Warmup,
    state::OVERLOOKED,
    zone::{ZoneWeights, local_part},
};

/// An immutable set of peers, replaced as a whole. A call keeps the one it started with.
#[derive(Debug)]
pub struct Set<P, C = ()> {
    members: Box<[Arc<Member<P, C>>]>,
    /// The members that take new work and that nothing is held against, or in a panic set nothing that
    /// is not overlooked, in the order they were announced.
    pub(crate) eligible: Group<P, C>,
    /// The peers of `eligible`, in the same order: what a picker of the caller sees.
    peers: Box<[P]>,
    pub(crate) zones: Option<Zones<P, C>>,
    /// What does not keep a peer out of this set.
    pub(crate) overlooked: Flags,
    /// Too many peers are out.
    pub(crate) is_panic: bool,
    /// Picks of this set answer that there are no peers.
    pub(crate) is_refused: bool,
    /// When the last slow start in this set ends; 0 if there is none.
    pub(crate) slow_until: u64,
}

/// The eligible peers by where they are.
#[derive(Debug)]
pub(crate) struct Zones<P, C> {
    pub(crate) local: Group<P, C>,
    pub(crate) remote: Group<P, C>,
    /// The part of the picks that is local.
    pub(crate) part: f64,
}

/// What a set is built by; the same for all sets of a balancer.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) policy: Policy,
    pub(crate) client_seed: u64,
    pub(crate) health: Option<Health>,
    pub(crate) warmup: Option<Warmup>,
    pub(crate) zone: Option<Zone>,
    pub(crate) subset: Option<NonZeroUsize>,
}

impl<P: Clone, C> Set<P, C> {
    pub(crate) fn new(
        members: Box<[Arc<Member<P, C>>]>,
        plan: &Plan,
        before: Option<&Self>,
        now: u64,
    ) -> Self {
        let known: Vec<_> = members.iter().filter(|member| member.is_known(now)).collect();
        let open = |overlooked| known.iter().copied().filter(move |m| m.state.is_open(overlooked, now));
        let whole = weight(known.iter().copied());
        let is_panic = weight(open(Flags::SUSPECT)) * 2 < whole;
        let use_all =
            is_panic && plan.health.as_ref().is_none_or(|health| health.panic_uses_all() || known.len() == 1);
        let overlooked = if use_all { OVERLOOKED } else { Flags::SUSPECT };

        let subset = |list: &[&Arc<Member<P, C>>]| subset(list, plan, overlooked, now);
        let group = |list: &[&Arc<Member<P, C>>], before| {
            let chosen = subset(list);
            Group::new(chosen, list, plan.policy, plan.client_seed, before)
        };
        let zones = plan.zone.as_ref().and_then(|own| {
            let (local, others): (Vec<_>, Vec<_>) =
                known.iter().copied().partition(|member| member.zone.as_ref() == Some(&own.zone));
            let is_open = |member: &&Arc<Member<P, C>>| member.state.is_open(overlooked, now);
            let open_local = || local.iter().copied().filter(is_open);
            let part = local_part(
                ZoneWeights {
                    eligible: weight(open_local()),
                    known: weight(local.iter().copied()),
                    all_eligible: weight(open(overlooked)),
                    peers: open_local().count(),
                },
                own.callers,
            );
            let same_region =
                |member: &&Arc<Member<P, C>>| own.region.is_some() && member.region == own.region;
            let near: Vec<_> = others.iter().copied().filter(same_region).collect();
            let others = if near.iter().any(is_open) { near } else { others };
            let (local_before, remote_before) =
                before.and_then(|set| set.zones.as_ref()).map(|zones| (&zones.local, &zones.remote)).unzip();
            let (local, remote) = (group(&local, local_before), group(&others, remote_before));
            (part > 0.0 && !local.is_empty()).then_some(Zones { local, remote, part })
        });
        let eligible = group(&known, before.map(|before| &before.eligible));
        let peers = eligible.members.iter().map(|member| member.peer.clone()).collect();
        let slow_until = plan.warmup.map_or(0, |warmup| slow_until(&eligible, warmup, now));
        let is_refused = is_panic && !use_all;
        Self { members, eligible, peers, zones, overlooked, is_panic, is_refused, slow_until }
    }
}

/// The members of `list` that picks may take: the eligible ones, or a part of them (B-2.7).
fn subset<P, C>(
    list: &[&Arc<Member<P, C>>],
    plan: &Plan,
    overlooked: Flags,
    now: u64,
) -> Vec<Arc<Member<P, C>>> {
    let is_open = |member: &&Arc<Member<P, C>>| member.state.is_open(overlooked, now);
    let all = || list.iter().copied().filter(is_open).cloned().collect();
    let Some(size) = plan.subset.map(NonZeroUsize::get).filter(|size| *size < list.len()) else {
        return all();
    };
    let mut ranked: Vec<_> = list
        .iter()
        .copied()
        .enumerate()
        .map(|(place, member)| {
            (hash64_seeded(member.key.as_str().as_bytes(), plan.client_seed), place, member)
        })
        .collect();
    ranked.sort_unstable_by_key(|(rank, place, _)| (*rank, *place));
    let (own, others) = ranked.split_at(size);
    let mut chosen: Vec<_> = own.iter().filter(|(_, _, member)| is_open(member)).collect();
    // Half of it must be usable: the next ones in order join.
    let missing = size.div_ceil(2).saturating_sub(chosen.len());
    chosen.extend(others.iter().filter(|(_, _, member)| is_open(member)).take(missing));
    chosen.sort_unstable_by_key(|(_, place, _)| *place);
    chosen.into_iter().map(|(_, _, member)| Arc::clone(member)).collect()
}

/// When the last slow start among `eligible` ends. Peers start slowly only while at least half of the
/// weight is older than their window: if all are new, nobody is.
fn slow_until<P, C>(eligible: &Group<P, C>, warmup: Warmup, now: u64) -> u64 {
    let ends = |member: &Arc<Member<P, C>>| {
        let slow = member.state.slow();
        let (age, window) = (slow.age(now), slow.window(warmup));
        (age < window).then(|| now + (window - age))
    };
    let starting = eligible.members.iter().filter_map(ends);
    let Some(last) = starting.max() else { return 0 };
    let old = eligible.members.iter().filter(|member| ends(member).is_none());
    if weight(old) * 2 >= eligible.whole_weight { last } else { 0 }
}

fn weight<'m, P: 'm, C: 'm>(members: impl Iterator<Item = &'m Arc<Member<P, C>>>) -> u64 {
    members.map(|member| u64::from(member.weight.get())).sum()
}

impl<P, C> Set<P, C> {
    /// All of them, also those that take no new work, in the order they were announced.
    pub fn members(&self) -> &[Arc<Member<P, C>>] {
        &self.members
    }

    /// Those that picks choose among, in the order they were announced.
    pub fn eligible(&self) -> &[Arc<Member<P, C>>] {
        &self.eligible.members
    }

    /// Whether so many peers are out that those that failed are used again, or none at all (B-3.4).
    pub const fn is_panic(&self) -> bool {
        self.is_panic
    }

    /// The part of the picks that stays in the own zone; `None` if zones are off or nothing stays.
    pub fn local_part(&self) -> Option<f64> {
        self.zones.as_ref().map(|zones| zones.part)
    }

    /// Those that take new work, whatever is held against them.
    pub(crate) fn working(&self) -> impl Iterator<Item = &Arc<Member<P, C>>> {
        self.members.iter().filter(|member| member.takes_work())
    }

    pub(crate) fn peers(&self) -> &[P] {
        &self.peers
    }

    /// Whether a pick may take it (B-1.4 step 3).
    pub(crate) fn is_usable(&self, member: &Member<P, C>, leave_out: &LeaveOut, now: u64) -> bool {
        member.state.is_open(self.overlooked, now) && member.has_room(leave_out)
    }
}

impl<P, C> Member<P, C> {
    pub(crate) const fn takes_work(&self) -> bool {
        self.weight.get() > 0
    }

    /// Whether it counts when it is asked how many are out.
    pub(crate) fn is_known(&self, now: u64) -> bool {
        self.takes_work() && !self.state.flags(now).contains(Flags::DRAINING)
    }

    /// Whether a pick may take it if nobody is usable: it is only that it could not be reached.
    pub(crate) fn is_last_resort(&self, leave_out: &LeaveOut, now: u64) -> bool {
        self.state.is_open_but_unreachable(now) && self.has_room(leave_out)
    }

    pub(crate) fn has_room(&self, leave_out: &LeaveOut) -> bool {
        !self.state.is_full() && (leave_out.is_empty() || !leave_out.contains(&self.key))
    }
}
