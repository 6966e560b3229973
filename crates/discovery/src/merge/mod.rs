//! Several sources as one.

mod core;

use std::{
    any::Any,
    fmt,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use async_trait::async_trait;
use futures_core::Stream;
use tokio::{task::JoinHandle, time::Instant};

use self::core::{Core, Mode};
use crate::{
    counters::Metric,
    diagnosis::Diagnosis,
    discovery::{Discovery, Report, Stopping},
    driver::Driver,
    error::DiscoveryError,
    peer::SourceId,
    publisher::Publisher,
    service_type::ServiceType,
    snapshot::Snapshot,
    status::{SourceReport, Status, Trouble},
    subscription::Subscription,
};

/// Several sources of one service type as one [`Discovery`].
///
/// A *union* has the peers of all of them. The same node id in several is one peer: endpoints and metadata
/// of the best priority first, filled up from the others; up if anybody says so; it leaves when the last
/// source drops it. *Failover* has the peers of the best source that has one up: it turns to the next
/// after 3 s without one and back after 5 s with one, and no version in between is empty.
///
/// Of a source that fails or ends, what it said last is kept; after 5 min it is in doubt.
///
/// ```
/// use std::sync::Arc;
/// use peerage_discovery::{Discovery, Merge, StaticDiscovery, StaticPeer};
///
/// let ours = StaticDiscovery::new("billing", [StaticPeer::new("10.0.0.1:9999").node_id("a")])?;
/// let theirs = StaticDiscovery::new("billing", [
///     StaticPeer::new("10.0.0.2:9999").node_id("a"),
///     StaticPeer::new("10.0.0.3:9999").node_id("b"),
/// ])?;
/// let all = Merge::union([(Arc::new(ours) as Arc<dyn Discovery>, 0), (Arc::new(theirs), 1)])?;
/// all.start()?;
/// let a = all.get("a").expect("both have it");
/// assert_eq!(a.addresses().len(), 2);
/// assert_eq!(a.address().to_string(), "10.0.0.1:9999");
/// assert_eq!(all.peer_count(), 2);
/// # Ok::<(), peerage_discovery::DiscoveryError>(())
/// ```
pub struct Merge {
    service: ServiceType,
    sources: Vec<Part>,
    mode: Mode,
    require_all: bool,
    publisher: Publisher,
    running: Mutex<Option<Running>>,
}

/// A source, its name among the others, and its priority.
struct Part {
    source: Arc<dyn Discovery>,
    name: Arc<str>,
    priority: u16,
}

struct Running {
    task: JoinHandle<()>,
    driver: Driver,
}

impl Merge {
    /// The peers of all `sources`; priority 0 is the best.
    ///
    /// # Errors
    ///
    /// [`DiscoveryError::InvalidSource`] without a source, or with sources of different service types.
    pub fn union(
        sources: impl IntoIterator<Item = (Arc<dyn Discovery>, u16)>,
    ) -> Result<Self, DiscoveryError> {
        Self::new(Mode::Union, sources)
    }

    /// The peers of the best of `sources` that has one; priority 0 is the best.
    ///
    /// # Errors
    ///
    /// As [`union`](Self::union).
    pub fn failover(
        sources: impl IntoIterator<Item = (Arc<dyn Discovery>, u16)>,
    ) -> Result<Self, DiscoveryError> {
        Self::new(Mode::Failover, sources)
    }

    /// Makes a source that cannot be started an error of `start`; else it is only trouble in the status,
    /// as long as one can.
    #[must_use]
    pub fn require_all(mut self) -> Self {
        self.require_all = true;
        self
    }

    fn new(
        mode: Mode,
        sources: impl IntoIterator<Item = (Arc<dyn Discovery>, u16)>,
    ) -> Result<Self, DiscoveryError> {
        let invalid = |part: String, rule| DiscoveryError::InvalidSource { part, rule };
        let sources: Vec<_> = sources.into_iter().collect();
        let Some((first, _)) = sources.first() else {
            return Err(invalid("the empty list".to_owned(), "has no source"));
        };
        let service = first.service_type().clone();
        if let Some((other, _)) = sources.iter().find(|(source, _)| source.service_type() != &service) {
            let part = format!("{:#}", other.service_type());
            return Err(invalid(part, "is not the service type of the first source"));
        }
        let publisher = Publisher::new(&service);
        let sources = name(sources);
        Ok(Self { service, sources, mode, require_all: false, publisher, running: Mutex::new(None) })
    }

    /// Starts every source. Returns those that we started, and what the others said.
    fn start_sources(&self) -> (Vec<&Part>, Vec<(usize, DiscoveryError)>) {
        let (mut started, mut failed) = (Vec::new(), Vec::new());
        for (at, part) in self.sources.iter().enumerate() {
            match guarded(|| part.source.start()) {
                Ok(Ok(())) => started.push(part),
                // Somebody else did, and will stop it.
                Ok(Err(DiscoveryError::AlreadyStarted)) => {}
                Ok(Err(error)) => failed.push((at, error)),
                Err(panic) => failed.push((at, panic)),
            }
        }
        (started, failed)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the list, the streams and the task, but no source.
    fn end(&self) -> Option<Running> {
        self.publisher.end(Instant::now());
        let running = self.lock().take();
        if let Some(Running { task, .. }) = &running {
            task.abort();
        }
        running
    }
}

#[async_trait]
impl Discovery for Merge {
    fn service_type(&self) -> &ServiceType {
        &self.service
    }

    fn source(&self) -> SourceId {
        SourceId::Other("merge".into())
    }

    fn start(&self) -> Result<(), DiscoveryError> {
        // Held to the end: a `stop` at the same time finds a task to stop.
        let mut running = self.lock();
        let driver = Driver::get()?;
        self.publisher.begin()?;
        let now = Instant::now();
        let subscriptions = self.sources.iter().map(|part| guarded(|| part.source.subscribe()).ok());
        let mut subscriptions: Vec<_> = subscriptions.collect();
        let (started, failed) = self.start_sources();
        if !failed.is_empty() && (self.require_all || failed.len() == self.sources.len()) {
            for part in started {
                let _stops_by_itself = guarded(|| part.source.stop());
            }
            self.publisher.end(now);
            return Err(sources_failed(&self.sources, failed, now));
        }

        let names = self.sources.iter().map(|part| (part.name.clone(), part.priority)).collect();
        let mut core = Core::new(self.mode, names, now);
        for (at, error) in failed {
            tracing::warn!(peerage.service_type = %self.service, %error, "a source cannot be started");
            self.publisher.counters().source_failed();
            core.ended(at, Some(error.to_string().into()), now);
            if let Some(subscription) = subscriptions.get_mut(at) {
                *subscription = None;
            }
        }
        // What the sources know already is there when `start` returns.
        drain(&mut core, &mut subscriptions, &mut Context::from_waker(Waker::noop()), now);
        self.publisher.edit(now, |table, now| core.apply(table, now));
        self.publisher.publish();
        let task = driver.spawn(run(core, subscriptions, self.publisher.clone()));
        *running = Some(Running { task, driver });
        Ok(())
    }

    fn snapshot(&self) -> Snapshot {
        self.publisher.snapshot()
    }

    fn peer_count(&self) -> usize {
        self.publisher.peer_count()
    }

    fn subscribe(&self) -> Subscription {
        self.publisher.subscribe()
    }

    fn report(&self, node_id: &str, report: Report) {
        for Part { source, .. } in &self.sources {
            let _hint = guarded(|| source.report(node_id, report));
        }
    }

    fn refresh(&self) {
        for Part { source, .. } in &self.sources {
            let _hint = guarded(|| source.refresh());
        }
    }

    fn explain(&self) -> String {
        let said = self.sources.iter().map(|Part { source, name, .. }| {
            let text = guarded(|| source.explain()).unwrap_or_else(|panic| panic.to_string());
            format!("{name}: {text}")
        });
        said.collect::<Vec<_>>().join("; ")
    }

    fn metrics(&self) -> Vec<Metric> {
        let mut metrics = self.publisher.metrics(Instant::now());
        let said = self.sources.iter().flat_map(|part| guarded(|| part.source.metrics()).unwrap_or_default());
        for metric in said.filter(|metric| is_of_sources(metric.name)) {
            match metrics.iter_mut().find(|own| (own.name, own.label) == (metric.name, metric.label)) {
                Some(own) => own.value += metric.value,
                None => metrics.push(metric),
            }
        }
        metrics
    }

    fn stop(&self) -> Stopping {
        let running = self.end();
        let sources: Vec<_> =
            self.sources.iter().filter_map(|part| guarded(|| part.source.stop()).ok()).collect();
        Stopping::new(async move {
            for stopping in sources {
                stopping.await;
            }
            if let Some(Running { task, driver }) = running {
                let _aborted = task.await;
                driver.release().await;
            }
        })
    }

    async fn diagnose(&self) -> Diagnosis {
        let mut diagnosis = Diagnosis::of(&self.service, &self.snapshot(), &self.explain());
        let parts = self.sources.iter().map(|part| part.source.diagnose()).collect();
        for (Part { name, .. }, part) in self.sources.iter().zip(all(parts).await) {
            diagnosis.include(name, part);
        }
        diagnosis
    }
}

impl Drop for Merge {
    fn drop(&mut self) {
        drop(self.end());
    }
}

impl fmt::Debug for Merge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sources: Vec<_> = self.sources.iter().map(|part| (&part.name, part.priority)).collect();
        f.debug_struct("Merge")
            .field("mode", &self.mode)
            .field("sources", &sources)
            .field("publisher", &self.publisher)
            .finish_non_exhaustive()
    }
}

/// Follows the sources until it is aborted.
async fn run(mut core: Core, mut subscriptions: Vec<Option<Subscription>>, publisher: Publisher) {
    loop {
        let due = core.soonest().into_iter().chain(publisher.due()).min();
        wait(&mut core, &mut subscriptions, due).await;
        let now = Instant::now();
        publisher.edit(now, |table, now| core.apply(table, now));
        if publisher.due().is_some_and(|due| due <= now) {
            publisher.publish();
            core.end_overlap();
            publisher.edit(now, |table, now| core.apply(table, now));
        }
    }
}

/// Until a source said something, which is in the core then, or until `due`.
async fn wait(core: &mut Core, subscriptions: &mut [Option<Subscription>], due: Option<Instant>) {
    let mut timer = pin!(async move {
        match due {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    });
    poll_fn(|cx| {
        let has_said = drain(core, subscriptions, cx, Instant::now());
        if has_said { Poll::Ready(()) } else { timer.as_mut().poll(cx) }
    })
    .await;
}

/// Moves what the sources said into the core. `false` if there was nothing.
fn drain(
    core: &mut Core,
    subscriptions: &mut [Option<Subscription>],
    cx: &mut Context<'_>,
    now: Instant,
) -> bool {
    let mut has_said = false;
    for (at, slot) in subscriptions.iter_mut().enumerate() {
        while let Some(subscription) = slot {
            match Pin::new(subscription).poll_next(cx) {
                Poll::Pending => break,
                Poll::Ready(Some((version, change))) => core.change(at, version, change, now),
                Poll::Ready(None) => {
                    core.ended(at, None, now);
                    *slot = None;
                }
            }
            has_said = true;
        }
    }
    has_said
}

/// `mdns`, `static`, and `static 2` for the second of a kind.
fn name(sources: Vec<(Arc<dyn Discovery>, u16)>) -> Vec<Part> {
    let mut kinds: Vec<SourceId> = Vec::with_capacity(sources.len());
    let named = sources.into_iter().map(|(source, priority)| {
        let kind = source.source();
        kinds.push(kind.clone());
        let name = match kinds.iter().filter(|&other| *other == kind).count() {
            1 => kind.to_string(),
            position => format!("{kind} {position}"),
        };
        Part { source, name: name.into(), priority }
    });
    named.collect()
}

fn sources_failed(parts: &[Part], failed: Vec<(usize, DiscoveryError)>, now: Instant) -> DiscoveryError {
    let report = |(at, error): &(usize, DiscoveryError)| {
        let name = parts.get(*at).map_or_else(|| "".into(), |part| part.name.clone());
        let why = error.to_string().into();
        SourceReport::new(name, Status::degraded(Trouble::SourceFailed { why }, now))
    };
    let reports = failed.iter().map(report).collect();
    let first = failed.into_iter().next().map_or(DiscoveryError::Stopped, |(_, error)| error);
    DiscoveryError::SourcesFailed { failed: reports, source: Box::new(first) }
}

/// What only sources count; the rest a merge counts by itself.
fn is_of_sources(name: &str) -> bool {
    matches!(
        name,
        "discovery_events"
            | "discovery_ignored"
            | "discovery_fresh_browses"
            | "discovery_browse_restarts"
            | "discovery_daemon_restarts"
            | "discovery_source_errors"
    )
}

/// Calls into a source, which may be from anywhere: its panic costs that source, not the others.
fn guarded<T>(call: impl FnOnce() -> T) -> Result<T, DiscoveryError> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic: Box<dyn Any + Send>| {
        let text = panic.downcast_ref::<&str>().map(ToString::to_string);
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        DiscoveryError::System { what: "a source panicked", why: text.unwrap_or_default() }
    })
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// All of `futures` at the same time.
async fn all<T>(mut futures: Vec<Boxed<'_, T>>) -> Vec<T> {
    let mut results: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    poll_fn(|cx| {
        let mut is_done = true;
        for (future, result) in futures.iter_mut().zip(&mut results) {
            if result.is_none() {
                match future.as_mut().poll(cx) {
                    Poll::Ready(output) => *result = Some(output),
                    Poll::Pending => is_done = false,
                }
            }
        }
        if is_done { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    results.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests;
