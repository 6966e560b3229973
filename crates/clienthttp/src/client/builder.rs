use std::{fmt, sync::Arc, time::Duration};

use http::{HeaderValue, uri::Authority};
use peerage_balance::{
    Budget, BudgetPolicy, Generator, Health, HedgePolicy, Policy, RetryPolicy, Settings as BalanceSettings,
    Warmup, Zone,
};
use peerage_discovery::{Discovery, DiscoveryError, OpenOptions, ServiceType};
use tokio::time::{Instant, timeout};

use super::{
    Auth, BodyTimeout, Checks, Choice, Client, Settings, Shared, members::Members, metrics::Meters,
    running::Running,
};
use crate::{AuthAttacher, Bearer, BoxError, BuildError, ConfigError, Dialer, Picker};

/// What happens to answers that point elsewhere.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Redirects {
    /// They are handed to the caller.
    #[default]
    HandOver,
    /// 301, 302, 303, 307 and 308 are followed if they stay inside the service: the location is relative
    /// or has the authority of the request. Others are handed to the caller. Nothing outside the peer set
    /// is ever dialled.
    SameService {
        /// The most in one chain.
        max: usize,
    },
}

/// Settings of a [`Client`].
///
/// | setting | default |
/// |---|---|
/// | source of peers | mDNS |
/// | policy | round robin, in an order of this client's own |
/// | dialer | ZAP-HTTP in plaintext, 3 s to connect |
/// | credentials | none |
/// | peers to wait for | 1, for 10 s |
/// | time of a call | 30 s, the body of the answer included |
/// | sends of a call | 2, if it may be repeated |
/// | resends of all calls | a fifth of them, and one a second |
/// | a peer that fails | out for 1 s after 2 failed dials or 5 failures in a row, or half of 20 and more; longer each time |
/// | second copies of late calls | none |
/// | active checks of peers | none |
/// | time of one attempt | all that is left |
/// | calls at once | 100,000 |
/// | redirects | handed to the caller |
#[must_use = "a builder does nothing until `build` is called"]
pub struct ClientBuilder {
    service: Result<ServiceType, BoxError>,
    source: Source,
    choice: Option<Arc<dyn Picker>>,
    policy: Policy,
    health: Option<Health>,
    warmup: Option<Warmup>,
    zone: Option<Zone>,
    budget: Option<BudgetPolicy>,
    hedge: Option<HedgePolicy>,
    checks: Option<Checks>,
    dialer: Option<Arc<dyn Dialer>>,
    auth: Way,
    conflict: Option<ConfigError>,
    min_peers: usize,
    discover_timeout: Duration,
    request_timeout: Option<Duration>,
    body_timeout: BodyTimeout,
    connect_timeout: Option<Duration>,
    per_try: Option<Duration>,
    retry: RetryPolicy,
    redirects: Redirects,
    client_id: Option<String>,
    max_in_flight: usize,
    allow_plaintext: bool,
    seed: Option<u64>,
}

enum Source {
    Default,
    Given(Arc<dyn Discovery>),
    Text(String),
}

enum Way {
    None,
    Bearer(Bearer),
    #[cfg(feature = "zap")]
    LocalTrust(Box<crate::LocalTrust>),
    /// The caller answers for the network.
    PlaintextLocalTrust,
    Attacher(Arc<dyn AuthAttacher>),
}

impl Way {
    const fn name(&self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Bearer(_) => Some("bearer"),
            #[cfg(feature = "zap")]
            Self::LocalTrust(_) => Some("local_trust"),
            Self::PlaintextLocalTrust => Some("danger_plaintext_local_trust"),
            Self::Attacher(_) => Some("auth"),
        }
    }
}

impl ClientBuilder {
    pub(super) fn new(service: Result<ServiceType, BoxError>) -> Self {
        Self {
            service,
            source: Source::Default,
            choice: None,
            policy: Policy::RoundRobin,
            health: Some(Health::default()),
            warmup: Some(Warmup::default()),
            zone: None,
            budget: Some(BudgetPolicy::default()),
            hedge: None,
            checks: None,
            dialer: None,
            auth: Way::None,
            conflict: None,
            min_peers: 1,
            discover_timeout: Duration::from_secs(10),
            request_timeout: Some(Duration::from_secs(30)),
            body_timeout: BodyTimeout::Covered,
            connect_timeout: None,
            per_try: None,
            retry: RetryPolicy::default(),
            redirects: Redirects::default(),
            client_id: None,
            max_in_flight: 100_000,
            allow_plaintext: false,
            seed: None,
        }
    }

    /// Finds peers there. It is started, if it was not, and never stopped by the client.
    pub fn discovery(self, discovery: impl Discovery) -> Self {
        self.shared_discovery(Arc::new(discovery))
    }

    /// As [`discovery`](Self::discovery), for one that others use, too.
    pub fn shared_discovery(self, discovery: Arc<dyn Discovery>) -> Self {
        Self { source: Source::Given(discovery), ..self }
    }

    /// Finds peers where a text says: `static:10.0.0.1:80`, `file:/etc/peers.json`, `mdns:`; several
    /// separated by blanks. The client stops them when it goes.
    pub fn source(self, uris: impl Into<String>) -> Self {
        Self { source: Source::Text(uris.into()), ..self }
    }

    /// Chooses peers by code of one's own.
    pub fn picker(self, picker: impl Picker) -> Self {
        Self { choice: Some(Arc::new(picker)), ..self }
    }

    /// Chooses peers by a policy that knows how busy they are, such as [`Policy::PeakEwma`].
    pub fn balance(self, policy: Policy) -> Self {
        Self { choice: None, policy, ..self }
    }

    /// When a peer that fails is taken out for a while (B-3.3); `None` for never.
    pub fn health(self, health: impl Into<Option<Health>>) -> Self {
        Self { health: health.into(), ..self }
    }

    /// How fast a peer that joins later gets its share (B-2.9); `None` for at once.
    pub fn warmup(self, warmup: impl Into<Option<Warmup>>) -> Self {
        Self { warmup: warmup.into(), ..self }
    }

    /// Where this client is: peers of its zone are preferred while they have room (B-2.8).
    pub fn zone(self, zone: Zone) -> Self {
        Self { zone: Some(zone), ..self }
    }

    /// How many calls may be sent again, as a part of all (B-5.3); `None` for all that fail.
    pub fn budget(self, budget: impl Into<Option<BudgetPolicy>>) -> Self {
        Self { budget: budget.into(), ..self }
    }

    /// Sends a second copy of a call to another peer when its answer is late, which the first good answer
    /// ends (B-6). Only calls that may be repeated and whose body is in memory, and only as many as the
    /// policy and the [budget](Self::budget) allow; such a call is not sent again besides. `None`, the
    /// default, for those only that ask for it by [`CallOptions::hedge`](crate::CallOptions::hedge).
    pub fn hedge(self, policy: impl Into<Option<HedgePolicy>>) -> Self {
        Self { hedge: policy.into(), ..self }
    }

    /// Asks peers whether they are well, beside the calls (B-3.7). `None`, the default, for not.
    pub fn checks(self, checks: impl Into<Option<Checks>>) -> Self {
        Self { checks: checks.into(), ..self }
    }

    /// Connects to peers by this dialer.
    pub fn dialer(self, dialer: impl Dialer) -> Self {
        Self { dialer: Some(Arc::new(dialer)), ..self }
    }

    /// Sends `Authorization: Bearer <token>` with each call that has no `Authorization` of its own.
    ///
    /// It goes over encrypted connections and to this host only, unless
    /// [`allow_plaintext_credentials`](Self::allow_plaintext_credentials).
    pub fn bearer(mut self, token: impl AsRef<str>) -> Self {
        match Bearer::new(token) {
            Ok(bearer) => self.authenticate(Way::Bearer(bearer)),
            Err(error) => {
                self.conflict.get_or_insert(error);
                self
            }
        }
    }

    /// As [`bearer`](Self::bearer), for a token that changes: [`Bearer::from_file`], [`Bearer::from_fn`].
    pub fn bearer_from(self, bearer: Bearer) -> Self {
        self.authenticate(Way::Bearer(bearer))
    }

    /// Trusts peers that prove to be members of our cluster, and proves that we are one. No credentials
    /// are sent. Sets the dialer.
    #[cfg(feature = "zap")]
    pub fn local_trust(self, identity: crate::LocalTrust) -> Self {
        self.authenticate(Way::LocalTrust(Box::new(identity)))
    }

    /// Sends no credentials and trusts whoever answers: everybody who can announce a peer on the network
    /// can receive the calls of this client and answer them.
    pub fn danger_plaintext_local_trust(self) -> Self {
        self.authenticate(Way::PlaintextLocalTrust)
    }

    /// Attaches credentials by code of one's own.
    pub fn auth(self, attacher: impl AuthAttacher) -> Self {
        self.authenticate(Way::Attacher(Arc::new(attacher)))
    }

    /// Lets `Authorization`, `Cookie` and sensitive values cross the network in plaintext, where anybody on
    /// the way can read them. Warned of once.
    pub fn allow_plaintext_credentials(self) -> Self {
        Self { allow_plaintext: true, ..self }
    }

    /// How many peers `build` waits for. Default 1; 0 does not wait.
    pub fn min_peers(self, count: usize) -> Self {
        Self { min_peers: count, ..self }
    }

    /// How long `build` waits for peers. Default 10 s.
    pub fn discover_timeout(self, limit: Duration) -> Self {
        Self { discover_timeout: limit, ..self }
    }

    /// The whole time of a call: waiting for a peer, connecting, all attempts and, unless
    /// [`body_timeout`](Self::body_timeout) says otherwise, the body of the answer. Default 30 s.
    pub fn request_timeout(self, limit: impl Into<Option<Duration>>) -> Self {
        Self { request_timeout: limit.into(), ..self }
    }

    /// How long the body of an answer may take after its head, instead of what is left of the call's time.
    /// `None` for ever, as event streams need it.
    pub fn body_timeout(self, limit: impl Into<Option<Duration>>) -> Self {
        Self { body_timeout: BodyTimeout::Own(limit.into()), ..self }
    }

    /// How long a connection may take to come up, for the default dialer and local trust.
    /// Default 3 s.
    pub fn connect_timeout(self, limit: Duration) -> Self {
        Self { connect_timeout: Some(limit), ..self }
    }

    /// The most time one attempt gets, so that a peer that hangs does not use up the whole time of a call:
    /// one that may be repeated then goes to another peer. Default none, as no limit fits all services;
    /// choose one above the slowest honest answer.
    pub fn per_try_timeout(self, limit: Duration) -> Self {
        Self { per_try: Some(limit), ..self }
    }

    /// When calls are sent again.
    pub fn retry(self, policy: RetryPolicy) -> Self {
        Self { retry: policy, ..self }
    }

    /// What happens to redirects. Default: they are handed to the caller.
    pub fn redirects(self, redirects: Redirects) -> Self {
        Self { redirects, ..self }
    }

    /// Who we are, for the `User-Agent` of calls that set none. Default random.
    pub fn client_id(self, id: impl Into<String>) -> Self {
        Self { client_id: Some(id.into()), ..self }
    }

    /// The most calls at once; more are refused. Default 100,000.
    pub fn max_in_flight(self, count: usize) -> Self {
        Self { max_in_flight: count, ..self }
    }

    /// Makes choices repeat, for tests.
    #[doc(hidden)]
    pub fn rng_seed(self, seed: u64) -> Self {
        Self { seed: Some(seed), ..self }
    }

    fn authenticate(mut self, way: Way) -> Self {
        if let (Some(first), Some(second)) = (self.auth.name(), way.name()) {
            self.conflict.get_or_insert(ConfigError::TwoWaysToAuthenticate { first, second });
        }
        Self { auth: way, ..self }
    }

    /// Starts discovery and waits for peers.
    ///
    /// # Errors
    ///
    /// [`BuildError::Config`] before anything is opened; [`BuildError::NotReady`] with the reason, for a
    /// person, if too few peers appeared in time. Discovery is stopped again then.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops what was started.
    pub async fn build(self) -> Result<Client, BuildError> {
        let (want, limit) = (self.min_peers, self.discover_timeout);
        let client = self.make()?;
        let shared = Arc::clone(&client.shared);
        let discovery = &*shared.members.discovery;
        shared.ensure_started().map_err(BuildError::Discovery)?;
        if want == 0 {
            return Ok(client);
        }
        let started = Instant::now();
        let looking = async {
            // A thorough look takes up to 3 s: it begins while there is still hope.
            tokio::time::sleep(limit.saturating_sub(Duration::from_secs(3)).max(limit / 2)).await;
            discovery.diagnose().await.to_string()
        };
        let mut looking = std::pin::pin!(looking);
        let mut seen = None;
        let mut ready = std::pin::pin!(discovery.wait_ready(want, started + limit));
        let outcome = loop {
            tokio::select! {
                biased;
                outcome = &mut ready => break outcome,
                text = &mut looking, if seen.is_none() => seen = Some(text),
            }
        };
        match outcome {
            Ok(snapshot) => {
                shared.members.apply(&snapshot, Vec::new());
                Ok(client)
            }
            Err(DiscoveryError::NotReady { service, have, why, .. }) => {
                // What is still left after this moment ends without us.
                let _ = timeout(Duration::from_millis(30), shared.stop()).await;
                let diagnosis = match seen {
                    Some(text) => format!("{why}\n{text}"),
                    None => why,
                };
                Err(BuildError::NotReady { service, want, have, waited: limit, diagnosis })
            }
            Err(error) => Err(BuildError::Discovery(error)),
        }
    }

    /// Starts discovery without waiting. A call waits for the first peer, if there is none.
    ///
    /// Outside an async runtime nothing is started before the first call.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], naming the setting that cannot be honoured; nothing was opened then.
    pub fn build_lazy(self) -> Result<Client, ConfigError> {
        let client = self.make()?;
        client.shared.ensure_started().map_err(ConfigError::Discovery)?;
        Ok(client)
    }

    /// Checks the settings and makes the client, without I/O.
    fn make(self) -> Result<Client, ConfigError> {
        if let Some(conflict) = self.conflict {
            return Err(conflict);
        }
        let service = self.service.map_err(ConfigError::Service)?;
        let setting = |setting, why| ConfigError::Setting { setting, why };

        let mut retry = self.retry;
        if self.per_try.is_some() {
            retry = retry.per_try(self.per_try).map_err(|_| setting("per_try_timeout", "at least 1 ms"))?;
        }
        if self.max_in_flight == 0 {
            return Err(setting("max_in_flight", "at least 1"));
        }
        let client_id = self.client_id.unwrap_or_else(random_id);
        let user_agent = format!("peerage/{} ({client_id})", env!("CARGO_PKG_VERSION"));
        let user_agent = HeaderValue::try_from(user_agent)
            .map_err(|_| setting("client_id", "only characters that a header value may have"))?;
        let authority = Authority::try_from(service.base())
            .map_err(|_| setting("service", "a name that can be a host name"))?;

        let (dialer, auth) =
            dialer_and_auth(self.dialer, self.auth, self.connect_timeout, retry.per_try_limit())?;
        let (discovery, owns_discovery) = open(self.source, &service)?;
        let balance = BalanceSettings {
            policy: self.policy,
            seed: self.seed,
            health: self.health,
            warmup: self.warmup,
            zone: self.zone,
            ..BalanceSettings::default()
        };
        let own_zone = balance.zone.as_ref().map(|zone| zone.name().into());
        let settings = Settings {
            choice: self.choice.map_or(Choice::Policy, Choice::Picker),
            auth,
            retry,
            hedge: self.hedge,
            checks: self.checks.map(|checks| Arc::new(checks.aimed(&authority, &user_agent))),
            request_timeout: self.request_timeout,
            body_timeout: self.body_timeout,
            redirects: self.redirects,
            allow_plaintext: self.allow_plaintext,
            authority,
            user_agent,
            whole_timeout: self
                .request_timeout
                .map(|limit| peerage_balance::deadline::to_millis(limit).into()),
        };
        let budget = self.budget.map(|policy| Arc::new(Budget::new(&policy)));
        let meters = Meters::new(discovery.service_type(), settings.choice.policy(balance.policy), own_zone);
        Ok(Client {
            shared: Arc::new(Shared {
                settings,
                members: Arc::new(Members::new(discovery, dialer, balance, budget, meters)),
                hedging: std::sync::OnceLock::new(),
                losers: std::sync::Mutex::default(),
                running: Arc::new(Running::new(self.max_in_flight)),
                follower: std::sync::Mutex::new(None),
                owns_discovery,
                warned: std::sync::atomic::AtomicBool::new(false),
            }),
        })
    }
}

fn dialer_and_auth(
    dialer: Option<Arc<dyn Dialer>>,
    way: Way,
    connect_timeout: Option<Duration>,
    per_try: Option<Duration>,
) -> Result<(Arc<dyn Dialer>, Auth), ConfigError> {
    #[cfg(feature = "zap")]
    let by_default = || {
        let limit = connect_timeout.unwrap_or(Duration::from_secs(3));
        // Who gives an attempt less time than a connection would learn nothing from the latter.
        crate::ZapDialer::new().connect_timeout(per_try.map_or(limit, |per_try| per_try.min(limit)))
    };
    if dialer.is_some() && connect_timeout.is_some() {
        let why = "only for the default dialer: set it on yours";
        return Err(ConfigError::Setting { setting: "connect_timeout", why });
    }
    let auth = match way {
        Way::None | Way::PlaintextLocalTrust => Auth::None,
        Way::Bearer(bearer) => Auth::Bearer(bearer),
        Way::Attacher(attacher) => Auth::Attacher(attacher),
        #[cfg(feature = "zap")]
        Way::LocalTrust(trust) => {
            let dialer: Arc<dyn Dialer> = match dialer {
                None => {
                    let (tls, names) = trust.into_parts();
                    Arc::new(by_default().tls(tls, names))
                }
                Some(dialer) => match dialer.security() {
                    crate::Security::Verified { client_identity: true } => dialer,
                    crate::Security::Verified { .. } => {
                        return Err(ConfigError::LocalTrust { why: "the dialer shows no certificate" });
                    }
                    _ => return Err(ConfigError::LocalTrust { why: "the dialer does not verify peers" }),
                },
            };
            return Ok((dialer, Auth::None));
        }
    };
    match dialer {
        Some(dialer) => Ok((dialer, auth)),
        #[cfg(feature = "zap")]
        None => Ok((Arc::new(by_default()), auth)),
        #[cfg(not(feature = "zap"))]
        None => {
            let _ = per_try;
            Err(ConfigError::Setting { setting: "dialer", why: "this build has no default one" })
        }
    }
}

/// The source of peers, and whether we made it.
fn open(source: Source, service: &ServiceType) -> Result<(Arc<dyn Discovery>, bool), ConfigError> {
    match source {
        Source::Given(discovery) => Ok((discovery, false)),
        Source::Text(uris) => by_text(&uris, service).map(|discovery| (discovery, true)),
        #[cfg(feature = "mdns")]
        Source::Default => by_text("mdns:", service).map(|discovery| (discovery, true)),
        #[cfg(not(feature = "mdns"))]
        Source::Default => Err(ConfigError::NoSource),
    }
}

fn by_text(uris: &str, service: &ServiceType) -> Result<Arc<dyn Discovery>, ConfigError> {
    peerage_discovery::open(uris, Some(service), OpenOptions::default()).map_err(ConfigError::Discovery)
}

/// 128 random bits.
fn random_id() -> String {
    let random = Generator::from_system();
    format!("{:016x}{:016x}", random.next_u64(), Generator::from_system().next_u64())
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Named one by one, so that a new field is thought about: what has a secret is not shown.
        let Self {
            service,
            source,
            choice,
            policy,
            health,
            warmup,
            zone,
            budget,
            hedge,
            checks,
            dialer,
            auth,
            conflict: _,
            min_peers,
            discover_timeout,
            request_timeout,
            body_timeout,
            connect_timeout,
            per_try,
            retry,
            redirects,
            client_id,
            max_in_flight,
            allow_plaintext,
            seed: _,
        } = self;
        f.debug_struct("ClientBuilder")
            .field("service", &service.as_ref().ok())
            .field(
                "source",
                &match source {
                    Source::Default => "default",
                    Source::Given(_) => "given",
                    Source::Text(_) => "text",
                },
            )
            .field("has_picker", &choice.is_some())
            .field("policy", policy)
            .field("health", health)
            .field("warmup", warmup)
            .field("zone", zone)
            .field("budget", budget)
            .field("hedge", hedge)
            .field("checks", checks)
            .field("dialer", dialer)
            .field("auth", &auth.name())
            .field("min_peers", min_peers)
            .field("discover_timeout", discover_timeout)
            .field("request_timeout", request_timeout)
            .field("body_timeout", body_timeout)
            .field("connect_timeout", connect_timeout)
            .field("per_try", per_try)
            .field("retry", retry)
            .field("redirects", redirects)
            .field("client_id", client_id)
            .field("max_in_flight", max_in_flight)
            .field("allow_plaintext", allow_plaintext)
            .finish()
    }
}
