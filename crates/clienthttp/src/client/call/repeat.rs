//! One request, as often as it takes (B-5.1).

use std::{sync::Arc, time::Duration};

use http::{HeaderName, Response, request::Parts};
use peerage_balance::{Action, Event, LeaveOut, RetryState, Situation, Stage, StopReason, repeat};
use tokio::time::sleep;
use tracing::debug;

use super::{
    Call,
    attempt::{Course, Ended},
    hedge::Raced,
    pick::Picked,
};
use crate::{
    Body, ClientError,
    client::Lease,
    dial::{ExchangeError, FailureKind},
    error::Phase,
    replay::Replay,
};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

impl Call<'_> {
    /// One request, as often as it takes.
    pub(super) async fn repeat(
        &mut self,
        head: &mut Parts,
        body: &mut Replay,
    ) -> Result<Response<Body>, ClientError> {
        let settings = self.settings();
        let by_key = settings.retry.honours_idempotency_key() && head.headers.contains_key(&IDEMPOTENCY_KEY);
        let idempotent = self.options.idempotent || by_key || repeat::is_idempotent(head.method.as_str());
        let served = self.served_attempt(head);
        let mut retry = RetryState::new(&settings.retry, idempotent, served);
        if let Some(budget) = &self.shared.members.budget {
            retry = retry.with_budget(Arc::clone(budget), self.began.nanos);
        }
        // A stream cannot go to two peers at once, and who serves a repeat does not repeat (B-5.1).
        let may_hedge = idempotent && body.is_in_memory() && served.is_none_or(|number| number < 2);
        let hedging = self.shared.hedging(self.options.hedge).filter(|_| may_hedge).cloned();
        let delay = hedging.as_ref().and_then(|hedging| hedging.begin(self.began.nanos));
        let delay = delay.map(Duration::from_nanos);
        let mut tried = LeaveOut::default();
        // What the caller gets if nothing better comes: the last answer, or else the last failure.
        let mut answered: Option<(Response<Body>, Lease)> = None;
        let mut failed: Option<ExchangeError> = None;
        let mut now = self.began;
        let mut fresh = false;
        loop {
            // A stream may come slowly, and then cannot be sent to another peer (B-3.3).
            let may_probe = idempotent && body.is_in_memory();
            let Picked { mut lease, why } =
                match self.pick(head, &tried, (retry.attempts() + 1, may_probe), &mut now).await {
                    Ok(picked) => picked,
                    Err(error) => {
                        return match (answered, failed) {
                            (Some((response, lease)), _) => Ok(self.hand_over(response, lease)),
                            (None, Some(failure)) => Err(self.failure(failure, &retry, false)),
                            (None, None) => Err(error),
                        };
                    }
                };
            let is_first = retry.attempts() == 0;
            let number = retry.begin();
            let mut course = Course { number, fresh, began: now, sent: None, pick: why, is_hedge: false };
            let ended = match hedging.as_deref().filter(|_| is_first).zip(delay) {
                None => self.attempt(&mut lease, &mut tried, head, body, &mut course).await,
                // Boxed, so that calls that are not hedged do not carry the room for it.
                Some(hedging) => {
                    let raced = Box::pin(self.hedged((lease, course), head, body, hedging, &mut retry));
                    match raced.await {
                        Raced::Alone(alone, its_course, ended) => {
                            (lease, course) = (alone, its_course);
                            ended
                        }
                        Raced::Over(outcome) => return outcome,
                    }
                }
            };
            now = self.shared.members.moment();
            let (event, answer) = match ended {
                Ended::Answer(response) => {
                    let event = self.note_answer(&mut lease, &response, &course, now);
                    // Nearly every call ends here.
                    let is_told_otherwise = matches!(event, Event::AnsweredGrpc { .. });
                    if !is_told_otherwise && settings.retry.ends_with(response.status().as_u16()) {
                        return Ok(self.hand_over(response, lease));
                    }
                    (event, Some(response))
                }
                Ended::Failure(mut error) => {
                    self.note_failure(&mut lease, &error, &course, now);
                    if !body.is_whole()
                        && let Some(unsent) = error.take_unsent()
                    {
                        body.take_back(unsent).await;
                    }
                    let event = match (error.kind, error.stage) {
                        // It would fail with every peer.
                        (
                            FailureKind::Request
                            | FailureKind::BodyTooLarge { .. }
                            | FailureKind::RequestBody
                            | FailureKind::RequestLate,
                            _,
                        ) => {
                            return Err(self.failure(error, &retry, false));
                        }
                        (_, Stage::NotSent) => Event::NotSent,
                        (_, Stage::Stale) => Event::Stale,
                        _ => Event::Ambiguous,
                    };
                    failed = Some(error);
                    (event, None)
                }
                late @ (Ended::Late(_) | Ended::NoTime) => {
                    let phase = match late {
                        Ended::Late(late) => {
                            self.note_late(&mut lease, &course, now, late);
                            late.phase
                        }
                        _ => Phase::Connect,
                    };
                    return match answered {
                        Some((response, lease)) => Ok(self.hand_over(response, lease)),
                        None => Err(self.late(&retry, phase)),
                    };
                }
                Ended::Auth(source) => return Err(ClientError::Auth { call: self.failed(), source }),
                Ended::Insecure(why) => {
                    return Err(ClientError::InsecureTransport { why, call: self.failed() });
                }
            };

            tried.add(lease.member().key());
            let was_probe = lease.is_probe();
            if let Some(response) = answer {
                answered = Some((response, lease));
            } else {
                drop(lease);
            }
            let members = &self.shared.members;
            let situation = Situation {
                now: now.nanos,
                deadline: self.deadline.map(|deadline| deadline.nanos),
                other_peer: members.balancer().has_other(&tried, now.nanos),
                replayable: body.is_whole(),
                estimate: members.balancer().best_estimate(&tried, now.nanos),
                was_probe,
            };
            match retry.ended(event, &situation, members.balancer().random().next_u64()) {
                Action::Again { pause, leave_out, fresh: asked, .. } => {
                    // An idle connection that was gone says the same of those beside it.
                    fresh = asked || event == Event::Stale;
                    if !leave_out {
                        tried = LeaveOut::default();
                    }
                    debug!(attempt = course.number, pause, "trying again");
                    self.shared.members.meters.resent(event);
                    if pause > 0 {
                        sleep(Duration::from_nanos(pause)).await;
                        now = self.shared.members.moment();
                    }
                }
                stop => {
                    if let Action::Return(reason) = stop {
                        self.shared.members.meters.refused(reason, idempotent);
                    }
                    let told_not_to =
                        matches!(stop, Action::Return(StopReason::ToldNotTo | StopReason::BudgetUsedUp));
                    if told_not_to {
                        self.attempts.refuse();
                    }
                    return match (answered, failed) {
                        (Some((response, lease)), _) => Ok(self.hand_over(response, lease)),
                        (None, Some(failure)) => Err(self.failure(failure, &retry, told_not_to)),
                        // Not reached: an attempt that is not an answer is a failure.
                        (None, None) => Err(self.late(&retry, Phase::Head)),
                    };
                }
            }
        }
    }
}
