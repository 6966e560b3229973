//! The four operations by way of [`peerage_transport`].

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;
use http::HeaderMap;
use http_body::Body as _;
use peerage_transport::{AnswerBody, Config, Proxy, ProxyError, ReplayBody, SetAuth};

use crate::credentials::{self, CredentialSource};
use crate::remote::{BoxError, Chunks, Remote, Service};
use crate::spool::Body;

/// A replica set, with credentials from a source.
#[derive(Clone)]
pub struct ProxyRemote {
    proxy: Proxy,
    source: Arc<dyn CredentialSource>,
}

impl ProxyRemote {
    /// Makes the proxy that `config` describes, with `source` behind its credential hooks.
    ///
    /// # Errors
    ///
    /// A setting cannot be honoured.
    pub fn new(
        config: Config,
        cluster_host: &str,
        source: Arc<dyn CredentialSource>,
    ) -> Result<Self, peerage_transport::ConfigError> {
        let (noted, heard) = (source.clone(), source.clone());
        let config = config
            .set_auth(Hook { source: source.clone(), cluster_host: cluster_host.to_owned() })
            .on_challenge(move |headers| {
                let values = headers.get_all(http::header::WWW_AUTHENTICATE).iter();
                // What is no text means nothing to a credential helper.
                heard.challenged(&values.filter_map(|value| value.to_str().ok()).collect::<Vec<_>>());
            })
            .on_unauthorized(move || noted.rejected());
        Ok(Self { proxy: Proxy::new(config)?, source })
    }

    /// The proxy.
    pub fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    /// Runs an operation; once more if the credential was refused and there may be another.
    async fn run<F>(&self, operation: impl Fn() -> F) -> Result<Chunks, BoxError>
    where
        F: Future<Output = Result<AnswerBody, ProxyError>>,
    {
        let mut answer = operation().await;
        if matches!(answer, Err(ProxyError::Unauthorized { .. })) && self.source.may_have_another() {
            answer = operation().await;
        }
        let answer = answer?;
        self.source.accepted().await;
        Ok(Box::pin(Answer(answer)))
    }
}

impl std::fmt::Debug for ProxyRemote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProxyRemote").field("proxy", &self.proxy).finish_non_exhaustive()
    }
}

struct Hook {
    source: Arc<dyn CredentialSource>,
    cluster_host: String,
}

#[async_trait]
impl SetAuth for Hook {
    async fn set_auth(&self, head: &mut http::request::Parts) -> Result<(), BoxError> {
        credentials::attach(&*self.source, &self.cluster_host, head).await
    }
}

#[async_trait]
impl Remote for ProxyRemote {
    async fn info_refs(&self, service: Service) -> Result<Chunks, BoxError> {
        self.run(|| self.proxy.info_refs(of(service))).await
    }

    async fn info_refs_v2(&self) -> Result<Chunks, BoxError> {
        self.run(|| self.proxy.info_refs_v2()).await
    }

    async fn service_rpc(
        &self,
        service: Service,
        body: Body,
        headers: HeaderMap,
    ) -> Result<Chunks, BoxError> {
        let replay = match (body.in_memory(), body.in_file()) {
            (Some(bytes), _) => ReplayBody::from(bytes.clone()),
            (None, Some(file)) => ReplayBody::file(file.try_clone()?)?,
            (None, None) => ReplayBody::empty(),
        };
        let sent = replay.clone();
        body.follow(move || sent.is_handed_out());
        self.run(|| self.proxy.service_rpc(of(service), replay.clone(), headers.clone())).await
    }

    fn error_base_url(&self) -> String {
        self.proxy.error_base_url()
    }

    fn is_outcome_unknown(&self, error: &BoxError) -> bool {
        matches!(error.downcast_ref(), Some(ProxyError::PushOutcomeUnknown(_)))
    }
}

fn of(service: Service) -> peerage_transport::Service {
    match service {
        Service::UploadPack => peerage_transport::Service::UploadPack,
        Service::ReceivePack => peerage_transport::Service::ReceivePack,
    }
}

/// The body of an answer as a stream.
struct Answer(AnswerBody);

impl Stream for Answer {
    type Item = Result<Bytes, BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match Pin::new(&mut self.0).poll_frame(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error.into()))),
                Poll::Ready(Some(Ok(frame))) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Poll::Ready(Some(Ok(bytes)));
                    }
                }
            }
        }
    }
}
