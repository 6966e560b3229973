//! A reading of the clock, for both who count in nanoseconds and who set timers.

use std::time::Duration;

use tokio::time::Instant;

/// A point in time, converted to the balancer's time once: a call asks for it a dozen times.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) at: Instant,
    /// Since the client was made.
    pub(crate) nanos: u64,
}

impl Moment {
    pub(super) fn new(at: Instant, epoch: Instant) -> Self {
        let nanos = at.saturating_duration_since(epoch).as_nanos();
        Self { at, nanos: u64::try_from(nanos).unwrap_or(u64::MAX) }
    }

    /// How long after `earlier` it is; nothing if it is before that.
    pub(crate) const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.nanos.saturating_sub(earlier.nanos))
    }

    /// So much later, if there is such a time.
    pub(crate) fn after(self, wait: Duration) -> Option<Self> {
        let nanos = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        Some(Self { at: self.at.checked_add(wait)?, nanos: self.nanos.saturating_add(nanos) })
    }
}
