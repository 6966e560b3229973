//! Peers that a policy chooses among, with the tables it needs (B-1.3).

use std::sync::Arc;

use crate::{
    Alias, Member, Policy, mix,
    sticky::{MOST_SCORED, Maglev, spread},
    weighted::turns,
};

/// A list of peers; immutable.
#[derive(Debug)]
pub(crate) struct Group<P, C> {
    pub(crate) members: Box<[Arc<Member<P, C>>]>,
    /// Indexes into `members`: whose turn it is by round robin, weighted or not.
    pub(crate) turns: Box<[u32]>,
    /// Who is drawn, if not all are as likely.
    pub(crate) alias: Option<Alias>,
    pub(crate) whole_weight: u64,
    pub(crate) has_equal_weights: bool,
    /// For a sticky policy: what of each member goes into its scores.
    pub(crate) spreads: Box<[u64]>,
    /// For a sticky policy among many: the peers it knows, and whose a key is.
    pub(crate) sticky: Option<Sticky<P, C>>,
}

/// A table of all peers that take work, also those that are out for a while: their keys alone go elsewhere.
#[derive(Debug)]
pub(crate) struct Sticky<P, C> {
    pub(crate) members: Box<[Arc<Member<P, C>>]>,
    pub(crate) maglev: Arc<Maglev>,
}

impl<P, C> Group<P, C> {
    /// `known` are all that take work, of which `members` are eligible. `before` may have a table to keep.
    pub(crate) fn new(
        members: Vec<Arc<Member<P, C>>>,
        known: &[&Arc<Member<P, C>>],
        policy: Policy,
        client_seed: u64,
        before: Option<&Self>,
    ) -> Self {
        let weights: Vec<u16> = members.iter().map(|member| member.weight.get()).collect();
        let has_equal_weights = weights.windows(2).all(|pair| pair.first() == pair.last());
        let whole_weight = weights.iter().copied().map(u64::from).sum();
        let turns = match policy {
            Policy::RoundRobin => in_own_order(&members, client_seed),
            Policy::WeightedRoundRobin if has_equal_weights => in_own_order(&members, client_seed),
            Policy::WeightedRoundRobin => turns(&weights),
            _ => Box::default(),
        };
        let draws_by_weight =
            matches!(policy, Policy::LeastLoaded | Policy::PeakEwma | Policy::Sticky) && !has_equal_weights;
        let alias = draws_by_weight.then(|| Alias::new(&weights));
        let spreads = match policy {
            Policy::Sticky => members.iter().map(|member| spread(member.hash)).collect(),
            _ => Box::default(),
        };
        let sticky = (policy == Policy::Sticky && members.len() > MOST_SCORED).then(|| {
            let of: Box<[_]> = known.iter().map(|member| (member.hash, member.weight.get())).collect();
            let kept =
                before.and_then(|before| before.sticky.as_ref()).filter(|kept| kept.maglev.is_for(&of));
            let maglev = kept.map_or_else(|| Arc::new(Maglev::new(of)), |kept| Arc::clone(&kept.maglev));
            Sticky { members: known.iter().map(|member| Arc::clone(member)).collect(), maglev }
        });
        Self { members: members.into(), turns, alias, whole_weight, has_equal_weights, spreads, sticky }
    }

    pub(crate) const fn len(&self) -> usize {
        self.members.len()
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<&Arc<Member<P, C>>> {
        self.members.get(index)
    }

    /// Weight of a member relative to the mean.
    pub(crate) fn relative_weight(&self, member: &Member<P, C>) -> f64 {
        if self.has_equal_weights {
            1.0
        } else {
            f64::from(member.weight.get()) * self.members.len() as f64 / self.whole_weight.max(1) as f64
        }
    }
}

/// So that not all clients begin with one peer.
fn in_own_order<P, C>(members: &[Arc<Member<P, C>>], client_seed: u64) -> Box<[u32]> {
    let mut keyed: Vec<_> =
        (0..).zip(members).map(|(index, member)| (mix(client_seed ^ member.hash), index)).collect();
    keyed.sort_unstable();
    keyed.into_iter().map(|(_, index)| index).collect()
}
