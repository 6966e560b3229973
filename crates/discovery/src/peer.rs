//! One instance of a service, immutable and cheap to clone.

use std::{
    fmt::{self, Display, Formatter},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use tokio::time::Instant;

use crate::{
    clock, endpoint::Endpoint, error::DiscoveryError, escape::escape, metadata::Metadata,
    service_type::ServiceType,
};

/// The most endpoints of one peer.
pub const MAX_ENDPOINTS: usize = 16;
/// The most bytes of a node id.
pub const MAX_NODE_ID: usize = 255;

/// One instance of a service that can be called now.
///
/// Its identity is the service type and the node id. Two peers are equal if identity, endpoints,
/// metadata, state and priority are; *when* a peer was last heard of is evidence, not identity, and is
/// shared by all versions of a peer (discovery §1). Nothing in it is proof of who answers at the
/// address: that is for the handshake to show.
#[derive(Clone)]
pub struct Peer(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    node_id: Arc<str>,
    service: ServiceType,
    /// Invariant: 1 to [`MAX_ENDPOINTS`], without duplicates or port 0.
    endpoints: Arc<[Endpoint]>,
    metadata: Metadata,
    state: PeerState,
    priority: u16,
    source: SourceId,
    also_from: Arc<[SourceId]>,
    origin: Arc<str>,
    evidence: Arc<Evidence>,
    /// Those of the same peer in other sources, for a merged one.
    more_evidence: Arc<[Arc<Evidence>]>,
}

impl Peer {
    /// A peer in the making. `node_id` is unique within the service type.
    pub fn builder(node_id: impl Into<Arc<str>>, service: &ServiceType) -> PeerBuilder {
        PeerBuilder {
            inner: Inner {
                node_id: node_id.into(),
                service: service.without_subtype(),
                endpoints: Arc::default(),
                metadata: Metadata::default(),
                state: PeerState::Up,
                priority: 0,
                source: SourceId::Static,
                also_from: Arc::default(),
                origin: "".into(),
                evidence: Arc::default(),
                more_evidence: Arc::default(),
            },
            endpoints: Vec::new(),
            seen: None,
            error: None,
        }
    }

    /// A copy in the making, which shares the evidence of this one.
    pub fn to_builder(&self) -> PeerBuilder {
        PeerBuilder {
            inner: (*self.0).clone(),
            endpoints: self.0.endpoints.to_vec(),
            seen: Some(self.last_seen()),
            error: None,
        }
    }

    /// Unique within the service type, stable over restarts: 1–255 bytes without control characters.
    /// It may still hold characters that deceive a reader: show it with [`escape`](crate::escape()).
    pub fn node_id(&self) -> &str {
        &self.0.node_id
    }

    pub(crate) fn shared_node_id(&self) -> Arc<str> {
        self.0.node_id.clone()
    }

    /// What it is an instance of.
    pub fn service_type(&self) -> &ServiceType {
        &self.0.service
    }

    /// The endpoint to dial first.
    pub fn address(&self) -> &Endpoint {
        self.0.endpoints.first().expect("`build` refuses a peer without an endpoint")
    }

    /// All endpoints, 1–16, in the order in which to dial them.
    pub fn addresses(&self) -> &[Endpoint] {
        &self.0.endpoints
    }

    /// What it says about itself.
    pub fn metadata(&self) -> &Metadata {
        &self.0.metadata
    }

    /// When there was evidence of it last: an announcement, a registry's list, or a call that it
    /// answered. Moves in every copy of this peer, also in snapshots that were taken before.
    pub fn last_seen(&self) -> Instant {
        clock::from_nanos(self.evidence().map(Evidence::seen).max().unwrap_or_default())
    }

    /// When a caller last reported that it answered; none if nobody did.
    pub fn last_alive(&self) -> Option<Instant> {
        let alive = self.evidence().map(|evidence| evidence.alive.load(Ordering::Relaxed)).max();
        alive.filter(|&alive| alive != NEVER).map(clock::from_nanos)
    }

    /// Whether there is a reason to doubt that it is there.
    pub fn state(&self) -> PeerState {
        self.0.state
    }

    /// Whether its state is [`PeerState::Up`].
    pub fn is_up(&self) -> bool {
        self.0.state == PeerState::Up
    }

    /// 0 comes first: from an SRV record or from the source.
    pub fn priority(&self) -> u16 {
        self.0.priority
    }

    /// Who told us; for a merged peer the source that counts most.
    pub fn source(&self) -> &SourceId {
        &self.0.source
    }

    /// The other sources of a merged peer.
    pub fn also_from(&self) -> &[SourceId] {
        &self.0.also_from
    }

    /// Where it stands in its source, for people: a full name and a host, a file, a key. Foreign text:
    /// show it with [`escape`](crate::escape()).
    pub fn origin(&self) -> &str {
        &self.0.origin
    }

    /// Notes evidence that the peer is there. Publishes nothing (discovery §1.2).
    pub fn heard(&self, at: Instant) {
        for evidence in self.evidence() {
            evidence.seen.fetch_max(clock::to_nanos(at), Ordering::Relaxed);
        }
    }

    /// Notes that the peer answered a call.
    pub fn answered(&self, at: Instant) {
        for evidence in self.evidence() {
            evidence.seen.fetch_max(clock::to_nanos(at), Ordering::Relaxed);
            evidence.alive.fetch_max(clock::to_nanos(at), Ordering::Relaxed);
        }
    }

    /// The same peer in another state, with the same evidence.
    #[must_use]
    pub fn with_state(&self, state: PeerState) -> Self {
        Self(Arc::new(Inner { state, ..(*self.0).clone() }))
    }

    /// The same peer with the evidence of `other` besides its own `last_seen`.
    #[must_use]
    pub(crate) fn with_evidence_of(&self, other: &Self) -> Self {
        other.heard(self.last_seen());
        Self(Arc::new(Inner {
            evidence: other.0.evidence.clone(),
            more_evidence: other.0.more_evidence.clone(),
            ..(*self.0).clone()
        }))
    }

    /// This peer as the first of `others`, the same peer in other sources: evidence of any is evidence of
    /// the merged one.
    #[must_use]
    pub(crate) fn with_evidence_of_all<'a>(&self, others: impl IntoIterator<Item = &'a Self>) -> Self {
        let more = others
            .into_iter()
            .flat_map(|other| [&other.0.evidence].into_iter().chain(other.0.more_evidence.iter()).cloned());
        let more_evidence = self.0.more_evidence.iter().cloned().chain(more).collect();
        Self(Arc::new(Inner { more_evidence, ..(*self.0).clone() }))
    }

    /// Whether `self` and `other` would be equal if their states were.
    pub(crate) fn differs_in_state_only(&self, other: &Self) -> bool {
        self.is_same_peer(other)
            && self.0.endpoints == other.0.endpoints
            && self.0.metadata == other.0.metadata
            && self.0.priority == other.0.priority
    }

    fn is_same_peer(&self, other: &Self) -> bool {
        self.0.node_id == other.0.node_id && self.0.service == other.0.service
    }

    fn evidence(&self) -> impl Iterator<Item = &Evidence> {
        [&self.0.evidence].into_iter().chain(self.0.more_evidence.iter()).map(|evidence| &**evidence)
    }
}

impl PartialEq for Peer {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || (self.differs_in_state_only(other) && self.0.state == other.0.state)
    }
}

impl Eq for Peer {}

/// `billing-1 at 10.0.0.1:80`, escaped.
impl Display for Peer {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", escape(self.node_id()), self.address())
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("node_id", &self.node_id())
            .field("service", &self.0.service)
            .field("endpoints", &self.0.endpoints)
            .field("metadata", &self.0.metadata)
            .field("state", &self.0.state)
            .field("priority", &self.0.priority)
            .field("source", &self.0.source)
            .field("origin", &self.origin())
            .finish_non_exhaustive()
    }
}

/// When there was evidence of a peer, in nanoseconds of [`clock`].
struct Evidence {
    // Relaxed everywhere: the instants order nothing but themselves.
    seen: AtomicI64,
    alive: AtomicI64,
}

const NEVER: i64 = i64::MIN;

impl Evidence {
    fn seen(&self) -> i64 {
        self.seen.load(Ordering::Relaxed)
    }
}

impl Default for Evidence {
    fn default() -> Self {
        Self { seen: AtomicI64::new(NEVER), alive: AtomicI64::new(NEVER) }
    }
}

/// A [`Peer`] in the making, for those who write sources.
#[derive(Clone)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct PeerBuilder {
    inner: Inner,
    endpoints: Vec<Endpoint>,
    seen: Option<Instant>,
    error: Option<DiscoveryError>,
}

impl PeerBuilder {
    /// Adds an endpoint behind those that are there. Of more than 16 the first 16 count.
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

    /// Replaces all endpoints.
    pub fn endpoints(mut self, endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        self.endpoints = endpoints.into_iter().collect();
        self
    }

    /// What it says about itself.
    pub fn metadata(mut self, metadata: Metadata) -> Self {
        self.inner.metadata = metadata;
        self
    }

    /// Default [`PeerState::Up`].
    pub fn state(mut self, state: PeerState) -> Self {
        self.inner.state = state;
        self
    }

    /// 0, the default, comes first.
    pub fn priority(mut self, priority: u16) -> Self {
        self.inner.priority = priority;
        self
    }

    /// Who told us. Default [`SourceId::Static`].
    pub fn source(mut self, source: SourceId) -> Self {
        self.inner.source = source;
        self
    }

    /// The other sources of a merged peer.
    pub fn also_from(mut self, sources: impl IntoIterator<Item = SourceId>) -> Self {
        self.inner.also_from = sources.into_iter().collect();
        self
    }

    /// Where it stands in its source, for people.
    pub fn origin(mut self, origin: impl Into<Arc<str>>) -> Self {
        self.inner.origin = origin.into();
        self
    }

    /// When there was evidence of it. Default: now.
    pub fn seen(mut self, at: Instant) -> Self {
        self.seen = Some(at);
        self
    }

    /// Checks the fields and makes the peer.
    ///
    /// # Errors
    ///
    /// [`DiscoveryError::InvalidNodeId`]; [`DiscoveryError::NoUsableAddress`] without an endpoint,
    /// [`DiscoveryError::InvalidPort`] with one of port 0, and what [`endpoint`](Self::endpoint) was
    /// given and could not read.
    pub fn build(self) -> Result<Peer, DiscoveryError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let mut endpoints: Vec<Endpoint> = Vec::with_capacity(self.endpoints.len().min(MAX_ENDPOINTS));
        for endpoint in self.endpoints {
            if endpoint.port() == 0 {
                return Err(DiscoveryError::InvalidPort);
            }
            if endpoints.len() < MAX_ENDPOINTS && !endpoints.contains(&endpoint) {
                endpoints.push(endpoint);
            }
        }
        if endpoints.is_empty() {
            return Err(DiscoveryError::NoUsableAddress { why: "there is none".to_owned() });
        }
        check_node_id(&self.inner.node_id)?;
        let peer = Peer(Arc::new(Inner { endpoints: endpoints.into(), ..self.inner }));
        peer.heard(self.seen.unwrap_or_else(Instant::now));
        Ok(peer)
    }
}

impl fmt::Debug for PeerBuilder {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerBuilder")
            .field("node_id", &self.inner.node_id)
            .field("endpoints", &self.endpoints)
            .finish_non_exhaustive()
    }
}

/// Whether a text can be a node id: 1–255 bytes without control characters.
///
/// # Errors
///
/// [`DiscoveryError::InvalidNodeId`].
pub fn check_node_id(node_id: &str) -> Result<(), DiscoveryError> {
    let rule = if node_id.is_empty() {
        "must not be empty"
    } else if node_id.len() > MAX_NODE_ID {
        "is longer than 255 bytes"
    } else if node_id.chars().any(char::is_control) {
        "must not hold a control character"
    } else {
        return Ok(());
    };
    Err(DiscoveryError::InvalidNodeId { rule })
}

/// Whether there is a reason to doubt a peer. It stays in the list while there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "there is doubt or there is none")]
pub enum PeerState {
    /// No doubt.
    Up,
    /// A reason to doubt, which is being checked. Such a peer may still be picked.
    Suspect {
        /// Since when.
        since: Instant,
        /// The reason.
        why: SuspectWhy,
    },
}

/// Why a peer is in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SuspectWhy {
    /// A goodbye or a removal arrived and is being confirmed.
    Withdrawn,
    /// It is missing from a full list.
    Silent,
    /// A caller could not reach it.
    Unreachable,
    /// Its interface or its source is gone; what was known last is kept.
    SourceLost,
}

impl SuspectWhy {
    /// In the order of their counters.
    pub(crate) const ALL: [Self; 4] = [Self::Withdrawn, Self::Silent, Self::Unreachable, Self::SourceLost];

    /// A name that never changes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Withdrawn => "withdrawn",
            Self::Silent => "silent",
            Self::Unreachable => "unreachable",
            Self::SourceLost => "source_lost",
        }
    }
}

impl Display for SuspectWhy {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Who told us of a peer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum SourceId {
    /// Multicast DNS.
    Mdns,
    /// A list in the program.
    Static,
    /// A file.
    File,
    /// DNS.
    Dns,
    /// etcd.
    Etcd,
    /// Consul.
    Consul,
    /// Kubernetes.
    K8s,
    /// A source that is not from this crate, by the name it gives itself.
    Other(Arc<str>),
}

impl SourceId {
    /// The name of the source.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Mdns => "mdns",
            Self::Static => "static",
            Self::File => "file",
            Self::Dns => "dns",
            Self::Etcd => "etcd",
            Self::Consul => "consul",
            Self::K8s => "k8s",
            Self::Other(name) => name,
        }
    }
}

impl Display for SourceId {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn service() -> ServiceType {
        "t".parse().unwrap()
    }

    fn peer(node_id: &str) -> PeerBuilder {
        Peer::builder(node_id, &service()).endpoint("10.0.0.1:80")
    }

    #[test]
    fn d006_evidence_is_no_part_of_equality() {
        let now = Instant::now();
        let later = now + Duration::from_secs(5);
        let (old, new) = (peer("a").seen(now).build().unwrap(), peer("a").seen(later).build().unwrap());
        assert_eq!(old, new);
        assert_ne!(old.last_seen(), new.last_seen());

        assert_ne!(old, peer("b").build().unwrap());
        assert_ne!(old, peer("a").priority(1).build().unwrap());
        assert_ne!(old, peer("a").endpoint("10.0.0.2:80").build().unwrap());
        assert_ne!(old, peer("a").metadata(Metadata::new([("k", "v")]).unwrap()).build().unwrap());
        let suspect = PeerState::Suspect { since: now, why: SuspectWhy::Silent };
        assert_ne!(old, old.with_state(suspect));
        assert!(old.differs_in_state_only(&old.with_state(suspect)));
        assert_eq!(old, old.to_builder().source(SourceId::Mdns).origin("elsewhere").build().unwrap());
    }

    #[test]
    fn evidence_is_shared_by_all_copies_and_never_goes_back() {
        let now = Instant::now();
        let first = peer("a").seen(now).build().unwrap();
        let copy = first.to_builder().priority(3).build().unwrap();
        assert_eq!((copy.last_seen(), copy.last_alive()), (now, None));

        copy.answered(now + Duration::from_secs(2));
        first.heard(now + Duration::from_secs(1));
        assert_eq!(first.last_seen(), now + Duration::from_secs(2));
        assert_eq!(first.last_alive(), Some(now + Duration::from_secs(2)));

        let elsewhere = peer("a").seen(now + Duration::from_secs(9)).build().unwrap();
        let merged = first.with_evidence_of_all([&elsewhere]);
        assert_eq!(merged.last_seen(), now + Duration::from_secs(9));
        elsewhere.answered(now + Duration::from_secs(10));
        assert_eq!(merged.last_alive(), Some(now + Duration::from_secs(10)));
        merged.heard(now + Duration::from_secs(11));
        assert_eq!(first.last_seen(), now + Duration::from_secs(11));
    }

    #[test]
    fn s121_what_cannot_be_dialled_or_named_is_no_peer() {
        let longest = "n".repeat(255);
        assert!(peer(&longest).build().is_ok());
        for node_id in ["", "a\nb", "a\u{1b}[2J", "a\u{0}", "a\u{7f}", "a\u{85}", &format!("{longest}n")] {
            assert_eq!(peer(node_id).build().unwrap_err().code(), "invalid_node_id", "{node_id:?}");
        }
        let code = |builder: PeerBuilder| builder.build().unwrap_err().code();
        assert_eq!(code(Peer::builder("a", &service())), "no_usable_address");
        assert_eq!(code(peer("a").endpoint("10.0.0.1:0")), "invalid_port");
        assert_eq!(code(peer("a").endpoint("nonsense").endpoint("worse")), "invalid_endpoint");
    }

    #[test]
    fn d016_of_20_endpoints_the_first_16_count_and_none_twice() {
        let twenty = (1..=20).map(|i| format!("10.0.0.{i}:80").parse().unwrap());
        let made = Peer::builder("a", &service()).endpoints(twenty.clone().chain(twenty)).build().unwrap();
        let expected: Vec<Endpoint> = (1..=16).map(|i| format!("10.0.0.{i}:80").parse().unwrap()).collect();
        assert_eq!(made.addresses(), expected);
        assert_eq!(made.address(), &expected[0]);
    }

    #[test]
    fn s204_a_peer_is_shown_escaped() {
        let shown = peer("a\u{202e}b").build().unwrap();
        assert_eq!(shown.to_string(), r"a\u{202e}b at 10.0.0.1:80");
        assert!(!format!("{shown:?}").contains('\u{202e}'));
    }
}
