//! One request to one place: its credential, its redirects, and the one retry after a 401.

use std::sync::Arc;
use std::time::Duration;

use http::header::LOCATION;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use tokio::time::Instant;
use url::{Position, Url};

use crate::answer;
use crate::body::{ReplayBody, UnreadableBody, Upload};
use crate::config::Hop;
use crate::error::{BoxError, PolicyError, ProxyError, push_outcome_unknown};
use crate::proxy::Inner;
use crate::push::Marker;
use crate::trust;
use crate::wire::{Connection, RawBody};

/// A push above this asks before it sends (GB-05).
const EXPECT_ABOVE: u64 = 1024 * 1024;

/// How long a push waits for `100 Continue` before it sends all the same.
const EXPECT_PATIENCE: Duration = Duration::from_secs(1);

/// A push takes no connection that was idle for longer: the server may be closing it (GB-06).
const PUSH_IDLE: Duration = Duration::from_secs(1);

/// The same for requests that may be sent again. Common servers close after 5 s.
const READ_IDLE: Duration = Duration::from_secs(4);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    InfoRefs,
    UploadPack,
    Push,
}

/// A request, wherever it will go.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) kind: Kind,
    pub(crate) method: Method,
    /// What follows a replica's base URL: path and query.
    pub(crate) suffix: Arc<str>,
    pub(crate) headers: Arc<HeaderMap>,
    pub(crate) body: ReplayBody,
    pub(crate) connect_budget: Duration,
    /// From sending to the head of the answer.
    pub(crate) head_limit: Option<Duration>,
}

impl Operation {
    pub(crate) fn is_push(&self) -> bool {
        self.kind == Kind::Push
    }

    /// Where this goes on the server with this base URL.
    pub(crate) fn at(&self, base: &Url) -> Result<Target, ProxyError> {
        let text = [base.as_str().trim_end_matches('/'), &self.suffix].concat();
        Target::new(Url::parse(&text).map_err(|error| lost(base, Box::new(error)))?)
    }

    /// How long a connection may have been idle.
    pub(crate) fn idle_limit(&self) -> Duration {
        if self.is_push() { PUSH_IDLE } else { READ_IDLE }
    }
}

/// Where a request goes: what the rules judge, and what of it is sent. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) url: Arc<Url>,
    uri: Uri,
}

impl Target {
    pub(crate) fn new(url: Url) -> Result<Self, ProxyError> {
        let uri = url[..Position::AfterQuery]
            .parse()
            .map_err(|error| lost(&url, Box::<http::uri::InvalidUri>::new(error)))?;
        Ok(Self { url: Arc::new(url), uri })
    }
}

/// Whether to go where a redirect points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Redirects {
    Follow,
    Stay,
}

/// An answer.
pub(crate) struct Exchange {
    pub(crate) head: http::response::Parts,
    pub(crate) body: RawBody,
    /// Who answered, after redirects.
    pub(crate) url: Arc<Url>,
    /// Whether the whole request body was taken when the answer came.
    pub(crate) complete: bool,
}

impl Exchange {
    pub(crate) fn status(&self) -> StatusCode {
        self.head.status
    }
}

/// Why there is none.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No answer came; `complete` as in [`Exchange`].
    Lost { error: ProxyError, complete: bool },
    /// A redirect that a rule forbids.
    Refused(PolicyError),
    /// The end of the operation: no other replica is asked.
    Final(ProxyError),
}

impl From<Failure> for ProxyError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Lost { error, .. } | Failure::Final(error) => error,
            Failure::Refused(policy) => Self::Policy(policy),
        }
    }
}

impl Inner {
    /// Sends the operation to `target`, and once more after the operation's first 401 (transport §8).
    pub(crate) async fn ask(
        &self,
        operation: &Operation,
        target: &Target,
        connection: Option<Box<dyn Connection>>,
        redirects: Redirects,
        renewed: &mut bool,
    ) -> Result<Exchange, Failure> {
        let first = self.exchange(operation, target, connection, redirects).await?;
        let indeterminate = operation.is_push() && Marker::of(&first.head.headers) == Marker::Indeterminate;
        if first.status() != StatusCode::UNAUTHORIZED || *renewed || indeterminate {
            return Ok(first);
        }
        *renewed = true;
        answer::drain(&first.url, &first.head, first.body).await;
        self.exchange(operation, target, None, redirects).await.map_err(|failure| {
            Failure::Final(match failure {
                Failure::Lost { error, complete: true } if operation.is_push() => {
                    push_outcome_unknown(error).into()
                }
                failure => failure.into(),
            })
        })
    }

    /// Sends the operation to `target` and follows redirects, if they are to be followed (transport §11).
    async fn exchange(
        &self,
        operation: &Operation,
        target: &Target,
        mut connection: Option<Box<dyn Connection>>,
        redirects: Redirects,
    ) -> Result<Exchange, Failure> {
        let mut target = target.clone();
        // What the hops carry, once that is not what the operation has.
        let mut headers: Option<HeaderMap> = None;
        let mut set_by_hook: Option<Vec<HeaderName>> = None;
        let mut chain: Vec<Url> = Vec::new();
        let mut expect = operation.is_push() && operation.body.len() > EXPECT_ABOVE;
        loop {
            let opened = match connection.take() {
                Some(opened) => opened,
                None => self.connect(operation, &target.url).await?,
            };
            let carried = headers.as_ref().unwrap_or(&*operation.headers).clone();
            let mut head = head(operation, &target, carried);
            if set_by_hook.is_none() {
                // The first request of the chain; the hops carry what it carries, or less.
                let set = self.authorise(&target.url, &mut head, &operation.headers).await;
                set_by_hook = Some(set.map_err(Failure::Final)?);
                headers = self.set_auth.is_some().then(|| head.headers.clone());
            } else {
                self.check_scheme(&target.url).map_err(Failure::Refused)?;
            }
            if expect {
                head.headers.insert(http::header::EXPECT, HeaderValue::from_static("100-continue"));
            }
            let answer = self.send(operation, &target.url, opened, head, expect).await?;
            if expect && answer.status() == StatusCode::EXPECTATION_FAILED && !answer.complete {
                // RFC 9110 §10.1.1: the same request, without the expectation.
                expect = false;
                continue;
            }
            let Some(next) = self.next_hop(operation, &mut chain, &answer, redirects)? else {
                return Ok(answer);
            };
            if !self.is_in_cluster(&next) {
                let headers = headers.get_or_insert_with(|| HeaderMap::clone(&operation.headers));
                trust::strip_credentials(headers, set_by_hook.as_deref().unwrap_or_default());
            }
            answer::drain(&answer.url, &answer.head, answer.body).await;
            target = Target::new(next).map_err(|error| Failure::Lost { error, complete: false })?;
        }
    }

    /// Where the answer sends us, if we go there. `chain` holds the hops so far; this one joins them.
    fn next_hop(
        &self,
        operation: &Operation,
        chain: &mut Vec<Url>,
        answer: &Exchange,
        redirects: Redirects,
    ) -> Result<Option<Url>, Failure> {
        let status = answer.status();
        let followed = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
        if redirects == Redirects::Stay || operation.is_push() || !followed {
            return Ok(None);
        }
        let values = answer.head.headers.get_all(LOCATION).iter().map(HeaderValue::as_bytes);
        let Some(next) = trust::location(&answer.url, values) else { return Ok(None) };
        chain.push(Url::clone(&answer.url));
        let is_get = operation.method == Method::GET;
        let judged = trust::secure_redirect(chain, &next)
            .and_then(|()| self.check_scheme(&next))
            .and_then(|()| match &self.hooks.redirect_rule {
                None => Ok(Hop::Follow),
                Some(rule) => rule(chain, &next).map_err(PolicyError::Refused),
            })
            .and_then(|hop| match hop {
                Hop::Follow if !is_get && matches!(status.as_u16(), 301..=303) => {
                    Err(PolicyError::BodyLost { status })
                }
                Hop::Follow if !is_get && !self.is_in_cluster(&next) => Err(PolicyError::BodyOutOfCluster {
                    host: next.host_str().unwrap_or_default().to_owned(),
                }),
                hop => Ok(hop),
            });
        match judged.map_err(Failure::Refused)? {
            Hop::Follow => Ok(Some(next)),
            Hop::Stop => Ok(None),
        }
    }

    /// Opens a connection, within its budget.
    pub(crate) async fn connect(
        &self,
        operation: &Operation,
        url: &Url,
    ) -> Result<Box<dyn Connection>, Failure> {
        self.check_scheme(url).map_err(Failure::Refused)?;
        let budget = operation.connect_budget;
        let connecting = self.connector.connect(url, operation.idle_limit());
        let opened = tokio::time::timeout(budget, connecting)
            .await
            .unwrap_or_else(|_| Err(format!("no connection within {budget:?}").into()));
        opened.map_err(|source| {
            let error = lost(url, source);
            tracing::debug!(server.address = url.host_str(), error = %error.chain(), "not connected");
            Failure::Lost { error, complete: false }
        })
    }

    /// Sends one request on one connection.
    async fn send(
        &self,
        operation: &Operation,
        url: &Arc<Url>,
        connection: Box<dyn Connection>,
        head: http::request::Parts,
        expect: bool,
    ) -> Result<Exchange, Failure> {
        self.aim_at(url);
        let upload = Upload::new(&operation.body, expect.then_some(EXPECT_PATIENCE));
        let taken = upload.taken();
        crate::debug::trace_request(&head, url);
        let begun = Instant::now();
        let sending = connection.send(http::Request::from_parts(head, upload));
        let sent = match operation.head_limit {
            None => sending.await,
            Some(limit) => tokio::time::timeout(limit, sending)
                .await
                .unwrap_or_else(|_| Err(format!("no answer within {limit:?}").into())),
        };
        // Not a byte more is handed out from here on, so this is what the server can have.
        let complete = taken.stop();
        let elapsed = begun.elapsed();
        match sent {
            Ok(answer) => {
                let (head, body) = answer.into_parts();
                crate::debug::trace_answer(&operation.method, url, &head, elapsed);
                if head.status == StatusCode::UNAUTHORIZED {
                    if let Some(hook) = self.hooks.on_challenge.as_ref().filter(|_| self.is_in_cluster(url)) {
                        hook(&head.headers);
                    }
                    if let Some(hook) = &self.hooks.on_unauthorized {
                        hook();
                    }
                }
                if let Some(pace) = &self.pace {
                    pace.heard(url, elapsed);
                }
                Ok(Exchange { head, body, url: url.clone(), complete })
            }
            Err(source) => {
                let source = match unreadable(source) {
                    Ok(error) => return Err(Failure::Final(ProxyError::RequestBody(error))),
                    Err(source) => source,
                };
                let error = lost(url, source);
                tracing::debug!(
                    http.request.method = %operation.method,
                    server.address = url.host_str(),
                    elapsed_ms = elapsed.as_millis(),
                    error = %error.chain(),
                    "no answer"
                );
                Err(Failure::Lost { error, complete })
            }
        }
    }
}

fn head(operation: &Operation, target: &Target, headers: HeaderMap) -> http::request::Parts {
    let (mut head, ()) = http::Request::new(()).into_parts();
    head.method = operation.method.clone();
    head.uri = target.uri.clone();
    head.headers = headers;
    head
}

fn lost(url: &Url, source: BoxError) -> ProxyError {
    ProxyError::Transport { replica: trust::shown(url), source }
}

/// The error of our own body, if that is what ended the request.
fn unreadable(source: BoxError) -> Result<std::io::Error, BoxError> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(&*source);
    while let Some(error) = next {
        if let Some(UnreadableBody(error)) = error.downcast_ref() {
            return Ok(std::io::Error::new(error.kind(), error.to_string()));
        }
        next = error.source();
    }
    Err(source)
}
