//! `control`: how soon a registration is back, how soon it leaves, what a thousand of them cost, and the
//! rows of controlplane §7 at the counts that they ask for.
//!
//! Where memory or time is measured the gateway runs in a process of its own. What a whole fleet does is
//! simulated in virtual time: `cargo test --release -p peerage-controlclient simulation`.

mod away;
mod idle;
mod rows;
mod strict;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use peerage_controlclient::{Gateway, Registration, RegistrationBuilder, Service, StartPolicy, State};
use peerage_devgateway::DevGateway;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::BoxError;
use crate::machine::Machine;

const PROTO: &str = "syntax = \"proto3\"; package greeter.v1; service Greeter { rpc Hello(Req) returns (Res); } \
                     message Req { string name = 1; } message Res { string greeting = 1; }";
/// Longer than anything here takes; whoever waits for longer has found a fault.
const PATIENCE: Duration = Duration::from_secs(60);

/// Prints a line or more for each name.
pub(crate) fn run(names: &[String]) -> Result<(), BoxError> {
    let Machine { cpu, cores, kernel, commit } = Machine::here();
    println!("{cpu}, {cores} cores, Linux {kernel}, commit {commit}");
    let names: Vec<&str> = match names {
        [] => vec!["restart", "suspect", "shutdown", "idle"],
        given => given.iter().map(String::as_str).collect(),
    };
    for name in names {
        match name {
            "restart" => alone(away::restart())?,
            "suspect" => alone(away::suspect())?,
            "shutdown" => alone(away::shutdown())?,
            "idle" => alone(idle::fleet())?,
            "cb01" => alone(rows::cb01())?,
            "cb02" => alone(rows::cb02())?,
            "cb03" => rows::cb03()?,
            "cb07" => alone(rows::cb07())?,
            "cb11" => alone(strict::cb11())?,
            _ => return Err(crate::USAGE.into()),
        }
    }
    Ok(())
}

/// On one thread.
fn alone(run: impl Future<Output = Result<(), BoxError>>) -> Result<(), BoxError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run)
}

/// `greeter/v1`, with one attempt at the start.
fn builder(gateway: impl Into<Gateway>, port: usize) -> RegistrationBuilder {
    Registration::builder(gateway.into(), format!("127.0.0.1:{port}"))
        .service(Service::proto("greeter", PROTO).version("v1"))
        .start_policy(StartPolicy::FailFast(Duration::from_secs(30)))
}

/// Waits for a state by its name.
async fn reaches(states: &mut watch::Receiver<State>, name: &str) -> Result<(), BoxError> {
    let reached = matches!(timeout(PATIENCE, states.wait_for(|state| state.name() == name)).await, Ok(Ok(_)));
    if reached { Ok(()) } else { Err(format!("never {name}: {:?}", *states.borrow()).into()) }
}

/// Median, 99th percentile and the longest.
fn print(what: &str, took: &mut [Duration]) {
    took.sort_unstable();
    let at = |part: usize| {
        took.get((took.len() * part / 100).min(took.len().saturating_sub(1))).copied().unwrap_or_default()
    };
    println!("{what}: {:.1?} median, {:.1?} p99, {:.1?} at most, of {}", at(50), at(99), at(100), took.len());
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
    alone(async {
        let gateway = DevGateway::builder().start().await?;
        println!("{}", gateway.addr());
        std::io::stdout().flush()?;
        let end = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
        end.await??;
        gateway.shutdown().await;
        Ok(())
    })
}
