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

    let mut ratios = Vec::new();
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
        println!("round {round}: bare {by_hand:.0}/s, with discovery, pick and retries {ours:.0}/s");
        ratios.push(ours / by_hand);
    }
    ratios.sort_by(f64::total_cmp);
    let median = ratios.get(ROUNDS / 2).copied().unwrap_or_default();
    println!("{CONNECTIONS} connections, 3 peers: median of {ROUNDS} ratios {median:.3}");
    Ok(())
}

fn request<B: Default>() -> Result<Request<B>, BoxError> {
    Ok(Request::get("http://billing/v1/ping").header("accept", "text/plain").body(B::default())?)
}

/// Calls a second, from as many tasks as connections.
async fn run<F>(call: impl Fn() -> F + Clone + Send + 'static) -> Result<f64, BoxError>
where
    F: Future<Output = Result<(), BoxError>> + Send,
{
    let began = Instant::now();
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
    Ok(calls as f64 / began.elapsed().as_secs_f64())
}
