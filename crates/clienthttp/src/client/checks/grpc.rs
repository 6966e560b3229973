//! The health protocol of gRPC: `grpc.health.v1.Health/Watch`, answered by a stream of words about one
//! service, the first of them at once (gRFC A17).

use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header, request::Parts};
use http_body_util::BodyExt as _;
use prost::Message as _;
use tokio::time::{Instant, timeout_at};

use crate::{Body, Channel, ConfigError, dial::On};

const WATCH: &str = "/grpc.health.v1.Health/Watch";
/// The code for a method that the server does not have.
const UNIMPLEMENTED: &str = "12";
/// The longest name asked about; and more than any word about it.
const MOST: usize = 4 * 1024;
/// The name before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;
/// How long a stream is listened to at most, should nobody replace it.
const LISTEN: Duration = Duration::from_secs(2 * 3_600);

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    /// 1 is SERVING; 0 UNKNOWN, 2 NOT_SERVING, 3 SERVICE_UNKNOWN.
    #[prost(int32, tag = "1")]
    status: i32,
}

/// What asking came to.
pub(super) enum Word {
    /// What it said, and where it will say more.
    Said { serves: bool, more: Words },
    /// It does not speak this protocol.
    Unimplemented,
    /// Nothing that could be understood, or nothing in time.
    Nothing,
}

/// A question about a service: the request to send.
#[derive(Clone)]
pub(super) struct Question {
    head: Box<Parts>,
    message: Bytes,
}

impl Question {
    pub(super) fn new(service: &str) -> Result<Self, ConfigError> {
        if service.len() > MOST {
            return Err(ConfigError::Setting { setting: "checks", why: "a service name of at most 4 KiB" });
        }
        let asked = HealthCheckRequest { service: service.to_owned() }.encode_to_vec();
        let mut message = BytesMut::with_capacity(PREFIX + asked.len());
        message.put_u8(0);
        message.put_u32(u32::try_from(asked.len()).unwrap_or(0));
        message.put_slice(&asked);

        let mut request = Request::new(());
        (*request.method_mut(), *request.uri_mut()) = (Method::POST, Uri::from_static(WATCH));
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        Ok(Self { head: Box::new(request.into_parts().0), message: message.freeze() })
    }

    pub(super) fn head_mut(&mut self) -> &mut Parts {
        &mut self.head
    }

    /// Asks, and waits for the first word until then.
    pub(super) async fn ask(&self, channel: &Channel, until: Instant) -> Word {
        let body = Body::from(self.message.clone());
        let Ok(answer) = channel.send(&self.head, body, On::Any, until.into(), |_| {}).await else {
            return Word::Nothing;
        };
        let (head, body) = answer.into_parts();
        // As gRPC reads the statuses of servers that know nothing of it.
        if head.status == http::StatusCode::NOT_FOUND || is_unimplemented(&head.headers) {
            return Word::Unimplemented;
        }
        let kind = head.headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
        if head.status != http::StatusCode::OK || !kind.starts_with(b"application/grpc") {
            return Word::Nothing;
        }
        let mut more = Words { body, read: BytesMut::new(), is_unimplemented: false };
        match timeout_at(until, more.next()).await {
            Ok(Some(serves)) => Word::Said { serves, more },
            Ok(None) if more.is_unimplemented => Word::Unimplemented,
            _ => Word::Nothing,
        }
    }
}

/// The rest of an answer.
pub(super) struct Words {
    body: Body,
    read: BytesMut,
    is_unimplemented: bool,
}

impl Words {
    /// Whether the service serves now, when that changes. `None` when nothing more will be said.
    pub(super) async fn next(&mut self) -> Option<bool> {
        loop {
            if let Some(message) = self.take()? {
                let status = HealthCheckResponse::decode(message).ok()?.status;
                return Some(status == 1);
            }
            match self.body.frame().await?.ok()?.into_data() {
                Ok(data) => self.read.extend_from_slice(&data),
                Err(frame) => {
                    let trailers = frame.into_trailers().ok()?;
                    self.is_unimplemented = is_unimplemented(&trailers);
                    return None;
                }
            }
        }
    }

    /// As [`next`](Self::next), for as long as anybody may listen.
    pub(super) async fn next_while_it_lasts(&mut self) -> Option<bool> {
        tokio::time::timeout(LISTEN, self.next()).await.ok()?
    }

    /// The next whole message that was read; `None` in place of all if there can be none.
    #[expect(clippy::option_option, reason = "nothing yet, and nothing ever")]
    fn take(&mut self) -> Option<Option<Bytes>> {
        let Some((&[compressed, a, b, c, d], _)) = self.read.split_first_chunk::<PREFIX>() else {
            return Some(None);
        };
        let len = u32::from_be_bytes([a, b, c, d]) as usize;
        if compressed != 0 || len > MOST {
            return None;
        }
        if self.read.len() < PREFIX + len {
            return Some(None);
        }
        self.read.advance(PREFIX);
        Some(Some(self.read.split_to(len).freeze()))
    }
}

fn is_unimplemented(headers: &HeaderMap) -> bool {
    headers.get("grpc-status").is_some_and(|status| status == UNIMPLEMENTED)
}
