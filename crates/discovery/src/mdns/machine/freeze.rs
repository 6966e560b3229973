//! Rule 14: after lost events, silence proves nothing.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// After one loss.
const AFTER_ONE: Duration = Duration::from_secs(8);
/// After three losses within this time: as long, counted from the third-last.
const AFTER_THREE: Duration = Duration::from_secs(60);

/// The last losses of the subscription.
#[derive(Debug, Default)]
pub(super) struct Freeze {
    /// At most three.
    losses: VecDeque<Instant>,
    /// Set while frozen.
    until: Option<Instant>,
}

impl Freeze {
    pub(super) fn note_loss(&mut self, now: Instant) {
        if self.losses.len() == 3 {
            self.losses.pop_front();
        }
        self.losses.push_back(now);
        let mut until = now + AFTER_ONE;
        if self.losses.len() == 3
            && let Some(third_last) = self.losses.front()
        {
            until = until.max(*third_last + AFTER_THREE);
        }
        self.until = Some(until);
    }

    pub(super) fn is_on(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// True once, when the freeze ends.
    pub(super) fn pass_time(&mut self, now: Instant) -> bool {
        if self.until.is_some_and(|until| until <= now) {
            self.until = None;
            return true;
        }
        false
    }
}
