//! The peers of one service, and picking among them.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;

use crate::{
    Announced, Flags, Generator, Lease, LeaveOut, MILLISECOND, Member, PeerKey, PeerState, PickError,
    PickErrorKind, RoundRobin, SECOND, Set, index_below,
};

/// How long the state of a peer that left is kept, should it come back (B-1.1).
const REMEMBERED: u64 = 60 * SECOND;
/// Peers that left and are remembered. Above it only those with running calls are: somebody announces
/// thousands of short-lived peers, and then their state is worth nothing.
const MOST_REMEMBERED: usize = 4_096;
/// Sets are rebuilt at most that often because of what happens to peers (B-1.3).
const REBUILT_EVERY: u64 = 10 * MILLISECOND;
/// Draws before a scan (B-1.4).
const DRAWS: usize = 4;

/// How a peer is chosen.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Policy {
    /// Each in turn, in an order of this client's own (B-2.1).
    #[default]
    RoundRobin,
    /// Any, with equal probability (B-2.2).
    Random,
}

/// What a [`Balancer`] is made with.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::exhaustive_structs,
    reason = "made with `..Settings::default()`, which a private field would forbid"
)]
pub struct Settings {
    /// How a peer is chosen.
    pub policy: Policy,
    /// Makes the random numbers repeat; from the system when `None`.
    pub seed: Option<u64>,
    /// The most calls pending on one peer. Default 1,024.
    pub limit: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { policy: Policy::default(), seed: None, limit: 1_024 }
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
    set: ArcSwap<Set<P, C>>,
    policy: Policy,
    turn: RoundRobin,
    random: Generator,
    client_seed: u64,
    limit: u32,
    announced: AtomicBool,
    /// When the set has to be built anew, because a flag was set or ends; [`u64::MAX`] for never.
    due: AtomicU64,
    built: AtomicU64,
    /// Never touched by a pick.
    known: Mutex<HashMap<PeerKey, Known<P, C>>>,
}

#[derive(Debug)]
struct Known<P, C> {
    member: Arc<Member<P, C>>,
    left_at: Option<u64>,
}

impl<P: Clone, C> Balancer<P, C> {
    /// A balancer without peers.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let random = settings.seed.map_or_else(Generator::from_system, Generator::seeded);
        let client_seed = random.next_u64();
        Self {
            set: ArcSwap::from_pointee(Set::new(Box::default(), client_seed, 0)),
            policy: settings.policy,
            turn: RoundRobin::starting_at(random.next_u64()),
            random,
            client_seed,
            limit: settings.limit,
            announced: AtomicBool::new(false),
            due: AtomicU64::new(u64::MAX),
            built: AtomicU64::new(0),
            known: Mutex::default(),
        }
    }

    /// Replaces the peers. A peer that was known less than 60 s ago keeps its state.
    ///
    /// Of several peers with one identity the first counts, of several with one address the one seen last.
    pub fn update(&self, now: u64, announced: impl IntoIterator<Item = Announced<P, C>>) -> Changes<P, C> {
        // Before the lock: an iterator of the caller may ask for members.
        let announced = one_per_address(announced);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let is_remembered =
            |gone: &Known<P, C>| gone.left_at.is_none_or(|at| now.saturating_sub(at) < REMEMBERED);
        known.retain(|_, gone| is_remembered(gone));
        let mut changes = Changes { left: Vec::new(), moved: Vec::new() };
        let mut members = Vec::new();
        for peer in announced {
            let before = known.remove(&peer.key);
            let state = match &before {
                Some(before) => Arc::clone(&before.member.state),
                None => Arc::new(PeerState::new(self.limit)),
            };
            let member = Arc::new(Member::new(peer, state));
            if let Some(Known { member: before, left_at: None }) = before
                && before.address != member.address
            {
                changes.moved.push(before);
            }
            members.push(member);
        }
        for gone in known.values_mut().filter(|gone| gone.left_at.is_none()) {
            gone.left_at = Some(now);
            gone.member.state.set_flag(Flags::DRAINING, true);
            changes.left.push(Arc::clone(&gone.member));
        }
        if known.len() > MOST_REMEMBERED {
            known.retain(|_, gone| gone.member.state.pending() > 0);
        }
        for member in &members {
            known.insert(member.key.clone(), Known { member: Arc::clone(member), left_at: None });
        }
        self.build(members.into(), now);
        self.announced.store(true, Ordering::Release);
        changes
    }

    /// Takes a peer out until then, because it asked for less (B-3.5).
    pub fn throttle(&self, member: &Member<P, C>, until: u64, now: u64) {
        member.state.set_until(Flags::THROTTLED, until);
        self.flags_changed(now);
    }

    /// Takes a peer out until then, because it did not prove who it is (B-3.6).
    pub fn quarantine(&self, member: &Member<P, C>, until: u64, now: u64) {
        member.state.set_until(Flags::QUARANTINED, until);
        self.flags_changed(now);
    }

    /// The peer could not be reached, or kept silent for all the time it had. One that was in doubt already
    /// is passed over from now on, until the source takes the doubt back; unless there is nobody else.
    pub fn unreachable(&self, member: &Member<P, C>, now: u64) {
        if member.state.confirm_doubt() {
            self.flags_changed(now);
        }
    }

    #[cold]
    fn flags_changed(&self, now: u64) {
        // The first change at once, more of them together.
        let due = self.built.load(Ordering::Relaxed).saturating_add(REBUILT_EVERY).max(now);
        self.due.fetch_min(due, Ordering::Relaxed);
        self.rebuild_if_due(now);
    }

    fn rebuild_if_due(&self, now: u64) {
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
        let next_end = members.iter().filter_map(|member| member.state.next_end(now)).min();
        self.set.store(Arc::new(Set::new(members, self.client_seed, now)));
        if let Some(next_end) = next_end {
            self.due.fetch_min(next_end, Ordering::Relaxed);
        }
    }

    /// Picks a peer by the policy and counts a call on it.
    ///
    /// # Errors
    ///
    /// [`PickError`], whose text tells what keeps each peer out.
    pub fn pick(&self, leave_out: &LeaveOut, now: u64) -> Result<Lease<P, C>, PickError<P, C>> {
        self.rebuild_if_due(now);
        let set = self.set.load();
        let usable = |member: &&Arc<Member<P, C>>| member.is_usable(leave_out, now);
        let len = set.eligible().len();
        let by_policy = match self.policy {
            Policy::RoundRobin => self.turn.turn(len).and_then(|turn| {
                let from_turn = (turn..turn + len).filter_map(|place| set.in_order(place));
                from_turn.filter(usable).find_map(Lease::begin)
            }),
            Policy::Random => {
                let draws =
                    (0..DRAWS).filter_map(|_| set.eligible().get(index_below(self.random.next_u64(), len)));
                draws.filter(usable).find_map(Lease::begin)
            }
        };
        match by_policy.or_else(|| self.scan(&set, usable)) {
            Some(lease) => Ok(lease),
            None => self.pick_again(&set, leave_out, now),
        }
    }

    /// Picks with a chooser of the caller: it is given the peers that can be used and returns an index.
    ///
    /// It is called once, or once more if its choice turns out not to be usable. Only the second list is
    /// an allocation.
    ///
    /// # Errors
    ///
    /// As [`pick`](Self::pick); [`PickErrorKind::NoneChosen`] if it returns `None`.
    pub fn pick_by(
        &self,
        leave_out: &LeaveOut,
        now: u64,
        mut choose: impl FnMut(&[P]) -> Option<usize>,
    ) -> Result<Lease<P, C>, PickError<P, C>> {
        self.rebuild_if_due(now);
        let set = self.set.load();
        let error = |kind| PickError::new(kind, Arc::clone(&set), now);
        if leave_out.is_empty() && !set.eligible().is_empty() {
            let chosen = choose(set.peers()).and_then(|index| set.eligible().get(index));
            let chosen = chosen.ok_or_else(|| error(PickErrorKind::NoneChosen))?;
            if chosen.is_usable(leave_out, now)
                && let Some(lease) = Lease::begin(chosen)
            {
                return Ok(lease);
            }
        }
        let usable = |leave_out: &LeaveOut| -> Vec<_> {
            set.working().filter(|member| member.is_usable(leave_out, now)).collect()
        };
        let mut members = usable(leave_out);
        if members.is_empty() {
            members.extend(set.working().filter(|member| member.is_last_resort(leave_out, now)));
        }
        if members.is_empty() && !leave_out.is_empty() {
            members = usable(&LeaveOut::default());
        }
        if members.is_empty() {
            return Err(self.error(&set, now));
        }
        let peers: Vec<P> = members.iter().map(|member| member.peer.clone()).collect();
        let chosen = choose(&peers).and_then(|index| members.get(index));
        let chosen = chosen.ok_or_else(|| error(PickErrorKind::NoneChosen))?;
        Lease::begin(chosen).ok_or_else(|| error(PickErrorKind::Saturated))
    }

    /// Whether a peer could be picked that is not in `leave_out`.
    pub fn has_other(&self, leave_out: &LeaveOut, now: u64) -> bool {
        let is_other = |member: &Arc<Member<P, C>>| {
            member.is_usable(leave_out, now) || member.is_last_resort(leave_out, now)
        };
        self.set.load().working().any(is_other)
    }

    /// The peers as they are now.
    pub fn set(&self) -> Arc<Set<P, C>> {
        self.set.load_full()
    }

    /// The peer of that identity, if it is announced now.
    pub fn member(&self, key: &PeerKey) -> Option<Arc<Member<P, C>>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(key).filter(|known| known.left_at.is_none()).map(|known| Arc::clone(&known.member))
    }

    /// The generator of this balancer, for backoff and pickers.
    pub const fn random(&self) -> &Generator {
        &self.random
    }

    /// The first usable member from a random place on.
    fn scan(&self, set: &Set<P, C>, usable: impl FnMut(&&Arc<Member<P, C>>) -> bool) -> Option<Lease<P, C>> {
        let members = set.eligible();
        let (before, after) = members.split_at_checked(index_below(self.random.next_u64(), members.len()))?;
        after.iter().chain(before).filter(usable).find_map(Lease::begin)
    }

    /// Nothing was usable: a peer that could not be reached just now is better than none, and so is one
    /// that was tried (B-1.4 step 5).
    #[cold]
    fn pick_again(
        &self,
        set: &Arc<Set<P, C>>,
        leave_out: &LeaveOut,
        now: u64,
    ) -> Result<Lease<P, C>, PickError<P, C>> {
        let nobody = LeaveOut::default();
        let least = |is_good: &dyn Fn(&Member<P, C>) -> bool| {
            let good = set.working().filter(|member| is_good(member));
            good.min_by_key(|member| member.state.pending()).and_then(Lease::begin)
        };
        least(&|member| member.is_last_resort(leave_out, now))
            .or_else(|| least(&|member| member.is_usable(&nobody, now)))
            .or_else(|| least(&|member| member.is_last_resort(&nobody, now)))
            .ok_or_else(|| self.error(set, now))
    }

    #[cold]
    fn error(&self, set: &Arc<Set<P, C>>, now: u64) -> PickError<P, C> {
        let states = || set.working().map(|member| member.state());
        let kind = if set.members().is_empty() {
            let announced = self.announced.load(Ordering::Acquire);
            if announced { PickErrorKind::NoPeers } else { PickErrorKind::NotReady }
        } else if states().next().is_none() {
            PickErrorKind::AllExcluded
        } else if states().all(|state| state.flags(now).contains(Flags::THROTTLED)) {
            let ends = states().filter_map(|state| state.until(now)).min().unwrap_or(now);
            PickErrorKind::AllThrottled { retry_after: Duration::from_nanos(ends.saturating_sub(now)) }
        } else if states().any(|state| state.is_open(now)) {
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
