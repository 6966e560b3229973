//! What is trusted and what is shown: parsed once, valid ever after.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, TrustAnchor};
use webpki::{CertRevocationList, OwnedCertRevocationList};

use super::{POST_QUANTUM, TlsFailure, Validity};

/// Certificates, keys and revocation lists are small: what is larger is another file.
const MAX_FILE_LEN: u64 = 1 << 20;

/// Why certificates, keys or revocation lists cannot be used. Nothing here quotes their contents.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsConfigError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file has what is wrong in `source`.
    #[error("cannot use {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<Self>,
    },
    /// Larger than 1 MiB.
    #[error("the file is larger than {MAX_FILE_LEN} bytes")]
    TooLarge,
    /// A PEM block is damaged. What the parser says is left out: it may quote a line of a private key.
    #[error("the PEM text is malformed")]
    Pem,
    /// There is no certificate.
    #[error("there is no certificate")]
    NoCertificate,
    /// There is no private key, or it is encrypted.
    #[error("there is no unencrypted private key")]
    NoKey,
    /// A certificate cannot be parsed.
    #[error("certificate {index} is malformed")]
    BadCertificate {
        /// Its place, from 0.
        index: usize,
        /// What the parser says.
        source: webpki::Error,
    },
    /// The private key cannot be parsed, or its kind is not supported.
    #[error("the private key cannot be used")]
    BadKey(#[source] rustls::Error),
    /// The private key belongs to another certificate.
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    /// There is no revocation list where one was promised, or one cannot be parsed.
    #[error("revocation list {index} is malformed or missing")]
    BadRevocationList {
        /// Its place, from 0.
        index: usize,
        /// What the parser says.
        source: Option<webpki::Error>,
    },
    /// The cluster's own roots refuse the identity that is to be shown: no peer would accept it.
    #[error("the identity does not fit the cluster CA: {0}")]
    Identity(TlsFailure),
    /// A server, or mutual TLS, needs an identity and there is none.
    #[error("no identity was given")]
    NoIdentity,
    /// A text is no DNS name, IP address or URI, so no certificate can contain it.
    #[error("a certificate cannot contain this name")]
    BadName,
}

/// The CAs of the cluster: whom to trust, and nobody else (S-053). Cheap to clone; never empty.
#[derive(Clone)]
pub struct Roots {
    inner: Arc<RootsInner>,
}

#[derive(Clone)]
struct RootsInner {
    /// Invariant: not empty (S-059).
    anchors: Vec<TrustAnchor<'static>>,
    crls: Vec<Arc<CertRevocationList<'static>>>,
}

impl Roots {
    /// From PEM text with one or more certificates; other blocks are passed over.
    ///
    /// # Errors
    ///
    /// [`TlsConfigError::Pem`], [`TlsConfigError::NoCertificate`], [`TlsConfigError::BadCertificate`].
    pub fn from_pem(pem: impl AsRef<[u8]>) -> Result<Self, TlsConfigError> {
        Self::from_der(certificates(pem.as_ref())?)
    }

    /// From certificates in DER.
    ///
    /// # Errors
    ///
    /// [`TlsConfigError::NoCertificate`], [`TlsConfigError::BadCertificate`].
    pub fn from_der<'a>(
        certificates: impl IntoIterator<Item = CertificateDer<'a>>,
    ) -> Result<Self, TlsConfigError> {
        let anchors = certificates
            .into_iter()
            .enumerate()
            .map(|(index, der)| match webpki::anchor_from_trusted_cert(&der) {
                Ok(anchor) => Ok(anchor.to_owned()),
                Err(source) => Err(TlsConfigError::BadCertificate { index, source }),
            })
            .collect::<Result<Vec<_>, _>>()?;
        if anchors.is_empty() {
            return Err(TlsConfigError::NoCertificate);
        }
        Ok(Self { inner: Arc::new(RootsInner { anchors, crls: Vec::new() }) })
    }

    /// From a file in PEM or DER, read once; [`ClusterTls::load`](super::ClusterTls::load) follows changes.
    ///
    /// # Errors
    ///
    /// [`TlsConfigError::Read`] or [`TlsConfigError::File`].
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, TlsConfigError> {
        let path = path.as_ref();
        in_file(path, Self::from_bytes(&read(path)?))
    }

    /// With revocation lists, PEM or DER. From now on a certificate is refused unless a list in date,
    /// signed by its issuer, says that it is not revoked; this holds for every certificate of a chain but
    /// the root (S-060).
    ///
    /// # Errors
    ///
    /// [`TlsConfigError::Pem`], [`TlsConfigError::BadRevocationList`].
    pub fn revocation_lists(mut self, lists: impl AsRef<[u8]>) -> Result<Self, TlsConfigError> {
        let lists = if is_pem(lists.as_ref()) {
            CertificateRevocationListDer::pem_slice_iter(lists.as_ref())
                .collect::<Result<Vec<_>, _>>()
                .map_err(|_| TlsConfigError::Pem)?
        } else {
            vec![CertificateRevocationListDer::from(lists.as_ref().to_vec())]
        };
        if lists.is_empty() {
            return Err(TlsConfigError::BadRevocationList { index: 0, source: None });
        }
        let inner = Arc::make_mut(&mut self.inner);
        for (index, der) in lists.iter().enumerate() {
            let list = OwnedCertRevocationList::from_der(der)
                .map_err(|source| TlsConfigError::BadRevocationList { index, source: Some(source) })?;
            inner.crls.push(Arc::new(list.into()));
        }
        Ok(self)
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, TlsConfigError> {
        if is_pem(bytes) { Self::from_pem(bytes) } else { Self::from_der([CertificateDer::from(bytes)]) }
    }

    pub(super) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.inner.anchors
    }

    pub(super) fn crls(&self) -> &[Arc<CertRevocationList<'static>>] {
        &self.inner.crls
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RootsInner { anchors, crls } = &*self.inner;
        f.debug_struct("Roots")
            .field("certificates", &anchors.len())
            .field("revocation_lists", &crls.len())
            .finish()
    }
}

/// A certificate chain, leaf first, and its private key: who we say we are. Cheap to clone.
#[derive(Clone)]
pub struct Identity {
    key: Arc<CertifiedKey>,
}

impl Identity {
    /// From PEM texts, which may be one and the same.
    ///
    /// # Errors
    ///
    /// [`TlsConfigError::Pem`], [`TlsConfigError::NoKey`] and those of [`from_der`](Self::from_der).
    pub fn from_pem(chain: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Result<Self, TlsConfigError> {
        Self::from_der(certificates(chain.as_ref())?, private_key(key.as_ref())?)
    }

    /// From DER. Checks that the key belongs to the first certificate.
    ///
    /// # Errors
    ///
    /// [`TlsConfigError::NoCertificate`], [`TlsConfigError::BadCertificate`], [`TlsConfigError::BadKey`],
    /// [`TlsConfigError::KeyMismatch`].
    pub fn from_der(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, TlsConfigError> {
        if chain.is_empty() {
            return Err(TlsConfigError::NoCertificate);
        }
        for (index, der) in chain.iter().enumerate() {
            webpki::EndEntityCert::try_from(der)
                .map_err(|source| TlsConfigError::BadCertificate { index, source })?;
        }
        let key = POST_QUANTUM.key_provider.load_private_key(key).map_err(TlsConfigError::BadKey)?;
        let key = CertifiedKey::new(chain, key);
        key.keys_match().map_err(|_| TlsConfigError::KeyMismatch)?;
        Ok(Self { key: Arc::new(key) })
    }

    /// From files in PEM or DER, read once; [`ClusterTls::load`](super::ClusterTls::load) follows changes.
    ///
    /// # Errors
    ///
    /// [`TlsConfigError::Read`] or [`TlsConfigError::File`].
    pub fn from_files(chain: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Self, TlsConfigError> {
        let (chain, key) = (chain.as_ref(), key.as_ref());
        Self::from_bytes((chain, &read(chain)?), (key, &read(key)?))
    }

    pub(super) fn from_bytes(
        (chain_path, chain): (&Path, &[u8]),
        (key_path, key): (&Path, &[u8]),
    ) -> Result<Self, TlsConfigError> {
        let chain = in_file(
            chain_path,
            if is_pem(chain) { certificates(chain) } else { Ok(vec![CertificateDer::from(chain.to_vec())]) },
        )?;
        let key = in_file(
            key_path,
            if is_pem(key) {
                private_key(key)
            } else {
                PrivateKeyDer::try_from(key.to_vec()).map_err(|_| TlsConfigError::NoKey)
            },
        )?;
        match Self::from_der(chain, key) {
            Err(error @ (TlsConfigError::BadKey(_) | TlsConfigError::KeyMismatch)) => {
                in_file(key_path, Err(error))
            }
            other => in_file(chain_path, other),
        }
    }

    /// The certificate that is shown, in DER.
    pub fn certificate(&self) -> &[u8] {
        self.chain().first().map_or(&[], |leaf| leaf.as_ref())
    }

    /// From when until when that certificate holds; `None` if it does not say so in a known form.
    pub fn validity(&self) -> Option<Validity> {
        Validity::of(self.certificate())
    }

    pub(super) fn chain(&self) -> &[CertificateDer<'static>] {
        &self.key.cert
    }

    pub(super) fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CertifiedKey { cert, key: _, ocsp: _ } = &*self.key;
        f.debug_struct("Identity").field("certificates", &cert.len()).field("key", &"<redacted>").finish()
    }
}

/// Reads a file of bounded size.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, TlsConfigError> {
    use std::io::Read as _;
    let in_path = |source| TlsConfigError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(in_path)?;
    file.take(MAX_FILE_LEN + 1).read_to_end(&mut bytes).map_err(in_path)?;
    if bytes.len() as u64 > MAX_FILE_LEN {
        return in_file(path, Err(TlsConfigError::TooLarge));
    }
    Ok(bytes)
}

pub(super) fn in_file<T>(path: &Path, result: Result<T, TlsConfigError>) -> Result<T, TlsConfigError> {
    result.map_err(|source| TlsConfigError::File { path: path.to_owned(), source: Box::new(source) })
}

/// A DER value begins with the tag of a sequence, PEM with text.
fn is_pem(bytes: &[u8]) -> bool {
    bytes.first() != Some(&0x30)
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsConfigError> {
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|_| TlsConfigError::Pem)?;
    if found.is_empty() { Err(TlsConfigError::NoCertificate) } else { Ok(found) }
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsConfigError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        pem::Error::NoItemsFound => TlsConfigError::NoKey,
        _ => TlsConfigError::Pem,
    })
}
