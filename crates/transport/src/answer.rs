//! The body of an answer: decoded, watched for silence, and never a short success.

use std::fmt;
use std::io::Write as _;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use flate2::write::MultiGzDecoder;
use http::HeaderValue;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http_body::{Body, Frame};
use tokio::time::{Instant, Sleep};
use url::Url;

use crate::error::{BoxError, ProxyError};
use crate::text;
use crate::trust;
use crate::wire::RawBody;

/// How long an error body, or what is left of a refused one, may take: it is only text for a message.
const TEXT_PATIENCE: Duration = Duration::from_secs(2);

/// How much packed input is decoded before the output is handed on.
const GZIP_STEP: usize = 4 * 1024;

/// The body of a successful answer, as a stream.
///
/// Ends with `None` only if all of it came: a connection that breaks, a length that lies and a gzip
/// stream that ends early are errors. Dropping it before the end closes the connection.
pub struct AnswerBody {
    url: Arc<Url>,
    /// Made from the URL when somebody asks.
    replica: OnceLock<String>,
    content_type: Option<HeaderValue>,
    body: RawBody,
    gzip: Option<Gzip>,
    idle: Option<Idle>,
    ended: bool,
}

impl AnswerBody {
    /// # Errors
    ///
    /// [`ProxyError::Coding`] if the answer is encoded in another way than gzip, or more than once (S-102).
    pub(crate) fn new(
        url: Arc<Url>,
        head: &http::response::Parts,
        body: RawBody,
        idle: Option<Duration>,
    ) -> Result<Self, ProxyError> {
        let mut codings = head.headers.get_all(CONTENT_ENCODING).iter();
        let gzip = match (codings.next().map(|value| value.as_bytes().trim_ascii()), codings.next()) {
            (None, _) => None,
            (Some(coding), None) if coding.eq_ignore_ascii_case(b"identity") => None,
            (Some(coding), None)
                if coding.eq_ignore_ascii_case(b"gzip") || coding.eq_ignore_ascii_case(b"x-gzip") =>
            {
                Some(Gzip::default())
            }
            (Some(coding), second) => {
                let more = if second.is_some() { ", and another" } else { "" };
                let coding = format!("{}{more}", text::one_line(coding));
                return Err(ProxyError::Coding { replica: trust::shown(&url), coding });
            }
        };
        let content_type = head.headers.get(CONTENT_TYPE).cloned();
        let idle = idle.map(Idle::new);
        Ok(Self { url, replica: OnceLock::new(), content_type, body, gzip, idle, ended: false })
    }

    /// The answer's `Content-Type`, if it is text.
    pub fn content_type(&self) -> Option<&str> {
        self.content_type.as_ref()?.to_str().ok()
    }

    /// Scheme, host and port of who answers.
    pub fn replica(&self) -> &str {
        self.replica.get_or_init(|| trust::shown(&self.url))
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    ///
    /// [`ProxyError::Body`], once; then the stream is over.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what was not returned comes with the next call.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, ProxyError> {
        std::future::poll_fn(|cx| self.poll_chunk(cx)).await.transpose()
    }

    /// All of it.
    ///
    /// # Errors
    ///
    /// [`ProxyError::Body`] if it breaks off, or is longer than `limit` bytes.
    ///
    /// # Cancel safety
    ///
    /// *Not* cancel safe: what was read is lost.
    pub async fn collect(mut self, limit: usize) -> Result<Bytes, ProxyError> {
        // What comes in one piece, as short answers do, is not copied.
        let mut first = Bytes::new();
        let mut whole = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if first.len().max(whole.len()) + chunk.len() > limit {
                return Err(self.broken(format!("it is longer than {limit} bytes").into()));
            }
            if first.is_empty() {
                first = chunk;
            } else {
                if whole.is_empty() {
                    whole.extend_from_slice(&first);
                }
                whole.extend_from_slice(&chunk);
            }
        }
        Ok(if whole.is_empty() { first } else { whole.into() })
    }

    fn broken(&self, source: BoxError) -> ProxyError {
        ProxyError::Body { replica: self.replica().to_owned(), source }
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, ProxyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let polled = self.poll_decoded(cx);
        if let Poll::Ready(None | Some(Err(_))) = polled {
            self.ended = true;
        }
        polled.map(|chunk| chunk.map(|chunk| chunk.map_err(|error| self.broken(error))))
    }

    fn poll_decoded(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BoxError>>> {
        loop {
            if let Some(gzip) = &mut self.gzip
                && let Some(chunk) = gzip.step()?
            {
                return Poll::Ready(Some(Ok(chunk)));
            }
            let chunk = ready!(self.poll_raw(cx)).transpose()?;
            match (&mut self.gzip, chunk) {
                (None, chunk) => return Poll::Ready(chunk.map(Ok)),
                (Some(gzip), Some(chunk)) => gzip.input = chunk,
                (Some(gzip), None) => {
                    let rest = gzip.finish()?;
                    return Poll::Ready((!rest.is_empty()).then_some(Ok(rest)));
                }
            }
        }
    }

    /// The next piece off the wire that is not empty; silence is an error.
    fn poll_raw(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BoxError>>> {
        loop {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => {
                        self.idle.iter_mut().for_each(Idle::heard);
                        return Poll::Ready(Some(Ok(data)));
                    }
                    // Trailers, and pieces of no length, are not progress.
                    _ => {}
                },
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {
                    let Some(idle) = &mut self.idle else { return Poll::Pending };
                    ready!(idle.poll(cx));
                    let silence = format!("nothing came for {:?}", idle.limit);
                    return Poll::Ready(Some(Err(silence.into())));
                }
            }
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = ProxyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ProxyError>>> {
        self.get_mut().poll_chunk(cx).map(|chunk| chunk.map(|chunk| chunk.map(Frame::data)))
    }
}

impl fmt::Debug for AnswerBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerBody").field("replica", &self.replica()).finish_non_exhaustive()
    }
}

/// A gzip stream, decoded a little at a time, so that memory does not follow what it unpacks to.
#[derive(Debug)]
struct Gzip {
    decoder: MultiGzDecoder<Vec<u8>>,
    input: Bytes,
    begun: bool,
}

impl Default for Gzip {
    fn default() -> Self {
        Self { decoder: MultiGzDecoder::new(Vec::new()), input: Bytes::new(), begun: false }
    }
}

impl Gzip {
    /// What the input at hand unpacks to, piece by piece; `None` when more input is needed.
    fn step(&mut self) -> Result<Option<Bytes>, BoxError> {
        while !self.input.is_empty() {
            self.begun = true;
            let step = self.input.get(..GZIP_STEP).unwrap_or(&self.input);
            let read = self.decoder.write(step)?;
            if read == 0 && self.decoder.get_ref().is_empty() {
                return Err("the gzip stream makes no progress".into());
            }
            self.input.advance(read);
            if !self.decoder.get_ref().is_empty() {
                return Ok(Some(std::mem::take(self.decoder.get_mut()).into()));
            }
        }
        Ok(None)
    }

    /// The end of the input: an error unless it is the end of the gzip stream too.
    fn finish(&mut self) -> Result<Bytes, BoxError> {
        // An empty body has no gzip header either.
        if self.begun {
            self.decoder.try_finish()?;
        }
        Ok(std::mem::take(self.decoder.get_mut()).into())
    }
}

/// A timer that runs only while nothing comes.
#[derive(Debug)]
struct Idle {
    limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    running: bool,
}

impl Idle {
    fn new(limit: Duration) -> Self {
        Self { limit, timer: None, running: false }
    }

    fn heard(&mut self) {
        self.running = false;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let end = Instant::now() + self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
        if !self.running {
            timer.as_mut().reset(end);
            self.running = true;
        }
        timer.as_mut().poll(cx)
    }
}

/// The text of an error answer: at most 1 KiB is read, and what remains is left to the connection's end.
pub(crate) async fn error_text(
    url: &Arc<Url>,
    head: &http::response::Parts,
    body: RawBody,
) -> Option<String> {
    let mut body = AnswerBody::new(url.clone(), head, body, None).ok()?;
    let mut read = Vec::new();
    let reading = async {
        while read.len() < text::MAX_TEXT
            && let Ok(Some(chunk)) = body.chunk().await
        {
            read.extend_from_slice(&chunk);
        }
        // A body that ends here gives its connection back.
        if read.len() == text::MAX_TEXT {
            drop(body.chunk().await);
        }
    };
    // Whatever came in time is the text.
    let _ = tokio::time::timeout(TEXT_PATIENCE, reading).await;
    text::server_text(&read, body.content_type())
}

/// Reads what a refused request left behind, so that its connection can be used again.
pub(crate) async fn drain(url: &Arc<Url>, head: &http::response::Parts, body: RawBody) {
    drop(error_text(url, head, body).await);
}
