//! A deadline that costs nothing to move.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// One deadline of a connection.
///
/// Moving the deadline later is a store. The runtime's timer stays where it was, fires early, and is then
/// set again; so a busy connection touches the timer wheel about once per timeout, not once per request.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    deadline: Option<Instant>,
}

impl Timer {
    /// Sets the deadline `limit` from now, or none.
    pub(crate) fn set(&mut self, limit: Option<Duration>) {
        self.deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
    }

    /// Ready once the deadline has passed; never without one.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline else {
            return Poll::Pending;
        };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moves_fires_when_it_is_due() {
        let mut timer = Timer::default();
        let start = Instant::now();
        timer.set(Some(10 * SECOND));
        let woken = tokio::time::timeout(4 * SECOND, poll_fn(|cx| timer.poll(cx))).await;
        assert!(woken.is_err(), "4 s are not 10 s");
        // Later: the timer below stays at 10 s and is set again when it fires.
        timer.set(Some(20 * SECOND));
        poll_fn(|cx| timer.poll(cx)).await;
        assert_eq!(start.elapsed(), 24 * SECOND);
        // Earlier than the one before it.
        timer.set(Some(30 * SECOND));
        let _ = tokio::time::timeout(SECOND, poll_fn(|cx| timer.poll(cx))).await;
        timer.set(Some(2 * SECOND));
        poll_fn(|cx| timer.poll(cx)).await;
        assert_eq!(start.elapsed(), 27 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn no_deadline_never_fires() {
        let mut timer = Timer::default();
        timer.set(Some(SECOND));
        poll_fn(|cx| timer.poll(cx)).await;
        timer.set(None);
        let woken = tokio::time::timeout(3600 * SECOND, poll_fn(|cx| timer.poll(cx))).await;
        assert!(woken.is_err());
    }
}
