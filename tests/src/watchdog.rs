//! A hang ends the process, and says which test it was.

use std::fmt;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Aborts the process if a test takes longer than its limit of real time. Dropping it calls it off.
///
/// A thread of its own waits, so a blocked runtime or a dead lock is no way around it.
#[must_use = "dropping it calls it off"]
pub struct Watchdog {
    notes: Arc<Mutex<Vec<String>>>,
    /// Closed by dropping.
    _off: Sender<()>,
}

impl Watchdog {
    /// For a unit test: 10 s.
    pub fn unit(test: &str) -> Self {
        Self::new(test, Duration::from_secs(10))
    }

    /// For an integration test: 60 s.
    pub fn integration(test: &str) -> Self {
        Self::new(test, Duration::from_secs(60))
    }

    /// With a limit of its own.
    ///
    /// # Panics
    ///
    /// If the system gives no thread.
    pub fn new(test: &str, limit: Duration) -> Self {
        let (off, alarm) = channel();
        let notes = Arc::new(Mutex::new(vec![format!("test: {test}"), format!("limit: {limit:?}")]));
        let known = notes.clone();
        thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(move || {
                if alarm.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                    bark(&known.lock().unwrap_or_else(PoisonError::into_inner));
                }
            })
            .expect("the system gives a thread");
        Self { notes, _off: off }
    }

    /// Something to print if it comes to that: a seed, a fault plan, what is being waited for.
    pub fn note(&self, note: impl fmt::Display) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).push(note.to_string());
    }
}

impl fmt::Debug for Watchdog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watchdog").finish_non_exhaustive()
    }
}

fn bark(notes: &[String]) -> ! {
    eprintln!("\nWATCHDOG: a test hangs; the process is aborted");
    for note in notes {
        eprintln!("  {note}");
    }
    for (what, directory) in [("open descriptors", "/proc/self/fd"), ("threads", "/proc/self/task")] {
        if let Ok(entries) = std::fs::read_dir(directory) {
            eprintln!("  {what}: {}", entries.count());
        }
    }
    std::process::abort();
}
