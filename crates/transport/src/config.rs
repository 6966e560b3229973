//! What a proxy is told before the first request.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::HeaderMap;
use rustls_pki_types::CertificateDer;
use url::Url;

use crate::cache::NodeCache;
use crate::error::{BoxError, ConfigError};
use crate::replicas::Replica;
use crate::wire::{Connect, ProxySettings};

/// What is known about a repository before the first request.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct NodeConfig {
    /// Base URLs of replicas, as they were learned. They pass the filters of transport §3 before use.
    pub initial_nodes: Vec<String>,
    /// Origin of the cluster's entry domain, normally `https://<cluster host>`; `None`: there is none.
    pub entry_url: Option<String>,
    /// The host that the user typed, with or without a port: the trust domain. `None`: nothing is
    /// enforced, which is for tests.
    pub cluster_host: Option<String>,
    /// The key in the cache: the path without slashes around it. Empty: nothing is cached.
    pub repo_path: String,
}

impl NodeConfig {
    /// What a remote URL says, and the replicas that `cache` remembers for it. No network.
    ///
    /// # Errors
    ///
    /// [`ConfigError::RemoteUrl`] if the URL has no host.
    pub fn resolve(remote_url: &Url, cache: Option<&NodeCache>) -> Result<Self, ConfigError> {
        let host = remote_url.host_str().filter(|host| !host.is_empty()).ok_or(ConfigError::RemoteUrl)?;
        let cluster_host = match remote_url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let repo_path = remote_url.path().trim_matches('/').to_owned();
        let initial_nodes =
            cache.and_then(|cache| cache.lookup(&cluster_host, &repo_path)).unwrap_or_default();
        let entry_url = Some(format!("https://{cluster_host}"));
        Ok(Self { initial_nodes, entry_url, cluster_host: Some(cluster_host), repo_path })
    }

    /// Whether replicas that are learned are remembered on disk.
    pub fn caching(&self) -> bool {
        !self.repo_path.is_empty()
    }
}

/// Attaches the credential to a request that is about to be sent.
///
/// Called for each request that starts at a replica or the entry domain, after the host and the scheme
/// of `head.uri` passed the filters, and again, from scratch, for the one retry after a 401. Redirects
/// inside the cluster carry what the first request had; redirects out of it lose every header that this
/// set or changed. Any closure from `&mut Parts` to a result is one.
#[async_trait]
pub trait SetAuth: Send + Sync + 'static {
    /// Adds headers to `head`.
    ///
    /// # Errors
    ///
    /// Any. It ends the operation, comes back as the source of [`ProxyError::Auth`](crate::ProxyError::Auth)
    /// with its own type, and says nothing about a replica.
    async fn set_auth(&self, head: &mut http::request::Parts) -> Result<(), BoxError>;
}

#[async_trait]
impl<F> SetAuth for F
where
    F: Fn(&mut http::request::Parts) -> Result<(), BoxError> + Send + Sync + 'static,
{
    async fn set_auth(&self, head: &mut http::request::Parts) -> Result<(), BoxError> {
        self(head)
    }
}

/// What a redirect rule of the embedder's own says of a hop that the built-in rules allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "there is no third way")]
pub enum Hop {
    /// Go there.
    Follow,
    /// Do not go there: the redirect itself is the answer.
    Stop,
}

type OnNodeFailed = Arc<dyn Fn(&Replica) + Send + Sync>;
type OnUnauthorized = Arc<dyn Fn() + Send + Sync>;
type OnChallenge = Arc<dyn Fn(&HeaderMap) + Send + Sync>;
type OwnRedirectRule = Arc<dyn Fn(&[Url], &Url) -> Result<Hop, BoxError> + Send + Sync>;

/// The settings of a [`Proxy`](crate::Proxy).
///
/// Defaults: certificates checked against the system's roots, no credential, no cache, 4 s to connect
/// (10 s to the entry domain), 10 s to the head of a ref advertisement (30 s from the entry domain), 60 s
/// of silence inside an answer, the next replica's connect after 250 ms.
#[derive(Clone)]
#[must_use = "settings do nothing until `Proxy::new`"]
pub struct Config {
    pub(crate) nodes: NodeConfig,
    pub(crate) path: String,
    pub(crate) skip_tls: bool,
    pub(crate) roots: Option<Vec<CertificateDer<'static>>>,
    pub(crate) set_auth: Option<Arc<dyn SetAuth>>,
    pub(crate) on_node_failed: Option<OnNodeFailed>,
    pub(crate) on_unauthorized: Option<OnUnauthorized>,
    pub(crate) on_challenge: Option<OnChallenge>,
    pub(crate) redirect_rule: Option<OwnRedirectRule>,
    pub(crate) user_agent: Option<String>,
    pub(crate) allow_loopback_http: Option<bool>,
    pub(crate) cache: Option<NodeCache>,
    pub(crate) timeouts: Timeouts,
    pub(crate) proxies: ProxySettings,
    pub(crate) pinned: HashMap<(String, u16), SocketAddr>,
    pub(crate) connector: Option<Arc<dyn Connect>>,
    pub(crate) prefer_fast: bool,
}

/// Every wait of a proxy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    pub(crate) connect: Duration,
    pub(crate) probe_connect: Duration,
    pub(crate) head: Option<Duration>,
    pub(crate) cold_head: Option<Duration>,
    pub(crate) idle: Option<Duration>,
    pub(crate) stagger: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: CONNECT,
            probe_connect: PROBE_CONNECT,
            head: Some(Duration::from_secs(10)),
            cold_head: Some(Duration::from_secs(30)),
            idle: Some(Duration::from_secs(60)),
            stagger: Duration::from_millis(250),
        }
    }
}

impl Config {
    /// Settings for the repository at `path` on every replica, such as `/et/project/repo`.
    pub fn new(nodes: NodeConfig, path: impl Into<String>) -> Self {
        Self {
            nodes,
            path: path.into(),
            skip_tls: false,
            roots: None,
            set_auth: None,
            on_node_failed: None,
            on_unauthorized: None,
            on_challenge: None,
            redirect_rule: None,
            user_agent: None,
            allow_loopback_http: None,
            cache: None,
            timeouts: Timeouts::default(),
            proxies: ProxySettings::default(),
            pinned: HashMap::new(),
            connector: None,
            prefer_fast: false,
        }
    }

    /// Attaches the credential. Default: none is sent.
    pub fn set_auth(mut self, hook: impl SetAuth) -> Self {
        self.set_auth = Some(Arc::new(hook));
        self
    }

    /// Is told of each replica once, when it is marked failed (transport §7.3).
    pub fn on_node_failed(mut self, hook: impl Fn(&Replica) + Send + Sync + 'static) -> Self {
        self.on_node_failed = Some(Arc::new(hook));
        self
    }

    /// Is called for each 401 that any request receives, before the retry: time to forget the credential.
    pub fn on_unauthorized(mut self, hook: impl Fn() + Send + Sync + 'static) -> Self {
        self.on_unauthorized = Some(Arc::new(hook));
        self
    }

    /// Is given the headers of each 401 that a host of the cluster answers, before
    /// [`on_unauthorized`](Self::on_unauthorized) is called: `WWW-Authenticate` says what is wanted. What a
    /// host outside the cluster wants is nobody's concern, for it gets no credential.
    pub fn on_challenge(mut self, hook: impl Fn(&HeaderMap) + Send + Sync + 'static) -> Self {
        self.on_challenge = Some(Arc::new(hook));
        self
    }

    /// A rule for redirects that comes after the built-in ones and cannot loosen them.
    ///
    /// It gets the chain so far and the next URL.
    pub fn redirect_rule(
        mut self,
        rule: impl Fn(&[Url], &Url) -> Result<Hop, BoxError> + Send + Sync + 'static,
    ) -> Self {
        self.redirect_rule = Some(Arc::new(rule));
        self
    }

    /// Replaces the `User-Agent` of every request. Default: no request has one.
    pub fn user_agent(mut self, value: impl Into<String>) -> Self {
        self.user_agent = Some(value.into());
        self
    }

    /// Accepts any certificate. Changes nothing about hosts and schemes: it is no permission for plain
    /// HTTP (S-065). Default off.
    pub fn danger_skip_tls_verification(mut self, skip: bool) -> Self {
        self.skip_tls = skip;
        self
    }

    /// Trusts these certificates instead of the system's.
    pub fn tls_roots(mut self, roots: impl IntoIterator<Item = CertificateDer<'static>>) -> Self {
        self.roots = Some(roots.into_iter().collect());
        self
    }

    /// Whether plain HTTP to this machine is allowed. Default: if the entry URL is that itself. For
    /// tests, and embedders without an entry URL.
    pub fn allow_loopback_http(mut self, allow: bool) -> Self {
        self.allow_loopback_http = Some(allow);
        self
    }

    /// Remembers replicas on disk. Default: nothing is remembered.
    pub fn cache(mut self, cache: NodeCache) -> Self {
        self.cache = Some(cache);
        self
    }

    /// For name lookup, TCP and TLS together: 4 s by default.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.timeouts.connect = limit;
        self
    }

    /// The same for the first contact with the entry domain, which has nobody to fail over to: 10 s.
    pub fn probe_connect_timeout(mut self, limit: Duration) -> Self {
        self.timeouts.probe_connect = limit;
        self
    }

    /// From sending the request for a ref advertisement to the head of its answer: 10 s by default.
    pub fn head_timeout(mut self, limit: Option<Duration>) -> Self {
        self.timeouts.head = limit;
        self
    }

    /// The same for the entry domain: 30 s by default.
    pub fn cold_head_timeout(mut self, limit: Option<Duration>) -> Self {
        self.timeouts.cold_head = limit;
        self
    }

    /// Silence inside an answer's body: 60 s by default.
    pub fn idle_timeout(mut self, limit: Option<Duration>) -> Self {
        self.timeouts.idle = limit;
        self
    }

    /// After how long the next replica is connected to as well, if one is slow: 250 ms by default. Only
    /// connects race; at most one request is under way.
    pub fn connect_race_delay(mut self, delay: Duration) -> Self {
        self.timeouts.stagger = delay;
        self
    }

    /// Starts at the faster of two random replicas instead of a random one (GB-13). Default off.
    pub fn prefer_fast_replicas(mut self, prefer: bool) -> Self {
        self.prefer_fast = prefer;
        self
    }

    /// Forward proxies. Default: none; a library reads no environment.
    pub fn proxies(mut self, proxies: ProxySettings) -> Self {
        self.proxies = proxies;
        self
    }

    /// Takes `address` for `host:port` instead of a name lookup.
    pub fn pin_address(mut self, host: impl Into<String>, port: u16, address: SocketAddr) -> Self {
        self.pinned.insert((host.into(), port), address);
        self
    }

    /// Opens connections in another way: a simulated network, a tunnel.
    pub fn connector(mut self, connector: Arc<dyn Connect>) -> Self {
        self.connector = Some(connector);
        self
    }

    /// Both connect budgets as `ENTIRE_CONNECT_TIMEOUT_SECONDS` sets them.
    pub fn connect_budgets(self, budgets: ConnectBudgets) -> Self {
        self.connect_timeout(budgets.ordinary).probe_connect_timeout(budgets.probe)
    }
}

/// Shows no credential: hooks, roots and proxies appear as being there or not.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            nodes,
            path,
            skip_tls,
            roots,
            set_auth,
            on_node_failed,
            on_unauthorized,
            on_challenge,
            redirect_rule,
            user_agent,
            allow_loopback_http,
            cache,
            timeouts,
            proxies,
            pinned,
            connector,
            prefer_fast,
        } = self;
        let NodeConfig { initial_nodes, entry_url, cluster_host, repo_path } = nodes;
        let shown = |raw: &String| crate::debug::redact_urls(raw);
        f.debug_struct("Config")
            .field("initial_nodes", &initial_nodes.iter().map(shown).collect::<Vec<_>>())
            .field("entry_url", &entry_url.as_ref().map(shown))
            .field("cluster_host", cluster_host)
            .field("repo_path", repo_path)
            .field("path", path)
            .field("skip_tls", skip_tls)
            .field("roots", &roots.as_ref().map_or(0, Vec::len))
            .field("set_auth", &set_auth.is_some())
            .field("on_node_failed", &on_node_failed.is_some())
            .field("on_unauthorized", &on_unauthorized.is_some())
            .field("on_challenge", &on_challenge.is_some())
            .field("redirect_rule", &redirect_rule.is_some())
            .field("user_agent", user_agent)
            .field("allow_loopback_http", allow_loopback_http)
            .field("cache", cache)
            .field("timeouts", timeouts)
            .field("proxies", proxies)
            .field("pinned", &pinned.len())
            .field("connector", connector)
            .field("prefer_fast", prefer_fast)
            .finish()
    }
}

const CONNECT: Duration = Duration::from_secs(4);
const PROBE_CONNECT: Duration = Duration::from_secs(10);
/// S-251: no number of seconds from the environment is more than a day.
const MAX_SECONDS: u64 = 86_400;

/// How long connecting may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectBudgets {
    /// For every request but the one below.
    pub ordinary: Duration,
    /// For the first contact with the entry domain.
    pub probe: Duration,
}

impl ConnectBudgets {
    /// The value of `ENTIRE_CONNECT_TIMEOUT_SECONDS`, if it is set (transport §6).
    ///
    /// A positive decimal number replaces both budgets, also when it is smaller; more than a day is a
    /// day. Unset or empty: the defaults. Anything else: the defaults, and a warning to show once.
    pub fn from_variable(value: Option<&str>) -> (Self, Option<String>) {
        let defaults = Self { ordinary: CONNECT, probe: PROBE_CONNECT };
        let Some(value) = value.filter(|value| !value.is_empty()) else { return (defaults, None) };
        let digits = value.bytes().all(|byte| byte.is_ascii_digit());
        // Too many digits for a number are still a number over the limit.
        let seconds = if digits { value.parse().unwrap_or(MAX_SECONDS) } else { 0 };
        if seconds == 0 {
            let shown = crate::text::one_line(value);
            let warning = format!(
                "ENTIRE_CONNECT_TIMEOUT_SECONDS={shown} is not a positive number of seconds; it is ignored"
            );
            return (defaults, Some(warning));
        }
        let budget = Duration::from_secs(seconds.min(MAX_SECONDS));
        (Self { ordinary: budget, probe: budget }, None)
    }
}

impl Default for ConnectBudgets {
    fn default() -> Self {
        Self { ordinary: CONNECT, probe: PROBE_CONNECT }
    }
}

/// Where the cache lives: `$XDG_CACHE_HOME/entire` if that is set, absolute and not empty, else
/// `<home>/.cache/entire`; `None` without either (transport §5.1, S-240).
pub fn cache_directory(xdg_cache_home: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    let absolute = |path: &PathBuf| path.is_absolute();
    xdg_cache_home
        .filter(absolute)
        .or_else(|| home.filter(absolute).map(|home| home.join(".cache")))
        .map(|directory| directory.join("entire"))
}
