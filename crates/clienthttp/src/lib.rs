//! An HTTP client that finds the peer it talks to.
//!
//! A service that calls others needs four things that a sidecar would do for it: find the live peers, pick
//! one, open an authenticated connection, move on when it is gone. Here each is a small trait.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use peerage_clienthttp::Client;
//! use peerage_discovery::{StaticDiscovery, StaticPeer};
//!
//! let billing = StaticDiscovery::new("billing", [StaticPeer::new("127.0.0.1:9999").node_id("billing-1")])?;
//! let client = Client::builder_with(billing).build().await?;
//! assert_eq!(client.peers().len(), 1);
//! # Ok(()) }
//! ```
//!
//! # Map
//! A call passes, in this order: [`Discovery`] (who is there) → [`Picker`] (which one) → [`Dialer`] (a
//! connection) → [`AuthAttacher`] (credentials) → the exchange (again, or not: `peerage_balance`). Start
//! reading at [`Client`]; one call is `client/call/`. What may cross which connection is `secure.rs`,
//! which redirects are followed `redirect.rs`. The other
//! side, around a service that is called, is [`ServingLayer`].
//!
//! # Features
//! - `zap` (default): dial peers over ZAP-HTTP.
//! - `mdns` (default): find peers by multicast DNS when no other source is given.
//! - `http`: dial peers that are ordinary HTTP/1.1 or HTTP/2 servers.
//! - `grpc`: ask peers for their health by gRPC (`Checks::grpc`).
//! - `json`: request and response bodies as JSON.
//! - `metrics`: count calls, outcomes and ejections through the `metrics` facade. Its recorder must be there
//!   before the first client is made: handles are asked for once.
//! - `test-util`: in-memory peers for tests and examples.

mod attempts;
mod auth;
mod body;
mod client;
mod dial;
mod error;
mod pick;
mod redirect;
mod replay;
mod request;
mod response;
mod secure;
mod serving;

pub use peerage_balance::{
    Backoff, BudgetPolicy, Candidate, Counters, Health, HedgePolicy, How, InvalidPolicy, Outcome, PeerKey,
    Policy, RetryPolicy, Stage, Warmup, Zone,
};
pub use peerage_discovery::{Discovery, Peer, ServiceType};

#[cfg(feature = "zap")]
pub use self::auth::LocalTrust;
#[cfg(feature = "test-util")]
pub use self::dial::TestDialer;
#[cfg(feature = "zap")]
pub use self::dial::ZapDialer;
#[cfg(feature = "http")]
pub use self::dial::{HttpDialer, HttpVersion};
pub use self::{
    attempts::{Attempt, Attempts, PeerInfo},
    auth::{AuthAttacher, Bearer, NoAuth},
    body::Body,
    client::{
        CallOptions, Checks, Client, ClientBuilder, ClientView, Condition, KeptOut, PeerView,
        PickExplanation, Redirects, Sending,
    },
    dial::{Channel, Dialer, ExchangeError, FailureKind, Security},
    error::{BoxError, BuildError, ClientError, ConfigError, Failed, Insecure, Phase},
    pick::{PickContext, Picker, Random, RoundRobin},
    request::RequestBuilder,
    response::Response,
    serving::{Serving, ServingFuture, ServingLayer, ServingService},
};
