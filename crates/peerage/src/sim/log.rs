//! What happened, in order.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Something that happened in a simulation.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Event {
    /// After the start.
    pub at: Duration,
    /// What it was.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum What {
    /// A peer does something else from now on.
    Script {
        /// Which one.
        peer: Arc<str>,
        /// What it does, in words.
        does: String,
    },
    /// A call begins.
    Begins {
        /// Its number, from 1.
        call: u64,
    },
    /// A peer took the request of a call.
    Taken {
        /// Which call.
        call: u64,
        /// The number of the attempt, as the peer saw it.
        attempt: u32,
        /// Who took it.
        peer: Arc<str>,
    },
    /// A peer was through with the request of a call.
    Done {
        /// Which call.
        call: u64,
        /// Who.
        peer: Arc<str>,
        /// In words.
        how: &'static str,
        /// If it was an answer.
        status: Option<u16>,
    },
    /// A call ends.
    Ends {
        /// Which one.
        call: u64,
        /// The status of its answer, or the word for its error.
        end: End,
    },
}

/// How a call ended for its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// With an answer of this status.
    Status(u16),
    /// With an error: [`ClientError::as_str`](peerage_clienthttp::ClientError::as_str).
    Error(&'static str),
}

impl End {
    /// Whether it is a 2xx.
    #[must_use]
    pub const fn is_success(self) -> bool {
        matches!(self, Self::Status(200..300))
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => status.fmt(f),
            Self::Error(word) => f.write_str(word),
        }
    }
}

/// One line of the event log.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>10.3} ", self.at.as_secs_f64())?;
        match &self.what {
            What::Script { peer, does } => write!(f, "{peer} {does}"),
            What::Begins { call } => write!(f, "call {call} begins"),
            What::Taken { call, attempt, peer } => write!(f, "call {call}: attempt {attempt} at {peer}"),
            What::Done { call, peer, how, status: Some(status) } => {
                write!(f, "call {call}: {peer} {how} {status}")
            }
            What::Done { call, peer, how, status: None } => write!(f, "call {call}: {peer} {how}"),
            What::Ends { call, end } => write!(f, "call {call} ends: {end}"),
        }
    }
}

/// The list of events while it is written. Clones write into the same.
#[derive(Clone, Debug)]
pub(super) struct Log {
    began: Instant,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Log {
    pub(super) fn new(began: Instant) -> Self {
        Self { began, events: Arc::default() }
    }

    pub(super) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    pub(super) fn write(&self, what: What) {
        let event = Event { at: self.now(), what };
        self.lock().push(event);
    }

    pub(super) fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
