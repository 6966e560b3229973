//! What picks a peer, counts a call on it and ends the call: ours by every policy, and tower's.

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use peerage_balance::{Announced, Balancer, Outcome, PickInput, Policy, Settings, mix};
use tokio::time::Instant;
use tower::Service;
use tower::balance::p2c::Balance;
use tower::discover::ServiceList;
use tower::load::{CompleteOnResponse, PeakEwma, PendingRequests};

/// Sizes of the peer sets.
pub(crate) const SIZES: [u32; 4] = [3, 10, 100, 1_000];

/// One call: a pick, its beginning and its end.
pub(crate) trait Subject: Send + Sync {
    /// At that time, or at the time of a clock that it reads.
    fn call(&self, key: u64, now: Option<u64>);
}

/// What B-1.5 allows in nanoseconds with one thread: with the times given, and with a clock that is read. It
/// speaks of a clock where two peers are compared, and of none elsewhere.
pub(crate) type Limits = [Option<u32>; 2];

/// A subject with its name.
pub(crate) type Named = (String, Limits, Box<dyn Subject>);

/// All of them over so many peers, always in the same order.
pub(crate) fn subjects(peers: u32) -> Vec<Named> {
    let ours = [
        (Policy::RoundRobin, [Some(100), None]),
        (Policy::WeightedRoundRobin, [Some(100), None]),
        (Policy::Random, [Some(100), None]),
        (Policy::LeastLoaded, [None, Some(250)]),
        (Policy::PeakEwma, [None, Some(250)]),
        // Rendezvous looks at each peer; above 256 of them it is a table.
        (Policy::Sticky, [Some(if peers <= 256 { 100 + 3 * peers } else { 100 }), None]),
    ];
    let ours = ours.into_iter().map(|(policy, limits): (_, Limits)| -> Named {
        (policy.as_str().to_owned(), limits, Box::new(Ours::new(policy, peers)))
    });
    let pending = (0..peers).map(|_| PendingRequests::new(Idle, CompleteOnResponse::default()));
    let ewma = |_| PeakEwma::new(Idle, Duration::from_millis(30), 10e9, CompleteOnResponse::default());
    let towers: [(&str, Box<dyn Subject>); 2] = [
        ("tower pending", Box::new(Tower::new(pending.collect()))),
        ("tower peak ewma", Box::new(Tower::new((0..peers).map(ewma).collect()))),
    ];
    ours.chain(towers.map(|(name, subject)| (name.to_owned(), [None, None], subject))).collect()
}

struct Ours {
    balancer: Balancer<u32>,
    started: Instant,
}

impl Ours {
    fn new(policy: Policy, peers: u32) -> Self {
        let balancer = Balancer::new(Settings { policy, ..Settings::default() });
        let peers = (0..peers).map(|i| Announced::new(i, &format!("peer-{i}"), format!("192.0.2.1:{i}"), ()));
        balancer.update(0, peers);
        Self { balancer, started: Instant::now() }
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }
}

impl Subject for Ours {
    /// Reads the clock twice if no time is given.
    fn call(&self, key: u64, now: Option<u64>) {
        let time = || now.unwrap_or_else(|| self.now());
        let input = PickInput::new(time()).key(Some(mix(key))).repeatable(true);
        // What it does to the counters is seen by other threads: nothing can be left out.
        let mut lease = self.balancer.pick(&input).expect("a peer");
        let sent = time();
        lease.sent(sent);
        self.balancer.head(&mut lease, Outcome::Success, sent + 1_000);
    }
}

/// A service that answers at once.
#[derive(Clone, Copy, Debug)]
struct Idle;

impl Service<()> for Idle {
    type Response = ();
    type Error = Infallible;
    type Future = Ready<Result<(), Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        ready(Ok(()))
    }
}

/// It picks with `&mut self`: threads share it by a lock, as they must, or by a queue, which is slower.
struct Tower<S: Service<()>>(Mutex<Balance<ServiceList<Vec<S>>, ()>>);

impl<S> Tower<S>
where
    S: Service<()> + tower::load::Load,
    S::Metric: std::fmt::Debug,
    S::Error: Into<tower::BoxError>,
{
    fn new(services: Vec<S>) -> Self {
        Self(Mutex::new(Balance::new(ServiceList::new::<()>(services))))
    }
}

impl<S> Subject for Tower<S>
where
    S: Service<()> + tower::load::Load + Send,
    S::Metric: std::fmt::Debug,
    S::Error: Into<tower::BoxError>,
    S::Future: Send,
{
    fn call(&self, _: u64, _: Option<u64>) {
        let mut cx = Context::from_waker(Waker::noop());
        let answer = {
            let mut balance = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            assert!(
                matches!(balance.poll_ready(&mut cx), Poll::Ready(Ok(()))),
                "peers that are always ready"
            );
            balance.call(())
        };
        assert!(pin!(answer).poll(&mut cx).is_ready());
    }
}
