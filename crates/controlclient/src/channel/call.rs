//! One call: sent on a connection, answered in time, and its failure told apart (controlplane §4.8).

use std::error::Error as StdError;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::client::conn::http2;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::{Code, Status};
use tracing::Instrument as _;

use super::{Connection, Link};
use crate::failure::{Failure, FailureKind};
use crate::pb;
use crate::pb::control_plane_client::ControlPlaneClient;

/// The longest answer (threats §3).
const MAX_MESSAGE: usize = 4 << 20;
/// The longest registration id (S-155).
const MAX_ID: usize = 256;

/// How long a broken connection may take to say why.
const AFTERTHOUGHT: Duration = Duration::from_millis(50);
/// What the gateway's own status was, as opposed to one that tonic makes of a broken answer.
const NO_STATUS: u8 = 0;
const SUCCESS: u8 = 1;
const REFUSAL: u8 = 2;

/// Why a call failed, and how far it came.
#[derive(Clone, Debug)]
pub(crate) struct CallError {
    pub(crate) failure: Failure,
    pub(crate) how: How,
}

/// What a failure says about the connection and about the gateway's having acted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// No connection came up: nothing was sent.
    NotSent,
    /// No answer in time: the connection may be dead, the gateway may have acted.
    Deadline,
    /// The connection broke: the gateway may have acted.
    Broken,
    /// The gateway answered, and may yet have acted.
    Doubtful,
    /// The gateway answered that it did not act.
    Refused,
}

impl CallError {
    pub(crate) fn not_sent(failure: Failure) -> Self {
        Self { failure, how: How::NotSent }
    }

    /// The time was over before there was a connection.
    pub(crate) fn unconnected(limit: Duration) -> Self {
        Self::not_sent(Failure::local(
            FailureKind::Unreachable,
            format_args!("no connection within {limit:?}"),
        ))
    }

    pub(crate) fn deadline(limit: Duration) -> Self {
        let failure = Failure::local(FailureKind::Timeout, format_args!("no answer within {limit:?}"));
        Self { failure, how: How::Deadline }
    }
}

/// A link and the connection that this caller last used.
pub(crate) struct Caller {
    link: Arc<Link>,
    slots: Arc<[String]>,
    /// How long an attempt to connect may take.
    connect_limit: Duration,
}

impl Caller {
    pub(crate) fn new(link: Arc<Link>, slots: Arc<[String]>, connect_limit: Duration) -> Self {
        Self { link, slots, connect_limit }
    }

    pub(crate) async fn connection(&self, avoid: Option<u64>) -> Result<Arc<Connection>, CallError> {
        self.link.connection(avoid, self.connect_limit).await
    }

    pub(crate) async fn register(
        &self,
        connection: &Connection,
        request: pb::RegisterRequest,
        until: Instant,
    ) -> Result<pb::RegisterResponse, CallError> {
        let answer = self
            .call(connection, "Register", until, request, |mut client, request| async move {
                client.register(request).await
            })
            .await?;
        if !valid_id(&answer.registration_id) {
            let failure = Failure::local(
                FailureKind::Malformed,
                "the registration id is empty, too long, or not printable",
            );
            return Err(CallError { failure, how: How::Doubtful });
        }
        Ok(answer)
    }

    pub(crate) async fn heartbeat(
        &self,
        connection: &Connection,
        id: &str,
        until: Instant,
    ) -> Result<bool, CallError> {
        let request = pb::HeartbeatRequest { registration_id: id.to_owned() };
        self.call(connection, "Heartbeat", until, request, |mut client, request| async move {
            client.heartbeat(request).await
        })
        .await
        .map(|answer| answer.ok)
    }

    pub(crate) async fn deregister(
        &self,
        connection: &Connection,
        id: &str,
        until: Instant,
    ) -> Result<(), CallError> {
        let request = pb::DeregisterRequest { registration_id: id.to_owned() };
        self.call(connection, "Deregister", until, request, |mut client, request| async move {
            client.deregister(request).await
        })
        .await
        .map(drop)
    }

    pub(crate) async fn list_registrations(
        &self,
        connection: &Connection,
        until: Instant,
    ) -> Result<Vec<pb::Registration>, CallError> {
        let request = pb::ListRegistrationsRequest {};
        self.call(connection, "ListRegistrations", until, request, |mut client, request| async move {
            client.list_registrations(request).await
        })
        .await
        .map(|answer| answer.registrations)
    }

    pub(crate) async fn list_services(
        &self,
        connection: &Connection,
        until: Instant,
    ) -> Result<Vec<pb::ServiceInfo>, CallError> {
        let request = pb::ListServicesRequest {};
        self.call(connection, "ListServices", until, request, |mut client, request| async move {
            client.list_services(request).await
        })
        .await
        .map(|answer| answer.services)
    }

    async fn call<Q, A, F>(
        &self,
        connection: &Connection,
        method: &'static str,
        until: Instant,
        message: Q,
        send: impl FnOnce(ControlPlaneClient<Wire>, tonic::Request<Q>) -> F,
    ) -> Result<A, CallError>
    where
        F: Future<Output = Result<tonic::Response<A>, Status>>,
    {
        let began = Instant::now();
        let limit = until.saturating_duration_since(began);
        let span = tracing::debug_span!(
            "gateway call",
            otel.kind = "client",
            rpc.system.name = "grpc",
            rpc.method = format_args!("gateway.controlplane.v1.ControlPlane/{method}"),
            server.address = %self.link.target().host,
            server.port = self.link.target().port,
            rpc.response.status_code = tracing::field::Empty,
        );
        let answered = Arc::new(AtomicU8::new(NO_STATUS));
        let bearer = self.link.bearer().map(super::Bearer::value);
        let wire = Wire { send: connection.sender(), bearer, answered: answered.clone() };
        let client = ControlPlaneClient::with_origin(wire, self.link.origin().clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(usize::MAX);
        let mut request = tonic::Request::new(message);
        // So that the gateway does not work on for a caller that has gone, as on an endpoint that hangs.
        request.set_timeout(limit);
        let result = timeout_at(until, send(client, request).instrument(span.clone())).await;
        match result {
            Err(_) => Err(CallError::deadline(limit)),
            Ok(Ok(answer)) => {
                span.record("rpc.response.status_code", "OK");
                Ok(answer.into_inner())
            }
            Ok(Err(status)) => {
                span.record("rpc.response.status_code", format_args!("{:?}", status.code()));
                // Relaxed: set by the task that polled the answer, which is this one.
                let refused = answered.load(Ordering::Relaxed) == REFUSAL;
                let mut error = self.failed(&status, refused, until, limit);
                // A gateway that does not like our certificate says so after the handshake: the connection
                // knows, a moment later.
                if error.how == How::Broken
                    && self.link.is_encrypted()
                    && timeout(AFTERTHOUGHT, connection.lost()).await.is_ok()
                    && let Some(failure) = connection.tls_failure()
                {
                    error.failure = failure;
                }
                Err(error)
            }
        }
    }

    /// What a status means that the gateway sent, or that stands for what happened on the way.
    fn failed(&self, status: &Status, answered: bool, until: Instant, limit: Duration) -> CallError {
        if answered {
            let how = match status.code() {
                // The gateway, or somebody between, does not say that nothing was done.
                Code::Cancelled
                | Code::DeadlineExceeded
                | Code::Aborted
                | Code::Unavailable
                | Code::Internal => How::Doubtful,
                _ => How::Refused,
            };
            return CallError {
                failure: Failure::answered(status.code(), status.message(), &self.slots),
                how,
            };
        }
        if Instant::now() >= until {
            return CallError::deadline(limit);
        }
        if let Some(failure) = tls_failure(status) {
            return CallError { failure, how: How::Broken };
        }
        let mut source: Option<&(dyn StdError + 'static)> = Some(status);
        while let Some(error) = source {
            if error.is::<hyper::Error>() {
                return CallError {
                    failure: Failure::local(FailureKind::Unavailable, error),
                    how: How::Broken,
                };
            }
            source = error.source();
        }
        let kind = match status.code() {
            Code::OutOfRange | Code::ResourceExhausted => FailureKind::TooLarge,
            // No gRPC answer but an HTTP one that says "later": something between us and the gateway.
            Code::Unavailable => FailureKind::Unavailable,
            Code::Unauthenticated | Code::PermissionDenied => FailureKind::Denied,
            Code::Unimplemented => FailureKind::NotAGateway,
            // A status that does not say what it is.
            Code::Unknown => FailureKind::Unknown,
            _ => FailureKind::Malformed,
        };
        CallError { failure: Failure::local(kind, status.message()), how: How::Doubtful }
    }
}

/// What TLS says somewhere below `error`.
pub(super) fn tls_failure(error: &(dyn StdError + 'static)) -> Option<Failure> {
    let mut source = Some(error);
    while let Some(error) = source {
        let io = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let tls = error.downcast_ref::<rustls::Error>().or_else(|| io?.downcast_ref());
        if let Some(tls) = tls {
            return Some(Failure::local(FailureKind::Tls, tls));
        }
        source = error.source();
    }
    None
}

fn valid_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= MAX_ID && !id.chars().any(char::is_control)
}

/// A connection as tonic's client wants it.
#[derive(Clone)]
pub(crate) struct Wire {
    send: http2::SendRequest<tonic::body::Body>,
    bearer: Option<HeaderValue>,
    /// What the gateway's own status was.
    answered: Arc<AtomicU8>,
}

type WireError = Box<dyn StdError + Send + Sync>;

impl tower_service::Service<Request<tonic::body::Body>> for Wire {
    type Response = Response<Answer>;
    type Error = WireError;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // A call on a connection that is gone fails by itself.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<tonic::body::Body>) -> Self::Future {
        if let Some(bearer) = &self.bearer {
            request.headers_mut().insert(AUTHORIZATION, bearer.clone());
        }
        let answered = self.answered.clone();
        let answer = self.send.send_request(request);
        Box::pin(async move {
            let (head, body) = answer.await?.into_parts();
            if head.status == StatusCode::OK {
                note(&head.headers, &answered);
                let grpc = head
                    .headers
                    .get(CONTENT_TYPE)
                    .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
                if !grpc {
                    return Err(Status::internal("the answer is not gRPC").into());
                }
            }
            let answer = Answer { body, answered, checks: head.status == StatusCode::OK, ended: false };
            Ok(Response::from_parts(head, answer))
        })
    }
}

/// Notes that the gateway sent a status, and whether it was a refusal.
fn note(headers: &HeaderMap, answered: &AtomicU8) {
    if let Some(status) = headers.get("grpc-status") {
        // Relaxed: read by the task that polls this.
        answered.store(if status == "0" { SUCCESS } else { REFUSAL }, Ordering::Relaxed);
    }
}

/// An answer's body; one that ends without a status is none.
pub(crate) struct Answer {
    body: hyper::body::Incoming,
    answered: Arc<AtomicU8>,
    checks: bool,
    ended: bool,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = WireError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, WireError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    note(trailers, &self.answered);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => {
                self.ended = true;
                if self.checks && self.answered.load(Ordering::Relaxed) == NO_STATUS {
                    let error = Status::unknown("the answer ended without a status");
                    return Poll::Ready(Some(Err(error.into())));
                }
                Poll::Ready(None)
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
