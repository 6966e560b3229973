//! Replicas that are scripts behind the seam: no sockets, any host name, time that can stand still.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderMap;
use http_body::Body as _;
use http_body_util::{BodyExt as _, Full, StreamBody};
use peerage_tests::Facts;
use peerage_transport::wire::{Connect, Connection, RawBody, Upload};
use peerage_transport::{BoxError, Config, NodeConfig};
use url::Url;

/// One request as the world saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) url: String,
    pub(crate) headers: HeaderMap,
    /// As much of the body as was taken.
    pub(crate) body: Vec<u8>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// What becomes of a request.
#[derive(Clone, Debug)]
pub(crate) struct Act {
    /// How much of the body is taken first; `None`: all.
    pub(crate) take: Option<usize>,
    pub(crate) then: Then,
    pub(crate) after: Duration,
}

#[derive(Clone, Debug)]
pub(crate) enum Then {
    Answer { status: u16, headers: Vec<(String, Vec<u8>)>, body: Bytes, broken: bool },
    Lost,
    Never,
}

impl Act {
    pub(crate) fn answer(status: u16, body: impl Into<Bytes>) -> Self {
        let then = Then::Answer { status, headers: Vec::new(), body: body.into(), broken: false };
        Self { take: None, then, after: Duration::ZERO }
    }

    pub(crate) fn redirect(status: u16, location: &str) -> Self {
        Self::answer(status, "").header("location", location)
    }

    pub(crate) fn never() -> Self {
        Self { take: None, then: Then::Never, after: Duration::ZERO }
    }

    pub(crate) fn lost() -> Self {
        Self { take: None, then: Then::Lost, after: Duration::ZERO }
    }

    pub(crate) fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        if let Then::Answer { headers, .. } = &mut self.then {
            headers.push((name.to_owned(), value.as_ref().to_owned()));
        }
        self
    }

    /// The body breaks off behind what there is.
    pub(crate) fn broken(mut self) -> Self {
        if let Then::Answer { broken, .. } = &mut self.then {
            *broken = true;
        }
        self
    }

    pub(crate) fn take(mut self, count: usize) -> Self {
        self.take = Some(count);
        self
    }

    pub(crate) fn after(mut self, time: Duration) -> Self {
        self.after = time;
        self
    }
}

type Script = dyn Fn(&Seen) -> Act + Send + Sync;
type Reach = dyn Fn(&Url) -> Reached + Send + Sync;

/// What becomes of a connect.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reached {
    After(Duration),
    Refused,
    Never,
}

#[derive(Clone)]
pub(crate) struct World {
    script: Arc<Script>,
    reach: Arc<Reach>,
    pub(crate) seen: Arc<Facts<Seen>>,
    pub(crate) dialled: Arc<Facts<String>>,
}

impl World {
    pub(crate) fn new(script: impl Fn(&Seen) -> Act + Send + Sync + 'static) -> Self {
        Self {
            script: Arc::new(script),
            reach: Arc::new(|_| Reached::After(Duration::ZERO)),
            seen: Arc::default(),
            dialled: Arc::default(),
        }
    }

    pub(crate) fn reach(mut self, reach: impl Fn(&Url) -> Reached + Send + Sync + 'static) -> Self {
        self.reach = Arc::new(reach);
        self
    }

    pub(crate) fn config(&self, nodes: NodeConfig) -> Config {
        Config::new(nodes, crate::kit::PATH).connector(Arc::new(self.clone()))
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        self.seen.look(|seen| seen.iter().map(|seen| seen.url.clone()).collect())
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("World")
    }
}

#[async_trait]
impl Connect for World {
    async fn connect(&self, url: &Url, _: Duration) -> Result<Box<dyn Connection>, BoxError> {
        self.dialled.push(url.origin().ascii_serialization());
        match (self.reach)(url) {
            Reached::After(time) => {
                tokio::time::sleep(time).await;
                Ok(Box::new(Open(self.clone())))
            }
            Reached::Refused => Err("refused".into()),
            Reached::Never => std::future::pending().await,
        }
    }
}

struct Open(World);

#[async_trait]
impl Connection for Open {
    async fn send(
        self: Box<Self>,
        request: http::Request<Upload>,
    ) -> Result<http::Response<RawBody>, BoxError> {
        let (head, mut upload) = request.into_parts();
        let mut seen = Seen {
            method: head.method.to_string(),
            url: head.uri.to_string(),
            headers: head.headers,
            body: Vec::new(),
        };
        let act = (self.0.script)(&seen);
        while act.take.is_none_or(|limit| seen.body.len() < limit) && !upload.is_end_stream() {
            match upload.frame().await {
                Some(frame) => seen.body.extend_from_slice(&frame?.into_data().unwrap()),
                None => break,
            }
        }
        self.0.seen.push(seen);
        tokio::time::sleep(act.after).await;
        match act.then {
            Then::Lost => Err("reset".into()),
            Then::Never => std::future::pending().await,
            Then::Answer { status, headers, body, broken } => {
                let mut answer = http::Response::builder().status(status);
                for (name, value) in headers {
                    answer = answer.header(name, value);
                }
                let body = if broken {
                    let frames = [Ok(http_body::Frame::data(body)), Err("cut".into())];
                    StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()
                } else {
                    Full::new(body).map_err(|never| match never {}).boxed_unsync()
                };
                Ok(answer.body(body)?)
            }
        }
    }
}

/// Cluster and entry `cluster.example`.
pub(crate) fn cluster(urls: &[&str]) -> NodeConfig {
    of_cluster("cluster.example", "https://cluster.example", urls)
}

pub(crate) fn of_cluster(cluster: &str, entry: &str, urls: &[&str]) -> NodeConfig {
    let mut nodes = crate::kit::nodes(urls);
    nodes.cluster_host = Some(cluster.to_owned());
    nodes.entry_url = Some(entry.to_owned());
    nodes
}
