//! Settings of a gateway.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio_rustls::TlsAcceptor;

use crate::clock::Clock;
use crate::gateway::DevGateway;
use crate::names::Tiers;
use crate::serve::{Owned, Server};
use crate::service::slot_key;
use crate::shared::{Rules, Shared};
use crate::sign::{Secret, Signing, credential};
use crate::state::TTL_DEFAULT;

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Others could reach the address, and whoever reaches it controls the gateway.
    #[error("{addr} can be reached from elsewhere, and this gateway asks nobody who they are")]
    NotLoopback {
        /// As it was given.
        addr: SocketAddr,
    },
    /// The address could not be bound.
    #[error("cannot listen on {addr}")]
    Bind {
        /// As it was given.
        addr: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// Certificates or keys cannot be used.
    #[error("the TLS settings cannot be used: {reason}")]
    Tls {
        /// Holds nothing of the key.
        reason: String,
    },
    /// A slot to be taken at the start has no valid name.
    #[error("cannot take {slot}: {reason}")]
    Taken {
        /// As it was given.
        slot: String,
        /// As a service would be told.
        reason: String,
    },
}

/// Makes a [`DevGateway`].
#[must_use = "a builder does nothing until `start` is called"]
pub struct DevGatewayBuilder {
    addr: SocketAddr,
    beyond_loopback: bool,
    clock_is_manual: bool,
    tls: Option<Arc<rustls::ServerConfig>>,
    wait_limit: Duration,
    rules: Rules,
}

impl DevGatewayBuilder {
    pub(crate) fn new() -> Self {
        Self {
            addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            beyond_loopback: false,
            clock_is_manual: false,
            tls: None,
            wait_limit: Duration::from_secs(30),
            rules: Rules {
                tiers: Tiers::all(),
                ttl_default: TTL_DEFAULT,
                janitor_period: Duration::from_secs(5),
                signing: Signing::default(),
                bearer: None,
                taken: Vec::new(),
            },
        }
    }

    /// Where to listen. Default `127.0.0.1:0`: loopback, a free port.
    pub fn bind(mut self, addr: SocketAddr) -> Self {
        self.addr = addr;
        self
    }

    /// Allows an address that others can reach: whoever does can register, deregister and deprecate.
    pub fn danger_beyond_loopback(mut self) -> Self {
        self.beyond_loopback = true;
        self
    }

    /// The TTL of a registration that asks for none. Rounded up to whole seconds, at least 1. Default 30 s.
    pub fn default_ttl(mut self, ttl: Duration) -> Self {
        self.rules.ttl_default = whole_seconds(ttl);
        self
    }

    /// How often registrations that ran out are looked for, at least 1 ms. Default 5 s, as every gateway has it.
    pub fn janitor_period(mut self, period: Duration) -> Self {
        self.rules.janitor_period = period.max(Duration::from_millis(1));
        self
    }

    /// Time stands still until [`DevGateway::advance`] moves it. Default: the runtime's clock, which a paused
    /// runtime pauses.
    pub fn manual_clock(mut self) -> Self {
        self.clock_is_manual = true;
        self
    }

    /// Which versions are accepted. Default: all.
    pub fn tiers(mut self, tiers: Tiers) -> Self {
        self.rules.tiers = tiers;
        self
    }

    /// Who shows it may have subscription tokens signed. Default: nobody.
    pub fn signer_secret(mut self, secret: impl AsRef<[u8]>) -> Self {
        self.rules.signing.signer = Some(Secret::new(secret.as_ref()));
        self
    }

    /// Who shows it may do so too. Default: nobody.
    pub fn admin_token(mut self, token: impl AsRef<[u8]>) -> Self {
        self.rules.signing.admin = Some(Secret::new(token.as_ref()));
        self
    }

    /// What tokens are signed with under a key id; the empty id is the unnamed secret.
    pub fn subscription_secret(mut self, kid: &str, secret: impl AsRef<[u8]>) -> Self {
        let secret = Secret::new(secret.as_ref());
        match kid {
            "" => self.rules.signing.unnamed = Some(secret),
            _ => drop(self.rules.signing.keyed.insert(kid.to_owned(), secret)),
        }
        self
    }

    /// Subscriptions need no token, so none is signed.
    pub fn insecure_subscriptions(mut self) -> Self {
        self.rules.signing.insecure = true;
        self
    }

    /// Serves over TLS, or mutual TLS, as the configuration says; HTTP/2 is set in it. Default: plaintext.
    pub fn tls(mut self, config: Arc<rustls::ServerConfig>) -> Self {
        self.tls = Some(config);
        self
    }

    /// The same from PEM texts: the certificate chain, leaf first, and its key; with `client_ca` only callers with
    /// a certificate of that CA are let in.
    ///
    /// # Errors
    ///
    /// [`StartError::Tls`].
    pub fn tls_pem(self, chain: &[u8], key: &[u8], client_ca: Option<&[u8]>) -> Result<Self, StartError> {
        let failed =
            |what: &str, error: &dyn fmt::Display| StartError::Tls { reason: format!("{what}: {error}") };
        let certificates = |pem: &[u8]| {
            let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
            read.map_err(|error| failed("a certificate", &error))
        };
        let key =
            PrivateKeyDer::from_pem_slice(key).map_err(|_| failed("the key", &"no private key in PEM"))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| failed("the protocol", &error))?;
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let mut roots = rustls::RootCertStore::empty();
                for certificate in certificates(pem)? {
                    roots.add(certificate).map_err(|error| failed("the CA", &error))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|error| failed("the CA", &error))?)
            }
        };
        let config = builder.with_single_cert(certificates(chain)?, key);
        Ok(self.tls(Arc::new(config.map_err(|error| failed("certificate and key", &error))?)))
    }

    /// Asks every call for `authorization: Bearer <token>`, else UNAUTHENTICATED.
    ///
    /// # Deviation
    ///
    /// No gateway asks for one itself; a proxy before it may. Default: none is asked for.
    pub fn bearer(mut self, token: &str) -> Self {
        // Read as it will be when it comes.
        self.rules.bearer = credential(&format!("Bearer {token}")).map(|token| Secret::new(&token));
        self
    }

    /// Slots that the gateway has from the start, such as `admin/v1` of one with an admin API; a namespace alone
    /// means its `v1`. Default: none.
    pub fn taken<S: AsRef<str>>(mut self, slots: impl IntoIterator<Item = S>) -> Self {
        self.rules.taken = slots.into_iter().map(|slot| slot_key(slot.as_ref())).collect();
        self
    }

    /// How long the gateway's waiters wait. Default 30 s on the runtime's clock.
    pub fn wait_limit(mut self, limit: Duration) -> Self {
        self.wait_limit = limit;
        self
    }

    /// Binds and serves, in the background of the runtime this is called in.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    ///
    /// # Cancel safety
    ///
    /// Nothing is bound when it is dropped.
    #[expect(clippy::unused_async, reason = "callers should not depend on binding being synchronous")]
    pub async fn start(self) -> Result<DevGateway, StartError> {
        let addr = self.addr;
        if !addr.ip().is_loopback() && !self.beyond_loopback {
            return Err(StartError::NotLoopback { addr });
        }
        let clock = if self.clock_is_manual { Clock::manual() } else { Clock::real() };
        let slots = self.rules.taken.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let shared = Shared::new(self.rules, clock)
            .map_err(|refusal| StartError::Taken { slot: slots, reason: refusal.text().to_owned() })?;
        let shared = Arc::new(shared);
        let tls = self.tls.map(|config| {
            let mut config = rustls::ServerConfig::clone(&config);
            config.alpn_protocols = vec![b"h2".to_vec()];
            TlsAcceptor::from(Arc::new(config))
        });
        let (server, bound) =
            Server::start(shared.clone(), tls, addr).map_err(|source| StartError::Bind { addr, source })?;
        let janitor = (!shared.clock.is_manual()).then(|| Owned(tokio::spawn(janitor(shared.clone()))));
        Ok(DevGateway::new(bound, shared, server, janitor, self.wait_limit))
    }
}

impl fmt::Debug for DevGatewayBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Written out, so that a new setting cannot be shown by accident. Secrets inside `rules` redact themselves.
        let Self { addr, beyond_loopback, clock_is_manual, tls, wait_limit, rules } = self;
        f.debug_struct("DevGatewayBuilder")
            .field("addr", addr)
            .field("beyond_loopback", beyond_loopback)
            .field("clock_is_manual", clock_is_manual)
            .field("tls", &tls.is_some())
            .field("wait_limit", wait_limit)
            .field("rules", rules)
            .finish()
    }
}

async fn janitor(shared: Arc<Shared>) {
    let period = shared.rules.janitor_period;
    let mut rounds = tokio::time::interval(period);
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The first comes at once.
    rounds.tick().await;
    loop {
        rounds.tick().await;
        shared.sweep();
    }
}

/// The wire has whole seconds; less than one would mean the default.
fn whole_seconds(time: Duration) -> u32 {
    let rounded = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    u32::try_from(rounded).unwrap_or(u32::MAX).max(1)
}
