//! What came of a simulation.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::log::{End, Event};

/// What one peer saw of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerReport {
    /// Its node id.
    pub name: Arc<str>,
    /// Requests that it took.
    pub taken: usize,
    /// Of those, answered with a 2xx.
    pub answered: usize,
    /// Of those, answered otherwise or cut off.
    pub failed: usize,
    /// Of those, given up on by the client before there was an answer.
    pub given_up: usize,
    /// Attempts that got no connection, so it took nothing.
    pub not_connected: usize,
}

impl PeerReport {
    pub(super) fn new(name: &Arc<str>) -> Self {
        let name = Arc::clone(name);
        Self { name, taken: 0, answered: 0, failed: 0, given_up: 0, not_connected: 0 }
    }
}

/// One call as its caller saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SimCall {
    /// From 1, in the order in which they began.
    pub number: u64,
    /// When it began, after the start.
    pub began: Duration,
    /// How long it took, to the head of the answer or the error.
    pub took: Duration,
    /// How it ended.
    pub end: End,
    /// Who answered.
    pub peer: Option<Arc<str>>,
    /// How many attempts it took.
    pub attempts: usize,
}

/// What came of a simulation. `Display` is a table for people.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    seed: u64,
    /// By number.
    calls: Vec<SimCall>,
    peers: Vec<PeerReport>,
    events: Vec<Event>,
}

impl Report {
    pub(super) fn new(
        seed: u64,
        mut calls: Vec<SimCall>,
        peers: Vec<PeerReport>,
        events: Vec<Event>,
    ) -> Self {
        calls.sort_unstable_by_key(|call| call.number);
        Self { seed, calls, peers, events }
    }

    /// What the run follows from.
    #[must_use]
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// Every call, in the order in which they began.
    #[must_use]
    pub fn calls(&self) -> &[SimCall] {
        &self.calls
    }

    /// How many calls there were.
    #[must_use]
    pub fn asked(&self) -> usize {
        self.calls.len()
    }

    /// How many requests peers took: calls, and what was sent again.
    #[must_use]
    pub fn sent(&self) -> usize {
        self.peers.iter().map(|peer| peer.taken).sum()
    }

    /// How many calls ended with an error or an answer that is no 2xx.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.calls.iter().filter(|call| !call.end.is_success()).count()
    }

    /// The time that `part` of the calls, 0 to 1, did not exceed; none without calls.
    #[must_use]
    pub fn quantile(&self, part: f64) -> Option<Duration> {
        self.quantile_from(Duration::ZERO, part)
    }

    /// The same of the calls that began at `from` or later, such as once a client had learned.
    #[must_use]
    pub fn quantile_from(&self, from: Duration, part: f64) -> Option<Duration> {
        let mut took: Vec<_> =
            self.calls.iter().filter(|call| call.began >= from).map(|call| call.took).collect();
        took.sort_unstable();
        let rank = ((took.len() as f64 * part).ceil() as usize).max(1);
        took.get(rank - 1).copied()
    }

    /// What each peer saw of it, by node id.
    #[must_use]
    pub fn peers(&self) -> &[PeerReport] {
        &self.peers
    }

    /// What the peer of that node id saw of it.
    #[must_use]
    pub fn peer(&self, node_id: &str) -> Option<&PeerReport> {
        self.peers.iter().find(|peer| &*peer.name == node_id)
    }

    /// Everything that happened, in order.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// The event log: a line for each event. The same simulation with the same seed gives the same bytes.
    #[must_use]
    pub fn log(&self) -> String {
        use fmt::Write as _;
        let mut text = format!("seed {}\n", self.seed);
        for event in &self.events {
            let _ = writeln!(text, "{event}");
        }
        text
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99] = [0.5, 0.99].map(|part| self.quantile(part).unwrap_or_default());
        writeln!(
            f,
            "seed {}: {} calls, {} failed, {} requests sent; p50 {p50:?}, p99 {p99:?}",
            self.seed,
            self.asked(),
            self.failed(),
            self.sent(),
        )?;
        writeln!(
            f,
            "{:<24}{:>9}{:>9}{:>9}{:>9}{:>15}",
            "peer", "taken", "answered", "failed", "given up", "not connected"
        )?;
        for PeerReport { name, taken, answered, failed, given_up, not_connected } in &self.peers {
            let name = peerage_discovery::escape(name).to_string();
            writeln!(f, "{name:<24}{taken:>9}{answered:>9}{failed:>9}{given_up:>9}{not_connected:>15}")?;
        }
        Ok(())
    }
}
