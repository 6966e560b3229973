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
pub(crate) struct Permit(Arc<Running>);

impl Running {
    pub(crate) fn new(most: usize) -> Self {
        Self { count: AtomicUsize::new(0), most, is_closed: AtomicBool::new(false), none_left: Notify::new() }
    }

    pub(crate) fn begin(self: &Arc<Self>) -> Result<Permit, Refused> {
        // SeqCst here and in `close` and `finished`: a call that does not see the close is seen by it.
        let before = self.count.fetch_add(1, Ordering::SeqCst);
        let permit = Permit(Arc::clone(self));
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

impl Drop for Permit {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::SeqCst) == 1 && self.0.is_closed.load(Ordering::SeqCst) {
            self.0.none_left.notify_waiters();
        }
    }
}
