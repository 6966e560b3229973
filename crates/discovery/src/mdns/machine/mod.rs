//! From the library's events to a table of peers: the rules of discovery §6.4–6.6.
//!
//! A value without I/O: [`Machine::input`] takes what happened and when, and appends what is to be done. The library
//! reports "removed" for live peers too, so nothing leaves on its word alone: a withdrawal makes a peer *suspect*, a
//! fresh browse asks who is there, and only silence in it removes the peer. Work per event does not depend on the
//! number of peers; a fresh browse and its judgement are linear, and there is at most one a second.

mod admit;
mod doubt;
mod entry;
mod freeze;
mod room;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

pub(crate) use self::admit::{Gate, Own};
pub(crate) use self::doubt::VERIFY_WINDOW;
pub(crate) use self::entry::Record;
use self::entry::{Check, Doubt, Entry, Fate, PEEK, Place};
use self::freeze::Freeze;
use self::room::Room;
use super::interfaces::IfTable;
use crate::{AddressPolicy, Claim, FreshBrowse, Ignored, LeaveReason, Peer, Report, ServiceType, SuspectWhy};

/// From the start of a fresh browse to the judgement about those who did not answer (rule 12).
const JUDGE_AFTER: Duration = Duration::from_secs(5);
/// The confirm window grows with the number of peers up to this (rule 10).
const CONFIRM_LIMIT: Duration = Duration::from_millis(1_300);
/// Up to this many peers a fresh browse runs twice as often (rule 13).
const FEW_PEERS: usize = 50;
/// mDNS is specified and tested for this many instances of a type on a link.
pub(crate) const MANY_PEERS: usize = 300;
/// Conflicts about our own node id are told at most this often.
const OWN_CONFLICT_EVERY: Duration = Duration::from_secs(1);

/// How often everybody is asked again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Resync {
    /// Every 30 s with up to 50 peers, every 60 s above, each ± 10 %.
    #[default]
    Adaptive,
    /// Every so often, ± 10 %; 5 s is the least.
    Every(Duration),
    /// Only for a reason. A peer that dies without a goodbye stays until somebody reports it.
    Never,
}

/// The settings of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) gate: Gate,
    pub(crate) resync: Resync,
    pub(crate) confirm_window: Duration,
    pub(crate) max_peers: usize,
}

/// What happened.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    /// A browse with a new generation number has begun.
    Began { generation: u64 },
    /// The library knows all records of an instance.
    Resolved(Record),
    /// The library no longer knows an instance.
    Removed(String),
    /// The subscription was lost; events are missing.
    Lost,
    /// The daemon is gone; another one will follow.
    Down,
    /// The interfaces as they are now.
    Interfaces(Arc<IfTable>),
    /// What this process advertises under this type.
    Own(Arc<[Own]>),
    /// A caller's experience with a peer.
    Report(String, Report),
    /// Somebody wants a full list.
    Refresh,
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub(crate) enum Output {
    /// This peer is new, or something about it changed. It is up.
    Put(Peer),
    /// Evidence that the peer is there, and nothing else.
    Heard(Arc<str>),
    /// The peer is in doubt.
    Suspect(Arc<str>, SuspectWhy),
    /// The doubt is gone.
    Clear(Arc<str>),
    /// The peer is gone.
    Leave(Arc<str>, LeaveReason),
    /// Another instance has the node id of a listed peer from now on.
    Replace(Peer),
    /// Two claim one node id.
    Conflict { node_id: Arc<str>, kept: Claim, refused: Claim },
    /// Ask everybody.
    Fresh(FreshBrowse),
    /// Silence is about to take somebody away: let the library tell all that it knows, as if it were new, and say
    /// whether packets were lost.
    Peek,
    /// Ask this instance (full name) with the library's verification.
    Verify(String),
    /// An announcement was not listed.
    Ignored(Ignored),
}

/// The table of one service type under one set of options.
#[derive(Debug)]
pub(crate) struct Machine {
    service: ServiceType,
    options: Options,
    /// By full name, lower-cased.
    entries: HashMap<Arc<str>, Entry>,
    /// One per listed peer. Invariant: `listed` points to an entry with `Place::Listed`, `aside` to one with
    /// `Place::Aside`.
    nodes: HashMap<Arc<str>, Node>,
    held: usize,
    timers: BinaryHeap<Reverse<(Instant, Arc<str>)>>,
    generation: u64,
    began: Option<Instant>,
    /// Withdrawn peers that wait for the next browse to begin.
    unconfirmed: Vec<Arc<str>>,
    /// Generations whose missing peers are still to be judged. One a second, 5 s each: a handful.
    judgements: VecDeque<(u64, Instant)>,
    /// As many looks that come shortly before them.
    peeks: VecDeque<(u64, Instant)>,
    /// The next browse was asked for because somebody left.
    leaving: bool,
    /// When to look who else may have left with the one that caused this generation.
    stragglers: Option<(u64, Instant)>,
    next_resync: Option<Instant>,
    freeze: Freeze,
    /// When it was seen that packets were lost.
    lossy: Option<Instant>,
    interfaces: Arc<IfTable>,
    /// That of the options; loopback is allowed as long as it is used.
    addresses: AddressPolicy,
    own: Arc<[Own]>,
    own_conflict: Option<Instant>,
    room: Room,
    random: u64,
}

/// Who claims a node id.
#[derive(Debug)]
struct Node {
    listed: Arc<str>,
    aside: Option<Arc<str>>,
}

impl Machine {
    /// `seed` sets the small differences between the clocks of many processes.
    pub(crate) fn new(
        service: ServiceType,
        options: Options,
        interfaces: Arc<IfTable>,
        own: Arc<[Own]>,
        seed: u64,
    ) -> Self {
        Self {
            service,
            addresses: options.gate.addresses.clone().allow_loopback(interfaces.loopback_allowed()),
            options,
            entries: HashMap::new(),
            nodes: HashMap::new(),
            held: 0,
            timers: BinaryHeap::new(),
            generation: 0,
            began: None,
            unconfirmed: Vec::new(),
            judgements: VecDeque::new(),
            peeks: VecDeque::new(),
            leaving: false,
            stragglers: None,
            next_resync: None,
            freeze: Freeze::default(),
            lossy: None,
            interfaces,
            own,
            own_conflict: None,
            room: Room::default(),
            random: seed | 1,
        }
    }

    /// Takes one event and appends what follows from it and from the time that has passed.
    pub(crate) fn input(&mut self, input: Input, now: Instant, out: &mut Vec<Output>) {
        self.pass_time(now, out);
        match input {
            Input::Began { generation } => self.began(generation, now),
            Input::Resolved(record) => self.resolved(record, now, out),
            Input::Removed(full_name) => self.removed(&key_of(&full_name), now, out),
            Input::Lost => self.freeze.note_loss(now),
            Input::Down => self.deafened(),
            Input::Interfaces(table) => self.interfaces_changed(table, now, out),
            Input::Own(own) => self.own_changed(own, now, out),
            Input::Report(node_id, report) => self.report(&node_id, report, now, out),
            Input::Refresh => out.push(Output::Fresh(FreshBrowse::Asked)),
            Input::Tick => {}
        }
    }

    /// When time alone changes something. May be earlier than necessary, never later.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        [
            self.timers.peek().map(|Reverse((at, _))| *at),
            self.judgements.front().map(|(_, at)| *at),
            self.peeks.front().map(|(_, at)| *at),
            self.stragglers.map(|(_, at)| at),
            self.next_resync,
            self.freeze.until(),
            self.room.due(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Events are missing, so nothing leaves by silence (rule 14).
    pub(crate) fn is_frozen(&self, now: Instant) -> bool {
        self.freeze.is_on(now)
    }

    /// Number of listed peers, suspects included.
    pub(crate) fn listed_count(&self) -> usize {
        self.nodes.len()
    }

    fn began(&mut self, generation: u64, now: Instant) {
        self.generation = generation;
        self.began = Some(now);
        self.room.began(now);
        self.judgements.push_back((generation, now + JUDGE_AFTER));
        self.peeks.push_back((generation, now + JUDGE_AFTER - PEEK));
        self.next_resync = self.resync_after().map(|pause| now + pause);
        self.stragglers = std::mem::take(&mut self.leaving).then_some((generation, now + CONFIRM_LIMIT));

        for key in std::mem::take(&mut self.unconfirmed) {
            let until = self.confirm_until(&key, now);
            if let Some(Doubt { fate: Fate::Confirm { until: open @ None }, .. }) =
                self.entries.get_mut(&key).and_then(|e| e.doubt.as_mut())
            {
                *open = Some(until);
                self.arm(&key);
            }
        }
        self.checks_began(now);
    }

    fn resync_after(&mut self) -> Option<Duration> {
        let base = match self.options.resync {
            Resync::Never => return None,
            Resync::Every(pause) => pause.max(Duration::from_secs(5)),
            Resync::Adaptive if self.nodes.len() <= FEW_PEERS => Duration::from_secs(30),
            Resync::Adaptive => Duration::from_secs(60),
        };
        // 0.9 … 1.1, in thousandths.
        let share = 900 + self.next_random() % 201;
        Some(base.mul_f64(f64::from(u32::try_from(share).unwrap_or(1_000)) / 1_000.0))
    }

    /// xorshift64: only spreads timers.
    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn pass_time(&mut self, now: Instant, out: &mut Vec<Output>) {
        while let Some(Reverse((at, _))) = self.timers.peek()
            && *at <= now
        {
            let Some(Reverse((at, key))) = self.timers.pop() else {
                break;
            };
            let Some(entry) = self.entries.get_mut(&key) else {
                continue;
            };
            if entry.timer != Some(at) {
                continue;
            }
            entry.timer = None;
            self.entry_due(&key, now, out);
            self.arm(&key);
        }
        if let Some((generation, at)) = self.stragglers
            && at <= now
        {
            self.stragglers = None;
            self.ask_stragglers(generation, now, out);
        }
        while let Some((generation, at)) = self.peeks.front().copied()
            && at <= now
        {
            self.peeks.pop_front();
            self.before_judgement(generation, out);
        }
        while let Some((generation, at)) = self.judgements.front().copied()
            && at <= now
        {
            self.judgements.pop_front();
            self.judge(generation, now, out);
        }
        self.room_due(now, out);
        if self.freeze.pass_time(now) {
            out.push(Output::Fresh(FreshBrowse::Recovery));
        }
        if self.next_resync.is_some_and(|at| at <= now) {
            self.next_resync = self.resync_after().map(|pause| now + pause);
            out.push(Output::Fresh(FreshBrowse::Resync));
        }
    }

    /// What an instance's own timers bring.
    fn entry_due(&mut self, key: &Arc<str>, now: Instant, out: &mut Vec<Output>) {
        self.admission_due(key, now, out);
        self.check_due(key, now, out);
        self.doubt_due(key, now, out);
    }

    /// Makes sure that a timer is queued for the next thing that time brings to this entry.
    fn arm(&mut self, key: &Arc<str>) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        if let Some(due) = entry.due()
            && entry.timer.is_none_or(|queued| due < queued)
        {
            entry.timer = Some(due);
            self.timers.push(Reverse((due, Arc::clone(key))));
        }
    }

    /// Takes an instance off the table; one that waited for its node id moves up.
    fn leave(&mut self, key: &Arc<str>, reason: LeaveReason, now: Instant, out: &mut Vec<Output>) {
        let Some(entry) = self.entries.remove(key) else {
            return;
        };
        match entry.place {
            Place::Held { .. } => self.held -= 1,
            Place::Aside => {
                if let Some(node) = self.nodes.get_mut(&entry.node_id) {
                    node.aside = None;
                }
            }
            Place::Listed => {
                let heir = self.nodes.remove(&entry.node_id).and_then(|node| node.aside);
                match heir.and_then(|heir| self.promote(&heir, now)) {
                    Some(peer) => out.push(Output::Replace(peer)),
                    None => out.push(Output::Leave(entry.node_id, reason)),
                }
            }
        }
    }

    /// Listed peers, for work that concerns all of them.
    fn listed_keys(&self) -> Vec<Arc<str>> {
        self.nodes.values().map(|n| n.listed.clone()).collect()
    }

    fn interfaces_changed(&mut self, table: Arc<IfTable>, now: Instant, out: &mut Vec<Output>) {
        if *table == *self.interfaces {
            return;
        }
        self.addresses = self.options.gate.addresses.clone().allow_loopback(table.loopback_allowed());
        self.interfaces = table;
        for key in self.listed_keys() {
            if self.is_cut_off(&key) {
                self.lose(&key, now, out);
            } else {
                self.readmit(&key, now, out);
            }
            self.arm(&key);
        }
        out.push(Output::Fresh(FreshBrowse::Recovery));
    }

    fn own_changed(&mut self, own: Arc<[Own]>, now: Instant, out: &mut Vec<Output>) {
        self.own = own;
        let ours: HashSet<&str> = self.own.iter().map(|o| &*o.node_id).collect();
        let clash: Vec<Arc<str>> = self
            .nodes
            .iter()
            .filter(|(id, _)| ours.contains(&***id))
            .map(|(_, node)| node.listed.clone())
            .collect();
        for key in clash {
            let Some(entry) = self.entries.get(&key) else {
                continue;
            };
            let record = entry.record.clone();
            if !self.is_self(&record) {
                self.own_id_elsewhere(&record, now, out);
            }
            self.leave(&key, LeaveReason::Replaced, now, out);
        }
    }
}

/// Full names are compared without case (RFC 6762 §16).
fn key_of(full_name: &str) -> Arc<str> {
    full_name.to_ascii_lowercase().into()
}
