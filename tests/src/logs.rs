//! Everything a test logs, at TRACE.

use std::io;
use std::sync::{Arc, Mutex, Once, OnceLock, PoisonError, Weak};

use tracing::subscriber::DefaultGuard;
use tracing::{Dispatch, Level};
use tracing_subscriber::fmt::MakeWriter;

/// Takes all `tracing` output of this thread while it lives, and all `log` output of all threads, at TRACE
/// and of all crates.
///
/// For `tracing` on other threads, hand them [`dispatch`](Self::dispatch). `log` has no thread of its own, so
/// tests that run beside this one show up as well: search for what must not be there, do not count.
#[derive(Debug)]
pub struct LogCapture {
    lines: Lines,
    dispatch: Dispatch,
    _guard: DefaultGuard,
}

impl LogCapture {
    /// From now on.
    pub fn start() -> Self {
        // While there is one subscriber alone, tracing asks the thread that first comes by an event whether anybody
        // wants it, and believes the answer for all threads: a test beside this one, which captures nothing, would
        // switch the event off. With a second one it asks them all.
        static SECOND: OnceLock<Dispatch> = OnceLock::new();
        SECOND.get_or_init(|| Dispatch::new(tracing_subscriber::registry()));
        let lines = Lines::default();
        lines.take_log();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::TRACE)
            .with_ansi(false)
            .without_time()
            .with_writer(lines.clone())
            .finish();
        let dispatch = Dispatch::new(subscriber);
        let guard = tracing::dispatcher::set_default(&dispatch);
        Self { lines, dispatch, _guard: guard }
    }

    /// For other threads: `tracing::dispatcher::with_default(&capture.dispatch(), || …)`, or
    /// `WithSubscriber` on a future.
    pub fn dispatch(&self) -> Dispatch {
        self.dispatch.clone()
    }

    /// What was logged so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.lines.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// How many lines contain `what`.
    pub fn count(&self, what: &str) -> usize {
        self.text().lines().filter(|line| line.contains(what)).count()
    }
}

#[derive(Clone, Debug, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

/// Who takes what is logged through `log`.
static TAKERS: Mutex<Vec<Weak<Mutex<Vec<u8>>>>> = Mutex::new(Vec::new());

impl Lines {
    fn take_log(&self) {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            // Another logger is there already: then what it gets is not ours to take.
            if log::set_logger(&Bridge).is_ok() {
                log::set_max_level(log::LevelFilter::Trace);
            }
        });
        let mut takers = TAKERS.lock().unwrap_or_else(PoisonError::into_inner);
        takers.retain(|taker| taker.strong_count() > 0);
        takers.push(Arc::downgrade(&self.0));
    }
}

/// From `log` to everybody who captures.
struct Bridge;

impl log::Log for Bridge {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = format!("{:>5} log {}: {}\n", record.level(), record.target(), record.args());
        for taker in TAKERS.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade) {
            taker.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(line.as_bytes());
        }
    }

    fn flush(&self) {}
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_levels_are_captured_with_their_fields() {
        let capture = LogCapture::start();
        tracing::trace!(peerage.node_id = "n1", "peer heard");
        tracing::error!("done for");
        let text = capture.text();
        assert!(text.contains("TRACE") && text.contains("peer heard") && text.contains("n1"), "{text}");
        assert_eq!(capture.count("done for"), 1);
    }

    #[test]
    fn what_other_threads_log_through_log_is_captured() {
        let capture = LogCapture::start();
        std::thread::spawn(|| log::debug!(target: "daemon", "a packet of {} bytes", 512)).join().unwrap();
        assert!(capture.text().contains("DEBUG log daemon: a packet of 512 bytes"), "{}", capture.text());
    }

    #[test]
    fn an_event_that_another_thread_came_by_first_is_taken() {
        let event = || tracing::info!("seen first elsewhere");
        let logs = LogCapture::start();
        std::thread::scope(|scope| scope.spawn(event).join().unwrap());
        event();
        assert_eq!(logs.count("seen first elsewhere"), 1, "what this thread says");
    }
}
