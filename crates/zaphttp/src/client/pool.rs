//! Idle connections, last in first out.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Wake, Waker};

use super::conn::Conn;

/// The idle connections of one client. The lock is held for a push or a pop, never while waiting.
#[derive(Debug)]
pub(super) struct Pool {
    state: Mutex<State>,
    /// What the list said when it last changed, for who only wants to know.
    has_idle: AtomicBool,
    max_idle: usize,
    next_id: AtomicU64,
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
        Self {
            state: Mutex::default(),
            has_idle: AtomicBool::new(false),
            max_idle,
            next_id: AtomicU64::new(0),
        }
    }

    pub(super) fn take(&self) -> Result<Option<Box<Conn>>, PoolClosed> {
        let mut state = self.lock();
        if state.closed {
            return Err(PoolClosed);
        }
        let conn = state.idle.pop();
        self.changed(&state);
        Ok(conn)
    }

    /// Keeps a connection for the next request, or closes it where there are enough.
    pub(super) fn put(&self, mut conn: Box<Conn>) {
        // Before the lock: whoever is woken by it wants the lock.
        if !conn.watch() {
            return;
        }
        let mut state = self.lock();
        if !state.closed && state.idle.len() < self.max_idle {
            state.idle.push(conn);
            self.changed(&state);
            return;
        }
        drop(state);
        drop(conn);
    }

    pub(super) fn idle_count(&self) -> usize {
        self.lock().idle.len()
    }

    pub(super) fn has_idle(&self) -> bool {
        self.has_idle.load(Ordering::Relaxed)
    }

    /// The list is another one. Only under the lock.
    fn changed(&self, state: &State) {
        let has_idle = !state.idle.is_empty();
        // Looked at first: mostly it stays as it is, and a load leaves the line shared.
        if self.has_idle.load(Ordering::Relaxed) != has_idle {
            self.has_idle.store(has_idle, Ordering::Relaxed);
        }
    }

    /// Closes the idle connections, and from now on every other one as it comes back.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let idle = std::mem::take(&mut state.idle);
        self.changed(&state);
        drop(state);
        drop(idle);
    }

    /// Watches over a new connection whenever it is idle here.
    pub(super) fn watchdog(self: &Arc<Self>) -> Watchdog {
        // Relaxed: the numbers only have to differ.
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        Watchdog { id, waker: Waker::from(Arc::new(Alarm { id, pool: Arc::downgrade(self) })) }
    }

    /// Closes an idle connection on which something happened (S-042). One that is in use is none of our
    /// business any more.
    fn discard(&self, id: u64) {
        let mut state = self.lock();
        let Some(at) = state.idle.iter().position(|conn| conn.watchdog.id == id) else {
            return;
        };
        // The runtime may also have cried wolf, when a task had used up its turn.
        let stale = state.idle.get_mut(at).is_some_and(|conn| !conn.is_quiet());
        let stale = stale.then(|| state.idle.remove(at));
        self.changed(&state);
        drop(state);
        drop(stale);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the runtime is to wake when an idle connection becomes readable: not a task, there is none.
#[derive(Debug)]
pub(super) struct Watchdog {
    id: u64,
    pub(super) waker: Waker,
}

#[derive(Debug)]
struct Alarm {
    id: u64,
    pool: Weak<Pool>,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(pool) = self.pool.upgrade() {
            pool.discard(self.id);
        }
    }
}
