//! The peers at one moment (B-1.3).

use std::sync::Arc;

use crate::{LeaveOut, Member, mix};

/// An immutable set of peers, replaced as a whole. A call keeps the one it started with.
#[derive(Debug)]
pub struct Set<P, C = ()> {
    members: Box<[Arc<Member<P, C>>]>,
    /// The members that take new work and have no flag but SUSPECT, in the order they were announced.
    eligible: Box<[Arc<Member<P, C>>]>,
    /// The peers of `eligible`, in the same order: what a picker of the caller sees.
    peers: Box<[P]>,
    /// Indexes into `eligible` in this client's own order, so that not all clients begin with one peer.
    order: Box<[usize]>,
}

impl<P: Clone, C> Set<P, C> {
    pub(crate) fn new(members: Box<[Arc<Member<P, C>>]>, client_seed: u64, now: u64) -> Self {
        let is_eligible = |member: &&Arc<Member<P, C>>| member.takes_work() && member.state.is_open(now);
        let eligible: Box<[_]> = members.iter().filter(is_eligible).cloned().collect();
        let peers = eligible.iter().map(|member| member.peer.clone()).collect();
        let mut keyed: Vec<_> = eligible
            .iter()
            .enumerate()
            .map(|(index, member)| (mix(client_seed ^ member.hash), index))
            .collect();
        keyed.sort_unstable();
        let order = keyed.into_iter().map(|(_, index)| index).collect();
        Self { members, eligible, peers, order }
    }
}

impl<P, C> Set<P, C> {
    /// All of them, also those that take no new work, in the order they were announced.
    pub fn members(&self) -> &[Arc<Member<P, C>>] {
        &self.members
    }

    /// Those that take new work and that nothing is held against, in the order they were announced.
    pub fn eligible(&self) -> &[Arc<Member<P, C>>] {
        &self.eligible
    }

    /// Those that take new work, whatever is held against them.
    pub(crate) fn working(&self) -> impl Iterator<Item = &Arc<Member<P, C>>> {
        self.members.iter().filter(|member| member.takes_work())
    }

    pub(crate) fn peers(&self) -> &[P] {
        &self.peers
    }

    /// The eligible member at `place` of this client's own order, counted round and round.
    pub(crate) fn in_order(&self, place: usize) -> Option<&Arc<Member<P, C>>> {
        let place = place.checked_rem(self.order.len())?;
        self.eligible.get(*self.order.get(place)?)
    }
}

impl<P, C> Member<P, C> {
    pub(crate) const fn takes_work(&self) -> bool {
        self.weight.get() > 0
    }

    /// Whether a pick may take it (B-1.4 step 3).
    pub(crate) fn is_usable(&self, leave_out: &LeaveOut, now: u64) -> bool {
        self.state.is_open(now) && self.has_room(leave_out)
    }

    /// Whether a pick may take it if nobody is usable: it is only that it could not be reached.
    pub(crate) fn is_last_resort(&self, leave_out: &LeaveOut, now: u64) -> bool {
        self.state.is_open_but_down(now) && self.has_room(leave_out)
    }

    fn has_room(&self, leave_out: &LeaveOut) -> bool {
        !self.state.is_full() && (leave_out.is_empty() || !leave_out.contains(&self.key))
    }
}
