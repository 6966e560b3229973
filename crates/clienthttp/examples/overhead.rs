//! Prints what finding, picking and retrying cost beside the exchange itself:
//! `cargo run --release -p peerage-clienthttp --example overhead`.
#![expect(clippy::print_stdout, reason = "printing the figures is what it is for")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::Router;
use http::Request;
use peerage_clienthttp::{Body, BoxError, Client};
use peerage_discovery::{StaticDiscovery, StaticPeer};
use peerage_zaphttp::{Body as ZapBody, Client as Bare, Listener, Server, Target};
use tokio::{task::JoinSet, time::Instant};

const CONNECTIONS: usize = 64;
const ROUND: Duration = Duration::from_secs(2);
const ROUNDS: usize = 7;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut addresses = Vec::new();
    let mut servers = Vec::new();
    for _ in 0..3 {
        let listener = Listener::tcp("127.0.0.1:0").await?;
        let server = Server::builder().serve(listener, Router::new().fallback(async || "pong"));
        addresses.push(server.local_addr().ok_or("it listens on TCP")?);
        servers.push(server);
    }
    let bare: Vec<_> = addresses
        .iter()
        .map(|addr| Bare::builder(Target::Tcp(*addr)).max_idle(CONNECTIONS).build())
        .collect();
    let peer = |(id, addr): (&str, &SocketAddr)| StaticPeer::new(*addr).node_id(id);
    let peers = ["billing-1", "billing-2", "billing-3"].into_iter().zip(&addresses).map(peer);
    let client = Client::builder_with(StaticDiscovery::new("billing", peers)?).build().await?;

    let only = std::env::args().nth(1);
    if let Some(only) = only {
        for _ in 0..3 {
            let figures = if only == "bare" {
                let turn = Arc::new(AtomicU64::new(0));
                let bare = bare.clone();
                run(move || {
                    let next = turn.fetch_add(1, Ordering::Relaxed) as usize % 3;
                    let client = bare.get(next).cloned();
                    async move {
                        client.ok_or("three")?.send(request::<ZapBody>()?).await?;
                        Ok(())
                    }
                })
                .await?
            } else {
                let client = client.clone();
                run(move || {
                    let client = client.clone();
                    async move {
                        client.send(request::<Body>()?).await?;
                        Ok(())
                    }
                })
                .await?
            };
            println!("{only} {figures}");
        }
        return Ok(());
    }
    let (mut rates, mut costs) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let turn = Arc::new(AtomicU64::new(0));
        let bare = bare.clone();
        let by_hand = run(move || {
            let next = turn.fetch_add(1, Ordering::Relaxed) as usize % 3;
            let client = bare.get(next).cloned();
            async move {
                let client = client.ok_or("three clients")?;
                client.send(request::<ZapBody>()?).await?;
                Ok(())
            }
        })
        .await?;
        let client = client.clone();
        let ours = run(move || {
            let client = client.clone();
            async move {
                client.send(request::<Body>()?).await?;
                Ok(())
            }
        })
        .await?;
        println!("round {round}: bare {by_hand}; with discovery, pick and retries {ours}");
        rates.push(ours.rate / by_hand.rate);
        costs.push(ours.cpu / by_hand.cpu);
    }
    println!("{CONNECTIONS} connections, 3 peers, medians of {ROUNDS} ratios:");
    println!(
        "calls a second {:.3}, processor time of a call (client and server) {:.3}",
        median(rates),
        median(costs)
    );
    Ok(())
}

fn request<B: Default>() -> Result<Request<B>, BoxError> {
    Ok(Request::get("http://billing/v1/ping").header("accept", "text/plain").body(B::default())?)
}

fn median(mut ratios: Vec<f64>) -> f64 {
    ratios.sort_by(f64::total_cmp);
    ratios.get(ROUNDS / 2).copied().unwrap_or_default()
}

struct Figures {
    /// Calls a second.
    rate: f64,
    /// Microseconds of all processors for a call. Says more than the rate where others use them, too.
    cpu: f64,
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.0}/s, {:.1} us each", self.rate, self.cpu)
    }
}

/// The processor time of this process in microseconds; 0 where there is no `/proc`.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the name, which may hold blanks: fields 14 and 15, in ticks of 10 ms.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().skip(11).take(2);
    fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() * 10_000.0
}

/// Calls from as many tasks as connections.
async fn run<F>(call: impl Fn() -> F + Clone + Send + 'static) -> Result<Figures, BoxError>
where
    F: Future<Output = Result<(), BoxError>> + Send,
{
    let (began, cpu_before) = (Instant::now(), cpu());
    let mut tasks = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let call = call.clone();
        tasks.spawn(async move {
            let mut calls = 0_u64;
            while began.elapsed() < ROUND {
                call().await?;
                calls += 1;
            }
            Ok::<_, BoxError>(calls)
        });
    }
    let mut calls = 0;
    while let Some(done) = tasks.join_next().await {
        calls += done??;
    }
    let calls = calls as f64;
    Ok(Figures { rate: calls / began.elapsed().as_secs_f64(), cpu: (cpu() - cpu_before) / calls })
}
