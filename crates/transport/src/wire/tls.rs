//! TLS 1.2 or 1.3 on aws-lc-rs.

use std::sync::{Arc, Once, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::TlsConnector;

use crate::error::BoxError;

/// Whom to trust.
#[derive(Clone, Debug)]
pub(crate) enum Roots {
    /// The certificates of the operating system.
    System,
    /// These, and no others.
    These(Vec<CertificateDer<'static>>),
    /// Anybody.
    Anybody,
}

/// What the settings ask for; switching verification off wins.
pub(crate) fn roots(skip: bool, roots: Option<Vec<CertificateDer<'static>>>) -> Roots {
    match roots {
        _ if skip => Roots::Anybody,
        Some(roots) => Roots::These(roots),
        None => Roots::System,
    }
}

/// The TLS configuration, made when it is first needed: reading the system's roots takes milliseconds.
#[derive(Debug)]
pub(crate) struct Tls {
    roots: Roots,
    ready: OnceLock<Arc<ClientConfig>>,
}

impl Tls {
    pub(crate) fn new(roots: Roots) -> Self {
        Self { roots, ready: OnceLock::new() }
    }

    pub(crate) async fn connector(self: &Arc<Self>) -> Result<TlsConnector, BoxError> {
        if let Some(config) = self.ready.get() {
            return Ok(config.clone().into());
        }
        let this = self.clone();
        let config = tokio::task::spawn_blocking(move || this.roots.config()).await??;
        Ok(self.ready.get_or_init(|| Arc::new(config)).clone().into())
    }
}

impl Roots {
    fn config(&self) -> Result<ClientConfig, BoxError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
        let mut config = match self {
            Self::Anybody => {
                warn_once();
                builder
                    .dangerous()
                    .with_custom_certificate_verifier(Arc::new(Unverified(provider)))
                    .with_no_client_auth()
            }
            Self::These(roots) => {
                let mut store = RootCertStore::empty();
                for root in roots {
                    store.add(root.clone())?;
                }
                builder.with_root_certificates(store).with_no_client_auth()
            }
            Self::System => {
                let found = rustls_native_certs::load_native_certs();
                let mut store = RootCertStore::empty();
                let (added, _) = store.add_parsable_certificates(found.certs);
                if added == 0 {
                    return Err("the operating system has no root certificates".into());
                }
                builder.with_root_certificates(store).with_no_client_auth()
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// S-065: once in a process.
fn warn_once() {
    static WARNED: Once = Once::new();
    WARNED.call_once(|| tracing::warn!("certificates of replicas are not verified: skip_tls is on"));
}

/// Accepts any certificate; the handshake's signatures are still checked.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
