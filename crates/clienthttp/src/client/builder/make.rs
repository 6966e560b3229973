//! From settings to a client.

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, uri::Authority};
use peerage_balance::{Budget, Generator, Settings as BalanceSettings};
use peerage_discovery::{Discovery, DiscoveryError, OpenOptions, ServiceType};
use tokio::time::{Instant, timeout};

use super::{ClientBuilder, DEFAULT_TIMEOUT, Source, Way};
use crate::{
    BuildError, Checks, Client, ConfigError, Dialer,
    client::{
        Auth, Choice, Settings, Shared, members::Members, metrics::Meters, queue::Queue, running::Running,
    },
};

/// A year.
const LONGEST_WAIT: Duration = Duration::from_secs(365 * 86_400);

impl ClientBuilder {
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
        // A limit beyond all time is one that nobody lives to see.
        let (want, limit) = (self.min_peers, self.discover_timeout.min(LONGEST_WAIT));
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
        if self.max_in_flight_per_peer == 0 {
            return Err(setting("max_in_flight_per_peer", "at least 1"));
        }
        let client_id = self.client_id.unwrap_or_else(random_id);
        let user_agent = format!("peerage/{} ({client_id})", env!("CARGO_PKG_VERSION"));
        let user_agent = HeaderValue::try_from(user_agent)
            .map_err(|_| setting("client_id", "only characters that a header value may have"))?;
        let authority = Authority::try_from(service.base())
            .map_err(|_| setting("service", "a name that can be a host name"))?;

        if self.dialer.is_none() && self.checks.as_ref().is_some_and(Checks::need_http2) {
            let why = "a dialer that speaks HTTP/2, such as HttpDialer::http2(), for checks by gRPC";
            return Err(setting("checks", why));
        }
        let (dialer, auth) =
            dialer_and_auth(self.dialer, self.auth, self.connect_timeout, retry.per_try_limit())?;
        let (discovery, owns_discovery) = open(self.source, &service)?;
        let balance = BalanceSettings {
            policy: self.policy,
            seed: self.seed,
            health: self.health,
            warmup: self.warmup,
            zone: self.zone,
            limit: self.max_in_flight_per_peer,
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
            begins_traces: self.begins_traces,
            allow_plaintext: self.allow_plaintext,
            authority,
            user_agent,
            whole_timeout: self.request_timeout.map(timeout_value),
        };
        let budget = self.budget.map(|policy| Arc::new(Budget::new(&policy)));
        let queue =
            Some(self.queue_wait).filter(|wait| !wait.is_zero()).map(|wait| Arc::new(Queue::new(wait)));
        let drain = self.drain;
        let meters = Meters::new(discovery.service_type(), settings.choice.policy(balance.policy), own_zone);
        Ok(Client {
            shared: Arc::new(Shared {
                settings,
                members: Arc::new(Members::new(discovery, dialer, balance, budget, meters, drain, queue)),
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

/// What the header says of so much time. The default has no owner, so that calls do not count one up and down.
fn timeout_value(limit: Duration) -> HeaderValue {
    if limit == DEFAULT_TIMEOUT {
        return HeaderValue::from_static("30000");
    }
    peerage_balance::deadline::to_millis(limit).into()
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
