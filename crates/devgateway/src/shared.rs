//! What all connections share: the state behind its lock, and who is told of changes.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use tonic::Code;

use crate::clock::Clock;
use crate::faults::Faults;
use crate::names::{SlotKey, Tiers};
use crate::refusal::Refusal;
use crate::request::{Binding, Checked, Request, Step, check_binding, check_head};
use crate::rpc::{Call, Log, Rpc};
use crate::schema::{graphql, hex};
use crate::sign::{Secret, Signing};
use crate::state::{Registered, State};
use crate::view::RegistrationView;

/// What happens at the gateway, as it happens.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A Register succeeded.
    Registered(RegistrationView),
    /// A registration ended.
    Gone(RegistrationView, Cause),
    /// An `unstable` slot took another schema: so many replicas were thrown out of it.
    Swapped {
        /// `namespace/unstable`.
        slot: String,
        /// How many.
        replicas: usize,
    },
    /// A call was refused, by a handler, the gRPC layer or a fault.
    Refused(Call),
    /// The gateway forgot everything and serves again.
    Restarted,
}

/// Why a registration ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Cause {
    /// The service asked.
    Deregistered,
    /// It was silent for longer than its TTL.
    Expired,
    /// A person or a test asked.
    Evicted,
}

/// Settings that do not change while the gateway lives.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) tiers: Tiers,
    pub(crate) ttl_default: u32,
    pub(crate) janitor_period: Duration,
    pub(crate) signing: Signing,
    /// Asked of every call, when there is one.
    pub(crate) bearer: Option<Secret>,
    pub(crate) taken: Vec<SlotKey>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) rules: Rules,
    pub(crate) clock: Clock,
    pub(crate) started: Instant,
    state: Mutex<State>,
    faults: Mutex<Faults>,
    log: Mutex<Log>,
    /// The janitor's last round on a manual clock.
    swept: Mutex<Duration>,
    /// Counts changes, for those who wait for one.
    changes: watch::Sender<u64>,
    events: broadcast::Sender<Event>,
    random: SystemRandom,
}

impl Shared {
    /// Fails when a slot that should be taken has no valid name.
    pub(crate) fn new(rules: Rules, clock: Clock) -> Result<Self, Refusal> {
        let state = fresh(&rules)?;
        let now = clock.now();
        Ok(Self {
            rules,
            clock,
            started: Instant::now(),
            state: Mutex::new(state),
            faults: Mutex::default(),
            log: Mutex::default(),
            swept: Mutex::new(now),
            changes: watch::Sender::new(0),
            events: broadcast::Sender::new(1024),
            random: SystemRandom::new(),
        })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        held(&self.state)
    }

    pub(crate) fn faults(&self) -> MutexGuard<'_, Faults> {
        held(&self.faults)
    }

    pub(crate) fn log(&self) -> MutexGuard<'_, Log> {
        held(&self.log)
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(crate) fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Tells those who wait that something is different.
    pub(crate) fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn tell(&self, event: Event) {
        // Fails when nobody listens, which is fine.
        self.events.send(event).ok();
    }

    /// Notes a call and its outcome.
    pub(crate) fn called(&self, call: Call) {
        if call.code != Code::Ok {
            self.tell(Event::Refused(call.clone()));
        }
        self.log().push(call);
        self.changed();
    }

    /// The whole of Register. Nothing happened when the future is dropped before it ends.
    pub(crate) async fn register(&self, request: Request) -> Result<(String, u32), Refusal> {
        check_head(&request)?;
        let mut request = request;
        let mut seen = BTreeSet::new();
        let mut checked: Vec<Checked> = Vec::with_capacity(request.bindings.len());
        let bindings = Arc::new(std::mem::take(&mut request.bindings));
        for at in 0..bindings.len() {
            let (step, back) = self.check(bindings.clone(), at, seen).await?;
            seen = back;
            checked.push(match step {
                Step::Checked(checked) => checked,
                Step::Introspect(introspection) => {
                    let answer = graphql::introspect(&introspection.endpoint).await;
                    introspection.answered(answer)?
                }
            });
        }
        request.bindings = Arc::unwrap_or_clone(bindings);
        let id = self.id();
        let ttl_override = self.faults().ttl_override;
        let asked = if request.ttl_seconds == 0 { self.rules.ttl_default } else { request.ttl_seconds };
        let ttl_seconds = ttl_override.unwrap_or(asked);
        let (Registered { ttl_seconds, swapped }, registration) = {
            let mut state = self.state();
            let done = state.register(id.clone(), &request, &checked, ttl_seconds, self.clock.now())?;
            (done, state.registration(&id))
        };
        for (key, replicas) in swapped {
            self.tell(Event::Swapped { slot: key.to_string(), replicas });
        }
        if let Some(registration) = registration {
            self.tell(Event::Registered(registration));
        }
        Ok((id, ttl_seconds))
    }

    /// Compiling is work for the processor: it gets a thread where others do not wait for it.
    async fn check(
        &self,
        bindings: Arc<Vec<Binding>>,
        at: usize,
        mut seen: BTreeSet<SlotKey>,
    ) -> Result<(Step, BTreeSet<SlotKey>), Refusal> {
        let tiers = self.rules.tiers;
        let work = move || {
            let binding = bindings.get(at).expect("`at` counts the bindings");
            check_binding(binding, tiers, &mut seen).map(|step| (step, seen))
        };
        tokio::task::spawn_blocking(work)
            .await
            .unwrap_or_else(|_| Err(Refusal::control("compile: the compiler failed on this input")))
    }

    pub(crate) fn heartbeat(&self, id: &str) -> bool {
        let now = self.clock.now();
        self.state().heartbeat(id, now)
    }

    pub(crate) fn deregister(&self, id: &str, cause: Cause) -> bool {
        let gone = self.state().deregister(id);
        let was_there = gone.is_some();
        if let Some(registration) = gone {
            self.tell(Event::Gone(registration, cause));
        }
        was_there
    }

    /// One round of the janitor.
    pub(crate) fn sweep(&self) {
        let now = self.clock.now();
        let gone = self.state().sweep(now);
        if gone.is_empty() {
            return;
        }
        for registration in gone {
            self.tell(Event::Gone(registration, Cause::Expired));
        }
        self.changed();
    }

    /// Moves a manual clock from one round of the janitor to the next.
    pub(crate) fn advance(&self, by: Duration) {
        if !self.clock.is_manual() {
            return;
        }
        let mut swept = held(&self.swept);
        let end = self.clock.now() + by;
        while *swept + self.rules.janitor_period <= end {
            *swept += self.rules.janitor_period;
            self.clock.advance(swept.saturating_sub(self.clock.now()));
            self.sweep();
        }
        self.clock.advance(end.saturating_sub(self.clock.now()));
    }

    /// Forgets everything but faults and log.
    pub(crate) fn forget(&self) {
        *self.state() = fresh(&self.rules).unwrap_or_default();
        self.tell(Event::Restarted);
        self.changed();
    }

    /// 12 random bytes as 24 hexadecimal digits.
    fn id(&self) -> String {
        let mut bytes = [0; 12];
        self.random.fill(&mut bytes).expect("the system has randomness");
        hex(&bytes)
    }

    /// Counts calls of one RPC.
    pub(crate) fn count(&self, rpc: Rpc) -> u64 {
        self.log().count(rpc)
    }
}

fn fresh(rules: &Rules) -> Result<State, Refusal> {
    let mut state = State::default();
    for key in &rules.taken {
        state.take(key)?;
    }
    Ok(state)
}

/// A panic while the lock was held is a bug; what is behind it is still whole, as every change is made at once.
fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}
