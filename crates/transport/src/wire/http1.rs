//! One HTTP/1.1 connection: a request at a time, and back to the pool when its answer was read.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use socket2::Socket;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;

use super::grace::Grace;
use super::pool::{Pool, PoolKey};
use super::{Connection, RawBody, Upload};
use crate::body::Taken;
use crate::error::BoxError;

/// The longest head of an answer (threats §3); hyper reads bodies through the same buffer.
const MAX_HEAD: usize = 64 * 1024;
const MAX_FIELDS: usize = 100;

/// An open connection and the task that drives it. Dropping it closes the connection.
#[derive(Debug)]
pub(crate) struct Conn {
    sender: SendRequest<Upload>,
    driver: JoinHandle<()>,
    /// A second handle to what the driver reads from, to look at it. The driver's, so that a connection which
    /// ended while it was idle holds nothing open; `None` if there is no socket below.
    socket: Option<Weak<Socket>>,
}

impl Conn {
    /// `socket` is what `stream` stands on.
    pub(crate) async fn open<S>(stream: S, socket: Option<Socket>) -> Result<Self, BoxError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD)
            .max_headers(MAX_FIELDS)
            .handshake(TokioIo::new(Grace::new(stream)))
            .await?;
        // Its error comes back through the request that it was for; an idle one has nobody to tell.
        let socket = socket.map(Arc::new);
        let looked_at = socket.as_ref().map(Arc::downgrade);
        let driver = tokio::spawn(async move {
            drop(connection.await);
            drop(socket);
        });
        Ok(Self { sender, driver, socket: looked_at })
    }

    /// Whether the other side has not closed an idle connection, as far as the system knows by now (GB-06).
    ///
    /// The driver may not have been told: whoever waits for it cannot be sure that it ran first. So this looks
    /// at the socket itself. Nothing may have arrived there, neither an end nor bytes: nobody asked for any.
    pub(crate) async fn is_usable(&mut self) -> bool {
        self.sender.ready().await.is_ok()
            && self
                .socket
                .as_ref()
                .is_none_or(|socket| socket.upgrade().is_some_and(|socket| is_silent(&socket)))
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Whether a socket that does not block has nothing to be read.
fn is_silent(socket: &Socket) -> bool {
    let peeked = socket.peek(&mut [MaybeUninit::uninit()]);
    peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// A connection that a request may be sent on, and where it goes afterwards.
pub(crate) struct Leased {
    pub(crate) conn: Conn,
    pub(crate) key: PoolKey,
    pub(crate) pool: Weak<Pool>,
}

#[async_trait]
impl Connection for Leased {
    async fn send(
        mut self: Box<Self>,
        mut request: http::Request<Upload>,
    ) -> Result<http::Response<RawBody>, BoxError> {
        to_origin_form(&mut request)?;
        let taken = request.body().taken();
        if taken.is_held_back() {
            let asked = taken.clone();
            hyper::ext::on_informational(&mut request, move |answer| {
                if answer.status() == http::StatusCode::CONTINUE {
                    asked.release();
                }
            });
        }
        let answer = self.conn.sender.send_request(request).await?;
        // If the answer came first, the rest of the body stays here.
        taken.stop();
        let (head, incoming) = answer.into_parts();
        if head.headers.contains_key(TRANSFER_ENCODING) && head.headers.contains_key(CONTENT_LENGTH) {
            // Two lengths, and somebody on the way may have believed the other one (RFC 9112 §6.3, S-103): what
            // follows on this connection is nobody's answer for certain.
            self.pool = Weak::new();
        }
        let body = Answering { incoming, lease: Some(*self), taken };
        Ok(http::Response::from_parts(head, body.boxed_unsync()))
    }
}

/// What stands on an HTTP/1.1 request line, and the `Host` that belongs to it.
fn to_origin_form(request: &mut http::Request<Upload>) -> Result<(), BoxError> {
    let target = std::mem::take(request.uri_mut());
    let authority = target.authority().ok_or("the request has no host")?;
    let host = http::HeaderValue::from_str(authority.as_str())?;
    request.headers_mut().insert(http::header::HOST, host);
    if let Some(path) = target.into_parts().path_and_query {
        *request.uri_mut() = path.into();
    }
    Ok(())
}

/// The body of an answer; its end gives the connection back, its drop before the end closes it.
struct Answering {
    incoming: Incoming,
    /// What keeps the connection open; an answer that outran its request closes it in the end.
    lease: Option<Leased>,
    taken: Arc<Taken>,
}

impl Answering {
    fn finished(&mut self) {
        if let Some(Leased { conn, key, pool }) = self.lease.take()
            && let Some(pool) = pool.upgrade()
            && self.taken.is_complete()
        {
            pool.put(key, conn);
        }
    }
}

impl Body for Answering {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.incoming).poll_frame(cx));
        if frame.is_none() {
            this.finished();
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        // Only a poll that says so gives the connection back.
        false
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if self.incoming.is_end_stream() {
            self.finished();
        }
    }
}
