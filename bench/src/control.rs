//! `control`: how soon a registration is back, how soon it leaves, what a thousand of them cost.
//!
//! The gateway runs in a process of its own, so that memory and time are the client's alone. What a whole
//! fleet does is simulated in virtual time: `cargo test --release -p peerage-controlclient simulation`.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use peerage_controlclient::{Gateway, Outcome, Registration, Service, StartPolicy};
use peerage_devgateway::{BlackHole, DevGateway};
use tokio::time::Instant;

use crate::BoxError;
use crate::machine::{Machine, memory};

const PROTO: &str = "syntax = \"proto3\"; package greeter.v1; service Greeter { rpc Hello(Req) returns (Res); } \
                     message Req { string name = 1; } message Res { string greeting = 1; }";
const RUNS: usize = 20;
const FLEET: usize = 1_000;
/// Long enough for each of the fleet to beat twice at the interval of a TTL of 30 s.
const IDLE: Duration = Duration::from_secs(20);

/// Prints one line for each target.
pub(crate) fn run() -> Result<(), BoxError> {
    let Machine { cpu, cores, kernel, commit } = Machine::here();
    println!("{cpu}, {cores} cores, Linux {kernel}, commit {commit}");
    runtime()?.block_on(async {
        restart().await?;
        shutdown().await?;
        fleet().await
    })
}

fn runtime() -> Result<tokio::runtime::Runtime, BoxError> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

fn builder(gateway: Gateway, port: usize) -> peerage_controlclient::RegistrationBuilder {
    Registration::builder(gateway, format!("127.0.0.1:{port}"))
        .service(Service::proto("greeter", PROTO).version("v1"))
        .start_policy(StartPolicy::FailFast(Duration::from_secs(10)))
}

/// A gateway that restarts empty: until it lists the client again.
async fn restart() -> Result<(), BoxError> {
    for (spread, name) in [(None, "default spread"), (Some(Duration::ZERO), "spread 0")] {
        let mut took = Vec::new();
        for _ in 0..RUNS {
            let gateway = DevGateway::builder().start().await?;
            let mut builder =
                builder(Gateway::new(gateway.addr().to_string()), 41_001).ttl(Duration::from_secs(3));
            if let Some(spread) = spread {
                builder = builder.spread(spread);
            }
            let registration = builder.start().await?;
            gateway.restart(Duration::from_millis(300)).await?;
            let back = Instant::now();
            gateway.wait_for("greeter/v1").await?;
            took.push(back.elapsed());
            registration.shutdown(Duration::from_secs(2)).await;
        }
        print("restart, TTL 3 s (interval 1 s), ", name, &mut took);
    }
    Ok(())
}

/// A gateway that swallows everything: until `shutdown(2 s)` is back.
async fn shutdown() -> Result<(), BoxError> {
    for (which, name) in [(BlackHole::Existing, "open connections"), (BlackHole::All, "everything")] {
        let mut took = Vec::new();
        let mut deregistered = 0;
        for _ in 0..RUNS / 2 {
            let gateway = DevGateway::builder().start().await?;
            let builder = builder(Gateway::new(gateway.addr().to_string()), 41_001);
            let registration = builder.start().await?;
            gateway.black_hole(which);
            let began = Instant::now();
            let outcome = registration.shutdown(Duration::from_secs(2)).await;
            took.push(began.elapsed());
            deregistered += usize::from(outcome == Outcome::Deregistered);
        }
        print("shutdown(2 s), black hole for ", name, &mut took);
        println!("    deregistered all the same: {deregistered} of {}", RUNS / 2);
    }
    Ok(())
}

/// A thousand registrations in this process.
async fn fleet() -> Result<(), BoxError> {
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
    let (cpu, from) = (cpu_time()?, Instant::now());
    tokio::time::sleep(IDLE).await;
    let share = (cpu_time()? - cpu).as_secs_f64() / from.elapsed().as_secs_f64();
    let beats: u64 = registrations.iter().map(|registration| registration.snapshot().counters.beats_ok).sum();
    println!("{FLEET} registrations in one process: made in {registered:.2?}, one after the other");
    println!("    connections: {}", shared.connections_made());
    let memory = after.saturating_sub(before);
    println!("    memory: {memory} KiB ({:.1} KiB each)", memory as f64 / FLEET as f64);
    println!("    idle at TTL 30 s for {IDLE:?}: {beats} beats, {:.2} % of one core", share * 100.0);
    for registration in &registrations {
        registration.shutdown(Duration::from_secs(5)).await;
    }
    first.shutdown(Duration::from_secs(5)).await;
    Ok(())
}

/// Time on a core of the thread that runs everything here.
fn cpu_time() -> Result<Duration, BoxError> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = stat.split_whitespace().next().ok_or("schedstat is empty")?;
    Ok(Duration::from_nanos(nanoseconds.parse()?))
}

fn print(what: &str, name: &str, took: &mut [Duration]) {
    took.sort_unstable();
    let at = |part: usize| {
        took.get((took.len() * part / 100).min(took.len().saturating_sub(1))).copied().unwrap_or_default()
    };
    println!("{what}{name}: {:.0?} median, {:.0?} at most, of {}", at(50), at(100), took.len());
}

/// A gateway in another process.
struct Process {
    child: Child,
    addr: String,
}

impl Process {
    fn start() -> Result<Self, BoxError> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("control-gateway")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut addr = String::new();
        BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut addr)?;
        Ok(Self { child, addr: addr.trim().to_owned() })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The gateway's process: ends with its input.
pub(crate) fn gateway() -> Result<(), BoxError> {
    runtime()?.block_on(async {
        let gateway = DevGateway::builder().start().await?;
        println!("{}", gateway.addr());
        std::io::stdout().flush()?;
        let end = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
        end.await??;
        gateway.shutdown().await;
        Ok(())
    })
}
