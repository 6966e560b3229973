//! Calls that wait while every peer has its limit of calls (B-7.1).

use std::{
    ops::{Deref, DerefMut},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use peerage_discovery::Peer;
use tokio::sync::{Mutex, MutexGuard, Notify, futures::Notified};

use super::node::Node;

/// More callers than that do not wait.
pub(crate) const MOST_WAITING: usize = 1_024;

/// Who waits for room on a peer, first come first served.
#[derive(Debug)]
pub(crate) struct Queue {
    /// How long a call may wait.
    pub(crate) wait: Duration,
    waiting: AtomicUsize,
    /// Had by the first of them, who alone looks for room. It is given on in the order it was asked for.
    first: Mutex<()>,
    /// A call is over. One is remembered until somebody waits, so that none is missed.
    over: Notify,
}

/// One caller that waits, until this is dropped.
#[derive(Debug)]
pub(crate) struct Waiting<'q>(&'q Queue);

/// A call counted on its peer. When it is over, whoever waits for room hears of it.
#[derive(Debug)]
pub(crate) struct Lease {
    call: peerage_balance::Lease<Peer, Arc<Node>>,
    // Dropped after the call, which then no longer counts.
    _room: Option<Room>,
}

/// Room for one call: tells when it is free.
#[derive(Debug)]
struct Room(Arc<Queue>);

impl Queue {
    pub(crate) fn new(wait: Duration) -> Self {
        Self { wait, waiting: AtomicUsize::new(0), first: Mutex::new(()), over: Notify::new() }
    }

    /// How many wait. If there are any, nobody shall overtake them.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// At the end of the queue, unless that is too long.
    pub(crate) fn join(&self) -> Option<Waiting<'_>> {
        // Counted before it is known whether there is room: the next one must not overtake.
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting(self);
        (before < MOST_WAITING).then_some(waiting)
    }
}

impl Waiting<'_> {
    /// Resolves when it is this one's turn, and keeps it that until the guard is dropped.
    pub(crate) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.0.first.lock().await
    }

    /// Resolves when a call is over; at once if one was since this was last waited for.
    pub(crate) fn over(&self) -> Notified<'_> {
        self.0.over.notified()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lease {
    pub(super) fn new(call: peerage_balance::Lease<Peer, Arc<Node>>, queue: Option<&Arc<Queue>>) -> Self {
        Self { call, _room: queue.map(|queue| Room(Arc::clone(queue))) }
    }
}

impl Deref for Lease {
    type Target = peerage_balance::Lease<Peer, Arc<Node>>;

    fn deref(&self) -> &Self::Target {
        &self.call
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.call
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.0.over.notify_one();
    }
}
