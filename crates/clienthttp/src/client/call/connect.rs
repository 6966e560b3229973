//! Racing connects across peers (B-6): whoever can be connected to first gets the call, which is sent once.
//!
//! Only a call that finds no idle connection to its peer comes here. Of several addresses of one peer the dialer makes
//! one race before.

use std::{
    future::{Future, poll_fn},
    mem,
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use http::request::Parts;
use peerage_balance::{LeaveOut, Outcome, Stage};
use tokio::time::timeout;
use tracing::debug;

use super::{
    Call,
    attempt::Course,
    notes::Line,
    pick::{Picked, within},
};
use crate::{
    Channel,
    client::{Lease, members::Members},
    dial::{ExchangeError, FailureKind, On},
};

/// So long a peer is waited for alone.
///
/// # Deviation
///
/// The rule follows the times that connects take, between 100 ms and this, which is what it says while they are unknown.
const STAGGER: Duration = Duration::from_millis(250);
/// So many are connected to for one attempt at most.
const MOST: usize = 5;
/// A connect that lost may still succeed, for the next call, or show that the peer cannot be reached.
const LOSER_TIME: Duration = Duration::from_secs(30);

const SLOWER: Line = Line {
    outcome: Outcome::Cancelled,
    stage: Stage::NotSent,
    status: None,
    failure: Some("took longer to connect to than another peer"),
};

type Connecting = Pin<Box<dyn Future<Output = Result<On, ExchangeError>> + Send>>;

/// What a call goes out on.
pub(super) struct Connected {
    pub(super) on: On,
    /// It is another peer's, whose lease is in the place of the first one now.
    pub(super) is_other: bool,
}

/// Who is connected to beside the first one.
struct Other {
    lease: Lease,
    course: Course,
}

impl Call<'_> {
    /// Connects to the peer of the lease, and to one more for each while that this takes. Who fails leaves the race,
    /// and the next one joins at once. What is known of the attempt is that of the peer it ends with, from when that was
    /// picked: it has no part in the time that others took.
    pub(super) async fn connect(
        &mut self,
        channel: &Channel,
        lease: &mut Lease,
        tried: &mut LeaveOut,
        head: &Parts,
        course: &mut Course,
    ) -> Result<Connected, ExchangeError> {
        let members = &self.shared.members;
        // Side by side: the first of them is that of the lease.
        let mut running = vec![connecting(channel)];
        let mut others: Vec<Other> = Vec::new();
        let (mut is_other, mut count) = (false, 1);
        let mut next = course.began.at.checked_add(STAGGER);
        loop {
            let until = self.until(course.began).at;
            let wait = [next, until].into_iter().flatten().min();
            let Some((index, result)) = within(wait, first_of(&mut running)).await else {
                if wait == until {
                    return Err(too_late());
                }
                next = None;
                if let Some((other, connecting)) = self.another(lease, &others, tried, head, course) {
                    debug!("the peer is slow to connect to, trying another one as well");
                    others.push(other);
                    running.push(connecting);
                    count += 1;
                    next = (count < MOST).then(|| members.moment().at + STAGGER);
                }
                continue;
            };
            let now = members.moment();
            drop(running.remove(index));
            match (result, index.checked_sub(1)) {
                (Ok(on), None) => return Ok(Connected { on, is_other }),
                (Ok(on), Some(at)) => {
                    let first = others.remove(at).take_place(lease, course);
                    for (slower, connecting) in std::iter::once(first).chain(others).zip(running) {
                        self.write_down(slower.lease.peer(), &slower.course, now, SLOWER);
                        tried.add(slower.lease.member().key());
                        self.shared.see_off(see_off(connecting, slower.lease, Arc::clone(members)));
                    }
                    return Ok(Connected { on, is_other: true });
                }
                (Err(error), None) if others.is_empty() => return Err(error),
                (Err(error), at) => {
                    let mut failed = others.remove(at.unwrap_or(0));
                    if at.is_none() {
                        failed = failed.take_place(lease, course);
                        is_other = true;
                    }
                    self.note_failure(&mut failed.lease, &error, &failed.course, now);
                    tried.add(failed.lease.member().key());
                    next = (count < MOST).then_some(now.at);
                }
            }
        }
    }

    /// Another peer that the call may go to, and the way to a connection to it.
    fn another(
        &self,
        first: &Lease,
        others: &[Other],
        tried: &LeaveOut,
        head: &Parts,
        course: &Course,
    ) -> Option<(Other, Connecting)> {
        let mut left_out = tried.clone();
        for lease in std::iter::once(first).chain(others.iter().map(|other| &other.lease)) {
            left_out.add(lease.member().key());
        }
        let began = self.shared.members.moment();
        let Picked { lease, why } = self.pick_another(&left_out, head, course.number, began.nanos)?;
        let course = Course { began, pick: why, ..course.clone() };
        // Nobody is connected to whom the call must not be sent to.
        let member = Arc::clone(lease.member());
        let (channel, _) = self.dress(&member, &mut head.clone(), &course).ok()?;
        let connecting = connecting(channel);
        Some((Other { lease, course }, connecting))
    }
}

impl Other {
    /// Changes places with the first one.
    fn take_place(self, lease: &mut Lease, course: &mut Course) -> Self {
        Self { lease: mem::replace(lease, self.lease), course: mem::replace(course, self.course) }
    }
}

/// Which of them ends first, and how.
async fn first_of(running: &mut [Connecting]) -> (usize, Result<On, ExchangeError>) {
    poll_fn(|cx| {
        for (index, connecting) in running.iter_mut().enumerate() {
            if let Poll::Ready(result) = connecting.as_mut().poll(cx) {
                return Poll::Ready((index, result));
            }
        }
        Poll::Pending
    })
    .await
}

/// Connects, unless a connection is idle.
fn connecting(channel: &Channel) -> Connecting {
    let channel = channel.clone();
    Box::pin(async move { channel.open().await })
}

fn too_late() -> ExchangeError {
    ExchangeError::new(FailureKind::ConnectTimeout, Stage::NotSent, "the time of the attempt is over")
}

/// Waits for the connect that lost. Calls would never learn otherwise that a peer cannot be reached.
async fn see_off(connecting: Connecting, mut lease: Lease, members: Arc<Members>) {
    let result = timeout(LOSER_TIME, connecting).await.unwrap_or_else(|_| Err(too_late()));
    let now = members.now();
    match result {
        Ok(on) => {
            on.keep();
            if !lease.is_probe() {
                return;
            }
            // For a peer that is being probed that is the answer.
            members.balancer().head(&mut lease, Outcome::Success, now);
        }
        Err(error) => {
            members.balancer().head(&mut lease, error.outcome().unwrap_or(Outcome::Cancelled), now);
            members.failed(lease.member(), error.kind, now);
        }
    }
    members.tell();
}
