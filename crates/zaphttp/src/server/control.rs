//! How a server is told to stop, and how it tells that it has.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Shared by a handle, its accept loop and its connections.
#[derive(Debug, Default)]
pub(super) struct Control {
    draining: AtomicBool,
    cut: AtomicBool,
    changed: Notify,
    connections: AtomicUsize,
}

impl Control {
    /// No new connections, no new requests.
    pub(super) fn drain(&self) {
        // Release, as in `cut`: who sees the flag after a wake-up need not see anything else of ours.
        self.draining.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// No mercy.
    pub(super) fn cut(&self) {
        self.cut.store(true, Ordering::Release);
        self.drain();
    }

    pub(super) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }

    pub(super) fn connections(&self) -> &AtomicUsize {
        &self.connections
    }

    /// Waits until `reached` holds; it is asked again after each change.
    pub(super) async fn until(&self, reached: fn(&Self) -> bool) {
        let mut changed = pin!(self.changed.notified());
        loop {
            changed.as_mut().enable();
            if reached(self) {
                return;
            }
            changed.as_mut().await;
            changed.set(self.changed.notified());
        }
    }

    /// For tasks that look at the flags themselves whenever they run: wakes them on the next change.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }
}

/// Leaves the waker of this task with `changed`. A task's waker stays the same, so once is enough; polling
/// it for every request would take a lock that all connections share.
pub(super) fn watch(changed: Pin<&mut Notified<'_>>, cx: &mut Context<'_>) -> Poll<()> {
    let _: Poll<()> = changed.poll(cx);
    Poll::Ready(())
}
