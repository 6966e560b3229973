//! A list in the program.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;

use crate::{
    addresses::{AddressPolicy, SourceClass},
    counters::Metric,
    discovery::{Discovery, Report, Stopping},
    endpoint::Endpoint,
    error::DiscoveryError,
    listed::{self, Listed},
    metadata::{Metadata, MetadataBuilder},
    peer::{Peer, SourceId},
    publisher::Publisher,
    service_type::ServiceType,
    snapshot::Snapshot,
    status::Status,
    subscription::Subscription,
    table::MAX_PEERS,
};

/// Peers that the program knows by itself: for tests, for fixed installations, and beside other sources.
///
/// Needs no runtime and, until a peer is reported as unreachable, no thread. Nobody ever leaves but by
/// another list; who is reported as unreachable is in doubt for 10 s. Host names are left to the dialer.
///
/// ```
/// use peerage_discovery::{Discovery, StaticDiscovery, StaticPeer};
///
/// let billing = StaticDiscovery::new("billing", [
///     StaticPeer::new("10.0.0.1:9999").node_id("billing-1").pair("zone", "eu-1"),
///     StaticPeer::new("[fd00::1]:9999"),
/// ])?;
/// billing.start()?;
/// let ids: Vec<_> = billing.peers().iter().map(|peer| peer.node_id().to_owned()).collect();
/// assert_eq!(ids, ["[fd00::1]:9999", "billing-1"]);
/// # Ok::<(), peerage_discovery::DiscoveryError>(())
/// ```
pub struct StaticDiscovery {
    service: ServiceType,
    policy: AddressPolicy,
    listed: Listed,
    /// What `start` will publish.
    waiting: Mutex<Option<Vec<Peer>>>,
}

impl StaticDiscovery {
    /// A checked list; `start` publishes it.
    ///
    /// # Errors
    ///
    /// [`DiscoveryError::InvalidServiceType`]; [`DiscoveryError::InvalidPeer`] with the position of the
    /// first peer that has no endpoint, one that cannot be dialled, invalid metadata, or the node id of
    /// another.
    pub fn new<S>(service: S, peers: impl IntoIterator<Item = StaticPeer>) -> Result<Self, DiscoveryError>
    where
        S: TryInto<ServiceType>,
        DiscoveryError: From<S::Error>,
    {
        Self::builder(service)?.build(peers)
    }

    /// For settings other than the defaults.
    ///
    /// # Errors
    ///
    /// [`DiscoveryError::InvalidServiceType`].
    pub fn builder<S>(service: S) -> Result<StaticBuilder, DiscoveryError>
    where
        S: TryInto<ServiceType>,
        DiscoveryError: From<S::Error>,
    {
        Ok(StaticBuilder {
            service: service.try_into()?,
            policy: AddressPolicy::new(SourceClass::Configured),
            max_peers: MAX_PEERS,
            doubt: listed::DOUBT,
        })
    }

    /// Replaces the whole list. When this returns, the snapshot is that of the new list; there is no
    /// window of 5 ms, because the change is whole already.
    ///
    /// # Errors
    ///
    /// [`DiscoveryError::InvalidPeer`], and nothing changes; [`DiscoveryError::Stopped`].
    pub fn set(&self, peers: impl IntoIterator<Item = StaticPeer>) -> Result<(), DiscoveryError> {
        let list = check(peers, &self.service, &self.policy)?;
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if self.listed.publisher.has_ended() {
            return Err(DiscoveryError::Stopped);
        }
        match &mut *waiting {
            Some(unpublished) => *unpublished = list,
            // The lock is held until it is published, so that the last of two lists wins.
            None => self.publish(list, Instant::now()),
        }
        Ok(())
    }

    fn publish(&self, list: Vec<Peer>, now: Instant) {
        list.iter().for_each(|peer| peer.heard(now));
        self.listed.set(list, now);
    }
}

#[async_trait]
impl Discovery for StaticDiscovery {
    fn service_type(&self) -> &ServiceType {
        &self.service
    }

    fn source(&self) -> SourceId {
        SourceId::Static
    }

    fn start(&self) -> Result<(), DiscoveryError> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let publisher = &self.listed.publisher;
        publisher.begin()?;
        let now = Instant::now();
        publisher.edit(now, |table, now| table.set_status(Status::Ready, now));
        self.publish(waiting.take().unwrap_or_default(), now);
        Ok(())
    }

    fn snapshot(&self) -> Snapshot {
        self.listed.publisher.snapshot()
    }

    fn peer_count(&self) -> usize {
        self.listed.publisher.peer_count()
    }

    fn subscribe(&self) -> Subscription {
        self.listed.publisher.subscribe()
    }

    fn report(&self, node_id: &str, report: Report) {
        self.listed.report(node_id, report);
    }

    /// There is nobody to ask.
    fn refresh(&self) {}

    fn explain(&self) -> String {
        self.listed.publisher.explain()
    }

    fn metrics(&self) -> Vec<Metric> {
        self.listed.publisher.metrics(Instant::now())
    }

    fn stop(&self) -> Stopping {
        self.listed.stop()
    }
}

impl fmt::Debug for StaticDiscovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticDiscovery").field("publisher", &self.listed.publisher).finish_non_exhaustive()
    }
}

/// The settings of a [`StaticDiscovery`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct StaticBuilder {
    service: ServiceType,
    policy: AddressPolicy,
    max_peers: usize,
    doubt: Duration,
}

impl StaticBuilder {
    /// Which addresses may stand in the list. Default: all that can be dialled but those of metadata
    /// services, loopback included.
    pub fn addresses(mut self, policy: AddressPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// The most peers; those beyond are left out and counted. Default 1,024.
    pub fn max_peers(mut self, limit: usize) -> Self {
        self.max_peers = limit;
        self
    }

    /// How long a peer is in doubt after it was reported as unreachable. Default 10 s.
    pub fn doubt(mut self, lasting: Duration) -> Self {
        self.doubt = lasting;
        self
    }

    /// Checks the list.
    ///
    /// # Errors
    ///
    /// As [`StaticDiscovery::new`].
    pub fn build(
        self,
        peers: impl IntoIterator<Item = StaticPeer>,
    ) -> Result<StaticDiscovery, DiscoveryError> {
        let list = check(peers, &self.service, &self.policy)?;
        let publisher = Publisher::with_limit(&self.service, self.max_peers);
        Ok(StaticDiscovery {
            service: self.service,
            policy: self.policy,
            listed: Listed::new(publisher, self.doubt),
            waiting: Mutex::new(Some(list)),
        })
    }
}

/// An entry of a static list.
#[derive(Clone, Debug)]
#[must_use = "an entry is checked when the list is"]
pub struct StaticPeer {
    node_id: Option<String>,
    endpoints: Vec<Endpoint>,
    metadata: MetadataBuilder,
    priority: u16,
    /// The first thing that was wrong.
    error: Option<DiscoveryError>,
}

impl StaticPeer {
    /// A peer at `endpoint`, which is also its node id unless another is given: `10.0.0.1:80`,
    /// `[fd00::1]:80`, `ta.internal:8443`, or a `SocketAddr`.
    pub fn new<E: TryInto<Endpoint>>(endpoint: E) -> Self
    where
        DiscoveryError: From<E::Error>,
    {
        Self { node_id: None, endpoints: Vec::new(), metadata: Metadata::builder(), priority: 0, error: None }
            .endpoint(endpoint)
    }

    /// Another endpoint, to be dialled after those that are there.
    pub fn endpoint<E: TryInto<Endpoint>>(mut self, endpoint: E) -> Self
    where
        DiscoveryError: From<E::Error>,
    {
        match endpoint.try_into() {
            Ok(endpoint) => self.endpoints.push(endpoint),
            Err(error) => {
                self.error.get_or_insert_with(|| error.into());
            }
        }
        self
    }

    /// The node id. Default: the text of the first endpoint.
    pub fn node_id(mut self, node_id: impl Into<String>) -> Self {
        self.node_id = Some(node_id.into());
        self
    }

    /// Adds a metadata pair.
    pub fn pair(mut self, key: impl AsRef<str>, value: impl AsRef<[u8]>) -> Self {
        self.metadata = self.metadata.pair(key, value);
        self
    }

    /// Adds a metadata key without a value.
    pub fn flag(mut self, key: impl AsRef<str>) -> Self {
        self.metadata = self.metadata.flag(key);
        self
    }

    /// 0, the default, comes first.
    pub fn priority(mut self, priority: u16) -> Self {
        self.priority = priority;
        self
    }

    fn check(self, service: &ServiceType, policy: &AddressPolicy) -> Result<Peer, DiscoveryError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let endpoints = self
            .endpoints
            .into_iter()
            .map(|endpoint| policy.admit(endpoint))
            .collect::<Result<Vec<_>, _>>()?;
        let first = endpoints.first().map(ToString::to_string);
        let node_id = self.node_id.or(first).unwrap_or_default();
        Peer::builder(node_id, service)
            .endpoints(endpoints)
            .metadata(self.metadata.build()?)
            .priority(self.priority)
            .source(SourceId::Static)
            .build()
    }
}

fn check(
    peers: impl IntoIterator<Item = StaticPeer>,
    service: &ServiceType,
    policy: &AddressPolicy,
) -> Result<Vec<Peer>, DiscoveryError> {
    let mut checked: Vec<Peer> = Vec::new();
    let mut positions: HashMap<String, usize> = HashMap::new();
    for (index, peer) in peers.into_iter().enumerate() {
        let peer = peer.check(service, policy).and_then(|peer| match positions.get(peer.node_id()) {
            Some(&first) => {
                Err(DiscoveryError::DuplicateNodeId { node_id: peer.node_id().to_owned(), first })
            }
            None => Ok(peer),
        });
        let peer = peer.map_err(|error| DiscoveryError::InvalidPeer { index, source: Box::new(error) })?;
        positions.insert(peer.node_id().to_owned(), index);
        checked.push(peer);
    }
    Ok(checked)
}
