//! The one thread of this crate.
//!
//! Sources live in whatever thread their callers have, with a runtime or without one. What has to happen
//! later, or to wait for something, happens here: on a thread of our own, which is there while somebody
//! holds a [`Driver`] and costs nothing while nothing happens. It runs a runtime without sockets.

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::{
    runtime::{Builder, Handle},
    sync::{oneshot, watch},
    task::JoinHandle,
};

use crate::error::DiscoveryError;

/// Who is there shares one; the thread ends with the last.
static CURRENT: Mutex<Weak<Inner>> = Mutex::new(Weak::new());

/// A handle to the thread; while it is held, tasks run.
#[derive(Clone, Debug)]
pub(crate) struct Driver(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    handle: Handle,
    /// Closes when the thread is at its end.
    gone: watch::Receiver<()>,
    /// The thread ends when this is dropped.
    _running: oneshot::Sender<()>,
}

impl Driver {
    /// The thread, started if it is not there.
    ///
    /// # Errors
    ///
    /// [`DiscoveryError::System`] if the system gives us no thread.
    pub(crate) fn get() -> Result<Self, DiscoveryError> {
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(inner) = current.upgrade() {
            return Ok(Self(inner));
        }
        let inner = Arc::new(start().map_err(|error| DiscoveryError::System {
            what: "cannot start a thread",
            why: error.to_string(),
        })?);
        *current = Arc::downgrade(&inner);
        Ok(Self(inner))
    }

    /// The runtime of the thread: timers, blocking calls, no sockets.
    pub(crate) fn handle(&self) -> &Handle {
        &self.0.handle
    }

    /// Runs `task` on the thread. A task that must outlive its spawner holds a `Driver`.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.handle().spawn(task)
    }

    /// Lets go of the thread, and waits for its end if nobody else holds it.
    pub(crate) async fn release(self) {
        let mut gone = self.0.gone.clone();
        let inner = Arc::downgrade(&self.0);
        drop(self);
        if inner.strong_count() == 0 {
            // Never sent to: this is the end of the sender.
            let _closed = gone.changed().await;
        }
    }
}

fn start() -> std::io::Result<Inner> {
    let runtime = Builder::new_current_thread().enable_time().thread_name("peerage-disc-io").build()?;
    let handle = runtime.handle().clone();
    let (running, ended) = oneshot::channel::<()>();
    let (here, gone) = watch::channel(());
    std::thread::Builder::new().name("peerage-disc".to_owned()).spawn(move || {
        // An error is what it waits for: the sender was dropped.
        let _dropped = runtime.block_on(ended);
        // A file system that hangs keeps its thread, but not us.
        runtime.shutdown_background();
        drop(here);
    })?;
    Ok(Inner { handle, gone, _running: running })
}
