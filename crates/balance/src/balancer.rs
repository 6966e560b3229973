//! The peers of one service: settings, updates, sets.

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;

use crate::{
    Announced, Counters, Flags, Generator, Health, InvalidPolicy, MILLISECOND, Member, Notice, PeerKey,
    PeerState, PickError, PickErrorKind, RoundRobin, SECOND, Set, Warmup, What, Zone, estimate::FIRST,
    notice::Board, permit::ProbeDue, set::Plan,
};

/// How long the state of a peer that left is kept, should it come back (B-1.1).
const REMEMBERED: u64 = 60 * SECOND;
/// Peers that left and are remembered. Above it only those with running calls are: somebody announces
/// thousands of short-lived peers, and then their state is worth nothing.
const MOST_REMEMBERED: usize = 4_096;
/// Sets are rebuilt at most that often because of what happens to peers (B-1.3).
const REBUILT_EVERY: u64 = 10 * MILLISECOND;

/// How a peer is chosen.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Policy {
    /// Each in turn, in an order of this client's own (B-2.1).
    RoundRobin,
    /// Each in turn, as often as its weight says (B-2.3). For exact shares.
    WeightedRoundRobin,
    /// Any, with equal probability (B-2.2).
    Random,
    /// Of two drawn at random the one with fewer calls for its weight (B-2.4).
    #[default]
    LeastLoaded,
    /// Of two drawn at random the one that is expected to answer sooner, by how long it took lately, how
    /// many calls wait for it, and how many failed (B-2.5). Not for calls whose time says nothing.
    ///
    /// A peer that nobody called for 5 s because it looked slow gets one call in a hundred of those that
    /// would avoid it, one at a time and only such as may be sent again; if that succeeds, its past is
    /// forgotten. The formulas of B-2.5 alone avoid a peer for 55 s after a stall of 250 ms.
    PeakEwma,
    /// Calls of one key go to one peer, unless it has far more calls than others (B-2.6). Without a key
    /// as [`LeastLoaded`](Self::LeastLoaded).
    Sticky,
}

impl Policy {
    /// A fixed word for logs and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::WeightedRoundRobin => "weighted_round_robin",
            Self::Random => "random",
            Self::LeastLoaded => "least_loaded",
            Self::PeakEwma => "peak_ewma",
            Self::Sticky => "sticky",
        }
    }
}

/// What a [`Balancer`] is made with.
#[derive(Clone, Debug)]
#[expect(
    clippy::exhaustive_structs,
    reason = "made with `..Settings::default()`, which a private field would forbid"
)]
pub struct Settings {
    /// How a peer is chosen.
    pub policy: Policy,
    /// Makes the random numbers repeat; when `None` they come from the system, for each thread its own.
    pub seed: Option<u64>,
    /// The most calls pending on one peer; 0 counts as 1. Default 1,024.
    pub limit: u32,
    /// Whether each peer's limit follows what it can take, from 4 to 1,000 (B-7.2). Default no.
    pub adaptive_limit: bool,
    /// When peers that fail are taken out; `None` for never.
    pub health: Option<Health>,
    /// How fast peers that join later get their share; `None` for at once.
    pub warmup: Option<Warmup>,
    /// Where this client is, to prefer peers near it. Default unknown.
    pub zone: Option<Zone>,
    /// Use only so many of the peers, others than other clients do (B-2.7). Default all.
    pub subset: Option<NonZeroUsize>,
    /// How much more than its share a peer may be given by key.
    pub sticky_bound: StickyBound,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            seed: None,
            limit: 1_024,
            adaptive_limit: false,
            health: Some(Health::default()),
            warmup: Some(Warmup::default()),
            zone: None,
            subset: None,
            sticky_bound: StickyBound::default(),
        }
    }
}

/// How much more than its share a peer may be given by key, until calls of its keys go elsewhere.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StickyBound(Option<f64>);

impl Default for StickyBound {
    fn default() -> Self {
        Self(Some(1.5))
    }
}

impl StickyBound {
    /// No bound: a key stays with its peer however much that has to do.
    pub const NONE: Self = Self(None);

    /// A multiple of the share: above 1, at most 100. Default 1.5.
    ///
    /// # Errors
    ///
    /// [`InvalidPolicy`] outside that range.
    pub fn new(bound: f64) -> Result<Self, InvalidPolicy> {
        let fits = bound > 1.0 && bound <= 100.0;
        fits.then_some(Self(Some(bound))).ok_or(InvalidPolicy("sticky bound: above 1, at most 100"))
    }
}

/// Which members an update took away.
#[derive(Debug)]
#[non_exhaustive]
pub struct Changes<P, C = ()> {
    /// They are no longer announced: running calls may finish, connections without one should be closed.
    pub left: Vec<Arc<Member<P, C>>>,
    /// The former selves of peers that have another address now: their connections should drain.
    pub moved: Vec<Arc<Member<P, C>>>,
}

/// The peers of one service. Picks take no lock and allocate nothing; updates replace the whole set.
#[derive(Debug)]
pub struct Balancer<P, C = ()> {
    pub(crate) set: ArcSwap<Set<P, C>>,
    pub(crate) plan: Plan,
    /// Of all peers, of those in the own zone, of the others.
    pub(crate) turns: [RoundRobin; 3],
    pub(crate) random: Generator,
    pub(crate) sticky_bound: Option<f64>,
    /// When an ejected peer may be probed.
    pub(crate) probe_due: Arc<ProbeDue>,
    pub(crate) board: Board,
    /// Calls pending on all peers. Only a sticky policy needs it.
    pub(crate) total: Option<Arc<AtomicU64>>,
    limit: u32,
    adaptive_limit: bool,
    announced: AtomicBool,
    /// When the set has to be built anew, because a flag was set or ends; [`u64::MAX`] for never.
    due: AtomicU64,
    built: AtomicU64,
    /// Never touched by a pick.
    known: Mutex<HashMap<PeerKey, Known<P, C>>>,
}

#[derive(Debug)]
pub(crate) struct Known<P, C> {
    pub(crate) member: Arc<Member<P, C>>,
    pub(crate) left_at: Option<u64>,
}

impl<P: Clone, C> Balancer<P, C> {
    /// A balancer without peers.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let Settings { policy, seed, limit, adaptive_limit, health, warmup, zone, subset, sticky_bound } =
            settings;
        let random = seed.map_or_else(Generator::from_system, Generator::seeded);
        let client_seed = random.next_u64();
        let first = random.next_u64();
        let plan = Plan { policy, client_seed, health, warmup, zone, subset };
        Self {
            set: ArcSwap::from_pointee(Set::new(Box::default(), &plan, None, 0)),
            plan,
            // Small numbers: with those a division costs a third.
            turns: [first, !first, first].map(|first| RoundRobin::starting_at(first >> 33)),
            random,
            sticky_bound: sticky_bound.0,
            probe_due: Arc::new(ProbeDue::never()),
            board: Board::default(),
            total: (policy == Policy::Sticky).then(Arc::default),
            limit: limit.max(1),
            adaptive_limit,
            announced: AtomicBool::new(false),
            due: AtomicU64::new(u64::MAX),
            built: AtomicU64::new(0),
            known: Mutex::default(),
        }
    }

    /// Replaces the peers. A peer that was known less than 60 s ago keeps its state, unless it has another
    /// address: then only its running calls stay counted.
    ///
    /// Of several peers with one identity the first counts, of several with one address the one seen last.
    pub fn update(&self, now: u64, announced: impl IntoIterator<Item = Announced<P, C>>) -> Changes<P, C> {
        // Before the lock: an iterator of the caller may ask for members.
        let announced = one_per_address(announced);
        let mut known = self.known();
        let is_remembered =
            |gone: &Known<P, C>| gone.left_at.is_none_or(|at| now.saturating_sub(at) < REMEMBERED);
        known.retain(|_, gone| is_remembered(gone));
        let guess = self.typical_estimate(now);
        let mut changes = Changes { left: Vec::new(), moved: Vec::new() };
        let mut members = Vec::new();
        for peer in announced {
            let before = known.remove(&peer.key);
            let suspect = peer.suspect;
            let is_new = before.as_ref().is_none_or(|before| before.left_at.is_some());
            let has_moved = before.as_ref().is_some_and(|before| before.member.address != peer.address);
            let state = match &before {
                Some(before) => Arc::clone(&before.member.state),
                None => Arc::new(PeerState::new(self.limit, guess, self.adaptive_limit, now)),
            };
            if has_moved {
                state.moved(guess, now);
                self.board.post(now, Some(&peer.key), What::Moved);
            }
            if is_new {
                self.board.post(now, Some(&peer.key), What::Joined);
            }
            // A doubt that was confirmed holds as long as the doubt does.
            if is_new || has_moved || !suspect {
                state.set_flag(Flags::DRAINING, false);
            }
            if !state.set_flag(Flags::SUSPECT, suspect) && suspect {
                self.board.post(now, Some(&peer.key), What::Suspect);
            }
            let member = Arc::new(Member::new(peer, state, self.total.clone(), Arc::clone(&self.probe_due)));
            if let Some(Known { member: before, left_at: None }) = before
                && has_moved
            {
                changes.moved.push(before);
            }
            members.push(member);
        }
        let mut gone: Vec<_> = known.values_mut().filter(|gone| gone.left_at.is_none()).collect();
        // In an order that is the same in every run.
        gone.sort_unstable_by(|a, b| a.member.key.cmp(&b.member.key));
        for gone in gone {
            gone.left_at = Some(now);
            gone.member.state.set_flag(Flags::DRAINING, true);
            changes.left.push(Arc::clone(&gone.member));
            self.board.post(now, Some(&gone.member.key), What::Left);
        }
        if known.len() > MOST_REMEMBERED {
            known.retain(|_, gone| gone.member.state.pending() > 0);
        }
        for member in &members {
            known.insert(member.key.clone(), Known { member: Arc::clone(member), left_at: None });
        }
        self.build(members.into(), now);
        drop(known);
        self.announced.store(true, Ordering::Release);
        changes
    }

    /// The mean estimate of the eligible peers that have answered, which is what a new peer is guessed to
    /// take: a small fixed guess would flood it, a large one starve it.
    pub(crate) fn typical_estimate(&self, now: u64) -> f64 {
        let set = self.set.load();
        let sampled = || set.eligible().iter().map(|member| &member.state).filter(|state| state.is_sampled());
        match sampled().count() {
            0 => FIRST,
            count => sampled().map(|state| state.estimate(now) as f64).sum::<f64>() / count as f64,
        }
    }

    pub(crate) fn known(&self) -> MutexGuard<'_, HashMap<PeerKey, Known<P, C>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cold]
    pub(crate) fn flags_changed(&self, now: u64) {
        // The first change at once, more of them together.
        let due = self.built.load(Ordering::Relaxed).saturating_add(REBUILT_EVERY).max(now);
        self.due.fetch_min(due, Ordering::Relaxed);
        self.rebuild_if_due(now);
    }

    #[inline]
    pub(crate) fn rebuild_if_due(&self, now: u64) {
        if now >= self.due.load(Ordering::Relaxed) {
            self.rebuild(now);
        }
    }

    #[cold]
    fn rebuild(&self, now: u64) {
        // Whoever has the lock is building one: no pick waits for that.
        if let Ok(_known) = self.known.try_lock() {
            self.build(self.set.load().members().into(), now);
        }
    }

    /// Only under the lock.
    fn build(&self, members: Box<[Arc<Member<P, C>>]>, now: u64) {
        // Before the flags are read: one that is set meanwhile makes it due again.
        self.built.store(now, Ordering::Relaxed);
        self.due.store(u64::MAX, Ordering::Relaxed);
        // Nobody would be left to call, and nobody to fill in for it (B-3.3).
        let mut known = members.iter().filter(|member| member.is_known(now));
        if let (Some(only), None) = (known.next(), known.next())
            && only.state.set_flag(Flags::EJECTED, false)
        {
            only.state.set_flag(Flags::PROBING, false);
        }
        let next_end = members.iter().filter_map(|member| member.state.next_end(now)).min();
        let before = self.set.load();
        let set = Set::new(members, &self.plan, Some(&before), now);
        if set.is_panic != before.is_panic {
            self.board.post(now, None, if set.is_panic { What::PanicOn } else { What::PanicOff });
        }
        self.set.store(Arc::new(set));
        if let Some(next_end) = next_end {
            self.due.fetch_min(next_end, Ordering::Relaxed);
        }
        self.look_for_probes(0);
    }

    /// The peers as they are now.
    pub fn set(&self) -> Arc<Set<P, C>> {
        self.set.load_full()
    }

    /// The peer of that identity, if it is announced now.
    pub fn member(&self, key: &PeerKey) -> Option<Arc<Member<P, C>>> {
        let known = self.known();
        known.get(key).filter(|known| known.left_at.is_none()).map(|known| Arc::clone(&known.member))
    }

    /// The peers that left while calls to them still run, by identity.
    pub fn leaving(&self) -> Vec<Arc<Member<P, C>>> {
        let known = self.known();
        let left = known.values().filter(|known| known.left_at.is_some());
        let running = left.map(|known| &known.member).filter(|member| member.state.pending() > 0);
        let mut leaving: Vec<_> = running.cloned().collect();
        drop(known);
        leaving.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        leaving
    }

    /// How peers are chosen.
    pub const fn policy(&self) -> Policy {
        self.plan.policy
    }

    /// The generator of this balancer, for backoff and pickers.
    pub const fn random(&self) -> &Generator {
        &self.random
    }

    /// Whether there are notices to take. Costs one load.
    pub fn has_notices(&self) -> bool {
        self.board.has_news()
    }

    /// What happened since this was last called, oldest first; the last 1,024 are kept.
    pub fn take_notices(&self) -> Vec<Notice> {
        self.board.take()
    }

    /// How often things happened.
    pub fn counters(&self) -> Counters {
        self.board.counters()
    }

    #[cold]
    pub(crate) fn error(&self, set: &Arc<Set<P, C>>, now: u64) -> PickError<P, C> {
        let states = || set.working().map(|member| member.state());
        let kind = if set.members().is_empty() {
            let announced = self.announced.load(Ordering::Acquire);
            if announced { PickErrorKind::NoPeers } else { PickErrorKind::NotReady }
        } else if states().next().is_none() {
            PickErrorKind::AllExcluded
        } else if states().all(|state| state.flags(now).contains(Flags::THROTTLED)) {
            let ends = states().filter_map(|state| state.until(now)).min().unwrap_or(now);
            PickErrorKind::AllThrottled { retry_after: Duration::from_nanos(ends.saturating_sub(now)) }
        } else if states().any(|state| state.is_open(set.overlooked, now)) {
            PickErrorKind::Saturated
        } else {
            PickErrorKind::AllExcluded
        };
        PickError::new(kind, Arc::clone(set), now)
    }
}

/// The announced peers without those that share identity or address with a better one, in their order.
fn one_per_address<P, C>(announced: impl IntoIterator<Item = Announced<P, C>>) -> Vec<Announced<P, C>> {
    let mut peers: Vec<Announced<P, C>> = Vec::new();
    let mut by_key: HashMap<PeerKey, ()> = HashMap::new();
    let mut by_address: HashMap<Arc<str>, usize> = HashMap::new();
    for peer in announced {
        if by_key.insert(peer.key.clone(), ()).is_some() {
            continue;
        }
        let place = *by_address.entry(Arc::clone(&peer.address)).or_insert(peers.len());
        match peers.get_mut(place) {
            None => peers.push(peer),
            Some(other) if other.last_seen < peer.last_seen => *other = peer,
            Some(_) => {}
        }
    }
    peers
}
