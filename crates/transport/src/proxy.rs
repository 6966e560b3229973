//! The proxy: what one repository's requests share.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use url::Url;

use crate::answer::{self, AnswerBody};
use crate::body::ReplayBody;
use crate::cache::Remembered;
use crate::config::{Config, Timeouts};
use crate::error::{ConfigError, ProxyError, http_error_message, push_too_large};
use crate::exchange::{Exchange, Kind, Operation};
use crate::failover::{LastTarget, Pace};
use crate::replicas::Replica;
use crate::trust::{self, Host};
use crate::wire::tls_roots;
use crate::wire::{AddressFamily, Connect, Family, Net, NetSettings};

/// Which half of Git's smart HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "Git has these two")]
pub enum Service {
    /// `git-upload-pack`: clone and fetch. Changes nothing on the server.
    UploadPack,
    /// `git-receive-pack`: push.
    ReceivePack,
}

impl Service {
    /// `git-upload-pack` or `git-receive-pack`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UploadPack => "git-upload-pack",
            Self::ReceivePack => "git-receive-pack",
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// No service of Git's smart HTTP has this name.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("neither git-upload-pack nor git-receive-pack")]
#[non_exhaustive]
pub struct UnknownService;

impl FromStr for Service {
    type Err = UnknownService;

    fn from_str(name: &str) -> Result<Self, UnknownService> {
        match name {
            "git-upload-pack" => Ok(Self::UploadPack),
            "git-receive-pack" => Ok(Self::ReceivePack),
            _ => Err(UnknownService),
        }
    }
}

/// One repository, served by a set of replicas.
///
/// Clones share everything: the replicas, the connections, and what was learned. Any number of tasks may
/// use one at the same time. Dropping the last clone closes its idle connections, and gives up writing
/// the cache; [`close`](Self::close) waits for that.
#[derive(Clone)]
pub struct Proxy {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) path: String,
    pub(crate) entry: Option<Url>,
    /// `None`: no trust domain is enforced.
    pub(crate) cluster: Option<Host>,
    pub(crate) cluster_text: Option<String>,
    pub(crate) loopback_http: bool,
    https_seen: AtomicBool,

    /// Replaced as a whole: an operation finishes with the set that it started with.
    nodes: ArcSwap<Vec<Replica>>,
    /// Held while the set is replaced, so that a replica is marked failed once.
    replacing: Mutex<()>,
    sticky: ArcSwapOption<Replica>,
    pub(crate) last_target: ArcSwapOption<LastTarget>,
    pub(crate) pace: Option<Pace>,
    pub(crate) remembered: Option<Remembered>,

    pub(crate) connector: Arc<dyn Connect>,
    family: Arc<Family>,
    pub(crate) timeouts: Timeouts,
    pub(crate) user_agent: Option<HeaderValue>,
    pub(crate) set_auth: Option<Arc<dyn crate::config::SetAuth>>,
    pub(crate) hooks: Hooks,
    pub(crate) plain: Plain,
}

/// What every request for an advertisement is made of, made once.
pub(crate) struct Plain {
    upload_pack: Arc<str>,
    receive_pack: Arc<str>,
    pub(crate) headers: Arc<HeaderMap>,
    pub(crate) body: ReplayBody,
}

impl Plain {
    fn new(path: &str, user_agent: Option<&HeaderValue>) -> Self {
        let of = |service: Service| format!("{path}/info/refs?service={service}").into();
        let mut headers = HeaderMap::new();
        finish_headers(&mut headers, HeaderMap::new(), user_agent);
        Self {
            upload_pack: of(Service::UploadPack),
            receive_pack: of(Service::ReceivePack),
            headers: Arc::new(headers),
            body: ReplayBody::empty(),
        }
    }

    /// Path and query.
    pub(crate) fn of(&self, service: Service) -> &Arc<str> {
        match service {
            Service::UploadPack => &self.upload_pack,
            Service::ReceivePack => &self.receive_pack,
        }
    }
}

/// What the embedder wants to hear of.
#[expect(clippy::type_complexity, reason = "each is one closure")]
pub(crate) struct Hooks {
    on_node_failed: Option<Arc<dyn Fn(&Replica) + Send + Sync>>,
    pub(crate) on_unauthorized: Option<Arc<dyn Fn() + Send + Sync>>,
    pub(crate) on_challenge: Option<Arc<dyn Fn(&HeaderMap) + Send + Sync>>,
    pub(crate) redirect_rule:
        Option<Arc<dyn Fn(&[Url], &Url) -> Result<crate::Hop, crate::BoxError> + Send + Sync>>,
}

impl Proxy {
    /// Checks the settings and filters the replicas known so far. No I/O.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], naming the setting that cannot be honoured.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        let Config { nodes, path, skip_tls, roots, timeouts, proxies, pinned, .. } = config;
        let loopback_probe = nodes.entry_url.as_deref().map(entry_url).transpose()?;
        let cluster = match &nodes.cluster_host {
            None => None,
            Some(text) => Some(
                Host::typed(trust::strip_port(text))
                    .ok_or_else(|| ConfigError::ClusterHost { host: text.clone() })?,
            ),
        };
        let user_agent = match &config.user_agent {
            None => None,
            Some(value) => Some(HeaderValue::from_str(value).map_err(|_| ConfigError::UserAgent)?),
        };
        if !is_path(&path) {
            return Err(ConfigError::Path { path });
        }
        if cluster.is_none() && config.set_auth.is_some() {
            tracing::warn!("a credential is set, but no cluster host: any host may get it");
        }
        let loopback_http = config
            .allow_loopback_http
            .unwrap_or_else(|| loopback_probe.as_ref().is_some_and(trust::is_loopback_http));
        let family = Arc::<Family>::default();
        let connector = config.connector.unwrap_or_else(|| {
            let roots = tls_roots(skip_tls, roots);
            Arc::new(Net::new(NetSettings { roots, proxies, pinned, family: family.clone() }))
        });
        let remembered = match (&config.cache, &nodes.cluster_host) {
            (Some(cache), Some(cluster)) if nodes.caching() && !cluster.is_empty() => {
                Some(Remembered::new(cache.clone(), cluster.clone(), nodes.repo_path.clone()))
            }
            _ => None,
        };
        let inner = Inner {
            plain: Plain::new(&path, user_agent.as_ref()),
            path,
            entry: loopback_probe,
            cluster,
            cluster_text: nodes.cluster_host.clone(),
            loopback_http,
            https_seen: AtomicBool::new(false),
            nodes: ArcSwap::default(),
            replacing: Mutex::new(()),
            sticky: ArcSwapOption::empty(),
            last_target: ArcSwapOption::empty(),
            pace: config.prefer_fast.then(Pace::default),
            remembered,
            connector,
            family,
            timeouts,
            user_agent,
            set_auth: config.set_auth,
            hooks: Hooks {
                on_node_failed: config.on_node_failed,
                on_unauthorized: config.on_unauthorized,
                on_challenge: config.on_challenge,
                redirect_rule: config.redirect_rule,
            },
        };
        let known = inner.filter(nodes.initial_nodes.iter().filter_map(|raw| {
            let replica = Replica::parse(raw);
            if replica.is_none() {
                tracing::debug!("a known replica is dropped: its URL is unusable");
            }
            replica
        }));
        inner.nodes.store(Arc::new(known));
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Asks for the advertisement of a repository's refs: `GET …/info/refs?service=…`.
    ///
    /// # Errors
    ///
    /// Any [`ProxyError`] but those about pushes.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection in use. It counts against no replica.
    pub async fn info_refs(&self, service: Service) -> Result<AnswerBody, ProxyError> {
        self.inner.info_refs(service, HeaderMap::new()).await
    }

    /// The same for `git-upload-pack` in version 2 of Git's wire protocol.
    ///
    /// # Errors
    ///
    /// As [`info_refs`](Self::info_refs).
    ///
    /// # Cancel safety
    ///
    /// As [`info_refs`](Self::info_refs).
    pub async fn info_refs_v2(&self) -> Result<AnswerBody, ProxyError> {
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static("git-protocol"), HeaderValue::from_static("version=2"));
        self.inner.info_refs(Service::UploadPack, headers).await
    }

    /// Sends one request of a service: `POST …/<service>`.
    ///
    /// `extra_headers` are sent with every attempt and may replace `Accept` and `Content-Type`. The
    /// answer to a push is not over with this: if reading it fails, wrap the error in
    /// [`push_outcome_unknown`](crate::push_outcome_unknown).
    ///
    /// # Errors
    ///
    /// Any [`ProxyError`]. For a push, [`ProxyError::PushOutcomeUnknown`] is the only one after which it
    /// may have been applied.
    ///
    /// # Cancel safety
    ///
    /// A read: dropping the future closes the connection in use and counts against no replica. A push:
    /// *not* cancel safe; part of it may have been sent, and its outcome is unknown.
    pub async fn service_rpc(
        &self,
        service: Service,
        body: impl Into<ReplayBody>,
        extra_headers: HeaderMap,
    ) -> Result<AnswerBody, ProxyError> {
        self.inner.service_rpc(service, body.into(), extra_headers).await
    }

    /// A URL for messages: the first known replica, or the entry URL, and the path; else the path alone.
    pub fn error_base_url(&self) -> String {
        self.inner.error_base_url()
    }

    /// The replicas that are in use now.
    pub fn replicas(&self) -> Vec<Replica> {
        self.inner.nodes.load().to_vec()
    }

    /// Uses only these addresses of names from now on. No effect on a connector of the embedder's own.
    pub fn restrict_addresses(&self, family: AddressFamily) {
        self.inner.family.set(family);
    }

    /// Waits until what was learned is written to the cache, but no longer than `limit`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn close(&self, limit: Duration) {
        if let Some(remembered) = &self.inner.remembered {
            remembered.settle(limit).await;
        }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("path", &self.inner.path)
            .field("cluster_host", &self.inner.cluster_text)
            .field("replicas", &self.inner.nodes.load())
            .finish_non_exhaustive()
    }
}

impl Inner {
    /// Whether a request was aimed at `https` before; from then on nothing else will do.
    pub(crate) fn https_seen(&self) -> bool {
        self.https_seen.load(Ordering::Acquire)
    }

    pub(crate) fn aim_at(&self, url: &Url) {
        if url.scheme() == "https" {
            self.https_seen.store(true, Ordering::Release);
        }
    }

    pub(crate) fn nodes(&self) -> Arc<Vec<Replica>> {
        self.nodes.load_full()
    }

    /// What passes both filters, without repetitions.
    pub(crate) fn filter(&self, replicas: impl IntoIterator<Item = Replica>) -> Vec<Replica> {
        let mut usable = Vec::new();
        for replica in replicas {
            if !self.is_usable(replica.url()) {
                tracing::debug!(peerage.replica = %replica, "replica dropped: outside the cluster, or not https");
            } else if !usable.contains(&replica) && usable.len() < crate::replicas::MAX_REPLICAS {
                usable.push(replica);
            }
        }
        usable
    }

    pub(crate) fn replace_nodes(&self, replicas: Vec<Replica>) {
        let _replacing = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        self.nodes.store(Arc::new(replicas));
    }

    /// Takes the first replica into an empty set.
    pub(crate) fn adopt(&self, replica: Replica) {
        let _replacing = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.nodes.load().is_empty() {
            self.nodes.store(Arc::new(vec![replica]));
        }
    }

    /// Takes a replica out of the set, and tells whoever wants to know: once, however many tasks noticed.
    pub(crate) fn mark_failed(&self, replica: &Replica) {
        let removed = {
            let _replacing = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
            let nodes = self.nodes.load();
            let rest: Vec<Replica> = nodes.iter().filter(|node| *node != replica).cloned().collect();
            let removed = rest.len() < nodes.len();
            if removed {
                self.nodes.store(Arc::new(rest));
            }
            removed
        };
        if removed {
            tracing::debug!(peerage.replica = %replica, "replica failed");
            if let Some(remembered) = &self.remembered {
                remembered.down(replica);
            }
            if let Some(hook) = &self.hooks.on_node_failed {
                hook(replica);
            }
        }
    }

    pub(crate) fn sticky(&self) -> Option<Arc<Replica>> {
        self.sticky.load_full()
    }

    pub(crate) fn stick_to(&self, replica: &Replica) {
        if self.sticky.load().as_deref() != Some(replica) {
            self.sticky.store(Some(Arc::new(replica.clone())));
        }
    }

    fn error_base_url(&self) -> String {
        let base = match self.nodes.load().first() {
            Some(replica) => replica.as_str().to_owned(),
            None => self.entry.as_ref().map(trust::shown).unwrap_or_default(),
        };
        format!("{base}{}", self.path)
    }

    async fn service_rpc(
        &self,
        service: Service,
        body: ReplayBody,
        extra_headers: HeaderMap,
    ) -> Result<AnswerBody, ProxyError> {
        let kind = match service {
            Service::UploadPack => Kind::UploadPack,
            Service::ReceivePack => Kind::Push,
        };
        let mut headers = HeaderMap::new();
        let names = match service {
            Service::UploadPack => {
                ("application/x-git-upload-pack-request", "application/x-git-upload-pack-result")
            }
            Service::ReceivePack => {
                ("application/x-git-receive-pack-request", "application/x-git-receive-pack-result")
            }
        };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(names.0));
        headers.insert(ACCEPT, HeaderValue::from_static(names.1));
        self.finish_headers(&mut headers, extra_headers);
        headers.insert(CONTENT_LENGTH, body.len().into());
        let operation = Operation {
            kind,
            method: Method::POST,
            suffix: format!("{}/{service}", self.path).into(),
            headers: Arc::new(headers),
            body,
            connect_budget: self.timeouts.connect,
            head_limit: None,
        };
        let answer = match self.failover(&operation).await {
            Err(error) if kind == Kind::UploadPack && self.nodes.load().is_empty() && !error.is_ours() => {
                self.rediscover(service, error).await?;
                self.failover(&operation).await?
            }
            other => other?,
        };
        self.conclude(answer, kind).await
    }

    pub(crate) fn finish_headers(&self, headers: &mut HeaderMap, extra: HeaderMap) {
        finish_headers(headers, extra, self.user_agent.as_ref());
    }

    /// A 200 is the caller's body, anything else an error (transport §13.2).
    pub(crate) async fn conclude(&self, answer: Exchange, kind: Kind) -> Result<AnswerBody, ProxyError> {
        let Exchange { head, body, url, .. } = answer;
        if head.status == StatusCode::OK {
            return AnswerBody::new(url, &head, body, self.timeouts.idle);
        }
        let server_msg = answer::error_text(&url, &head, body).await;
        Err(if head.status == StatusCode::PAYLOAD_TOO_LARGE && kind == Kind::Push {
            push_too_large(server_msg)
        } else {
            http_error_message(head.status, server_msg.as_deref(), &self.error_base_url())
        })
    }
}

/// The caller's headers, which may replace ours, and what every request has.
fn finish_headers(headers: &mut HeaderMap, extra: HeaderMap, user_agent: Option<&HeaderValue>) {
    let mut name = None;
    for (next, value) in extra {
        // A name that is left out is the one before: one more value of it.
        match next {
            Some(next) => drop(headers.insert(name.insert(next).clone(), value)),
            None => drop(name.as_ref().map(|name| headers.append(name.clone(), value))),
        }
    }
    if !headers.contains_key(ACCEPT_ENCODING) {
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    }
    if let Some(value) = user_agent {
        headers.insert(USER_AGENT, value.clone());
    }
}

/// The entry URL, if requests can be sent there. Whether they may is asked before each.
fn entry_url(text: &str) -> Result<Url, ConfigError> {
    // The entry URL is typed, so its host may be Unicode; everything else is as strict as for a replica.
    let url = Url::parse(text).map_err(|_| ConfigError::EntryUrl)?;
    let plain = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    let replica = Replica::parse(url.as_str()).ok_or(ConfigError::EntryUrl)?;
    if plain { Ok(replica.url().clone()) } else { Err(ConfigError::EntryUrl) }
}

/// Whether `path` can stand behind a base URL and mean a path there.
fn is_path(path: &str) -> bool {
    path.starts_with('/')
        && path.bytes().all(|byte| (0x21..=0x7e).contains(&byte) && !b"?#\\\"<>^`{|}".contains(&byte))
}
