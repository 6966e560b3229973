//! Identity, sources and clients in one value.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{Request, Response};
use peerage_clienthttp::{Client, ClientBuilder, LocalTrust};
#[cfg(feature = "controlclient")]
use peerage_controlclient::{Gateway, Registration, RegistrationBuilder};
use peerage_discovery::mdns::{Interfaces, MdnsDiscovery};
use peerage_discovery::{Discovery, Endpoint, OpenOptions, ServiceType, check_node_id, open};
use peerage_zaphttp::tls::{ClusterTls, NodeNames, San};
use peerage_zaphttp::{Body, BoxError, Server};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tower_service::Service;

use crate::error::MeshError;
use crate::served::{Announcement, Served};

/// The most services that are called through one mesh. As many as discovery browses at once.
const MAX_SERVICES: usize = 64;

/// The source that needs no configuration.
const MDNS: &str = "mdns:";

/// Callers keep a connection for their next call; one that is not used for so long is not needed.
const IDLE: Duration = Duration::from_secs(75);

/// A year: a limit beyond all time is one that nobody lives to see.
const LONGEST_CLOSE: Duration = Duration::from_secs(365 * 86_400);

/// What is left of the usual descriptor limits serves whatever the process does besides.
const MAX_CONNECTIONS: usize = 10_000;

/// A process in the mesh. Clones are handles to the same one.
///
/// Clients are made when first asked for and kept. Dropping the last handle stops their discovery without
/// waiting; [`close`](Self::close) lets running calls finish first.
#[derive(Clone)]
pub struct Mesh(Arc<Inner>);

struct Inner {
    settings: MeshBuilder,
    /// Replaced as a whole: a call by name takes no lock.
    callees: ArcSwap<BTreeMap<String, Callee>>,
    /// `None` once closed. Held while a callee is made, so that none is made twice.
    open: Mutex<Option<()>>,
}

/// A service that is called.
#[derive(Clone)]
struct Callee {
    client: Client,
    source: Arc<dyn Discovery>,
}

impl Mesh {
    /// The settings of a mesh, each with a default: mDNS, no TLS, a random node id.
    pub fn builder() -> MeshBuilder {
        MeshBuilder::default()
    }

    /// The client of a service, made when first asked for. Waits for nothing: a call waits up to 3 s for
    /// the first peer.
    ///
    /// # Errors
    ///
    /// [`MeshError::Discovery`] for a name or source that makes no sense, [`MeshError::TooManyServices`],
    /// [`MeshError::Closed`].
    pub fn client(&self, service: &str) -> Result<Client, MeshError> {
        self.callee(service).map(|callee| callee.client)
    }

    /// Who the peers of a service are: what its client looks at.
    ///
    /// # Errors
    ///
    /// As for [`client`](Self::client).
    pub fn source(&self, service: &str) -> Result<Arc<dyn Discovery>, MeshError> {
        self.callee(service).map(|callee| callee.source)
    }

    /// The clients made so far, one for each service, in the order of the names: for what shows them.
    pub fn clients(&self) -> Vec<Client> {
        let callees = self.0.callees.load();
        // Each stands there under two names.
        let named = callees.iter().filter(|(name, callee)| callee.source.service_type().as_str() == *name);
        named.map(|(_, callee)| callee.client.clone()).collect()
    }

    fn callee(&self, service: &str) -> Result<Callee, MeshError> {
        if let Some(callee) = self.0.callees.load().get(service) {
            return Ok(callee.clone());
        }
        let service: ServiceType = service.parse()?;
        let open = self.0.lock();
        if open.is_none() {
            return Err(MeshError::Closed);
        }
        let callees = self.0.callees.load();
        if let Some(callee) = callees.get(service.as_str()) {
            return Ok(callee.clone());
        }
        let mut callees = BTreeMap::clone(&callees);
        make_room(&mut callees)?;
        let callee = self.0.settings.callee(&service)?;
        // Under both names that people write; every other spelling finds its way through the second.
        callees.insert(service.as_str().to_owned(), callee.clone());
        if service.subtype().is_none() {
            callees.insert(service.base().to_owned(), callee.clone());
        }
        self.0.callees.store(Arc::new(callees));
        Ok(callee)
    }

    /// Serves ZAP-HTTP on `listener` and announces it by mDNS under this mesh's node id.
    ///
    /// `app` is any `tower::Service` for `http::Request<zaphttp::Body>`, such as an `axum::Router`. With an
    /// identity the connections are mutual TLS. A listener on loopback is announced on loopback alone.
    ///
    /// A service that calls others puts a [`ServingLayer`](peerage_clienthttp::ServingLayer) around `app`: then
    /// its calls keep to what is left of the time of the one that they serve. It is not put there unasked: it
    /// costs every call some 1,900 instructions, and wants bodies that can be empty.
    ///
    /// # Errors
    ///
    /// As for [`listen`](Self::listen) and [`Served::announce`].
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn serve<S, B>(&self, service: &str, listener: TcpListener, app: S) -> Result<Served, MeshError>
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        B: http_body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let announcement = Announcement::new(service)?;
        let served = self.listen(listener, app)?;
        served.announce(&announcement)?;
        Ok(served)
    }

    /// Serves ZAP-HTTP on `listener` and tells nobody: [`Served::announce`] does that when the time has come.
    ///
    /// # Errors
    ///
    /// [`MeshError::Tls`] for an identity that cannot serve, [`MeshError::Listen`], [`MeshError::Closed`].
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn listen<S, B>(&self, listener: TcpListener, app: S) -> Result<Served, MeshError>
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        B: http_body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        if self.0.lock().is_none() {
            return Err(MeshError::Closed);
        }
        let address = listener.local_addr().map_err(MeshError::Listen)?;
        let settings = &self.0.settings;
        let mut server = Server::builder().idle_timeout(IDLE).max_connections(MAX_CONNECTIONS);
        if let Some(identity) = &settings.identity {
            server = server.tls(identity.server()?);
        }
        let handle = server.serve(listener.into(), app);
        Ok(Served::new(handle, address, settings.node_id.clone(), settings.interfaces.clone()))
    }

    /// A registration of what listens at `service_addr` (as the gateway reaches it: `host:port`, for OpenAPI a
    /// base URL) at the gateways of this mesh and under its node id. Describe the services, then hand it to
    /// [`Served::register`].
    ///
    /// # Errors
    ///
    /// [`MeshError::NoGateway`] without [`register_with`](MeshBuilder::register_with).
    #[cfg(feature = "controlclient")]
    pub fn registration(&self, service_addr: impl Into<String>) -> Result<RegistrationBuilder, MeshError> {
        let (first, others) = self.0.settings.gateways.split_first().ok_or(MeshError::NoGateway)?;
        let registration =
            Registration::builder(first.clone(), service_addr).instance(&*self.0.settings.node_id);
        Ok(others.iter().cloned().fold(registration, RegistrationBuilder::gateway))
    }

    /// The name that the certificate of a node must hold: the node id itself, a name or an address. A peer of a
    /// static list has its address for a node id; the port is no part of a name then. `None` for a node that
    /// no certificate can name.
    pub fn certificate_name(node_id: &str) -> Option<San> {
        match node_id.parse::<Endpoint>() {
            Ok(Endpoint::Ip(address)) => Some(San::from(address.ip())),
            Ok(Endpoint::Name { host, .. }) => San::dns(&host).ok(),
            _ => NodeNames::Plain.of(node_id).ok(),
        }
    }

    /// Whether connections are mutual TLS: whether there is an identity.
    pub fn is_encrypted(&self) -> bool {
        self.0.settings.identity.is_some()
    }

    /// The name of this instance.
    pub fn node_id(&self) -> &str {
        &self.0.settings.node_id
    }

    /// Lets running calls finish for at most `limit`, then closes every client and its discovery. Calls made
    /// afterwards are refused. What is served has a handle of its own. Idempotent.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves clients closing without a deadline.
    pub async fn close(&self, limit: Duration) {
        *self.0.lock() = None;
        let callees = self.0.callees.swap(Arc::default());
        let deadline = Instant::now() + limit.min(LONGEST_CLOSE);
        for (name, callee) in callees.iter() {
            // Each stands there under two names.
            if callee.source.service_type().as_str() == name {
                callee.client.close(deadline).await;
                callee.source.stop().await;
            }
        }
    }
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let callees = self.0.callees.load();
        f.debug_struct("Mesh")
            .field("settings", &self.0.settings)
            .field("services", &callees.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Option<()>> {
        // The map is replaced whole, so a panic elsewhere leaves nothing half-done.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for callee in self.callees.load().values() {
            drop(callee.source.stop());
        }
    }
}

/// Makes room for one more service: one that nobody offers goes first, so that misspelt names do not lock
/// out the rest.
fn make_room(callees: &mut BTreeMap<String, Callee>) -> Result<(), MeshError> {
    let is_first_name = |name: &str, callee: &Callee| callee.source.service_type().as_str() == name;
    if callees.iter().filter(|(name, callee)| is_first_name(name, callee)).count() < MAX_SERVICES {
        return Ok(());
    }
    let idle = callees.values().find(|callee| callee.source.snapshot().peers().is_empty());
    let idle =
        idle.map(|callee| callee.source.clone()).ok_or(MeshError::TooManyServices { limit: MAX_SERVICES })?;
    callees.retain(|_, callee| !Arc::ptr_eq(&callee.source, &idle));
    drop(idle.stop());
    Ok(())
}

/// Settings of a [`Mesh`].
///
/// | setting | default |
/// |---|---|
/// | node id | `node-` and 16 random hex digits |
/// | source | `mdns:` |
/// | identity | none: plaintext, and no credential leaves for another host |
/// | interfaces | every usable one, loopback alone where there is no other |
/// | gateways | none: nothing is registered |
/// | request timeout | 30 s |
/// | per-try timeout | none |
/// | all else of its clients | as [`ClientBuilder`] has it |
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct MeshBuilder {
    node_id: String,
    source: String,
    discovery: Option<Arc<dyn Discovery>>,
    identity: Option<ClusterTls>,
    interfaces: Interfaces,
    #[cfg(feature = "controlclient")]
    gateways: Vec<Gateway>,
    request_timeout: Duration,
    per_try_timeout: Option<Duration>,
    plaintext_credentials: bool,
    clients: Option<ClientSettings>,
}

/// What the caller sets on each client.
#[derive(Clone)]
struct ClientSettings(Arc<dyn Fn(ClientBuilder) -> ClientBuilder + Send + Sync>);

impl fmt::Debug for ClientSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientSettings")
    }
}

impl Default for MeshBuilder {
    fn default() -> Self {
        Self {
            node_id: format!("node-{:016x}", RandomState::new().build_hasher().finish()),
            source: MDNS.to_owned(),
            discovery: None,
            identity: None,
            interfaces: Interfaces::Auto,
            #[cfg(feature = "controlclient")]
            gateways: Vec::new(),
            request_timeout: Duration::from_secs(30),
            per_try_timeout: None,
            plaintext_credentials: false,
            clients: None,
        }
    }
}

impl MeshBuilder {
    /// The name of this instance, unique within each service it serves: 1–252 bytes of UTF-8 without control
    /// characters.
    pub fn node_id(mut self, node_id: impl Into<String>) -> Self {
        self.node_id = node_id.into();
        self
    }

    /// Where peers come from, as text (discovery §13): `mdns:`, `static:10.0.0.1:80,…`,
    /// `file:/etc/peers.json`, or several of them, separated by blanks.
    pub fn source(mut self, source: impl Into<String>) -> Self {
        self.source = source.into();
        self
    }

    /// The peers of one service from a source made by the caller, which the mesh starts. Other services
    /// still come from [`source`](Self::source).
    pub fn discovery(mut self, discovery: Arc<dyn Discovery>) -> Self {
        self.discovery = Some(discovery);
        self
    }

    /// Mutual TLS 1.3 everywhere: own certificate and the CA of the cluster. A peer must show a certificate
    /// whose subject alternative names hold its node id.
    pub fn identity(mut self, identity: ClusterTls) -> Self {
        self.identity = Some(identity);
        self
    }

    /// The network interfaces that are used by mDNS.
    pub fn interfaces(mut self, interfaces: Interfaces) -> Self {
        self.interfaces = interfaces;
        self
    }

    /// A gateway, `host:port` or a [`Gateway`] with TLS and a bearer, at which [`Mesh::registration`]
    /// registers. Called again it adds another node of the same cluster, for when the first is gone.
    #[cfg(feature = "controlclient")]
    pub fn register_with(mut self, gateway: impl Into<Gateway>) -> Self {
        self.gateways.push(gateway.into());
        self
    }

    /// The deadline of a call, waiting for a peer and every attempt included.
    pub fn request_timeout(mut self, limit: Duration) -> Self {
        self.request_timeout = limit;
        self
    }

    /// The deadline of one attempt: a peer that stays silent for longer is left, and a call that may be
    /// repeated goes to another.
    pub fn per_try_timeout(mut self, limit: Duration) -> Self {
        self.per_try_timeout = Some(limit);
        self
    }

    /// Sends `Authorization` and cookies also where there is no TLS and the peer is on another host: whoever
    /// listens on the way can read them.
    pub fn danger_plaintext_credentials(mut self) -> Self {
        self.plaintext_credentials = true;
        self
    }

    /// Settings of the clients that have no method here, applied to each of them last:
    /// `.clients(|client| client.balance(Policy::PeakEwma))`. One that cannot be honoured is an error of
    /// [`Mesh::client`].
    pub fn clients(
        mut self,
        settings: impl Fn(ClientBuilder) -> ClientBuilder + Send + Sync + 'static,
    ) -> Self {
        self.clients = Some(ClientSettings(Arc::new(settings)));
        self
    }

    /// Checks the settings and makes the mesh. No I/O: discovery begins with the first client.
    ///
    /// # Errors
    ///
    /// [`MeshError::Discovery`] for a node id or a source that makes no sense.
    pub fn build(self) -> Result<Mesh, MeshError> {
        check_node_id(&self.node_id)?;
        let probe: ServiceType = "peerage".parse()?;
        // Parsed for its errors: no source is started.
        drop(self.open(&probe)?);
        Ok(Mesh(Arc::new(Inner { settings: self, callees: ArcSwap::default(), open: Mutex::new(Some(())) })))
    }

    fn open(&self, service: &ServiceType) -> Result<Arc<dyn Discovery>, MeshError> {
        match &self.discovery {
            Some(discovery) if discovery.service_type() == service => Ok(discovery.clone()),
            _ if self.source == MDNS => {
                Ok(Arc::new(MdnsDiscovery::builder(service).interfaces(self.interfaces.clone()).build()))
            }
            _ => Ok(open(&self.source, Some(service), OpenOptions::default())?),
        }
    }

    fn callee(&self, service: &ServiceType) -> Result<Callee, MeshError> {
        let source = self.open(service)?;
        let mut client = Client::builder(service.clone())
            .shared_discovery(source.clone())
            .request_timeout(self.request_timeout);
        if let Some(limit) = self.per_try_timeout {
            client = client.per_try_timeout(limit);
        }
        if let Some(identity) = &self.identity {
            client = client.local_trust(
                LocalTrust::new(identity)?.names(NodeNames::Custom(Arc::new(Mesh::certificate_name))),
            );
        }
        if self.plaintext_credentials {
            client = client.allow_plaintext_credentials();
        }
        if let Some(ClientSettings(settings)) = &self.clients {
            client = settings(client);
        }
        let client = client.build_lazy()?;
        Ok(Callee { client, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s063_a_node_is_known_by_its_id_or_by_the_address_that_stands_for_it() {
        assert_eq!(Mesh::certificate_name("billing-1"), San::dns("billing-1").ok());
        assert_eq!(
            Mesh::certificate_name("10.0.0.1:80"),
            Some(San::from(std::net::IpAddr::from([10, 0, 0, 1])))
        );
        assert_eq!(
            Mesh::certificate_name("[::1]:80"),
            Some(San::from(std::net::IpAddr::from(std::net::Ipv6Addr::LOCALHOST)))
        );
        assert_eq!(Mesh::certificate_name("ta.internal:8443"), San::dns("ta.internal").ok());
        assert_eq!(Mesh::certificate_name("not a name"), None);
    }
}
