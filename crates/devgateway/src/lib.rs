//! An in-memory gwag control plane, for tests, demos and one developer's laptop.
//!
//! A service that registers itself needs a gateway to register with. This one speaks the control plane as a real
//! gateway does, text for text: checks, slots, TTLs, the stable alias, deprecation, signing. It has what a real
//! one has not: faults that are switched on while it runs, a log of calls, and waiters, so that no test sleeps.
//! It dispatches nothing: no GraphQL, no calls to the registered services, no cluster.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use peerage_devgateway::{DevGateway, Rpc};
//!
//! let gateway = DevGateway::builder().taken(["admin"]).start().await?;
//! println!("register with http://{}", gateway.addr());
//! assert_eq!(gateway.services().len(), 1);
//!
//! gateway.lose_answer(Rpc::Register, 1); // a client under test should notice
//! gateway.restart(std::time::Duration::ZERO).await?;
//! gateway.shutdown().await;
//! # Ok(()) }
//! ```
//!
//! # Map
//! A call passes `serve` (port, connections, black holes; `memory`: those without a socket) → `front` (bearer, deadline, faults, log) → `service`
//! (messages) → `shared` (the lock) → `request` and `state`, which are pure: what a Register must say, and what
//! each call does. Below them: `names`, `slots`, `stable`, `sign`, and `schema`, which compiles protobuf, reads
//! OpenAPI and introspects GraphQL. Start reading at [`DevGateway`].
//!
//! # Where it differs from a gateway
//! - `hash_hex` of protobuf slots is over names and bytes of the sources, not over compiled descriptors: it
//!   changes with the same edits, and with those between files that change no descriptor, but has another value.
//! - Protobuf of edition 2023 is compiled as proto2, with the labels written out that it leaves out; of its
//!   features only `enum_type` is looked at.
//! - GraphQL endpoints are introspected over plain HTTP only.
//! - The version `v+3`, which a gateway takes for `v3`, is refused.

mod builder;
mod clock;
mod faults;
mod front;
mod gateway;
mod memory;
mod names;
mod refusal;
mod request;
mod rpc;
mod schema;
mod serve;
mod service;
mod shared;
mod sign;
mod slots;
mod stable;
mod state;
mod view;
mod wire;

pub use tonic::Code;

pub use crate::builder::{DevGatewayBuilder, StartError};
pub use crate::faults::BlackHole;
pub use crate::gateway::{DevGateway, Events, WaitElapsed};
pub use crate::memory::Connector;
pub use crate::names::Tiers;
pub use crate::rpc::{Call, Rpc};
pub use crate::schema::Kind;
pub use crate::shared::{Cause, Event};
pub use crate::view::{BindingView, RegistrationView, ServiceView};
