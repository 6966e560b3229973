//! What the caller gets.

use std::{sync::Arc, time::Duration};

use http::Response;
use peerage_balance::{PickErrorKind, RetryState, Stage};
use tokio::time::{Instant, sleep_until};

use super::{Call, pick::Unpicked};
use crate::{
    Body, ClientError, PeerInfo, PickExplanation,
    body::{Drained, Hold},
    client::{BodyTimeout, Lease, Permit},
    dial::{ExchangeError, FailureKind},
    error::{Failed, Phase},
};

impl Call<'_> {
    /// The answer as the caller gets it.
    pub(super) fn hand_over(&mut self, mut response: Response<Body>, lease: Lease) -> Response<Body> {
        let attempts = std::mem::take(&mut self.attempts);
        response.extensions_mut().insert(PeerInfo::new(lease.peer().clone()));
        if response.body().is_whole() {
            response.extensions_mut().insert(attempts);
            return response;
        }
        response.extensions_mut().insert(attempts.clone());
        let by_default = self.settings().body_timeout;
        let deadline = match self.options.body_timeout.map_or(by_default, BodyTimeout::Own) {
            BodyTimeout::Covered => self.deadline.map(|deadline| deadline.at),
            BodyTimeout::Own(limit) => limit.and_then(|limit| Instant::now().checked_add(limit)),
        };
        let may_be_cut = self.shared.members.may_be_cut(self.began, deadline);
        let deadline = deadline.map(|deadline| Box::pin(sleep_until(deadline)));
        let drained = may_be_cut.then(|| {
            let node = Arc::clone(lease.member().attached());
            Box::pin(async move { node.has_been_cut().await }) as Drained
        });
        let hold = Hold { lease, permit: self.permit.take().map(Permit::keep), deadline, drained, attempts };
        response.map(|body| body.holding(hold))
    }

    pub(super) fn failed(&mut self) -> Box<Failed> {
        Failed::after(std::mem::take(&mut self.attempts))
    }

    pub(super) fn late(&mut self, retry: &RetryState, phase: Phase) -> ClientError {
        self.shared.members.meters.late(phase);
        let call = Failed::after(std::mem::take(&mut self.attempts)).spent(retry.has_resent());
        ClientError::Timeout { where_: phase, attempts: retry.attempts() as usize, call }
    }

    /// The error of a failed exchange.
    pub(super) fn failure(
        &mut self,
        error: ExchangeError,
        retry: &RetryState,
        told_not_to: bool,
    ) -> ClientError {
        let call = self.failed().spent(told_not_to || retry.has_resent());
        let ExchangeError { kind, stage, source, .. } = error;
        let attempts = retry.attempts() as usize;
        match (kind, stage) {
            (FailureKind::Connect, _) => ClientError::Connect { call, source },
            (FailureKind::ConnectTimeout, _) => {
                ClientError::Timeout { where_: Phase::Connect, attempts, call }
            }
            (FailureKind::RequestLate, _) => {
                ClientError::Timeout { where_: Phase::RequestBody, attempts, call }
            }
            (FailureKind::Tls | FailureKind::Identity, _) => ClientError::Tls { call, source },
            (FailureKind::Timeout, _) => ClientError::Timeout { where_: Phase::Head, attempts, call },
            (FailureKind::Protocol | FailureKind::Request, _) => ClientError::Protocol { call, source },
            (FailureKind::Drained, _) => ClientError::Drained { call },
            (FailureKind::BodyTooLarge { limit }, _) => ClientError::BodyTooLarge { limit, call },
            (FailureKind::RequestBody, _) => ClientError::Body { call, source },
            (FailureKind::Broken | FailureKind::Closed, Stage::NotSent) => {
                ClientError::Connect { call, source }
            }
            (FailureKind::Broken | FailureKind::Closed, _) => ClientError::OutcomeUnknown { call, source },
        }
    }

    /// Nobody could be picked.
    #[cold]
    pub(super) fn nobody(&self, unpicked: Unpicked, waited: Duration) -> ClientError {
        let members = &self.shared.members;
        let (kind, why) = (unpicked.error.kind(), unpicked.error.to_string());
        let call = Box::new(Failed { pick: Some(self.explanation(unpicked).into()), ..Failed::default() });
        match kind {
            PickErrorKind::Saturated => ClientError::Saturated { why, call },
            kind => ClientError::NoPeers {
                service: members.discovery.service_type().clone(),
                waited,
                why: match kind {
                    PickErrorKind::NotReady | PickErrorKind::NoPeers => members.discovery.explain(),
                    _ => why,
                },
                call,
            },
        }
    }

    pub(super) fn explanation(&self, unpicked: Unpicked) -> Box<PickExplanation> {
        let Unpicked { error, why } = unpicked;
        let members = &self.shared.members;
        let policy = self.settings().policy(members);
        why.unwrap_or_else(|| Box::new(PickExplanation::of_error(policy, &error, members.now())))
    }
}
