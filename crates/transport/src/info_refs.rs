//! The advertisement of refs: from replicas that are known, else by way of the entry domain
//! (transport §10). Its answers are where replicas are learned from.

use std::sync::Arc;
use std::time::Duration;

use http::header::{LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use url::Url;

use crate::answer::{self, AnswerBody};
use crate::error::ProxyError;
use crate::exchange::{Exchange, Failure, Kind, Operation, Redirects, Target};
use crate::proxy::{Inner, Service};
use crate::replicas::{self, Replica};
use crate::trust;

/// Pauses before asking the entry domain again (GB-09).
const PROBE_PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(300)];

/// The longest `Retry-After` that is waited for.
const MAX_RETRY_AFTER: u64 = 2;

impl Inner {
    pub(crate) async fn info_refs(
        &self,
        service: Service,
        extra: HeaderMap,
    ) -> Result<AnswerBody, ProxyError> {
        let operation = self.advertisement(service, extra);
        let answer = self.advertise(&operation).await?;
        self.conclude(answer, Kind::InfoRefs).await
    }

    fn advertisement(&self, service: Service, extra: HeaderMap) -> Operation {
        let headers = if extra.is_empty() {
            self.plain.headers.clone()
        } else {
            let mut headers = HeaderMap::new();
            self.finish_headers(&mut headers, extra);
            Arc::new(headers)
        };
        Operation {
            kind: Kind::InfoRefs,
            method: Method::GET,
            suffix: self.plain.of(service).clone(),
            headers,
            body: self.plain.body.clone(),
            connect_budget: self.timeouts.connect,
            head_limit: self.timeouts.head,
        }
    }

    /// Asks the entry domain for replicas once more, because none is left; `before` says why.
    pub(crate) async fn rediscover(&self, service: Service, before: ProxyError) -> Result<(), ProxyError> {
        let Some(entry) = &self.entry else { return Err(before) };
        let operation = self.advertisement(service, HeaderMap::new());
        match self.cold(&operation, entry).await {
            Ok(answer) if answer.status() == StatusCode::OK => Ok(()),
            _ => Err(before),
        }
    }

    async fn advertise(&self, operation: &Operation) -> Result<Exchange, ProxyError> {
        let warm = if self.nodes().is_empty() {
            None
        } else {
            match self.failover(operation).await {
                Ok(answer) => return Ok(self.learn(answer)),
                Err(error) => Some(error),
            }
        };
        match (warm, &self.entry) {
            // Neither a credential that cannot be had nor a rule is cured by asking somebody else.
            (Some(error), _) if error.is_ours() => Err(error),
            (Some(error), None) => Err(error),
            (None, None) => Err(ProxyError::NoEntryUrl),
            (None, Some(entry)) => self.cold(operation, entry).await,
            (Some(warm), Some(entry)) => self
                .cold(operation, entry)
                .await
                .map_err(|cold| ProxyError::WarmAndCold { warm: Box::new(warm), cold: Box::new(cold) }),
        }
    }

    /// By way of the entry domain.
    async fn cold(&self, operation: &Operation, entry: &Url) -> Result<Exchange, ProxyError> {
        let target = operation.at(entry)?;
        let mut renewed = false;
        let probe = Operation {
            connect_budget: self.timeouts.probe_connect,
            head_limit: self.timeouts.cold_head,
            ..operation.clone()
        };
        let answer =
            self.probe(&probe, &target, &mut renewed).await.map_err(|failure| in_entry(entry, failure))?;
        if !is_redirect(answer.status()) {
            return Ok(self.learn(answer));
        }
        let named = self.filter(replicas::of_headers(&answer.head.headers));
        if named.is_empty() {
            answer::drain(&answer.url, &answer.head, answer.body).await;
            let followed = Operation { head_limit: self.timeouts.cold_head, ..operation.clone() };
            let answer = self
                .ask(&followed, &target, None, Redirects::Follow, &mut false)
                .await
                .map_err(|failure| in_entry(entry, failure))?;
            return Ok(self.learn(answer));
        }
        // In memory only: a set that nobody of it has confirmed does not reach the disk.
        self.replace_nodes(named);
        let target = self.salvage_target(&answer);
        answer::drain(&answer.url, &answer.head, answer.body).await;
        let failover = match self.failover(operation).await {
            Ok(answer) => return Ok(self.learn(answer)),
            Err(error) if error.is_ours() => return Err(error),
            Err(error) => Box::new(error),
        };
        let Some(target) = target else {
            return Err(ProxyError::AfterRedirect { failover, salvage: None });
        };
        let asked = match Target::new(target) {
            Ok(target) => self.ask(operation, &target, None, Redirects::Follow, &mut false).await,
            Err(error) => Err(Failure::Lost { error, complete: false }),
        };
        match asked {
            Ok(answer) => Ok(self.learn(answer)),
            Err(failure) => {
                Err(ProxyError::AfterRedirect { failover, salvage: Some(Box::new(failure.into())) })
            }
        }
    }

    /// The probe of the entry domain, which is asked up to three times: it is one load balancer, and
    /// there is nobody else to ask.
    async fn probe(
        &self,
        probe: &Operation,
        target: &Target,
        renewed: &mut bool,
    ) -> Result<Exchange, Failure> {
        for pause in PROBE_PAUSES {
            let asked = self.ask(probe, target, None, Redirects::Stay, renewed).await;
            let pause = match &asked {
                Ok(answer) if matches!(answer.status().as_u16(), 502..=504) => {
                    match retry_after(&answer.head.headers) {
                        Some(wish) if wish > Duration::from_secs(MAX_RETRY_AFTER) => return asked,
                        wish => pause.max(wish.unwrap_or_default()),
                    }
                }
                Err(Failure::Lost { .. }) => pause,
                _ => return asked,
            };
            if let Ok(answer) = asked {
                answer::drain(&answer.url, &answer.head, answer.body).await;
            }
            tokio::time::sleep(pause.mul_f64(0.8 + 0.4 * fastrand::f64())).await;
        }
        self.ask(probe, target, None, Redirects::Stay, renewed).await
    }

    /// The redirect's own target, if it may be asked should everyone named fail (transport §10.4).
    fn salvage_target(&self, answer: &Exchange) -> Option<Url> {
        let values = || answer.head.headers.get_all(LOCATION).iter().map(HeaderValue::as_bytes);
        // A relative target has no host of its own.
        Url::parse(std::str::from_utf8(values().next()?).ok()?).ok()?;
        trust::location(&answer.url, values()).filter(|target| self.is_usable(target))
    }

    /// Takes what the final answer says about replicas (transport §10.5).
    fn learn(&self, answer: Exchange) -> Exchange {
        // Deviation: only a success, and only from a host of the cluster (S-027).
        if answer.status() != StatusCode::OK || !self.is_in_cluster(&answer.url) {
            return answer;
        }
        let named = self.filter(replicas::of_headers(&answer.head.headers));
        if !named.is_empty() {
            if let Some(remembered) = &self.remembered {
                remembered.replicas(&named);
            }
            self.replace_nodes(named);
        } else if self.nodes().is_empty()
            && let Some(responder) =
                Replica::of_origin(&answer.url).filter(|replica| self.is_usable(replica.url()))
        {
            self.adopt(responder);
        }
        answer
    }
}

/// What the entry domain's own failure is called; a credential's or a rule's keeps its name.
fn in_entry(entry: &Url, failure: Failure) -> ProxyError {
    match failure {
        Failure::Final(error) => error,
        failure => ProxyError::EntryDomain {
            entry: trust::shown(entry),
            source: Box::new(ProxyError::from(failure)),
        },
    }
}

/// What the probe takes for a redirect (transport §10.2): more than what is followed elsewhere.
fn is_redirect(status: StatusCode) -> bool {
    status.is_redirection()
}

/// `Retry-After` in seconds; a date is as good as none, for ours may be wrong.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(86_400)))
}
