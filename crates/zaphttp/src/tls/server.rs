//! The accepting side.

use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::cluster::{Material, Source};
use super::failure::TlsError;
use super::verify::{Trust, VerifyClient};
use super::{ALPN, Identity, KeyExchange, Roots, TlsFailure, TlsInfo, TlsStream};

/// How long, and for how many bytes, a refused connection is kept so that the peer can read why. Closing a
/// socket with unread data resets it, and a reset may overtake the alert.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_LEN: u64 = 64 << 10;

/// How to be a TLS server: what to show, and whose certificates to require. Cheap to clone.
#[derive(Clone, Debug)]
#[must_use = "settings do nothing until they accept"]
pub struct ServerTls {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    source: Arc<Source>,
    clients: Clients,
    key_exchange: KeyExchange,
    handshake_timeout: Duration,
    /// The rustls configuration of the newest material, and its version.
    config: Mutex<Option<(u64, Arc<ServerConfig>)>>,
}

/// Who may connect.
#[derive(Clone, Debug)]
enum Clients {
    Anyone,
    /// Whoever the source's roots vouch for.
    Cluster,
    /// Whoever these roots vouch for.
    Of(Arc<Trust>),
}

impl ServerTls {
    /// Shows this identity and asks clients for none.
    pub fn new(identity: Identity) -> Self {
        Self::from_source(Arc::new(Source::fixed(None, Some(identity))), Clients::Anyone)
    }

    /// Shows the source's identity and requires certificates that its roots vouch for.
    pub(super) fn of_cluster(source: Arc<Source>) -> Self {
        Self::from_source(source, Clients::Cluster)
    }

    fn from_source(source: Arc<Source>, clients: Clients) -> Self {
        Self {
            shared: Arc::new(Shared {
                source,
                clients,
                key_exchange: KeyExchange::default(),
                handshake_timeout: Duration::from_secs(10),
                config: Mutex::new(None),
            }),
        }
    }

    /// Refuses clients that show no certificate of these roots.
    pub fn require_client_certificates(self, roots: Roots) -> Self {
        self.with(|shared| shared.clients = Clients::Of(Arc::new(Trust::new(roots))))
    }

    /// Also accepts X25519, secp256r1 and secp384r1. What is recorded today can then be read by whoever
    /// has a quantum computer one day (S-051).
    pub fn classical_allowed(self) -> Self {
        self.with(|shared| shared.key_exchange = KeyExchange::ClassicalAllowed)
    }

    /// From the first byte to the end of the handshake. Default 10 s (S-062).
    pub fn handshake_timeout(self, limit: Duration) -> Self {
        self.with(|shared| shared.handshake_timeout = limit)
    }

    /// Which key exchanges are accepted.
    pub fn key_exchange(&self) -> KeyExchange {
        self.shared.key_exchange
    }

    /// Whether clients must show a certificate.
    pub fn requires_client_certificates(&self) -> bool {
        !matches!(self.shared.clients, Clients::Anyone)
    }

    /// Makes an accepted `io` an encrypted stream. Uses the newest certificate.
    ///
    /// A refused client is told why; that may take up to a second more, so call this from the task of the
    /// connection and not from the loop that accepts.
    ///
    /// # Errors
    ///
    /// [`TlsError`]; [`TlsFailure::Timeout`] after the handshake timeout.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes this connection and nothing else.
    pub async fn accept<IO>(&self, io: IO) -> Result<(TlsStream<IO>, TlsInfo), TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let config = self.config()?;
        let handshake = tokio_rustls::TlsAcceptor::from(config).accept(io).into_fallible();
        let (error, io) = match tokio::time::timeout(self.shared.handshake_timeout, handshake).await {
            Ok(Ok(stream)) => {
                let state = stream.get_ref().1;
                let info = TlsInfo::new(state, state.server_name().map(str::to_owned))?;
                return Ok((TlsStream::new(stream.into(), Arc::new(AtomicBool::new(false))), info));
            }
            Ok(Err((error, io))) => (error, io),
            Err(_) => return Err(TlsError::during_handshake(io::ErrorKind::TimedOut.into())),
        };
        let error = TlsError::during_handshake(error);
        if error.failure() != TlsFailure::Closed && !error.refused_by_peer() {
            linger(io).await;
        }
        Err(error)
    }

    fn with(self, change: impl FnOnce(&mut Shared)) -> Self {
        let Shared { source, clients, key_exchange, handshake_timeout, config: _ } = &*self.shared;
        let mut shared = Shared {
            source: source.clone(),
            clients: clients.clone(),
            key_exchange: *key_exchange,
            handshake_timeout: *handshake_timeout,
            config: Mutex::new(None),
        };
        change(&mut shared);
        Self { shared: Arc::new(shared) }
    }

    fn config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let shared = &*self.shared;
        let material = shared.source.current();
        let mut slot = shared.config.lock().unwrap_or_else(PoisonError::into_inner);
        match &*slot {
            Some((version, config)) if *version == material.version => Ok(config.clone()),
            _ => {
                let config = Arc::new(shared.make_config(&material)?);
                *slot = Some((material.version, config.clone()));
                Ok(config)
            }
        }
    }
}

impl Shared {
    fn make_config(&self, material: &Material) -> Result<ServerConfig, TlsError> {
        let builder = ServerConfig::builder_with_provider(self.key_exchange.provider().clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| TlsError::during_handshake(io::Error::other(error)))?;
        let builder = match (&self.clients, &material.trust) {
            (Clients::Anyone, _) => builder.with_no_client_auth(),
            (Clients::Of(trust), _) | (Clients::Cluster, Some(trust)) => {
                builder.with_client_cert_verifier(Arc::new(VerifyClient(trust.clone())))
            }
            // Never fall back to letting anyone in.
            (Clients::Cluster, None) => return Err(TlsError::new(TlsFailure::UnknownIssuer)),
        };
        let Some(identity) = &material.identity else {
            return Err(TlsError::new(TlsFailure::Other));
        };
        let mut config = builder.with_cert_resolver(Arc::new(Show(identity.key().clone())));
        config.alpn_protocols = vec![ALPN.to_vec()];
        // No tickets, no store: each connection proves itself, and there is no early data (S-057).
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(config)
    }
}

/// Shows one identity.
#[derive(Debug)]
struct Show(Arc<CertifiedKey>);

impl ResolvesServerCert for Show {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

async fn linger<IO: AsyncRead + AsyncWrite + Unpin>(mut io: IO) {
    let farewell = async {
        if io.shutdown().await.is_ok() {
            // Whatever comes is of no interest; the end of it, or an error, is.
            let _ = tokio::io::copy(&mut (&mut io).take(LINGER_LEN), &mut tokio::io::sink()).await;
        }
    };
    let _ = tokio::time::timeout(LINGER, farewell).await;
}
