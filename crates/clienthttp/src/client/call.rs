//! One call: pick, dial, attach, send; again or not.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{
    HeaderName, Request, Response, StatusCode, Uri,
    header::{AUTHORIZATION, Entry, HOST, RETRY_AFTER, USER_AGENT},
    request::Parts,
    uri::Scheme,
};
use peerage_balance::{
    Action, Event, LeaveOut, Outcome, PickErrorKind, RetryState, Situation, Stage, StopReason,
    deadline::{self, ATTEMPT_HEADER, NO_RETRY_HEADER, TIMEOUT_HEADER},
    repeat, retry_after,
};
use peerage_discovery::{Peer, SourceId, escape};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tracing::{Instrument, Span, debug, debug_span, error, field::Empty, info_span};

use super::{
    Auth, BodyTimeout, CallOptions, Redirects, Settings, Shared,
    members::{Lease, NotPicked},
    running::{Permit, Refused},
};
use crate::{
    Attempt, Attempts, AuthAttacher as _, Body, BoxError, ClientError, Insecure, PeerInfo, PickContext,
    body::Hold,
    dial::{ExchangeError, FailureKind},
    error::{Failed, Phase},
    redirect,
    replay::Replay,
    secure::Crossing,
};

const ATTEMPT: HeaderName = HeaderName::from_static(ATTEMPT_HEADER);
const TIMEOUT: HeaderName = HeaderName::from_static(TIMEOUT_HEADER);
const IDEMPOTENCY_KEY: &str = "idempotency-key";

pub(super) async fn send<B>(shared: &Shared, request: Request<B>) -> Result<Response<Body>, ClientError>
where
    B: http_body::Body + Send + 'static,
    B::Error: Into<BoxError>,
{
    let (mut head, body) = request.into_parts();
    let permit = match shared.running.begin() {
        Ok(permit) => permit,
        Err(refused) => return Err(refuse(refused, Request::from_parts(head, Body::new(body)))),
    };
    if !shared.members.is_followed() {
        shared.ensure_started().map_err(|error| shared.cannot_start(&error))?;
    }
    let options = if head.extensions.is_empty() { None } else { head.extensions.remove::<CallOptions>() };
    let span = info_span!(
        "call",
        otel.kind = "client",
        http.request.method = %head.method,
        http.request.resend_count = Empty,
        http.response.status_code = Empty,
        "error.type" = Empty,
        peerage.service_type = %shared.members.discovery.service_type(),
    );
    let body = Replay::new(body, shared.settings.retry.replay_bytes()).await;
    let mut call = Call::new(shared, options.unwrap_or_default(), permit);
    if span.is_disabled() {
        return call.follow(head, body).await;
    }
    // Boxed, so that a call that nobody watches does not carry the room for it.
    let outcome = Box::pin(call.follow(head, body).instrument(span.clone())).await;
    Call::record(&span, &outcome);
    outcome
}

fn refuse(refused: Refused, request: Request<Body>) -> ClientError {
    let call = Box::new(Failed { request: Some(request), ..Failed::default() });
    match refused {
        Refused::Closed => ClientError::Closed { call },
        Refused::TooMany(most) => {
            ClientError::Saturated { why: format!("{most} calls of this client are running"), call }
        }
    }
}

/// What lasts over all attempts and redirects of a call.
struct Call<'c> {
    shared: &'c Shared,
    options: CallOptions,
    began: Instant,
    deadline: Option<Instant>,
    /// The whole time of the call.
    limit: Option<Duration>,
    /// Until an answer whose body still arrives takes it.
    permit: Option<Permit>,
    attempts: Attempts,
    added: Added,
}

/// What the caller did not put into the head.
#[derive(Default)]
struct Added {
    authority: bool,
    user_agent: bool,
}

/// How an attempt ended.
enum Ended {
    Answer {
        response: Response<Body>,
        began: Instant,
    },
    Failure {
        error: ExchangeError,
        began: Instant,
    },
    /// The time of the call is over.
    Late {
        began: Instant,
        phase: Phase,
    },
    /// There is no time left to begin it.
    NoTime,
    /// There is no credential for it. It was not sent, and must not be sent to anybody.
    Auth(BoxError),
    /// It must not be sent that way. Another peer would make no difference that the caller could rely on.
    Insecure(Insecure),
}

impl<'c> Call<'c> {
    fn new(shared: &'c Shared, options: CallOptions, permit: Permit) -> Self {
        // What the call says replaces the client's limit; a call that is being served can only shorten it.
        let own = options.timeout.or(shared.settings.request_timeout);
        let limit = match (own, options.served_left) {
            (Some(own), Some(left)) => Some(own.min(left)),
            (limit, None) | (None, limit) => limit,
        };
        let began = Instant::now();
        let deadline = limit.and_then(|limit| began.checked_add(limit));
        Self {
            shared,
            options,
            began,
            deadline,
            limit,
            permit: Some(permit),
            attempts: Attempts::default(),
            added: Added::default(),
        }
    }

    /// The number that the call being served came with; a proxy passes it on as it is.
    fn serving(&self, head: &Parts) -> Option<u32> {
        let passed_on = || head.headers.get(ATTEMPT)?.to_str().ok()?.parse().ok();
        self.options.serving.or_else(passed_on)
    }

    const fn settings(&self) -> &'c Settings {
        &self.shared.settings
    }

    /// The call, and those that redirects make of it.
    async fn follow(&mut self, mut head: Parts, mut body: Replay) -> Result<Response<Body>, ClientError> {
        let mut chain = Vec::new();
        self.prepare(&mut head);
        loop {
            let mut response = match self.repeat(&mut head, &mut body).await {
                Ok(response) => response,
                Err(mut error) => {
                    if chain.is_empty()
                        && body.is_whole()
                        && let Some(call) = error.call_mut()
                        && call.attempts.iter().all(|attempt| attempt.stage == Stage::NotSent)
                    {
                        self.restore(&mut head);
                        call.request = Some(Request::from_parts(head, body.into_body()));
                    }
                    return Err(error);
                }
            };
            let Redirects::SameService { max } = self.settings().redirects else { return Ok(response) };
            let authority = &self.settings().authority;
            let next = redirect::next(&head, authority, response.status(), response.headers());
            let Some(next) = next.filter(|next| next.drops_body || body.is_whole()) else {
                return Ok(response);
            };
            chain.push(next.target.path().to_owned());
            if chain.len() > max {
                let call = Failed::after(response.extensions_mut().remove().unwrap_or_default());
                return Err(ClientError::TooManyRedirects { chain: chain.join(" -> "), call });
            }
            debug!("following a redirect");
            self.permit = self.permit.take().or_else(|| response.body_mut().take_permit());
            self.attempts = response.extensions_mut().remove().unwrap_or_default();
            // Dropped before the next hop, which may then use its connection.
            drop(response);
            if next.drops_body {
                body = Replay::empty();
            }
            next.apply(&mut head);
        }
    }

    /// One request, as often as it takes.
    async fn repeat(&mut self, head: &mut Parts, body: &mut Replay) -> Result<Response<Body>, ClientError> {
        let settings = self.settings();
        let by_key = settings.retry.honours_idempotency_key() && head.headers.contains_key(IDEMPOTENCY_KEY);
        let idempotent = self.options.idempotent || by_key || repeat::is_idempotent(head.method.as_str());
        let mut retry = RetryState::new(&settings.retry, idempotent, self.serving(head));
        if let Some(budget) = &settings.budget {
            retry = retry.with_budget(Arc::clone(budget), self.shared.members.at(self.began));
        }
        let mut tried = LeaveOut::default();
        // What the caller gets if nothing better comes: the last answer, or else the last failure.
        let mut answered: Option<(Response<Body>, Lease)> = None;
        let mut failed: Option<ExchangeError> = None;
        let mut now = self.began;
        let mut fresh = false;
        loop {
            let mut lease = match self
                .pick(head, &tried, (retry.attempts() + 1, idempotent && body.is_whole()), &mut now)
                .await
            {
                Ok(lease) => lease,
                Err(error) => {
                    return match (answered, failed) {
                        (Some((response, lease)), _) => Ok(self.hand_over(response, lease)),
                        (None, Some(failure)) => Err(self.failure(failure, &retry, false)),
                        (None, None) => Err(error),
                    };
                }
            };
            let number = retry.begin();
            let ended = self.attempt(&mut lease, head, body, (number, fresh), now).await;
            now = Instant::now();
            let (event, answer) = match ended {
                Ended::Answer { response, began } => {
                    let event = self.note_answer(&mut lease, &response, began, now);
                    // Nearly every call ends here.
                    if settings.retry.ends_with(response.status().as_u16()) {
                        return Ok(self.hand_over(response, lease));
                    }
                    (event, Some(response))
                }
                Ended::Failure { mut error, began } => {
                    self.note_failure(&mut lease, &error, began, now);
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
                            | FailureKind::RequestBody,
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
                late @ (Ended::Late { .. } | Ended::NoTime) => {
                    let phase = match late {
                        Ended::Late { began, phase } => {
                            self.note_late(&mut lease, began, now, phase);
                            phase
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
                now: members.at(now),
                deadline: self.deadline.map(|deadline| members.at(deadline)),
                other_peer: members.balancer().has_other(&tried, members.at(now)),
                replayable: body.is_whole(),
                estimate: members.balancer().best_estimate(&tried, members.at(now)),
                was_probe,
            };
            match retry.ended(event, &situation, members.balancer().random().next_u64()) {
                Action::Again { pause, leave_out, fresh: asked, .. } => {
                    // An idle connection that was gone says the same of those beside it.
                    fresh = asked || event == Event::Stale;
                    if !leave_out {
                        tried = LeaveOut::default();
                    }
                    debug!(attempt = number, pause, "trying again");
                    if pause > 0 {
                        sleep(Duration::from_nanos(pause)).await;
                        now = Instant::now();
                    }
                }
                stop => {
                    let told_not_to =
                        matches!(stop, Action::Return(StopReason::ToldNotTo | StopReason::BudgetUsedUp));
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

    /// Picks a peer; the first time also waits for one to appear, and tells how late it has become.
    async fn pick(
        &self,
        head: &Parts,
        tried: &LeaveOut,
        (attempt, repeatable): (u32, bool),
        now: &mut Instant,
    ) -> Result<Lease, ClientError> {
        let members = &self.shared.members;
        let cx = PickContext {
            method: &head.method,
            uri: &head.uri,
            key: self.options.key.as_deref(),
            attempt,
            random: members.balancer().random(),
        };
        let choice = &self.settings().choice;
        let not_picked = match members.pick(choice, tried, &cx, repeatable, *now) {
            Ok(lease) => return Ok(lease),
            Err(not_picked) => not_picked,
        };
        let may_appear =
            |error: &NotPicked| matches!(error.kind(), PickErrorKind::NotReady | PickErrorKind::NoPeers);
        if !may_appear(&not_picked) || attempt > 1 {
            return Err(self.nobody(&not_picked, Duration::ZERO));
        }
        let began = *now;
        let until = began + self.settings().retry.ready_wait_limit();
        let until = self.deadline.map_or(until, |deadline| deadline.min(until));
        loop {
            let mut changed = std::pin::pin!(members.changed());
            changed.as_mut().enable();
            *now = Instant::now();
            match members.pick(choice, tried, &cx, repeatable, *now) {
                Ok(lease) => return Ok(lease),
                Err(error) if may_appear(&error) => {
                    if timeout_at(until, changed).await.is_err() {
                        return Err(self.nobody(&error, began.elapsed()));
                    }
                }
                Err(error) => return Err(self.nobody(&error, began.elapsed())),
            }
        }
    }

    /// One attempt on one peer.
    async fn attempt(
        &self,
        lease: &mut Lease,
        head: &mut Parts,
        body: &Replay,
        (number, fresh): (u32, bool),
        began: Instant,
    ) -> Ended {
        let (members, settings) = (&self.shared.members, self.settings());
        let member = Arc::clone(lease.member());
        let peer = member.peer();
        if self.deadline.is_some_and(|deadline| deadline.saturating_duration_since(began) < deadline::LEAST) {
            return Ended::NoTime;
        }
        let channel = match member.attached().channel(&*members.dialer, peer) {
            Ok(channel) => channel,
            Err(source) => {
                let error = ExchangeError::new(FailureKind::Connect, Stage::NotSent, source);
                return Ended::Failure { error, began };
            }
        };
        self.complete(head, began, number);
        let mut undo = false;
        let mut own = None;
        let attached = match &settings.auth {
            Auth::None => Ok(()),
            // What it does is known, and can be undone without a copy.
            Auth::Bearer(bearer) => {
                undo = !head.headers.contains_key(AUTHORIZATION);
                bearer.attach(head, peer)
            }
            Auth::Attacher(attacher) => attacher.attach(own.insert(head.clone()), peer),
        };
        if let Err(error) = attached {
            return Ended::Auth(error);
        }
        let sent = own.as_ref().unwrap_or(head);
        let crossing = Crossing {
            uri: &sent.uri,
            headers: &sent.headers,
            security: members.dialer.security(),
            is_local: member.attached().is_local,
            announced_by_anybody: announced_by_anybody(peer),
            allow_plaintext: settings.allow_plaintext,
        };
        match crossing.judge() {
            Ok(false) => {}
            Ok(true) => self.shared.warn_of_plaintext(),
            Err(why) => {
                if undo {
                    head.headers.remove(AUTHORIZATION);
                }
                return Ended::Insecure(why);
            }
        }

        let per_try = settings.retry.per_try_limit().and_then(|limit| began.checked_add(limit));
        let until = match (self.deadline, per_try) {
            (Some(deadline), Some(per_try)) => Some(deadline.min(per_try)),
            (until, None) | (None, until) => until,
        };
        lease.sent(members.at(began));
        let span = debug_span!(
            "attempt",
            otel.kind = "client",
            peerage.node_id = %escape(peer.node_id()),
            server.address = %peer.address(),
            http.request.resend_count = number - 1,
        );
        let exchange = channel.send(sent, body.attempt(), fresh, until);
        let result =
            if span.is_disabled() { exchange.await } else { Box::pin(exchange.instrument(span)).await };
        if undo {
            head.headers.remove(AUTHORIZATION);
        }
        match result {
            Ok(response) => Ended::Answer { response, began },
            Err(error) if error.is_timeout() && self.deadline.is_some_and(|end| end <= Instant::now()) => {
                let phase = if error.stage == Stage::NotSent { Phase::Connect } else { Phase::Head };
                Ended::Late { began, phase }
            }
            Err(error) => Ended::Failure { error, began },
        }
    }

    /// Makes the head one that any peer can be sent: with somebody to be for, and with a sender.
    fn prepare(&mut self, head: &mut Parts) {
        let settings = self.settings();
        if head.uri.authority().is_none() && !head.headers.contains_key(HOST) {
            // As an authority it costs no header; whoever speaks to the peer makes one of it.
            let mut uri = head.uri.clone().into_parts();
            uri.scheme = Some(Scheme::HTTP);
            uri.authority = Some(settings.authority.clone());
            if let Ok(uri) = Uri::from_parts(uri) {
                head.uri = uri;
                self.added.authority = true;
            }
        }
        if let Entry::Vacant(entry) = head.headers.entry(USER_AGENT) {
            entry.insert(settings.user_agent.clone());
            self.added.user_agent = true;
        }
    }

    /// Takes back what `prepare` and `complete` did, for a request that is given back.
    fn restore(&self, head: &mut Parts) {
        if self.added.authority {
            let mut uri = std::mem::take(&mut head.uri).into_parts();
            (uri.scheme, uri.authority) = (None, None);
            head.uri = Uri::from_parts(uri).unwrap_or_default();
        }
        if self.added.user_agent {
            head.headers.remove(USER_AGENT);
        }
        head.headers.remove(TIMEOUT);
        head.headers.remove(ATTEMPT);
    }

    /// Adds what differs from one attempt to the next.
    fn complete(&self, head: &mut Parts, began: Instant, number: u32) {
        let settings = self.settings();
        if let Some(deadline) = self.deadline {
            let rest = deadline.saturating_duration_since(began);
            let value = match &settings.whole_timeout {
                // Nothing worth a millisecond has happened yet.
                Some(whole) if self.limit == settings.request_timeout && self.is_new(rest) => whole.clone(),
                _ => deadline::to_millis(rest).into(),
            };
            head.headers.insert(TIMEOUT, value);
        }
        if number > 1 {
            head.headers.insert(ATTEMPT, number.into());
        }
    }

    fn is_new(&self, rest: Duration) -> bool {
        self.limit.is_some_and(|limit| limit.saturating_sub(rest) < deadline::LEAST)
    }

    fn note_answer(
        &mut self,
        lease: &mut Lease,
        response: &Response<Body>,
        began: Instant,
        now: Instant,
    ) -> Event {
        let status = response.status();
        let retry_after = match status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => read_retry_after(response),
            _ => None,
        };
        let members = &self.shared.members;
        let outcome = Outcome::of_status(status.as_u16(), retry_after.is_some());
        let time = members.at(now);
        members.balancer().head(lease, outcome, time);
        members.answered(lease.member(), time);
        if outcome == Outcome::Throttled {
            members.balancer().throttled(lease.member(), retry_after, time);
        }
        if outcome != Outcome::Success {
            members.tell();
        }
        self.attempts.push(Attempt {
            peer: PeerInfo::new(lease.peer().clone()),
            outcome,
            stage: Stage::Answered,
            status: Some(status),
            failure: None,
            elapsed: now.saturating_duration_since(began),
        });
        let no_retry = response.headers().contains_key(NO_RETRY_HEADER);
        Event::Answered { status: status.as_u16(), retry_after, no_retry }
    }

    fn note_failure(&mut self, lease: &mut Lease, error: &ExchangeError, began: Instant, now: Instant) {
        let members = &self.shared.members;
        let time = members.at(now);
        let outcome = error.outcome().unwrap_or(Outcome::Cancelled);
        members.balancer().head(lease, outcome, time);
        match error.kind {
            FailureKind::Connect | FailureKind::ConnectTimeout | FailureKind::Tls | FailureKind::Timeout => {
                members.unreachable(lease.member(), time);
            }
            FailureKind::Identity => {
                members.balancer().not_identified(lease.member(), time);
                error!(peerage.node_id = %escape(lease.peer().node_id()), "peer did not prove who it is");
            }
            _ => {}
        }
        members.tell();
        self.attempts.push(Attempt {
            peer: PeerInfo::new(lease.peer().clone()),
            outcome,
            stage: error.stage,
            status: None,
            failure: Some(error.words()),
            elapsed: now.saturating_duration_since(began),
        });
    }

    /// The call's time was over during the attempt.
    fn note_late(&mut self, lease: &mut Lease, began: Instant, now: Instant, phase: Phase) {
        let members = &self.shared.members;
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let elapsed = now.saturating_duration_since(began);
        let per_try = self.settings().retry.per_try_limit().map(nanos);
        let time = members.at(now);
        let estimate = lease.member().state().estimate(time);
        let is_blamed = deadline::is_blamed(nanos(elapsed), per_try, estimate, self.limit.map(nanos));
        let outcome = if is_blamed { Outcome::Hard } else { Outcome::Cancelled };
        members.balancer().head(lease, outcome, time);
        if is_blamed {
            members.unreachable(lease.member(), time);
        }
        members.tell();
        self.attempts.push(Attempt {
            peer: PeerInfo::new(lease.peer().clone()),
            outcome,
            stage: if phase == Phase::Connect { Stage::NotSent } else { Stage::Ambiguous },
            status: None,
            failure: Some(if phase == Phase::Connect {
                "took too long to connect to"
            } else {
                "did not answer in time"
            }),
            elapsed,
        });
    }

    /// The answer as the caller gets it.
    fn hand_over(&mut self, mut response: Response<Body>, lease: Lease) -> Response<Body> {
        let attempts = std::mem::take(&mut self.attempts);
        response.extensions_mut().insert(PeerInfo::new(lease.peer().clone()));
        if response.body().is_whole() {
            response.extensions_mut().insert(attempts);
            return response;
        }
        response.extensions_mut().insert(attempts.clone());
        let by_default = self.settings().body_timeout;
        let deadline = match self.options.body_timeout.map_or(by_default, BodyTimeout::Own) {
            BodyTimeout::Covered => self.deadline,
            BodyTimeout::Own(limit) => limit.and_then(|limit| Instant::now().checked_add(limit)),
        };
        let deadline = deadline.map(|deadline| Box::pin(sleep_until(deadline)));
        let hold = Hold { lease, permit: self.permit.take(), deadline, attempts };
        response.map(|body| body.holding(hold))
    }

    fn failed(&mut self) -> Box<Failed> {
        Failed::after(std::mem::take(&mut self.attempts))
    }

    fn late(&mut self, retry: &RetryState, phase: Phase) -> ClientError {
        let call = Failed::after(std::mem::take(&mut self.attempts)).spent(retry.has_resent());
        ClientError::Timeout { where_: phase, attempts: retry.attempts() as usize, call }
    }

    /// The error of a failed exchange.
    fn failure(&mut self, error: ExchangeError, retry: &RetryState, told_not_to: bool) -> ClientError {
        let call = self.failed().spent(told_not_to || retry.has_resent());
        let ExchangeError { kind, stage, source, .. } = error;
        let attempts = retry.attempts() as usize;
        match (kind, stage) {
            (FailureKind::Connect, _) => ClientError::Connect { call, source },
            (FailureKind::ConnectTimeout, _) => {
                ClientError::Timeout { where_: Phase::Connect, attempts, call }
            }
            (FailureKind::Tls | FailureKind::Identity, _) => ClientError::Tls { call, source },
            (FailureKind::Timeout, _) => ClientError::Timeout { where_: Phase::Head, attempts, call },
            (FailureKind::Protocol | FailureKind::Request, _) => ClientError::Protocol { call, source },
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
    fn nobody(&self, error: &NotPicked, waited: Duration) -> ClientError {
        let discovery = &self.shared.members.discovery;
        let call = Box::default();
        match error.kind() {
            PickErrorKind::Saturated => ClientError::Saturated { why: error.to_string(), call },
            kind => ClientError::NoPeers {
                service: discovery.service_type().clone(),
                waited,
                why: match kind {
                    PickErrorKind::NotReady | PickErrorKind::NoPeers => discovery.explain(),
                    _ => error.to_string(),
                },
                call,
            },
        }
    }

    /// Fills the fields of the call's span.
    fn record(span: &Span, outcome: &Result<Response<Body>, ClientError>) {
        let attempts = match outcome {
            Ok(response) => {
                span.record("http.response.status_code", response.status().as_u16());
                response.extensions().get::<Attempts>()
            }
            Err(error) => {
                span.record("error.type", error.as_str());
                error.attempts()
            }
        };
        if let Some(attempts) = attempts {
            span.record("http.request.resend_count", attempts.count().saturating_sub(1));
        }
    }
}

/// Whether the peer, or part of what is known of it, comes from a source to which anybody can write.
fn announced_by_anybody(peer: &Peer) -> bool {
    *peer.source() == SourceId::Mdns || peer.also_from().contains(&SourceId::Mdns)
}

fn read_retry_after(response: &Response<Body>) -> Option<Duration> {
    let value = response.headers().get(RETRY_AFTER)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    retry_after::parse(value.as_bytes(), i64::try_from(now.as_secs()).unwrap_or(i64::MAX))
}
