//! One call: pick, dial, attach, send; again or not.
//!
//! What lasts over a call and its redirects is here. `repeat` sends it as often as it takes, `attempt` once,
//! `hedge` to two peers; `pick` finds a peer or waits for one, `connect` a
//! connection or another peer;
//! `notes` tells the peer's state how an attempt ended, `ends` makes of it what the caller gets.

mod attempt;
mod connect;
mod ends;
mod grpc;
mod hedge;
mod notes;
mod pick;
mod repeat;

use std::time::Duration;

use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri,
    header::{Entry, HOST, USER_AGENT},
    request::Parts,
    uri::Scheme,
};
use peerage_balance::{
    Stage,
    deadline::{self, ATTEMPT_HEADER, NO_RETRY_HEADER, TIMEOUT_HEADER},
};
use tracing::{Instrument, Span, debug, field::Empty, info_span};

use super::{
    CallOptions, Redirects, Settings, Shared,
    moment::Moment,
    options::Served,
    running::{Permit, Refused},
};
use crate::{
    Attempts, Body, BoxError, ClientError, Serving,
    error::Failed,
    redirect,
    replay::Replay,
    serving::{Position, TRACEPARENT, TRACESTATE},
};

/// Headers that are looked through.
const FEW: usize = 8;

const ATTEMPT: HeaderName = HeaderName::from_static(ATTEMPT_HEADER);
const TIMEOUT: HeaderName = HeaderName::from_static(TIMEOUT_HEADER);
const NO_RETRY: HeaderName = HeaderName::from_static(NO_RETRY_HEADER);

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
        let outcome = call.follow(head, body).await;
        call.over(&outcome);
        return outcome;
    }
    // Boxed, so that a call that nobody watches does not carry the room for it.
    let outcome = Box::pin(call.follow(head, body).instrument(span.clone())).await;
    call.over(&outcome);
    Call::record(&span, &outcome);
    outcome
}

/// A header, by eye if there are few: to hash a name costs more than to compare some.
fn find<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h HeaderValue> {
    if headers.keys_len() > FEW {
        return headers.get(name);
    }
    headers.iter().find(|(own, _)| *own == name).map(|(_, value)| value)
}

/// Whether it failed after it was sent again, or after that was refused: what serves a call with it should
/// not be repeated either (B-5.1).
fn is_spent(outcome: &Result<Response<Body>, ClientError>, attempts: Option<&Attempts>) -> bool {
    match outcome {
        Ok(response) => {
            let status = response.status();
            let is_error = status.is_server_error()
                || status == StatusCode::TOO_MANY_REQUESTS
                || grpc::End::of(response.headers()).is_some_and(|end| !end.is_ok());
            is_error
                && (response.headers().contains_key(&NO_RETRY) || attempts.is_some_and(Attempts::is_spent))
        }
        Err(error) => error.is_spent(),
    }
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
    began: Moment,
    deadline: Option<Moment>,
    /// The whole time of the call.
    limit: Option<Duration>,
    /// Until an answer whose body still arrives takes it.
    permit: Option<Permit<'c>>,
    attempts: Attempts,
    added: Added,
    /// It is a call of gRPC.
    is_grpc: bool,
    /// The call that this one is made to serve.
    serving: Option<Serving>,
    /// The trace it belongs to, if any.
    trace: Option<Position>,
}

/// What the caller did not put into the head.
#[derive(Default)]
struct Added {
    authority: bool,
    user_agent: bool,
    trace: bool,
    /// The `grpc-timeout` that ours replaced.
    grpc_timeout: Option<HeaderValue>,
}

impl<'c> Call<'c> {
    fn new(shared: &'c Shared, options: CallOptions, permit: Permit<'c>) -> Self {
        // What the call says replaces the client's limit; a call that is being served can only shorten it.
        let own = options.timeout.or(shared.settings.request_timeout);
        let serving = match &options.serving {
            Served::ByTask => Serving::current(),
            Served::By(serving) => Some(serving.clone()),
            Served::Detached => None,
        };
        let left = serving.as_ref().and_then(Serving::time_left).map(deadline::onwards);
        let limit = match (own, left) {
            (Some(own), Some(left)) => Some(own.min(left)),
            (limit, None) | (None, limit) => limit,
        };
        let began = shared.members.moment();
        let deadline = limit.and_then(|limit| began.after(limit));
        Self {
            shared,
            options,
            began,
            deadline,
            limit,
            permit: Some(permit),
            attempts: Attempts::default(),
            added: Added::default(),
            is_grpc: false,
            serving,
            trace: None,
        }
    }

    /// The number that the call being served came with; a proxy passes it on as it is.
    fn served_attempt(&self, head: &Parts) -> Option<u32> {
        let passed_on = || find(&head.headers, &ATTEMPT)?.to_str().ok()?.parse().ok();
        self.serving.as_ref().map(Serving::attempt).filter(|number| *number > 1).or_else(passed_on)
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
        if let Some(serving) = &self.serving {
            self.added.trace = serving.trace_onwards(&mut head.headers);
        }
        self.trace = find(&head.headers, &TRACEPARENT).and_then(Position::read);
        if self.trace.is_none() && settings.begins_traces && !head.headers.contains_key(&TRACEPARENT) {
            let random = self.shared.members.balancer().random();
            self.trace = Some(Position::begin(|| random.next_u64()));
            self.added.trace = true;
        }
        self.is_grpc = grpc::is_call(head);
        if self.is_grpc
            && let Some(given) = grpc::limit(&head.headers)
        {
            self.limit = Some(self.limit.map_or(given, |limit| limit.min(given)));
            self.deadline = self.limit.and_then(|limit| self.began.after(limit));
            self.added.grpc_timeout = find(&head.headers, &grpc::TIMEOUT).cloned();
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
        if self.added.trace {
            head.headers.remove(TRACEPARENT);
            head.headers.remove(TRACESTATE);
        } else if let Some(given) = self.trace.as_ref().and_then(|trace| trace.given.clone()) {
            head.headers.insert(TRACEPARENT, given);
        }
        head.headers.remove(TIMEOUT);
        head.headers.remove(ATTEMPT);
        if self.is_grpc {
            head.headers.remove(grpc::PREVIOUS);
            match self.added.grpc_timeout.clone() {
                Some(given) => head.headers.insert(grpc::TIMEOUT, given),
                None => head.headers.remove(grpc::TIMEOUT),
            };
        }
    }

    /// The call is over: what it did counts, for dashboards and for the call that it serves.
    fn over(&self, outcome: &Result<Response<Body>, ClientError>) {
        let attempts = match outcome {
            Ok(response) => response.extensions().get::<Attempts>(),
            Err(error) => error.attempts(),
        };
        self.shared.members.meters.ended(attempts.map_or(0, Attempts::count));
        if let Some(serving) = &self.serving
            && is_spent(outcome, attempts)
        {
            serving.spend();
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
