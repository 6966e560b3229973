//! The handle of a registration, and what can be seen of it.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout_at};

use crate::channel::Gateway;
use crate::driver::Driver;
use crate::error::StartError;
use crate::failure::Failure;
use crate::options::{Prepared, RegistrationBuilder, TargetMode};

/// A registration that keeps itself alive: through restarts of the gateway, evictions, connections that
/// swallow bytes, and its own suspension.
///
/// [`states`](Self::states) shows where it stands. [`shutdown`](Self::shutdown) is the polite end; dropping
/// the handle stops the beats and tries one deregistration in the background.
///
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use peerage_controlclient::{Registration, Service};
///
/// let registration = Registration::builder("127.0.0.1:50090", "127.0.0.1:41001")
///     .service(Service::proto_file("greeter", "greeter.proto").version("v1"))
///     .start()
///     .await?;
/// // … serve …
/// registration.shutdown(Duration::from_secs(2)).await;
/// # Ok(()) }
/// ```
#[must_use = "dropping a registration ends it"]
pub struct Registration {
    members: Vec<Member>,
    states: watch::Receiver<State>,
}

/// One set of targets and the task that serves it.
struct Member {
    shared: Arc<Shared>,
    states: watch::Receiver<State>,
    /// The earliest time at which the outcome is wanted. Dropping it abandons the registration.
    leave: watch::Sender<Option<Instant>>,
}

/// What the task shows beside the state.
pub(crate) struct Shared {
    pub(crate) snapshot: Mutex<Snapshot>,
}

/// Where a registration stands (controlplane §4.6).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum State {
    /// Not registered yet.
    Registering,
    /// Registered, and as far as we know until `lease_ends`.
    Live {
        /// What the gateway calls the registration.
        id: Arc<str>,
        /// When the gateway may forget it, unless a beat is answered before. Never later than the
        /// gateway's own time.
        lease_ends: Instant,
        /// The gateway holds the registration and serves something else in its place, or nothing; known
        /// only with [`check_served`](RegistrationBuilder::check_served).
        not_served: bool,
    },
    /// A beat failed; the lease still runs.
    Suspect {
        /// What the gateway calls the registration.
        id: Arc<str>,
        /// As in `Live`.
        lease_ends: Instant,
        /// Why the beat failed.
        failure: Failure,
    },
    /// The gateway does not know us any more, or the lease ended in silence. Tries go on.
    Lost {
        /// What the last try failed with, if one did.
        failure: Option<Failure>,
    },
    /// The gateway refuses to register us again until somebody changes something. A try is made every
    /// 30 s.
    Rejected {
        /// Its refusal.
        failure: Failure,
    },
    /// Leaving.
    Draining,
    /// Over.
    Closed(Outcome),
}

impl State {
    /// In lower case: `registering`, `live`, `suspect`, `lost`, `rejected`, `draining`, `closed`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Registering => "registering",
            Self::Live { .. } => "live",
            Self::Suspect { .. } => "suspect",
            Self::Lost { .. } => "lost",
            Self::Rejected { .. } => "rejected",
            Self::Draining => "draining",
            Self::Closed(_) => "closed",
        }
    }

    /// Whether the gateway is known to hold the registration.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        matches!(self, Self::Live { .. })
    }

    /// The best first: what several targets are together is the worst of them.
    const fn rank(&self) -> u8 {
        match self {
            Self::Closed(_) => 0,
            Self::Live { .. } => 1,
            Self::Suspect { .. } => 2,
            Self::Registering => 3,
            Self::Lost { .. } => 4,
            Self::Rejected { .. } => 5,
            Self::Draining => 6,
        }
    }
}

/// How a registration ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The gateway says that it is gone.
    Deregistered,
    /// The gateway did not answer. It forgets the registration by itself at `held_until` at the latest.
    GatewayUnreachable {
        /// The last beat it may have noted, the TTL, and the 5 s of its janitor.
        held_until: Instant,
    },
    /// There was nothing to deregister.
    NotRegistered,
}

/// What can be seen of one set of targets.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// `host:port` of the gateway that holds the registration, or is asked next.
    pub gateway: String,
    /// Who we are in the gateway's lists.
    pub instance: String,
    /// Where it stands.
    pub state: State,
    /// The last call that failed, while nothing has succeeded since.
    pub last_failure: Option<Failure>,
    /// From sending the last answered beat to its answer.
    pub round_trip: Option<Duration>,
    /// What happened so far.
    pub counters: Counters,
}

/// What happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Beats that the gateway answered with yes.
    pub beats_ok: u64,
    /// Beats without an answer, or with an error.
    pub beats_failed: u64,
    /// Beats that the gateway answered with no: it did not know the id.
    pub beats_refused: u64,
    /// Registrations made.
    pub registers: u64,
    /// Registrations that failed or were refused.
    pub registers_failed: u64,
    /// Registrations that the gateway dropped while we thought they lived.
    pub evictions: u64,
    /// Connections that were lost while a registration depended on them.
    pub connections_lost: u64,
    /// Calls made on another connection than the one before.
    pub reconnects: u64,
    /// Registrations of ours with an unknown end that were found at the gateway and removed.
    pub ghosts_removed: u64,
    /// Looks that found us registered and not served.
    pub not_served: u64,
}

impl Registration {
    /// Describes a registration at `gateway` (`"host:port"`, or a [`Gateway`]) of what listens at
    /// `service_addr`: `host:port` as the gateway reaches it, for OpenAPI services a base URL. Sent as it
    /// is.
    pub fn builder(gateway: impl Into<Gateway>, service_addr: impl Into<String>) -> RegistrationBuilder {
        RegistrationBuilder::new(gateway.into(), service_addr.into())
    }

    pub(crate) async fn start(
        prepared: Prepared,
        ready: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
        stop: impl Future<Output = ()>,
        deadline: Duration,
    ) -> Result<Self, StartError> {
        let sets: Vec<Vec<Gateway>> = match prepared.mode {
            TargetMode::Failover => vec![prepared.gateways.clone()],
            TargetMode::All => prepared.gateways.iter().map(|gateway| vec![gateway.clone()]).collect(),
        };
        // Each set of targets waits for the same readiness.
        let (is_ready, readiness) = watch::channel(ready.is_none());
        let mut members = Vec::new();
        let mut answers = Vec::new();
        for gateways in sets {
            let (answer, started) = oneshot::channel();
            let (leave, leaving) = watch::channel(None);
            let (driver, shared, states) =
                Driver::new(&prepared, &gateways, readiness.clone(), leaving, answer)?;
            tokio::spawn(driver.run());
            members.push(Member { shared, states, leave });
            answers.push(started);
        }
        drop(prepared);
        // From here on, dropping this future drops the members, and so ends what they began.
        let states = together(&members);
        let registration = Self { members, states };
        let starts = async {
            let mut live = 0_usize;
            let mut last = None;
            for started in answers {
                match started.await.unwrap_or(Err(StartError::NotReady)) {
                    Ok(()) => live += 1,
                    Err(error) if error.is_permanent() => return Err(error),
                    Err(error) => last = Some(error),
                }
            }
            match last {
                Some(error) if live == 0 => Err(error),
                _ => Ok(()),
            }
        };
        let gate = async {
            if let Some(ready) = ready {
                ready.await;
                is_ready.send_replace(true);
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            result = starts => result?,
            () = gate => {}
            () = stop => {
                let outcome = registration.shutdown(deadline).await;
                return Err(StartError::Stopped { outcome });
            }
        }
        Ok(registration)
    }

    /// Where it stands, and each change of it; a renewed lease is a change too. With
    /// [`TargetMode::All`] the worst of the gateways; [`snapshots`](Self::snapshots) tells them apart.
    pub fn states(&self) -> watch::Receiver<State> {
        self.states.clone()
    }

    /// Where it stands now.
    pub fn state(&self) -> State {
        self.states.borrow().clone()
    }

    /// What can be seen now; of the first gateway, with [`TargetMode::All`].
    #[expect(clippy::missing_panics_doc, reason = "there is no registration without a gateway")]
    pub fn snapshot(&self) -> Snapshot {
        self.snapshots().into_iter().next().expect("there is a gateway")
    }

    /// What can be seen now, for each gateway of [`TargetMode::All`].
    pub fn snapshots(&self) -> Vec<Snapshot> {
        self.members
            .iter()
            .map(|member| member.shared.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone())
            .collect()
    }

    /// Deregisters and ends; from any number of tasks, all of which get the same outcome. Returns within
    /// `deadline` and 100 ms, whatever the gateway does. The earliest deadline counts.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the shutdown going on; another call gets its outcome.
    pub async fn shutdown(&self, deadline: Duration) -> Outcome {
        let until = Instant::now() + deadline;
        for member in &self.members {
            member.leave.send_if_modified(|wanted| {
                let sooner = wanted.is_none_or(|wanted| until < wanted);
                if sooner {
                    *wanted = Some(until);
                }
                sooner
            });
        }
        let mut outcome = None;
        for member in &self.members {
            let one = member.outcome(until).await;
            outcome = Some(match (outcome, one) {
                (None, one) => one,
                (
                    Some(Outcome::GatewayUnreachable { held_until: a }),
                    Outcome::GatewayUnreachable { held_until: b },
                ) => Outcome::GatewayUnreachable { held_until: a.max(b) },
                (Some(worse @ Outcome::GatewayUnreachable { .. }), _) => worse,
                (Some(_), worse @ Outcome::GatewayUnreachable { .. }) => worse,
                (Some(Outcome::Deregistered), _) | (Some(_), Outcome::Deregistered) => Outcome::Deregistered,
                (Some(Outcome::NotRegistered), Outcome::NotRegistered) => Outcome::NotRegistered,
            });
        }
        outcome.unwrap_or(Outcome::NotRegistered)
    }
}

impl Member {
    async fn outcome(&self, until: Instant) -> Outcome {
        let mut states = self.states.clone();
        let closed = states.wait_for(|state| matches!(state, State::Closed(_)));
        // The task closes by `until` itself; the rest is for a runtime that is late.
        if let Ok(Ok(state)) = timeout_at(until + Duration::from_millis(80), closed).await
            && let State::Closed(outcome) = &*state
        {
            return *outcome;
        }
        let snapshot = self.shared.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        match snapshot.state {
            State::Closed(outcome) => outcome,
            State::Live { lease_ends, .. } | State::Suspect { lease_ends, .. } => {
                Outcome::GatewayUnreachable { held_until: lease_ends + Duration::from_secs(10) }
            }
            _ => Outcome::GatewayUnreachable { held_until: until + Duration::from_secs(60) },
        }
    }
}

/// The worst state of all members, kept up to date.
fn together(members: &[Member]) -> watch::Receiver<State> {
    if let [only] = members {
        return only.states.clone();
    }
    let mut receivers: Vec<_> = members.iter().map(|member| member.states.clone()).collect();
    let worst = |receivers: &mut [watch::Receiver<State>]| {
        receivers
            .iter_mut()
            .map(|states| states.borrow_and_update().clone())
            .max_by_key(State::rank)
            .unwrap_or(State::Registering)
    };
    let (tell, states) = watch::channel(worst(&mut receivers));
    // Ends when every member's task has, or when nobody listens.
    tokio::spawn(async move {
        loop {
            let changes: Vec<_> = receivers
                .iter_mut()
                .filter(|states| states.has_changed().is_ok())
                .map(|states| Box::pin(states.changed()))
                .collect();
            let all_ended = changes.is_empty();
            if all_ended {
                drop(changes);
            } else {
                tokio::select! {
                    _ = futures_util::future::select_all(changes) => {}
                    () = tell.closed() => return,
                }
            }
            tell.send_replace(worst(&mut receivers));
            if all_ended {
                return;
            }
        }
    });
    states
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").field("snapshots", &self.snapshots()).finish_non_exhaustive()
    }
}
