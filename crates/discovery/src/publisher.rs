//! A table that others can read: versions, snapshots, subscribers.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    task::Waker,
};

use arc_swap::ArcSwap;
use tokio::time::Instant;
use tracing::debug;

use crate::{
    change::Change,
    counters::{Counters, Metric},
    driver::Driver,
    error::DiscoveryError,
    escape::escape,
    peer::{Peer, PeerState},
    service_type::ServiceType,
    snapshot::{self, Snapshot},
    status::Status,
    subscription::{Queue, Subscription},
    table::{MAX_PEERS, Publication, Table, WINDOW},
};

/// The bookkeeping that every source shares; a clone is the same one.
///
/// A source [`edit`](Self::edit)s the [`Table`] and [`flush`](Self::flush)es it when the window is over,
/// from one thread or many. Readers take whole snapshots: one atomic load and one reference count,
/// without a lock and without an allocation.
///
/// ```
/// # use peerage_discovery::{Peer, Publisher, ServiceType};
/// # use tokio::time::Instant;
/// let service: ServiceType = "billing".parse()?;
/// let publisher = Publisher::new(&service);
/// publisher.begin()?;
/// let peer = Peer::builder("billing-1", &service).endpoint("10.0.0.1:80").build()?;
/// publisher.edit(Instant::now(), |table, now| table.put(peer, now));
/// assert_eq!(publisher.peer_count(), 0, "the window of 5 ms is open");
/// publisher.publish();
/// assert_eq!(publisher.peer_count(), 1);
/// # Ok::<(), peerage_discovery::DiscoveryError>(())
/// ```
#[derive(Clone)]
pub struct Publisher(Arc<Inner>);

struct Inner {
    service: ServiceType,
    /// What readers load. Stored only while `writer` is held, so versions only grow.
    current: ArcSwap<snapshot::Inner>,
    /// The count of `current` that are up.
    up: AtomicUsize,
    counters: Counters,
    writer: Mutex<Writer>,
}

struct Writer {
    table: Table,
    life: Life,
    /// Ends when its subscription is dropped.
    readers: Vec<Weak<Queue>>,
    /// Whether the driver will publish.
    scheduled: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    Idle,
    Running,
    Ended,
}

impl Publisher {
    /// Nothing published yet; at most 1,024 peers.
    pub fn new(service: &ServiceType) -> Self {
        Self::with_limit(service, MAX_PEERS)
    }

    /// As [`new`](Self::new) with another limit.
    pub fn with_limit(service: &ServiceType, max_peers: usize) -> Self {
        let table = Table::new(service.clone(), max_peers);
        Self(Arc::new(Inner {
            service: service.clone(),
            current: ArcSwap::new(table.published().to_inner()),
            up: AtomicUsize::new(0),
            counters: Counters::default(),
            writer: Mutex::new(Writer { table, life: Life::Idle, readers: Vec::new(), scheduled: false }),
        }))
    }

    /// What the peers are peers of.
    pub fn service_type(&self) -> &ServiceType {
        &self.0.service
    }

    /// The latest version.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::from_inner(self.0.current.load_full())
    }

    /// The list of the latest version.
    pub fn peers(&self) -> Arc<[Peer]> {
        self.snapshot().to_peers()
    }

    /// How many peers of the latest version are up.
    pub fn peer_count(&self) -> usize {
        // Relaxed: who needs the count and the list together takes a snapshot.
        self.0.up.load(Ordering::Relaxed)
    }

    /// The peer of that node id in the latest version.
    pub fn get(&self, node_id: &str) -> Option<Peer> {
        self.snapshot().get(node_id).cloned()
    }

    /// The status of the latest version.
    pub fn status(&self) -> Status {
        self.snapshot().status().clone()
    }

    /// All changes from now on.
    pub fn subscribe(&self) -> Subscription {
        let mut writer = self.lock();
        let (subscription, queue) =
            Subscription::new(writer.table.published().clone(), writer.life == Life::Ended);
        writer.readers.retain(|reader| reader.strong_count() > 0);
        writer.readers.push(Arc::downgrade(&queue));
        subscription
    }

    /// What was counted so far.
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// All counters and gauges.
    pub fn metrics(&self, now: Instant) -> Vec<Metric> {
        let snapshot = self.snapshot();
        let mut metrics = self.0.counters.read(now);
        metrics.extend([
            Metric::gauge("discovery_peers", Some(("state", "up")), snapshot.peer_count() as u64),
            Metric::gauge("discovery_peers", Some(("state", "suspect")), snapshot.suspect_count() as u64),
            Metric::gauge("discovery_snapshot_version", None, snapshot.version()),
        ]);
        metrics
    }

    /// Why there are not more peers, for people: the status and what was ignored.
    pub fn explain(&self) -> String {
        let mut reasons = self.0.counters.explain_ignored();
        match self.status() {
            Status::Ready if reasons.is_empty() => reasons.push("no other peer was seen".to_owned()),
            Status::Ready => {}
            status => reasons.insert(0, status.to_string()),
        }
        reasons.join("; ")
    }

    /// The source is started, once.
    ///
    /// # Errors
    ///
    /// [`DiscoveryError::AlreadyStarted`] the second time, [`DiscoveryError::Stopped`] after
    /// [`end`](Self::end).
    pub fn begin(&self) -> Result<(), DiscoveryError> {
        let mut writer = self.lock();
        match writer.life {
            Life::Idle => {
                writer.life = Life::Running;
                Ok(())
            }
            Life::Running => Err(DiscoveryError::AlreadyStarted),
            Life::Ended => Err(DiscoveryError::Stopped),
        }
    }

    /// The source is stopped: everybody leaves, waiters and streams end. `false` if it was before.
    pub fn end(&self, now: Instant) -> bool {
        let mut writer = self.lock();
        if writer.life == Life::Ended {
            return false;
        }
        writer.life = Life::Ended;
        writer.table.stop(now);
        let mut wakers = self.publish_locked(&mut writer);
        let readers = std::mem::take(&mut writer.readers);
        drop(writer);
        wakers.extend(readers.iter().filter_map(Weak::upgrade).filter_map(|queue| queue.close()));
        wake(wakers);
        true
    }

    /// Whether [`end`](Self::end) was called.
    pub fn has_ended(&self) -> bool {
        self.lock().life == Life::Ended
    }

    /// Changes the table. The first change opens the window; somebody must [`flush`](Self::flush) when
    /// it is [`due`](Self::due). Does nothing, and returns `None`, after [`end`](Self::end).
    pub fn edit<R>(&self, now: Instant, change: impl FnOnce(&mut Table, Instant) -> R) -> Option<R> {
        let mut writer = self.lock();
        (writer.life != Life::Ended).then(|| change(&mut writer.table, now))
    }

    /// As [`edit`](Self::edit), for a source without a loop of its own: a thread of this crate publishes
    /// at the end of the window.
    pub fn edit_soon<R>(&self, now: Instant, change: impl FnOnce(&mut Table, Instant) -> R) -> Option<R> {
        let mut writer = self.lock();
        if writer.life == Life::Ended {
            return None;
        }
        let result = change(&mut writer.table, now);
        let schedule = writer.table.due().is_some() && !std::mem::replace(&mut writer.scheduled, true);
        drop(writer);
        if schedule {
            self.publish_later();
        }
        Some(result)
    }

    /// When the open window ends.
    pub fn due(&self) -> Option<Instant> {
        self.lock().table.due()
    }

    /// Publishes if the window is over. `true` if there is a new version.
    pub fn flush(&self, now: Instant) -> bool {
        let due = self.due();
        due.is_some_and(|due| due <= now) && self.publish()
    }

    /// Publishes at once what was changed, if anything was. `true` if there is a new version.
    pub fn publish(&self) -> bool {
        let mut writer = self.lock();
        let before = writer.table.published().version();
        let wakers = self.publish_locked(&mut writer);
        let is_new = writer.table.published().version() != before;
        drop(writer);
        wake(wakers);
        is_new
    }

    fn publish_later(&self) {
        let Ok(driver) = Driver::get() else {
            // No thread could be had. Without a window it is right as well, only more often.
            self.lock().scheduled = false;
            self.publish();
            return;
        };
        let publisher = Arc::downgrade(&self.0);
        let keep = driver.clone();
        driver.spawn(async move {
            tokio::time::sleep(WINDOW).await;
            if let Some(inner) = publisher.upgrade() {
                let publisher = Self(inner);
                publisher.lock().scheduled = false;
                publisher.publish();
            }
            drop(keep);
        });
    }

    fn publish_locked(&self, writer: &mut Writer) -> Vec<Waker> {
        let Some(Publication { snapshot, changes }) = writer.table.publish() else { return Vec::new() };
        if snapshot.version() != self.snapshot().version() {
            self.0.current.store(snapshot.to_inner());
            self.0.up.store(snapshot.peer_count(), Ordering::Relaxed);
            self.0.counters.published();
        }
        self.account(&changes);
        let mut wakers = Vec::new();
        writer.readers.retain(|reader| {
            let Some(queue) = reader.upgrade() else { return false };
            let (lost, waker) = queue.push(&snapshot, &changes);
            self.0.counters.lagged(lost);
            wakers.extend(waker);
            true
        });
        wakers
    }

    fn account(&self, changes: &[Change]) {
        let service = &self.0.service;
        let counters = &self.0.counters;
        for change in changes {
            match change {
                Change::Joined(peer) => {
                    counters.joined();
                    debug!(peerage.service_type = %service, peerage.node_id = %escape(peer.node_id()),
                        address = %peer.address(), source = %escape(peer.source().as_str()), "peer joined");
                }
                Change::Left { peer, reason } => {
                    counters.left(*reason);
                    debug!(peerage.service_type = %service, peerage.node_id = %escape(peer.node_id()),
                        %reason, "peer left");
                }
                Change::Suspected(peer) => {
                    if let PeerState::Suspect { why, .. } = peer.state() {
                        counters.suspected(why);
                        debug!(peerage.service_type = %service, peerage.node_id = %escape(peer.node_id()),
                            %why, "peer in doubt");
                    }
                }
                Change::Cleared(peer) => {
                    counters.cleared();
                    debug!(peerage.service_type = %service, peerage.node_id = %escape(peer.node_id()),
                        "peer no longer in doubt");
                }
                Change::Conflict { node_id, kept, refused } => {
                    counters.conflict();
                    tracing::warn!(peerage.service_type = %service, peerage.node_id = %escape(node_id),
                        %kept, %refused, "node id claimed twice");
                }
                Change::Status(status) => {
                    debug!(peerage.service_type = %service, %status, "discovery status");
                }
                Change::Updated { .. } | Change::Resync(_) | Change::Lagged(_) => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Writer> {
        // A panic in the closure of `edit` leaves a table that is whole: each of its methods is.
        self.0.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A source that went away without `end` still ends its streams.
impl Drop for Inner {
    fn drop(&mut self) {
        let writer = self.writer.get_mut().unwrap_or_else(PoisonError::into_inner);
        wake(writer.readers.iter().filter_map(Weak::upgrade).filter_map(|queue| queue.close()).collect());
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let snapshot = self.snapshot();
        f.debug_struct("Publisher")
            .field("service", &self.0.service)
            .field("version", &snapshot.version())
            .field("peers", &snapshot.peers().len())
            .field("status", snapshot.status())
            .finish_non_exhaustive()
    }
}

/// Outside of every lock: an executor may run the woken task then and there.
fn wake(wakers: Vec<Waker>) {
    for waker in wakers {
        waker.wake();
    }
}
