//! Services find each other and call each other, without a sidecar, a control plane or a cluster.
//!
//! [`Mesh`] is the whole in one value: who this process is, where peers come from, what it serves, and a
//! client for every service it calls.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use axum::{Router, routing::get};
//! use peerage::Mesh;
//! use tokio::net::TcpListener;
//!
//! let listener = TcpListener::bind("127.0.0.1:0").await?;
//! let address = listener.local_addr()?;
//! let billing = Mesh::builder().build()?;
//! let served = billing.listen(listener, Router::new().route("/v1/total", get(|| async { "42" })))?;
//!
//! // On a LAN the source is "mdns:", the default, and `serve` in place of `listen` announces the service.
//! let shop = Mesh::builder().source(format!("static:{address}")).build()?;
//! let total = shop.client("billing")?.get("/v1/total").send().await?.text().await?;
//! assert_eq!(total, "42");
//! # served.close(std::time::Duration::from_secs(1)).await;
//! # Ok(()) }
//! ```
//!
//! # Map
//! Each part stands alone and is a crate of its own:
//!
//! - [`discovery`]: who is there, and telling others about oneself.
//! - [`zaphttp`]: the wire, client and server.
//! - [`balance`]: which peer, may it be repeated, how long to wait.
//! - [`clienthttp`]: the client that finds the peer it talks to.
//! - `controlclient`: a registration at a gateway, kept alive.
//! - `sim`: a bad day, replayed in virtual time.
//!
//! # Features
//! - `controlclient` (default): register at gateways what is served.
//! - `http` (default): dial peers that are ordinary web servers.
//! - `grpc`: asks peers for their health by gRPC (`clienthttp::Checks::grpc`).
//! - `json` (default): bodies as JSON.
//! - `metrics`: counts through the `metrics` facade; install its recorder before the first client is made.
//! - `sim`: `sim`, the client in virtual time with scripted peers.

mod error;
mod mesh;
mod served;
#[cfg(feature = "sim")]
pub mod sim;

pub use peerage_balance as balance;
pub use peerage_clienthttp as clienthttp;
#[cfg(feature = "controlclient")]
pub use peerage_controlclient as controlclient;
pub use peerage_discovery as discovery;
pub use peerage_zaphttp as zaphttp;

pub use self::error::MeshError;
pub use self::mesh::{Mesh, MeshBuilder};
pub use self::served::{Announcement, Served};

/// The code of the page compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/balancing.md")]
struct BalancingPage;
