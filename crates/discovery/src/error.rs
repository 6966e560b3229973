//! What can go wrong, each with a code that stays the same.

use crate::{
    escape::escape,
    service_type::ServiceType,
    status::{SourceReport, Sources},
};

/// Why an operation of this crate was refused or failed.
///
/// A network fault is not among them: it is a [`Status`](crate::Status), because discovery goes on.
/// `Display` tells this level only, the source chain the rest; both escape text of foreign origin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DiscoveryError {
    /// The text is no service type (discovery §2).
    #[error("invalid service type: {} {rule}", escape(.part))]
    InvalidServiceType {
        /// The offending part of the input.
        part: String,
        /// The rule that it breaks, as the rest of a sentence.
        rule: &'static str,
    },
    /// The text is no `address:port`, `[address]:port` or `name:port`.
    #[error("invalid endpoint: {} {rule}", escape(.part))]
    InvalidEndpoint {
        /// The offending part of the input.
        part: String,
        /// The rule that it breaks, as the rest of a sentence.
        rule: &'static str,
    },
    /// The node id is empty, too long, or holds a control character.
    #[error("invalid node id: it {rule}")]
    InvalidNodeId {
        /// The rule that it breaks, as the rest of a sentence.
        rule: &'static str,
    },
    /// Port 0, where something is to be dialled or advertised.
    #[error("port 0 cannot be dialled")]
    InvalidPort,
    /// A metadata pair that we would not send.
    #[error("invalid metadata: key {} {rule}", escape(.key))]
    InvalidMetadata {
        /// The key of the pair.
        key: String,
        /// The rule that it breaks, as the rest of a sentence.
        rule: &'static str,
    },
    /// Metadata that is too large to be sent as one record.
    #[error("metadata of {len} bytes exceeds the limit of {limit}")]
    MetadataTooLarge {
        /// Its length on the wire.
        len: usize,
        /// The most that is sent.
        limit: usize,
    },
    /// A metadata key whose name says that its value is a secret (S-133).
    #[error("metadata key {} looks like a secret, and metadata is readable by everybody", escape(.key))]
    SecretInMetadata {
        /// The key.
        key: String,
    },
    /// A peer without an endpoint, or with one that the address policy refuses.
    #[error("no usable address: {why}")]
    NoUsableAddress {
        /// What was refused and why.
        why: String,
    },
    /// An entry of a static list or of a file is no peer.
    #[error("peer {index} of the list is invalid")]
    InvalidPeer {
        /// Its position, from 0.
        index: usize,
        /// What is wrong with it.
        source: Box<Self>,
    },
    /// Two entries of one list have the same node id.
    #[error("node id {} is already taken by peer {first}", escape(.node_id))]
    DuplicateNodeId {
        /// The id.
        node_id: String,
        /// The position of the entry that had it first.
        first: usize,
    },
    /// A source text that we do not understand (discovery §13). It never repeats a secret.
    #[error("invalid source: {} {rule}", escape(.part))]
    InvalidSource {
        /// The offending part.
        part: String,
        /// The rule that it breaks, as the rest of a sentence.
        rule: &'static str,
    },
    /// A source of a kind that this build leaves out.
    #[error("this build has no `{feature}` source")]
    FeatureDisabled {
        /// The cargo feature that would bring it.
        feature: &'static str,
    },
    /// `start` was called before.
    #[error("discovery was started before")]
    AlreadyStarted,
    /// This process advertises the same node id under the same service type already.
    #[error("{} is already advertised as {service} by this process", escape(.node_id))]
    AlreadyAdvertised {
        /// The service type.
        service: ServiceType,
        /// The node id.
        node_id: String,
    },
    /// The value was stopped before.
    #[error("discovery was stopped")]
    Stopped,
    /// The backend needs an async runtime, and there is none.
    #[error("no async runtime: call this inside one, or pass a handle")]
    NoRuntime,
    /// More service types than one process may browse.
    #[error("more than {limit} service types are browsed by this process")]
    TooManyServices {
        /// The most.
        limit: usize,
    },
    /// Too few peers at the deadline of `wait_ready`.
    #[error("{have} of {want} peers of {service} after the wait ({suspects} in doubt): {why}")]
    NotReady {
        /// The service type.
        service: ServiceType,
        /// How many peers were asked for.
        want: usize,
        /// How many are up.
        have: usize,
        /// How many more are listed and in doubt.
        suspects: usize,
        /// What the source says about it.
        why: String,
    },
    /// Another host announces the same node id.
    #[error("the name is taken by {}", escape(.other_host))]
    NameConflict {
        /// The host that has it.
        other_host: String,
    },
    /// The backend's command queue stayed full.
    #[error("the discovery backend is busy")]
    Busy,
    /// The backend cannot do this at all.
    #[error("{what} is not supported by this source")]
    Unsupported {
        /// The operation.
        what: &'static str,
    },
    /// Sources of a merge that requires all of them could not be started.
    #[error("not every source could be started: {}", Sources(.failed))]
    SourcesFailed {
        /// Those that failed.
        failed: Vec<SourceReport>,
        /// What the first of them said.
        source: Box<Self>,
    },
    /// The operating system refused something that discovery cannot do without.
    #[error("{what}: {why}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The system's text.
        why: String,
    },
}

impl DiscoveryError {
    /// A short name of the variant that never changes: for logs, metrics and scripts.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidServiceType { .. } => "invalid_service_type",
            Self::InvalidEndpoint { .. } => "invalid_endpoint",
            Self::InvalidNodeId { .. } => "invalid_node_id",
            Self::InvalidPort => "invalid_port",
            Self::InvalidMetadata { .. } => "invalid_metadata",
            Self::MetadataTooLarge { .. } => "metadata_too_large",
            Self::SecretInMetadata { .. } => "secret_in_metadata",
            Self::NoUsableAddress { .. } => "no_usable_address",
            Self::InvalidPeer { .. } => "invalid_peer",
            Self::DuplicateNodeId { .. } => "duplicate_node_id",
            Self::InvalidSource { .. } => "invalid_source",
            Self::FeatureDisabled { .. } => "feature_disabled",
            Self::AlreadyStarted => "already_started",
            Self::AlreadyAdvertised { .. } => "already_advertised",
            Self::Stopped => "stopped",
            Self::NoRuntime => "no_runtime",
            Self::TooManyServices { .. } => "too_many_services",
            Self::NotReady { .. } => "not_ready",
            Self::NameConflict { .. } => "name_conflict",
            Self::Busy => "busy",
            Self::Unsupported { .. } => "unsupported",
            Self::SourcesFailed { .. } => "sources_failed",
            Self::System { .. } => "system",
        }
    }
}

/// So that what cannot fail may stand where something could: `StaticPeer::new(SocketAddr)`.
impl From<std::convert::Infallible> for DiscoveryError {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

const _: fn() = || {
    fn is_portable<T: Send + Sync + 'static>() {}
    is_portable::<DiscoveryError>();
};
