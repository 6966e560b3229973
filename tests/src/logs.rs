//! Everything a test logs, at TRACE.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::subscriber::DefaultGuard;
use tracing::{Dispatch, Level};
use tracing_subscriber::fmt::MakeWriter;

/// Takes all `tracing` output of this thread while it lives, at TRACE, of all crates.
///
/// For work on other threads, hand them [`dispatch`](Self::dispatch).
#[derive(Debug)]
pub struct LogCapture {
    lines: Lines,
    dispatch: Dispatch,
    _guard: DefaultGuard,
}

impl LogCapture {
    /// From now on.
    pub fn start() -> Self {
        let lines = Lines::default();
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
}
