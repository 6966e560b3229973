//! What the machine remembers of one instance.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::{Endpoint, Heard, LeaveReason, Peer, STICKY, SuspectWhy};

/// A peer that a caller reached this recently is not taken away by silence (discovery §6.4 rule 11). The same time
/// keeps its first address first.
const ALIVE_COUNTS: Duration = STICKY;

/// What the library resolved: an instance with everything known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) full_name: String,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) addresses: Vec<Heard>,
    /// In wire order; `None` for a key without `=`.
    pub(crate) txt: Vec<(String, Option<Vec<u8>>)>,
}

/// Where an instance stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Waits for its TXT record.
    Held { until: Instant },
    /// In the list.
    Listed,
    /// Claims the node id of a listed one.
    Aside,
}

/// Why a listed peer is suspect, and what decides it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doubt {
    pub(super) why: SuspectWhy,
    pub(super) fate: Fate,
    /// A caller could not reach it.
    pub(super) reported: bool,
    /// The library was asked for all that it knows, shortly before the decision.
    pub(super) peeked: bool,
}

impl Doubt {
    pub(super) fn new(why: SuspectWhy, fate: Fate) -> Self {
        Self { why, fate, reported: false, peeked: false }
    }

    /// Something else decides it from now on.
    pub(super) fn turn(&mut self, fate: Fate) {
        self.fate = fate;
        self.peeked = false;
    }

    /// When something is to be done about it.
    pub(super) fn due(&self) -> Option<Instant> {
        let until = match self.fate {
            Fate::Check | Fate::Judgement => None,
            Fate::Confirm { until } => until,
            Fate::Hold { until, .. } => Some(until),
            Fate::Lost { until } => return Some(until),
        };
        until.map(|until| if self.peeked { until } else { until - PEEK })
    }
}

/// So long before silence takes a peer away, the library is asked for all that it knows: it tells of records that are
/// new, but not of those that somebody's forged goodbye had touched and the peer itself renewed.
pub(super) const PEEK: Duration = Duration::from_millis(50);

/// What decides a doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The running [`Check`].
    Check,
    /// The judgement of the running browse, as for everybody (rule 12).
    Judgement,
    /// The fresh browse: gone if not resolved in time. The time is known once the browse has begun.
    Confirm { until: Option<Instant> },
    /// Missing, but somebody reaches it: gone at the first complaint, or when nobody has reached it for a while.
    Hold { until: Instant, asked: Instant },
    /// Its interface is gone.
    Lost { until: Instant },
}

/// A verification under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Check {
    /// Known for a library verification at once, for a fresh browse when it has begun.
    pub(super) due: Option<Instant>,
    pub(super) started: Instant,
    pub(super) how: How,
    /// A caller could not reach the peer.
    pub(super) reported: bool,
    /// Another instance claims the node id.
    pub(super) contested: bool,
    /// As for a [`Doubt`].
    pub(super) peeked: bool,
}

impl Check {
    pub(super) fn due(&self) -> Option<Instant> {
        match self.how {
            How::Fresh if !self.peeked => self.due.map(|due| due - PEEK),
            _ => self.due,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// The library asks and reports "removed" when nobody answers.
    Library,
    /// A fresh browse; "resolved" is the answer.
    Fresh,
}

/// One instance, by its full name.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) node_id: Arc<str>,
    pub(super) record: Record,
    pub(super) place: Place,
    pub(super) endpoints: Vec<Endpoint>,
    /// Set while listed.
    pub(super) peer: Option<Peer>,
    /// The browse in which it came.
    pub(super) first: u64,
    /// The browse in which it was last resolved.
    pub(super) generation: u64,
    /// When it came.
    pub(super) since: Instant,
    pub(super) resolved: Instant,
    pub(super) alive: Option<Instant>,
    /// Somebody reached it once.
    pub(super) was_reached: bool,
    pub(super) doubt: Option<Doubt>,
    pub(super) check: Option<Check>,
    /// When the last verification started.
    pub(super) checked: Option<Instant>,
    /// A verification that has to wait, because the last one is too recent.
    pub(super) check_again: Option<Instant>,
    /// Its TXT became empty: believed at this time.
    pub(super) bare_until: Option<Instant>,
    /// It has no usable address: suspect at this time.
    pub(super) homeless_until: Option<Instant>,
    /// Fewer addresses than before, from a browse that has just begun: believed at this time.
    pub(super) narrow: Option<(Vec<Heard>, Instant)>,
    /// When to order the addresses anew: the first one is first only for having answered of late.
    pub(super) recheck: Option<Instant>,
    /// The earliest timer in the queue.
    pub(super) timer: Option<Instant>,
}

impl Entry {
    pub(super) fn new(node_id: Arc<str>, record: Record, place: Place, now: Instant) -> Self {
        Self {
            node_id,
            record,
            place,
            endpoints: Vec::new(),
            peer: None,
            first: 0,
            generation: 0,
            since: now,
            resolved: now,
            alive: None,
            was_reached: false,
            doubt: None,
            check: None,
            checked: None,
            check_again: None,
            bare_until: None,
            homeless_until: None,
            narrow: None,
            recheck: None,
            timer: None,
        }
    }

    /// Whether somebody reached it lately; then until when that counts.
    pub(super) fn alive_until(&self, now: Instant) -> Option<Instant> {
        self.alive.map(|t| t + ALIVE_COUNTS).filter(|t| *t > now)
    }

    /// The latest evidence that it is there.
    pub(super) fn evidence(&self) -> Instant {
        self.alive.map_or(self.resolved, |t| t.max(self.resolved))
    }

    /// When time alone changes something.
    pub(super) fn due(&self) -> Option<Instant> {
        let held = match self.place {
            Place::Held { until } => Some(until),
            Place::Listed | Place::Aside => None,
        };
        [
            held,
            self.doubt.and_then(|d| d.due()),
            self.check.and_then(|c| c.due()),
            self.narrow.as_ref().map(|(_, until)| *until),
            self.check_again,
            self.bare_until,
            self.homeless_until,
            self.recheck,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The reason to give when it leaves for want of an answer.
    pub(super) fn reason(&self, now: Instant) -> LeaveReason {
        /// Older evidence than this means that its records ran out, not that it said goodbye.
        const GOODBYE_EVIDENCE: Duration = Duration::from_secs(100);
        if self.doubt.is_some_and(|d| d.reported) {
            LeaveReason::Unreachable
        } else if now.duration_since(self.evidence()) < GOODBYE_EVIDENCE {
            LeaveReason::Goodbye
        } else {
            LeaveReason::Expired
        }
    }
}
