//! Calls of gRPC: where their time, their number and their end are told (B-3.1, B-4.3, B-5.1, B-8).
//!
//! The end is looked for in the head of the answer, where servers tell of calls that gave nothing. One that is told
//! behind messages, in trailers, comes too late to send the call again, and is the caller's to read.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, header::CONTENT_TYPE, request::Parts};
use peerage_balance::{
    Event, Outcome,
    deadline::{GRPC_TIMEOUT_HEADER, GrpcTimeout},
    repeat::Pushback,
};

use super::find;

pub(super) const TIMEOUT: HeaderName = HeaderName::from_static(GRPC_TIMEOUT_HEADER);
pub(super) const PREVIOUS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
/// What a status counts as that is none.
const UNKNOWN: u32 = 2;
const DEADLINE_EXCEEDED: u32 = 4;

/// Whether it is a call of gRPC.
pub(super) fn is_call(head: &Parts) -> bool {
    head.method == Method::POST
        && find(&head.headers, &CONTENT_TYPE)
            .and_then(|kind| kind.as_bytes().strip_prefix(b"application/grpc"))
            .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// How much time its caller gives it.
pub(super) fn limit(headers: &HeaderMap) -> Option<Duration> {
    GrpcTimeout::read(find(headers, &TIMEOUT)?.as_bytes())
}

/// How the peer is told of that.
pub(super) fn timeout(rest: Duration) -> Option<HeaderValue> {
    HeaderValue::try_from(GrpcTimeout::new(rest).to_string()).ok()
}

/// How a call ended, where the head of its answer says so.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    code: u32,
    pushback: Option<Pushback>,
}

impl End {
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let code = headers.get(STATUS)?.to_str().ok().and_then(|code| code.parse().ok());
        let pushback = headers.get(PUSHBACK).map(|value| Pushback::read(value.as_bytes()));
        Some(Self { code: code.unwrap_or(UNKNOWN), pushback })
    }

    pub(super) const fn is_ok(self) -> bool {
        self.code == 0
    }

    /// Its time was over.
    pub(super) const fn is_late(self) -> bool {
        self.code == DEADLINE_EXCEEDED
    }

    /// How long the peer asks to be left alone.
    pub(super) fn pause(self) -> Option<Duration> {
        match self.pushback {
            Some(Pushback::After(pause)) if !self.is_ok() && !pause.is_zero() => Some(pause),
            _ => None,
        }
    }

    pub(super) fn outcome(self) -> Outcome {
        if self.pause().is_some() { Outcome::Throttled } else { Outcome::of_grpc_status(self.code) }
    }

    pub(super) const fn event(self, no_retry: bool) -> Event {
        Event::AnsweredGrpc { code: self.code, pushback: self.pushback, no_retry }
    }
}
