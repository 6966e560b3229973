//! The task of one registration: carries out what the state machine says, and shows where it stands.
//!
//! What is sent is in `calls`, what is seen in `shown`.

mod calls;
mod shown;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use peerage_balance::{Generator, unit};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use self::calls::Target;
use crate::channel::{Caller, Connection, Gateway};
use crate::error::{ConfigError, StartError};
use crate::heartbeat::{Event, Machine, Phase};
use crate::options::Prepared;
use crate::pb;
use crate::registration::{Counters, Shared, Snapshot, State};
use crate::served::{Seen, Wanted};

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
        // The same for all who share a connection: their beats fall together (heartbeat's `on_grid`).
        let zero = gateways.first().map(Gateway::link).transpose()?.map(|link| link.since());
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
            zero: zero.unwrap_or_else(Instant::now),
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
        let limit = Instant::now() + self.ready_within;
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
