//! A thousand registrations in this process that do nothing but beat, beside the same beats from a client
//! that does nothing else.

use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use peerage_controlclient::pb::control_plane_client::ControlPlaneClient;
use peerage_controlclient::{Gateway, pb};
use rustix::time::{ClockId, clock_gettime};
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior};

use super::{Process, builder};
use crate::BoxError;
use crate::machine::memory;

const FLEET: usize = 1_000;
/// Long enough for each of the fleet to beat twice at the interval of a TTL of 30 s.
const IDLE: Duration = Duration::from_secs(20);

pub(super) async fn fleet() -> Result<(), BoxError> {
    let gateway = Process::start()?;
    let shared = Gateway::new(gateway.addr.as_str());
    // What a first registration brings with it, once for the process.
    let first = builder(shared.clone(), 40_999).start().await?;
    let before = memory().0;
    let began = Instant::now();
    let mut registrations = Vec::with_capacity(FLEET);
    for number in 0..FLEET {
        registrations.push(builder(shared.clone(), 41_000 + number).start().await?);
    }
    let registered = began.elapsed();
    let after = memory().0;
    let beats = || -> u64 {
        registrations.iter().map(|registration| registration.snapshot().counters.beats_ok).sum()
    };
    let beats_before = beats();
    let cost = Cost::start();
    // What it costs while nothing happens is what is measured.
    tokio::time::sleep(IDLE).await;
    let idle = cost.of(beats() - beats_before);
    println!("{FLEET} registrations in one process: made in {registered:.2?}, one after the other");
    println!("    connections: {}", shared.connections_made());
    let memory = after.saturating_sub(before);
    println!("    memory: {memory} KiB ({:.1} KiB each)", memory as f64 / FLEET as f64);
    println!("    idle at TTL 30 s for {IDLE:?}: {idle}");
    for registration in &registrations {
        registration.shutdown(Duration::from_secs(5)).await;
    }
    drop(registrations);
    first.shutdown(Duration::from_secs(5)).await;
    for at_once in [1_u32, 5] {
        println!("    a bare client, {at_once} at once: {}", bare(&gateway.addr, at_once).await?);
    }
    Ok(())
}

/// The same beats in the same time, `at_once` at a time, from tonic's client on one connection: no deadline,
/// no state, one id.
async fn bare(addr: &str, at_once: u32) -> Result<String, BoxError> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let (send, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let client = ControlPlaneClient::with_origin(Bare(send), Uri::try_from(format!("http://{addr}"))?);
    let beat = pb::HeartbeatRequest { registration_id: "0123456789abcdef01234567".into() };
    let mut ticks = tokio::time::interval(Duration::from_secs(10) * at_once / 1_000);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (cost, from) = (Cost::start(), Instant::now());
    let mut beats = 0;
    while from.elapsed() < IDLE {
        ticks.tick().await;
        let calls = (0..at_once).map(|_| {
            let (mut client, beat) = (client.clone(), beat.clone());
            async move { client.heartbeat(beat).await }
        });
        beats += futures_util::future::try_join_all(calls).await?.len() as u64;
    }
    let cost = cost.of(beats);
    driver.abort();
    Ok(cost)
}

/// A connection as tonic's client wants it.
#[derive(Clone)]
struct Bare(http2::SendRequest<tonic::body::Body>);

impl tower::Service<Request<tonic::body::Body>> for Bare {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = futures_util::future::BoxFuture<'static, Result<Self::Response, hyper::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// What this process has used of the cores since then.
struct Cost {
    at: Instant,
    used: Duration,
}

impl Cost {
    fn start() -> Self {
        Self { at: Instant::now(), used: used() }
    }

    /// Of one core, and for each of so many beats.
    fn of(&self, beats: u64) -> String {
        let used = (used() - self.used).as_secs_f64();
        let part = used / self.at.elapsed().as_secs_f64();
        format!("{beats} beats, {:.2} % of one core, {:.0} µs each", part * 100.0, used * 1e6 / beats as f64)
    }
}

/// Of all threads, those that ended included.
fn used() -> Duration {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(used.tv_sec.cast_unsigned(), used.tv_nsec.try_into().unwrap_or_default())
}
