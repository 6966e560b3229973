//! The last calls of a proxy, and why each went where it went.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::stream::{self, BoxStream, StreamExt};
use http::{Method, Request, Response};
use peerage::Mesh;
use peerage::clienthttp::{Attempt, Attempts, CallOptions, ClientError, PickExplanation};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Metrics, Shown, services};
use crate::output::Chain;

/// How many calls are kept.
const KEPT: usize = 100;
/// More attempts, lines and characters of one call are not: a hundred calls stay small.
const ATTEMPTS: usize = 8;
const LINES: usize = 12;
const CHARACTERS: usize = 300;

/// What a proxy is asked for.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    ring: Mutex<Ring>,
    news: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Ring {
    /// The newest first.
    last: VecDeque<Value>,
    answered: u64,
    failed: u64,
}

/// A call that runs. One that is dropped was given up by its caller, or had no more time.
pub(crate) struct Running {
    calls: Arc<Calls>,
    service: String,
    method: Method,
    path: String,
    at: SystemTime,
    began: Instant,
    is_told: bool,
}

impl Calls {
    /// A call begins; its picks will be explained. The query is left out of what is shown: people put secrets there.
    pub(crate) fn begin<B>(self: &Arc<Self>, service: &str, request: &mut Request<B>) -> Running {
        let options = request.extensions_mut().remove::<CallOptions>().unwrap_or_default();
        request.extensions_mut().insert(options.explain());
        Running {
            calls: self.clone(),
            service: service.to_owned(),
            method: request.method().clone(),
            path: cut(request.uri().path()),
            at: SystemTime::now(),
            began: Instant::now(),
            is_told: false,
        }
    }

    fn ring(&self) -> std::sync::MutexGuard<'_, Ring> {
        // Each change is whole before anything can panic.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    pub(crate) fn answered<B>(mut self, answer: &Response<B>) {
        let attempts = answer.extensions().get::<Attempts>();
        self.tell(json!({ "status": answer.status().as_u16() }), attempts, None);
    }

    pub(crate) fn failed(mut self, error: &ClientError) {
        let text = cut(&Chain(error).to_string());
        self.tell(json!({ "error": text }), error.attempts(), error.explanation());
    }

    fn tell(&mut self, outcome: Value, attempts: Option<&Attempts>, nobody: Option<&PickExplanation>) {
        self.is_told = true;
        let is_answer = outcome.get("status").is_some();
        let since_epoch = self.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let attempts: Vec<Value> =
            attempts.into_iter().flat_map(Attempts::iter).take(ATTEMPTS).map(attempt).collect();
        let mut call = json!({
            "at_ms": u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
            "service": self.service,
            "method": self.method.as_str(),
            "path": self.path,
            "elapsed_ms": millis(self.began.elapsed()),
            "attempts": attempts,
            "why": nobody.map(lines).unwrap_or_default(),
        });
        let mut ring = self.calls.ring();
        *if is_answer { &mut ring.answered } else { &mut ring.failed } += 1;
        if let (Some(call), Value::Object(outcome)) = (call.as_object_mut(), outcome) {
            call.extend(outcome);
            call.insert("number".into(), (ring.answered + ring.failed).into());
        }
        ring.last.truncate(KEPT - 1);
        ring.last.push_front(call);
        drop(ring);
        self.calls.news.send_replace(());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.is_told {
            self.tell(json!({ "error": "given up: the caller went away, or its time was over" }), None, None);
        }
    }
}

fn attempt(attempt: &Attempt) -> Value {
    json!({
        "peer": attempt.peer.node_id(),
        "address": attempt.peer.address().to_string(),
        "outcome": attempt.outcome.as_str(),
        "status": attempt.status.map(|status| status.as_u16()),
        "failure": attempt.failure,
        "elapsed_ms": millis(attempt.elapsed),
        "why": attempt.pick.as_deref().map(lines).unwrap_or_default(),
    })
}

fn lines(pick: &PickExplanation) -> Vec<String> {
    let text = pick.to_string();
    let mut lines: Vec<String> = text.lines().take(LINES).map(|line| cut(line.trim())).collect();
    if let Some(more) = text.lines().count().checked_sub(LINES).filter(|more| *more > 0) {
        lines.push(format!("and {more} more"));
    }
    lines
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(CHARACTERS) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The page of a proxy.
pub(crate) struct Proxied {
    pub(crate) mesh: Mesh,
    pub(crate) calls: Arc<Calls>,
}

impl Shown for Proxied {
    fn title(&self) -> &'static str {
        "Peerage proxy"
    }

    fn sections(&self) -> Vec<(&'static str, Value)> {
        let called: Vec<Value> =
            self.mesh.clients().iter().map(|client| services::called(&client.view())).collect();
        let last: Vec<Value> = self.calls.ring().last.iter().cloned().collect();
        vec![("services", json!({ "services": called })), ("calls", json!({ "calls": last }))]
    }

    fn news(&self) -> BoxStream<'static, ()> {
        let news = self.calls.news.subscribe();
        stream::unfold(news, |mut news| async move { news.changed().await.ok().map(|()| ((), news)) }).boxed()
    }

    fn measure(&self, metrics: &mut Metrics) {
        for client in self.mesh.clients() {
            services::measure_called(metrics, &client.view());
        }
        let ring = self.calls.ring();
        for (outcome, count) in [("answered", ring.answered), ("failed", ring.failed)] {
            metrics.counter("peerage_calls", &[("outcome", outcome)], count as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_calls_are_kept_and_no_query() {
        let calls = Arc::new(Calls::default());
        for number in 0..KEPT + 5 {
            let path = format!("/{number}/{}?token=secret", "x".repeat(1_000));
            let mut request = Request::builder().uri(path).body(()).unwrap();
            calls.begin("billing", &mut request).answered(&Response::new(()));
        }
        drop(calls.begin("billing", &mut Request::new(())));
        let ring = calls.ring();
        assert_eq!((ring.last.len(), ring.answered, ring.failed), (KEPT, 105, 1));
        assert_eq!(ring.last[0]["error"], "given up: the caller went away, or its time was over");
        assert_eq!(ring.last[1]["number"], 105);
        let kept = format!("{:?}", ring.last);
        assert!(!kept.contains("secret") && kept.len() < KEPT * 1_000, "{}", kept.len());
    }
}
