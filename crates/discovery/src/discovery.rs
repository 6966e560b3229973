//! The trait that every source implements.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use async_trait::async_trait;
use tokio::{
    runtime::Handle,
    time::{Instant, sleep_until},
};

use crate::{
    counters::Metric,
    diagnosis::Diagnosis,
    driver::Driver,
    error::DiscoveryError,
    peer::{Peer, SourceId},
    service_type::ServiceType,
    snapshot::Snapshot,
    status::Status,
    subscription::Subscription,
};

/// Which instances of a service can be called now.
///
/// Every source is one, and so is a [`Merge`](crate::Merge) of several. Calls may come from any thread,
/// inside or outside a runtime.
///
/// # For implementors
/// A [`Publisher`](crate::Publisher) does the bookkeeping; what is left is to fill it. It must hold that:
/// - everything read from one [`Snapshot`] belongs together, versions grow, and a peer that differs only
///   in its evidence makes no new version;
/// - `start` checks its settings, makes its threads or tasks, and does not wait for the network: a fault
///   of the network is a [`Status`];
/// - trouble never empties the list: what was known last is kept;
/// - after `stop`, or when the last handle is dropped, the snapshot is empty, its status is
///   [`Status::Stopped`], and streams end.
#[async_trait]
pub trait Discovery: Send + Sync + fmt::Debug + 'static {
    /// What the peers are peers of. Never changes.
    fn service_type(&self) -> &ServiceType;

    /// What kind of source this is.
    fn source(&self) -> SourceId {
        SourceId::Other("custom".into())
    }

    /// Starts, once.
    ///
    /// # Errors
    ///
    /// [`DiscoveryError::AlreadyStarted`], [`DiscoveryError::Stopped`], or what the settings of the source
    /// are refused for. Never that the network is not there.
    fn start(&self) -> Result<(), DiscoveryError>;

    /// The latest version. One atomic load and one reference count; no lock, no allocation. Empty, and of
    /// version 0, before `start`.
    fn snapshot(&self) -> Snapshot;

    /// The list of the latest version. It never changes after it was handed out.
    fn peers(&self) -> Arc<[Peer]> {
        self.snapshot().to_peers()
    }

    /// How many peers are up; those in doubt are not counted.
    fn peer_count(&self) -> usize {
        self.snapshot().peer_count()
    }

    /// All changes from now on.
    fn subscribe(&self) -> Subscription;

    /// Waits until `min` peers are up, and returns the snapshot that has them. `min` 0 is at once. Works in
    /// any executor; in a tokio runtime it uses that one's timers, which must be enabled.
    ///
    /// # Errors
    ///
    /// [`DiscoveryError::NotReady`] at the deadline, with the reason as far as it is known;
    /// [`DiscoveryError::Stopped`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does nothing else.
    async fn wait_ready(&self, min: usize, deadline: Instant) -> Result<Snapshot, DiscoveryError> {
        let snapshot = self.snapshot();
        if snapshot.peer_count() >= min {
            return Ok(snapshot);
        }
        let mut subscription = self.subscribe();
        let mut snapshot = subscription.borrow();
        let timer = Timer::at(deadline)?;
        tokio::pin!(timer);
        loop {
            if snapshot.peer_count() >= min {
                return Ok(snapshot);
            }
            tokio::select! {
                biased;
                changed = subscription.changed() => match changed {
                    Some(latest) => snapshot = latest,
                    // The last version, which is empty, was told before.
                    None => return Err(DiscoveryError::Stopped),
                },
                () = &mut timer => {
                    return Err(DiscoveryError::NotReady {
                        service: self.service_type().clone(),
                        want: min,
                        have: snapshot.peer_count(),
                        suspects: snapshot.suspect_count(),
                        why: self.explain(),
                    });
                }
            }
        }
    }

    /// The peer of that node id in the latest version. O(log n).
    fn get(&self, node_id: &str) -> Option<Peer> {
        self.snapshot().get(node_id).cloned()
    }

    /// Tells what a call to the peer showed. A hint: it does not block, an unknown id is ignored, and it
    /// is dropped when too many are waiting.
    fn report(&self, node_id: &str, report: Report);

    /// Asks for a full list now. At most one a second is done, more are merged.
    fn refresh(&self);

    /// How discovery itself is.
    fn status(&self) -> Status {
        self.snapshot().status().clone()
    }

    /// Why there are not more peers, in a few words for people.
    fn explain(&self) -> String {
        self.status().to_string()
    }

    /// What was counted so far, for a metrics page.
    fn metrics(&self) -> Vec<Metric> {
        Vec::new()
    }

    /// Stops for good, at once; the future waits until threads, tasks and sockets are gone (at most 2 s).
    /// It may be dropped. The second time it does nothing.
    fn stop(&self) -> Stopping;

    /// Looks into what could be wrong, for people. Takes less than 3 s and leaves nothing behind.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the look.
    async fn diagnose(&self) -> Diagnosis {
        Diagnosis::of(self.service_type(), &self.snapshot(), &self.explain())
    }
}

const _: fn(&dyn Discovery) = |_| {};

/// What a call to a peer showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "it answered or it did not")]
pub enum Report {
    /// It answered.
    Alive,
    /// It could not be reached.
    Unreachable,
}

/// Waits until a discovery that was stopped has nothing left; see [`Discovery::stop`].
#[must_use = "stopped it is already; await this to know that nothing is left, or drop it"]
pub struct Stopping(Option<Pin<Box<dyn Future<Output = ()> + Send>>>);

impl Stopping {
    /// Nothing is left.
    pub fn done() -> Self {
        Self(None)
    }

    /// Until `rest` is over.
    pub fn new(rest: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(Some(Box::pin(rest)))
    }
}

impl Future for Stopping {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(rest) = &mut self.0 else { return Poll::Ready(()) };
        std::task::ready!(rest.as_mut().poll(cx));
        self.0 = None;
        Poll::Ready(())
    }
}

impl fmt::Debug for Stopping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stopping").field("is_done", &self.0.is_none()).finish()
    }
}

/// A timer that works in any executor.
struct Timer;

impl Timer {
    fn at(deadline: Instant) -> Result<impl Future<Output = ()> + Send, DiscoveryError> {
        // The caller's clock if there is one: a test may have paused it.
        let (handle, keep) = match Handle::try_current() {
            Ok(handle) => (handle, None),
            Err(_) => {
                let driver = Driver::get()?;
                (driver.handle().clone(), Some(driver))
            }
        };
        let _inside = handle.enter();
        let sleep = sleep_until(deadline);
        Ok(async move {
            sleep.await;
            drop(keep);
        })
    }
}
