//! What an attempt with an unknown end may have left, and the end of the registration (controlplane §4.9).

use std::time::Duration;

use super::{Call, Drain, Flight, Ghost, Machine};
use crate::failure::Failure;
use crate::heartbeat::timing::JANITOR;
use crate::heartbeat::{Action, Leaving, Phase};

impl Machine {
    pub(super) fn sweep_if_needed(&mut self, now: Duration, out: &mut Vec<Action>) {
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

    pub(super) fn swept(&mut self, attempt: u64, done: bool, now: Duration, out: &mut Vec<Action>) {
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
    pub(super) fn shut_down(&mut self, until: Duration, now: Duration, out: &mut Vec<Action>) {
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
    pub(super) fn leave(&mut self, now: Duration, out: &mut Vec<Action>) {
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
    pub(super) fn close(&mut self, now: Duration, out: &mut Vec<Action>) {
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
    pub(super) fn give_up(&mut self, failure: Failure, now: Duration, out: &mut Vec<Action>) {
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
