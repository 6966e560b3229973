//! The life of one registration at one set of targets, without I/O, clock or randomness of its own
//! (controlplane §4.6, §4.9).
//!
//! The owner of a [`Machine`] tells it what happened ([`Event`]) and when, carries out what it answers
//! ([`Action`]), and comes back with [`Event::Tick`] at [`Machine::wakes_at`]. Times are durations since a
//! moment of the owner's choice, on a clock that only goes forward.

mod machine;
mod timing;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

pub(crate) use self::machine::Machine;

use crate::channel::CallError;
use crate::failure::Failure;

/// What a machine goes by. `None` is "from the TTL".
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// How many gateways there are to fail over between; at least 1.
    pub(crate) targets: usize,
    /// The TTL that Register asks for.
    pub(crate) ttl_asked: Option<Duration>,
    pub(crate) interval: Option<Duration>,
    pub(crate) spread: Option<Duration>,
    pub(crate) heartbeat_deadline: Option<Duration>,
    pub(crate) register_deadline: Duration,
    pub(crate) deregister_deadline: Duration,
    /// About how long to wait between tries that the gateway refuses for good.
    pub(crate) rejected_pause: Duration,
    pub(crate) start: Start,
    /// Look whether we are served after a registration and then with every n-th beat.
    pub(crate) check_served: Option<u32>,
}

/// What to do about failures before there was a registration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    pub(crate) limit: Duration,
    pub(crate) retries: bool,
}

/// What happened. `attempt` is the number that the action had.
#[derive(Debug)]
pub(crate) enum Event {
    /// The service is ready: register.
    Start,
    /// Time passed.
    Tick,
    /// The gateway answered a heartbeat.
    Beaten { attempt: u64, ok: bool },
    /// The gateway registered us.
    Registered { attempt: u64, target: usize, id: String, ttl_seconds: u32 },
    /// The gateway answered a deregistration.
    Deregistered { attempt: u64 },
    /// What was left of an attempt with an unknown end was looked for, and cleared away or not.
    Swept { attempt: u64, done: bool },
    /// A call failed.
    Failed { attempt: u64, error: CallError },
    /// The connection that the last call to this target used is gone.
    ConnectionLost { target: usize },
    /// Leave, and have an outcome at `until`.
    Shutdown { until: Duration },
    /// Nobody waits for an outcome any more: leave, in whatever time it takes.
    Abandoned,
}

/// What to do. Each attempt's deadline is in the owner's time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Send a heartbeat. `fresh`: not on the connection that the target's last call used.
    Beat { attempt: u64, target: usize, id: Arc<str>, until: Duration, fresh: bool },
    /// Register.
    Register { attempt: u64, target: usize, until: Duration, fresh: bool },
    /// Leave.
    Deregister { attempt: u64, target: usize, id: Arc<str>, until: Duration, fresh: bool },
    /// Deregister what has our instance and address but not the id `keep`.
    Sweep { attempt: u64, target: usize, keep: Option<Arc<str>>, until: Duration, fresh: bool },
    /// Deregister an id that came too late. Nobody waits for the end.
    Discard { target: usize, id: Arc<str>, until: Duration },
    /// See whether the gateway serves us. Nobody waits for the end.
    CheckServed { target: usize },
    /// The start failed: there is no registration, and there will be none.
    GiveUp { target: usize, failure: Failure },
    /// Over. What was sent and not answered goes on until its deadline.
    Closed(Leaving),
}

/// What became of the registration at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaving {
    Deregistered,
    /// The gateway may hold the registration until then.
    Unreachable {
        held_until: Duration,
    },
    NotRegistered,
}

/// Where the registration stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Registering,
    Live,
    Suspect,
    Lost,
    Rejected,
    Draining,
    Closed,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) beats_ok: u64,
    pub(crate) beats_failed: u64,
    pub(crate) beats_refused: u64,
    pub(crate) registers: u64,
    pub(crate) registers_failed: u64,
    pub(crate) evictions: u64,
    pub(crate) connections_lost: u64,
}
