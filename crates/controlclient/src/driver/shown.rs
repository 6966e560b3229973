//! What can be seen of a registration, and what is logged of it.

use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;

use super::Driver;
use crate::failure::{Failure, FailureKind};
use crate::heartbeat::{Leaving, Phase};
use crate::registration::{Counters, Outcome, State};

/// The same kind of warning at most once in this time.
const QUIET: Duration = Duration::from_secs(1);

impl Driver {
    /// Shows where the machine stands.
    pub(super) fn publish(&mut self) {
        let state = self.state();
        let at = self.machine.target();
        let counters = self.machine.counters();
        let reconnects = self
            .targets
            .iter()
            .map(|target| target.last.lock().unwrap_or_else(PoisonError::into_inner).changes)
            .sum();
        {
            let mut snapshot = self.shared.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(target) = self.targets.get(at)
                && snapshot.gateway != target.name
            {
                snapshot.gateway.clone_from(&target.name);
            }
            snapshot.state = state.clone();
            snapshot.last_failure = self.machine.failure().cloned();
            snapshot.round_trip = self.machine.round_trip();
            snapshot.counters = Counters {
                beats_ok: counters.beats_ok,
                beats_failed: counters.beats_failed,
                beats_refused: counters.beats_refused,
                registers: counters.registers,
                registers_failed: counters.registers_failed,
                evictions: counters.evictions,
                connections_lost: counters.connections_lost,
                reconnects,
                ghosts_removed: self.extra.ghosts_removed,
                not_served: self.extra.not_served,
            };
        }
        let phase = self.machine.phase();
        if phase != self.phase {
            self.phase = phase;
            self.log(&state);
        }
        self.states.send_if_modified(|shown| {
            let changed = !same(shown, &state);
            if changed {
                *shown = state;
            }
            changed
        });
    }

    fn state(&self) -> State {
        let lease = || {
            let (id, ends) = self.machine.lease()?;
            Some((id.clone(), self.zero + ends))
        };
        let failure = self.machine.failure().cloned();
        match (self.machine.phase(), lease(), failure) {
            (Phase::Live, Some((id, lease_ends)), _) => {
                State::Live { id, lease_ends, not_served: self.not_served }
            }
            (Phase::Suspect, Some((id, lease_ends)), Some(failure)) => {
                State::Suspect { id, lease_ends, failure }
            }
            (Phase::Rejected, _, Some(failure)) => State::Rejected { failure },
            (Phase::Registering, ..) => State::Registering,
            (Phase::Draining, ..) => State::Draining,
            (Phase::Closed, ..) => State::Closed(match self.machine.leaving() {
                Some(Leaving::Deregistered) => Outcome::Deregistered,
                Some(Leaving::Unreachable { held_until }) => {
                    Outcome::GatewayUnreachable { held_until: self.zero + held_until }
                }
                Some(Leaving::NotRegistered) | None => Outcome::NotRegistered,
            }),
            (_, _, failure) => State::Lost { failure },
        }
    }

    /// One event for each change; the same trouble at most once a second (CB-21).
    fn log(&mut self, state: &State) {
        let gateway = self.targets.get(self.machine.target()).map_or("", |target| target.name.as_str());
        let instance = self.request.instance_id.as_str();
        let now = Instant::now();
        let quiet = self.warned.is_some_and(|(phase, at)| phase == self.phase && now < at + QUIET);
        match state {
            State::Live { id, .. } => {
                tracing::info!(peerage.registration_id = %crate::text::escaped(id), server.address = gateway, peerage.instance = instance, "registered");
                return;
            }
            State::Closed(outcome) => {
                tracing::info!(
                    server.address = gateway,
                    peerage.instance = instance,
                    ?outcome,
                    "registration ended"
                );
                return;
            }
            State::Registering | State::Draining => return,
            _ if quiet => return,
            State::Suspect { failure, .. } => {
                tracing::warn!(server.address = gateway, peerage.instance = instance, %failure, "a heartbeat failed");
            }
            State::Lost { failure } => {
                let failure = failure.as_ref().map(tracing::field::display);
                tracing::warn!(
                    server.address = gateway,
                    peerage.instance = instance,
                    failure,
                    "registration lost"
                );
            }
            State::Rejected { failure } => {
                tracing::error!(server.address = gateway, peerage.instance = instance, %failure, "the gateway refuses to register this instance again");
            }
        }
        self.warned = Some((self.phase, now));
    }
}

/// Whether two states need not be told apart.
fn same(one: &State, other: &State) -> bool {
    match (one, other) {
        (
            State::Live { id: a, lease_ends: b, not_served: c },
            State::Live { id: x, lease_ends: y, not_served: z },
        ) => a == x && b == y && c == z,
        (State::Suspect { id: a, lease_ends: b, .. }, State::Suspect { id: x, lease_ends: y, .. }) => {
            a == x && b == y
        }
        // Not known any more, and silent, are two things; kinds of silence are one.
        (State::Lost { failure: a }, State::Lost { failure: b }) => {
            let evicted = |failure: &Option<Failure>| {
                failure.as_ref().is_some_and(|failure| failure.kind() == FailureKind::Evicted)
            };
            evicted(a) == evicted(b)
        }
        (State::Registering, State::Registering)
        | (State::Draining, State::Draining)
        | (State::Closed(_), State::Closed(_)) => true,
        (State::Rejected { failure: a }, State::Rejected { failure: b }) => a.kind() == b.kind(),
        _ => false,
    }
}
