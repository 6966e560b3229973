//! What an answer changes, a failure, and a connection that is gone.

use std::sync::Arc;
use std::time::Duration;

use super::{Call, Due, Flight, Ghost, Held, Machine, Trouble};
use crate::channel::{CallError, How};
use crate::failure::{Failure, FailureKind};
use crate::heartbeat::timing::{self, JANITOR, backoff, first_pause, jittered, on_grid, while_rejected};
use crate::heartbeat::{Action, Phase};

/// After a lost connection the next beat comes within this time.
const HURRY: Duration = Duration::from_millis(100);
/// With several targets, the next one is tried after so many refused connections.
const REFUSALS: u32 = 3;

impl Machine {
    // (Live | Suspect | Lost) -> Live
    pub(super) fn beat_is_good(
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
        let mut at = on_grid(flight.sent + jittered(held.interval, random()), held.interval);
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
    pub(super) fn unknown(&mut self, flight: &Flight, now: Duration, random: &mut dyn FnMut() -> f64) {
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
        // What a beat before failed with is not why.
        self.failure = Some(Failure::local(FailureKind::Evicted, "it answered no to a heartbeat"));
        self.target = flight.target;
        self.due = Some(Due { at: now + pause, call: Call::Register });
    }

    // (Registering | Lost | Rejected) -> Live, or Draining -> leaving
    pub(super) fn registered(
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
        let at =
            if now < lease_ends { on_grid(now + first_pause(interval, random()), interval) } else { now };
        self.due = Some(Due { at, call: Call::Beat });
        self.sweep_if_needed(now, out);
    }

    pub(super) fn failed(
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

    pub(super) fn connection_is_lost(
        &mut self,
        target: usize,
        now: Duration,
        random: &mut dyn FnMut() -> f64,
    ) {
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
}
