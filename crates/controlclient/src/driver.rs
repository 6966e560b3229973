//! The task of one registration: carries out what the state machine says, and shows where it stands.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use peerage_balance::{Generator, unit};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::channel::{CallError, Caller, Connection, Gateway};
use crate::error::{ConfigError, StartError};
use crate::heartbeat::{Action, Event, Leaving, Machine, Phase};
use crate::options::Prepared;
use crate::pb;
use crate::registration::{Counters, Outcome, Shared, Snapshot, State};
use crate::served::{Seen, Wanted};

/// The same kind of warning at most once in this time.
const QUIET: Duration = Duration::from_secs(1);

pub(crate) struct Driver {
    machine: Machine,
    targets: Vec<Target>,
    request: pb::RegisterRequest,
    wanted: Arc<Wanted>,
    random: Generator,
    /// The zero of the machine's clock.
    zero: Instant,
    readiness: watch::Receiver<bool>,
    /// How long the service may take to become ready.
    ready_within: Duration,
    leaving: watch::Receiver<Option<Instant>>,
    answer: Option<oneshot::Sender<Result<(), StartError>>>,
    shared: Arc<Shared>,
    states: watch::Sender<State>,
    /// Beats: given up when the registration is over.
    beats: FuturesUnordered<BoxFuture<'static, Done>>,
    /// What must come to its end: it may make, or take back, a registration.
    lasting: FuturesUnordered<BoxFuture<'static, Done>>,
    /// The connection whose loss was told already.
    told_lost: Option<u64>,
    seen: Seen,
    not_served: bool,
    extra: Extra,
    phase: Phase,
    warned: Option<(Phase, Instant)>,
}

/// One gateway, and the connection that the last call to it used.
struct Target {
    name: String,
    caller: Arc<Caller>,
    last: Arc<Mutex<Last>>,
}

#[derive(Default)]
struct Last {
    connection: Option<Arc<Connection>>,
    changes: u64,
}

/// Counters beside the machine's.
#[derive(Default)]
struct Extra {
    ghosts_removed: u64,
    not_served: u64,
}

/// How a call ended.
enum Done {
    Event(Event),
    Swept { attempt: u64, done: bool, removed: u64 },
    Services(Option<Vec<pb::ServiceInfo>>),
    Nothing,
}

/// What [`Driver::new`] makes: the task, and what the handle sees of it.
type Made = (Driver, Arc<Shared>, watch::Receiver<State>);

impl Driver {
    pub(crate) fn new(
        prepared: &Prepared,
        gateways: &[Gateway],
        readiness: watch::Receiver<bool>,
        leaving: watch::Receiver<Option<Instant>>,
        answer: oneshot::Sender<Result<(), StartError>>,
    ) -> Result<Made, ConfigError> {
        let connect_limit = prepared.settings.first_deadline();
        let targets = gateways
            .iter()
            .map(|gateway| {
                let link = gateway.link()?;
                Ok(Target {
                    name: link.target().to_string(),
                    caller: Arc::new(Caller::new(link, prepared.slots.clone(), connect_limit)),
                    last: Arc::default(),
                })
            })
            .collect::<Result<Vec<_>, ConfigError>>()?;
        let shared = Arc::new(Shared {
            snapshot: Mutex::new(Snapshot {
                gateway: targets.first().map(|target| target.name.clone()).unwrap_or_default(),
                instance: prepared.request.instance_id.clone(),
                state: State::Registering,
                last_failure: None,
                round_trip: None,
                counters: Counters::default(),
            }),
        });
        let (states, seen) = watch::channel(State::Registering);
        let driver = Self {
            machine: Machine::new(prepared.settings.clone()),
            targets,
            request: prepared.request.clone(),
            wanted: Arc::new(Wanted::new(&prepared.request, &prepared.slots)),
            random: prepared.seed.map_or_else(Generator::from_system, Generator::seeded),
            zero: Instant::now(),
            readiness,
            ready_within: prepared.settings.start.limit,
            leaving,
            answer: Some(answer),
            shared: shared.clone(),
            states,
            beats: FuturesUnordered::new(),
            lasting: FuturesUnordered::new(),
            told_lost: None,
            seen: Seen::default(),
            not_served: false,
            extra: Extra::default(),
            phase: Phase::Registering,
            warned: None,
        };
        Ok((driver, shared, seen))
    }

    /// Runs until the registration is over and nothing is left to be taken back.
    pub(crate) async fn run(mut self) {
        let event = self.until_ready().await;
        self.tell(event);
        while self.machine.phase() != Phase::Closed {
            let event = self.next().await;
            if let Some(event) = event {
                self.tell(event);
            }
        }
        self.beats.clear();
        while let Some(done) = self.lasting.next().await {
            if let Some(event) = self.came_back(done) {
                self.tell(event);
            }
        }
    }

    /// Waits for the service, within the start policy's time.
    async fn until_ready(&mut self) -> Event {
        let limit = self.zero + self.ready_within;
        tokio::select! {
            biased;
            event = leaving(&mut self.leaving, self.zero) => event,
            result = timeout_at(limit, self.readiness.wait_for(|ready| *ready)) => {
                if let Ok(Ok(_)) = result {
                    return Event::Start;
                }
                if let Some(answer) = self.answer.take() {
                    drop(answer.send(Err(StartError::NotReady)));
                }
                Event::Abandoned
            }
        }
    }

    /// The next thing that happens.
    async fn next(&mut self) -> Option<Event> {
        let watched = self.watched();
        let wakes_at = self.machine.wakes_at().map(|at| self.zero + at);
        let done = tokio::select! {
            biased;
            event = leaving(&mut self.leaving, self.zero), if self.machine.phase() != Phase::Draining || self.leaving_may_change() => {
                return Some(event);
            }
            Some(done) = self.lasting.next() => done,
            Some(done) = self.beats.next() => done,
            () = lost(watched.as_deref()), if watched.is_some() => {
                self.told_lost = watched.map(|connection| connection.id());
                return Some(Event::ConnectionLost { target: self.machine.target() });
            }
            () = sleep_until(wakes_at.unwrap_or(self.zero)), if wakes_at.is_some() => return Some(Event::Tick),
        };
        self.came_back(done)
    }

    /// Once the handle is dropped there is nothing more to hear from it.
    fn leaving_may_change(&self) -> bool {
        self.leaving.has_changed().is_ok()
    }

    /// The connection that the registration depends on, unless its loss was told.
    fn watched(&self) -> Option<Arc<Connection>> {
        let target = self.targets.get(self.machine.target())?;
        let last = target.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.connection.clone().filter(|connection| Some(connection.id()) != self.told_lost)
    }

    fn came_back(&mut self, done: Done) -> Option<Event> {
        match done {
            Done::Event(event) => Some(event),
            Done::Swept { attempt, done, removed } => {
                self.extra.ghosts_removed += removed;
                Some(Event::Swept { attempt, done })
            }
            Done::Services(services) => {
                let id = self.machine.lease().map(|(id, _)| id.clone());
                if let (Some(services), Some(id)) = (services, id) {
                    let served = self.seen.look(&self.wanted, &id, &services);
                    if !served {
                        self.extra.not_served += 1;
                        if !self.not_served {
                            tracing::warn!(peerage.registration_id = %id, "registered, but the gateway does not serve this instance's schema");
                        }
                    }
                    self.not_served = !served;
                    self.publish();
                }
                None
            }
            Done::Nothing => None,
        }
    }

    fn now(&self) -> Duration {
        Instant::now().saturating_duration_since(self.zero)
    }

    fn tell(&mut self, event: Event) {
        let registered = matches!(event, Event::Registered { .. });
        let now = self.now();
        let random = &self.random;
        let actions = self.machine.on(event, now, &mut || unit(random.next_u64()));
        if registered {
            self.not_served = false;
        }
        for action in actions {
            self.carry_out(action);
        }
        // Before the answer: who gets it looks at the state.
        self.publish();
        if self.machine.lease().is_some()
            && let Some(answer) = self.answer.take_if(|_| self.machine.phase() != Phase::Registering)
        {
            drop(answer.send(Ok(())));
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Beat { attempt, target, id, until, fresh } => {
                let call = self.call(target, fresh, until, move |caller, connection, until| {
                    async move { caller.heartbeat(&connection, &id, until).await }.boxed()
                });
                self.beats.push(
                    call.map(move |result| {
                        Done::Event(match result {
                            Ok(ok) => Event::Beaten { attempt, ok },
                            Err(error) => Event::Failed { attempt, error },
                        })
                    })
                    .boxed(),
                );
            }
            Action::Register { attempt, target, until, fresh } => {
                let request = self.request.clone();
                let call = self.call(target, fresh, until, move |caller, connection, until| {
                    async move { caller.register(&connection, request, until).await }.boxed()
                });
                self.lasting.push(
                    call.map(move |result| {
                        Done::Event(match result {
                            Ok(pb::RegisterResponse { registration_id: id, ttl_seconds }) => {
                                Event::Registered { attempt, target, id, ttl_seconds }
                            }
                            Err(error) => Event::Failed { attempt, error },
                        })
                    })
                    .boxed(),
                );
            }
            Action::Deregister { attempt, target, id, until, fresh } => {
                let call = self.call(target, fresh, until, move |caller, connection, until| {
                    async move { caller.deregister(&connection, &id, until).await }.boxed()
                });
                self.lasting.push(
                    call.map(move |result| {
                        Done::Event(match result {
                            Ok(()) => Event::Deregistered { attempt },
                            Err(error) => Event::Failed { attempt, error },
                        })
                    })
                    .boxed(),
                );
            }
            Action::Discard { target, id, until } => {
                let call = self.call(target, false, until, move |caller, connection, until| {
                    async move { caller.deregister(&connection, &id, until).await }.boxed()
                });
                self.lasting.push(call.map(|_| Done::Nothing).boxed());
            }
            Action::Sweep { attempt, target, keep, until, fresh } => {
                let (addr, instance) = (self.request.addr.clone(), self.request.instance_id.clone());
                let call = self.call(target, fresh, until, move |caller, connection, until| {
                    async move { sweep(&caller, &connection, &addr, &instance, keep.as_deref(), until).await }.boxed()
                });
                self.lasting.push(
                    call.map(move |result| match result {
                        Ok(removed) => Done::Swept { attempt, done: true, removed },
                        Err(_) => Done::Swept { attempt, done: false, removed: 0 },
                    })
                    .boxed(),
                );
            }
            Action::CheckServed { target } => {
                let until = self.now() + Duration::from_secs(2);
                let call = self.call(target, false, until, |caller, connection, until| {
                    async move { caller.list_services(&connection, until).await }.boxed()
                });
                self.beats.push(call.map(|result| Done::Services(result.ok())).boxed());
            }
            Action::GiveUp { target, failure } => {
                if let Some(answer) = self.answer.take() {
                    let gateway =
                        self.targets.get(target).map(|target| target.name.clone()).unwrap_or_default();
                    drop(answer.send(Err(StartError::Failed { gateway, source: failure })));
                }
            }
            Action::Closed(_) => {}
        }
    }

    /// One call to a target: on its connection, or on another one than the last call's.
    fn call<T, F>(
        &self,
        target: usize,
        fresh: bool,
        until: Duration,
        send: F,
    ) -> impl Future<Output = Result<T, CallError>> + Send + use<T, F>
    where
        F: FnOnce(Arc<Caller>, Arc<Connection>, Instant) -> BoxFuture<'static, Result<T, CallError>>
            + Send
            + 'static,
        T: Send + 'static,
    {
        let until = self.zero + until;
        let target = self.targets.get(target).map(|target| (target.caller.clone(), target.last.clone()));
        async move {
            let (caller, last) = target.expect("the machine was told how many targets there are");
            let began = Instant::now();
            let avoid = fresh.then(|| last.lock().unwrap_or_else(PoisonError::into_inner).id()).flatten();
            let connection = match timeout_at(until, caller.connection(avoid)).await {
                Ok(connection) => connection?,
                Err(_) => return Err(CallError::unconnected(until.saturating_duration_since(began))),
            };
            last.lock().unwrap_or_else(PoisonError::into_inner).used(&connection);
            send(caller, connection, until).await
        }
    }

    /// Shows where the machine stands.
    fn publish(&mut self) {
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

impl Last {
    fn id(&self) -> Option<u64> {
        self.connection.as_ref().map(|connection| connection.id())
    }

    fn used(&mut self, connection: &Arc<Connection>) {
        if self.id().is_some_and(|id| id != connection.id()) {
            self.changes += 1;
        }
        self.connection = Some(connection.clone());
    }
}

/// What the handle asks for.
async fn leaving(asked: &mut watch::Receiver<Option<Instant>>, zero: Instant) -> Event {
    match asked.changed().await {
        Ok(()) => {
            let until = asked.borrow_and_update().unwrap_or_else(Instant::now);
            Event::Shutdown { until: until.saturating_duration_since(zero) }
        }
        Err(_) => Event::Abandoned,
    }
}

async fn lost(connection: Option<&Connection>) {
    match connection {
        Some(connection) => connection.lost().await,
        None => std::future::pending().await,
    }
}

/// Deregisters what has our instance and address, but for `keep`; returns how many (CB-13).
async fn sweep(
    caller: &Caller,
    connection: &Connection,
    addr: &str,
    instance: &str,
    keep: Option<&str>,
    until: Instant,
) -> Result<u64, CallError> {
    let listed = caller.list_registrations(connection, until).await?;
    let mut removed = 0;
    for ghost in listed {
        let ours = ghost.instance_id == instance && ghost.addr == addr;
        if ours && Some(ghost.registration_id.as_str()) != keep {
            caller.deregister(connection, &ghost.registration_id, until).await?;
            removed += 1;
        }
    }
    Ok(removed)
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
        (State::Lost { .. }, State::Lost { .. })
        | (State::Registering, State::Registering)
        | (State::Draining, State::Draining)
        | (State::Closed(_), State::Closed(_)) => true,
        (State::Rejected { failure: a }, State::Rejected { failure: b }) => a.kind() == b.kind(),
        _ => false,
    }
}
