//! Why a pick went where it went (B-10.3).

use std::{fmt, sync::Arc, time::Duration};

use crate::{Balancer, Lease, Member, PeerKey, PickError, PickInput, Policy, Set};

/// By which way a peer was found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum How {
    /// It is ejected, and this call finds out whether it works again.
    Probe,
    /// It is not the better candidate, but what is known of it is old: this call finds out (peak EWMA).
    Trial,
    /// The policy, among the peers of the own zone.
    Local,
    /// The policy, among the peers of other zones.
    Remote,
    /// The policy, among all.
    All,
    /// The first one usable, after the policy found none.
    Scan,
    /// Nobody is usable; it could not be reached lately.
    LastResort,
    /// Nobody else is left; the call has tried it already.
    TriedAgain,
}

impl How {
    /// A few words for people: "picked a by round_robin, …".
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Probe => "to find out whether it works again",
            Self::Trial => "to find out whether it is still that slow",
            Self::Local => "in the own zone",
            Self::Remote => "in other zones",
            Self::All => "among all",
            Self::Scan => "the first one usable",
            Self::LastResort => "one that could not be reached lately",
            Self::TriedAgain => "one that was tried already",
        }
    }

    /// Of what was tried, what says where a peer was found: where the search began, and what ended it. Nothing, if
    /// nobody was found.
    pub fn that_found(steps: &[Self], is_found: bool) -> impl Iterator<Item = &Self> {
        let (first, last) = (steps.first(), steps.get(1..).and_then(<[Self]>::last));
        first.into_iter().chain(last).filter(move |_| is_found)
    }
}

/// What a policy saw of a candidate.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Candidate {
    /// Who.
    pub key: PeerKey,
    /// How long it is expected to take, in nanoseconds.
    pub estimate: u64,
    /// How old that estimate is, in nanoseconds.
    pub age: u64,
    /// Whether it comes from calls.
    pub is_sampled: bool,
    /// For how long some call has been waiting in vain, in nanoseconds.
    pub stall: u64,
    /// Calls begun and not finished.
    pub pending: u32,
    /// The part of calls that succeed.
    pub success: f64,
    /// Its weight.
    pub weight: u16,
    /// What one more call costs, in nanoseconds; least loaded does not look at it.
    pub cost: f64,
    /// Whether it could be used.
    pub is_usable: bool,
}

/// Why a pick went where it went. Its text is for people.
#[derive(Debug)]
pub struct Explanation<P, C = ()> {
    policy: Policy,
    steps: Vec<How>,
    candidates: Vec<Candidate>,
    chosen: Option<PeerKey>,
    set: Arc<Set<P, C>>,
    now: u64,
}

impl<P, C> Explanation<P, C> {
    /// The policy that chose.
    pub const fn policy(&self) -> Policy {
        self.policy
    }
    /// What was tried, in this order; the last one found the peer.
    pub fn steps(&self) -> &[How] {
        &self.steps
    }
    /// The candidates, two of each draw, those that were drawn again once. Empty for policies that do not compare.
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }
    /// Who was picked.
    pub const fn chosen(&self) -> Option<&PeerKey> {
        self.chosen.as_ref()
    }
    /// The peers there were.
    pub fn set(&self) -> &Set<P, C> {
        &self.set
    }
}

impl<P, C> fmt::Display for Explanation<P, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.chosen {
            Some(key) => write!(f, "picked {}", key.as_str().escape_debug())?,
            None => f.write_str("picked nobody")?,
        }
        write!(f, " by {}", self.policy.as_str())?;
        for step in How::that_found(&self.steps, self.chosen.is_some()) {
            write!(f, ", {}", step.as_str())?;
        }
        if self.set.is_panic() {
            f.write_str("; most peers are out")?;
        }
        for candidate in &self.candidates {
            write!(f, "\n  {candidate}")?;
        }
        for member in self.set.members() {
            if let Some(why) = member.why_out(self.now) {
                write!(f, "\n  {} {why}", member.key.as_str().escape_debug())?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |nanos: u64| Duration::from_micros(nanos / 1_000);
        write!(f, "{}: ", self.key.as_str().escape_debug())?;
        if self.is_sampled {
            write!(f, "takes {:?} as of {:?} ago", short(self.estimate), short(self.age))?;
        } else {
            write!(f, "is guessed to take {:?}", short(self.estimate))?;
        }
        if self.stall > 0 {
            write!(f, ", silent for {:?}", short(self.stall))?;
        }
        write!(
            f,
            ", {} calls, {:.0} % succeed, weight {}, cost {:?}",
            self.pending,
            self.success * 100.0,
            self.weight,
            short(self.cost as u64)
        )?;
        if self.is_usable { Ok(()) } else { f.write_str(", not usable") }
    }
}

/// A pick with its reasons.
#[derive(Debug)]
#[non_exhaustive]
pub struct Explained<P, C = ()> {
    /// What [`Balancer::pick`] would have returned.
    pub picked: Result<Lease<P, C>, PickError<P, C>>,
    /// Why.
    pub why: Explanation<P, C>,
}

/// Follows a pick. `()` does not and costs nothing.
pub(crate) trait Trace<P, C> {
    fn how(&mut self, _: How) {}
    fn candidates(&mut self, _: &Set<P, C>, _: &Member<P, C>, _: &Member<P, C>, _: &PickInput<'_>) {}
}

impl<P, C> Trace<P, C> for () {}

#[derive(Default)]
struct Record {
    steps: Vec<How>,
    candidates: Vec<Candidate>,
}

impl<P, C> Trace<P, C> for Record {
    fn how(&mut self, how: How) {
        self.steps.push(how);
    }

    fn candidates(&mut self, set: &Set<P, C>, a: &Member<P, C>, b: &Member<P, C>, input: &PickInput<'_>) {
        let now = input.now();
        let candidate = |member: &Member<P, C>| Candidate {
            key: member.key.clone(),
            estimate: member.state.estimate(now),
            age: member.state.estimate_age(now),
            is_sampled: member.state.is_sampled(),
            stall: member.state.stalled_for(now),
            pending: member.state.pending(),
            success: member.state.success_ratio(now),
            weight: member.weight.get(),
            cost: member.state.cost(set.eligible.relative_weight(member), now),
            is_usable: set.is_usable(member, input.leave_out(), now),
        };
        for member in [a, b] {
            // Of few peers, all unusable, each is drawn several times.
            if !self.candidates.iter().any(|known| known.key == member.key) {
                self.candidates.push(candidate(member));
            }
        }
    }
}

impl<P: Clone, C> Balancer<P, C> {
    /// Picks as [`pick`](Self::pick) does, and tells why. It allocates: for people who ask, not for every
    /// call.
    pub fn pick_explained(&self, input: &PickInput<'_>) -> Explained<P, C> {
        let mut record = Record::default();
        let picked = self.pick_traced(input, &mut record);
        let Record { steps, candidates } = record;
        let chosen = picked.as_ref().ok().map(|lease| lease.member().key().clone());
        let (policy, set, now) = (self.policy(), self.set(), input.now());
        Explained { picked, why: Explanation { policy, steps, candidates, chosen, set, now } }
    }
}
