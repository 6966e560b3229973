//! Racing connects across peers (B-6): whoever can be connected to first gets the call, which is sent once.
//!
//! Only a call that finds no idle connection to its peer comes here. Of several addresses of one peer the dialer makes
//! one race before.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use http::request::Parts;
use peerage_balance::{LeaveOut, Outcome, Stage};
use tokio::time::{Instant, timeout, timeout_at};
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
/// A connect that lost may still succeed, for the next call, or show that the peer cannot be reached.
const LOSER_TIME: Duration = Duration::from_secs(30);

const SLOWER: Line = Line {
    outcome: Outcome::Cancelled,
    stage: Stage::NotSent,
    status: None,
    failure: Some("took longer to connect to than another peer"),
};

type Connecting = Pin<Box<dyn Future<Output = Result<On, ExchangeError>> + Send>>;

/// Which of two connects ended, and how.
enum Ended {
    First(Result<On, ExchangeError>),
    Second(Result<On, ExchangeError>),
}

/// What a call goes out on.
pub(super) struct Connected {
    pub(super) on: On,
    /// It is the other peer's, whose lease is in the place of the first one now.
    pub(super) is_other: bool,
}

impl Connected {
    const fn first(on: On) -> Self {
        Self { on, is_other: false }
    }
}

impl Call<'_> {
    /// Connects to the peer of the lease, and if that takes long to another one as well.
    pub(super) async fn connect(
        &mut self,
        channel: &Channel,
        lease: &mut Lease,
        tried: &LeaveOut,
        head: &Parts,
        course: &mut Course,
    ) -> Result<Connected, ExchangeError> {
        let mut first = connecting(channel);
        let until = self.until(course.began).at;
        let next = course.began.at + STAGGER;
        let alone = until.map_or(next, |until| until.min(next));
        if let Ok(result) = timeout_at(alone, &mut first).await {
            return result.map(Connected::first);
        }
        let second = (alone == next).then(|| self.second_peer(lease, tried, head, course)).flatten();
        let Some((Picked { lease: mut other, why }, mut second)) = second else {
            return in_time(until, first).await.map(Connected::first);
        };
        debug!("the peer is slow to connect to, trying another one as well");
        let racing = async {
            tokio::select! {
                biased;
                result = &mut first => Ended::First(result),
                result = &mut second => Ended::Second(result),
            }
        };
        match within(until, racing).await.ok_or_else(too_late)? {
            Ended::First(result) => result.map(Connected::first),
            Ended::Second(Ok(on)) => {
                let members = &self.shared.members;
                self.write_down(lease.peer(), course, members.moment(), SLOWER);
                let slower = std::mem::replace(lease, other);
                self.shared.see_off(see_off(first, slower, Arc::clone(members)));
                course.pick = why;
                Ok(Connected { on, is_other: true })
            }
            Ended::Second(Err(error)) => {
                let now = self.shared.members.moment();
                self.note_failure(&mut other, &error, &Course { pick: why, ..course.clone() }, now);
                drop(other);
                in_time(until, first).await.map(Connected::first)
            }
        }
    }

    /// Another peer that the call may go to, and the way to a connection to it.
    fn second_peer(
        &self,
        first: &Lease,
        tried: &LeaveOut,
        head: &Parts,
        course: &Course,
    ) -> Option<(Picked, Connecting)> {
        let mut left_out = tried.clone();
        left_out.add(first.member().key());
        let picked = self.pick_another(&left_out, head, course.number, self.shared.members.now())?;
        // Nobody is connected to whom the call must not be sent to.
        let member = Arc::clone(picked.lease.member());
        let (channel, _) = self.dress(&member, &mut head.clone(), course).ok()?;
        let connecting = connecting(channel);
        Some((picked, connecting))
    }
}

/// Connects, unless a connection is idle.
fn connecting(channel: &Channel) -> Connecting {
    let channel = channel.clone();
    Box::pin(async move { channel.open().await })
}

async fn in_time(until: Option<Instant>, connecting: Connecting) -> Result<On, ExchangeError> {
    within(until, connecting).await.unwrap_or_else(|| Err(too_late()))
}

fn too_late() -> ExchangeError {
    ExchangeError::new(FailureKind::ConnectTimeout, Stage::NotSent, "the time of the attempt is over")
}

/// Waits for the connect that lost. Calls would never learn otherwise that a peer cannot be reached.
async fn see_off(connecting: Connecting, mut lease: Lease, members: Arc<Members>) {
    let Ok(result) = timeout(LOSER_TIME, connecting).await else { return };
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
