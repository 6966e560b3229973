//! How a registration is described, and what is checked before anything is sent (controlplane §4.1, §4.2).

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::bindings::{binding, check_imports, check_size, check_slots};
use crate::channel::Gateway;
use crate::error::{ConfigError, StartError};
use crate::heartbeat::{Settings, Start};
use crate::pb;
use crate::registration::Registration;
use crate::service::Service;

/// What to do while the gateway cannot be reached at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartPolicy {
    /// One attempt (at each target, with failover), which may take this long.
    FailFast(Duration),
    /// Attempts with growing pauses until this much time has passed. What a gateway refuses for good is
    /// returned at once.
    Wait(Duration),
}

/// What several gateways are to one registration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TargetMode {
    /// Nodes of one cluster: registered at one, at another when that one is gone.
    #[default]
    Failover,
    /// Gateways that do not know each other: registered at each, independently.
    All,
}

type Readiness = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Describes a registration; [`start`](Self::start) makes it.
///
/// Defaults: the gateway's TTL (30 s), beats every third of it and at most 10 s apart, 30 s of waiting for the
/// gateway at the start, failover between several gateways.
#[must_use = "a builder does nothing until `start` is called"]
pub struct RegistrationBuilder {
    gateways: Vec<Gateway>,
    mode: TargetMode,
    service_addr: String,
    services: Vec<Service>,
    instance: String,
    ttl: Option<Duration>,
    interval: Option<Duration>,
    spread: Option<Duration>,
    build_tag: String,
    start: StartPolicy,
    heartbeat_deadline: Option<Duration>,
    register_deadline: Option<Duration>,
    deregister_deadline: Duration,
    rejected_pause: Duration,
    check_served: Option<u32>,
    ready: Option<Readiness>,
    seed: Option<u64>,
}

/// A description that was checked, with all files read.
pub(crate) struct Prepared {
    pub(crate) gateways: Vec<Gateway>,
    pub(crate) mode: TargetMode,
    /// Encoded again for each attempt; the schemas in it are shared.
    pub(crate) request: pb::RegisterRequest,
    /// `<namespace>/<version>`, in the order of the services.
    pub(crate) slots: Arc<[String]>,
    pub(crate) settings: Settings,
    pub(crate) seed: Option<u64>,
}

impl RegistrationBuilder {
    pub(crate) fn new(gateway: Gateway, service_addr: String) -> Self {
        Self {
            gateways: vec![gateway],
            mode: TargetMode::default(),
            service_addr,
            services: Vec::new(),
            instance: String::new(),
            ttl: None,
            interval: None,
            spread: None,
            build_tag: String::new(),
            start: StartPolicy::Wait(Duration::from_secs(30)),
            heartbeat_deadline: None,
            register_deadline: None,
            deregister_deadline: Duration::from_secs(2),
            rejected_pause: Duration::from_secs(30),
            check_served: None,
            ready: None,
            seed: None,
        }
    }

    /// Adds a service. At least one is needed.
    pub fn service(mut self, service: Service) -> Self {
        self.services.push(service);
        self
    }

    /// Adds another gateway; [`targets`](Self::targets) says what for.
    pub fn gateway(mut self, gateway: impl Into<Gateway>) -> Self {
        self.gateways.push(gateway.into());
        self
    }

    /// What several gateways are for. Default [`TargetMode::Failover`].
    pub fn targets(mut self, mode: TargetMode) -> Self {
        self.mode = mode;
        self
    }

    /// Who this instance is, in the gateway's lists. By default a text that no other process has: host
    /// name, process id and a random number. It must differ between instances: what an earlier attempt
    /// left at the gateway under the same instance and address is cleared away (CB-13).
    pub fn instance(mut self, id: impl Into<String>) -> Self {
        self.instance = id.into();
        self
    }

    /// How long the gateway keeps the registration without a beat; rounded up to whole seconds, at most
    /// `u32::MAX`. By default the gateway's own, usually 30 s.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// The time between beats; at least 100 ms and less than the TTL. By default a third of the TTL, at
    /// most 10 s, since a cluster forgets after 30 s whatever the TTL. A gateway that grants less than was
    /// asked for gets a third of that instead.
    pub fn heartbeat_interval(mut self, interval: Duration) -> Self {
        self.interval = Some(interval);
        self
    }

    /// Over how much time registrations are spread when a gateway has lost them all. By default the
    /// heartbeat interval after a lost connection, and no time at all for a lone eviction. Zero registers
    /// at once.
    pub fn spread(mut self, spread: Duration) -> Self {
        self.spread = Some(spread);
        self
    }

    /// Marks a release: with a tag that is not empty, a service whose version is `unstable` is refused.
    pub fn build_tag(mut self, tag: impl Into<String>) -> Self {
        self.build_tag = tag.into();
        self
    }

    /// What to do while the gateway cannot be reached. Default [`StartPolicy::Wait`] of 30 s.
    pub fn start_policy(mut self, policy: StartPolicy) -> Self {
        self.start = policy;
        self
    }

    /// How long a heartbeat's answer is waited for. By default a tenth of the TTL, 250 ms to 3 s.
    pub fn heartbeat_deadline(mut self, limit: Duration) -> Self {
        self.heartbeat_deadline = Some(limit);
        self
    }

    /// How long the answer to a registration is waited for. By default 10 s, and 5 s for each service.
    pub fn register_deadline(mut self, limit: Duration) -> Self {
        self.register_deadline = Some(limit);
        self
    }

    /// How long one deregistration's answer is waited for. Default 2 s.
    pub fn deregister_deadline(mut self, limit: Duration) -> Self {
        self.deregister_deadline = limit;
        self
    }

    /// About how long to wait between tries while [`Rejected`](crate::State::Rejected). Default 30 s.
    pub fn rejected_pause(mut self, pause: Duration) -> Self {
        self.rejected_pause = pause;
        self
    }

    /// Registers only once `ready` ends: when the service can take calls. Its time counts within the start
    /// policy's.
    pub fn ready_when(mut self, ready: impl Future<Output = ()> + Send + 'static) -> Self {
        self.ready = Some(Box::pin(ready));
        self
    }

    /// After each registration, and then with every `beats`-th beat, asks the gateway whether it serves
    /// us. A clustered gateway does not report a conflict in any other way (CB-18). Off by default; 0 is 1.
    pub fn check_served(mut self, beats: u32) -> Self {
        self.check_served = Some(beats.max(1));
        self
    }

    /// Makes the random pauses repeat, for tests.
    #[doc(hidden)]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Checks the description, reads its files, connects and registers.
    ///
    /// # Errors
    ///
    /// [`StartError::Config`] before any connection; [`StartError::Failed`] when the gateway refuses for
    /// good or does not take the registration within the start policy's time.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the registration: should an answer arrive later, it is deregistered in
    /// the background.
    pub async fn start(self) -> Result<Registration, StartError> {
        self.start_unless(std::future::pending(), Duration::ZERO).await
    }

    /// As [`start`](Self::start), until `stop` resolves: what may have been registered by then is taken back,
    /// as by [`Registration::shutdown`] with this deadline. For programs that end after it and so have no
    /// background.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start), and [`StartError::Stopped`].
    ///
    /// # Cancel safety
    ///
    /// As [`start`](Self::start).
    pub async fn start_unless(
        mut self,
        stop: impl Future<Output = ()>,
        deadline: Duration,
    ) -> Result<Registration, StartError> {
        let ready = self.ready.take();
        // Files may be on a slow disk.
        let prepared = tokio::task::spawn_blocking(move || self.prepare())
            .await
            .expect("reading files does not panic")?;
        Registration::start(prepared, ready, stop, deadline).await
    }

    /// The checks of controlplane §4.2, in its order.
    pub(crate) fn prepare(self) -> Result<Prepared, ConfigError> {
        if self.gateways.is_empty() {
            return Err(ConfigError::NoGateway);
        }
        self.gateways.iter().try_for_each(Gateway::check)?;
        if self.service_addr.is_empty() {
            return Err(ConfigError::NoServiceAddress);
        }
        if self.services.is_empty() {
            return Err(ConfigError::NoServices);
        }
        if !self.build_tag.is_empty()
            && let Some(service) = self.services.iter().find(|service| service.version == "unstable")
        {
            return Err(ConfigError::BuildTag { service: service.label() });
        }
        let bindings = self.services.into_iter().map(binding).collect::<Result<Vec<_>, _>>()?;
        let slots = check_slots(&bindings)?;
        check_imports(&bindings)?;
        let instance = if self.instance.is_empty() { instance_id() } else { self.instance };
        let bindings: Vec<pb::ServiceBinding> = bindings.into_iter().map(|bound| bound.binding).collect();
        let count = u32::try_from(bindings.len()).unwrap_or(u32::MAX);
        let mut request = pb::RegisterRequest {
            addr: self.service_addr,
            services: bindings,
            ttl_seconds: u32::MAX,
            instance_id: instance,
        };
        check_size(&request)?;
        request.ttl_seconds = match self.ttl {
            None => 0,
            Some(ttl) => whole_seconds(ttl).ok_or(ConfigError::Ttl { ttl })?,
        };
        let ttl_asked = (request.ttl_seconds > 0).then(|| Duration::from_secs(request.ttl_seconds.into()));
        if let Some(interval) = self.interval
            && (interval < Settings::LEAST_INTERVAL || ttl_asked.is_some_and(|ttl| interval >= ttl))
        {
            return Err(ConfigError::Interval { interval });
        }
        let settings = Settings {
            targets: if self.mode == TargetMode::All { 1 } else { self.gateways.len() },
            ttl_asked,
            interval: self.interval,
            spread: self.spread,
            heartbeat_deadline: self.heartbeat_deadline,
            register_deadline: self
                .register_deadline
                .unwrap_or_else(|| Duration::from_secs(10) + Duration::from_secs(5).saturating_mul(count)),
            deregister_deadline: self.deregister_deadline,
            rejected_pause: self.rejected_pause,
            start: match self.start {
                StartPolicy::FailFast(limit) => Start { limit, retries: false },
                StartPolicy::Wait(limit) => Start { limit, retries: true },
            },
            check_served: self.check_served,
        };
        Ok(Prepared { gateways: self.gateways, mode: self.mode, request, slots, settings, seed: self.seed })
    }
}

impl fmt::Debug for RegistrationBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistrationBuilder")
            .field("gateways", &self.gateways)
            .field("mode", &self.mode)
            .field("service_addr", &self.service_addr)
            .field("services", &self.services.iter().map(Service::label).collect::<Vec<_>>())
            .field("instance", &self.instance)
            .field("ttl", &self.ttl)
            .field("start", &self.start)
            .finish_non_exhaustive()
    }
}

/// Rounded up; `None` for zero and for more than `u32::MAX`.
fn whole_seconds(ttl: Duration) -> Option<u32> {
    let up = u64::from(ttl.subsec_nanos() > 0);
    u32::try_from(ttl.as_secs().checked_add(up)?).ok().filter(|seconds| *seconds > 0)
}

/// A text that no other instance has.
fn instance_id() -> String {
    let random = peerage_balance::Generator::from_system().next_u64();
    #[cfg(unix)]
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    #[cfg(not(unix))]
    let host = "host";
    format!("{host}-{}-{random:016x}", std::process::id())
}
