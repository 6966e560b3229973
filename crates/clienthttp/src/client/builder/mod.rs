//! The settings of a client. What is made of them is in `make`.

mod make;

use std::{fmt, sync::Arc, time::Duration};

use peerage_balance::{BudgetPolicy, Health, HedgePolicy, Policy, RetryPolicy, Warmup, Zone};
use peerage_discovery::{Discovery, ServiceType};

use super::{BodyTimeout, Checks};
#[cfg(doc)]
use crate::Client;
use crate::{AuthAttacher, Bearer, BoxError, ConfigError, Dialer, Picker};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

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
/// | policy | least loaded: of two peers at random the one with fewer calls |
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
/// | calls at once | 100,000, and 1,024 to one peer |
/// | calls to a peer that left | cut after 30 s |
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
    begins_traces: bool,
    drain: Option<Duration>,
    client_id: Option<String>,
    max_in_flight: usize,
    max_in_flight_per_peer: u32,
    queue_wait: Duration,
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
            policy: Policy::default(),
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
            request_timeout: Some(DEFAULT_TIMEOUT),
            body_timeout: BodyTimeout::Covered,
            connect_timeout: None,
            per_try: None,
            retry: RetryPolicy::default(),
            redirects: Redirects::default(),
            begins_traces: false,
            drain: Some(Duration::from_secs(30)),
            client_id: None,
            max_in_flight: 100_000,
            max_in_flight_per_peer: 1_024,
            queue_wait: Duration::ZERO,
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

    /// Chooses peers by this policy. [`Policy::LeastLoaded`] by default, to which a peer that hangs is one
    /// with many calls running; [`Policy::PeakEwma`] also knows how long peers take to answer.
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

    /// Whether a call that belongs to no W3C trace begins one, sampled. Default no.
    ///
    /// A call whose headers hold a `traceparent`, or that serves one that had it, belongs to that trace in any
    /// case. Each attempt is a span of its own: the peer gets its id, and the span `attempt` has it in the
    /// fields `trace_id`, `span_id` and `parent_span_id`.
    pub fn begin_traces(self, on: bool) -> Self {
        Self { begins_traces: on, ..self }
    }

    /// How long calls to a peer that left may go on (B-9.2); `None` for as long as they have. Default 30 s.
    /// What is left then is cut: [`ClientError::Drained`](crate::ClientError::Drained), unless it may be sent
    /// again.
    pub fn drain(self, limit: impl Into<Option<Duration>>) -> Self {
        Self { drain: limit.into(), ..self }
    }

    /// Who we are, for the `User-Agent` of calls that set none. Default random.
    pub fn client_id(self, id: impl Into<String>) -> Self {
        Self { client_id: Some(id.into()), ..self }
    }

    /// The most calls at once; more are refused. Default 100,000.
    pub fn max_in_flight(self, count: usize) -> Self {
        Self { max_in_flight: count, ..self }
    }

    /// The most calls at once to one peer (B-7.1); more go to other peers, and if all have their limit, the call
    /// waits as [`queue_wait`](Self::queue_wait) says, or fails at once with
    /// [`ClientError::Saturated`](crate::ClientError::Saturated). Default 1,024, at least 1.
    ///
    /// # Deviation
    ///
    /// The rules say 64 where each call has a connection of its own (HTTP/1.1, ZAP-HTTP). As nobody queues by
    /// default, the 65th call at once of a client with one peer would then fail, where it costs one more
    /// connection now: who wants the smaller limit sets it.
    pub fn max_in_flight_per_peer(self, count: u32) -> Self {
        Self { max_in_flight_per_peer: count, ..self }
    }

    /// How long a call waits for room while every peer has its limit of calls (B-7.1), within its time. Default
    /// 0: it fails at once.
    ///
    /// First come, first served, and at most 1,024 calls: who finds that many waiting, or has waited for so long, gets
    /// [`ClientError::Saturated`](crate::ClientError::Saturated). It is the first attempt that waits; one that
    /// repeats a call, or that hedges it, does not.
    pub fn queue_wait(self, limit: Duration) -> Self {
        Self { queue_wait: limit, ..self }
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
            begins_traces,
            drain,
            client_id,
            max_in_flight,
            max_in_flight_per_peer,
            queue_wait,
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
            .field("begins_traces", begins_traces)
            .field("drain", drain)
            .field("client_id", client_id)
            .field("max_in_flight", max_in_flight)
            .field("max_in_flight_per_peer", max_in_flight_per_peer)
            .field("queue_wait", queue_wait)
            .field("allow_plaintext", allow_plaintext)
            .finish()
    }
}
