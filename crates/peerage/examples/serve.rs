//! Serves `billing` and tells the network, until Ctrl-C: `cargo run -p peerage --example serve`.
#![expect(clippy::print_stdout, reason = "an example shows what it got")]

use std::time::Duration;

use axum::Router;
use axum::extract::Path;
use axum::routing::get;
use peerage::Mesh;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let app = Router::new()
        .route("/v1/invoices/{id}", get(|Path(id): Path<u32>| async move { format!("invoice {id}") }));
    let mesh = Mesh::builder().node_id("billing-1").build()?;
    let served = mesh.serve("billing", TcpListener::bind("0.0.0.0:0").await?, app)?;
    println!("billing-1 serves on {}; Ctrl-C ends", served.local_addr());
    tokio::signal::ctrl_c().await?;
    served.close(Duration::from_secs(5)).await;
    Ok(())
}
