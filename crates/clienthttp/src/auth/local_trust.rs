use http::request::Parts;
use peerage_discovery::Peer;
use peerage_zaphttp::tls::{ClientTls, ClusterTls, NodeNames};

use super::AuthAttacher;
use crate::{BoxError, ConfigError};

/// Trust by mutual TLS alone: peers are verified against the cluster CA, and we show a certificate of it.
/// No call carries a credential.
///
/// A local network is not trusted just for being local: whoever can announce a peer could collect calls.
/// So this cannot be made without the identity that makes it true (S-054).
#[derive(Clone, Debug)]
pub struct LocalTrust {
    tls: ClientTls,
    names: NodeNames,
}

impl LocalTrust {
    /// As a member of this cluster. The certificate of each peer must contain its node id as a name.
    ///
    /// # Errors
    ///
    /// [`ConfigError::LocalTrust`] if the cluster has no identity for us.
    pub fn new(cluster: &ClusterTls) -> Result<Self, ConfigError> {
        Self::with_tls(cluster.client())
    }

    /// With TLS settings of one's own.
    ///
    /// # Errors
    ///
    /// [`ConfigError::LocalTrust`] if they have no identity.
    pub fn with_tls(tls: ClientTls) -> Result<Self, ConfigError> {
        if !tls.has_identity() {
            return Err(ConfigError::LocalTrust { why: "there is no certificate of our own" });
        }
        Ok(Self { tls, names: NodeNames::Plain })
    }

    /// How certificates name the nodes. Default: by the node id itself.
    #[must_use]
    pub fn names(self, names: NodeNames) -> Self {
        Self { names, ..self }
    }

    pub(crate) fn into_parts(self) -> (ClientTls, NodeNames) {
        (self.tls, self.names)
    }
}

impl AuthAttacher for LocalTrust {
    fn attach(&self, _: &mut Parts, _: &Peer) -> Result<(), BoxError> {
        Ok(())
    }
}
