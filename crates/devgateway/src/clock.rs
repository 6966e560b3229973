//! The gateway's time: real, or moved by hand.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// Tells the time since the Unix epoch.
#[derive(Debug)]
pub(crate) struct Clock {
    /// What it said when it was made.
    epoch: Duration,
    made: Instant,
    /// What was added by hand; none: it runs by itself.
    manual: Option<Mutex<Duration>>,
}

impl Clock {
    /// Runs with the runtime's clock, so that a paused runtime pauses it.
    pub(crate) fn real() -> Self {
        let epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { epoch, made: Instant::now(), manual: None }
    }

    /// Stands still between two calls of [`Self::advance`].
    pub(crate) fn manual() -> Self {
        Self { manual: Some(Mutex::default()), ..Self::real() }
    }

    pub(crate) fn is_manual(&self) -> bool {
        self.manual.is_some()
    }

    pub(crate) fn now(&self) -> Duration {
        match &self.manual {
            None => self.epoch + self.made.elapsed(),
            Some(added) => self.epoch + *added.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Moves a manual clock; a real one takes no notice.
    pub(crate) fn advance(&self, by: Duration) {
        if let Some(added) = &self.manual {
            *added.lock().unwrap_or_else(PoisonError::into_inner) += by;
        }
    }
}
