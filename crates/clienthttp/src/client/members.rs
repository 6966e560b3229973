//! The peers of a client: from discovery to something that can be called.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use peerage_balance::{
    Announced, Balancer, Budget, Explained, LeaveOut, PeerKey, PickError, PickInput, Policy, Weight, What,
    key_hash,
};
use peerage_discovery::{Discovery, LeaveReason, Peer, PeerState, Report, Snapshot, escape};
use tokio::{
    sync::{Notify, futures::Notified},
    time::Instant,
};
use tracing::{debug, error, info, warn};

pub(crate) use super::node::Node;
use super::{
    held::Held,
    metrics::{Levels, Meters},
    moment::Moment,
    node::NEVER,
    queue::{Lease, Queue},
    views::{PeerView, PickExplanation},
};
use crate::{Dialer, PickContext, Picker, dial::FailureKind, pick::place_of};

pub(crate) type Member = peerage_balance::Member<Peer, Arc<Node>>;
pub(crate) type NotPicked = PickError<Peer, Arc<Node>>;
pub(crate) type Set = peerage_balance::Set<Peer, Arc<Node>>;

/// How often discovery hears that a peer answers.
const ALIVE_EVERY: u64 = 1_000_000_000;
/// How often discovery is asked to look again because a peer cannot be reached (B-9.1).
const REFRESH_EVERY: u64 = 1_000_000_000;

/// Who chooses the peer.
pub(crate) enum Choice {
    /// The policy of the balancer.
    Policy,
    /// A picker of the caller.
    Picker(Arc<dyn Picker>),
}

/// The peers of one client.
#[derive(Debug)]
pub(crate) struct Members {
    pub(crate) discovery: Arc<dyn Discovery>,
    pub(crate) dialer: Arc<dyn Dialer>,
    balancer: Balancer<Peer, Arc<Node>>,
    changed: Notify,
    /// Wakes who dials ejected peers.
    pub(super) ejected: Notify,
    /// What the balancer has. Also keeps two updates from crossing.
    applied: Mutex<Applied>,
    /// Where the balancer's time begins.
    pub(super) epoch: Instant,
    refreshed: AtomicU64,
    pub(super) is_followed: AtomicBool,
    /// What resends draw from.
    pub(crate) budget: Option<Arc<Budget>>,
    pub(crate) meters: Meters,
    /// How long calls to a peer that left may go on.
    drain: Option<Duration>,
    /// Where calls wait while every peer has its limit; `None` if they do not.
    pub(crate) queue: Option<Arc<Queue>>,
}

/// The peers that are announced to the balancer.
#[derive(Debug, Default)]
struct Applied {
    /// None before the first version.
    snapshot: Option<Snapshot>,
    held: Held,
    /// Those that left while calls to them ran, and when these are cut.
    draining: Vec<(u64, Arc<Member>)>,
}

impl Choice {
    /// `policy`, if it is what chooses.
    pub(crate) fn policy(&self, policy: Policy) -> Option<Policy> {
        matches!(self, Self::Policy).then_some(policy)
    }
}

impl Members {
    pub(crate) fn new(
        discovery: Arc<dyn Discovery>,
        dialer: Arc<dyn Dialer>,
        settings: peerage_balance::Settings,
        budget: Option<Arc<Budget>>,
        meters: Meters,
        drain: Option<Duration>,
        queue: Option<Arc<Queue>>,
    ) -> Self {
        Self {
            discovery,
            dialer,
            balancer: Balancer::new(settings),
            changed: Notify::new(),
            ejected: Notify::new(),
            applied: Mutex::default(),
            epoch: Instant::now(),
            refreshed: AtomicU64::new(NEVER),
            is_followed: AtomicBool::new(false),
            budget,
            meters,
            drain,
            queue,
        }
    }

    /// The balancer's time.
    pub(crate) fn now(&self) -> u64 {
        self.moment().nanos
    }

    /// What the clock says.
    pub(crate) fn moment(&self) -> Moment {
        self.moment_of(Instant::now())
    }

    /// What the clock said.
    pub(crate) fn moment_of(&self, at: Instant) -> Moment {
        Moment::new(at, self.epoch)
    }

    pub(crate) const fn balancer(&self) -> &Balancer<Peer, Arc<Node>> {
        &self.balancer
    }

    /// Whether changes of the peer set arrive. No lock: every call asks.
    pub(crate) fn is_followed(&self) -> bool {
        self.is_followed.load(Ordering::Acquire)
    }

    /// Sets the gauges of the metrics.
    pub(super) fn observe(&self) {
        let levels =
            Levels { panic_picks: self.balancer.counters().panic_picks, resends_left: self.resends_left() };
        self.meters.observe(&self.views().1, &levels);
    }

    /// How many calls could be sent again now.
    pub(crate) fn resends_left(&self) -> Option<f64> {
        self.budget.as_ref().map(|budget| budget.balance(self.now()) as f64 / 1_000.0)
    }

    /// Tells the log, and whoever probes, what happened to peers.
    pub(crate) fn tell(&self) {
        if !self.balancer.has_notices() {
            return;
        }
        for notice in self.balancer.take_notices() {
            self.meters.noticed(&notice);
            let peer = notice.key.as_ref().map_or_else(String::new, |key| escape(key.as_str()).to_string());
            match notice.what {
                What::Ejected { rule, until } => {
                    let pause = Duration::from_nanos(until.saturating_sub(notice.at));
                    info!(peerage.node_id = peer, ?rule, ?pause, "peer ejected");
                    self.ejected.notify_one();
                }
                What::PanicOn => warn!("most peers are out: those that failed are used again"),
                what => debug!(peerage.node_id = peer, "peer {}", what.as_str()),
            }
        }
    }

    /// Makes the peers of `snapshot` those that are picked among; `gone` left since the last one. Those that
    /// did without a word may be kept for a while (B-9.1).
    pub(super) fn apply(&self, snapshot: &Snapshot, gone: Vec<(Peer, LeaveReason)>) {
        let mut applied = self.applied();
        // Before discovery has started there is nothing to be told; an empty set would be an answer.
        if applied.snapshot.as_ref().map_or(0, Snapshot::version) >= snapshot.version() {
            return;
        }
        applied.snapshot = Some(snapshot.clone());
        let step = applied.held.list(self.now(), snapshot.peers(), gone, |peer| self.succeeded_at(peer));
        if step.guarded > 0 {
            warn!(
                peerage.service_type = %self.discovery.service_type(),
                peers = step.guarded,
                "most peers were lost at once: they are kept for a while",
            );
            self.meters.guarded(step.guarded);
        }
        self.announce_all(&mut applied);
        drop(applied);
        if step.refresh {
            self.discovery.refresh();
        }
    }

    /// Lets go of the peers that were kept long enough.
    pub(super) fn let_go(&self) {
        let mut applied = self.applied();
        if applied.held.tick(self.now(), |peer| self.succeeded_at(peer)) {
            self.announce_all(&mut applied);
            drop(applied);
            self.discovery.refresh();
        }
    }

    /// When [`let_go`](Self::let_go) has something to do.
    pub(super) fn let_go_at(&self) -> Option<u64> {
        self.applied().held.next()
    }

    fn applied(&self) -> MutexGuard<'_, Applied> {
        self.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn succeeded_at(&self, peer: &Peer) -> Option<u64> {
        self.balancer.member(&PeerKey::new(peer.node_id(), ""))?.state().succeeded_at()
    }

    fn announce_all(&self, applied: &mut Applied) {
        let listed = applied.snapshot.as_ref().map_or(&[][..], Snapshot::peers);
        let announced =
            listed.iter().map(|peer| self.announce(peer)).chain(applied.held.peers().map(|peer| {
                let mut announced = self.announce(peer);
                announced.suspect = true;
                announced
            }));
        let changes = self.balancer.update(self.now(), announced);
        for member in &changes.left {
            debug!(peerage.node_id = %escape(member.peer().node_id()), "peer left");
            member.attached().close();
        }
        for member in &changes.moved {
            debug!(peerage.node_id = %escape(member.peer().node_id()), "peer moved");
            member.attached().close();
        }
        if let Some(drain) = self.drain.and_then(|drain| u64::try_from(drain.as_nanos()).ok()) {
            let due = self.now().saturating_add(drain);
            // Nobody picks them any more, so who has no call now gets none.
            let busy = changes.left.into_iter().chain(changes.moved).filter(|m| m.state().pending() > 0);
            applied.draining.extend(busy.map(|member| (due, member)));
        }
        self.tell();
        self.changed.notify_waiters();
    }

    /// Cuts the calls to peers that left long enough ago, unless they came back (B-9.2).
    pub(super) fn cut(&self) {
        let mut applied = self.applied();
        if applied.draining.is_empty() {
            return;
        }
        let now = self.now();
        applied.draining.retain(|(due, member)| {
            let is_over = member.state().pending() == 0;
            if *due > now || is_over {
                return !is_over;
            }
            let current = self.balancer.member(member.key());
            if current.is_none_or(|current| current.peer().addresses() != member.peer().addresses()) {
                debug!(peerage.node_id = %escape(member.peer().node_id()), "calls to a peer that left are cut");
                member.attached().cut();
            }
            false
        });
    }

    /// When [`cut`](Self::cut) has something to do.
    pub(super) fn cut_at(&self) -> Option<u64> {
        self.applied().draining.iter().map(|(due, _)| *due).min()
    }

    /// Whether what began then and ends by `until` can outlive its peer for so long that it is cut.
    pub(crate) fn may_be_cut(&self, began: Moment, until: Option<Instant>) -> bool {
        let Some(drain) = self.drain else { return false };
        let earliest = began.after(drain);
        earliest.is_some_and(|earliest| until.is_none_or(|until| earliest.at < until))
    }

    fn announce(&self, peer: &Peer) -> Announced<Peer, Arc<Node>> {
        let before = self.balancer.member(&PeerKey::new(peer.node_id(), ""));
        let before = before.filter(|before| before.peer().addresses() == peer.addresses());
        let node = match &before {
            Some(before) => Arc::clone(before.attached()),
            None => Arc::new(Node::new(peer, &self.meters)),
        };
        // All addresses count: a peer with another second one is dialled anew, too.
        let addresses: Vec<String> = peer.addresses().iter().map(ToString::to_string).collect();
        let mut announced = Announced::new(peer.clone(), peer.node_id(), addresses.join(" "), node);
        announced.suspect = matches!(peer.state(), PeerState::Suspect { .. });
        announced.last_seen = self.moment_of(peer.last_seen()).nanos;
        announced.zone = peer.metadata().get_str("zone").map(Arc::from);
        announced.region = peer.metadata().get_str("region").map(Arc::from);
        if let Some(weight) = peer.metadata().get_str("weight") {
            announced.weight = Weight::parse(weight).unwrap_or_else(|| {
                if before.is_none() {
                    warn!(peerage.node_id = %escape(peer.node_id()), "weight of the peer is no number, using 1");
                }
                Weight::default()
            });
        }
        announced
    }

    /// Picks a peer and counts a call on it.
    pub(crate) fn pick(
        &self,
        choice: &Choice,
        tried: &LeaveOut,
        cx: &PickContext<'_>,
        repeatable: bool,
        now: u64,
    ) -> Result<Lease, NotPicked> {
        let input = PickInput::new(now).without(tried).repeatable(repeatable);
        let picked = match choice {
            Choice::Policy => self.balancer.pick(&input.key(cx.key.map(|key| key_hash(key.as_bytes())))),
            Choice::Picker(picker) => self
                .balancer
                .pick_by(&input, |peers| picker.pick(peers, cx).and_then(|chosen| place_of(peers, chosen))),
        };
        picked.map(|call| Lease::new(call, self.queue.as_ref()))
    }

    /// Resolves at the next change of the peer set after this call.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// The peer answered.
    pub(crate) fn answered(&self, member: &Member, now: u64) {
        let last = member.attached().reported_alive.load(Ordering::Relaxed);
        if last == NEVER || now.saturating_sub(last) >= ALIVE_EVERY {
            member.attached().reported_alive.store(now, Ordering::Relaxed);
            self.discovery.report(member.peer().node_id(), Report::Alive);
        }
    }

    /// The peer could not be reached, or did not answer in the time it should. Only a failed dial confirms a
    /// doubt about it (B-9.1), which the balancer sees by itself: one that hangs is out by the rules for
    /// failures, and so is back as soon as it answers.
    pub(crate) fn unreachable(&self, member: &Member, now: u64) {
        member.attached().reported_alive.store(NEVER, Ordering::Relaxed);
        self.discovery.report(member.peer().node_id(), Report::Unreachable);
        let last = self.refreshed.load(Ordering::Relaxed);
        if last == NEVER || now.saturating_sub(last) >= REFRESH_EVERY {
            self.refreshed.store(now, Ordering::Relaxed);
            self.discovery.refresh();
        }
    }

    /// What a failed exchange says beyond its outcome.
    pub(crate) fn failed(&self, member: &Member, kind: FailureKind, now: u64) {
        match kind {
            FailureKind::Connect | FailureKind::ConnectTimeout | FailureKind::Tls | FailureKind::Timeout => {
                self.unreachable(member, now);
            }
            FailureKind::Identity => {
                self.balancer.not_identified(member, now);
                error!(peerage.node_id = %escape(member.peer().node_id()), "peer did not prove who it is");
            }
            _ => {}
        }
    }

    /// Closes every channel.
    pub(crate) fn close(&self) {
        self.balancer.set().members().iter().for_each(|member| member.attached().close());
    }

    /// As [`pick`](Self::pick), and tells why. It allocates: for calls that ask, and for people.
    pub(crate) fn pick_explained(
        &self,
        choice: &Choice,
        tried: &LeaveOut,
        cx: &PickContext<'_>,
        repeatable: bool,
        now: u64,
    ) -> (Result<Lease, NotPicked>, PickExplanation) {
        let key = cx.key.map(|key| key_hash(key.as_bytes()));
        match choice {
            Choice::Policy => {
                let input = PickInput::new(now).without(tried).repeatable(repeatable).key(key);
                let Explained { picked, why, .. } = self.balancer.pick_explained(&input);
                let why = PickExplanation::of_policy(&why, now).because(picked.as_ref().err());
                (picked.map(|call| Lease::new(call, self.queue.as_ref())), why)
            }
            Choice::Picker(_) => {
                let set = self.balancer.set();
                let picked = self.pick(choice, tried, cx, repeatable, now);
                let chosen = picked.as_ref().ok().map(|lease| lease.member().key().clone());
                let why = PickExplanation::of_picker(chosen, &set, now).because(picked.as_ref().err());
                (picked, why)
            }
        }
    }

    /// What is known of each peer; behind them those that left while calls to them run.
    pub(crate) fn views(&self) -> (Arc<Set>, Vec<PeerView>) {
        let (set, now) = (self.balancer.set(), self.now());
        let views = set.members().iter().map(|member| PeerView::of(member, now));
        let leaving = self.balancer.leaving();
        let views = views.chain(leaving.iter().map(|member| PeerView::of(member, now))).collect();
        (set, views)
    }
}
