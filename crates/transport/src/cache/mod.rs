//! Replicas on disk, shared with other programs of the same user (transport §5).
//!
//! The cache is a help, never a need: whatever is wrong with it, operations go on without. What it holds
//! is believed as little as a response header, and passes the same filters.

mod format;
mod remember;
#[cfg(unix)]
mod store;
#[cfg(not(unix))]
#[path = "no_store.rs"]
mod store;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

pub use format::CacheFile;
pub(crate) use remember::Remembered;

use crate::error::BoxError;

/// How long replicas are remembered.
pub(crate) const FRESH_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a replica that failed is left out (GB-08).
pub(crate) const COOL_DOWN: Duration = Duration::from_secs(60);

/// How long a writer waits for another one, and how often it looks.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
const LOCK_POLL: Duration = Duration::from_millis(100);

/// What kept the cache from being read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// The file system said no.
    #[error("cannot use the cache in {}", directory.display())]
    Io {
        /// The cache's directory.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else may write there, or what is there is no file of ours.
    #[error("the cache in {} is not used: {why}", directory.display())]
    Unsafe {
        /// The cache's directory.
        directory: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// Another process held the lock for 5 s.
    #[error("the lock of the cache in {} timed out", directory.display())]
    LockTimedOut {
        /// The cache's directory.
        directory: PathBuf,
    },
    /// The change itself failed; nothing was written.
    #[error("the cache was not changed")]
    Change(#[source] BoxError),
}

/// The cache in one directory.
///
/// # Examples
///
/// ```
/// use peerage_transport::NodeCache;
///
/// let directory = std::env::temp_dir().join("no-such-cache");
/// let cache = NodeCache::new(directory);
/// assert_eq!(cache.lookup("eu.cluster.example", "et/project/repo"), None);
/// ```
#[derive(Clone, Debug)]
pub struct NodeCache {
    directory: PathBuf,
}

impl NodeCache {
    /// The cache in this directory, which is made when something is written. See
    /// [`cache_directory`](crate::cache_directory).
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What the file holds; nothing if there is none, or if it is not what we would write. Takes no lock.
    ///
    /// # Errors
    ///
    /// [`CacheError::Io`] and [`CacheError::Unsafe`].
    pub fn read(&self) -> Result<CacheFile, CacheError> {
        store::read(&self.directory)
    }

    /// The replicas of a repository, if they were learned less than 24 hours ago and are not cooling
    /// down. Whatever goes wrong is "none".
    pub fn lookup(&self, cluster: &str, repo: &str) -> Option<Vec<String>> {
        match self.read() {
            Ok(file) => file.usable_nodes(cluster, repo, SystemTime::now()),
            Err(error) => {
                store::warn_once(&error);
                None
            }
        }
    }

    /// Changes the file under its lock: read, change, write, as one step to every other program.
    ///
    /// # Errors
    ///
    /// Any [`CacheError`]; then the file is as it was.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the file is changed as a whole or not at all.
    pub async fn modify(
        &self,
        change: impl FnOnce(&mut CacheFile) -> Result<(), BoxError> + Send + 'static,
    ) -> Result<(), CacheError> {
        let mut waited = Duration::ZERO;
        let mut change = Some(change);
        loop {
            let directory = self.directory.clone();
            let attempt = change.take();
            let tried = tokio::task::spawn_blocking(move || {
                let Some(change) = attempt else { return Ok(Err(None)) };
                match store::lock(&directory)? {
                    None => Ok(Err(Some(change))),
                    Some(locked) => {
                        let mut file = locked.read()?;
                        change(&mut file).map_err(CacheError::Change)?;
                        file.prune(SystemTime::now());
                        locked.write(&file).map(Ok)
                    }
                }
            })
            .await;
            let unfinished =
                |error| CacheError::Io { directory: self.directory.clone(), source: io::Error::other(error) };
            match tried.map_err(unfinished)?? {
                Ok(()) => return Ok(()),
                Err(back) => change = back,
            }
            if waited >= LOCK_PATIENCE {
                return Err(CacheError::LockTimedOut { directory: self.directory.clone() });
            }
            // Waits for whoever holds the lock.
            tokio::time::sleep(LOCK_POLL).await;
            waited += LOCK_POLL;
        }
    }

    /// Remembers the replicas of a repository for 24 hours. Nothing happens if an argument is empty; a
    /// failure is logged and swallowed.
    ///
    /// # Cancel safety
    ///
    /// As [`modify`](Self::modify).
    pub async fn persist(&self, cluster: &str, repo: &str, nodes: &[String]) {
        if cluster.is_empty() || repo.is_empty() || nodes.is_empty() {
            return;
        }
        let (cluster, repo, nodes) = (cluster.to_owned(), repo.to_owned(), nodes.to_vec());
        self.best_effort(move |file| {
            file.set_repo(&cluster, &repo, &nodes, SystemTime::now() + FRESH_FOR);
        })
        .await;
    }

    /// Forgets one repository. A failure is logged and swallowed.
    ///
    /// # Cancel safety
    ///
    /// As [`modify`](Self::modify).
    pub async fn invalidate(&self, cluster: &str, repo: &str) {
        let (cluster, repo) = (cluster.to_owned(), repo.to_owned());
        self.best_effort(move |file| file.remove_repo(&cluster, &repo)).await;
    }

    /// Forgets a cluster. A failure is logged and swallowed.
    ///
    /// # Cancel safety
    ///
    /// As [`modify`](Self::modify).
    pub async fn invalidate_cluster(&self, cluster: &str) {
        let cluster = cluster.to_owned();
        self.best_effort(move |file| file.remove_cluster(&cluster)).await;
    }

    async fn best_effort(&self, change: impl FnOnce(&mut CacheFile) + Send + 'static) {
        let changed = self
            .modify(|file| {
                change(file);
                Ok(())
            })
            .await;
        if let Err(error) = changed {
            store::warn_once(&error);
        }
    }
}
