//! The state machine.

use std::sync::Arc;
use std::time::Duration;

use super::timing::{self, JANITOR, backoff, jittered, while_rejected};
use super::{Action, Counters, Event, Leaving, Phase, Settings};
use crate::channel::{CallError, How};
use crate::failure::{Failure, FailureKind};

/// After a lost connection the next beat comes within this time.
const HURRY: Duration = Duration::from_millis(100);
/// With several targets, the next one is tried after so many refused connections.
const REFUSALS: u32 = 3;

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

    // (Live | Suspect | Lost) -> Live
    fn beat_is_good(
        &mut self,
        flight: &Flight,
        now: Duration,
        random: &mut dyn FnMut() -> f64,
        out: &mut Vec<Action>,
    ) {
        self.counters.beats_ok += 1;
        let Some(held) = &mut self.held else { return };
        held.target = flight.target;
        held.lease_ends = flight.sent + held.ttl;
        held.beats += 1;
        self.held_until = Some(now + held.ttl + JANITOR);
        let mut at = flight.sent + jittered(held.interval, random());
        // The answer came, and the connection went: what became of the gateway is not known.
        self.connection_lost = self.lost_in_flight;
        if self.lost_in_flight && self.hurried_at.is_none_or(|hurried| now >= hurried + held.interval) {
            self.hurried_at = Some(now);
            at = now + HURRY.min(held.interval / 10).mul_f64(random());
        }
        self.due = Some(Due { at: at.max(now), call: Call::Beat });
        if self.settings.check_served.is_some_and(|every| (held.beats - 1).is_multiple_of(every.into())) {
            out.push(Action::CheckServed { target: flight.target });
        }
        self.target = flight.target;
        self.phase = if now < held.lease_ends { Phase::Live } else { Phase::Lost };
        self.failure = None;
        self.trouble = None;
        self.refused_in_a_row = 0;
        self.bounced = 0;
        self.sweep_if_needed(now, out);
    }

    // (Live | Suspect | Lost) -> Lost: the gateway does not know the id.
    fn unknown(&mut self, flight: &Flight, now: Duration, random: &mut dyn FnMut() -> f64) {
        self.counters.beats_refused += 1;
        self.counters.evictions += 1;
        self.refused_in_a_row = 0;
        let held = self.held.take();
        let interval = held
            .as_ref()
            .map_or_else(|| self.settings.interval(self.settings.expected_ttl()), |held| held.interval);
        let spread =
            self.settings.spread.unwrap_or(if self.connection_lost { interval } else { Duration::ZERO });
        let mut pause = spread.mul_f64(random());
        self.past = held.as_ref().map(|held| held.id.clone());
        // A registration that does not last until its first beat is a failed one (S-153).
        if held.is_some_and(|held| held.beats == 0) {
            self.bounced += 1;
            let since = self.trouble.get_or_insert(Trouble { since: now, retries: 0 }).since;
            pause = pause.max(backoff(self.bounced - 1, now - since, self.spread(), random()));
        }
        self.phase = Phase::Lost;
        self.target = flight.target;
        self.due = Some(Due { at: now + pause, call: Call::Register });
    }

    // (Registering | Lost | Rejected) -> Live, or Draining -> leaving
    fn registered(
        &mut self,
        flight: &Flight,
        id: Arc<str>,
        ttl_seconds: u32,
        now: Duration,
        random: &mut dyn FnMut() -> f64,
        out: &mut Vec<Action>,
    ) {
        self.counters.registers += 1;
        let ttl = timing::ttl(ttl_seconds);
        let interval = self.settings.interval(ttl);
        let lease_ends = flight.sent + ttl;
        self.held = Some(Held { id, target: flight.target, ttl, interval, lease_ends, beats: 0 });
        self.held_until = Some(now + ttl + JANITOR);
        self.target = flight.target;
        self.started = true;
        if self.drain.is_some() {
            return self.leave(now, out);
        }
        self.phase = if now < lease_ends { Phase::Live } else { Phase::Lost };
        self.failure = None;
        self.refused_in_a_row = 0;
        self.connection_lost = false;
        if self.bounced == 0 {
            self.trouble = None;
        }
        let pause = if now < lease_ends { interval.mul_f64(random()) } else { Duration::ZERO };
        self.due = Some(Due { at: now + pause, call: Call::Beat });
        self.sweep_if_needed(now, out);
    }

    fn failed(
        &mut self,
        flight: &Flight,
        error: CallError,
        now: Duration,
        random: &mut dyn FnMut() -> f64,
        out: &mut Vec<Action>,
    ) {
        let CallError { failure, how } = error;
        match how {
            How::NotSent => {
                self.refused_in_a_row += 1;
                self.connection_lost = true;
            }
            How::Deadline => {
                self.fresh = true;
                self.connection_lost = true;
                self.refused_in_a_row = 0;
            }
            How::Broken => {
                self.connection_lost = true;
                self.refused_in_a_row = 0;
            }
            How::Doubtful | How::Refused => self.refused_in_a_row = 0,
        }
        let may_have_acted = matches!(how, How::Deadline | How::Broken | How::Doubtful);
        self.failure = Some(failure.clone());
        match flight.call {
            Call::Beat => {
                self.counters.beats_failed += 1;
                // The gateway notes a beat before it answers (controlplane §3.13).
                if may_have_acted && let Some(held) = &self.held {
                    self.held_until = self.held_until.max(Some(now + held.ttl + JANITOR));
                }
                if self.phase == Phase::Live {
                    self.phase = Phase::Suspect;
                }
                if self.phase == Phase::Lost || self.refused_in_a_row >= REFUSALS {
                    self.next_target();
                }
                let pause = self.pause(now, random);
                self.due = Some(Due { at: now + pause, call: Call::Beat });
            }
            Call::Register => {
                self.counters.registers_failed += 1;
                if may_have_acted {
                    self.ghost = Some(Ghost { target: flight.target, ended: now });
                    self.held_until = self.held_until.max(Some(now + self.settings.expected_ttl() + JANITOR));
                }
                if self.drain.is_some() {
                    return self.leave(now, out);
                }
                // No Register with its long deadline goes into a gateway that may be swallowing bytes.
                let next = if how == How::Deadline { Call::Probe } else { Call::Register };
                self.register_failed(failure, next, now, random, out);
            }
            Call::Probe => self.register_failed(failure, Call::Probe, now, random, out),
            Call::Deregister | Call::LastSweep => {
                let Some(drain) = &mut self.drain else { return };
                drain.tries += 1;
                // A connection that was gone says nothing about the gateway; a refused one does.
                let again =
                    drain.tries < 2 && matches!(how, How::Deadline | How::Broken) && now < drain.until;
                if again {
                    self.fresh = true;
                    self.leave(now, out);
                } else {
                    self.close(now, out);
                }
            }
        }
    }

    fn register_failed(
        &mut self,
        failure: Failure,
        next: Call,
        now: Duration,
        random: &mut dyn FnMut() -> f64,
        out: &mut Vec<Action>,
    ) {
        let permanent = failure.is_permanent();
        if !self.started {
            let tried_all = self.counters.registers_failed >= self.settings.targets as u64;
            if permanent || (!self.settings.start.retries && tried_all) {
                return self.give_up(failure, now, out);
            }
        }
        // Nothing is held, so there is no reason to stay.
        self.next_target();
        if permanent {
            // Lost -> Rejected: slow, and for ever, since an operator can free the slot.
            self.phase = Phase::Rejected;
            self.due = Some(Due {
                at: now + while_rejected(self.settings.rejected_pause, random()),
                call: Call::Register,
            });
            return;
        }
        if self.started {
            self.phase = Phase::Lost;
        }
        let pause = self.pause(now, random);
        self.due = Some(Due { at: now + pause, call: next });
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

    fn connection_is_lost(&mut self, target: usize, now: Duration, random: &mut dyn FnMut() -> f64) {
        let Some(held) = self.held.as_ref().filter(|held| held.target == target) else { return };
        self.counters.connections_lost += 1;
        self.connection_lost = true;
        self.lost_in_flight = self.flight.is_some();
        // A gateway that closes after each answer must not make a beat follow a beat (SV-H07).
        let hurried = self.hurried_at.is_some_and(|at| now < at + held.interval);
        if self.phase == Phase::Live && self.flight.is_none() && !hurried {
            let at = now + HURRY.min(held.interval / 10).mul_f64(random());
            if self.due.as_ref().is_some_and(|due| due.at > at) {
                self.hurried_at = Some(now);
                self.due = Some(Due { at, call: Call::Beat });
            }
        }
    }

    fn sweep_if_needed(&mut self, now: Duration, out: &mut Vec<Action>) {
        let Some(ghost) = self.ghost.filter(|ghost| ghost.target == self.target) else { return };
        if self.sweeping.is_some() {
            return;
        }
        let attempt = self.next_attempt();
        self.sweeping = Some(attempt);
        let keep = self.held.as_ref().map(|held| held.id.clone());
        let until = now + self.settings.deregister_deadline;
        out.push(Action::Sweep { attempt, target: ghost.target, keep, until, fresh: false });
    }

    fn swept(&mut self, attempt: u64, done: bool, now: Duration, out: &mut Vec<Action>) {
        if self.sweeping == Some(attempt) {
            self.sweeping = None;
            // What the gateway carries out later than it could answer appears later: one more look is due
            // with a beat after that time.
            if done && self.ghost.is_some_and(|ghost| now >= ghost.ended + JANITOR) {
                self.ghost = None;
            }
        } else if let Some(flight) = self.landed(attempt) {
            debug_assert_eq!(flight.call, Call::LastSweep, "no other call ends with a sweep");
            if done {
                self.ghost = None;
            }
            if let Some(drain) = &mut self.drain {
                drain.done |= done;
            }
            self.close(now, out);
        }
    }

    // any -> Draining
    fn shut_down(&mut self, until: Duration, now: Duration, out: &mut Vec<Action>) {
        if self.phase == Phase::Closed {
            return;
        }
        if let Some(drain) = &mut self.drain {
            drain.until = drain.until.min(until);
            if now >= drain.until {
                self.close(now, out);
            }
            return;
        }
        self.phase = Phase::Draining;
        self.due = None;
        self.drain = Some(Drain { until, tries: 0, done: false });
        let registering = self.flight.as_ref().is_some_and(|flight| flight.call == Call::Register);
        // A beat in flight is given up; a Register may have made what must be taken back.
        if !registering || now >= until {
            if !registering
                && self.flight.take().is_some()
                && let Some(held) = &self.held
            {
                self.held_until = self.held_until.max(Some(now + held.ttl + JANITOR));
            }
            self.leave(now, out);
        }
    }

    /// The next step of leaving: deregister, sweep, or be done.
    fn leave(&mut self, now: Duration, out: &mut Vec<Action>) {
        let Some(Drain { until, tries, .. }) = self.drain else { return };
        if now >= until {
            return self.close(now, out);
        }
        let fresh = std::mem::take(&mut self.fresh);
        // The first try leaves time for one on another connection, should this one be dead.
        let room = if tries == 0 { (until - now) / 2 } else { until - now };
        let limit = now + self.settings.deregister_deadline.min(room);
        let attempt = self.next_attempt();
        let (target, call, action) = if let Some(held) = &self.held {
            let (target, id) = (held.target, held.id.clone());
            (target, Call::Deregister, Action::Deregister { attempt, target, id, until: limit, fresh })
        } else if let Some(Ghost { target, .. }) = self.ghost {
            (target, Call::LastSweep, Action::Sweep { attempt, target, keep: None, until: limit, fresh })
        } else {
            return self.close(now, out);
        };
        self.flight = Some(Flight { attempt, target, call, sent: now, until: limit });
        out.push(action);
    }

    // Draining -> Closed
    fn close(&mut self, now: Duration, out: &mut Vec<Action>) {
        let registering = self.flight.as_ref().is_some_and(|flight| flight.call == Call::Register);
        let leaving = if self.held.is_some() || self.ghost.is_some() || registering {
            let held_until = self.held_until.unwrap_or(now).max(if registering {
                now + self.settings.expected_ttl() + JANITOR
            } else {
                Duration::ZERO
            });
            Leaving::Unreachable { held_until }
        } else if self.drain.as_ref().is_some_and(|drain| drain.done) {
            Leaving::Deregistered
        } else {
            Leaving::NotRegistered
        };
        self.end(leaving, out);
    }

    // Registering -> Closed
    fn give_up(&mut self, failure: Failure, now: Duration, out: &mut Vec<Action>) {
        out.push(Action::GiveUp { target: self.target, failure });
        // A Register whose end is unknown may have made something; it goes before the end.
        if self.ghost.is_some() || self.flight.is_some() {
            self.shut_down(
                now + self.settings.register_deadline + self.settings.deregister_deadline,
                now,
                out,
            );
        } else {
            self.end(Leaving::NotRegistered, out);
        }
    }

    fn end(&mut self, leaving: Leaving, out: &mut Vec<Action>) {
        self.phase = Phase::Closed;
        self.leaving = Some(leaving);
        self.flight = None;
        self.due = None;
        out.push(Action::Closed(leaving));
    }
}
