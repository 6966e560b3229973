//! Three peers, one of which goes away, and a caller who does not notice.
//!
//! `cargo run -p peerage-clienthttp --example failover`
#![expect(clippy::print_stdout, reason = "it shows what happens")]

use std::{collections::BTreeMap, time::Duration};

use axum::{Router, routing::get};
use peerage_clienthttp::{BoxError, Client};
use peerage_discovery::{StaticDiscovery, StaticPeer};
use peerage_zaphttp::{Listener, Server};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let (mut servers, mut peers) = (Vec::new(), Vec::new());
    for name in ["billing-1", "billing-2", "billing-3"] {
        let listener = Listener::tcp("127.0.0.1:0").await?;
        let router = Router::new().route("/v1/whoami", get(async move || name));
        let server = Server::builder().serve(listener, router);
        let address = server.local_addr().ok_or("it listens on TCP")?;
        peers.push(StaticPeer::new(address).node_id(name));
        servers.push(server);
    }
    // In a real service: `Client::builder("billing")`, and mDNS finds them.
    let client = Client::builder_with(StaticDiscovery::new("billing", peers)?)
        .per_try_timeout(Duration::from_millis(500))
        .build()
        .await?;

    for round in ["all three are up", "one of them is gone"] {
        let mut answers: BTreeMap<String, u32> = BTreeMap::new();
        for _ in 0..300 {
            let name = client.get("/v1/whoami").send().await?.error_for_status()?.text().await?;
            *answers.entry(name).or_default() += 1;
        }
        println!("{round}: {answers:?}");
        if let Some(server) = servers.pop() {
            server.shutdown(Duration::from_secs(1)).await;
        }
    }
    println!("{}", client.explain());
    client.close(tokio::time::Instant::now() + Duration::from_secs(1)).await;
    Ok(())
}
