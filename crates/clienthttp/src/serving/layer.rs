//! The layer around a service that is called.

use std::{
    future::Future,
    pin::Pin,
    sync::atomic::Ordering,
    task::{Context, Poll, ready},
};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header::CONTENT_TYPE};
use peerage_balance::deadline::NO_RETRY_HEADER;
use tokio::{
    task::futures::TaskLocalFuture,
    time::{Sleep, sleep_until},
};
use tower_layer::Layer;
use tower_service::Service;

use super::{CURRENT, Serving};

const NO_RETRY: HeaderName = HeaderName::from_static(NO_RETRY_HEADER);
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
const DEADLINE_EXCEEDED: &str = "4";

/// Around a service that is called by others: keeps to the time that its caller has, and keeps repeats from
/// multiplying (B-5.1, B-8).
///
/// It reads `peerage-attempt` and `peerage-timeout-ms` (or `grpc-timeout`, or
/// `x-envoy-expected-rq-timeout-ms`, whichever is the shortest). A handler that is not done when that time is
/// over is dropped, and the answer is 504, for gRPC DEADLINE_EXCEEDED. Calls that the handler makes in its own
/// task, by any [`Client`](crate::Client), inherit what is left of the time, the attempt, and the W3C trace. An
/// error answer is marked `peerage-no-retry` if one of them failed after it was sent again, or was refused
/// that; any answer is if the service says so by [`Serving::no_retry`].
///
/// ```
/// # #[cfg(feature = "test-util")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use axum::{Router, extract::Extension, routing::get};
/// use peerage_clienthttp::{Client, Serving, ServingLayer, TestDialer};
///
/// let handler = async |Extension(serving): Extension<Serving>| format!("attempt {}", serving.attempt());
/// let app = Router::new().route("/", get(handler)).layer(ServingLayer::new());
/// # let peers = TestDialer::serve("billing-1", app);
/// # let client = Client::builder("billing").discovery(peers.discovery("billing")?).dialer(peers).build().await?;
/// assert_eq!(client.get("/").send().await?.text().await?, "attempt 1");
/// # Ok(()) }
/// # #[cfg(not(feature = "test-util"))]
/// # fn main() {}
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct ServingLayer {}

impl ServingLayer {
    /// With all of that.
    #[must_use]
    pub const fn new() -> Self {
        Self {}
    }
}

impl<S> Layer<S> for ServingLayer {
    type Service = ServingService<S>;

    fn layer(&self, inner: S) -> ServingService<S> {
        ServingService { inner }
    }
}

/// A service behind a [`ServingLayer`].
#[derive(Clone, Copy, Debug)]
pub struct ServingService<S> {
    inner: S,
}

impl<S, B, R> Service<Request<B>> for ServingService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Default,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = ServingFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let serving = Serving::of(request.headers());
        request.extensions_mut().insert(serving.clone());
        let late = serving.deadline().map(sleep_until);
        // Handlers that do their work in `call` are in the scope, too.
        let answering = CURRENT.sync_scope(serving.clone(), || self.inner.call(request));
        ServingFuture { answering: CURRENT.scope(serving.clone(), answering), late, serving }
    }
}

pin_project_lite::pin_project! {
    /// An answer on its way, from a [`ServingService`].
    pub struct ServingFuture<F> {
        #[pin]
        answering: TaskLocalFuture<Serving, F>,
        #[pin]
        late: Option<Sleep>,
        serving: Serving,
    }
}

impl<F, R, E> Future for ServingFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Default,
{
    type Output = Result<Response<R>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(outcome) = this.answering.poll(cx) {
            return Poll::Ready(outcome.map(|mut response| {
                this.serving.mark(response.status(), response.headers_mut());
                response
            }));
        }
        let Some(late) = this.late.as_pin_mut() else { return Poll::Pending };
        ready!(late.poll(cx));
        Poll::Ready(Ok(this.serving.too_late()))
    }
}

impl<F> std::fmt::Debug for ServingFuture<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServingFuture").field("serving", &self.serving).finish_non_exhaustive()
    }
}

impl Serving {
    /// Marks an answer that must not be repeated.
    fn mark(&self, status: StatusCode, headers: &mut HeaderMap) {
        // What stands between may answer a call of gRPC with a status of HTTP alone.
        let is_error = status.is_server_error()
            || status == StatusCode::TOO_MANY_REQUESTS
            || self.inner.is_grpc && headers.get(GRPC_STATUS).is_some_and(|code| code != "0");
        let is_spent = is_error && self.inner.is_spent.load(Ordering::Relaxed);
        if is_spent || self.inner.no_retry.load(Ordering::Relaxed) {
            headers.insert(NO_RETRY, HeaderValue::from_static("1"));
            if self.inner.is_grpc {
                headers.insert(GRPC_PUSHBACK, HeaderValue::from_static("-1"));
            }
        }
    }

    /// The answer of a service that took all the time that its caller had.
    fn too_late<R: Default>(&self) -> Response<R> {
        let mut response = Response::new(R::default());
        if self.inner.is_grpc {
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert(GRPC_STATUS, HeaderValue::from_static(DEADLINE_EXCEEDED));
        } else {
            *response.status_mut() = StatusCode::GATEWAY_TIMEOUT;
        }
        self.mark(response.status(), response.headers_mut());
        response
    }
}
