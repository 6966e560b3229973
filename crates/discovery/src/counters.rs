//! What happened so far, in numbers. Labels come from fixed sets only (S-208).

use std::{
    fmt,
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
};

use tokio::time::Instant;

use crate::{change::LeaveReason, clock, peer::SuspectWhy};

/// Why something that was received is no peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ignored {
    /// It cannot be dialled: clients of the reference announce themselves like that.
    PortZero,
    /// The address policy left none of its addresses.
    NoUsableAddress,
    /// An address that is not on the link it came from (one per address).
    OffLink,
    /// It is we ourselves.
    Own,
    /// The list is full.
    Limit,
    /// Nothing in it can be a node id.
    BadId,
    /// Metadata beyond a limit; the peer stays (one per pair).
    Metadata,
    /// A key of a file that we do not know; the peer stays.
    UnknownKey,
}

impl Ignored {
    const ALL: [Self; 8] = [
        Self::PortZero,
        Self::NoUsableAddress,
        Self::OffLink,
        Self::Own,
        Self::Limit,
        Self::BadId,
        Self::Metadata,
        Self::UnknownKey,
    ];

    /// The label of its counter.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PortZero => "port_zero",
            Self::NoUsableAddress => "no_usable_address",
            Self::OffLink => "off_link",
            Self::Own => "self",
            Self::Limit => "limit",
            Self::BadId => "bad_id",
            Self::Metadata => "metadata",
            Self::UnknownKey => "unknown_key",
        }
    }

    /// The rest of "3 announcements ignored: …", for those that cost a peer.
    fn explained(self) -> Option<&'static str> {
        match self {
            Self::PortZero => Some("port 0"),
            Self::NoUsableAddress => Some("no usable address"),
            Self::Limit => Some("the list is full"),
            Self::BadId => Some("no usable node id"),
            Self::OffLink | Self::Own | Self::Metadata | Self::UnknownKey => None,
        }
    }
}

/// Why everybody was asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FreshBrowse {
    /// The interval was over.
    Resync,
    /// A peer was withdrawn.
    Withdrawn,
    /// A peer was reported as unreachable.
    Verify,
    /// `refresh` was called.
    Asked,
    /// The subscription at the daemon was lost, or the host was suspended.
    Recovery,
}

impl FreshBrowse {
    const ALL: [Self; 5] = [Self::Resync, Self::Withdrawn, Self::Verify, Self::Asked, Self::Recovery];

    /// The label of its counter.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resync => "resync",
            Self::Withdrawn => "withdrawn",
            Self::Verify => "verify",
            Self::Asked => "asked",
            Self::Recovery => "recovery",
        }
    }
}

/// The counters of one source; a value of the [`Publisher`](crate::Publisher).
#[derive(Default)]
pub struct Counters {
    // Relaxed everywhere: each number stands for itself.
    events: AtomicU64,
    publishes: AtomicU64,
    joined: AtomicU64,
    left: [AtomicU64; LeaveReason::ALL.len()],
    suspected: [AtomicU64; SuspectWhy::ALL.len()],
    cleared: AtomicU64,
    conflicts: AtomicU64,
    ignored: [AtomicU64; Ignored::ALL.len()],
    fresh_browses: [AtomicU64; FreshBrowse::ALL.len()],
    browse_restarts: AtomicU64,
    daemon_restarts: AtomicU64,
    lagged: AtomicU64,
    source_errors: AtomicU64,
    /// 0 is "never".
    full_list_at: AtomicI64,
}

impl Counters {
    /// An event came from the source.
    pub fn event(&self) {
        add(&self.events, 1);
    }

    /// So many things that were received are not used, for this reason.
    pub fn ignored(&self, why: Ignored, count: u64) {
        add_labelled(&Ignored::ALL, &self.ignored, why, count);
    }

    /// How many were ignored for this reason so far.
    pub fn ignored_so_far(&self, why: Ignored) -> u64 {
        let at = Ignored::ALL.iter().position(|&other| other == why);
        at.and_then(|at| self.ignored.get(at)).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    /// Everybody is asked again.
    pub fn fresh_browse(&self, cause: FreshBrowse) {
        add_labelled(&FreshBrowse::ALL, &self.fresh_browses, cause, 1);
    }

    /// A subscription at the daemon was lost and made again.
    pub fn browse_restarted(&self) {
        add(&self.browse_restarts, 1);
    }

    /// A daemon ended and was replaced.
    pub fn daemon_restarted(&self) {
        add(&self.daemon_restarts, 1);
    }

    /// The source failed and will be tried again.
    pub fn source_failed(&self) {
        add(&self.source_errors, 1);
    }

    /// A full list was received.
    pub fn full_list(&self, now: Instant) {
        self.full_list_at.store(clock::to_nanos(now).max(1), Ordering::Relaxed);
    }

    pub(crate) fn published(&self) {
        add(&self.publishes, 1);
    }

    pub(crate) fn joined(&self) {
        add(&self.joined, 1);
    }

    pub(crate) fn left(&self, reason: LeaveReason) {
        add_labelled(&LeaveReason::ALL, &self.left, reason, 1);
    }

    pub(crate) fn suspected(&self, why: SuspectWhy) {
        add_labelled(&SuspectWhy::ALL, &self.suspected, why, 1);
    }

    pub(crate) fn cleared(&self) {
        add(&self.cleared, 1);
    }

    pub(crate) fn conflict(&self) {
        add(&self.conflicts, 1);
    }

    pub(crate) fn lagged(&self, items: u64) {
        add(&self.lagged, items);
    }

    /// "3 announcements ignored: port 0", for every reason that kept a peer out of the list.
    pub(crate) fn explain_ignored(&self) -> Vec<String> {
        let counted = Ignored::ALL.into_iter().map(|why| (why, self.ignored_so_far(why)));
        let explained = counted.filter_map(|(why, count)| Some((why.explained()?, count)));
        explained
            .filter(|&(_, count)| count > 0)
            .map(|(why, count)| {
                let s = if count == 1 { "" } else { "s" };
                format!("{count} announcement{s} ignored: {why}")
            })
            .collect()
    }

    /// All counters, and `discovery_seconds_since_full_list` if there was one.
    pub(crate) fn read(&self, now: Instant) -> Vec<Metric> {
        let plain = [
            ("discovery_events", &self.events),
            ("discovery_publishes", &self.publishes),
            ("discovery_joined", &self.joined),
            ("discovery_cleared", &self.cleared),
            ("discovery_conflicts", &self.conflicts),
            ("discovery_browse_restarts", &self.browse_restarts),
            ("discovery_daemon_restarts", &self.daemon_restarts),
            ("discovery_lagged", &self.lagged),
            ("discovery_source_errors", &self.source_errors),
        ];
        let mut metrics: Vec<_> =
            plain.map(|(name, counter)| Metric::counter(name, None, counter.load(Ordering::Relaxed))).into();
        let mut labelled = |name, label, values: Vec<&'static str>, counters: &[AtomicU64]| {
            metrics.extend(values.into_iter().zip(counters).map(|(value, counter)| {
                Metric::counter(name, Some((label, value)), counter.load(Ordering::Relaxed))
            }));
        };
        let reasons = LeaveReason::ALL.map(LeaveReason::as_str).to_vec();
        labelled("discovery_left", "reason", reasons, &self.left);
        labelled(
            "discovery_suspected",
            "why",
            SuspectWhy::ALL.map(SuspectWhy::as_str).to_vec(),
            &self.suspected,
        );
        labelled("discovery_ignored", "why", Ignored::ALL.map(Ignored::as_str).to_vec(), &self.ignored);
        let causes = FreshBrowse::ALL.map(FreshBrowse::as_str).to_vec();
        labelled("discovery_fresh_browses", "cause", causes, &self.fresh_browses);
        let full_list_at = self.full_list_at.load(Ordering::Relaxed);
        if full_list_at != 0 {
            let age = now.saturating_duration_since(clock::from_nanos(full_list_at)).as_secs();
            metrics.push(Metric::gauge("discovery_seconds_since_full_list", None, age));
        }
        metrics
    }
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counters").finish_non_exhaustive()
    }
}

/// One number to be exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metric {
    /// Begins with `discovery_`.
    pub name: &'static str,
    /// Name and value of its label, both from fixed sets.
    pub label: Option<(&'static str, &'static str)>,
    /// The number.
    pub value: u64,
    /// Whether it may fall.
    pub is_gauge: bool,
}

impl Metric {
    /// A number that only grows.
    pub fn counter(name: &'static str, label: Option<(&'static str, &'static str)>, value: u64) -> Self {
        Self { name, label, value, is_gauge: false }
    }

    /// A number that grows and falls.
    pub fn gauge(name: &'static str, label: Option<(&'static str, &'static str)>, value: u64) -> Self {
        Self { name, label, value, is_gauge: true }
    }
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

fn add_labelled<L: PartialEq + Copy>(labels: &[L], counters: &[AtomicU64], label: L, count: u64) {
    if let Some(counter) = labels.iter().position(|&other| other == label).and_then(|at| counters.get(at)) {
        add(counter, count);
    }
}
