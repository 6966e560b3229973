//! One attempt on one peer.

use std::{sync::Arc, time::Duration};

use http::{Response, header::AUTHORIZATION, request::Parts};
use peerage_balance::{LeaveOut, Outcome, Stage, deadline};
use peerage_discovery::{Peer, SourceId, escape};
use tokio::time::Instant;
use tracing::{Instrument, Span, debug_span};

use super::{ATTEMPT, Call, TIMEOUT, grpc};
use crate::{
    AuthAttacher as _, Body, BoxError, Channel, Insecure, PickExplanation,
    client::{
        Auth, Lease,
        members::{Member, Members, Node},
        moment::Moment,
    },
    dial::{ExchangeError, FailureKind, On, Until},
    error::Phase,
    replay::Replay,
    secure::Crossing,
    serving::{Spot, TRACEPARENT},
};

/// An attempt: which it is, and when what happened to it.
#[derive(Clone)]
pub(super) struct Course {
    /// From 1; counted on from the number of the call being served.
    pub(super) number: u32,
    /// On a connection of its own, if possible.
    pub(super) fresh: bool,
    pub(super) began: Moment,
    /// When the connection was there and the request went out.
    pub(super) sent: Option<Moment>,
    /// Why it went there, if the call asks for that.
    pub(super) pick: Option<Arc<PickExplanation>>,
    /// A second copy, sent because the first was late.
    pub(super) is_hedge: bool,
}

/// How an attempt ended.
pub(super) enum Ended {
    Answer(Response<Body>),
    Failure(ExchangeError),
    /// The time of the call is over.
    Late(Late),
    /// There is no time left to begin it.
    NoTime,
    /// There is no credential for it. It was not sent, and must not be sent to anybody.
    Auth(BoxError),
    /// It must not be sent that way. Another peer would make no difference that the caller could rely on.
    Insecure(Insecure),
}

/// What the call waited for when its time was over.
#[derive(Clone, Copy)]
pub(super) struct Late {
    pub(super) phase: Phase,
    /// When the last of a streamed request was there.
    pub(super) given: Option<Instant>,
}

/// What was done to a head for one peer.
pub(super) struct Dressed {
    /// The head to be sent instead, of an attacher that may have done anything.
    pub(super) own: Option<Box<Parts>>,
    /// A credential was added that the next attempt must not find there.
    undo: bool,
    pub(super) span: Span,
}

/// A call that waits for its answer: given up when dropped, which is news about the peer (B-2.5).
struct Waiting<'a> {
    members: &'a Members,
    lease: &'a mut Lease,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.lease.is_waiting() {
            self.members.balancer().head(self.lease, Outcome::Cancelled, self.members.now());
        }
    }
}

impl Call<'_> {
    /// Sends it to the peer of the lease and waits for the head of the answer; to another one, whose lease
    /// is there then, if that could be connected to sooner.
    pub(super) async fn attempt(
        &mut self,
        lease: &mut Lease,
        tried: &mut LeaveOut,
        head: &mut Parts,
        body: &Replay,
        course: &mut Course,
    ) -> Ended {
        let members = &self.shared.members;
        let mut member = Arc::clone(lease.member());
        let (mut channel, mut dressed) = match self.dress(&member, head, course) {
            Ok(dressed) => dressed,
            Err(ended) => return *ended,
        };
        let mut on = if course.fresh { On::New } else { On::Any };
        if !channel.has_idle() && !course.fresh && body.is_in_memory() {
            // Boxed, so that calls on an open connection do not carry the room for it.
            let connected = Box::pin(self.connect(channel, lease, tried, head, course)).await;
            let is_first = connected.as_ref().is_ok_and(|connected| !connected.is_other);
            if !is_first && dressed.undo {
                head.headers.remove(AUTHORIZATION);
            }
            on = match connected {
                Ok(connected) => connected.on,
                Err(error) => return self.ended(Err(error)),
            };
            if !is_first {
                member = Arc::clone(lease.member());
                (channel, dressed) = match self.dress(&member, head, course) {
                    Ok(dressed) => dressed,
                    Err(ended) => return *ended,
                };
            }
        }
        let sent = dressed.own.as_deref().unwrap_or(head);
        let until = self.until(course.began);
        let waiting = Waiting { members, lease };
        let ready = |now| {
            let now = members.moment_of(now);
            course.sent = Some(now);
            waiting.lease.sent(now.nanos);
        };
        // Begun where it is waited for: what is begun before is moved there, and it is large.
        let may_be_cut = members.may_be_cut(course.began, until.at);
        let result = if dressed.span.is_disabled() && !may_be_cut {
            channel.send(sent, body.attempt(), on, until, ready).await
        } else {
            let exchange = channel.send(sent, body.attempt(), on, until, ready);
            Box::pin(watched(exchange, member.attached(), may_be_cut).instrument(dressed.span)).await
        };
        // Its end is told by who judges the result.
        std::mem::forget(waiting);
        if dressed.undo {
            head.headers.remove(AUTHORIZATION);
        }
        self.ended(result)
    }

    pub(super) fn ended(&self, result: Result<Response<Body>, ExchangeError>) -> Ended {
        match result {
            Ok(response) => Ended::Answer(response),
            Err(error) if error.is_timeout() && self.deadline.is_some_and(|end| end.at <= Instant::now()) => {
                let phase = match (error.kind, error.stage) {
                    (FailureKind::RequestLate, _) => Phase::RequestBody,
                    (_, Stage::NotSent) => Phase::Connect,
                    _ => Phase::Head,
                };
                Ended::Late(Late { phase, given: error.given })
            }
            Err(error) => Ended::Failure(error),
        }
    }

    /// Makes the head ready for one peer: the way to it, what differs between attempts, credentials, and
    /// whether they may cross that way.
    pub(super) fn dress<'m>(
        &self,
        member: &'m Member,
        head: &mut Parts,
        course: &Course,
    ) -> Result<(&'m Channel, Dressed), Box<Ended>> {
        let (members, settings) = (&self.shared.members, self.settings());
        let peer = member.peer();
        let rest = self.deadline.map(|deadline| deadline.since(course.began));
        if rest.is_some_and(|rest| rest < deadline::LEAST) {
            return Err(Box::new(Ended::NoTime));
        }
        let channel = member.attached().channel(&*members.dialer, peer).map_err(|source| {
            let error = ExchangeError::new(FailureKind::Connect, Stage::NotSent, source);
            Box::new(Ended::Failure(error))
        })?;
        self.complete(head, rest, course.number);
        let spot = self.trace(head);
        let span = attempt_span(member, course.number, spot.as_ref());
        let mut dressed = Dressed { own: None, undo: false, span };
        let attached = match &settings.auth {
            Auth::None => Ok(()),
            // What it does is known, and can be undone without a copy.
            Auth::Bearer(bearer) => {
                dressed.undo = !head.headers.contains_key(AUTHORIZATION);
                bearer.attach(head, peer)
            }
            Auth::Attacher(attacher) => attacher.attach(dressed.own.insert(Box::new(head.clone())), peer),
        };
        attached.map_err(|source| Box::new(Ended::Auth(source)))?;
        let sent = dressed.own.as_deref().unwrap_or(head);
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
                if dressed.undo {
                    head.headers.remove(AUTHORIZATION);
                }
                return Err(Box::new(Ended::Insecure(why)));
            }
        }
        Ok((channel, dressed))
    }

    /// When an attempt that began then must be over.
    pub(super) fn until(&self, began: Moment) -> Until {
        let (deadline, per_try) =
            (self.deadline.map(|deadline| deadline.at), self.settings().retry.per_try_limit());
        let at = match (deadline, per_try.and_then(|limit| began.at.checked_add(limit))) {
            (Some(deadline), Some(per_try)) => Some(deadline.min(per_try)),
            (at, None) | (None, at) => at,
        };
        Until { at, deadline, per_try }
    }

    /// Adds what differs from one attempt to the next.
    fn complete(&self, head: &mut Parts, rest: Option<Duration>, number: u32) {
        let settings = self.settings();
        if let Some(rest) = rest {
            let value = match &settings.whole_timeout {
                // Nothing worth a millisecond has happened yet.
                Some(whole) if self.limit == settings.request_timeout && self.is_new(rest) => whole.clone(),
                _ => deadline::to_millis(rest).into(),
            };
            head.headers.insert(TIMEOUT, value);
            if self.is_grpc
                && let Some(value) = grpc::timeout(rest)
            {
                head.headers.insert(grpc::TIMEOUT, value);
            }
        }
        if number > 1 {
            head.headers.insert(ATTEMPT, number.into());
            if self.is_grpc {
                head.headers.insert(grpc::PREVIOUS, (number - 1).into());
            }
        }
    }

    /// Makes the attempt a span of its own in the trace that the call belongs to, if it belongs to one.
    fn trace(&self, head: &mut Parts) -> Option<Spot<'_>> {
        let spot = self.trace.as_ref()?.child(self.shared.members.balancer().random().next_u64());
        if let Some(value) = spot.header() {
            head.headers.insert(TRACEPARENT, value);
        }
        Some(spot)
    }

    fn is_new(&self, rest: Duration) -> bool {
        self.limit.is_some_and(|limit| limit.saturating_sub(rest) < deadline::LEAST)
    }
}

/// The exchange, unless the peer leaves and it goes on for too long (B-9.2).
pub(super) async fn watched(
    exchange: impl Future<Output = Result<Response<Body>, ExchangeError>>,
    node: &Node,
    may_be_cut: bool,
) -> Result<Response<Body>, ExchangeError> {
    tokio::select! {
        biased;
        result = exchange => result,
        () = node.has_been_cut(), if may_be_cut => {
            Err(ExchangeError::new(FailureKind::Drained, Stage::Ambiguous, "it left and its time is over"))
        }
    }
}

fn attempt_span(member: &Member, number: u32, spot: Option<&Spot<'_>>) -> Span {
    debug_span!(
        "attempt",
        trace_id = spot.map(Spot::trace),
        span_id = spot.map(Spot::span),
        parent_span_id = spot.and_then(Spot::parent),
        otel.kind = "client",
        peerage.node_id = %escape(member.peer().node_id()),
        server.address = %member.peer().address(),
        http.request.resend_count = number - 1,
    )
}

/// Whether the peer, or part of what is known of it, comes from a source to which anybody can write.
fn announced_by_anybody(peer: &Peer) -> bool {
    *peer.source() == SourceId::Mdns || peer.also_from().contains(&SourceId::Mdns)
}
