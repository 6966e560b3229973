//! Is this certificate good? Both directions, with one set of roots, each fault with its class.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::verify_tls13_signature;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, PeerIncompatible, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, ExpirationPolicy, KeyUsage, RevocationOptionsBuilder, UnknownStatusPolicy};

use super::failure::Refusal;
use super::{Identity, POST_QUANTUM, PeerNames, Roots, San, TlsFailure};

/// A chain of more certificates is refused before one signature is checked (S-062).
const MAX_CERTIFICATES: usize = 10;

/// Verifies chains against one set of roots.
pub(super) struct Trust {
    roots: Roots,
    /// The roots' names, which a server sends with its request for a certificate.
    hints: Vec<DistinguishedName>,
}

impl Trust {
    pub(super) fn new(roots: Roots) -> Self {
        let hints = roots
            .anchors()
            .iter()
            .map(|anchor| DistinguishedName::in_sequence(anchor.subject.as_ref()))
            .collect();
        Self { roots, hints }
    }

    /// Whether peers with these roots can accept `identity`, as a server or as a client.
    pub(super) fn accepts(&self, identity: &Identity, now: UnixTime) -> Result<(), TlsFailure> {
        let Some((leaf, intermediates)) = identity.chain().split_first() else {
            return Err(TlsFailure::BadCertificate);
        };
        match self.chain(leaf, intermediates, now, KeyUsage::server_auth()) {
            Err(TlsFailure::Usage) => {
                self.chain(leaf, intermediates, now, KeyUsage::client_auth()).map(|_| ())
            }
            other => other.map(|_| ()),
        }
    }

    fn chain<'a>(
        &self,
        leaf: &'a CertificateDer<'a>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<EndEntityCert<'a>, TlsFailure> {
        if intermediates.len() >= MAX_CERTIFICATES {
            return Err(TlsFailure::ChainTooLong);
        }
        let leaf = EndEntityCert::try_from(leaf).map_err(class)?;
        let crls: Vec<_> = self.roots.crls().iter().map(|crl| &**crl).collect();
        // No list means no check; any list means that every certificate needs one (S-060).
        let revocation = RevocationOptionsBuilder::new(&crls).ok().map(|options| {
            options
                .with_status_policy(UnknownStatusPolicy::Deny)
                .with_expiration_policy(ExpirationPolicy::Enforce)
                .build()
        });
        let verdict = leaf.verify_for_usage(
            POST_QUANTUM.signature_verification_algorithms.all,
            self.roots.anchors(),
            intermediates,
            now,
            usage,
            revocation,
            None,
        );
        match verdict {
            Ok(_) => {}
            // A certificate that calls itself a CA and vouches for itself: a stranger, not a misuse.
            Err(webpki::Error::CaUsedAsEndEntity) if leaf.issuer() == leaf.subject() => {
                return Err(TlsFailure::UnknownIssuer);
            }
            Err(error) => return Err(class(error)),
        }
        Ok(leaf)
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.roots.fmt(f)
    }
}

/// What a client demands of a server.
#[derive(Debug)]
pub(super) struct VerifyServer {
    pub(super) trust: Arc<Trust>,
    /// Whether the name that was dialled must be in the certificate.
    pub(super) check_name: bool,
    /// The node that must be meant by it (S-063).
    pub(super) node: Option<San>,
}

impl ServerCertVerifier for VerifyServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let leaf =
            self.trust.chain(end_entity, intermediates, now, KeyUsage::server_auth()).map_err(refusal)?;
        if self.check_name {
            leaf.verify_is_valid_for_subject_name(server_name).map_err(class).map_err(refusal)?;
        }
        if let Some(node) = &self.node
            && !PeerNames::of(end_entity).contains(node)
        {
            return Err(refusal(TlsFailure::Identity));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &POST_QUANTUM.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        POST_QUANTUM.signature_verification_algorithms.supported_schemes()
    }
}

/// What a server demands of a client.
#[derive(Debug)]
pub(super) struct VerifyClient(pub(super) Arc<Trust>);

impl ClientCertVerifier for VerifyClient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.0.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.0.chain(end_entity, intermediates, now, KeyUsage::client_auth()).map_err(refusal)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::SupportedVersionsExtensionRequired.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &POST_QUANTUM.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        POST_QUANTUM.signature_verification_algorithms.supported_schemes()
    }
}

fn class(error: webpki::Error) -> TlsFailure {
    use webpki::Error as W;
    match error {
        W::CertExpired { .. } | W::InvalidCertValidity => TlsFailure::Expired,
        W::CertNotValidYet { .. } => TlsFailure::NotYetValid,
        W::UnknownIssuer => TlsFailure::UnknownIssuer,
        W::InvalidSignatureForPublicKey
        | W::SignatureAlgorithmMismatch
        | W::UnsupportedSignatureAlgorithmContext(_)
        | W::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => TlsFailure::BadSignature,
        W::CertNotValidForName(_) | W::NameConstraintViolation | W::UnsupportedNameType => TlsFailure::Name,
        W::RequiredEkuNotFoundContext(_) | W::EmptyEkuExtension | W::CaUsedAsEndEntity => TlsFailure::Usage,
        W::EndEntityUsedAsCa | W::PathLenConstraintViolated => TlsFailure::NotACa,
        W::MaximumPathDepthExceeded
        | W::MaximumSignatureChecksExceeded
        | W::MaximumPathBuildCallsExceeded
        | W::MaximumNameConstraintComparisonsExceeded => TlsFailure::ChainTooLong,
        W::CertRevoked | W::CertDistrusted => TlsFailure::Revoked,
        W::UnknownRevocationStatus
        | W::CrlExpired { .. }
        | W::IssuerNotCrlSigner
        | W::InvalidCrlSignatureForPublicKey
        | W::UnsupportedCrlSignatureAlgorithmContext(_)
        | W::UnsupportedCrlSignatureAlgorithmForPublicKeyContext(_) => TlsFailure::RevocationUnknown,
        _ => TlsFailure::BadCertificate,
    }
}

/// Chooses the error, and with it the alert that the peer gets. Names of the certificate are left out:
/// they are text of a stranger (S-204).
fn refusal(failure: TlsFailure) -> rustls::Error {
    use CertificateError as C;
    match failure {
        TlsFailure::Expired => C::Expired,
        TlsFailure::NotYetValid => C::NotValidYet,
        TlsFailure::UnknownIssuer => C::UnknownIssuer,
        TlsFailure::BadSignature => C::BadSignature,
        TlsFailure::Name => C::NotValidForName,
        TlsFailure::Usage => C::InvalidPurpose,
        TlsFailure::Revoked => C::Revoked,
        TlsFailure::RevocationUnknown => C::UnknownRevocationStatus,
        TlsFailure::Identity => C::ApplicationVerificationFailure,
        TlsFailure::BadCertificate => C::BadEncoding,
        other => C::Other(OtherError(Arc::new(Refusal(other)))),
    }
    .into()
}
