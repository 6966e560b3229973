//! A bad day, replayed: the whole client in virtual time, with peers that follow a script.
//!
//! Discovery, picks, connections, retries, budgets and timeouts are those of the real
//! [`Client`]; only the peers, the network and the clock are played. An hour takes seconds, and one seed
//! decides everything that is random: the same simulation gives the same event log, byte for byte. So one
//! can see what a setting would have done to last night's outage, and keep that as a test.
//!
//! One of ten peers hangs after five seconds. A tenth of all calls would hang with it if nobody noticed;
//! here it gets a handful before it looks as slow as it is:
//!
//! ```
//! use std::time::Duration;
//!
//! use peerage::balance::Policy;
//! use peerage::sim::{Behavior, SimPeer, Simulation};
//!
//! let report = Simulation::new(42)
//!     .peers((1..10).map(|number| SimPeer::new(format!("billing-{number}"))))
//!     .peer(SimPeer::new("billing-10").then(Duration::from_secs(5), Behavior::hangs()))
//!     .rate(200.0)
//!     .lasting(Duration::from_secs(20))
//!     .client(|client| client.balance(Policy::PeakEwma).per_try_timeout(Duration::from_secs(1)))
//!     .run()?;
//!
//! assert_eq!(report.failed(), 0, "what hung was sent to another peer after a second");
//! assert!(report.peer("billing-10").unwrap().given_up <= 6, "{report}");
//! # Ok::<(), peerage::sim::SimError>(())
//! ```
//!
//! [`Report`] has every call, what each peer saw, and the log; [`Behavior`] lists what can go wrong.
//!
//! # What is not played
//! Bytes: the network faults of single bytes are the business of the tests of the wire. Threads: everything
//! happens one after the other. Times below a millisecond: the clock goes in steps of one, so a peer that is
//! faster answers at once or in one.

mod log;
mod report;
mod script;
mod world;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use peerage_balance::{Generator, mix, unit};
use peerage_clienthttp::{
    Attempts, Body, BuildError, Client, ClientBuilder, ClientError, PeerInfo, RequestBuilder,
};
use peerage_discovery::{DiscoveryError, ServiceType};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use self::log::Log;
pub use self::log::{End, Event, What};
pub use self::report::{PeerReport, Report, SimCall};
use self::script::Step;
pub use self::script::{Behavior, Latency, SimPeer};
use self::world::{Number, Scripted, Source, World};

type Configure = Box<dyn FnOnce(ClientBuilder) -> ClientBuilder + Send>;
type Ask = Box<dyn Fn(&Client, u64) -> RequestBuilder + Send>;

/// A simulation, to be configured and run.
///
/// | setting | default |
/// |---|---|
/// | calls | 100 a second, at random times (Poisson), each `GET /` |
/// | how long calls begin | 60 s; those that run then are waited for |
/// | client | as its builder makes it |
/// | time to connect | 3 s |
#[must_use = "it does nothing until `run` is called"]
pub struct Simulation {
    seed: u64,
    peers: Vec<SimPeer>,
    rate: f64,
    lasting: Duration,
    connect_timeout: Duration,
    configure: Configure,
    ask: Ask,
}

impl Simulation {
    /// One whose randomness all follows from `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            peers: Vec::new(),
            rate: 100.0,
            lasting: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(3),
            configure: Box::new(|client| client),
            ask: Box::new(|client, _| client.get("/")),
        }
    }

    /// One more peer.
    pub fn peer(self, peer: SimPeer) -> Self {
        self.peers([peer])
    }

    /// More peers.
    pub fn peers(mut self, peers: impl IntoIterator<Item = SimPeer>) -> Self {
        self.peers.extend(peers);
        self
    }

    /// Calls a second on average, above 0 and at most 1,000,000. They come at random, as from many callers
    /// that know nothing of each other, and whatever becomes of those before.
    pub fn rate(self, calls: f64) -> Self {
        Self { rate: calls, ..self }
    }

    /// How long calls begin. Those that run at the end are waited for.
    pub fn lasting(self, time: Duration) -> Self {
        Self { lasting: time, ..self }
    }

    /// How long a connection may take to come up.
    pub fn connect_timeout(self, limit: Duration) -> Self {
        Self { connect_timeout: limit, ..self }
    }

    /// Settings of the client. Its source of peers, its dialer and its random numbers are set already.
    pub fn client(self, configure: impl FnOnce(ClientBuilder) -> ClientBuilder + Send + 'static) -> Self {
        Self { configure: Box::new(configure), ..self }
    }

    /// What is asked, given the number of the call, from 1.
    pub fn ask(self, ask: impl Fn(&Client, u64) -> RequestBuilder + Send + 'static) -> Self {
        Self { ask: Box::new(ask), ..self }
    }

    /// Runs it to its end, in a thread and a runtime of its own, so that it may be called from anywhere. It
    /// takes processor time and no waiting.
    ///
    /// # Errors
    ///
    /// [`SimError`], before anything is simulated.
    ///
    /// # Panics
    ///
    /// If the system gives no thread, and with what code of the caller panics.
    pub fn run(self) -> Result<Report, SimError> {
        if !(self.rate > 0.0 && self.rate <= 1e6) {
            return Err(SimError::Rate(self.rate));
        }
        let simulated = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    let mut runtime = tokio::runtime::Builder::new_current_thread();
                    let runtime =
                        runtime.enable_time().start_paused(true).build().map_err(SimError::Runtime)?;
                    runtime.block_on(self.play())
                })
                .join()
        });
        simulated.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    async fn play(self) -> Result<Report, SimError> {
        let Self { seed, mut peers, rate, lasting, connect_timeout, configure, ask } = self;
        peers.sort_by(|a, b| a.name.cmp(&b.name));
        let began = Instant::now();
        let log = Log::new(began);
        let service = ServiceType::try_from("simulated")?;
        let (source, reports) = Source::new(&service);
        source.open()?;
        // Each has random numbers of its own, so that one more request to a peer changes nothing for others.
        let seed_of = |number: u64| mix(seed ^ mix(number));
        let world = World {
            peers: peers
                .iter()
                .zip(1..)
                .map(|(peer, number)| {
                    let scripted = Scripted::new(peer, seed_of(number), connect_timeout, &log);
                    (peer.name.clone(), Arc::new(scripted))
                })
                .collect(),
        };
        if world.peers.len() < peers.len() {
            return Err(SimError::TwoOfOneName);
        }
        let scripted: Vec<_> = world.peers.values().cloned().collect();
        let mut script = Script::new(&peers, &scripted, &source)?;
        script.advance(Duration::ZERO)?;
        let doubting = tokio::spawn(source.clone().doubt(reports)).abort_handle();
        let client = Client::builder_with(source.clone()).dialer(world).rng_seed(seed).min_peers(0);
        let client = configure(client).build().await?;

        let random = Generator::seeded(seed_of(0));
        let mut next = Duration::ZERO;
        let mut running = JoinSet::new();
        let mut calls = Vec::new();
        for number in 1.. {
            // The time between arrivals at random is exponential.
            next += Duration::from_secs_f64(-unit(random.next_u64()).ln() / rate);
            while let Some(at) = script.next().filter(|at| *at <= next.min(lasting)) {
                sleep_until(began + at).await;
                script.advance(log.now())?;
            }
            if next > lasting {
                break;
            }
            sleep_until(began + next).await;
            while let Some(done) = running.try_join_next() {
                calls.push(joined(done));
            }
            let request = ask(&client, number).build();
            running.spawn(call(client.clone(), request, number, log.clone()));
        }
        // The script goes on while calls run.
        loop {
            let step = async {
                match script.next() {
                    Some(at) => sleep_until(began + at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                done = running.join_next() => match done {
                    Some(done) => calls.push(joined(done)),
                    None => break,
                },
                () = step => script.advance(log.now())?,
            }
        }
        client.close(Instant::now()).await;
        doubting.abort();
        let peers = scripted.iter().map(|peer| peer.report()).collect();
        Ok(Report::new(seed, calls, peers, log.take()))
    }
}

impl fmt::Debug for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulation")
            .field("seed", &self.seed)
            .field("peers", &self.peers)
            .field("rate", &self.rate)
            .field("lasting", &self.lasting)
            .finish_non_exhaustive()
    }
}

/// Why a simulation did not begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SimError {
    /// The rate of the calls is none.
    #[error("{0} calls a second: above 0, at most 1,000,000")]
    Rate(f64),
    /// Two peers have the same node id.
    #[error("two peers have the same node id")]
    TwoOfOneName,
    /// A peer that cannot be: its node id or its metadata.
    #[error("a peer")]
    Peer(#[from] DiscoveryError),
    /// Settings of the client that cannot be honoured.
    #[error("the client")]
    Client(#[from] BuildError),
    /// The system gives no runtime.
    #[error("a runtime")]
    Runtime(#[source] std::io::Error),
}

/// What the peers do, in order of time.
struct Script<'s> {
    steps: std::iter::Peekable<std::vec::IntoIter<(Duration, usize, Step)>>,
    peers: &'s [SimPeer],
    scripted: &'s [Arc<Scripted>],
    source: &'s Source,
}

impl<'s> Script<'s> {
    fn new(
        peers: &'s [SimPeer],
        scripted: &'s [Arc<Scripted>],
        source: &'s Source,
    ) -> Result<Self, DiscoveryError> {
        let steps = peers
            .iter()
            .enumerate()
            .flat_map(|(index, peer)| peer.script.iter().map(move |(at, step)| (*at, index, step.clone())));
        let mut steps: Vec<_> = steps.collect();
        // Stable: what a script says for one moment happens in the order it was written.
        steps.sort_by_key(|(at, ..)| *at);
        let script = Self { steps: steps.into_iter().peekable(), peers, scripted, source };
        for (index, _) in peers.iter().enumerate().filter(|(_, peer)| peer.is_there_at_first()) {
            script.joins(index)?;
        }
        Ok(script)
    }

    /// When the next step is.
    fn next(&mut self) -> Option<Duration> {
        self.steps.peek().map(|(at, ..)| *at)
    }

    /// Does what is due.
    fn advance(&mut self, now: Duration) -> Result<(), DiscoveryError> {
        while let Some((_, index, step)) = self.steps.next_if(|(at, ..)| *at <= now) {
            match (self.scripted.get(index), step) {
                (Some(peer), Step::Does(behavior)) => peer.becomes(&behavior),
                (Some(peer), Step::Joins) => {
                    peer.says("joins");
                    self.joins(index)?;
                }
                (Some(peer), Step::Leaves) => {
                    peer.says("leaves");
                    self.leaves(index);
                }
                (None, _) => {}
            }
        }
        Ok(())
    }

    fn joins(&self, index: usize) -> Result<(), DiscoveryError> {
        let port = u16::try_from(index + 1).unwrap_or(u16::MAX);
        self.peers.get(index).map_or(Ok(()), |peer| self.source.join(peer, port))
    }

    fn leaves(&self, index: usize) {
        if let Some(peer) = self.peers.get(index) {
            self.source.leave(&peer.name);
        }
    }
}

/// One call, from its beginning to its end.
async fn call(client: Client, request: Result<Request<Body>, ClientError>, number: u64, log: Log) -> SimCall {
    let began = log.now();
    log.write(What::Begins { call: number });
    let outcome = match request {
        Ok(mut request) => {
            request.extensions_mut().insert(Number(number));
            client.send(request).await
        }
        Err(error) => Err(error),
    };
    let (end, peer, attempts) = match &outcome {
        Ok(response) => {
            let extensions = response.extensions();
            let peer = extensions.get::<PeerInfo>().map(|peer| peer.node_id().into());
            (End::Status(response.status().as_u16()), peer, extensions.get::<Attempts>())
        }
        Err(error) => (End::Error(error.as_str()), None, error.attempts()),
    };
    log.write(What::Ends { call: number, end });
    let attempts = attempts.map_or(0, Attempts::count);
    SimCall { number, began, took: log.now().saturating_sub(began), end, peer, attempts }
}

/// Nobody aborts a call; that one panics is passed on.
fn joined(done: Result<SimCall, tokio::task::JoinError>) -> SimCall {
    done.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(error) => unreachable!("nobody aborts calls: {error}"),
    })
}
