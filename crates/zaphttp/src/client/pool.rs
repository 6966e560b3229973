//! Idle connections, last in first out.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::conn::Conn;

/// The idle connections of one client. The lock is held for a push or a pop, never while waiting.
#[derive(Debug)]
pub(super) struct Pool {
    state: Mutex<State>,
    max_idle: usize,
}

#[derive(Debug, Default)]
struct State {
    /// The last is the one that was used last: the fewest connections stay in use, the others grow old.
    #[expect(clippy::vec_box, reason = "the lock is held for the move of a pointer, not of a connection")]
    idle: Vec<Box<Conn>>,
    closed: bool,
}

/// The client was closed.
#[derive(Debug)]
pub(super) struct PoolClosed;

impl Pool {
    pub(super) fn new(max_idle: usize) -> Self {
        Self { state: Mutex::default(), max_idle }
    }

    pub(super) fn take(&self) -> Result<Option<Box<Conn>>, PoolClosed> {
        let mut state = self.lock();
        if state.closed { Err(PoolClosed) } else { Ok(state.idle.pop()) }
    }

    /// Keeps a connection for the next request, or closes it where there are enough.
    pub(super) fn put(&self, conn: Box<Conn>) {
        let mut state = self.lock();
        if !state.closed && state.idle.len() < self.max_idle {
            state.idle.push(conn);
            return;
        }
        drop(state);
        drop(conn);
    }

    pub(super) fn idle_count(&self) -> usize {
        self.lock().idle.len()
    }

    /// Closes the idle connections, and from now on every other one as it comes back.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let idle = std::mem::take(&mut state.idle);
        drop(state);
        drop(idle);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
