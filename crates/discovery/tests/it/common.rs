//! What several modules need.

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

use peerage_discovery::{
    Change, Discovery, DiscoveryError, Peer, Report, ServiceType, Snapshot, SourceId, StaticDiscovery,
    StaticPeer, Status, Stopping, Subscription,
};
use tokio::time::Instant;

/// Longer than anything here takes, on however loaded a machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn service() -> ServiceType {
    "t".parse().unwrap()
}

pub(crate) fn peer(node_id: &str, endpoint: &str) -> Peer {
    Peer::builder(node_id, &service()).endpoint(endpoint).build().unwrap()
}

/// A list of peers that are named as given, each at an address of its own.
pub(crate) fn entries(node_ids: &[&str]) -> Vec<StaticPeer> {
    let entry = |(at, id): (usize, &&str)| StaticPeer::new(format!("10.0.0.1:{}", at + 1)).node_id(*id);
    node_ids.iter().enumerate().map(entry).collect()
}

pub(crate) fn fixed(node_ids: &[&str]) -> StaticDiscovery {
    StaticDiscovery::new(service(), entries(node_ids)).unwrap()
}

pub(crate) fn started(node_ids: &[&str]) -> StaticDiscovery {
    let discovery = fixed(node_ids);
    discovery.start().unwrap();
    discovery
}

pub(crate) fn ids(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.peers().iter().map(Peer::node_id).collect()
}

/// Waits for a version of which `wanted` holds; the panic at the limit tells the last one.
pub(crate) async fn until(discovery: &dyn Discovery, wanted: impl Fn(&Snapshot) -> bool) -> Snapshot {
    let mut subscription = discovery.subscribe();
    let mut last = subscription.borrow();
    let wait = async {
        while !wanted(&last) {
            last = subscription.changed().await.expect("it goes on");
        }
    };
    let in_time = tokio::time::timeout(LIMIT, wait).await;
    assert!(in_time.is_ok(), "still {last:#?}");
    last
}

/// The next item, which comes before long.
pub(crate) async fn next(subscription: &mut Subscription) -> Option<Change> {
    let next = tokio::time::timeout(LIMIT, subscription.next()).await;
    next.expect("an item comes before long").map(|(_, change)| change)
}

/// An executor that is not tokio's.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park_timeout(LIMIT),
        }
    }
}

/// A source from elsewhere that fails as it is told to.
#[derive(Debug)]
pub(crate) struct Failing {
    pub(crate) service: ServiceType,
    pub(crate) publisher: peerage_discovery::Publisher,
    pub(crate) panics: bool,
}

impl Failing {
    pub(crate) fn new(panics: bool) -> Self {
        Self { service: service(), publisher: peerage_discovery::Publisher::new(&service()), panics }
    }
}

impl Discovery for Failing {
    fn service_type(&self) -> &ServiceType {
        &self.service
    }

    fn source(&self) -> SourceId {
        SourceId::Other("failing".into())
    }

    fn start(&self) -> Result<(), DiscoveryError> {
        assert!(!self.panics, "as it was told");
        Err(DiscoveryError::Busy)
    }

    fn snapshot(&self) -> Snapshot {
        self.publisher.snapshot()
    }

    fn subscribe(&self) -> Subscription {
        self.publisher.subscribe()
    }

    fn report(&self, _: &str, _: Report) {
        assert!(!self.panics, "as it was told");
    }

    fn refresh(&self) {
        assert!(!self.panics, "as it was told");
    }

    fn stop(&self) -> Stopping {
        self.publisher.end(Instant::now());
        Stopping::done()
    }
}

/// A source from elsewhere whose publisher can be taken away.
#[derive(Debug)]
pub(crate) struct Vanishing(pub(crate) std::sync::Mutex<Option<peerage_discovery::Publisher>>, ServiceType);

impl Default for Vanishing {
    fn default() -> Self {
        Self(Some(peerage_discovery::Publisher::new(&service())).into(), service())
    }
}

impl Vanishing {
    fn publisher(&self) -> peerage_discovery::Publisher {
        self.0.lock().unwrap().clone().expect("it is not asked after it vanished")
    }
}

impl Discovery for Vanishing {
    fn service_type(&self) -> &ServiceType {
        &self.1
    }

    fn source(&self) -> SourceId {
        SourceId::Other("vanishing".into())
    }

    fn start(&self) -> Result<(), DiscoveryError> {
        let publisher = self.publisher();
        publisher.begin()?;
        publisher.edit(Instant::now(), |table, now| {
            table.set_status(Status::Ready, now);
            table.put(peer("a", "10.0.0.1:80"), now)
        });
        publisher.publish();
        Ok(())
    }

    fn snapshot(&self) -> Snapshot {
        self.publisher().snapshot()
    }

    fn subscribe(&self) -> Subscription {
        self.publisher().subscribe()
    }

    fn report(&self, _: &str, _: Report) {}

    fn refresh(&self) {}

    fn stop(&self) -> Stopping {
        Stopping::done()
    }
}

/// A degraded status without its instants.
pub(crate) fn trouble(status: &Status) -> String {
    status.trouble().map_or_else(|| status.as_str().to_owned(), ToString::to_string)
}
