//! Benchmarks side by side with peers; run by `cargo xtask bench`.
//!
//! `zaphttp` prints one table: our client and server beside hyper with the same handler and beside a raw
//! epoll loop that answers the same bytes and parses nothing but the length prefix; then the codec alone,
//! and a body of 64 MiB.
//!
//! # What is compared
//!
//! Every cell is a client side and a server side in this process, over loopback. By default each side is
//! one thread: the raw loops are, and ours and hyper's run on a current-thread runtime each, so that on two
//! cores nobody borrows from the other side (`--runtime shared` runs both on one runtime with a worker per
//! core instead). Handler, request headers and payload are the same for all. Columns take turns within a
//! round, and the median of the rounds is shown, so that a noisy neighbour hits all of them.
//!
//! - ours: `Client` with its pool, `Server` with a `tower` service, default settings.
//! - hyper HTTP/1.1: `client::conn::http1`, a connection per caller and no pool, the fastest hyper has;
//!   `server::conn::http1` without a `Date` header.
//! - hyper HTTP/2: the same with `http2`; as many callers as connections share one connection.
//! - raw: `mio`, fixed bytes.
//!
//! `balance` prints what a pick costs, beside tower's; `clienthttp` what the whole client adds to a call.
//!
//! `soak` calls three peers, each a process, that have one fault after the other; see `soak/mod.rs`.
//!
//! `control` prints what a registration at a gateway costs, and how soon it is back and gone; `git` what the Git
//! helper and the transport below it cost, beside stock Git on the same server.
#![expect(clippy::print_stdout, reason = "the table is what this program is for")]

mod balance;
mod balance_subjects;
mod clienthttp;
mod clienthttp_calls;
mod codec;
mod control;
mod figures;
mod git;
mod large;
mod load;
mod machine;
mod raw;
mod report;
mod sides;
mod soak;

use std::time::Duration;

use crate::report::Report;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

const USAGE: &str = "usage: peerage-bench zaphttp [--seconds N] [--rounds N] [--connections 1,16,64,256]
                             [--runtime split|shared] [--only NAME,…] [--json]
  --seconds   measured per cell, over all rounds; default 3
  --rounds    how often the columns take turns; default 3
  --only      of: pair server client raw hyper1 h2 codec body
       peerage-bench control [NAME …]
  NAME        of: restart suspect shutdown idle; at length, if asked for: cb01 cb02 cb03 cb07 cb11
       peerage-bench git [--quick]
  --quick     smaller and fewer than the targets ask for
       peerage-bench balance | clienthttp
       peerage-bench soak [--minutes N] [--rate N] [--per-try MS|none] [--hedge]
                          [--policy peak_ewma|least_loaded|round_robin|default]
  --minutes   2 by default; longer soaks have more faults
  --rate      calls a second; default 2000";

/// What to run.
struct Plan {
    time: Duration,
    rounds: u32,
    connections: Vec<usize>,
    runtime: sides::RuntimeKind,
    only: Option<Vec<String>>,
    json: bool,
}

impl Plan {
    fn parse(args: &[String]) -> Result<Self, BoxError> {
        let mut plan = Self {
            time: Duration::from_secs(3),
            rounds: 3,
            connections: vec![1, 16, 64, 256],
            runtime: sides::RuntimeKind::Split,
            only: None,
            json: false,
        };
        let mut args = args.iter().map(String::as_str);
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(USAGE);
            match arg {
                "--seconds" => plan.time = Duration::try_from_secs_f64(value()?.parse()?)?,
                "--rounds" => plan.rounds = value()?.parse::<u32>()?.max(1),
                "--connections" => {
                    plan.connections = value()?.split(',').map(str::parse).collect::<Result<_, _>>()?;
                }
                "--runtime" => {
                    plan.runtime = match value()? {
                        "split" => sides::RuntimeKind::Split,
                        "shared" => sides::RuntimeKind::Shared,
                        _ => return Err(USAGE.into()),
                    };
                }
                "--only" => plan.only = Some(value()?.split(',').map(str::to_owned).collect()),
                "--json" => plan.json = true,
                _ => return Err(USAGE.into()),
            }
        }
        Ok(plan)
    }

    fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.iter().any(|wanted| wanted == name))
    }
}

fn main() -> Result<(), BoxError> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.split_first() {
        Some((command, rest)) if command == "zaphttp" => zaphttp(&Plan::parse(rest)?),
        Some((command, names)) if command == "control" => control::run(names),
        Some((command, rest)) if command == "git" => git::run(rest),
        // The other process of `control`, started by the bench itself.
        Some((command, _)) if command == "control-gateway" => control::gateway(),
        Some((command, [])) if command == "balance" => balance::run(),
        Some((command, [])) if command == "clienthttp" => clienthttp::run(),
        Some((command, rest)) if command == "soak" => soak::run(rest),
        // A peer of the soak, started by the bench itself.
        Some((command, rest)) if command == "soak-peer" => soak::peer(rest),
        // One side of the large body, started by the bench itself.
        Some((command, rest)) if command == "body-side" => large::side(rest),
        _ => Err(USAGE.into()),
    }
}

fn zaphttp(plan: &Plan) -> Result<(), BoxError> {
    let mut report = Report::new(plan);
    report.exchanges = load::run(plan)?;
    if plan.wants("codec") {
        report.codec = figures::run()?;
    }
    if plan.wants("body") {
        report.body = Some(large::run()?);
    }
    if plan.json {
        println!("{}", report.json());
    } else {
        print!("{report}");
    }
    Ok(())
}
