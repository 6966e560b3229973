//! The library behind `git-remote-entire`: Git's remote-helper protocol on one side, four operations on the
//! other.
//!
//! Git starts a remote helper for a URL whose scheme it does not know, and speaks a line protocol with it. This
//! one turns that into requests of smart HTTP, through a [`Remote`] that knows where to send them. So the whole
//! of it can be tested without a network, and another transport can take the place of ours.
//!
//! # Map
//! [`run`] is the program. [`Helper::run`] is the command loop (`helper.rs`). Behind it: `list` (`list.rs`), `stateless-connect`
//! (`stateless.rs`, protocol v2), `connect` (`connect.rs`, v0 and v1), `push` (`push.rs`, by way of
//! `git send-pack`) and `fetch` (`fetch.rs`, by way of `git fetch-pack`). What they share: [`pktline`], requests
//! that are put aside before they are posted (`receive.rs`, [`Spool`]), the identity added to them (`agent.rs`),
//! `copy.rs`, `child.rs`. Around it: [`Address`], [`Options`], [`ProtocolVersion`],
//! [`credentials`], [`diagnostics`]; and [`ProxyRemote`], the [`Remote`] of the program.

mod address;
mod agent;
mod cancel;
mod child;
mod connect;
mod copy;
pub mod credentials;
mod debug_log;
pub mod diagnostics;
mod environment;
mod error;
mod fetch;
mod helper;
#[cfg(test)]
mod hostile;
mod invocation;
mod list;
mod options;
mod outer;
pub mod pktline;
mod program;
mod proxy;
mod push;
mod receive;
mod remote;
mod signals;
mod spool;
mod stateless;
mod stdio;
pub mod v2;
mod version;

pub use address::{Address, AddressError};
pub use cancel::Cancel;
pub use environment::Environment;
pub use error::HelperError;
pub use helper::{Helper, Settings};
pub use invocation::{Invocation, USAGE, help_text, version_text};
pub use options::{Family, Options};
pub use program::run;
pub use proxy::ProxyRemote;
pub use remote::{BoxError, Chunks, Remote, Service};
pub use spool::{Body, MEMORY_LIMIT, Spool};
pub use version::{FromEnvironment, ProtocolVersion};

/// Who this is, in `agent=` and as `User-Agent`.
pub const IDENTITY: &str = concat!("git-remote-entire/", env!("CARGO_PKG_VERSION"));
