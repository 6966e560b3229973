//! A remote in memory that records every POST.

use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;
use git_remote_entire::{
    Body, BoxError, Cancel, Chunks, Helper, HelperError, ProtocolVersion, Remote, Service, Settings, pktline,
};
use http::HeaderMap;

pub(crate) const A40: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
pub(crate) const B40: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
pub(crate) const Z40: &str = "0000000000000000000000000000000000000000";
pub(crate) const ID: &str = git_remote_entire::IDENTITY;

/// What nothing takes, however busy the machine is.
pub(crate) const LONG: Duration = Duration::from_secs(120);

/// pkt-lines; `0000`, `0001` and `0002` stand for themselves.
pub(crate) fn packets(lines: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    for line in lines {
        match *line {
            "0000" | "0001" | "0002" => out.extend_from_slice(line.as_bytes()),
            line => pktline::put(&mut out, line.as_bytes()).unwrap(),
        }
    }
    out
}

/// An advertisement with its announcement.
pub(crate) fn adv(service: &str, lines: &[&str]) -> Vec<u8> {
    let announcement = format!("# service={service}\n");
    [packets(&[&announcement, "0000"]), packets(lines), packets(&["0000"])].concat()
}

/// One answer to a POST.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Body(Vec<u8>),
    /// The body breaks off after these bytes.
    Broken(Vec<u8>),
    Fail(&'static str),
    Hang,
}

#[derive(Clone, Debug)]
pub(crate) struct Post {
    pub(crate) service: Service,
    pub(crate) body: Vec<u8>,
    pub(crate) headers: HeaderMap,
}

#[derive(Default)]
pub(crate) struct Fake {
    pub(crate) upload: Option<Vec<u8>>,
    pub(crate) receive: Vec<Vec<u8>>,
    pub(crate) v2: Option<Vec<u8>>,
    pub(crate) replies: Mutex<Vec<Reply>>,
    pub(crate) posts: Mutex<Vec<Post>>,
    pub(crate) asked: Mutex<Vec<&'static str>>,
    /// Whether a body counts as handed out as soon as it is posted.
    pub(crate) takes_all: bool,
    /// Told when a POST hangs.
    pub(crate) hangs: tokio::sync::Notify,
}

impl Fake {
    pub(crate) fn replies(self, replies: impl IntoIterator<Item = Reply>) -> Self {
        let replies: Vec<_> = replies.into_iter().collect();
        Self { replies: Mutex::new(replies), ..self }
    }

    pub(crate) fn posts(&self) -> Vec<Post> {
        self.posts.lock().unwrap().clone()
    }

    pub(crate) fn asked(&self) -> Vec<&'static str> {
        self.asked.lock().unwrap().clone()
    }
}

struct Pieces(Vec<Result<Bytes, BoxError>>);

impl Stream for Pieces {
    type Item = Result<Bytes, BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready((!self.0.is_empty()).then(|| self.0.remove(0)))
    }
}

/// A body in pieces of 7 bytes, so that nothing may rely on their edges.
fn chunks(body: &[u8], broken: bool) -> Chunks {
    let mut pieces: Vec<_> = body.chunks(7).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    if broken {
        pieces.push(Err("the answer broke off".into()));
    }
    Box::pin(Pieces(pieces))
}

#[async_trait]
impl Remote for Fake {
    async fn info_refs(&self, service: Service) -> Result<Chunks, BoxError> {
        self.asked.lock().unwrap().push(service.name());
        let body = match service {
            Service::UploadPack => self.upload.clone(),
            Service::ReceivePack => {
                let asked = self.asked().iter().filter(|name| **name == "git-receive-pack").count();
                self.receive.get(asked - 1).or_else(|| self.receive.last()).cloned()
            }
        };
        Ok(chunks(&body.ok_or("server error (HTTP 503)")?, false))
    }

    async fn info_refs_v2(&self) -> Result<Chunks, BoxError> {
        self.asked.lock().unwrap().push("v2");
        Ok(chunks(self.v2.as_ref().ok_or("server error (HTTP 503)")?, false))
    }

    async fn service_rpc(
        &self,
        service: Service,
        body: Body,
        headers: HeaderMap,
    ) -> Result<Chunks, BoxError> {
        let len = usize::try_from(body.len()).unwrap();
        let bytes = body.read_at(0, len).unwrap().to_vec();
        let takes_all = self.takes_all;
        body.follow(move || takes_all);
        self.posts.lock().unwrap().push(Post { service, body: bytes, headers });
        let reply = {
            let mut replies = self.replies.lock().unwrap();
            assert!(!replies.is_empty(), "a POST that the test does not expect");
            replies.remove(0)
        };
        match reply {
            Reply::Body(body) => Ok(chunks(&body, false)),
            Reply::Broken(body) => Ok(chunks(&body, true)),
            Reply::Fail(text) => Err(text.into()),
            Reply::Hang => {
                self.hangs.notify_one();
                std::future::pending().await
            }
        }
    }

    fn error_base_url(&self) -> String {
        "https://n1/et/p/r".to_owned()
    }
}

/// Runs the helper on `input`; what it wrote and how it ended.
pub(crate) async fn run(
    fake: &Fake,
    version: ProtocolVersion,
    input: &[u8],
) -> (Result<(), HelperError>, Vec<u8>) {
    run_with(fake, Settings::new(version), Cancel::new(), input).await
}

pub(crate) async fn run_with(
    fake: &Fake,
    settings: Settings,
    cancel: Cancel,
    input: &[u8],
) -> (Result<(), HelperError>, Vec<u8>) {
    let mut output = Vec::new();
    let result = Helper::new(fake, settings, cancel).run(input, &mut output).await;
    (result, output)
}

/// The same, with a deadline that comes when a POST hangs.
pub(crate) async fn run_until_it_hangs(
    fake: &Fake,
    settings: Settings,
    input: &[u8],
) -> (Result<(), HelperError>, Vec<u8>) {
    let cancel = Cancel::new();
    let deadline = async {
        fake.hangs.notified().await;
        cancel.cancel();
    };
    let run = async { tokio::join!(run_with(fake, settings, cancel.clone(), input), deadline).0 };
    tokio::time::timeout(LONG, run).await.unwrap()
}

/// An error and its causes.
pub(crate) fn text(result: Result<(), HelperError>) -> String {
    git_remote_entire::diagnostics::chain(&result.unwrap_err())
}
