//! How a server is told to stop, and how it tells that it has.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

/// Shared by a handle, its accept loop and its connections.
#[derive(Debug, Default)]
pub(super) struct Control {
    /// What is asked of the connections: goes up only.
    order: AtomicU8,
    /// After each change of `order`. Everybody waits for it.
    ordered: Arc<Notify>,
    connections: AtomicUsize,
    /// After each end of a connection. Only an accept loop or a shutdown waits for it.
    ended: Notify,
}

const SERVE: u8 = 0;
/// No new connections, no new requests.
const DRAIN: u8 = 1;
/// No mercy.
const CUT: u8 = 2;

impl Control {
    pub(super) fn drain(&self) {
        self.set(DRAIN);
    }

    pub(super) fn cut(&self) {
        self.set(CUT);
    }

    fn set(&self, order: u8) {
        self.order.fetch_max(order, Ordering::SeqCst);
        self.ordered.notify_waiters();
    }

    pub(super) fn is_draining(&self) -> bool {
        self.order.load(Ordering::SeqCst) >= DRAIN
    }

    /// Waits for the order to drain, or a stronger one.
    pub(super) async fn drained(&self) {
        wait(&self.ordered, || self.is_draining()).await;
    }

    pub(super) fn connection_count(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Waits until there are fewer connections than this.
    pub(super) async fn fewer_than(&self, count: usize) {
        wait(&self.ended, || self.connection_count() < count).await;
    }
}

/// Waits until `reached` holds; asks after each notification.
async fn wait(notify: &Notify, reached: impl Fn() -> bool) {
    loop {
        let mut notified = pin!(notify.notified());
        // Listening before asking: no notification is lost between the two.
        notified.as_mut().enable();
        if reached() {
            return;
        }
        notified.await;
    }
}

/// Counts a connection while it is open.
#[derive(Debug)]
pub(super) struct Counted(Arc<Control>);

impl Counted {
    pub(super) fn new(control: Arc<Control>) -> Self {
        control.connections.fetch_add(1, Ordering::SeqCst);
        Self(control)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::SeqCst);
        self.0.ended.notify_waiters();
    }
}

pin_project_lite::pin_project! {
    /// The future of a connection, which ends when it is cut off.
    ///
    /// It leaves its waker with `ordered` once for each order and otherwise looks at a number: listening
    /// anew for every request would take a lock that all connections share.
    pub(super) struct Supervised<F> {
        #[pin]
        connection: F,
        #[pin]
        ordered: OwnedNotified,
        listening: bool,
        seen: u8,
        control: Arc<Control>,
    }
}

impl<F> Supervised<F> {
    pub(super) fn new(connection: F, control: Arc<Control>) -> Self {
        let ordered = control.ordered.clone().notified_owned();
        Self { connection, ordered, listening: false, seen: SERVE, control }
    }
}

impl<F: Future<Output = ()>> Future for Supervised<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        loop {
            let order = this.control.order.load(Ordering::SeqCst);
            if order == CUT {
                return Poll::Ready(());
            }
            if *this.listening && order == *this.seen {
                break;
            }
            // A task's waker stays the same, so once is enough; then look again.
            this.ordered.set(this.control.ordered.clone().notified_owned());
            *this.listening = this.ordered.as_mut().poll(cx).is_pending();
            *this.seen = order;
        }
        this.connection.poll(cx)
    }
}
