//! TLS 1.3 for frames: post-quantum key exchange, one cluster CA, reload from disk.
//!
//! The frames of this crate run unchanged over TLS (zaphttp §5). The policy is fixed where a setting
//! could only weaken it: TLS 1.3 alone (S-050), no early data and no session tickets (S-057), no key log
//! (S-058), and nobody trusted but the roots that were given, whatever the system's store or
//! `SSL_CERT_FILE` say (S-053). The key exchange is `X25519MLKEM768` and nothing else (S-051), unless
//! [`classical_allowed`](ClientTls::classical_allowed) was called.
//!
//! ```
//! use peerage_zaphttp::tls::{ClusterTls, Roots, Identity, San, TlsConfigError};
//!
//! # fn example(ca: &[u8], chain: &[u8], key: &[u8]) -> Result<(), TlsConfigError> {
//! // Everyone in a cluster shows a certificate of its CA, and asks for one.
//! let cluster = ClusterTls::new(Roots::from_pem(ca)?, Identity::from_pem(chain, key)?)?;
//! let server = cluster.server()?;
//! // The peer that answers must be the node that was picked (S-063).
//! let client = cluster.client().expect_node(San::dns("billing-1.mesh.internal")?);
//! # Ok(()) }
//! ```
//!
//! # Map
//! [`Roots`] and [`Identity`] are parsed once; [`ClusterTls`] keeps both together and reloads them;
//! [`ClientTls`] and [`ServerTls`] turn a byte stream into a [`TlsStream`]; [`TlsInfo`] says what was
//! negotiated and who is there; [`TlsFailure`] says why not.

mod client;
mod cluster;
mod failure;
mod material;
mod reload;
mod san;
mod server;
mod stream;
mod validity;
mod verify;

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};

pub use rustls::NamedGroup;
pub use rustls_pki_types::{CertificateDer, ServerName};

pub use self::client::{ClientTls, Generation};
pub use self::cluster::{ClusterTls, TlsFiles, TlsStatus, TlsWatch};
pub use self::failure::{TlsError, TlsFailure};
pub use self::material::{Identity, Roots, TlsConfigError};
pub use self::san::{NodeNames, PeerNames, San};
pub use self::server::ServerTls;
pub use self::stream::{TlsInfo, TlsStream};
pub use self::validity::Validity;

/// The application protocol that is offered and, when a peer selects one, the only one accepted (S-064).
pub const ALPN: &[u8] = b"zap-http/1";

/// Which key exchanges are offered and accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyExchange {
    /// `X25519MLKEM768` (0x11EC) and nothing else: what was recorded today stays closed to a quantum
    /// computer of tomorrow.
    #[default]
    PostQuantum,
    /// The hybrid first, then X25519, secp256r1 and secp384r1.
    ClassicalAllowed,
}

static POST_QUANTUM: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| provider(&[aws_lc_rs::kx_group::X25519MLKEM768]));
static CLASSICAL_ALLOWED: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    use aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519, X25519MLKEM768};
    provider(&[X25519MLKEM768, X25519, SECP256R1, SECP384R1])
});

fn provider(groups: &[&'static dyn SupportedKxGroup]) -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider { kx_groups: groups.to_vec(), ..aws_lc_rs::default_provider() })
}

impl KeyExchange {
    fn provider(self) -> &'static Arc<CryptoProvider> {
        match self {
            Self::PostQuantum => &POST_QUANTUM,
            Self::ClassicalAllowed => &CLASSICAL_ALLOWED,
        }
    }
}
