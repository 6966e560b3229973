//! The dialling side.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::ClientConfig;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::sign::CertifiedKey;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::cluster::Source;
use super::failure::TlsError;
use super::verify::{Trust, VerifyServer};
use super::{ALPN, Identity, KeyExchange, Roots, San, TlsFailure, TlsInfo, TlsStream};

/// How to be a TLS client: whom to trust, what to show, whom to expect. Cheap to clone.
///
/// The name that is verified is, in this order: that of [`expect_name`](Self::expect_name); none, if a
/// node is expected (whose own name must be there, whatever address it was found at); the one that is
/// dialled.
#[derive(Clone, Debug)]
#[must_use = "settings do nothing until they connect"]
pub struct ClientTls {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Never the same for two settings, so that connections made under one are not used under another.
    id: u64,
    source: Arc<Source>,
    /// Shown instead of the source's identity.
    identity: Option<Identity>,
    key_exchange: KeyExchange,
    name: Option<ServerName<'static>>,
    node: Option<San>,
    /// The rustls configuration of the newest material, and its version.
    config: Mutex<Option<(u64, Arc<ClientConfig>)>>,
}

/// Stands for settings, roots and identity together: two connections may stand in for each other only if
/// theirs are equal (S-040). Changes when files are reloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation {
    settings: u64,
    material: u64,
}

impl ClientTls {
    /// Trusts these roots and nobody else; shows no certificate.
    pub fn new(roots: Roots) -> Self {
        Self::from_source(Arc::new(Source::fixed(Some(roots), None)))
    }

    pub(super) fn from_source(source: Arc<Source>) -> Self {
        Self {
            shared: Arc::new(Shared {
                id: next_id(),
                source,
                identity: None,
                key_exchange: KeyExchange::default(),
                name: None,
                node: None,
                config: Mutex::new(None),
            }),
        }
    }

    /// Shows this identity to servers that ask for one.
    pub fn identity(self, identity: Identity) -> Self {
        self.with(|shared| shared.identity = Some(identity))
    }

    /// The certificate must be for this name, whatever was dialled. Needed for Unix sockets.
    pub fn expect_name(self, name: ServerName<'static>) -> Self {
        self.with(|shared| shared.name = Some(name))
    }

    /// The certificate must contain exactly this name: the peer is that node and no other (S-063).
    pub fn expect_node(self, node: San) -> Self {
        self.with(|shared| shared.node = Some(node))
    }

    /// Also offers and accepts X25519, secp256r1 and secp384r1. What is recorded today can then be read
    /// by whoever has a quantum computer one day (S-051).
    pub fn classical_allowed(self) -> Self {
        self.with(|shared| shared.key_exchange = KeyExchange::ClassicalAllowed)
    }

    /// Which key exchanges are offered.
    pub fn key_exchange(&self) -> KeyExchange {
        self.shared.key_exchange
    }

    /// Whether a certificate is shown: the half of local trust that is ours (S-054).
    pub fn has_identity(&self) -> bool {
        self.shared.identity.is_some() || self.shared.source.current().identity.is_some()
    }

    /// For keys of connection pools.
    pub fn generation(&self) -> Generation {
        Generation { settings: self.shared.id, material: self.shared.source.version() }
    }

    /// Makes `io` an encrypted stream. `dialled` is the host of the target, `None` for a Unix socket.
    ///
    /// # Errors
    ///
    /// [`TlsError`]; [`TlsFailure::Timeout`] at `deadline`, [`TlsFailure::Name`] if there is no name to
    /// verify. Nothing but the handshake was sent.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes this connection and nothing else.
    pub async fn connect<IO>(
        &self,
        io: IO,
        dialled: Option<ServerName<'static>>,
        deadline: Option<Instant>,
    ) -> Result<(TlsStream<IO>, TlsInfo), TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let Shared { name, node, .. } = &*self.shared;
        let check_name = name.is_some() || node.is_none();
        let server_name = name
            .clone()
            .or_else(|| node.as_ref().and_then(San::server_name))
            .or(dialled)
            // A node known by a URI on a Unix socket: no name is sent, and none is checked.
            .or_else(|| (!check_name).then(|| ServerName::from(std::net::Ipv4Addr::LOCALHOST)))
            .ok_or_else(|| TlsError::new(TlsFailure::Name))?;
        let sni = match &server_name {
            ServerName::DnsName(name) => Some(name.as_ref().to_owned()),
            _ => None,
        };

        let unanswered = Arc::new(AtomicBool::new(false));
        let config = self.config(check_name, &unanswered)?;
        let handshake = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(server_name, io);
        let stream = match deadline {
            None => handshake.await,
            Some(deadline) => match tokio::time::timeout_at(deadline, handshake).await {
                Ok(result) => result,
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            },
        }
        .map_err(TlsError::during_handshake)?;
        let info = TlsInfo::new(stream.get_ref().1, sni)?;
        Ok((TlsStream::new(stream.into(), unanswered), info))
    }

    fn with(self, change: impl FnOnce(&mut Shared)) -> Self {
        let Shared { id: _, source, identity, key_exchange, name, node, config: _ } = &*self.shared;
        let mut shared = Shared {
            id: next_id(),
            source: source.clone(),
            identity: identity.clone(),
            key_exchange: *key_exchange,
            name: name.clone(),
            node: node.clone(),
            config: Mutex::new(None),
        };
        change(&mut shared);
        Self { shared: Arc::new(shared) }
    }

    /// The configuration for one connection.
    fn config(&self, check_name: bool, unanswered: &Arc<AtomicBool>) -> Result<ClientConfig, TlsError> {
        let shared = &*self.shared;
        let material = shared.source.current();
        let Some(trust) = &material.trust else { return Err(TlsError::new(TlsFailure::UnknownIssuer)) };
        let mut slot = shared.config.lock().unwrap_or_else(PoisonError::into_inner);
        let mut config = match &*slot {
            Some((version, config)) if *version == material.version => (**config).clone(),
            _ => {
                let config = base_config(shared.key_exchange, trust)?;
                *slot = Some((material.version, Arc::new(config.clone())));
                config
            }
        };
        drop(slot);
        config.dangerous().set_certificate_verifier(Arc::new(VerifyServer {
            trust: trust.clone(),
            check_name,
            node: shared.node.clone(),
        }));
        let identity = shared.identity.as_ref().or(material.identity.as_ref());
        config.client_auth_cert_resolver = Arc::new(Show {
            key: identity.map(|identity| identity.key().clone()),
            unanswered: unanswered.clone(),
        });
        Ok(config)
    }
}

fn base_config(key_exchange: KeyExchange, trust: &Arc<Trust>) -> Result<ClientConfig, TlsError> {
    let nobody = VerifyServer { trust: trust.clone(), check_name: true, node: None };
    let mut config = ClientConfig::builder_with_provider(key_exchange.provider().clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| TlsError::during_handshake(io::Error::other(error)))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(nobody))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session skips the certificates: one that was revoked or replaced would live on in it.
    // (Sessions would not be found again anyway, as each connection has a verifier of its own.)
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Shows one identity, and remembers when there was none to show.
#[derive(Debug)]
struct Show {
    key: Option<Arc<CertifiedKey>>,
    unanswered: Arc<AtomicBool>,
}

impl ResolvesClientCert for Show {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        if self.key.is_none() {
            self.unanswered.store(true, Ordering::Relaxed);
        }
        self.key.clone()
    }

    fn has_certs(&self) -> bool {
        // "Yes" even without one, so that `resolve` hears of the request.
        true
    }
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    // Relaxed: the numbers only have to differ.
    NEXT.fetch_add(1, Ordering::Relaxed)
}
