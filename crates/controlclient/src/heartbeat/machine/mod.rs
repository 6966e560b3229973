//! The state machine: what it keeps, and what is due when.
//!
//! What an answer, or none, changes is in `answers`; the end in `leaving`.

mod answers;
mod leaving;

use std::sync::Arc;
use std::time::Duration;

use super::timing::backoff;
use super::{Action, Counters, Event, Leaving, Phase, Settings};
use crate::channel::CallError;
use crate::failure::{Failure, FailureKind};

pub(crate) struct Machine {
    settings: Settings,
    phase: Phase,
    /// The target of the next call.
    target: usize,
    /// What the gateway gave us. Kept while `Lost` by silence: the gateway may know it still.
    held: Option<Held>,
    /// The id before, for a [`Call::Probe`].
    past: Option<Arc<str>>,
    /// The call under way whose end decides what comes next.
    flight: Option<Flight>,
    /// The next call.
    due: Option<Due>,
    attempts: u64,
    trouble: Option<Trouble>,
    /// A call's deadline passed: the next one does not use its connection.
    fresh: bool,
    /// Since the last good beat.
    connection_lost: bool,
    /// Since the call under way was sent.
    lost_in_flight: bool,
    refused_in_a_row: u32,
    /// Registrations in a row that the first beat found gone (S-153).
    bounced: u32,
    hurried_at: Option<Duration>,
    /// A Register ended unknown: the target may hold a second registration of ours.
    ghost: Option<Ghost>,
    sweeping: Option<u64>,
    started: bool,
    begun: Duration,
    drain: Option<Drain>,
    failure: Option<Failure>,
    leaving: Option<Leaving>,
    counters: Counters,
    /// Until when a gateway may hold something of ours.
    held_until: Option<Duration>,
    round_trip: Option<Duration>,
}

struct Held {
    id: Arc<str>,
    target: usize,
    ttl: Duration,
    interval: Duration,
    /// Invariant: not later than the gateway's own end of it.
    lease_ends: Duration,
    beats: u64,
}

struct Flight {
    attempt: u64,
    target: usize,
    call: Call,
    sent: Duration,
    until: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Beat,
    Register,
    Deregister,
    /// A beat with an id that is over, before a Register: whether anybody answers at all.
    Probe,
    /// The sweep that ends a shutdown.
    LastSweep,
}

struct Due {
    at: Duration,
    call: Call,
}

struct Trouble {
    since: Duration,
    retries: u32,
}

#[derive(Clone, Copy)]
struct Ghost {
    target: usize,
    /// When the attempt ended: the gateway may carry it out a little later.
    ended: Duration,
}

struct Drain {
    until: Duration,
    tries: u32,
    /// Something was deregistered.
    done: bool,
}

impl Machine {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            phase: Phase::Registering,
            target: 0,
            held: None,
            past: None,
            flight: None,
            due: None,
            attempts: 0,
            trouble: None,
            fresh: false,
            connection_lost: false,
            lost_in_flight: false,
            refused_in_a_row: 0,
            bounced: 0,
            hurried_at: None,
            ghost: None,
            sweeping: None,
            started: false,
            begun: Duration::ZERO,
            drain: None,
            failure: None,
            leaving: None,
            counters: Counters::default(),
            held_until: None,
            round_trip: None,
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// The id and the end of its lease.
    pub(crate) fn lease(&self) -> Option<(&Arc<str>, Duration)> {
        self.held.as_ref().map(|held| (&held.id, held.lease_ends))
    }

    pub(crate) fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    pub(crate) fn leaving(&self) -> Option<Leaving> {
        self.leaving
    }

    pub(crate) fn target(&self) -> usize {
        self.held.as_ref().map_or(self.target, |held| held.target)
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    /// Of the last beat that was answered.
    pub(crate) fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// When to come back with a [`Event::Tick`].
    pub(crate) fn wakes_at(&self) -> Option<Duration> {
        if self.phase == Phase::Closed {
            return None;
        }
        let lease = match self.phase {
            Phase::Live | Phase::Suspect => self.held.as_ref().map(|held| held.lease_ends),
            _ => None,
        };
        let due = self.due.as_ref().filter(|_| self.flight.is_none()).map(|due| due.at);
        let flight = self.flight.as_ref().map(|flight| flight.until);
        let start = self.is_starting().then(|| self.begun + self.settings.start.limit);
        let drain = self.drain.as_ref().map(|drain| drain.until);
        [lease, due, flight, start, drain].into_iter().flatten().min()
    }

    fn is_starting(&self) -> bool {
        !self.started && self.drain.is_none() && (self.due.is_some() || self.flight.is_some())
    }

    /// Takes what happened and answers what to do. `random` gives numbers in `0..1`.
    pub(crate) fn on(&mut self, event: Event, now: Duration, random: &mut dyn FnMut() -> f64) -> Vec<Action> {
        let mut out = Vec::new();
        match event {
            Event::Start => {
                self.begun = now;
                self.due = Some(Due { at: now, call: Call::Register });
            }
            Event::Tick => {}
            Event::Beaten { attempt, ok } => {
                if let Some(flight) = self.landed(attempt) {
                    self.round_trip = Some(now.saturating_sub(flight.sent));
                    if flight.call == Call::Probe {
                        // Somebody answers: now the call with the long deadline.
                        self.target = flight.target;
                        self.due = Some(Due { at: now, call: Call::Register });
                    } else if ok {
                        self.beat_is_good(&flight, now, random, &mut out);
                    } else {
                        self.unknown(&flight, now, random);
                    }
                }
            }
            Event::Registered { attempt, target, id, ttl_seconds } => match self.landed(attempt) {
                Some(flight) => self.registered(&flight, id.into(), ttl_seconds, now, random, &mut out),
                // Answered after its deadline, or after everything was over.
                None => out.push(Action::Discard {
                    target,
                    id: id.into(),
                    until: now + self.settings.deregister_deadline,
                }),
            },
            Event::Deregistered { attempt } => {
                if self.landed(attempt).is_some() {
                    self.held = None;
                    if let Some(drain) = &mut self.drain {
                        drain.done = true;
                    }
                    self.leave(now, &mut out);
                }
            }
            Event::Swept { attempt, done } => self.swept(attempt, done, now, &mut out),
            Event::Failed { attempt, error } => {
                if let Some(flight) = self.landed(attempt) {
                    self.failed(&flight, error, now, random, &mut out);
                }
            }
            Event::ConnectionLost { target } => self.connection_is_lost(target, now, random),
            Event::Shutdown { until } => self.shut_down(until, now, &mut out),
            Event::Abandoned => {
                let answer = self.flight.as_ref().map_or(now, |flight| flight.until.max(now));
                self.shut_down(answer + self.settings.deregister_deadline, now, &mut out);
            }
        }
        self.advance(now, random, &mut out);
        out
    }

    /// The flight that this is the end of, if it is not one that was given up.
    fn landed(&mut self, attempt: u64) -> Option<Flight> {
        self.flight.take_if(|flight| flight.attempt == attempt)
    }

    /// What time alone brings about.
    fn advance(&mut self, now: Duration, random: &mut dyn FnMut() -> f64, out: &mut Vec<Action>) {
        if self.phase == Phase::Closed {
            return;
        }
        // (Live | Suspect) -> Lost
        if matches!(self.phase, Phase::Live | Phase::Suspect)
            && self.held.as_ref().is_some_and(|held| now >= held.lease_ends)
        {
            self.phase = Phase::Lost;
            self.next_target();
        }
        if let Some(flight) = self.flight.take_if(|flight| flight.until <= now) {
            let error = CallError::deadline(flight.until.saturating_sub(flight.sent));
            self.failed(&flight, error, now, random, out);
        }
        if self.phase == Phase::Closed {
            return;
        }
        if let Some(drain) = &self.drain {
            if now >= drain.until {
                self.close(now, out);
            }
            return;
        }
        if self.is_starting() && now >= self.begun + self.settings.start.limit {
            let limit = self.settings.start.limit;
            let failure = self.failure.clone().unwrap_or_else(|| {
                Failure::local(FailureKind::Timeout, format_args!("no answer within {limit:?}"))
            });
            return self.give_up(failure, now, out);
        }
        if self.flight.is_none() && self.due.as_ref().is_some_and(|due| due.at <= now) {
            self.send(now, out);
        }
    }

    /// Sends what is due.
    fn send(&mut self, now: Duration, out: &mut Vec<Action>) {
        let Some(Due { call, .. }) = self.due.take() else { return };
        let target = self.target;
        let fresh = std::mem::take(&mut self.fresh);
        let attempt = self.next_attempt();
        let ttl = self.held.as_ref().map_or_else(|| self.settings.expected_ttl(), |held| held.ttl);
        let id = match call {
            Call::Beat => self.held.as_ref().map(|held| held.id.clone()),
            Call::Probe => Some(self.past.clone().unwrap_or_else(|| Arc::from(""))),
            _ => None,
        };
        let (call, until, action) = match id {
            Some(id) => {
                let until = now + self.settings.heartbeat_deadline(ttl);
                (call, until, Action::Beat { attempt, target, id, until, fresh })
            }
            None => {
                let until = now + self.settings.register_deadline;
                (Call::Register, until, Action::Register { attempt, target, until, fresh })
            }
        };
        self.lost_in_flight = false;
        self.flight = Some(Flight { attempt, target, call, sent: now, until });
        out.push(action);
    }

    fn next_attempt(&mut self) -> u64 {
        self.attempts += 1;
        self.attempts
    }
    /// The pause before the next retry.
    fn pause(&mut self, now: Duration, random: &mut dyn FnMut() -> f64) -> Duration {
        let spread = self.spread();
        let trouble = self.trouble.get_or_insert(Trouble { since: now, retries: 0 });
        let pause = backoff(trouble.retries, now.saturating_sub(trouble.since), spread, random());
        trouble.retries = trouble.retries.saturating_add(1);
        pause
    }

    /// The time over which a fleet comes back.
    fn spread(&self) -> Duration {
        self.settings.spread.unwrap_or_else(|| match &self.held {
            // Nothing was lost, so there is no fleet that comes back.
            _ if !self.started => Duration::ZERO,
            Some(held) => held.interval,
            None => self.settings.interval(self.settings.expected_ttl()),
        })
    }

    fn next_target(&mut self) {
        self.refused_in_a_row = 0;
        self.target = (self.target + 1).checked_rem(self.settings.targets).unwrap_or_default();
    }
}
