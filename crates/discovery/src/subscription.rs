//! One reader of changes, and its bounded queue.

use std::{
    collections::VecDeque,
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use futures_core::Stream;

use crate::{change::Change, snapshot::Snapshot};

/// The most items that wait for one reader.
pub const QUEUE: usize = 256;

/// The changes of a peer set, in order; also a [`Stream`] of them.
///
/// The first item is always [`Change::Resync`], taken at the very moment of the subscription. At most
/// 256 items wait: when there are more, they are dropped for one [`Change::Lagged`] and a fresh
/// `Resync`. A reader that is slow, or never reads at all, delays nobody.
pub struct Subscription {
    queue: Arc<Queue>,
    /// The first item, while it was not read.
    first: Option<Snapshot>,
    /// The version that `changed` told last.
    seen: u64,
}

impl Subscription {
    /// Also returns the end into which the publisher writes.
    pub(crate) fn new(current: Snapshot, closed: bool) -> (Self, Arc<Queue>) {
        let state =
            State { items: VecDeque::new(), lagged: None, latest: current.clone(), closed, waker: None };
        let queue = Arc::new(Queue(Mutex::new(state)));
        let seen = current.version();
        (Self { queue: queue.clone(), first: Some(current), seen }, queue)
    }

    /// The latest snapshot, whatever was read of the changes.
    pub fn borrow(&self) -> Snapshot {
        self.queue.lock().latest.clone()
    }

    /// Waits for a version that was not told yet and returns it; those between may be skipped. What is
    /// there at the time of the subscription counts as told. `None` after the last version of a
    /// discovery that was stopped.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn changed(&mut self) -> Option<Snapshot> {
        poll_fn(|cx| {
            let mut state = self.queue.lock();
            if state.latest.version() != self.seen {
                self.seen = state.latest.version();
                return Poll::Ready(Some(state.latest.clone()));
            }
            state.wait(cx)
        })
        .await
    }

    /// The next change and the version it belongs to. `None` after the last change of a discovery that
    /// was stopped.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<(u64, Change)> {
        poll_fn(|cx| self.poll_item(cx)).await
    }

    fn poll_item(&mut self, cx: &Context<'_>) -> Poll<Option<(u64, Change)>> {
        if let Some(snapshot) = self.first.take() {
            return Poll::Ready(Some((snapshot.version(), Change::Resync(snapshot))));
        }
        let mut state = self.queue.lock();
        if let Some(lost) = state.lagged.take() {
            let current = state.latest.clone();
            let version = current.version();
            state.items.push_front((version, Change::Resync(current)));
            return Poll::Ready(Some((version, Change::Lagged(lost))));
        }
        match state.items.pop_front() {
            Some(item) => Poll::Ready(Some(item)),
            None => state.wait(cx),
        }
    }
}

impl Stream for Subscription {
    type Item = (u64, Change);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_item(cx)
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.queue.lock();
        f.debug_struct("Subscription")
            .field("waiting", &state.items.len())
            .field("lagged", &state.lagged)
            .field("version", &state.latest.version())
            .field("closed", &state.closed)
            .finish_non_exhaustive()
    }
}

pub(crate) struct Queue(Mutex<State>);

struct State {
    /// Invariant: at most [`QUEUE`] changes (a `Resync` is not counted), and none while `lagged`.
    items: VecDeque<(u64, Change)>,
    /// So many changes were dropped and nothing was read since.
    lagged: Option<u64>,
    /// The version up to which changes came. It is not read from the publisher: that may be ahead.
    latest: Snapshot,
    closed: bool,
    /// One is enough: both ways of reading need the subscription exclusively.
    waker: Option<Waker>,
}

impl State {
    fn wait<T>(&mut self, cx: &Context<'_>) -> Poll<Option<T>> {
        if self.closed {
            return Poll::Ready(None);
        }
        match &mut self.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Queue {
    /// Takes a version in. Returns how many items were lost by it, and whom to wake.
    pub(crate) fn push(&self, snapshot: &Snapshot, changes: &[Change]) -> (u64, Option<Waker>) {
        let mut state = self.lock();
        state.latest = snapshot.clone();
        let waiting = state.items.iter().filter(|(_, change)| !matches!(change, Change::Resync(_))).count();
        let mut lost = 0;
        if state.lagged.is_some() || waiting + changes.len() > QUEUE {
            lost = (waiting + changes.len()) as u64;
            state.items.clear();
            *state.lagged.get_or_insert(0) += lost;
        } else {
            state.items.extend(changes.iter().map(|change| (snapshot.version(), change.clone())));
        }
        (lost, state.waker.take())
    }

    /// No version will follow.
    pub(crate) fn close(&self) -> Option<Waker> {
        let mut state = self.lock();
        state.closed = true;
        state.waker.take()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held, and every field is whole at any moment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
