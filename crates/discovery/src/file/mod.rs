//! A list in a file.

mod parse;
mod watch;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::Notify,
    task::{JoinHandle, spawn_blocking},
    time::Instant,
};
use xxhash_rust::xxh64::xxh64;

use self::{
    parse::{Invalid, Parsed, parse},
    watch::{Content, Next, Watch, look},
};
use crate::{
    addresses::{AddressPolicy, SourceClass},
    counters::{Ignored, Metric},
    discovery::{Discovery, Report, Stopping},
    driver::Driver,
    error::DiscoveryError,
    listed::{self, Listed},
    peer::SourceId,
    publisher::Publisher,
    service_type::ServiceType,
    snapshot::Snapshot,
    status::{Status, Trouble},
    subscription::Subscription,
    table::MAX_PEERS,
};

/// The largest file that is read.
pub const MAX_FILE: u64 = 4 << 20;

/// Peers from a file that is watched: JSON, written by a person or by another program.
///
/// ```json
/// {"version": 1, "service": "_ta._tcp", "peers": [
///   {"node_id": "a", "addresses": ["10.0.0.1:80"], "metadata": {"zone": "z1"}, "priority": 0}]}
/// ```
///
/// `service` may be left out, else it must match; `addresses` may be one text; `node_id`, `metadata` and
/// `priority` may be left out; `null` in `metadata` makes a flag. Keys that we do not know are counted and
/// ignored.
///
/// The file is looked at every second, which works on network file systems and for files that are renamed
/// into place. A change must look the same 50 ms later. A file that cannot be read, or that holds one
/// invalid entry, is refused as a whole: the last good list stays, and the status tells the line. An empty
/// list is believed. Needs no runtime of the caller.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use peerage_discovery::{Discovery, FileDiscovery};
/// use tokio::time::Instant;
///
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("peers.json");
/// std::fs::write(&path, r#"{"version": 1, "peers": [{"addresses": "10.0.0.1:9999"}]}"#)?;
/// let billing = FileDiscovery::new("billing", &path)?;
/// billing.start()?;
/// let peers = billing.wait_ready(1, Instant::now() + Duration::from_secs(5)).await?;
/// assert_eq!(peers.peers()[0].node_id(), "10.0.0.1:9999");
/// # Ok(()) }
/// ```
pub struct FileDiscovery {
    shared: Arc<Shared>,
    running: Mutex<Option<(JoinHandle<()>, Driver)>>,
}

struct Shared {
    service: ServiceType,
    path: PathBuf,
    origin: Arc<str>,
    policy: AddressPolicy,
    every: Duration,
    listed: Listed,
    refresh: Notify,
}

impl FileDiscovery {
    /// The peers in the file at `path`, which need not be there yet.
    ///
    /// # Errors
    ///
    /// [`DiscoveryError::InvalidServiceType`].
    pub fn new<S>(service: S, path: impl AsRef<Path>) -> Result<Self, DiscoveryError>
    where
        S: TryInto<ServiceType>,
        DiscoveryError: From<S::Error>,
    {
        Ok(Self::builder(service, path)?.build())
    }

    /// For settings other than the defaults.
    ///
    /// # Errors
    ///
    /// [`DiscoveryError::InvalidServiceType`].
    pub fn builder<S>(service: S, path: impl AsRef<Path>) -> Result<FileBuilder, DiscoveryError>
    where
        S: TryInto<ServiceType>,
        DiscoveryError: From<S::Error>,
    {
        Ok(FileBuilder {
            service: service.try_into()?,
            path: path.as_ref().to_owned(),
            policy: AddressPolicy::new(SourceClass::Configured),
            max_peers: MAX_PEERS,
            every: watch::EVERY,
            doubt: listed::DOUBT,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Option<(JoinHandle<()>, Driver)>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Discovery for FileDiscovery {
    fn service_type(&self) -> &ServiceType {
        &self.shared.service
    }

    fn source(&self) -> SourceId {
        SourceId::File
    }

    /// The file is read soon after, not before this returns: it may lie on a network.
    fn start(&self) -> Result<(), DiscoveryError> {
        // Held to the end: a `stop` at the same time finds a task to stop.
        let mut running = self.lock();
        let driver = Driver::get()?;
        let publisher = &self.shared.listed.publisher;
        publisher.begin()?;
        publisher.edit(Instant::now(), |table, now| table.set_status(Status::Starting, now));
        publisher.publish();
        *running = Some((driver.spawn(follow(self.shared.clone())), driver));
        Ok(())
    }

    fn snapshot(&self) -> Snapshot {
        self.shared.listed.publisher.snapshot()
    }

    fn peer_count(&self) -> usize {
        self.shared.listed.publisher.peer_count()
    }

    fn subscribe(&self) -> Subscription {
        self.shared.listed.publisher.subscribe()
    }

    fn report(&self, node_id: &str, report: Report) {
        self.shared.listed.report(node_id, report);
    }

    fn refresh(&self) {
        self.shared.refresh.notify_one();
    }

    fn explain(&self) -> String {
        self.shared.listed.publisher.explain()
    }

    fn metrics(&self) -> Vec<Metric> {
        self.shared.listed.publisher.metrics(Instant::now())
    }

    fn stop(&self) -> Stopping {
        let doubts = self.shared.listed.stop();
        match self.lock().take() {
            None => doubts,
            Some((task, driver)) => {
                task.abort();
                Stopping::new(async move {
                    let _aborted = task.await;
                    doubts.await;
                    driver.release().await;
                })
            }
        }
    }
}

impl Drop for FileDiscovery {
    fn drop(&mut self) {
        drop(self.stop());
    }
}

impl fmt::Debug for FileDiscovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileDiscovery")
            .field("path", &self.shared.path)
            .field("publisher", &self.shared.listed.publisher)
            .finish_non_exhaustive()
    }
}

/// The settings of a [`FileDiscovery`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct FileBuilder {
    service: ServiceType,
    path: PathBuf,
    policy: AddressPolicy,
    max_peers: usize,
    every: Duration,
    doubt: Duration,
}

impl FileBuilder {
    /// Which addresses may stand in the file. Default: all that can be dialled but those of metadata
    /// services, loopback included.
    pub fn addresses(mut self, policy: AddressPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// The most peers; those beyond are left out and counted. Default 1,024.
    pub fn max_peers(mut self, limit: usize) -> Self {
        self.max_peers = limit;
        self
    }

    /// How often the file is looked at: 50 ms at the least. Default 1 s.
    pub fn every(mut self, interval: Duration) -> Self {
        self.every = interval.max(watch::SETTLE);
        self
    }

    /// How long a peer is in doubt after it was reported as unreachable. Default 10 s.
    pub fn doubt(mut self, lasting: Duration) -> Self {
        self.doubt = lasting;
        self
    }

    /// Makes the source; it touches no file before it is started.
    pub fn build(self) -> FileDiscovery {
        let publisher = Publisher::with_limit(&self.service, self.max_peers);
        FileDiscovery {
            shared: Arc::new(Shared {
                service: self.service,
                origin: self.path.to_string_lossy().into(),
                path: self.path,
                policy: self.policy,
                every: self.every,
                listed: Listed::new(publisher, self.doubt),
                refresh: Notify::new(),
            }),
            running: Mutex::new(None),
        }
    }
}

/// Looks at the file until it is aborted.
async fn follow(shared: Arc<Shared>) {
    let mut watch = Watch::new(shared.every);
    loop {
        let path = shared.path.clone();
        let wanted = watch.wanted();
        // A file system that hangs holds a thread for blocking calls, and nothing else.
        let Ok(seen) = spawn_blocking(move || look(&path, wanted)).await else { return };
        let now = Instant::now();
        let Next { content, at } = watch.saw(seen, now);
        if let Some(content) = content {
            take(&shared, content, now);
        }
        let asked = async {
            shared.refresh.notified().await;
            tokio::time::sleep_until(now + watch::REFRESH).await;
        };
        tokio::select! {
            () = tokio::time::sleep_until(at) => {}
            () = asked => {}
        }
    }
}

/// Believes what was read, or tells why not.
fn take(shared: &Shared, content: Content, now: Instant) {
    let Shared { service, policy, origin, listed, .. } = shared;
    let publisher = &listed.publisher;
    publisher.counters().event();
    let trouble = match content {
        Content::Missing => Trouble::FileMissing,
        Content::Unreadable(why) => Trouble::FileUnreadable { why: why.into() },
        Content::Text(text) => match parse(&text, service, policy, origin) {
            Ok(Parsed { peers, unknown_keys }) => {
                publisher.counters().ignored(Ignored::UnknownKey, unknown_keys);
                publisher.edit(now, |table, now| table.set_status(Status::Ready, now));
                listed.set(peers, now);
                return;
            }
            Err(Invalid { line, column, why }) => Trouble::FileInvalid { line, column, why: why.into() },
        },
    };
    publisher.counters().source_failed();
    tracing::warn!(peerage.service_type = %service, file = %crate::escape(origin), %trouble,
        "the last good list of peers is kept");
    publisher.edit(now, |table, now| {
        let since = match table.status() {
            Status::Degraded { since, .. } => *since,
            _ => now,
        };
        table.set_status(Status::degraded(trouble, since), now);
    });
    publisher.publish();
}

fn fingerprint(text: &[u8]) -> u64 {
    xxh64(text, 0)
}
