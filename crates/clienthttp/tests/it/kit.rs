//! Peers that record what reaches them.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use http::{HeaderMap, Method, Request, Uri};
use peerage_clienthttp::{BoxError, Channel, Client, ClientBuilder, Dialer};
use peerage_discovery::{
    Discovery, DiscoveryError, Endpoint, LeaveReason, Metadata, Publisher, Report, ServiceType, Snapshot,
    SourceId, StaticDiscovery, StaticPeer, Status, Stopping, Subscription, SuspectWhy,
};
use peerage_tests::Facts;
use peerage_zaphttp::{
    Body, Connect, ConnectError, Connection, Listener, MemoryConnector, Server, ServerHandle, Target,
};
use tokio::{sync::Semaphore, time::Instant};

/// The outer limit of what should take no time: only what never happens may meet it, on any machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A request as a peer got it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
}

impl Seen {
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            headers: request.headers().clone(),
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// A real ZAP-HTTP server.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: String,
    pub(crate) server: ServerHandle,
    pub(crate) seen: Facts<Seen>,
}

impl Peer {
    /// Answers 200 with its id.
    pub(crate) async fn start(id: &str) -> Self {
        let name = id.to_owned();
        Self::serve(id, axum::Router::new().fallback(move || async move { name })).await
    }

    pub(crate) async fn serve(id: &str, router: axum::Router) -> Self {
        let listener = Listener::tcp("127.0.0.1:0").await.unwrap();
        let seen: Facts<Seen> = Facts::new();
        let facts = seen.clone();
        let recording = tower::service_fn(move |request: Request<Body>| {
            facts.push(Seen::of(&request));
            tower::ServiceExt::oneshot(router.clone(), request)
        });
        let server = Server::builder().serve(listener, recording);
        Self { id: id.to_owned(), server, seen }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.server.local_addr().unwrap()
    }
}

/// Answers when the gate opens.
pub(crate) async fn gated(id: &str) -> (Peer, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let wait = Arc::clone(&gate);
    let router = axum::Router::new().fallback(move || async move {
        wait.acquire().await.unwrap().forget();
        "through"
    });
    (Peer::serve(id, router).await, gate)
}

pub(crate) fn at(id: &str, addr: SocketAddr) -> StaticPeer {
    StaticPeer::new(addr).node_id(id)
}

pub(crate) fn fixed(peers: impl IntoIterator<Item = StaticPeer>) -> StaticDiscovery {
    StaticDiscovery::new("billing", peers).unwrap()
}

/// A client of these peers.
pub(crate) fn client_of<'p>(peers: impl IntoIterator<Item = &'p Peer>) -> ClientBuilder {
    Client::builder_with(fixed(peers.into_iter().map(|peer| at(&peer.id, peer.addr()))))
        .request_timeout(PATIENCE)
        .rng_seed(1)
}

/// A source whose peers say that they come from another source than they do, and that records reports.
#[derive(Clone, Debug)]
pub(crate) struct Announcer {
    publisher: Publisher,
    source: SourceId,
    pub(crate) reports: Facts<(String, Report)>,
    pub(crate) refreshes: Facts<()>,
}

impl Announcer {
    pub(crate) fn new(source: SourceId) -> Self {
        let service = ServiceType::try_from("billing").unwrap();
        Self { publisher: Publisher::new(&service), source, reports: Facts::new(), refreshes: Facts::new() }
    }

    pub(crate) fn client(&self) -> ClientBuilder {
        Client::builder_with(self.clone()).request_timeout(PATIENCE).rng_seed(1)
    }

    pub(crate) fn join(&self, id: &str, addresses: &[SocketAddr]) {
        self.join_with(id, addresses, &[]);
    }

    pub(crate) fn join_with(&self, id: &str, addresses: &[SocketAddr], metadata: &[(&str, &str)]) {
        let peer = peerage_discovery::Peer::builder(id, self.publisher.service_type())
            .endpoints(addresses.iter().copied().map(Endpoint::Ip))
            .metadata(Metadata::new(metadata.iter().copied()).unwrap())
            .source(self.source.clone())
            .build()
            .unwrap();
        self.publisher.edit(Instant::now(), |table, now| table.put(peer, now));
        self.publisher.publish();
    }

    pub(crate) fn suspect(&self, id: &str) {
        self.publisher.edit(Instant::now(), |table, now| table.suspect(id, SuspectWhy::Silent, now));
        self.publisher.publish();
    }

    pub(crate) fn leave(&self, id: &str) {
        self.lose(&[id], LeaveReason::Goodbye);
    }

    /// These leave at once.
    pub(crate) fn lose(&self, ids: &[&str], reason: LeaveReason) {
        for id in ids {
            self.publisher.edit(Instant::now(), |table, now| table.remove(id, reason, now));
        }
        self.publisher.publish();
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.publisher.has_ended()
    }
}

#[async_trait]
impl Discovery for Announcer {
    fn service_type(&self) -> &ServiceType {
        self.publisher.service_type()
    }

    fn source(&self) -> SourceId {
        self.source.clone()
    }

    fn start(&self) -> Result<(), DiscoveryError> {
        self.publisher.begin()?;
        self.publisher.edit(Instant::now(), |table, now| table.set_status(Status::Ready, now));
        self.publisher.publish();
        Ok(())
    }

    fn snapshot(&self) -> Snapshot {
        self.publisher.snapshot()
    }

    fn subscribe(&self) -> Subscription {
        self.publisher.subscribe()
    }

    fn report(&self, node_id: &str, report: Report) {
        self.reports.push((node_id.to_owned(), report));
    }

    fn refresh(&self) {
        self.refreshes.push(());
    }

    fn stop(&self) -> Stopping {
        self.publisher.end(Instant::now());
        Stopping::done()
    }
}

/// A dialer whose channels all lead to one place, however far away the peer seems to be; it counts.
#[derive(Clone, Debug)]
pub(crate) struct Elsewhere {
    target: SocketAddr,
    pub(crate) dialled: Facts<String>,
}

impl Elsewhere {
    pub(crate) fn at(target: SocketAddr) -> Self {
        Self { target, dialled: Facts::new() }
    }
}

impl Dialer for Elsewhere {
    fn dial(&self, peer: &peerage_discovery::Peer) -> Result<Channel, BoxError> {
        self.dialled.push(peer.node_id().to_owned());
        Ok(Channel::zap(peerage_zaphttp::Client::builder(Target::Tcp(self.target)).build()))
    }
}

/// Where a peer in memory is said to be.
pub(crate) const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

/// Peers in memory, so that time can be paused: they are called over frames, but no socket. What is not
/// served by name is what `serve` was given.
#[derive(Clone, Debug)]
pub(crate) struct InMemory {
    others: (MemoryConnector, Arc<ServerHandle>),
    peers: BTreeMap<String, (MemoryConnector, Arc<ServerHandle>)>,
    connect_time: Duration,
    /// No connection to these ever comes up.
    holes: Vec<String>,
    /// These refuse connections, after so long.
    refusing: BTreeMap<String, Duration>,
    connect_timeout: Duration,
}

impl InMemory {
    /// Whoever is dialled answers like this.
    pub(crate) fn serve(router: axum::Router) -> Self {
        Self {
            others: served(router),
            peers: BTreeMap::new(),
            connect_time: Duration::ZERO,
            holes: Vec::new(),
            refusing: BTreeMap::new(),
            connect_timeout: Duration::from_secs(10),
        }
    }

    /// One of that node id like that.
    pub(crate) fn and(mut self, id: &str, router: axum::Router) -> Self {
        self.peers.insert(id.to_owned(), served(router));
        self
    }

    /// A connection takes so long to come up.
    pub(crate) fn connect_time(self, connect_time: Duration) -> Self {
        Self { connect_time, ..self }
    }

    /// Nothing ever comes back from the one of that node id.
    pub(crate) fn and_hole(mut self, id: &str) -> Self {
        self.holes.push(id.to_owned());
        self
    }

    /// The one of that node id refuses connections, after so long.
    pub(crate) fn and_refusing(mut self, id: &str, after: Duration) -> Self {
        self.refusing.insert(id.to_owned(), after);
        self
    }

    pub(crate) fn connect_timeout(self, connect_timeout: Duration) -> Self {
        Self { connect_timeout, ..self }
    }

    /// Connections to the one that answers whoever is dialled.
    pub(crate) fn connection_count(&self) -> usize {
        self.others.1.connection_count()
    }

    /// A source of the peers `billing-1` to `billing-<count>`.
    pub(crate) fn client(&self, count: u16) -> ClientBuilder {
        let peers = (1..=count).map(|i| at(&format!("billing-{i}"), ([127, 0, 0, 1], i).into()));
        Client::builder_with(fixed(peers)).dialer(self.clone()).rng_seed(1)
    }
}

fn served(router: axum::Router) -> (MemoryConnector, Arc<ServerHandle>) {
    let (listener, connector) = Listener::memory(64);
    (connector, Arc::new(Server::builder().serve(listener, router)))
}

impl Dialer for InMemory {
    fn dial(&self, peer: &peerage_discovery::Peer) -> Result<Channel, BoxError> {
        let (connector, _) = self.peers.get(peer.node_id()).unwrap_or(&self.others);
        let is_hole = self.holes.iter().any(|id| id == peer.node_id());
        let refuses = self.refusing.get(peer.node_id());
        let connect_time =
            if is_hole { Duration::MAX } else { refuses.copied().unwrap_or(self.connect_time) };
        let slow = Slow { connector: connector.clone(), connect_time, refuses: refuses.is_some() };
        let client = peerage_zaphttp::Client::builder(NOWHERE).connector(Arc::new(slow));
        // The time of a call is the whole client's to watch.
        Ok(Channel::zap(client.connect_timeout(self.connect_timeout).response_timeout(None).build()))
    }
}

#[derive(Debug)]
struct Slow {
    connector: MemoryConnector,
    connect_time: Duration,
    refuses: bool,
}

#[async_trait]
impl Connect for Slow {
    async fn connect(&self) -> Result<Connection, ConnectError> {
        tokio::time::sleep(self.connect_time).await;
        if self.refuses {
            return Err(ConnectError::Io(std::io::ErrorKind::ConnectionRefused.into()));
        }
        self.connector.connect().await
    }
}

/// An address that is on no network of ours (RFC 5737), for what must not be dialled.
pub(crate) fn far_away() -> SocketAddr {
    "192.0.2.7:9999".parse().unwrap()
}

/// Waits for what nobody tells: a change that the client took over, a socket that the kernel closed.
pub(crate) async fn until(mut is_so: impl FnMut() -> bool) {
    let looking = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.expect("it comes to be so");
}
