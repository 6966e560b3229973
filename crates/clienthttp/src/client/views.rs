//! What a client knows of its peers, and why a call went where it went: for people and their tools.

use std::{fmt, sync::Arc, time::Duration};

use peerage_balance::{Candidate, Counters, Explanation, Flags, How, PeerKey, Policy};
use peerage_discovery::{Peer, ServiceType, Status, escape};

use super::members::{Member, Node, NotPicked, Set};

/// A client and its peers at one moment. Made from what calls write down anyway: looking costs them nothing.
///
/// Its text is what [`Client::explain`](crate::Client::explain) gives.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientView {
    /// The service whose peers it calls.
    pub service: ServiceType,
    /// How discovery is.
    pub discovery: Status,
    /// Why there are not more peers, in a few words, if there are none.
    pub why_empty: Option<String>,
    /// The policy that chooses; `None` if code of the caller does.
    pub policy: Option<Policy>,
    /// So many peers are out that those that failed are used again, or none at all (B-3.4).
    pub is_panic: bool,
    /// The part of the calls that stays in the own zone; `None` if zones are off or nothing stays.
    pub local_part: Option<f64>,
    /// Calls of this client that run.
    pub in_flight: usize,
    /// Those of them that wait because every peer has its limit of calls (B-7.1).
    pub waiting: usize,
    /// How many calls could be sent again now; below 0 while more was spent than is left of it, `None` if
    /// there is no budget.
    pub resends_left: Option<f64>,
    /// After which time the answer to a call is late, for calls that may be hedged; `None` while none was, or
    /// too little is known.
    pub hedge_delay: Option<Duration>,
    /// How often things happened since the client was made.
    pub counters: Counters,
    /// The peers in the order of the list; behind them those that left while calls to them still run.
    pub peers: Vec<PeerView>,
}

/// What a client knows of one peer.
///
/// Its text is one line: `billing-2 (10.0.0.7:9999), 3 calls, is ejected for another 870ms`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PeerView {
    /// The peer as discovery has it.
    pub peer: Peer,
    /// What is going on with it, in a word; the worst if there is more.
    pub condition: Condition,
    /// Discovery doubts that it is alive, or has it no more and it is kept for a while.
    pub is_suspect: bool,
    /// What keeps calls away from it, in words; `None` if nothing does.
    pub why_out: Option<String>,
    /// When that ends, if it ends by itself; for an ejected peer when it is probed.
    pub out_for: Option<Duration>,
    /// How long an answer is expected to take, from the request to its head.
    pub estimate: Duration,
    /// Whether the estimate comes from calls; it is a guess until then.
    pub is_sampled: bool,
    /// How long ago the estimate last changed.
    pub estimate_age: Duration,
    /// For how long calls have been waiting for it without any answer; zero if none waits.
    pub silent_for: Duration,
    /// Calls begun and not finished, until the last byte of the body.
    pub in_flight: u32,
    /// Those of them that have no answer yet.
    pub awaiting: u32,
    /// The most calls at once.
    pub limit: u32,
    /// The part of the calls that succeed lately, 0 to 1.
    pub success_ratio: f64,
    /// Calls of the last ten seconds that succeeded.
    pub recent_ok: u64,
    /// Calls of the last ten seconds that failed.
    pub recent_failed: u64,
    /// How long ago a call to it last succeeded.
    pub succeeded: Option<Duration>,
    /// Its weight, 0 to 1000.
    pub weight: u16,
    /// The zone it runs in, if it says so: foreign text, escape it before showing it.
    pub zone: Option<String>,
    /// Open connections, where the dialer tells.
    pub connections: Option<usize>,
}

/// What is going on with a peer.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Condition {
    /// Calls go there.
    Up,
    /// Discovery doubts that it is alive; calls still go there.
    Suspect,
    /// It has as many calls as it may.
    Full,
    /// It wants no new work (weight 0).
    NoWork,
    /// It asked for a pause.
    Throttled,
    /// In doubt, and it could not be reached: used if there is nobody else.
    Unreachable,
    /// It left; calls to it may finish.
    Draining,
    /// Its active checks fail.
    Down,
    /// Out after failures.
    Ejected,
    /// Out after failures, and a call is finding out whether it works again.
    Probing,
    /// It did not prove who it is.
    Quarantined,
}

impl Condition {
    /// All of them.
    #[cfg(feature = "metrics")]
    pub(super) const ALL: [Self; 11] = [
        Self::Up,
        Self::Suspect,
        Self::Full,
        Self::NoWork,
        Self::Throttled,
        Self::Unreachable,
        Self::Draining,
        Self::Down,
        Self::Ejected,
        Self::Probing,
        Self::Quarantined,
    ];

    /// A fixed word for tables and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Suspect => "suspect",
            Self::Full => "full",
            Self::NoWork => "no_work",
            Self::Throttled => "throttled",
            Self::Unreachable => "unreachable",
            Self::Draining => "draining",
            Self::Down => "down",
            Self::Ejected => "ejected",
            Self::Probing => "probing",
            Self::Quarantined => "quarantined",
        }
    }

    fn of(member: &Member, now: u64) -> Self {
        let (state, flags) = (member.state(), member.state().flags(now));
        let has = |flag| flags.contains(flag);
        if has(Flags::QUARANTINED) {
            Self::Quarantined
        } else if has(Flags::PROBING) {
            Self::Probing
        } else if has(Flags::EJECTED) {
            Self::Ejected
        } else if has(Flags::DOWN) {
            Self::Down
        } else if has(Flags::DRAINING) {
            if has(Flags::SUSPECT) { Self::Unreachable } else { Self::Draining }
        } else if has(Flags::THROTTLED) {
            Self::Throttled
        } else if member.weight().get() == 0 {
            Self::NoWork
        } else if state.pending() >= state.limit() {
            Self::Full
        } else if has(Flags::SUSPECT) {
            Self::Suspect
        } else {
            Self::Up
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl PeerView {
    pub(super) fn of(member: &Member, now: u64) -> Self {
        let state = member.state();
        let (recent_ok, recent_failed) = state.recent(now);
        Self {
            peer: member.peer().clone(),
            condition: Condition::of(member, now),
            is_suspect: state.flags(now).contains(Flags::SUSPECT),
            why_out: member.why_out(now).map(|why| why.to_string()),
            out_for: state.until(now).map(|until| Duration::from_nanos(until.saturating_sub(now))),
            estimate: Duration::from_nanos(state.estimate(now)),
            is_sampled: state.is_sampled(),
            estimate_age: Duration::from_nanos(state.estimate_age(now)),
            silent_for: Duration::from_nanos(state.stalled_for(now)),
            in_flight: state.pending(),
            awaiting: state.awaiting(),
            limit: state.limit(),
            success_ratio: state.success_ratio(now),
            recent_ok,
            recent_failed,
            succeeded: state.succeeded_at().map(|at| Duration::from_nanos(now.saturating_sub(at))),
            weight: member.weight().get(),
            zone: member.zone().map(str::to_owned),
            connections: member.attached().connection_count(),
        }
    }
}

impl fmt::Display for PeerView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} calls", self.peer, self.in_flight)?;
        if self.is_suspect {
            f.write_str(", in doubt")?;
        }
        self.why_out.as_ref().map_or(Ok(()), |why| write!(f, ", {why}"))
    }
}

impl fmt::Display for ClientView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed = self.peers.iter().filter(|view| view.condition != Condition::Draining).count();
        write!(f, "{}: {listed} peers", self.service)?;
        if self.is_panic {
            f.write_str(", most of them out")?;
        }
        if self.waiting > 0 {
            write!(f, ", {} calls wait for room", self.waiting)?;
        }
        for view in &self.peers {
            write!(f, "\n{view}")?;
        }
        self.why_empty.as_ref().map_or(Ok(()), |why| write!(f, ": {why}"))
    }
}

/// Why a pick went where it went: the candidates and what they cost, and what kept the others out.
///
/// Its text is for people, several lines, escaped.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PickExplanation {
    /// The policy that chose; `None` if code of the caller did.
    pub policy: Option<Policy>,
    /// What was tried, in this order; the last one found the peer. Empty if code of the caller chose.
    pub steps: Vec<How>,
    /// What the policy compared, two of each draw, those that were drawn again once. Empty for policies that do not compare.
    pub candidates: Vec<Candidate>,
    /// Who was picked; `None` if nobody was.
    pub chosen: Option<PeerKey>,
    /// Why nobody was.
    pub failure: Option<String>,
    /// The peers that calls keep away from, and why.
    pub kept_out: Vec<KeptOut>,
    /// How many peers there were.
    pub peer_count: usize,
    /// So many peers are out that those that failed are used again, or none at all.
    pub is_panic: bool,
}

/// A peer that calls keep away from.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct KeptOut {
    /// Who.
    pub key: PeerKey,
    /// What is going on with it, in a word.
    pub condition: Condition,
    /// What keeps calls away, in words.
    pub why: String,
    /// When that ends, if it ends by itself; for an ejected peer when it is probed.
    pub out_for: Option<Duration>,
}

impl PickExplanation {
    pub(super) fn of_policy(why: &Explanation<Peer, Arc<Node>>, now: u64) -> Self {
        Self {
            policy: Some(why.policy()),
            steps: why.steps().to_vec(),
            candidates: why.candidates().to_vec(),
            chosen: why.chosen().cloned(),
            ..Self::of_set(why.set(), now)
        }
    }

    /// Of a pick by code of the caller.
    pub(super) fn of_picker(chosen: Option<PeerKey>, set: &Set, now: u64) -> Self {
        Self { chosen, ..Self::of_set(set, now) }
    }

    /// Of a pick that nobody followed and that found nobody.
    pub(super) fn of_error(policy: Option<Policy>, error: &NotPicked, now: u64) -> Self {
        Self { policy, failure: Some(error.kind().to_string()), ..Self::of_set(error.set(), now) }
    }

    pub(super) fn because(mut self, failure: Option<&NotPicked>) -> Self {
        self.failure = failure.map(|error| error.kind().to_string());
        self
    }

    fn of_set(set: &Set, now: u64) -> Self {
        let kept_out = |member: &Arc<Member>| {
            Some(KeptOut {
                key: member.key().clone(),
                condition: Condition::of(member, now),
                why: member.why_out(now)?.to_string(),
                out_for: member
                    .state()
                    .until(now)
                    .map(|until| Duration::from_nanos(until.saturating_sub(now))),
            })
        };
        Self {
            policy: None,
            steps: Vec::new(),
            candidates: Vec::new(),
            chosen: None,
            failure: None,
            kept_out: set.members().iter().filter_map(kept_out).collect(),
            peer_count: set.members().len(),
            is_panic: set.is_panic(),
        }
    }

    fn by(&self) -> &'static str {
        self.policy.map_or("a picker of the caller", Policy::as_str)
    }
}

impl fmt::Display for PickExplanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.chosen {
            Some(key) => write!(f, "picked {} by {}", escape(key.as_str()), self.by())?,
            None => write!(f, "picked nobody by {}", self.by())?,
        }
        for step in How::that_found(&self.steps, self.chosen.is_some()) {
            write!(f, ", {}", step.as_str())?;
        }
        write!(f, ", of {} peers", self.peer_count)?;
        if let Some(failure) = &self.failure {
            write!(f, "; {failure}")?;
        }
        if self.is_panic {
            f.write_str("; most peers are out")?;
        }
        for candidate in &self.candidates {
            write!(f, "\n  {candidate}")?;
        }
        for KeptOut { key, why, .. } in &self.kept_out {
            write!(f, "\n  {} {why}", escape(key.as_str()))?;
        }
        Ok(())
    }
}
