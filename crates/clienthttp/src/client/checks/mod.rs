//! Active checks: asking peers whether they are well, beside the calls (B-3.7).

#[cfg(feature = "grpc")]
mod grpc;

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use http::{HeaderValue, Method, Request, Uri, header::USER_AGENT, request::Parts, uri::Authority};
use peerage_balance::{PeerKey, next_check_of};
use tokio::{task::JoinSet, time::Instant};

use super::members::{Member, Members};
use crate::{Body, ConfigError, dial::On};

/// The most checks of a client at once.
const MOST: usize = 16;

/// How peers are asked whether they are well, beside the calls. A peer that fails three times in a row gets no
/// calls until it passes twice. Off unless given to [`ClientBuilder::checks`](crate::ClientBuilder::checks):
/// calls themselves find out soon enough, but where there are few.
///
/// | setting | default |
/// |---|---|
/// | every | 10 s, a tenth more or less at random |
/// | timeout | 1 s |
#[derive(Clone)]
pub struct Checks {
    kind: Kind,
    every: Duration,
    timeout: Duration,
}

#[derive(Clone)]
enum Kind {
    Connect,
    Get(Box<Parts>),
    #[cfg(feature = "grpc")]
    Grpc(grpc::Question),
}

/// What a check came to.
enum Found {
    Passed,
    Failed,
    /// The peer said it, and may say more.
    #[cfg(feature = "grpc")]
    Told {
        serves: bool,
        more: grpc::Words,
    },
    /// The peer cannot be checked like that.
    #[cfg(feature = "grpc")]
    Unasked,
}

impl From<bool> for Found {
    fn from(passed: bool) -> Self {
        if passed { Self::Passed } else { Self::Failed }
    }
}

impl Checks {
    /// A connection must come up, TLS and all. Peers whose dialer cannot tell always pass.
    #[must_use]
    pub fn connect() -> Self {
        Self { kind: Kind::Connect, every: Duration::from_secs(10), timeout: Duration::from_secs(1) }
    }

    /// A GET of this path, such as `/healthz`, must be answered with 200. No credentials are sent.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Setting`] if it is no path.
    pub fn get(path: &str) -> Result<Self, ConfigError> {
        let why = "a path that begins with a slash";
        let bad = || ConfigError::Setting { setting: "checks", why };
        let uri: Uri = path.parse().map_err(|_| bad())?;
        if uri.authority().is_some() || !path.starts_with('/') || path.starts_with("//") {
            return Err(bad());
        }
        let mut request = Request::new(());
        (*request.method_mut(), *request.uri_mut()) = (Method::GET, uri);
        Ok(Self { kind: Kind::Get(Box::new(request.into_parts().0)), ..Self::connect() })
    }

    /// The peer must say that it serves this service, by the health protocol of gRPC; with an empty name, that
    /// it serves at all. It needs a dialer that speaks HTTP/2, such as `HttpDialer::http2`. No credentials
    /// are sent.
    ///
    /// What a peer says is believed at once, and it is listened to between the checks: one that says
    /// `NOT_SERVING`, such as while it shuts down, gets no more calls. Only silence must be repeated three
    /// times to count. A peer that does not know the protocol (`UNIMPLEMENTED`) counts as serving and is not
    /// asked again.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Setting`] if the name is longer than 4 KiB.
    #[cfg(feature = "grpc")]
    pub fn grpc(service: &str) -> Result<Self, ConfigError> {
        Ok(Self { kind: Kind::Grpc(grpc::Question::new(service)?), ..Self::connect() })
    }

    /// How often each peer is checked: 100 ms to an hour.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Setting`] outside that range.
    pub fn every(self, every: Duration) -> Result<Self, ConfigError> {
        let fits = (Duration::from_millis(100)..=Duration::from_secs(3_600)).contains(&every);
        let why = "every 100 ms to every hour";
        fits.then_some(Self { every, ..self }).ok_or(ConfigError::Setting { setting: "checks", why })
    }

    /// How long a check may take: 1 ms to a minute.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Setting`] outside that range.
    pub fn timeout(self, timeout: Duration) -> Result<Self, ConfigError> {
        let fits = (Duration::from_millis(1)..=Duration::from_secs(60)).contains(&timeout);
        let why = "a timeout of 1 ms to a minute";
        fits.then_some(Self { timeout, ..self }).ok_or(ConfigError::Setting { setting: "checks", why })
    }

    /// For a service of that name, by a client that calls itself that.
    pub(super) fn aimed(mut self, authority: &Authority, user_agent: &HeaderValue) -> Self {
        let head = match &mut self.kind {
            Kind::Connect => None,
            Kind::Get(head) => Some(&mut **head),
            #[cfg(feature = "grpc")]
            Kind::Grpc(question) => Some(question.head_mut()),
        };
        if let Some(head) = head {
            let mut uri = std::mem::take(&mut head.uri).into_parts();
            uri.scheme = Some(http::uri::Scheme::HTTP);
            uri.authority = Some(authority.clone());
            head.uri = Uri::from_parts(uri).unwrap_or_default();
            head.headers.insert(USER_AGENT, user_agent.clone());
        }
        self
    }

    /// Whether they are made over a protocol that the usual dialer does not speak.
    pub(super) const fn need_http2(&self) -> bool {
        match &self.kind {
            Kind::Connect | Kind::Get(_) => false,
            #[cfg(feature = "grpc")]
            Kind::Grpc(_) => true,
        }
    }

    async fn find(&self, members: &Members, member: &Member) -> Found {
        let until = Instant::now() + self.timeout;
        let Ok(channel) = member.attached().channel(&*members.dialer, member.peer()) else {
            return Found::Failed;
        };
        match &self.kind {
            Kind::Connect => channel.try_connect(until).await.unwrap_or(true).into(),
            Kind::Get(head) => {
                let answer = channel.send(head, Body::empty(), On::Any, until.into(), |_| {}).await;
                answer.is_ok_and(|answer| answer.status() == http::StatusCode::OK).into()
            }
            #[cfg(feature = "grpc")]
            Kind::Grpc(question) => match question.ask(channel, until).await {
                grpc::Word::Said { serves, more } => Found::Told { serves, more },
                grpc::Word::Unimplemented => Found::Unasked,
                grpc::Word::Nothing => Found::Failed,
            },
        }
    }
}

impl fmt::Debug for Checks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = match &self.kind {
            Kind::Connect => None,
            Kind::Get(head) => Some(head.uri.path()),
            #[cfg(feature = "grpc")]
            Kind::Grpc(_) => Some("grpc.health.v1"),
        };
        f.debug_struct("Checks")
            .field("path", &path)
            .field("every", &self.every)
            .field("timeout", &self.timeout)
            .finish()
    }
}

/// Who is checked when.
pub(super) struct Checker {
    checks: Arc<Checks>,
    due: HashMap<PeerKey, u64>,
    running: JoinSet<(Arc<Member>, Found)>,
    /// Who says more when there is more to say.
    #[cfg(feature = "grpc")]
    heard: HashMap<PeerKey, Listening>,
}

/// Listens until it is let go.
#[cfg(feature = "grpc")]
struct Listening(tokio::task::AbortHandle);

#[cfg(feature = "grpc")]
impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// When a peer is checked that is not to be asked again.
const NEVER: u64 = u64::MAX;

impl Checker {
    pub(super) fn new(checks: Arc<Checks>) -> Self {
        Self {
            checks,
            due: HashMap::new(),
            running: JoinSet::new(),
            #[cfg(feature = "grpc")]
            heard: HashMap::new(),
        }
    }

    /// When [`run`](Self::run) has something to do.
    pub(super) fn due(&mut self, members: &Members) -> Option<u64> {
        let (set, now, random) = (members.balancer().set(), members.now(), members.balancer().random());
        let is_member = |key: &PeerKey| set.members().iter().any(|member| member.key() == key);
        self.due.retain(|key, _| is_member(key));
        #[cfg(feature = "grpc")]
        self.heard.retain(|key, _| is_member(key));
        for member in set.members() {
            // The first ones are spread over the whole interval.
            self.due
                .entry(member.key().clone())
                .or_insert_with(|| next_check_of(self.checks.nanos(), now, true, random.next_u64()));
        }
        let due = self.due.values().min().copied().filter(|due| *due != NEVER);
        due.filter(|_| self.running.len() < MOST)
    }

    /// Begins the checks that are due.
    pub(super) fn run(&mut self, members: &Arc<Members>) {
        let (set, now) = (members.balancer().set(), members.now());
        for member in set.members() {
            let Some(due) = self.due.get_mut(member.key()).filter(|due| **due <= now) else { continue };
            if self.running.len() >= MOST {
                return;
            }
            *due = next_check_of(self.checks.nanos(), now, false, members.balancer().random().next_u64());
            let (checks, members, member) = (self.checks.clone(), Arc::clone(members), Arc::clone(member));
            self.running.spawn(async move {
                let found = checks.find(&members, &member).await;
                (member, found)
            });
        }
    }

    /// Resolves when a check has ended, and takes down what it found. Cancel safe.
    pub(super) async fn ended(&mut self, members: &Arc<Members>) {
        match self.running.join_next().await {
            Some(Ok((member, found))) => self.note(members, member, found),
            // Nobody aborts them, and a panic is told by its hook.
            Some(Err(_)) => {}
            None => std::future::pending().await,
        }
    }

    fn note(&mut self, members: &Arc<Members>, member: Arc<Member>, found: Found) {
        let balancer = members.balancer();
        match found {
            Found::Passed => balancer.checked(&member, true, members.now()),
            Found::Failed => balancer.checked(&member, false, members.now()),
            #[cfg(feature = "grpc")]
            Found::Unasked => {
                self.due.insert(member.key().clone(), NEVER);
                balancer.told(&member, true, members.now());
            }
            #[cfg(feature = "grpc")]
            Found::Told { serves, mut more } => {
                balancer.told(&member, serves, members.now());
                let (key, members) = (member.key().clone(), Arc::clone(members));
                let listening = async move {
                    while let Some(serves) = more.next_while_it_lasts().await {
                        members.balancer().told(&member, serves, members.now());
                        members.tell();
                    }
                };
                // It takes the place of the one that was heard before.
                self.heard.insert(key, Listening(tokio::spawn(listening).abort_handle()));
            }
        }
        members.tell();
    }
}

impl Checks {
    /// The interval. An hour in nanoseconds fits.
    fn nanos(&self) -> u64 {
        u64::try_from(self.every.as_nanos()).unwrap_or(u64::MAX)
    }
}
