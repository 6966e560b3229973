//! The loop behind everything that answers plain HTTP here: connections in, answers out, and an end in order.

use std::convert::Infallible;
use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;

use crate::stop::Stop;

/// The longest pause after the system refused to hand out a connection.
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Answers HTTP/1.1 and HTTP/2 on `listener` until asked to stop, then lets running calls finish, at most for
/// `drain`. Whether all of them did.
pub(crate) async fn serve<S, B>(listener: TcpListener, service: S, drain: Duration, stop: &mut Stop) -> bool
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(30));
    http.http2().timer(TokioTimer::new()).max_concurrent_streams(256).max_header_list_size(16 * 1024);
    let graceful = GracefulShutdown::new();
    let mut pause = Duration::ZERO;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.asked() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, or a connection that was gone again: neither ends a server.
                pause = (pause * 2).clamp(Duration::from_millis(5), ACCEPT_PAUSE_MAX);
                tracing::warn!(%error, "cannot accept");
                tokio::time::timeout(pause, stop.asked()).await.ok();
                continue;
            }
        };
        pause = Duration::ZERO;
        stream.set_nodelay(true).ok();
        let connection = http.serve_connection(TokioIo::new(stream), service.clone());
        let connection = graceful.watch(connection.into_owned());
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
        });
    }
    drop(listener);
    tokio::time::timeout(drain, graceful.shutdown()).await.is_ok()
}
