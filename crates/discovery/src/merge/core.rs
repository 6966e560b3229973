//! What several sources make together. Pure: changes and instants in, edits of a table out.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    change::{Change, LeaveReason},
    peer::{Peer, PeerState, SuspectWhy},
    status::{SourceReport, Status, Trouble},
    table::{Put, Table},
};

/// How long what a source said is believed while nothing is heard of it.
pub(super) const KEPT: Duration = Duration::from_secs(300);
/// How long the source in use is without a peer before the next one is used.
pub(super) const DOWN: Duration = Duration::from_secs(3);
/// How long a better source has a peer before it is used again.
pub(super) const BACK: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Union,
    Failover,
}

/// The sources and what they said.
#[derive(Debug)]
pub(super) struct Core {
    mode: Mode,
    sources: Vec<Source>,
    /// Positions in `sources`, best priority first.
    ranking: Vec<usize>,
    /// The source in use, a position; of no meaning for a union.
    active: usize,
    /// The source that was in use before, until a version with both is out.
    leaving: Option<usize>,
    /// Node ids of which the table may say something else than the sources, and why they left last.
    touched: BTreeMap<Arc<str>, Option<LeaveReason>>,
    conflicts: Vec<Change>,
    troubled_since: Option<Instant>,
}

#[derive(Debug)]
struct Source {
    name: Arc<str>,
    priority: u16,
    peers: BTreeMap<Arc<str>, Peer>,
    status: Status,
    /// Whether it has an `Up` peer, and since when that is so.
    is_up: bool,
    turned: Instant,
    /// Whether it ended by itself, or never started.
    has_ended: bool,
    /// Since when nothing can be heard of it.
    blind: Option<Instant>,
    /// Whether that is so long that its peers are in doubt.
    is_doubted: bool,
    /// Those that left in the version of the last change, should they turn out to be the last ones.
    leavers: (u64, Vec<Peer>),
    /// The last ones that left a source that is in use: shown until another is.
    held: BTreeMap<Arc<str>, Peer>,
}

impl Core {
    /// `sources` with their names and priorities; nothing is known of any.
    pub(super) fn new(mode: Mode, sources: Vec<(Arc<str>, u16)>, now: Instant) -> Self {
        let sources: Vec<_> =
            sources.into_iter().map(|(name, priority)| Source::new(name, priority, now)).collect();
        let mut ranking: Vec<usize> = (0..sources.len()).collect();
        ranking.sort_by_key(|&at| sources.get(at).map(|source| source.priority));
        let active = ranking.first().copied().unwrap_or_default();
        Self {
            mode,
            sources,
            ranking,
            active,
            leaving: None,
            touched: BTreeMap::new(),
            conflicts: Vec::new(),
            troubled_since: None,
        }
    }

    /// The source `at` could not be started, or ended by itself.
    pub(super) fn ended(&mut self, at: usize, why: Option<Arc<str>>, now: Instant) {
        let Some(source) = self.sources.get_mut(at) else { return };
        source.has_ended = true;
        source.blind.get_or_insert(now);
        let why = why.unwrap_or_else(|| "it ended".into());
        source.status = Status::degraded(Trouble::SourceFailed { why }, now);
    }

    /// The source `at` said `change` in its `version`.
    pub(super) fn change(&mut self, at: usize, version: u64, change: Change, now: Instant) {
        let Self { sources, touched, .. } = self;
        let Some(source) = sources.get_mut(at).filter(|source| !source.has_ended) else { return };
        match change {
            Change::Resync(snapshot) if *snapshot.status() == Status::Stopped => {
                self.ended(at, None, now);
            }
            Change::Left { reason: LeaveReason::Stopped, .. } => self.ended(at, None, now),
            Change::Resync(snapshot) => {
                source.set_status(snapshot.status().clone(), now);
                let listed =
                    snapshot.peers().iter().map(|peer| (peer.shared_node_id(), peer.clone())).collect();
                let before = std::mem::replace(&mut source.peers, listed);
                let missing: Vec<_> = before
                    .iter()
                    .filter(|(id, _)| !source.peers.contains_key(*id))
                    .map(|(_, peer)| peer.clone())
                    .collect();
                touched.extend(before.into_keys().chain(source.peers.keys().cloned()).map(|id| (id, None)));
                source.leavers = (version, missing);
            }
            Change::Joined(peer)
            | Change::Updated { new: peer, .. }
            | Change::Suspected(peer)
            | Change::Cleared(peer) => {
                touched.entry(peer.shared_node_id()).or_default();
                source.peers.insert(peer.shared_node_id(), peer);
            }
            Change::Left { peer, reason } => {
                touched.insert(peer.shared_node_id(), Some(reason));
                source.peers.remove(peer.node_id());
                if source.leavers.0 != version {
                    source.leavers = (version, Vec::new());
                }
                source.leavers.1.push(peer);
            }
            conflict @ Change::Conflict { .. } => self.conflicts.push(conflict),
            Change::Status(status) => source.set_status(status, now),
            // A `Resync` follows.
            Change::Lagged(_) => {}
        }
    }

    /// When [`apply`](Self::apply) would do something although nothing was said.
    pub(super) fn soonest(&self) -> Option<Instant> {
        let is_believed = |source: &&Source| !source.is_doubted;
        let kept =
            self.sources.iter().filter(is_believed).filter_map(|source| source.blind).map(|at| at + KEPT);
        let switches = (self.mode == Mode::Failover).then(|| self.switches()).into_iter().flatten();
        kept.chain(switches).min()
    }

    /// Edits `table` to say what the sources say at `now`. To be called when all that was said at once is
    /// in, or a source that replaces its list would seem to have been empty.
    pub(super) fn apply(&mut self, table: &mut Table, now: Instant) {
        for source in &mut self.sources {
            let is_doubted = source.blind.is_some_and(|blind| blind + KEPT <= now);
            if std::mem::replace(&mut source.is_doubted, is_doubted) != is_doubted {
                self.touched.extend(source.node_ids().map(|id| (id, None)));
            }
        }
        self.choose(now);
        for (node_id, reason) in std::mem::take(&mut self.touched) {
            match self.merged(&node_id) {
                Some(peer) => {
                    if reason == Some(LeaveReason::Replaced) {
                        table.remove(&node_id, LeaveReason::Replaced, now);
                    }
                    if table.put_merged(peer, now) == Put::Full {
                        tracing::debug!(peerage.service_type = %table.service_type(), "the merged list is full");
                    }
                }
                None => {
                    table.remove(&node_id, reason.unwrap_or(LeaveReason::Removed), now);
                }
            }
        }
        for conflict in std::mem::take(&mut self.conflicts) {
            if let Change::Conflict { node_id, kept, refused } = conflict {
                table.conflict(node_id, kept, refused, now);
            }
        }
        let status = self.status(now);
        table.set_status(status, now);
    }

    /// The version with both sets is out: the set of the source that is no longer in use goes.
    pub(super) fn end_overlap(&mut self) {
        if let Some(source) = self.leaving.take().and_then(|at| self.sources.get_mut(at)) {
            self.touched.extend(source.node_ids().map(|id| (id, None)));
            source.held.clear();
        }
    }

    /// The position of the source in use.
    #[cfg(test)]
    pub(super) fn active(&self) -> usize {
        self.active
    }

    /// Notes which sources are up; for failover, holds the last peers and switches when it is time.
    fn choose(&mut self, now: Instant) {
        for source in &mut self.sources {
            let is_up = !source.is_doubted && source.peers.values().any(Peer::is_up);
            if source.is_up != is_up {
                (source.is_up, source.turned) = (is_up, now);
            }
        }
        if self.mode == Mode::Union {
            return;
        }
        self.hold(now);
        let is_usable = |at: &usize| self.sources.get(*at).is_some_and(|source| source.is_up);
        let better = self.ranking.iter().take_while(|&&at| at != self.active).copied();
        let is_back = |at: &usize| self.sources.get(*at).is_some_and(|source| source.turned + BACK <= now);
        let back = better.filter(is_usable).find(is_back);
        let is_down = self.sources.get(self.active).is_none_or(|active| active.is_down(now));
        let down = || self.ranking.iter().copied().filter(|_| is_down).find(is_usable);
        if let Some(next) = back.or_else(down) {
            self.switch(next);
        }
    }

    /// While nobody knows yet where to turn, the last peers of the source in use are shown, in doubt.
    fn hold(&mut self, now: Instant) {
        let has_other = self.has_other();
        let Some(active) = self.sources.get_mut(self.active) else { return };
        let over = !active.peers.is_empty() || active.is_down(now) && !has_other;
        if over && !active.held.is_empty() {
            self.touched.extend(std::mem::take(&mut active.held).into_keys().map(|id| (id, None)));
        } else if !over && active.held.is_empty() {
            let lost = PeerState::Suspect { since: now, why: SuspectWhy::SourceLost };
            let leavers = std::mem::take(&mut active.leavers.1).into_iter();
            active.held = leavers.map(|peer| (peer.shared_node_id(), peer.with_state(lost))).collect();
            self.touched.extend(active.held.keys().map(|id| (id.clone(), None)));
        }
    }

    fn switch(&mut self, next: usize) {
        // A second switch before the version of the first is out takes its set along.
        self.end_overlap();
        self.leaving = Some(self.active);
        self.active = next;
        for at in [self.leaving, Some(next)].into_iter().flatten() {
            let ids: BTreeSet<_> = self.sources.get(at).into_iter().flat_map(Source::node_ids).collect();
            self.touched.extend(ids.into_iter().map(|id| (id, None)));
        }
    }

    fn switches(&self) -> impl Iterator<Item = Instant> {
        let active = self.sources.get(self.active);
        let down = active.filter(|active| !active.is_up && (!active.held.is_empty() || self.has_other()));
        let down = down.map(|active| active.turned + DOWN);
        let better = self.ranking.iter().take_while(|&&at| at != self.active);
        let back = better.filter_map(|&at| self.sources.get(at)).filter(|source| source.is_up);
        down.into_iter().chain(back.map(|source| source.turned + BACK))
    }

    fn has_other(&self) -> bool {
        self.sources.iter().any(|source| source.is_up)
    }

    /// The peer of that node id as all sources that count say it.
    fn merged(&self, node_id: &str) -> Option<Peer> {
        let counts =
            |at: &&usize| self.mode == Mode::Union || **at == self.active || Some(**at) == self.leaving;
        let said = self.ranking.iter().filter(counts).filter_map(|&at| self.sources.get(at));
        let said: Vec<_> = said.filter_map(|source| Some((source.priority, source.get(node_id)?))).collect();
        let ((priority, best), others) = said.split_first()?;
        let priority = if best.priority() == 0 { *priority } else { best.priority() };
        if others.is_empty() && priority == best.priority() {
            return Some(Peer::clone(best));
        }
        let others = others.iter().map(|(_, peer)| &**peer);
        let all = || [&**best].into_iter().chain(others.clone());
        let state = all().find(|peer| peer.is_up()).unwrap_or(best).state();
        let endpoints = all().flat_map(Peer::addresses).cloned();
        let metadata =
            others.clone().fold(best.metadata().clone(), |all, peer| all.filled_from(peer.metadata()));
        let also_from: BTreeSet<_> = others.clone().map(|peer| peer.source().clone()).collect();
        let merged = best
            .with_evidence_of_all(others.clone())
            .to_builder()
            .endpoints(endpoints)
            .metadata(metadata)
            .priority(priority)
            .state(state)
            .also_from(also_from)
            .build();
        Some(merged.expect("its parts were taken from peers, which are valid"))
    }

    fn status(&mut self, now: Instant) -> Status {
        let all = |status: &Status| self.sources.iter().all(|source| source.status == *status);
        let is_in_trouble =
            |source: &Source| !matches!(source.status, Status::Ready | Status::Starting | Status::Idle);
        if all(&Status::NoInterface) {
            return Status::NoInterface;
        }
        if !self.sources.iter().any(is_in_trouble) {
            self.troubled_since = None;
            let any_ready = self.sources.iter().any(|source| source.status == Status::Ready);
            return if any_ready { Status::Ready } else { Status::Starting };
        }
        let reports =
            self.sources.iter().map(|source| SourceReport::new(source.name.clone(), source.status.clone()));
        let what = Trouble::Sources(reports.collect());
        Status::degraded(what, *self.troubled_since.get_or_insert(now))
    }
}

impl Source {
    fn new(name: Arc<str>, priority: u16, now: Instant) -> Self {
        Self {
            name,
            priority,
            peers: BTreeMap::new(),
            status: Status::Idle,
            is_up: false,
            turned: now,
            has_ended: false,
            blind: None,
            is_doubted: false,
            leavers: (0, Vec::new()),
            held: BTreeMap::new(),
        }
    }

    fn set_status(&mut self, status: Status, now: Instant) {
        self.blind = match status.trouble() {
            Some(trouble) if trouble.is_blind() => self.blind.or(Some(now)),
            _ => None,
        };
        self.status = status;
    }

    fn get(&self, node_id: &str) -> Option<Cow<'_, Peer>> {
        let peer = self.peers.get(node_id).or_else(|| self.held.get(node_id))?;
        match self.blind {
            Some(blind) if self.is_doubted && peer.is_up() => {
                let lost = PeerState::Suspect { since: blind + KEPT, why: SuspectWhy::SourceLost };
                Some(Cow::Owned(peer.with_state(lost)))
            }
            _ => Some(Cow::Borrowed(peer)),
        }
    }

    fn node_ids(&self) -> impl Iterator<Item = Arc<str>> {
        self.peers.keys().chain(self.held.keys()).cloned()
    }

    /// Whether it was without an `Up` peer for long enough. One that ended will not have one again.
    fn is_down(&self, now: Instant) -> bool {
        !self.is_up && (self.has_ended || self.turned + DOWN <= now)
    }
}
