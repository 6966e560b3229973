//! The peers of a client: from discovery to something that can be called.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use peerage_balance::{
    Announced, Balancer, Budget, Explained, LeaveOut, Outcome, PeerKey, PickError, PickInput, Policy, Weight,
    What, key_hash,
};
use peerage_discovery::{Discovery, Peer, PeerState, Report, Snapshot, escape};
use tokio::{
    sync::{Notify, futures::Notified},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tracing::{debug, info, warn};

pub(crate) use super::node::Node;
use super::{
    metrics::{Levels, Meters, OBSERVED_EVERY},
    node::NEVER,
    views::{PeerView, PickExplanation},
};
use crate::{Dialer, PickContext, Picker, pick::place_of};

pub(crate) type Lease = peerage_balance::Lease<Peer, Arc<Node>>;
pub(crate) type Member = peerage_balance::Member<Peer, Arc<Node>>;
pub(crate) type NotPicked = PickError<Peer, Arc<Node>>;
pub(crate) type Set = peerage_balance::Set<Peer, Arc<Node>>;

/// How often discovery hears that a peer answers.
const ALIVE_EVERY: u64 = 1_000_000_000;
/// How often discovery is asked to look again because a peer cannot be reached (B-9.1).
const REFRESH_EVERY: u64 = 1_000_000_000;
/// How long the dial of an ejected peer may take.
const PROBE_LIMIT: Duration = Duration::from_secs(1);
/// How often ejected peers are dialled at most.
const PROBE_EVERY: Duration = Duration::from_secs(1);

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
    ejected: Notify,
    /// The version that the balancer has. Also keeps two updates from crossing.
    applied: Mutex<Option<u64>>,
    /// Where the balancer's time begins.
    epoch: Instant,
    refreshed: AtomicU64,
    is_followed: AtomicBool,
    /// What resends draw from.
    pub(crate) budget: Option<Arc<Budget>>,
    pub(crate) meters: Meters,
}

/// Says that nobody follows any more when it ends, such as with its runtime.
struct Following(Arc<Members>);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.is_followed.store(false, Ordering::Release);
    }
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
    ) -> Self {
        Self {
            discovery,
            dialer,
            balancer: Balancer::new(settings),
            changed: Notify::new(),
            ejected: Notify::new(),
            applied: Mutex::new(None),
            epoch: Instant::now(),
            refreshed: AtomicU64::new(NEVER),
            is_followed: AtomicBool::new(false),
            budget,
            meters,
        }
    }

    /// The balancer's time.
    pub(crate) fn now(&self) -> u64 {
        self.at(Instant::now())
    }

    pub(crate) fn at(&self, time: Instant) -> u64 {
        u64::try_from(time.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX)
    }

    pub(crate) const fn balancer(&self) -> &Balancer<Peer, Arc<Node>> {
        &self.balancer
    }

    /// Whether changes of the peer set arrive. No lock: every call asks.
    pub(crate) fn is_followed(&self) -> bool {
        self.is_followed.load(Ordering::Acquire)
    }

    /// Takes over every change of the peer set, until discovery stops.
    pub(crate) fn follow(self: Arc<Self>) -> impl Future<Output = ()> + Send + 'static {
        self.is_followed.store(true, Ordering::Release);
        // Outside the future, so that it also ends with one that never ran.
        let following = Following(self);
        async move {
            let members = &following.0;
            let mut changes = members.discovery.subscribe();
            members.apply(&changes.borrow());
            // Ends with this future: nobody dials for a client that is gone.
            let mut probes = JoinSet::new();
            let mut observe_at = OBSERVED_EVERY.map(|every| Instant::now() + every);
            // One that finds out nothing is due again at once.
            let mut not_before = members.epoch;
            loop {
                let probe_at = members.balancer.dial_probe_at();
                let due = probe_at.map_or(members.epoch, |at| members.epoch + Duration::from_nanos(at));
                let due = due.max(not_before);
                tokio::select! {
                    // In this order, so that a simulation repeats.
                    biased;
                    snapshot = changes.changed() => match snapshot {
                        Some(snapshot) => members.apply(&snapshot),
                        None => return,
                    },
                    () = members.ejected.notified() => {}
                    () = sleep_until(due), if probe_at.is_some() => {
                        members.probe(&mut probes);
                        not_before = Instant::now() + PROBE_EVERY;
                    }
                    Some(_) = probes.join_next() => {}
                    () = sleep_until(observe_at.unwrap_or(members.epoch)), if observe_at.is_some() => {
                        members.observe();
                        observe_at = OBSERVED_EVERY.map(|every| Instant::now() + every);
                    }
                }
            }
        }
    }

    /// Dials the ejected peers that no call has tried for a while (B-3.3).
    fn probe(self: &Arc<Self>, probes: &mut JoinSet<()>) {
        while let Some(mut lease) = self.balancer.dial_probe(self.now()) {
            let channel = lease.member().attached().dialled().cloned();
            let members = Arc::clone(self);
            probes.spawn(async move {
                // Not counted as sent: how long it takes to connect says nothing of how fast it answers.
                // A channel that cannot only connect leaves it to the next call.
                let outcome = match channel {
                    Some(channel) => channel.connect(Instant::now() + PROBE_LIMIT).await,
                    None => None,
                };
                members.balancer.head(&mut lease, outcome.unwrap_or(Outcome::Cancelled), members.now());
                members.tell();
            });
        }
    }

    /// Sets the gauges of the metrics.
    fn observe(&self) {
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
                What::PanicOn => warn!("most peers are out: all are used again"),
                what => debug!(peerage.node_id = peer, "peer {}", what.as_str()),
            }
        }
    }

    /// Makes the peers of `snapshot` those that are picked among.
    pub(crate) fn apply(&self, snapshot: &Snapshot) {
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        if applied.is_some_and(|version| version >= snapshot.version()) {
            return;
        }
        // Before discovery has started there is nothing to be told; an empty set would be an answer.
        if snapshot.version() == 0 {
            return;
        }
        *applied = Some(snapshot.version());
        let announced = snapshot.peers().iter().map(|peer| self.announce(peer));
        let changes = self.balancer.update(self.now(), announced);
        for member in &changes.left {
            debug!(peerage.node_id = %escape(member.peer().node_id()), "peer left");
            member.attached().close();
        }
        for member in &changes.moved {
            debug!(peerage.node_id = %escape(member.peer().node_id()), "peer moved");
            member.attached().close();
        }
        self.tell();
        self.changed.notify_waiters();
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
        announced.last_seen = self.at(peer.last_seen());
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
        now: Instant,
    ) -> Result<Lease, NotPicked> {
        let input = PickInput::new(self.at(now)).without(tried).repeatable(repeatable);
        match choice {
            Choice::Policy => self.balancer.pick(&input.key(cx.key.map(|key| key_hash(key.as_bytes())))),
            Choice::Picker(picker) => self
                .balancer
                .pick_by(&input, |peers| picker.pick(peers, cx).and_then(|chosen| place_of(peers, chosen))),
        }
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

    /// The peer could not be reached, or did not answer in the time it should.
    pub(crate) fn unreachable(&self, member: &Member, now: u64) {
        self.balancer.unreachable(member, now);
        member.attached().reported_alive.store(NEVER, Ordering::Relaxed);
        self.discovery.report(member.peer().node_id(), Report::Unreachable);
        let last = self.refreshed.load(Ordering::Relaxed);
        if last == NEVER || now.saturating_sub(last) >= REFRESH_EVERY {
            self.refreshed.store(now, Ordering::Relaxed);
            self.discovery.refresh();
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
        now: Instant,
    ) -> (Result<Lease, NotPicked>, PickExplanation) {
        let time = self.at(now);
        let key = cx.key.map(|key| key_hash(key.as_bytes()));
        match choice {
            Choice::Policy => {
                let input = PickInput::new(time).without(tried).repeatable(repeatable).key(key);
                let Explained { picked, why, .. } = self.balancer.pick_explained(&input);
                let why = PickExplanation::of_policy(&why, time).because(picked.as_ref().err());
                (picked, why)
            }
            Choice::Picker(_) => {
                let set = self.balancer.set();
                let picked = self.pick(choice, tried, cx, repeatable, now);
                let chosen = picked.as_ref().ok().map(|lease| lease.member().key().clone());
                let why = PickExplanation::of_picker(chosen, &set, time).because(picked.as_ref().err());
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
