//! Which replica, and what moves on to the next (transport §7).

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use http::StatusCode;
use url::Url;

use crate::answer;
use crate::error::{ProxyError, http_error_message, push_outcome_unknown};
use crate::exchange::{Exchange, Failure, Operation, Redirects, Target};
use crate::proxy::Inner;
use crate::push::{Ended, Marker, Verdict, judge};
use crate::replicas::Replica;
use crate::trust;
use crate::wire::Connection;

impl Inner {
    /// Asks the known replicas, each once, until one gives a final answer.
    pub(crate) async fn failover(&self, operation: &Operation) -> Result<Exchange, ProxyError> {
        let snapshot = self.nodes();
        let count = snapshot.len();
        if count == 0 {
            return Err(ProxyError::NoReplicas);
        }
        let mut waiting: VecDeque<Replica> = snapshot.iter().cloned().collect();
        waiting.rotate_left(self.start(&snapshot));
        let mut round = Round { last: None, skipped: None };
        let mut renewed = false;
        while let Some((replica, connection)) =
            self.first_connected(operation, &mut waiting, &mut round).await
        {
            let asked = match self.target(operation, &replica) {
                Ok(target) => {
                    self.ask(operation, &target, Some(connection), Redirects::Follow, &mut renewed).await
                }
                Err(error) => Err(Failure::Lost { error, complete: false }),
            };
            match self.visit(operation, &replica, asked).await {
                Visit::Final(result) => {
                    if let Ok(answer) = &result {
                        self.settle_on(&snapshot, &answer.url);
                    }
                    return result;
                }
                Visit::Next(error) => round.last = Some(error),
            }
        }
        Err(match (round.last, round.skipped) {
            (Some(error @ ProxyError::InsufficientStorage { .. }), _) => error,
            (Some(error), _) => ProxyError::AllFailed { count, source: Box::new(error) },
            (None, skipped) => skipped.unwrap_or(ProxyError::NoReplicas),
        })
    }

    /// Where in the list to begin: at the sticky replica, else anywhere, or where it is fast.
    fn start(&self, nodes: &[Replica]) -> usize {
        if let Some(pace) = &self.pace {
            return pace.start(nodes);
        }
        let sticky = self.sticky();
        let known = sticky.and_then(|sticky| nodes.iter().position(|node| *node == *sticky));
        known.unwrap_or_else(|| fastrand::usize(..nodes.len()))
    }

    /// Where the operation goes at this replica. The last target is kept: most requests go to the sticky replica,
    /// and a program that polls asks for the same thing.
    fn target(&self, operation: &Operation, replica: &Replica) -> Result<Target, ProxyError> {
        if let Some(last) = &*self.last_target.load()
            && last.replica == *replica
            && last.suffix == operation.suffix
        {
            return Ok(last.target.clone());
        }
        let target = operation.at(replica.url())?;
        let (replica, suffix) = (replica.clone(), operation.suffix.clone());
        self.last_target.store(Some(Arc::new(LastTarget { replica, suffix, target: target.clone() })));
        Ok(target)
    }

    /// The next operation starts where this one was answered, if that is a replica we know.
    fn settle_on(&self, snapshot: &[Replica], answered: &Url) {
        if let Some(replica) = snapshot.iter().find(|replica| replica.is_origin_of(answered)) {
            self.stick_to(replica);
        }
    }

    /// A connection to the first replica in line; when that takes long, the next ones race it (GB-02).
    ///
    /// Replicas that cannot be connected to are marked failed and leave the line, and so does the
    /// winner. Those that were only slower stay.
    async fn first_connected(
        &self,
        operation: &Operation,
        waiting: &mut VecDeque<Replica>,
        round: &mut Round,
    ) -> Option<(Replica, Box<dyn Connection>)> {
        let mut fresh: VecDeque<Replica> = std::mem::take(waiting);
        let mut racing = Vec::new();
        let won = loop {
            while let Some(replica) = fresh.pop_front() {
                if let Err(error) = self.check_scheme(replica.url()) {
                    round.skipped = Some(ProxyError::Policy(error));
                    continue;
                }
                let target = replica.clone();
                let connecting = Box::pin(async move { self.connect(operation, target.url()).await });
                racing.push((replica, connecting));
                break;
            }
            if racing.is_empty() {
                break None;
            }
            let (replica, connected) = tokio::select! {
                biased;
                attempt = first_of(&mut racing) => attempt,
                () = tokio::time::sleep(self.timeouts.stagger), if !fresh.is_empty() => continue,
            };
            match connected {
                Ok(connection) => break Some((replica, connection)),
                Err(Failure::Lost { error, .. }) => {
                    self.mark_failed(&replica);
                    round.last = Some(error);
                }
                Err(failure) => round.skipped = Some(failure.into()),
            }
        };
        // The slower connects end here.
        waiting.extend(racing.into_iter().map(|(replica, _)| replica));
        waiting.extend(fresh);
        won
    }

    /// What one visit means (transport §7.2, §12.3).
    async fn visit(
        &self,
        operation: &Operation,
        replica: &Replica,
        asked: Result<Exchange, Failure>,
    ) -> Visit {
        match asked {
            Err(Failure::Final(error)) => Visit::Final(Err(error)),
            Err(Failure::Refused(policy)) => {
                if !policy.spares_the_replica() {
                    self.mark_failed(replica);
                }
                Visit::Next(ProxyError::Policy(policy))
            }
            Err(Failure::Lost { error, complete }) => {
                let verdict =
                    if operation.is_push() { judge(Ended::Lost, complete, false) } else { Verdict::Failed };
                if verdict == Verdict::Unknown {
                    return Visit::Final(Err(push_outcome_unknown(error).into()));
                }
                self.mark_failed(replica);
                Visit::Next(error)
            }
            Ok(answer) if operation.is_push() => self.judge_push(replica, answer).await,
            Ok(answer) if answer.status() == StatusCode::INSUFFICIENT_STORAGE => {
                Visit::Next(self.error_of(answer).await)
            }
            Ok(answer) if answer.status().as_u16() >= 500 => {
                self.mark_failed(replica);
                Visit::Next(self.error_of(answer).await)
            }
            Ok(answer) => Visit::Final(Ok(answer)),
        }
    }

    async fn judge_push(&self, replica: &Replica, answer: Exchange) -> Visit {
        let status = answer.status();
        let marker = Marker::of(&answer.head.headers);
        // The retry after a 401 is behind us, or was not to be had.
        match judge(Ended::Answered { status, marker }, answer.complete, false) {
            Verdict::Unknown => {
                let text = answer::error_text(&answer.url, &answer.head, answer.body).await;
                let text = crate::text::or(text.as_deref(), "");
                let cause = format!("{} answered HTTP {}{text}", trust::shown(&answer.url), status.as_u16());
                Visit::Final(Err(push_outcome_unknown(cause).into()))
            }
            Verdict::Redirected => {
                Visit::Final(Err(ProxyError::PushRedirected { replica: trust::shown(&answer.url), status }))
            }
            Verdict::Refused => Visit::Next(self.error_of(answer).await),
            Verdict::Failed => {
                self.mark_failed(replica);
                Visit::Next(self.error_of(answer).await)
            }
            Verdict::Renew | Verdict::Final => Visit::Final(Ok(answer)),
        }
    }

    async fn error_of(&self, answer: Exchange) -> ProxyError {
        let text = answer::error_text(&answer.url, &answer.head, answer.body).await;
        http_error_message(answer.head.status, text.as_deref(), &trust::shown(&answer.url))
    }
}

/// The first of these to be ready, which is taken out of them. They are few.
async fn first_of<K, F: Future + Unpin>(racing: &mut Vec<(K, F)>) -> (K, F::Output) {
    poll_fn(|cx| {
        for (at, (_, future)) in racing.iter_mut().enumerate() {
            if let Poll::Ready(output) = Pin::new(future).poll(cx) {
                return Poll::Ready((racing.remove(at).0, output));
            }
        }
        Poll::Pending
    })
    .await
}

/// Where the last request went.
pub(crate) struct LastTarget {
    replica: Replica,
    suffix: Arc<str>,
    target: Target,
}

/// What a walk through the replicas has come to.
struct Round {
    last: Option<ProxyError>,
    skipped: Option<ProxyError>,
}

/// What one replica came to.
enum Visit {
    Final(Result<Exchange, ProxyError>),
    Next(ProxyError),
}

/// How fast replicas were lately: a smoothed time to the head of an answer (GB-13).
#[derive(Debug, Default)]
pub(crate) struct Pace {
    by_origin: Mutex<HashMap<String, Duration>>,
}

impl Pace {
    /// Books an answer. Origins are few: the replicas of one repository, and redirect targets.
    pub(crate) fn heard(&self, url: &Url, took: Duration) {
        const MOST: usize = 4 * crate::replicas::MAX_REPLICAS;
        let mut by_origin = self.by_origin.lock().unwrap_or_else(PoisonError::into_inner);
        let origin = url.origin().ascii_serialization();
        if by_origin.len() >= MOST && !by_origin.contains_key(&origin) {
            return;
        }
        let smoothed = by_origin.entry(origin).or_insert(took);
        // The newest counts a quarter.
        *smoothed = (*smoothed * 3 + took) / 4;
    }

    /// The faster of two random replicas; one that was never heard of counts as fast.
    fn start(&self, nodes: &[Replica]) -> usize {
        let first = fastrand::usize(..nodes.len());
        if nodes.len() == 1 {
            return first;
        }
        let second = (first + fastrand::usize(1..nodes.len())) % nodes.len();
        let by_origin = self.by_origin.lock().unwrap_or_else(PoisonError::into_inner);
        let time = |index: usize| {
            nodes.get(index).and_then(|node| by_origin.get(&node.origin())).copied().unwrap_or_default()
        };
        if time(second) < time(first) { second } else { first }
    }
}
