//! A view of a source that has only some of its peers.

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use async_trait::async_trait;
use futures_core::Stream;
use tokio::{task::JoinHandle, time::Instant};

use crate::{
    change::{Change, LeaveReason},
    counters::Metric,
    diagnosis::Diagnosis,
    discovery::{Discovery, Report, Stopping},
    driver::Driver,
    error::DiscoveryError,
    peer::{Peer, SourceId},
    publisher::Publisher,
    service_type::ServiceType,
    snapshot::Snapshot,
    status::Status,
    subscription::Subscription,
    table::Table,
};

type Predicate = Arc<dyn Fn(&Peer) -> bool + Send + Sync>;

/// A view of another [`Discovery`]: snapshot, stream and count hold only the peers that match.
///
/// A change that makes a peer match is a join, one that makes it match no longer a leave with
/// [`Removed`](LeaveReason::Removed). `start` starts the source too if nobody did. `stop` ends the view alone;
/// the source may have other users, and ends with its last handle.
///
/// ```
/// use std::sync::Arc;
/// use peerage_discovery::{Discovery, StaticDiscovery, StaticPeer};
///
/// let all: Arc<dyn Discovery> = Arc::new(StaticDiscovery::new("billing", [
///     StaticPeer::new("10.0.0.1:9999").pair("zone", "eu-1"),
///     StaticPeer::new("10.0.0.2:9999").pair("zone", "us-1"),
/// ])?);
/// let near = all.filtered(|peer| peer.metadata().token("zone") == Some("eu-1"));
/// near.start()?;
/// assert_eq!(near.peer_count(), 1);
/// # Ok::<(), peerage_discovery::DiscoveryError>(())
/// ```
pub struct Filtered {
    source: Arc<dyn Discovery>,
    service: ServiceType,
    predicate: Predicate,
    publisher: Publisher,
    running: Mutex<Option<(JoinHandle<()>, Driver)>>,
}

impl dyn Discovery {
    /// A view that has only the peers for which `predicate` holds.
    pub fn filtered(self: Arc<Self>, predicate: impl Fn(&Peer) -> bool + Send + Sync + 'static) -> Filtered {
        Filtered::new(self, predicate)
    }
}

impl Filtered {
    /// A view of `source` that has only the peers for which `predicate` holds. It is asked once per change
    /// of a peer, with a lock held: it answers from what it is given.
    pub fn new(
        source: Arc<dyn Discovery>,
        predicate: impl Fn(&Peer) -> bool + Send + Sync + 'static,
    ) -> Self {
        let service = source.service_type().clone();
        let publisher = Publisher::with_limit(&service, usize::MAX);
        Self { source, service, predicate: Arc::new(predicate), publisher, running: Mutex::new(None) }
    }

    fn lock(&self) -> MutexGuard<'_, Option<(JoinHandle<()>, Driver)>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Discovery for Filtered {
    fn service_type(&self) -> &ServiceType {
        &self.service
    }

    fn source(&self) -> SourceId {
        self.source.source()
    }

    fn start(&self) -> Result<(), DiscoveryError> {
        // Held to the end: a `stop` at the same time finds a task to stop.
        let mut running = self.lock();
        let driver = Driver::get()?;
        self.publisher.begin()?;
        let mut subscription = self.source.subscribe();
        match self.source.start() {
            Ok(()) | Err(DiscoveryError::AlreadyStarted) => {}
            Err(error) => {
                self.publisher.end(Instant::now());
                return Err(error);
            }
        }
        // What the source knows already is there when `start` returns.
        let mut context = Context::from_waker(Waker::noop());
        if follow(&mut subscription, &self.publisher, &self.predicate, &mut context).is_pending() {
            let (publisher, predicate) = (self.publisher.clone(), self.predicate.clone());
            let task = driver.spawn(async move {
                poll_fn(|cx| follow(&mut subscription, &publisher, &predicate, cx)).await;
            });
            *running = Some((task, driver));
        }
        Ok(())
    }

    fn snapshot(&self) -> Snapshot {
        self.publisher.snapshot()
    }

    fn peer_count(&self) -> usize {
        self.publisher.peer_count()
    }

    fn subscribe(&self) -> Subscription {
        self.publisher.subscribe()
    }

    fn report(&self, node_id: &str, report: Report) {
        self.source.report(node_id, report);
    }

    fn refresh(&self) {
        self.source.refresh();
    }

    fn explain(&self) -> String {
        let all = self.source.snapshot();
        match all.peers().len().saturating_sub(self.snapshot().peers().len()) {
            0 => self.source.explain(),
            others => format!("{others} peers do not match the filter; {}", self.source.explain()),
        }
    }

    fn metrics(&self) -> Vec<Metric> {
        self.publisher.metrics(Instant::now())
    }

    fn stop(&self) -> Stopping {
        self.publisher.end(Instant::now());
        match self.lock().take() {
            None => Stopping::done(),
            Some((task, driver)) => {
                task.abort();
                Stopping::new(async move {
                    let _aborted = task.await;
                    driver.release().await;
                })
            }
        }
    }

    async fn diagnose(&self) -> Diagnosis {
        self.source.diagnose().await
    }
}

impl Drop for Filtered {
    fn drop(&mut self) {
        drop(self.stop());
    }
}

impl fmt::Debug for Filtered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filtered")
            .field("source", &self.source)
            .field("publisher", &self.publisher)
            .finish_non_exhaustive()
    }
}

/// Takes in what the source said. Its versions are coalesced already, so they are published at once.
/// Ready when the source has ended, and the view with it.
fn follow(
    subscription: &mut Subscription,
    publisher: &Publisher,
    predicate: &Predicate,
    cx: &mut Context<'_>,
) -> Poll<()> {
    loop {
        let item = Pin::new(&mut *subscription).poll_next(cx);
        let now = Instant::now();
        match item {
            Poll::Ready(Some((_, change))) => {
                publisher.edit(now, |table, now| apply(table, change, &**predicate, now));
            }
            Poll::Ready(None) => {
                publisher.end(now);
                return Poll::Ready(());
            }
            Poll::Pending => {
                publisher.publish();
                return Poll::Pending;
            }
        }
    }
}

/// Pure.
fn apply(table: &mut Table, change: Change, matches: &dyn Fn(&Peer) -> bool, now: Instant) {
    match change {
        Change::Resync(snapshot) => {
            let list = snapshot.peers().iter().filter(|peer| matches(peer)).cloned().collect();
            table.set_merged(list, LeaveReason::Removed, now);
            set_status(table, snapshot.status().clone(), now);
        }
        Change::Joined(peer)
        | Change::Updated { new: peer, .. }
        | Change::Suspected(peer)
        | Change::Cleared(peer) => {
            if matches(&peer) {
                table.put_merged(peer, now);
            } else {
                table.remove(peer.node_id(), LeaveReason::Removed, now);
            }
        }
        Change::Left { peer, reason } => {
            table.remove(peer.node_id(), reason, now);
        }
        Change::Conflict { node_id, kept, refused } => {
            if table.get(&node_id).is_some() {
                table.conflict(node_id, kept, refused, now);
            }
        }
        Change::Status(status) => set_status(table, status, now),
        // A `Resync` follows.
        Change::Lagged(_) => {}
    }
}

/// `Stopped` comes with the end of the stream.
fn set_status(table: &mut Table, status: Status, now: Instant) {
    if status != Status::Stopped {
        table.set_status(status, now);
    }
}
