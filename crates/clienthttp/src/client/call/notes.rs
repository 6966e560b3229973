//! What an attempt showed about its peer, and the line about it in the list of attempts.

use std::time::{Duration, SystemTime};

use http::{Response, StatusCode, header::RETRY_AFTER};
use peerage_balance::{Event, Outcome, Stage, deadline, retry_after};
use peerage_discovery::Peer;

use super::{
    Call, NO_RETRY,
    attempt::{Course, Late},
    grpc::End,
};
use crate::{
    Attempt, Body, PeerInfo,
    client::{Lease, moment::Moment},
    dial::{ExchangeError, WAITED_FOR_BODY},
    error::Phase,
};

/// With less than that left, the time that the peer was told is over: that is rounded down to whole milliseconds, and
/// timers count those.
const TOLD_LESS: Duration = Duration::from_millis(2);

/// How an attempt ended, for the list.
pub(super) struct Line {
    pub(super) outcome: Outcome,
    pub(super) stage: Stage,
    pub(super) status: Option<StatusCode>,
    pub(super) failure: Option<&'static str>,
}

impl Call<'_> {
    pub(super) fn note_answer(
        &mut self,
        lease: &mut Lease,
        response: &Response<Body>,
        course: &Course,
        now: Moment,
    ) -> Event {
        let status = response.status();
        let end = if self.is_grpc { End::of(response.headers()) } else { None };
        let retry_after = match status {
            _ if end.is_some() => end.and_then(End::pause),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => read_retry_after(response),
            _ => None,
        };
        let members = &self.shared.members;
        let outcome = match end {
            _ if self.obeyed(lease, status, end, course, now) => Outcome::Cancelled,
            Some(end) => end.outcome(),
            None => Outcome::of_status(status.as_u16(), retry_after.is_some()),
        };
        self.learn(lease, outcome, now.nanos);
        members.answered(lease.member(), now.nanos);
        if outcome == Outcome::Throttled {
            members.balancer().throttled(lease.member(), retry_after, now.nanos);
        }
        if outcome != Outcome::Success {
            members.tell();
        }
        let line = Line { outcome, stage: Stage::Answered, status: Some(status), failure: None };
        self.write_down(lease.peer(), course, now, line);
        let no_retry = response.headers().contains_key(&NO_RETRY);
        match end {
            Some(end) => end.event(no_retry),
            None => Event::Answered { status: status.as_u16(), retry_after, no_retry },
        }
    }

    /// Whether the peer says no more than that the time it was told is over, and is no more to blame for that than one
    /// that says nothing.
    fn obeyed(
        &self,
        lease: &Lease,
        status: StatusCode,
        end: Option<End>,
        course: &Course,
        now: Moment,
    ) -> bool {
        let is_late = match end {
            Some(end) => end.is_late(),
            None => status == StatusCode::GATEWAY_TIMEOUT,
        };
        is_late
            && self.deadline.is_some_and(|deadline| deadline.since(now) < TOLD_LESS)
            && !self.is_blamed(lease, course.began, now)
    }

    /// Whether the peer is to blame that the time is over now, if it began then (B-8).
    fn is_blamed(&self, lease: &Lease, began: Moment, now: Moment) -> bool {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let per_try = self.settings().retry.per_try_limit().map(nanos);
        let estimate = lease.member().state().estimate(now.nanos);
        deadline::is_blamed(nanos(now.since(began)), per_try, estimate, self.limit.map(nanos))
    }

    pub(super) fn note_failure(
        &mut self,
        lease: &mut Lease,
        error: &ExchangeError,
        course: &Course,
        now: Moment,
    ) {
        let members = &self.shared.members;
        let outcome = error.outcome().unwrap_or(Outcome::Cancelled);
        self.learn(lease, outcome, now.nanos);
        members.failed(lease.member(), error.kind, now.nanos);
        members.tell();
        let line = Line { outcome, stage: error.stage, status: None, failure: Some(error.words()) };
        self.write_down(lease.peer(), course, now, line);
    }

    /// The call's time was over during the attempt.
    pub(super) fn note_late(&mut self, lease: &mut Lease, course: &Course, now: Moment, late: Late) {
        let members = &self.shared.members;
        let Late { phase, given } = late;
        // Before the request was there the peer had nothing to do.
        let began = given.map_or(course.began, |given| members.moment_of(given.max(course.began.at)));
        let is_blamed = phase != Phase::RequestBody && self.is_blamed(lease, began, now);
        let (stage, failure, blame) = match phase {
            // It had nothing to answer yet.
            Phase::RequestBody if course.sent.is_none() => {
                (Stage::NotSent, WAITED_FOR_BODY, Outcome::Cancelled)
            }
            Phase::RequestBody => (Stage::Ambiguous, WAITED_FOR_BODY, Outcome::Cancelled),
            Phase::Connect => (Stage::NotSent, "took too long to connect to", Outcome::Dial),
            _ => (Stage::Ambiguous, "did not answer in time", Outcome::Hard),
        };
        let outcome = if is_blamed { blame } else { Outcome::Cancelled };
        self.learn(lease, outcome, now.nanos);
        if is_blamed {
            members.unreachable(lease.member(), now.nanos);
        }
        members.tell();
        let line = Line { outcome, stage, status: None, failure: Some(failure) };
        self.write_down(lease.peer(), course, now, line);
    }

    /// The peer's state, the delay of hedges and the metrics follow the outcome.
    fn learn(&self, lease: &mut Lease, outcome: Outcome, time: u64) {
        let members = &self.shared.members;
        let took = members.balancer().head(lease, outcome, time);
        lease.member().attached().meters.ended(&members.meters, outcome, took);
        if let (Some(hedging), Some(took)) = (self.shared.hedging.get(), took) {
            hedging.record(outcome, took, time);
        }
    }

    pub(super) fn write_down(&mut self, peer: &Peer, course: &Course, now: Moment, line: Line) {
        let Line { outcome, stage, status, failure } = line;
        self.attempts.push(Attempt {
            peer: PeerInfo::new(peer.clone()),
            outcome,
            stage,
            status,
            failure,
            connected: course.sent.map(|sent| sent.since(course.began)),
            elapsed: now.since(course.began),
            pick: course.pick.clone(),
            is_hedge: course.is_hedge,
        });
    }
}

fn read_retry_after(response: &Response<Body>) -> Option<Duration> {
    let value = response.headers().get(RETRY_AFTER)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    retry_after::parse(value.as_bytes(), i64::try_from(now.as_secs()).unwrap_or(i64::MAX))
}
