//! Writing the cache beside the requests: no operation waits for the disk, or for another process.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::task::JoinSet;

use super::{COOL_DOWN, CacheFile, FRESH_FOR, NodeCache, store};
use crate::replicas::Replica;

/// What one proxy remembers. Dropping it ends what is being written; the file stays whole.
#[derive(Debug)]
pub(crate) struct Remembered {
    cache: NodeCache,
    cluster: String,
    repo: String,
    pending: Arc<Mutex<Pending>>,
    writers: Mutex<JoinSet<()>>,
}

#[derive(Debug, Default)]
struct Pending {
    changes: Vec<Change>,
    /// Whether a task is writing; it looks here again before it ends.
    is_written: bool,
}

#[derive(Debug)]
enum Change {
    Replicas(Vec<String>),
    Down(String),
}

impl Remembered {
    pub(crate) fn new(cache: NodeCache, cluster: String, repo: String) -> Self {
        Self { cache, cluster, repo, pending: Arc::default(), writers: Mutex::default() }
    }

    /// A set that an answer of the cluster named.
    pub(crate) fn replicas(&self, replicas: &[Replica]) {
        self.change(Change::Replicas(replicas.iter().map(ToString::to_string).collect()));
    }

    /// A replica that failed just now: left out for a while, the others stay.
    pub(crate) fn down(&self, replica: &Replica) {
        self.change(Change::Down(replica.to_string()));
    }

    fn change(&self, change: Change) {
        let begin = {
            let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            pending.changes.push(change);
            !std::mem::replace(&mut pending.is_written, true)
        };
        if begin {
            let (cache, pending) = (self.cache.clone(), self.pending.clone());
            let (cluster, repo) = (self.cluster.clone(), self.repo.clone());
            let mut writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
            while writers.try_join_next().is_some() {}
            writers.spawn(write(cache, cluster, repo, pending));
        }
    }

    /// Waits until everything is written, but no longer than `limit`; what is not written then is not.
    pub(crate) async fn settle(&self, limit: Duration) {
        let mut writers = std::mem::take(&mut *self.writers.lock().unwrap_or_else(PoisonError::into_inner));
        let _ = tokio::time::timeout(limit, async { while writers.join_next().await.is_some() {} }).await;
    }
}

/// Writes what is pending until nothing is.
async fn write(cache: NodeCache, cluster: String, repo: String, pending: Arc<Mutex<Pending>>) {
    loop {
        let changes = {
            let mut pending = pending.lock().unwrap_or_else(PoisonError::into_inner);
            if pending.changes.is_empty() {
                pending.is_written = false;
                return;
            }
            std::mem::take(&mut pending.changes)
        };
        let (cluster, repo) = (cluster.clone(), repo.clone());
        let written = cache
            .modify(move |file| {
                let now = SystemTime::now();
                changes.iter().for_each(|change| apply(file, &cluster, &repo, change, now));
                Ok(())
            })
            .await;
        if let Err(error) = written {
            store::warn_once(&error);
        }
    }
}

fn apply(file: &mut CacheFile, cluster: &str, repo: &str, change: &Change, now: SystemTime) {
    match change {
        Change::Replicas(nodes) => file.set_repo(cluster, repo, nodes, now + FRESH_FOR),
        Change::Down(node) => file.cool_down(cluster, repo, node, now, now + COOL_DOWN),
    }
}
