//! Git smart HTTP over a set of replicas, as one value that behaves like one good server.
//!
//! A [`Proxy`] stands for one repository of one cluster. It sends the requests of Git's smart HTTP to
//! whichever replica can serve them, learns the replicas from the answers, remembers them on disk, sees
//! to it that a credential never leaves the cluster it is for, and never sends a push a second time
//! unless the first cannot have been applied.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use peerage_transport::{Config, NodeConfig, Proxy, Service};
//! use url::Url;
//!
//! // `git clone entire://eu.cluster.example/et/project/repo`
//! let remote = Url::parse("entire://eu.cluster.example/et/project/repo")?;
//! let nodes = NodeConfig::resolve(&remote, None)?;
//! let proxy = Proxy::new(Config::new(nodes, remote.path()).set_auth(
//!     |head: &mut http::request::Parts| {
//!         head.headers.insert("authorization", "Bearer of-this-repository".parse()?);
//!         Ok(())
//!     },
//! ))?;
//! # if false {
//! let mut refs = proxy.info_refs(Service::UploadPack).await?;
//! while let Some(piece) = refs.chunk().await? {
//!     println!("{} bytes", piece.len());
//! }
//! # }
//! # Ok(()) }
//! ```
//!
//! # Map
//! An operation passes, in this order: `info_refs` (known replicas, then the entry domain) → `failover`
//! (which replica, what moves on) → `exchange` (one request: credential, redirects, the 401 retry) →
//! [`wire`] (connections). Beside them: [`trust`] (pure: hosts, schemes, redirects), `replicas` (the
//! header), `push` (pure: what an attempt proves), [`cache`] (the set on disk), `text` and
//! [`debug`] (what may be shown). Start reading at [`Proxy`].
//!
//! # Features
//! None is on by default. `reqwest`: `wire::ReqwestConnect` sends through a `reqwest` client made of your
//! own builder, for SOCKS proxies, a resolver or a TLS setup that this crate's connections do not have. They
//! are the better choice everywhere else: a push counts the bytes that its server can have had, asks before
//! it sends and hears an early refusal, and connects race, none of which `reqwest` lets its callers do.
//!
//! # Differences from the reference
//! Many tasks may use one proxy; cancelling is never counted against a replica; connects race, so that
//! one that drops packets costs 250 ms; an answer that comes before a push was read is not lost. Each is
//! marked where it is made.

mod answer;
mod auth;
mod body;
pub mod cache;
mod config;
pub mod debug;
mod error;
mod exchange;
mod failover;
mod info_refs;
mod proxy;
mod push;
mod replicas;
#[cfg(test)]
mod tests;
mod text;
pub mod trust;
pub mod wire;

pub use answer::AnswerBody;
pub use body::ReplayBody;
pub use cache::NodeCache;
pub use config::{Config, ConnectBudgets, Hop, NodeConfig, SetAuth, cache_directory};
pub use error::{
    BoxError, ConfigError, PolicyError, ProxyError, PushOutcomeUnknown, http_error_message,
    push_outcome_unknown,
};
pub use proxy::{Proxy, Service, UnknownService};
pub use replicas::Replica;
pub use text::one_line;
pub use wire::{AddressFamily, ProxySettings};
