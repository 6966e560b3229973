//! The calls that run: how many may, and when none does any more.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::sync::Notify;

/// Counts the calls of a client.
#[derive(Debug)]
pub(crate) struct Running {
    count: AtomicUsize,
    most: usize,
    is_closed: AtomicBool,
    none_left: Notify,
}

/// Why a call may not begin.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Refused {
    Closed,
    TooMany(usize),
}

/// A call that runs, until this is dropped.
#[derive(Debug)]
pub(crate) struct Permit<'c>(Of<'c>);

/// Whom to tell. A call that ends with its answer need not count itself among the owners, all of which
/// would write to one place.
#[derive(Debug)]
enum Of<'c> {
    Lent(&'c Arc<Running>),
    Kept(Arc<Running>),
}

impl Running {
    pub(crate) fn new(most: usize) -> Self {
        Self { count: AtomicUsize::new(0), most, is_closed: AtomicBool::new(false), none_left: Notify::new() }
    }

    pub(crate) fn begin(self: &Arc<Self>) -> Result<Permit<'_>, Refused> {
        // SeqCst here and in `close` and `finished`: a call that does not see the close is seen by it.
        let before = self.count.fetch_add(1, Ordering::SeqCst);
        let permit = Permit(Of::Lent(self));
        if self.is_closed.load(Ordering::SeqCst) {
            return Err(Refused::Closed);
        }
        if before >= self.most {
            return Err(Refused::TooMany(self.most));
        }
        Ok(permit)
    }

    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
    }

    /// Waits until no call runs. Only after [`close`](Self::close) does that last.
    pub(crate) async fn finished(&self) {
        loop {
            let mut none_left = std::pin::pin!(self.none_left.notified());
            none_left.as_mut().enable();
            if self.count.load(Ordering::SeqCst) == 0 {
                return;
            }
            none_left.await;
        }
    }
}

impl Permit<'_> {
    /// The same for an answer whose body outlives the call.
    pub(crate) fn keep(self) -> Permit<'static> {
        let running = Arc::clone(self.running());
        // Counted twice for a moment, so that it never looks as if it were over.
        running.count.fetch_add(1, Ordering::SeqCst);
        Permit(Of::Kept(running))
    }

    const fn running(&self) -> &Arc<Running> {
        match &self.0 {
            Of::Lent(running) => running,
            Of::Kept(running) => running,
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let running = self.running();
        if running.count.fetch_sub(1, Ordering::SeqCst) == 1 && running.is_closed.load(Ordering::SeqCst) {
            running.none_left.notify_waiters();
        }
    }
}
