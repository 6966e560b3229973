//! Why a TLS connection did not come up, or broke: classes to match on, made from types alone.

use std::{error, fmt, io};

use rustls::{AlertDescription, CertificateError, OtherError, PeerIncompatible, PeerMisbehaved};

/// Why a TLS connection was refused or broke.
///
/// The class tells what is wrong; [`TlsError::refused_by_peer`] tells who found out. What a peer
/// reports is as exact as its alert: `certificate_expired` also stands for a certificate that is not
/// valid yet, and `bad_certificate` for a name that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TlsFailure {
    /// A certificate is past its validity.
    Expired,
    /// A certificate is not valid yet.
    NotYetValid,
    /// No trusted CA issued the certificate; also what is self-signed.
    UnknownIssuer,
    /// A signature does not verify, or uses an algorithm that is not accepted.
    BadSignature,
    /// The certificate is not for the name that was dialled.
    Name,
    /// The certificate is not meant for this side of a connection.
    Usage,
    /// The certificate was issued by one that is not a CA.
    NotACa,
    /// More than 10 certificates, or a maze of them.
    ChainTooLong,
    /// The certificate was revoked.
    Revoked,
    /// Revocation lists are in use and none of them, or none in date, covers the certificate (S-060).
    RevocationUnknown,
    /// The certificate is malformed, or was refused without saying more.
    BadCertificate,
    /// The server asks for a client certificate and none was shown.
    NoClientCertificate,
    /// No common key exchange: one side is classical only (S-051).
    KeyExchange,
    /// The peer does not speak TLS 1.3.
    Version,
    /// The peer speaks another application protocol (S-064).
    Alpn,
    /// A good certificate of the cluster, but of another node than the expected one (S-063).
    Identity,
    /// The handshake did not end in time.
    Timeout,
    /// What answered does not speak TLS.
    NotTls,
    /// The peer closed or reset the connection during the handshake.
    Closed,
    /// The connection ended without the peer saying so (close_notify): what came may be cut (S-061).
    Truncated,
    /// A record was changed on the way, or makes no sense.
    Corrupt,
    /// Anything else; see the source.
    Other,
}

impl TlsFailure {
    /// The class of the TLS error inside an I/O error of a [`TlsStream`](super::TlsStream), if there is one.
    pub fn of(error: &io::Error) -> Option<Self> {
        TlsError::of(error).map(TlsError::failure)
    }

    fn sentence(self) -> &'static str {
        match self {
            Self::Expired => "the certificate has expired",
            Self::NotYetValid => "the certificate is not valid yet",
            Self::UnknownIssuer => "the certificate was not issued by a trusted CA",
            Self::BadSignature => "a signature does not verify",
            Self::Name => "the certificate is for another name",
            Self::Usage => "the certificate is not meant for this use",
            Self::NotACa => "the certificate was issued by one that is not a CA",
            Self::ChainTooLong => "the certificate chain is too long",
            Self::Revoked => "the certificate was revoked",
            Self::RevocationUnknown => "the revocation status of the certificate is unknown",
            Self::BadCertificate => "the certificate was refused",
            Self::NoClientCertificate => "a client certificate is required and none was shown",
            Self::KeyExchange => {
                "no common key exchange (X25519MLKEM768 is required unless classical ones are allowed)"
            }
            Self::Version => "no common TLS version (1.3 is required)",
            Self::Alpn => "no common application protocol",
            Self::Identity => "the certificate belongs to another node",
            Self::Timeout => "the TLS handshake took too long",
            Self::NotTls => "the answer is not TLS",
            Self::Closed => "the connection was closed during the TLS handshake",
            Self::Truncated => "the connection ended without close_notify",
            Self::Corrupt => "a TLS record was damaged",
            Self::Other => "TLS failed",
        }
    }
}

impl fmt::Display for TlsFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sentence())
    }
}

/// A TLS connection that was refused or broke.
///
/// After a successful handshake of a client the server may still refuse the client's certificate: TLS
/// 1.3 tells so with the first read. Such an error has [`is_refusal`](Self::is_refusal), and no request
/// was looked at by the peer.
#[derive(Debug)]
pub struct TlsError {
    failure: TlsFailure,
    by_peer: bool,
    source: Option<io::Error>,
}

impl TlsError {
    /// The class, to match on.
    pub fn failure(&self) -> TlsFailure {
        self.failure
    }

    /// Whether the peer refused us; otherwise we refused the peer, or the network broke.
    pub fn refused_by_peer(&self) -> bool {
        self.by_peer
    }

    /// Whether the peer refused the connection itself, so that it cannot have acted on what was sent.
    pub fn is_refusal(&self) -> bool {
        self.by_peer
            && !matches!(self.failure, TlsFailure::Corrupt | TlsFailure::Truncated | TlsFailure::Other)
    }

    /// The TLS error inside an I/O error of a [`TlsStream`](super::TlsStream), if there is one.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    pub(super) fn new(failure: TlsFailure) -> Self {
        Self { failure, by_peer: false, source: None }
    }

    /// From an error before the handshake was done.
    pub(super) fn during_handshake(error: io::Error) -> Self {
        let (failure, by_peer) = match (rustls_error(&error), error.kind()) {
            (Some(error), _) => classify(error, true),
            (None, io::ErrorKind::TimedOut) => (TlsFailure::Timeout, false),
            (
                None,
                io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::NotConnected
                | io::ErrorKind::WriteZero,
            ) => (TlsFailure::Closed, false),
            (None, _) => (TlsFailure::Other, false),
        };
        Self { failure, by_peer, source: Some(error) }
    }

    /// From an error of an established connection; gives plain network errors back.
    pub(super) fn when_established(error: io::Error) -> Result<Self, io::Error> {
        let (failure, by_peer) = match rustls_error(&error) {
            Some(error) => classify(error, false),
            // rustls says so of a stream that ended without close_notify.
            None if error.kind() == io::ErrorKind::UnexpectedEof => (TlsFailure::Truncated, false),
            None => return Err(error),
        };
        Ok(Self { failure, by_peer, source: Some(error) })
    }

    /// The server had asked for a certificate, got none, and went away without an alert we could read.
    pub(super) fn unanswered_certificate_request(error: io::Error) -> Self {
        Self { failure: TlsFailure::NoClientCertificate, by_peer: true, source: Some(error) }
    }

    pub(super) fn into_io(self) -> io::Error {
        let kind = match self.failure {
            TlsFailure::Truncated => io::ErrorKind::UnexpectedEof,
            TlsFailure::Timeout => io::ErrorKind::TimedOut,
            TlsFailure::Closed => io::ErrorKind::ConnectionAborted,
            _ => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, self)
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.by_peer {
            f.write_str("the peer refused: ")?;
        }
        self.failure.fmt(f)
    }
}

impl error::Error for TlsError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

/// A class that rustls has no name for, carried through it by our verifiers.
#[derive(Debug)]
pub(super) struct Refusal(pub(super) TlsFailure);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl error::Error for Refusal {}

fn rustls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// The class, and whether it is the peer's verdict on us.
fn classify(error: &rustls::Error, handshaking: bool) -> (TlsFailure, bool) {
    use rustls::Error as E;
    let failure = match error {
        E::AlertReceived(alert) => return (of_alert(*alert, handshaking), true),
        E::InvalidCertificate(error) => of_certificate(error),
        E::InvalidCertRevocationList(_) => TlsFailure::RevocationUnknown,
        E::NoCertificatesPresented => TlsFailure::NoClientCertificate,
        E::NoApplicationProtocol => TlsFailure::Alpn,
        E::PeerIncompatible(what) => of_incompatible(what),
        E::PeerMisbehaved(what) => of_misbehaved(what),
        E::InvalidMessage(_)
        | E::InappropriateMessage { .. }
        | E::InappropriateHandshakeMessage { .. }
        | E::PeerSentOversizedRecord
            if handshaking =>
        {
            TlsFailure::NotTls
        }
        E::InvalidMessage(_)
        | E::InappropriateMessage { .. }
        | E::InappropriateHandshakeMessage { .. }
        | E::PeerSentOversizedRecord
        | E::DecryptError => TlsFailure::Corrupt,
        _ => TlsFailure::Other,
    };
    (failure, false)
}

fn of_certificate(error: &CertificateError) -> TlsFailure {
    use CertificateError as C;
    #[expect(deprecated, reason = "custom verifiers of other rustls users may still give the old variants")]
    match error {
        C::Expired | C::ExpiredContext { .. } => TlsFailure::Expired,
        C::NotValidYet | C::NotValidYetContext { .. } => TlsFailure::NotYetValid,
        C::Revoked => TlsFailure::Revoked,
        C::UnknownRevocationStatus | C::ExpiredRevocationList | C::ExpiredRevocationListContext { .. } => {
            TlsFailure::RevocationUnknown
        }
        C::UnknownIssuer => TlsFailure::UnknownIssuer,
        C::BadSignature
        | C::UnsupportedSignatureAlgorithm
        | C::UnsupportedSignatureAlgorithmContext { .. }
        | C::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => TlsFailure::BadSignature,
        C::NotValidForName | C::NotValidForNameContext { .. } => TlsFailure::Name,
        C::InvalidPurpose | C::InvalidPurposeContext { .. } => TlsFailure::Usage,
        C::ApplicationVerificationFailure => TlsFailure::Identity,
        C::Other(OtherError(other)) => {
            other.downcast_ref().map_or(TlsFailure::BadCertificate, |&Refusal(failure)| failure)
        }
        _ => TlsFailure::BadCertificate,
    }
}

fn of_alert(alert: AlertDescription, handshaking: bool) -> TlsFailure {
    use AlertDescription as A;
    match alert {
        A::CertificateExpired => TlsFailure::Expired,
        A::CertificateRevoked => TlsFailure::Revoked,
        A::UnknownCA => TlsFailure::UnknownIssuer,
        A::DecryptError => TlsFailure::BadSignature,
        A::UnsupportedCertificate => TlsFailure::Usage,
        A::BadCertificate | A::CertificateUnknown => TlsFailure::BadCertificate,
        A::CertificateRequired => TlsFailure::NoClientCertificate,
        A::AccessDenied => TlsFailure::Identity,
        A::UnrecognisedName => TlsFailure::Name,
        A::NoApplicationProtocol => TlsFailure::Alpn,
        A::ProtocolVersion => TlsFailure::Version,
        // Every TLS 1.3 suite and all current signature schemes are offered and accepted: what is left
        // without a match is the group.
        A::HandshakeFailure | A::InsufficientSecurity if handshaking => TlsFailure::KeyExchange,
        A::BadRecordMac | A::RecordOverflow => TlsFailure::Corrupt,
        A::CloseNotify | A::UserCanceled if handshaking => TlsFailure::Closed,
        _ => TlsFailure::Other,
    }
}

fn of_incompatible(what: &PeerIncompatible) -> TlsFailure {
    use PeerIncompatible as P;
    match what {
        P::NoKxGroupsInCommon | P::NamedGroupsExtensionRequired | P::KeyShareExtensionRequired => {
            TlsFailure::KeyExchange
        }
        P::ServerDoesNotSupportTls12Or13
        | P::ServerTlsVersionIsDisabledByOurConfig
        | P::SupportedVersionsExtensionRequired
        | P::Tls12NotOffered
        | P::Tls12NotOfferedOrEnabled => TlsFailure::Version,
        P::NoSignatureSchemesInCommon | P::NoCertificateRequestSignatureSchemesInCommon => {
            TlsFailure::BadSignature
        }
        _ => TlsFailure::Other,
    }
}

fn of_misbehaved(what: &PeerMisbehaved) -> TlsFailure {
    use PeerMisbehaved as P;
    match what {
        P::SelectedUnofferedApplicationProtocol => TlsFailure::Alpn,
        P::SelectedUnofferedKxGroup
        | P::IllegalHelloRetryRequestWithUnofferedNamedGroup
        | P::IllegalHelloRetryRequestWithOfferedGroup
        | P::WrongGroupForKeyShare => TlsFailure::KeyExchange,
        P::SelectedTls12UsingTls13VersionExtension | P::IllegalHelloRetryRequestWithUnsupportedVersion => {
            TlsFailure::Version
        }
        P::SignedHandshakeWithUnadvertisedSigScheme => TlsFailure::BadSignature,
        _ => TlsFailure::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn during_handshake(error: rustls::Error) -> TlsError {
        TlsError::during_handshake(io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// No TLS stack at hand can be made to select a protocol that was not offered, so the last step of
    /// that refusal is shown here.
    #[test]
    fn sv_p23_a_protocol_that_was_not_offered_has_its_class() {
        let misbehaved = PeerMisbehaved::SelectedUnofferedApplicationProtocol;
        let error = during_handshake(misbehaved.into());
        assert_eq!((error.failure(), error.refused_by_peer()), (TlsFailure::Alpn, false));
    }

    #[test]
    fn alerts_have_classes_and_blame_the_right_side() {
        use AlertDescription as A;
        for (alert, failure, is_refusal) in [
            (A::CertificateExpired, TlsFailure::Expired, true),
            (A::CertificateRevoked, TlsFailure::Revoked, true),
            (A::UnknownCA, TlsFailure::UnknownIssuer, true),
            (A::DecryptError, TlsFailure::BadSignature, true),
            (A::UnsupportedCertificate, TlsFailure::Usage, true),
            (A::BadCertificate, TlsFailure::BadCertificate, true),
            (A::CertificateUnknown, TlsFailure::BadCertificate, true),
            (A::CertificateRequired, TlsFailure::NoClientCertificate, true),
            (A::AccessDenied, TlsFailure::Identity, true),
            (A::UnrecognisedName, TlsFailure::Name, true),
            (A::NoApplicationProtocol, TlsFailure::Alpn, true),
            (A::ProtocolVersion, TlsFailure::Version, true),
            (A::HandshakeFailure, TlsFailure::KeyExchange, true),
            (A::InsufficientSecurity, TlsFailure::KeyExchange, true),
            (A::BadRecordMac, TlsFailure::Corrupt, false),
            (A::InternalError, TlsFailure::Other, false),
        ] {
            let error = during_handshake(rustls::Error::AlertReceived(alert));
            assert_eq!((error.failure(), error.is_refusal()), (failure, is_refusal), "{alert:?}");
            assert!(error.refused_by_peer(), "{alert:?}");
        }
    }

    #[test]
    fn n15_a_damaged_record_is_corrupt_later_and_not_tls_at_first() {
        let garbled = || rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        assert_eq!(during_handshake(garbled()).failure(), TlsFailure::NotTls);
        for error in [garbled(), rustls::Error::DecryptError] {
            let error = io::Error::new(io::ErrorKind::InvalidData, error);
            let error = TlsError::when_established(error).expect("it is a TLS error").into_io();
            assert_eq!(TlsFailure::of(&error), Some(TlsFailure::Corrupt));
        }
    }

    #[test]
    fn what_is_no_error_of_tls_is_given_back() {
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        assert_eq!(TlsError::when_established(reset).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        let reset = TlsError::during_handshake(io::ErrorKind::ConnectionReset.into());
        assert_eq!(reset.failure(), TlsFailure::Closed);
        assert_eq!(TlsFailure::of(&io::Error::other("else")), None);
    }

    #[test]
    fn errors_travel() {
        fn travels<T: Send + Sync + 'static>() {}
        travels::<TlsError>();
        travels::<super::super::TlsConfigError>();
    }
}
