//! What every call passes on its way to the handlers and back: bearer, deadline, faults, log.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use peerage_controlclient::pb::control_plane_server::ControlPlaneServer;
use tonic::body::Body;
use tonic::{Code, Status};
use tower_service::Service as _;

use crate::rpc::{Call, Rpc};
use crate::service::{Note, Service};
use crate::shared::Shared;
use crate::sign::credential;

/// As gRPC-Go has it by default, and no gateway raises it.
const REQUEST_MAX: usize = 4 * 1024 * 1024;

/// Answers the calls of one connection.
#[derive(Clone, Debug)]
pub(crate) struct Front {
    shared: Arc<Shared>,
    handlers: ControlPlaneServer<Service>,
    peer: SocketAddr,
    connection: u64,
}

impl Front {
    pub(crate) fn new(shared: Arc<Shared>, peer: SocketAddr, connection: u64) -> Self {
        let handlers =
            ControlPlaneServer::new(Service(shared.clone())).max_decoding_message_size(REQUEST_MAX);
        Self { shared, handlers, peer, connection }
    }

    async fn answer(mut self, mut request: Request<Incoming>) -> Response<Body> {
        let at = self.shared.started.elapsed();
        let Some(rpc) = Rpc::of_path(request.uri().path()) else {
            // Answers UNIMPLEMENTED.
            return self.handle(request).await;
        };
        let headers = request.headers();
        let authorized = headers.contains_key(header::AUTHORIZATION);
        let deadline = deadline(headers);
        let note = Note::default();
        let answer = match self.refusal(rpc, headers) {
            Some(status) => status.into_http(),
            None => {
                request.extensions_mut().insert(note.clone());
                let handled = self.handle(request);
                match deadline {
                    None => handled.await,
                    Some(limit) => match tokio::time::timeout(limit, handled).await {
                        Ok(answer) => answer,
                        Err(_) => Status::deadline_exceeded("the caller's deadline passed").into_http(),
                    },
                }
            }
        };
        let (code, message) = match Status::from_header_map(answer.headers()) {
            Some(status) => (status.code(), status.message().to_owned()),
            None => (Code::Ok, String::new()),
        };
        let (delay, lost) = {
            let mut faults = self.shared.faults();
            (faults.delays.get(&rpc).copied(), faults.take_loss(rpc))
        };
        self.shared.called(Call {
            rpc,
            at,
            took: self.shared.started.elapsed().saturating_sub(at),
            peer: self.peer,
            connection: self.connection,
            authorized,
            registration_id: note.get(),
            code,
            message,
            answered: !lost,
        });
        if lost {
            // Until the other end, or the gateway, closes the connection.
            std::future::pending::<()>().await;
        }
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        answer
    }

    /// What is answered instead of carrying the call out.
    fn refusal(&self, rpc: Rpc, headers: &HeaderMap) -> Option<Status> {
        if let Some(bearer) = &self.shared.rules.bearer {
            let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
            let matches = shown.and_then(credential).is_some_and(|shown| bearer.is(&shown));
            if !matches {
                return Some(Status::unauthenticated("this gateway asks for a bearer token"));
            }
        }
        self.shared.faults().take_failure(rpc)
    }

    async fn handle(&mut self, request: Request<Incoming>) -> Response<Body> {
        let mut answer = self.handlers.call(request).await.unwrap_or_else(|never| match never {});
        // tonic calls a request that is too long OUT_OF_RANGE; a gateway says RESOURCE_EXHAUSTED. No handler
        // ever answers with the first.
        if Status::from_header_map(answer.headers()).is_some_and(|status| status.code() == Code::OutOfRange) {
            let text = format!("grpc: received message larger than max ({REQUEST_MAX})");
            answer = Status::resource_exhausted(text).into_http();
        }
        answer
    }
}

impl hyper::service::Service<Request<Incoming>> for Front {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let answering = self.clone().answer(request);
        Box::pin(async move { Ok(answering.await) })
    }
}

/// `grpc-timeout`: up to eight digits and a unit. What is not that is no deadline.
fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout").map(HeaderValue::to_str)?.ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3_600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_digits_and_a_unit() {
        let read = |text: &str| {
            let value = HeaderValue::from_str(text).unwrap();
            deadline(&HeaderMap::from_iter([("grpc-timeout".parse().unwrap(), value)]))
        };
        assert_eq!(read("300m"), Some(Duration::from_millis(300)));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        for bad in ["", "m", "5", "123456789S", "-1S", "1.5S", "5x"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
