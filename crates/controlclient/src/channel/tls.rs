//! Whom to trust as a gateway, and who we say we are.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

/// Certificates and keys are small: what is larger is another file.
const MAX_FILE_LEN: u64 = 1 << 20;

/// Why certificates or keys cannot be used. Nothing here quotes their contents.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsConfigError {
    /// A file cannot be read, or is larger than 1 MiB.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// There is no certificate in PEM.
    #[error("there is no usable certificate in PEM for {what}")]
    Certificate {
        /// The CA, or our own.
        what: &'static str,
    },
    /// There is no unencrypted private key in PEM.
    #[error("there is no unencrypted private key in PEM")]
    Key,
    /// The key is of a kind that is not supported, or belongs to another certificate.
    #[error("the private key cannot be used with the certificate")]
    KeyMismatch,
    /// A certificate cannot contain this name.
    #[error("a certificate cannot contain the name {name}")]
    Name {
        /// As it was given, escaped.
        name: String,
    },
}

/// TLS to a gateway: version 1.2 at least, and nobody trusted but the CA that is given, whatever the
/// system's store says (S-050, S-053). Cheap to clone.
#[derive(Clone)]
pub struct GatewayTls {
    source: Arc<Source>,
    name: Option<ServerName<'static>>,
}

struct Source {
    files: Option<Files>,
    current: Mutex<Material>,
}

struct Material {
    /// Counts the changes of the files.
    version: u64,
    config: Arc<ClientConfig>,
    /// When the files were changed, at the last look.
    seen: Vec<Option<(SystemTime, u64)>>,
    /// A fault was told of, and is not told again until the files change.
    told: bool,
}

#[derive(Clone)]
struct Files {
    ca: PathBuf,
    identity: Option<(PathBuf, PathBuf)>,
}

impl GatewayTls {
    /// Trusts the CA certificates of a PEM text, and shows no certificate.
    ///
    /// # Errors
    ///
    /// [`TlsConfigError::Certificate`].
    pub fn new(ca: impl AsRef<[u8]>) -> Result<Self, TlsConfigError> {
        Ok(Self::fixed(config(ca.as_ref(), None)?))
    }

    /// Mutual TLS: trusts the CA certificates of a PEM text and shows a certificate, leaf first, with its key.
    ///
    /// # Errors
    ///
    /// [`TlsConfigError::Certificate`], [`TlsConfigError::Key`], [`TlsConfigError::KeyMismatch`].
    pub fn mutual(
        ca: impl AsRef<[u8]>,
        chain: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
    ) -> Result<Self, TlsConfigError> {
        Ok(Self::fixed(config(ca.as_ref(), Some((chain.as_ref(), key.as_ref())))?))
    }

    /// The same from PEM files, `identity` being the certificate chain's and the key's. When a file changes,
    /// all are read again and the connection is made anew, within about 2 s and without losing the
    /// registration; files that cannot be used together leave the old ones in use (S-059).
    ///
    /// # Errors
    ///
    /// Those of [`mutual`](Self::mutual), and [`TlsConfigError::Read`].
    pub fn from_files(
        ca: impl Into<PathBuf>,
        identity: Option<(PathBuf, PathBuf)>,
    ) -> Result<Self, TlsConfigError> {
        let files = Files { ca: ca.into(), identity };
        let seen = files.seen();
        let config = files.load()?;
        let current = Mutex::new(Material { version: 0, config, seen, told: false });
        Ok(Self { source: Arc::new(Source { files: Some(files), current }), name: None })
    }

    /// Expects this name in the gateway's certificate, instead of the host that is connected to.
    ///
    /// # Errors
    ///
    /// [`TlsConfigError::Name`] if it is no DNS name or IP address.
    pub fn server_name(mut self, name: &str) -> Result<Self, TlsConfigError> {
        self.name = Some(server_name(name)?);
        Ok(self)
    }

    fn fixed(config: Arc<ClientConfig>) -> Self {
        let current = Mutex::new(Material { version: 0, config, seen: Vec::new(), told: false });
        Self { source: Arc::new(Source { files: None, current }), name: None }
    }

    /// The settings for the next connection, and their version.
    pub(super) fn current(&self) -> (u64, Arc<ClientConfig>) {
        let current = self.source.current.lock().unwrap_or_else(PoisonError::into_inner);
        (current.version, current.config.clone())
    }

    /// The name the gateway's certificate must have.
    pub(super) fn expected(&self, host: &str) -> Result<ServerName<'static>, TlsConfigError> {
        self.name.clone().map_or_else(|| server_name(host), Ok)
    }

    pub(super) fn follows_files(&self) -> bool {
        self.source.files.is_some()
    }

    /// Reads the files again if they changed. Blocks.
    pub(super) fn look(&self) {
        let Some(files) = &self.source.files else { return };
        let seen = files.seen();
        {
            let current = self.source.current.lock().unwrap_or_else(PoisonError::into_inner);
            if current.seen == seen {
                return;
            }
        }
        let loaded = files.load();
        let mut current = self.source.current.lock().unwrap_or_else(PoisonError::into_inner);
        match loaded {
            Ok(config) => {
                current.version += 1;
                current.config = config;
                current.seen = seen;
                current.told = false;
                tracing::info!("certificates for the gateway were read again");
            }
            // `seen` stays: half of the files may be written, and the next look may find them whole.
            Err(error) if !current.told => {
                current.told = true;
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "changed certificates for the gateway cannot be used"
                );
            }
            Err(_) => {}
        }
    }
}

impl Files {
    fn paths(&self) -> impl Iterator<Item = &Path> {
        let identity = self.identity.iter().flat_map(|(chain, key)| [chain.as_path(), key.as_path()]);
        std::iter::once(self.ca.as_path()).chain(identity)
    }

    fn seen(&self) -> Vec<Option<(SystemTime, u64)>> {
        self.paths()
            .map(|path| {
                let data = std::fs::metadata(path).ok()?;
                Some((data.modified().ok()?, data.len()))
            })
            .collect()
    }

    fn load(&self) -> Result<Arc<ClientConfig>, TlsConfigError> {
        let ca = read(&self.ca)?;
        match &self.identity {
            None => config(&ca, None),
            Some((chain, key)) => config(&ca, Some((&read(chain)?, &read(key)?))),
        }
    }
}

fn config(ca: &[u8], identity: Option<(&[u8], &[u8])>) -> Result<Arc<ClientConfig>, TlsConfigError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca, "the CA")? {
        roots.add(certificate).map_err(|_| TlsConfigError::Certificate { what: "the CA" })?;
    }
    // The hybrid first: what is recorded today stays closed to a quantum computer of tomorrow, where the
    // gateway can do it.
    use aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519, X25519MLKEM768};
    let provider = CryptoProvider {
        kx_groups: vec![X25519MLKEM768, X25519, SECP256R1, SECP384R1],
        ..aws_lc_rs::default_provider()
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .expect("the provider has suites for both versions")
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let chain = certificates(chain, "ourselves")?;
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| TlsConfigError::Key)?;
            builder.with_client_auth_cert(chain, key).map_err(|_| TlsConfigError::KeyMismatch)?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session skips the certificates: one that was replaced would live on in it.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn certificates(pem: &[u8], what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsConfigError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|_| TlsConfigError::Certificate { what })?;
    if found.is_empty() { Err(TlsConfigError::Certificate { what }) } else { Ok(found) }
}

fn server_name(name: &str) -> Result<ServerName<'static>, TlsConfigError> {
    ServerName::try_from(name.to_owned())
        .map_err(|_| TlsConfigError::Name { name: crate::text::escaped(name) })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsConfigError> {
    use std::io::Read as _;
    let in_path = |source| TlsConfigError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(in_path)?;
    file.take(MAX_FILE_LEN + 1).read_to_end(&mut bytes).map_err(in_path)?;
    if bytes.len() as u64 > MAX_FILE_LEN {
        return Err(in_path(std::io::ErrorKind::FileTooLarge.into()));
    }
    Ok(bytes)
}

impl fmt::Debug for GatewayTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, name } = self;
        let Source { files, current: _ } = &**source;
        f.debug_struct("GatewayTls")
            .field(
                "files",
                &files.as_ref().map(|files| files.paths().map(Path::to_owned).collect::<Vec<_>>()),
            )
            .field("server_name", name)
            .finish_non_exhaustive()
    }
}
