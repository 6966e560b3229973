//! A deadline that costs nothing to move.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// One deadline of a connection.
///
/// Moving the deadline later is a store. The runtime's timer stays where it was, fires early, and is then
/// set again; so a busy connection touches the timer wheel about once per timeout, not once per request,
/// and mostly not even the timer.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    deadline: Option<Instant>,
    /// When `deadline` was set, until it is first polled.
    set_at: Option<Instant>,
    armed: Option<Armed>,
}

/// A timer of the runtime, and whom it wakes when.
#[derive(Debug)]
struct Armed {
    sleep: Pin<Box<Sleep>>,
    /// Kept here as well, so that looking at it does not mean looking at the timer.
    at: Instant,
    waker: Waker,
}

impl Timer {
    /// Sets the deadline `limit` from now, or none.
    pub(crate) fn set(&mut self, limit: Option<Duration>) {
        self.deadline = None;
        if let Some(limit) = limit {
            let now = Instant::now();
            self.set_at(now, now.checked_add(limit));
        }
    }

    /// Sets the deadline, or none; `now` is what the clock says.
    pub(crate) fn set_at(&mut self, now: Instant, deadline: Option<Instant>) {
        self.deadline = deadline;
        self.set_at = Some(now);
    }

    /// Ready once the deadline has passed; never without one.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline else {
            return Poll::Pending;
        };
        let set_at = self.set_at.take();
        let armed = self.armed.get_or_insert_with(|| Armed {
            sleep: Box::pin(sleep_until(deadline)),
            at: deadline,
            waker: Waker::noop().clone(),
        });
        // It has not fired yet, will before the deadline, and wakes the right one.
        if set_at.is_some_and(|set_at| set_at < armed.at)
            && armed.at <= deadline
            && armed.waker.will_wake(cx.waker())
        {
            return Poll::Pending;
        }
        armed.waker.clone_from(cx.waker());
        if armed.at > deadline {
            armed.set(deadline);
        }
        loop {
            ready!(armed.sleep.as_mut().poll(cx));
            if armed.at >= deadline {
                return Poll::Ready(());
            }
            armed.set(deadline);
        }
    }
}

impl Armed {
    fn set(&mut self, at: Instant) {
        self.at = at;
        self.sleep.as_mut().reset(at);
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
    async fn a_deadline_wakes_the_task_that_polled_last() {
        let mut timer = Timer::default();
        let start = Instant::now();
        for round in 1..=3 {
            timer.set(Some(10 * SECOND));
            let mut moved = std::mem::take(&mut timer);
            timer = tokio::spawn(async move {
                poll_fn(|cx| moved.poll(cx)).await;
                moved
            })
            .await
            .unwrap();
            assert_eq!(start.elapsed(), round * 10 * SECOND);
            // Set, polled and given up by this task, before the next one takes over.
            timer.set(Some(5 * SECOND));
            assert!(poll_fn(|cx| Poll::Ready(timer.poll(cx))).await.is_pending());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_fired_between_two_requests_is_set_again() {
        let mut timer = Timer::default();
        timer.set(Some(SECOND));
        assert!(poll_fn(|cx| Poll::Ready(timer.poll(cx))).await.is_pending());
        tokio::time::sleep(5 * SECOND).await;
        let start = Instant::now();
        timer.set(Some(SECOND));
        poll_fn(|cx| timer.poll(cx)).await;
        assert_eq!(start.elapsed(), SECOND);
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
