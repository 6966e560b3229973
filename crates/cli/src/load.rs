//! Many calls at a time, and what came of them: `call -n` and the demo.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use http::Response;
use http_body_util::BodyExt;
use indicatif::{ProgressBar, ProgressStyle};
use peerage::clienthttp::{Attempts, Body, PeerInfo};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::output::{Chain, Failure, Output, table};
use crate::stop::Stop;

/// So many texts of failures are told apart: each of a million may be another, with times in it.
const MOST_TEXTS: usize = 10;
/// The rest.
const OTHERS: &str = "failed in other ways or words";

/// One call that was answered.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) peer: String,
    /// Attempts beyond the first.
    pub(crate) repeats: u64,
}

/// What a load run measured.
#[derive(Debug)]
pub(crate) struct Summary {
    pub(crate) elapsed: Duration,
    /// Microseconds from the first byte sent to the last byte of the body.
    pub(crate) latency: Histogram<u64>,
    pub(crate) statuses: BTreeMap<u16, u64>,
    pub(crate) peers: BTreeMap<String, u64>,
    pub(crate) repeats: u64,
    /// Error text -> how often.
    pub(crate) failures: BTreeMap<String, u64>,
}

impl Summary {
    fn new() -> Self {
        // A fixed range, so that no latency is left out and no memory grows with the run.
        let latency = Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("the bounds are in order");
        Self {
            elapsed: Duration::ZERO,
            latency,
            statuses: BTreeMap::new(),
            peers: BTreeMap::new(),
            repeats: 0,
            failures: BTreeMap::new(),
        }
    }

    fn record(&mut self, took: Duration, outcome: Result<Answered, String>) {
        match outcome {
            Ok(answered) => {
                self.latency.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1));
                *self.statuses.entry(answered.status).or_default() += 1;
                *self.peers.entry(answered.peer).or_default() += 1;
                self.repeats += answered.repeats;
            }
            Err(text) => self.fail(text, 1),
        }
    }

    fn fail(&mut self, text: String, count: u64) {
        let is_told = self.failures.contains_key(&text) || self.failures.len() < MOST_TEXTS;
        *self.failures.entry(if is_told { text } else { OTHERS.to_owned() }).or_default() += count;
    }

    fn merge(&mut self, other: Self) {
        self.latency.add(&other.latency).expect("all histograms have the same bounds");
        self.repeats += other.repeats;
        for (peer, count) in other.peers {
            *self.peers.entry(peer).or_default() += count;
        }
        // The most frequent first, so that it is they that are told.
        let mut failures: Vec<_> = other.failures.into_iter().collect();
        failures.sort_by_key(|(_, count)| Reverse(*count));
        for (text, count) in failures {
            self.fail(text, count);
        }
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
    }

    /// Calls that were answered, with any status.
    pub(crate) fn answered(&self) -> u64 {
        self.latency.len()
    }

    /// Calls that ended with an error, or with a status of 500 and above.
    pub(crate) fn failed(&self) -> u64 {
        self.failures.values().sum::<u64>() + self.statuses.range(500..).map(|(_, count)| count).sum::<u64>()
    }

    /// Answered calls a second.
    pub(crate) fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let calls = self.answered() as f64;
        calls / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// A quantile of the latency.
    pub(crate) fn quantile(&self, quantile: f64) -> Duration {
        Duration::from_micros(self.latency.value_at_quantile(quantile))
    }

    pub(crate) fn json(&self) -> Value {
        let millis = |quantile| self.quantile(quantile).as_secs_f64() * 1e3;
        json!({
            "answered": self.answered(),
            "failed": self.failed(),
            "seconds": self.elapsed.as_secs_f64(),
            "rate": self.rate(),
            "p50_ms": millis(0.5),
            "p90_ms": millis(0.9),
            "p99_ms": millis(0.99),
            "max_ms": millis(1.0),
            "repeats": self.repeats,
            "statuses": self.statuses.iter().map(|(status, count)| (status.to_string(), json!(count))).collect::<serde_json::Map<_, _>>(),
            "peers": self.peers,
            "failures": self.failures,
        })
    }

    /// The summary for people.
    pub(crate) fn print(&self, output: Output) -> Result<(), Failure> {
        if output.json {
            return output.event(&self.json());
        }
        let failed = format!("{} failed", self.failed());
        let failed = if self.failed() == 0 { output.good(&failed) } else { output.bad(&failed) };
        output.line(format_args!(
            "{} calls, {failed}, in {:.2} s: {:.0} a second; p50 {:.2?}, p90 {:.2?}, p99 {:.2?}, max {:.2?}; {} attempts repeated",
            self.answered() + self.failures.values().sum::<u64>(),
            self.elapsed.as_secs_f64(),
            self.rate(),
            self.quantile(0.5),
            self.quantile(0.9),
            self.quantile(0.99),
            self.quantile(1.0),
            self.repeats,
        ))?;
        let mut peers = table(&["peer", "calls"]);
        for (peer, calls) in &self.peers {
            peers.add_row([peer.clone(), calls.to_string()]);
        }
        output.line(peers)?;
        if self.statuses.keys().any(|status| *status != 200) {
            for (status, count) in &self.statuses {
                output.line(format_args!("{count} × status {status}"))?;
            }
        }
        for (text, count) in &self.failures {
            output.line(format_args!("{count} × {text}"))?;
        }
        Ok(())
    }
}

/// Reads an answer to its end.
pub(crate) async fn finish(answer: Response<Body>) -> Result<Answered, String> {
    let (head, mut body) = answer.into_parts();
    while let Some(frame) = body.frame().await {
        frame.map_err(|error| Chain(&error).to_string())?;
    }
    Ok(Answered {
        status: head.status.as_u16(),
        peer: head.extensions.get::<PeerInfo>().map_or_else(String::new, |peer| peer.node_id().to_owned()),
        repeats: head
            .extensions
            .get::<Attempts>()
            .map_or(0, |attempts| attempts.count().saturating_sub(1) as u64),
    })
}

/// Makes `total` calls, `concurrency` at a time, until done or asked to stop.
pub(crate) async fn run<C, F>(total: u64, concurrency: u16, stop: &Stop, call: C) -> Summary
where
    C: Fn() -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Answered, String>> + Send + 'static,
{
    let bar = ProgressBar::new(total); // hidden by itself where stderr is no terminal
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} calls, {per_sec}, {eta} left") {
        bar.set_style(style);
    }
    let left = Arc::new(AtomicU64::new(total));
    let started = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..concurrency {
        let (call, left, bar, stop) = (call.clone(), left.clone(), bar.clone(), stop.clone());
        workers.spawn(async move {
            let mut summary = Summary::new();
            // Relaxed: the count is all that is shared.
            while !stop.is_asked()
                && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
            {
                let began = Instant::now();
                let outcome = call().await;
                summary.record(began.elapsed(), outcome);
                bar.inc(1);
            }
            summary
        });
    }
    let mut whole = Summary::new();
    while let Some(worker) = workers.join_next().await {
        match worker {
            Ok(summary) => whole.merge(summary),
            Err(error) => *whole.failures.entry(format!("a worker ended early: {error}")).or_default() += 1,
        }
    }
    whole.elapsed = started.elapsed();
    bar.finish_and_clear();
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s220_a_million_failures_are_a_few_lines() {
        let mut whole = Summary::new();
        for worker in 0..4 {
            let mut summary = Summary::new();
            for call in 0..1_000 {
                let text =
                    if call % 2 == 0 { "refused".into() } else { format!("for another {worker}.{call} ms") };
                summary.record(Duration::ZERO, Err(text));
            }
            whole.merge(summary);
        }
        assert_eq!((whole.failed(), whole.failures["refused"]), (4_000, 2_000));
        assert!(whole.failures.len() <= MOST_TEXTS + 1, "{:?}", whole.failures);
    }
}
