//! A registration at a gwag gateway that never gets lost.
//!
//! A service behind a gateway must say where it listens and what it offers, say so again before its lease ends,
//! notice when the gateway was restarted or dropped it, and say goodbye. Here that is one call and a
//! handle: [`Registration`] keeps itself alive, shows where it stands, and leaves cleanly.
//!
//! ```no_run
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use peerage_controlclient::{Registration, Service};
//!
//! let registration = Registration::builder("127.0.0.1:50090", "127.0.0.1:41001")
//!     .service(Service::proto_file("greeter", "greeter.proto").version("v1"))
//!     .ttl(Duration::from_secs(30))
//!     .start()
//!     .await?;
//!
//! let mut states = registration.states();
//! states.wait_for(|state| state.is_live()).await?;
//! registration.shutdown(Duration::from_secs(2)).await;
//! # Ok(()) }
//! ```
//!
//! # Life of a registration
//! [`RegistrationBuilder`] checks the description and reads its files before anything is sent
//! ([`ConfigError`]). Then one task registers, and beats within the lease that the gateway grants. What
//! comes next is decided by a state machine without I/O (`heartbeat`), fed by that task (`driver`): a beat
//! that fails makes the registration [`Suspect`](State::Suspect), a lease that ends or a gateway that does
//! not know it [`Lost`](State::Lost), a refusal that will not change [`Rejected`](State::Rejected); each is
//! tried again, with pauses that keep a fleet from arriving all at once. The gateway's refusals are told
//! apart by [`FailureKind`], each with a sentence that says what to do.
//!
//! # Map
//! [`Service`] is what is registered, [`Gateway`] where, with [`GatewayTls`] and [`Bearer`];
//! [`RegistrationBuilder`] how; [`Registration`] the handle; [`State`] and [`Snapshot`] what can be seen;
//! [`token`] signs and verifies subscription tokens; [`pb`] is the wire. Several registrations share one
//! connection when they are given clones of one [`Gateway`].
//!
//! # Features
//! `server`: the generated server side in [`pb`], for stand-ins of a gateway. `test-util`: connections other
//! than TCP, for tests with a paused clock.

mod bindings;
mod channel;
mod driver;
mod error;
mod failure;
mod heartbeat;
mod imports;
mod options;
pub mod pb;
mod proto_dir;
mod registration;
mod served;
mod service;
mod text;
pub mod token;

pub use channel::{Bearer, Gateway, GatewayTls, TlsConfigError};
pub use error::{ConfigError, ServiceError, StartError};
pub use failure::{Failure, FailureKind};
pub use options::{RegistrationBuilder, StartPolicy, TargetMode};
pub use proto_dir::SourceError;
pub use registration::{Counters, Outcome, Registration, Snapshot, State};
pub use service::Service;
