//! Roots and identity of one cluster, kept together and replaced together.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustls_pki_types::UnixTime;
use tokio::sync::watch;
use tracing::{info, warn};

use super::material::{in_file, read};
use super::verify::Trust;
use super::{ClientTls, Identity, Roots, ServerTls, TlsConfigError, reload};

/// Which files hold the cluster's roots and our identity, PEM or DER each.
#[derive(Clone, Debug)]
#[must_use = "files do nothing until `ClusterTls::load`"]
pub struct TlsFiles {
    roots: PathBuf,
    identity: Option<(PathBuf, PathBuf)>,
    revocation_lists: Vec<PathBuf>,
}

impl TlsFiles {
    /// The file with the cluster's CA certificates.
    pub fn new(roots: impl Into<PathBuf>) -> Self {
        Self { roots: roots.into(), identity: None, revocation_lists: Vec::new() }
    }

    /// The files with our certificate chain, leaf first, and its private key.
    pub fn identity(mut self, chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.identity = Some((chain.into(), key.into()));
        self
    }

    /// A file with revocation lists; see [`Roots::revocation_lists`] for what follows from it.
    pub fn revocation_list(mut self, path: impl Into<PathBuf>) -> Self {
        self.revocation_lists.push(path.into());
        self
    }

    /// All files' contents, in a fixed order.
    fn read(&self) -> Result<Vec<Vec<u8>>, TlsConfigError> {
        let identity = self.identity.iter().flat_map(|(chain, key)| [chain, key]);
        [&self.roots]
            .into_iter()
            .chain(identity)
            .chain(&self.revocation_lists)
            .map(|path| read(path))
            .collect()
    }

    /// Parses all and checks them against each other (S-059).
    fn parse(&self, contents: &[Vec<u8>]) -> Result<(Roots, Option<Identity>), TlsConfigError> {
        let mut contents = contents.iter();
        let mut next = || contents.next().map_or(&[][..], Vec::as_slice);
        let mut roots = in_file(&self.roots, Roots::from_bytes(next()))?;
        let identity = match &self.identity {
            None => None,
            Some((chain, key)) => Some(Identity::from_bytes((chain, next()), (key, next()))?),
        };
        for path in &self.revocation_lists {
            roots = in_file(path, roots.revocation_lists(next()))?;
        }
        Ok((roots, identity))
    }
}

/// Roots and identity of a cluster in which everyone shows a certificate of its CA. Cheap to clone;
/// clones share what is reloaded.
///
/// Loaded [from files](Self::load), it follows them: they are read once a second, and what changed is
/// used for every connection that is made from then on. New files are parsed and checked together; if
/// anything is wrong with them the old set stays, and [`status`](Self::status) and
/// [`watch`](Self::watch) tell (S-059). The process needs no restart.
#[derive(Clone, Debug)]
pub struct ClusterTls {
    source: Arc<Source>,
}

impl ClusterTls {
    /// From memory.
    ///
    /// # Errors
    ///
    /// [`TlsConfigError::Identity`] if the roots refuse the identity.
    pub fn new(roots: Roots, identity: Identity) -> Result<Self, TlsConfigError> {
        check(&roots, Some(&identity))?;
        Ok(Self { source: Arc::new(Source::fixed(Some(roots), Some(identity))) })
    }

    /// From files, which are followed from now on.
    ///
    /// # Errors
    ///
    /// [`TlsConfigError`], with the file's name; [`TlsConfigError::Identity`] if the roots refuse the
    /// identity.
    pub fn load(files: TlsFiles) -> Result<Self, TlsConfigError> {
        let source = Arc::new(Source::follow(files)?);
        reload::follow(&source);
        Ok(Self { source })
    }

    /// A client that trusts the cluster and shows our identity, if there is one.
    pub fn client(&self) -> ClientTls {
        ClientTls::from_source(self.source.clone())
    }

    /// A server that shows our identity and requires certificates of the cluster.
    ///
    /// # Errors
    ///
    /// [`TlsConfigError::NoIdentity`] if the files have none.
    pub fn server(&self) -> Result<ServerTls, TlsConfigError> {
        if self.source.current().identity.is_none() {
            return Err(TlsConfigError::NoIdentity);
        }
        Ok(ServerTls::of_cluster(self.source.clone()))
    }

    /// Our identity as it is now.
    pub fn identity(&self) -> Option<Identity> {
        self.source.current().identity.clone()
    }

    /// Looks at the files now instead of within a second. Reads files, so not for async code that must
    /// not block.
    pub fn reload(&self) -> TlsStatus {
        self.source.check();
        self.status()
    }

    /// Uses these from now on. Files, if there are any, replace them again when they change.
    ///
    /// # Errors
    ///
    /// [`TlsConfigError::Identity`] if the roots refuse the identity; the old ones stay.
    pub fn replace(&self, roots: Roots, identity: Identity) -> Result<(), TlsConfigError> {
        check(&roots, Some(&identity))?;
        self.source.publish(Some(roots), Some(identity));
        Ok(())
    }

    /// What is in use, and whether newer files are broken.
    pub fn status(&self) -> TlsStatus {
        self.source.status.borrow().clone()
    }

    /// Follows the status.
    pub fn watch(&self) -> TlsWatch {
        TlsWatch { status: self.source.status.subscribe() }
    }
}

/// The state of a [`ClusterTls`].
#[derive(Clone, Debug)]
pub struct TlsStatus {
    version: u64,
    fault: Option<Arc<TlsConfigError>>,
}

impl TlsStatus {
    /// Grows with each set of roots and identity that comes into use.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// What is wrong with the files as they are now; the last good set is in use.
    pub fn fault(&self) -> Option<&TlsConfigError> {
        self.fault.as_deref()
    }
}

/// Tells of each change of a [`TlsStatus`].
#[derive(Debug)]
pub struct TlsWatch {
    status: watch::Receiver<TlsStatus>,
}

impl TlsWatch {
    /// Waits for a change that was not seen yet; `None` when the [`ClusterTls`] and all its clients and
    /// servers are gone.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no change.
    pub async fn changed(&mut self) -> Option<TlsStatus> {
        self.status.changed().await.ok()?;
        Some(self.status.borrow_and_update().clone())
    }
}

/// One consistent set.
#[derive(Debug)]
pub(super) struct Material {
    pub(super) version: u64,
    pub(super) trust: Option<Arc<Trust>>,
    pub(super) identity: Option<Identity>,
}

/// Where clients and servers take their material from.
pub(super) struct Source {
    files: Option<TlsFiles>,
    /// Replaced as a whole: a handshake finishes with the set it began with.
    current: RwLock<Arc<Material>>,
    /// The version of `current`, readable on the request path without a lock.
    version: AtomicU64,
    /// What was last found in the files; held while they are looked at, so that one look follows another.
    seen: Mutex<Option<u64>>,
    hasher: RandomState,
    status: watch::Sender<TlsStatus>,
}

impl Source {
    pub(super) fn fixed(roots: Option<Roots>, identity: Option<Identity>) -> Self {
        let version = next_version();
        let material = Material { version, trust: roots.map(|roots| Arc::new(Trust::new(roots))), identity };
        Self {
            files: None,
            current: RwLock::new(Arc::new(material)),
            version: AtomicU64::new(version),
            seen: Mutex::new(None),
            hasher: RandomState::new(),
            status: watch::Sender::new(TlsStatus { version, fault: None }),
        }
    }

    fn follow(files: TlsFiles) -> Result<Self, TlsConfigError> {
        let contents = files.read()?;
        let (roots, identity) = files.parse(&contents)?;
        check(&roots, identity.as_ref())?;
        let mut source = Self::fixed(Some(roots), identity);
        source.seen = Mutex::new(Some(source.hasher.hash_one(&contents)));
        source.files = Some(files);
        Ok(source)
    }

    pub(super) fn current(&self) -> Arc<Material> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Reads the files and takes over what is new and good.
    pub(super) fn check(&self) {
        let Some(files) = &self.files else { return };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // Contents, not times and sizes: a renewal within one tick of the file system's clock, or one
        // through a swapped symbolic link, is seen as well.
        let result = files.read().and_then(|contents| {
            let found = self.hasher.hash_one(&contents);
            // What was refused is tried again: it may have been early, or half written.
            if *seen == Some(found) && self.status.borrow().fault.is_none() {
                return Ok(None);
            }
            let (roots, identity) = files.parse(&contents)?;
            check(&roots, identity.as_ref())?;
            Ok(Some((found, roots, identity)))
        });
        match result {
            Ok(None) => {}
            // The old files came back.
            Ok(Some((found, ..))) if *seen == Some(found) => {
                self.status.send_modify(|status| status.fault = None);
            }
            Ok(Some((found, roots, identity))) => {
                *seen = Some(found);
                let version = self.publish(Some(roots), identity);
                info!(peerage.tls.version = version, "TLS files reloaded");
            }
            Err(fault) => self.complain(fault),
        }
    }

    fn publish(&self, roots: Option<Roots>, identity: Option<Identity>) -> u64 {
        let trust = roots.map(|roots| Arc::new(Trust::new(roots)));
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let version = next_version();
        *current = Arc::new(Material { version, trust, identity });
        self.version.store(version, Ordering::Release);
        drop(current);
        self.status.send_replace(TlsStatus { version, fault: None });
        version
    }

    /// Tells of a fault when it is a new one, not each second.
    fn complain(&self, fault: TlsConfigError) {
        self.status.send_if_modified(|status| {
            // Fault texts are ours and hold no contents: equal texts are the same fault.
            let is_new = status.fault.as_ref().is_none_or(|old| format!("{old:?}") != format!("{fault:?}"));
            if is_new {
                warn!(
                    error = &fault as &dyn std::error::Error,
                    "TLS files are broken; the old ones stay in use"
                );
                status.fault = Some(Arc::new(fault));
            }
            is_new
        });
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Material { version, trust, identity } = &*self.current();
        f.debug_struct("Source")
            .field("files", &self.files)
            .field("version", version)
            .field("trust", trust)
            .field("identity", identity)
            .finish()
    }
}

/// Whether the cluster's own peers will accept the identity.
fn check(roots: &Roots, identity: Option<&Identity>) -> Result<(), TlsConfigError> {
    match identity {
        None => Ok(()),
        Some(identity) => {
            Trust::new(roots.clone()).accepts(identity, UnixTime::now()).map_err(TlsConfigError::Identity)
        }
    }
}

fn next_version() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    // Relaxed: the numbers only have to differ and grow.
    NEXT.fetch_add(1, Ordering::Relaxed)
}
