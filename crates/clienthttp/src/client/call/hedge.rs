//! A second copy of a call whose answer is late (B-6).

use std::{future::poll_fn, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Response, request::Parts};
use http_body::Body as _;
use peerage_balance::{Hedging, LeaveOut, Outcome, RetryState, Stage};
use peerage_discovery::Peer;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{Instrument, debug};

use super::{
    Call,
    attempt::{Course, Ended, watched},
    grpc::End,
    notes::Line,
    pick::Picked,
};
use crate::{
    Body, ClientError,
    client::{Lease, members::Members, metrics::Hedge, moment::Moment},
    dial::{ExchangeError, On},
    error::Phase,
    replay::Replay,
};

/// The copy that lost gets so long, and so many bytes, to end by itself, so that its connection can be kept.
const LOSER_TIME: Duration = Duration::from_millis(50);
const LOSER_BYTES: usize = 64 * 1024;

/// A copy on its way, by itself: whoever loses is seen off without the call.
type Flying = Pin<Box<dyn Future<Output = Landed> + Send>>;

/// A copy, and what is known of it while it flies.
struct Copy {
    peer: Peer,
    course: Course,
    flying: Flying,
}

/// A copy that has come to its end.
struct Landed {
    lease: Lease,
    course: Course,
    result: Result<Response<Body>, ExchangeError>,
}

impl Landed {
    fn is_good(&self) -> bool {
        self.result.as_ref().is_ok_and(|response| {
            let of_status = Outcome::of_status(response.status().as_u16(), false);
            let outcome = End::of(response.headers()).map_or(of_status, End::outcome);
            of_status == Outcome::Success && outcome == Outcome::Success
        })
    }
}

/// The line about the copy that lost.
const LOST: Line = Line {
    outcome: Outcome::Cancelled,
    stage: Stage::Ambiguous,
    status: None,
    failure: Some("was given up, as another peer answered first"),
};

/// What came of the first copy, and of a second one if there was one.
pub(super) enum Raced {
    /// There was none: what follows is as for any attempt.
    Alone(Lease, Course, Ended),
    /// Both were sent: nothing follows.
    Over(Result<Response<Body>, ClientError>),
}

/// A lease while its copy flies. Given up when dropped.
struct Flight {
    members: Arc<Members>,
    held: Option<(Lease, Course)>,
}

impl Flight {
    fn sent(&mut self, now: Instant) {
        if let Some((lease, course)) = &mut self.held {
            let now = self.members.moment_of(now);
            course.sent = Some(now);
            lease.sent(now.nanos);
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if let Some((lease, _)) = &mut self.held
            && lease.is_waiting()
        {
            self.members.balancer().head(lease, Outcome::Cancelled, self.members.now());
        }
    }
}

impl Call<'_> {
    /// Sends it to the peer of the lease, and after `delay` to another one as well, if it may.
    pub(super) async fn hedged(
        &mut self,
        (lease, course): (Lease, Course),
        head: &Parts,
        body: &Replay,
        (hedging, delay): (&Hedging, Duration),
        retry: &mut RetryState,
    ) -> Raced {
        let (mut left_out, began) = (LeaveOut::default(), course.began);
        left_out.add(lease.member().key());
        let mut first = match self.fly(lease, course, head, body) {
            Ok(flying) => flying,
            Err(grounded) => {
                let (lease, course, ended) = *grounded;
                return Raced::Alone(lease, course, ended);
            }
        };
        tokio::select! {
            biased;
            landed = &mut first.flying => return self.alone(landed),
            () = sleep_until(began.at + delay) => {}
        }
        let Some(mut second) = self.second(&left_out, head, body, hedging, retry) else {
            return self.alone(first.flying.await);
        };
        debug!(?delay, "the answer is late, sending a copy");
        let (landed, other) = tokio::select! {
            biased;
            landed = &mut first.flying => (landed, second),
            landed = &mut second.flying => (landed, first),
        };
        let now = self.shared.members.moment();
        let meters = &self.shared.members.meters;
        let won = |landed: &Landed| if landed.course.is_hedge { Hedge::Won } else { Hedge::Lost };
        if landed.is_good() {
            meters.hedged(won(&landed));
            let waited = now.since(other.course.began);
            let waited = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX);
            hedging.record(Outcome::Cancelled, waited, now.nanos);
            self.write_down(&other.peer, &other.course, now, LOST);
            self.shared.see_off(see_off(other.flying, Arc::clone(&self.shared.members)));
            let noted = self.note(landed, now);
            return Raced::Over(self.finish(noted, retry));
        }
        // A failure is not the answer while the other copy runs.
        let earlier = self.note(landed, now);
        let landed = other.flying.await;
        let meters = &self.shared.members.meters;
        meters.hedged(if landed.is_good() { won(&landed) } else { Hedge::Lost });
        let later = self.note(landed, self.shared.members.moment());
        // An answer says more than none.
        let has_answer = |noted: &(Lease, Ended)| matches!(noted.1, Ended::Answer(_));
        let last = if has_answer(&earlier) && !has_answer(&later) { earlier } else { later };
        Raced::Over(self.finish(last, retry))
    }

    fn alone(&self, landed: Landed) -> Raced {
        let Landed { lease, course, result } = landed;
        Raced::Alone(lease, course, self.ended(result))
    }

    /// The second copy, at a peer that has none, if both budgets allow it.
    fn second(
        &self,
        left_out: &LeaveOut,
        head: &Parts,
        body: &Replay,
        hedging: &Hedging,
        retry: &mut RetryState,
    ) -> Option<Copy> {
        let members = &self.shared.members;
        let now = members.moment();
        let Picked { lease, why } = self.pick_another(left_out, head, retry.attempts() + 1, now.nanos)?;
        if !hedging.try_hedge(members.budget.as_deref(), now.nanos) {
            members.meters.hedged(Hedge::Refused);
            return None;
        }
        let course =
            Course { number: retry.begin(), fresh: false, began: now, sent: None, pick: why, is_hedge: true };
        self.fly(lease, course, head, body).ok()
    }

    /// Makes a copy ready to go.
    fn fly(
        &self,
        lease: Lease,
        course: Course,
        head: &Parts,
        body: &Replay,
    ) -> Result<Copy, Box<(Lease, Course, Ended)>> {
        let mut own = head.clone();
        let member = Arc::clone(lease.member());
        let (channel, dressed) = match self.dress(&member, &mut own, &course) {
            Ok(dressed) => dressed,
            Err(ended) => return Err(Box::new((lease, course, *ended))),
        };
        let (own, span) = (dressed.own.map_or(own, |own| *own), dressed.span);
        let (channel, body) = (channel.clone(), body.attempt());
        let (until, on) = (self.until(course.began), if course.fresh { On::New } else { On::Any });
        let may_be_cut = self.shared.members.may_be_cut(course.began, until.at);
        let (peer, known) = (lease.peer().clone(), course.clone());
        let mut flight = Flight { members: Arc::clone(&self.shared.members), held: Some((lease, course)) };
        let flying = async move {
            let exchange = channel.send(&own, body, on, until, |now| flight.sent(now));
            let result = watched(exchange, member.attached(), may_be_cut).await;
            let (lease, course) = flight.held.take().expect("a flight has its lease until it lands");
            Landed { lease, course, result }
        };
        let flying: Flying =
            if span.is_disabled() { Box::pin(flying) } else { Box::pin(flying.instrument(span)) };
        Ok(Copy { peer, course: known, flying })
    }

    /// Notes how a copy ended.
    fn note(&mut self, landed: Landed, now: Moment) -> (Lease, Ended) {
        let Landed { mut lease, course, result } = landed;
        let ended = self.ended(result);
        match &ended {
            Ended::Answer(response) => drop(self.note_answer(&mut lease, response, &course, now)),
            Ended::Failure(error) => self.note_failure(&mut lease, error, &course, now),
            Ended::Late(late) => self.note_late(&mut lease, &course, now, *late),
            // These end before anything flies.
            Ended::NoTime | Ended::Auth(_) | Ended::Insecure(_) => {}
        }
        (lease, ended)
    }

    /// What the caller gets of it.
    fn finish(
        &mut self,
        (lease, ended): (Lease, Ended),
        retry: &RetryState,
    ) -> Result<Response<Body>, ClientError> {
        match ended {
            Ended::Answer(response) => Ok(self.hand_over(response, lease)),
            Ended::Failure(error) => Err(self.failure(error, retry, true)),
            Ended::Late(late) => Err(self.late(retry, late.phase)),
            Ended::NoTime => Err(self.late(retry, Phase::Connect)),
            Ended::Auth(source) => Err(ClientError::Auth { call: self.failed(), source }),
            Ended::Insecure(why) => Err(ClientError::InsecureTransport { why, call: self.failed() }),
        }
    }
}

/// Lets the copy that lost end by itself for a while, so that its connection can be kept; it counts as
/// cancelled all the same.
async fn see_off(flying: Flying, members: Arc<Members>) {
    let ending = async {
        let mut landed = flying.await;
        members.balancer().head(&mut landed.lease, Outcome::Cancelled, members.now());
        let Ok(mut response) = landed.result else { return };
        let mut read = 0;
        while read <= LOSER_BYTES {
            match poll_fn(|cx| Pin::new(response.body_mut()).poll_frame(cx)).await {
                Some(Ok(frame)) => read += frame.data_ref().map_or(0, Bytes::len),
                _ => return,
            }
        }
    };
    // Late, it is dropped: that closes its connection, and counts it as cancelled.
    let _ = timeout(LOSER_TIME, ending).await;
}
