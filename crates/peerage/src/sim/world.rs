//! The other end of the calls: a discovery and a dialer that lead to scripted peers.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use http::{Request, Response};
use peerage_balance::{Generator, Stage, deadline::ATTEMPT_HEADER};
use peerage_clienthttp::{Body, BoxError, Channel, Dialer, ExchangeError, FailureKind, Security};
use peerage_discovery::{
    Discovery, DiscoveryError, Endpoint, LeaveReason, Metadata, Peer, Publisher, Report, ServiceType,
    Snapshot, SourceId, Status, Stopping, Subscription, SuspectWhy,
};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::{Instant, sleep_until};
use tower_service::Service;

use super::log::{Log, What};
use super::report::PeerReport;
use super::script::{Behavior, Does, SimPeer};

/// Connections that a client keeps to one peer for later calls.
const MOST_IDLE: usize = 32;
/// How long a peer is in doubt because a call did not reach it, as with the sources there are (discovery §7).
const DOUBT: Duration = Duration::from_secs(10);
/// Reports about peers that may wait. More come in no time only if many calls fail together.
const REPORTS: usize = 1_024;

/// The number of a call, in the extensions of its requests.
#[derive(Clone, Copy)]
pub(super) struct Number(pub(super) u64);

/// One peer as it is.
pub(super) struct Scripted {
    name: Arc<str>,
    log: Log,
    does: Mutex<Behavior>,
    /// It does something else. Not a `watch`, which wakes those who wait in an order drawn by lot.
    changed: Notify,
    workers: Option<Semaphore>,
    random: Generator,
    /// Connections of the client that wait for a call.
    idle: AtomicUsize,
    connect_timeout: Duration,
    counts: Mutex<PeerReport>,
}

impl Scripted {
    pub(super) fn new(peer: &SimPeer, seed: u64, connect_timeout: Duration, log: &Log) -> Self {
        let name: Arc<str> = peer.name.as_str().into();
        Self {
            log: log.clone(),
            does: Mutex::new(Behavior::hangs()),
            changed: Notify::new(),
            workers: peer.workers.map(Semaphore::new),
            random: Generator::seeded(seed),
            idle: AtomicUsize::new(0),
            connect_timeout,
            counts: Mutex::new(PeerReport::new(&name)),
            name,
        }
    }

    /// The next line of its script.
    pub(super) fn becomes(&self, behavior: &Behavior) {
        self.says(&behavior.to_string());
        if behavior.0 == Does::Refuse {
            self.idle.store(0, Ordering::Relaxed);
        }
        *self.does.lock().unwrap_or_else(PoisonError::into_inner) = behavior.clone();
        self.changed.notify_waiters();
    }

    fn does(&self) -> Behavior {
        self.does.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn says(&self, does: &str) {
        self.log.write(What::Script { peer: Arc::clone(&self.name), does: does.to_owned() });
    }

    pub(super) fn report(&self) -> PeerReport {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn count(&self, change: impl FnOnce(&mut PeerReport)) {
        change(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// A connection for a request: one that is there, or a new one.
    async fn connect(&self) -> Result<(), ExchangeError> {
        let take = |idle: usize| idle.checked_sub(1);
        if self.idle.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
            return Ok(());
        }
        let until = Instant::now() + self.connect_timeout;
        loop {
            // Before the look: it hears of what changes after it was made.
            let changed = self.changed.notified();
            let failed = match self.does().0 {
                Does::Refuse => {
                    ExchangeError::new(FailureKind::Connect, Stage::NotSent, "connection refused")
                }
                Does::BlackHole => tokio::select! {
                    biased;
                    // The next packet of those that open a connection gets through.
                    () = changed => continue,
                    () = sleep_until(until) => {
                        ExchangeError::new(FailureKind::ConnectTimeout, Stage::NotSent, "no connection in time")
                    }
                },
                _ => return Ok(()),
            };
            self.count(|counts| counts.not_connected += 1);
            return Err(failed);
        }
    }

    async fn serve(self: Arc<Self>, request: Request<Body>) -> Result<Response<Body>, ExchangeError> {
        self.connect().await?;
        let call = request.extensions().get::<Number>().map_or(0, |number| number.0);
        let attempt = request.headers().get(ATTEMPT_HEADER);
        let attempt = attempt.and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(1);
        self.count(|counts| counts.taken += 1);
        self.log.write(What::Taken { call, attempt, peer: Arc::clone(&self.name) });
        // Tells if the client lets go of the request.
        let mut taken = Taken { peer: &self, call, is_done: false };
        let _worker = match &self.workers {
            Some(workers) => workers.acquire().await.ok(),
            None => None,
        };
        // When it is done with the request, and what it does then; `None` while it does nothing.
        let mut doing: Option<(Instant, Does)> = None;
        loop {
            let changed = self.changed.notified();
            let now = self.does();
            match &now.0 {
                Does::Refuse => {
                    taken.done("cuts it off", None);
                    return Err(ExchangeError::new(
                        FailureKind::Broken,
                        Stage::Ambiguous,
                        "connection reset",
                    ));
                }
                Does::Hang | Does::BlackHole => doing = None,
                _ if doing.is_none() => {
                    let one = now.draw(&self.random);
                    doing = match &one.0 {
                        Does::Answer(_, after) | Does::Reset(after) => {
                            Some((Instant::now() + after.draw(&self.random), one.0.clone()))
                        }
                        _ => None,
                    };
                }
                _ => {}
            }
            let over = async {
                match &doing {
                    Some((at, _)) => sleep_until(*at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = over => break,
                () = changed => {}
            }
        }
        match doing {
            Some((_, Does::Answer(status, _))) => {
                taken.done("answers", Some(status.as_u16()));
                let give = |idle: usize| (idle < MOST_IDLE).then_some(idle + 1);
                // A full pool closes the connection.
                let _full = self.idle.fetch_update(Ordering::Relaxed, Ordering::Relaxed, give);
                let mut response = Response::new(Body::empty());
                *response.status_mut() = status;
                Ok(response)
            }
            _ => {
                taken.done("resets the connection", None);
                Err(ExchangeError::new(FailureKind::Broken, Stage::Ambiguous, "connection reset"))
            }
        }
    }
}

/// A request that a peer has.
struct Taken<'p> {
    peer: &'p Scripted,
    call: u64,
    is_done: bool,
}

impl Taken<'_> {
    fn done(&mut self, how: &'static str, status: Option<u16>) {
        self.is_done = true;
        self.peer.count(|counts| match status {
            Some(200..300) => counts.answered += 1,
            _ => counts.failed += 1,
        });
        let peer = Arc::clone(&self.peer.name);
        self.peer.log.write(What::Done { call: self.call, peer, how, status });
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            self.peer.count(|counts| counts.given_up += 1);
            let (call, peer) = (self.call, Arc::clone(&self.peer.name));
            self.peer.log.write(What::Done { call, peer, how: "is given up on", status: None });
        }
    }
}

/// Leads to the peers by their names.
pub(super) struct World {
    pub(super) peers: BTreeMap<String, Arc<Scripted>>,
}

impl Dialer for World {
    fn dial(&self, peer: &Peer) -> Result<Channel, BoxError> {
        let scripted = self.peers.get(peer.node_id()).ok_or("no such peer")?;
        Ok(Channel::new(ToPeer(Arc::clone(scripted))))
    }

    fn security(&self) -> Security {
        Security::InProcess
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("World").field(&self.peers.keys()).finish()
    }
}

#[derive(Clone)]
struct ToPeer(Arc<Scripted>);

impl Service<Request<Body>> for ToPeer {
    type Response = Response<Body>;
    type Error = ExchangeError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, ExchangeError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ExchangeError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(Arc::clone(&self.0).serve(request))
    }
}

/// The source of the peers: what the script says, and doubts about those that calls did not reach.
#[derive(Clone, Debug)]
pub(super) struct Source {
    publisher: Publisher,
    reports: mpsc::Sender<(String, Report)>,
}

impl Source {
    pub(super) fn new(service: &ServiceType) -> (Self, mpsc::Receiver<(String, Report)>) {
        let (reports, inbox) = mpsc::channel(REPORTS);
        (Self { publisher: Publisher::new(service), reports }, inbox)
    }

    /// Without this nobody can join.
    pub(super) fn open(&self) -> Result<(), DiscoveryError> {
        self.publisher.begin()?;
        self.publisher.edit(Instant::now(), |table, now| table.set_status(Status::Ready, now));
        self.publisher.publish();
        Ok(())
    }

    pub(super) fn join(&self, peer: &SimPeer, number: u16) -> Result<(), DiscoveryError> {
        let pairs = peer.pairs.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let metadata = Metadata::new(pairs)?;
        let peer = Peer::builder(peer.name.as_str(), self.publisher.service_type())
            .endpoints([Endpoint::Ip(SocketAddr::from((Ipv4Addr::LOCALHOST, number)))])
            .metadata(metadata)
            .seen(Instant::now())
            .build()?;
        self.publisher.edit(Instant::now(), |table, now| table.put(peer, now));
        self.publisher.publish();
        Ok(())
    }

    pub(super) fn leave(&self, name: &str) {
        self.publisher.edit(Instant::now(), |table, now| table.remove(name, LeaveReason::Goodbye, now));
        self.publisher.publish();
    }

    /// Doubts peers that were reported, until they answer or for a while.
    pub(super) async fn doubt(self, mut inbox: mpsc::Receiver<(String, Report)>) -> Infallible {
        let mut until: BTreeMap<String, Instant> = BTreeMap::new();
        loop {
            let soonest = until.values().min().copied();
            let over = async {
                match soonest {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some((name, report)) = inbox.recv() => match report {
                    Report::Unreachable => {
                        self.suspect(&name, true);
                        until.insert(name, Instant::now() + DOUBT);
                    }
                    _ => if until.remove(&name).is_some() {
                        self.suspect(&name, false);
                    }
                },
                () = over => {
                    let now = Instant::now();
                    let names: Vec<_> = until.iter().filter(|(_, at)| **at <= now).map(|(name, _)| name.clone()).collect();
                    for name in names {
                        until.remove(&name);
                        self.suspect(&name, false);
                    }
                }
            }
        }
    }

    fn suspect(&self, name: &str, yes: bool) {
        self.publisher.edit(Instant::now(), |table, now| match yes {
            true => table.suspect(name, SuspectWhy::Unreachable, now),
            false => table.clear(name, now),
        });
        self.publisher.publish();
    }
}

#[async_trait]
impl Discovery for Source {
    fn service_type(&self) -> &ServiceType {
        self.publisher.service_type()
    }

    fn source(&self) -> SourceId {
        SourceId::Static
    }

    fn start(&self) -> Result<(), DiscoveryError> {
        Err(DiscoveryError::AlreadyStarted)
    }

    fn snapshot(&self) -> Snapshot {
        self.publisher.snapshot()
    }

    fn subscribe(&self) -> Subscription {
        self.publisher.subscribe()
    }

    fn report(&self, node_id: &str, report: Report) {
        // A full queue drops the hint, as with any source.
        let _dropped = self.reports.try_send((node_id.to_owned(), report));
    }

    fn refresh(&self) {}

    fn explain(&self) -> String {
        self.publisher.explain()
    }

    fn stop(&self) -> Stopping {
        self.publisher.end(Instant::now());
        Stopping::done()
    }
}
