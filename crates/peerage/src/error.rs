//! What can go wrong between the parts.

use peerage_clienthttp::ConfigError;
use peerage_discovery::DiscoveryError;
use peerage_zaphttp::tls::TlsConfigError;

/// Why a [`Mesh`](crate::Mesh) could not do what it was asked for.
///
/// `Display` tells this level only, the source chain the rest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MeshError {
    /// A service name, a source or an announcement that makes no sense, or a source that cannot run.
    #[error("discovery")]
    Discovery(#[from] DiscoveryError),
    /// Settings of a client that contradict each other.
    #[error("client settings")]
    Client(#[from] ConfigError),
    /// Certificates or keys that cannot be used.
    #[error("certificates")]
    Tls(#[from] TlsConfigError),
    /// The listener could not be used.
    #[error("listener")]
    Listen(#[source] std::io::Error),
    /// More services are called through this mesh than it has room for.
    #[error("more than {limit} services called through one mesh")]
    TooManyServices {
        /// The most clients a mesh keeps.
        limit: usize,
    },
    /// A registration was asked for, and no gateway was given.
    #[cfg(feature = "controlclient")]
    #[error("no gateway to register with")]
    NoGateway,
    /// The gateway refuses the registration, or does not answer.
    #[cfg(feature = "controlclient")]
    #[error("registration")]
    Register(#[from] peerage_controlclient::StartError),
    /// The mesh was closed.
    #[error("the mesh is closed")]
    Closed,
}
