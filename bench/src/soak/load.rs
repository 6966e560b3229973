//! Calls at a fixed rate, whatever becomes of them, and a record of each.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use peerage_clienthttp::{Attempts, Client};
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::BoxError;

/// Errors that are kept in words.
const MOST_TEXTS: usize = 8;

/// One call, by when it was due.
#[derive(Clone, Copy)]
pub(crate) struct Call {
    /// After the start of the load.
    pub(crate) due: Duration,
    /// From when it was due, not from when the machine got round to it, to the last byte of the answer.
    pub(crate) took: Duration,
    pub(crate) end: End,
}

#[derive(Clone, Copy)]
pub(crate) enum End {
    /// By which peer, after how many attempts.
    Answered(usize, usize),
    Failed,
}

impl Call {
    pub(crate) const fn failed(&self) -> bool {
        matches!(self.end, End::Failed)
    }

    pub(crate) fn is_from(&self, peer: usize) -> bool {
        matches!(self.end, End::Answered(by, _) if by == peer)
    }

    pub(crate) const fn was_resent(&self) -> bool {
        matches!(self.end, End::Answered(_, 2..))
    }
}

#[derive(Default)]
struct Record {
    calls: Mutex<Vec<Call>>,
    /// When the call was due, and why it failed.
    texts: Mutex<Vec<(Duration, String)>>,
    running: AtomicUsize,
}

/// A load that runs until this is stopped.
pub(crate) struct Load {
    began: Instant,
    record: Arc<Record>,
    stop: Arc<AtomicBool>,
    pacing: JoinHandle<()>,
}

impl Load {
    /// Starts `rate` calls a second on the current runtime. `names` are those of the peers.
    pub(crate) fn start(client: Client, names: Arc<[String]>, rate: u32) -> Self {
        let (record, stop) = (Arc::new(Record::default()), Arc::new(AtomicBool::new(false)));
        let (runtime, began) = (Handle::current(), Instant::now());
        let pacing = std::thread::spawn({
            let (record, stop) = (record.clone(), stop.clone());
            move || {
                let call = |due| one(client.clone(), names.clone(), record.clone(), began, due);
                pace(&runtime, began, rate, &stop, call);
            }
        });
        Self { began, record, stop, pacing }
    }

    pub(crate) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    pub(crate) fn running(&self) -> usize {
        self.record.running.load(Ordering::Relaxed)
    }

    /// What finished calls were due in that time.
    pub(crate) fn calls(&self, from: Duration, until: Duration) -> Vec<Call> {
        let calls = self.record.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.iter().filter(|call| (from..until).contains(&call.due)).copied().collect()
    }

    pub(crate) fn forget(&self, until: Duration) {
        self.record.calls.lock().unwrap_or_else(PoisonError::into_inner).retain(|call| call.due >= until);
    }

    /// The first failures in words, with when each call was due.
    pub(crate) fn texts(&self) -> Vec<(Duration, String)> {
        std::mem::take(&mut self.record.texts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sends no more calls.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(crate) fn join(self) -> Result<(), BoxError> {
        self.stop();
        self.pacing.join().map_err(|_| "the pacing thread panicked".into())
    }
}

/// Starts a call each time one is due. A thread of its own: the timers of the runtime count in
/// milliseconds, and a call each half of one would wait for them.
#[expect(clippy::disallowed_methods, reason = "a thread that does nothing but wait")]
fn pace<F>(runtime: &Handle, began: Instant, rate: u32, stop: &AtomicBool, call: impl Fn(Duration) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let each = Duration::from_secs(1) / rate;
    for number in 0.. {
        let due = each * number;
        // The rate is by the clock: a call is due whatever became of those before.
        std::thread::sleep((began + due).saturating_duration_since(Instant::now()));
        if stop.load(Ordering::Relaxed) {
            return;
        }
        runtime.spawn(call(due));
    }
}

async fn one(client: Client, names: Arc<[String]>, record: Arc<Record>, began: Instant, due: Duration) {
    record.running.fetch_add(1, Ordering::Relaxed);
    let end = match exchange(&client, &names).await {
        Ok((peer, attempts)) => End::Answered(peer, attempts),
        Err(error) => {
            let mut texts = record.texts.lock().unwrap_or_else(PoisonError::into_inner);
            if texts.len() < MOST_TEXTS {
                texts.push((due, in_words(&*error)));
            }
            End::Failed
        }
    };
    let took = began.elapsed().saturating_sub(due);
    record.calls.lock().unwrap_or_else(PoisonError::into_inner).push(Call { due, took, end });
    record.running.fetch_sub(1, Ordering::Relaxed);
}

async fn exchange(client: &Client, names: &[String]) -> Result<(usize, usize), BoxError> {
    let response = client.get("/v1/total").send().await?;
    let attempts = response.attempts().map_or(1, Attempts::count);
    if !response.status().is_success() {
        return Err(format!("status {}", response.status()).into());
    }
    let body = response.bytes().await?;
    let peer = names.iter().position(|name| name.as_bytes() == body).ok_or("an answer of nobody")?;
    Ok((peer, attempts))
}

/// An error and its sources in one line.
fn in_words(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

/// The time that `part` of the calls do not exceed.
pub(crate) fn quantile(calls: &[Call], part: f64) -> Duration {
    let mut took: Vec<_> = calls.iter().map(|call| call.took).collect();
    took.sort_unstable();
    let rank = ((took.len() as f64 * part).ceil() as usize).max(1);
    took.get(rank - 1).copied().unwrap_or_default()
}
