//! The kit: scripted peers, faults, certificates and namespaces for the tests of every crate.
//!
//! It stands below all crates of this workspace, so each can use it, and knows none of them: what it
//! plays are peers made of raw bytes.
//!
//! # Map
//! - who answers: [`ScriptedServer`] (bytes in, bytes out), [`FaultProxy`] (a real server, with faults in
//!   between), [`FakeReplicas`] (nodes of smart HTTP), [`GitServer`] (the same with real Git behind), [`BlackHole`] and [`Refuser`] (nobody at all)
//! - what programs say: [`script`] (one that plays another)
//! - what is shown: [`TestCa`], [`TestIdentity`]
//! - what happened: [`Facts`] (recorded, with a wait that needs no sleep), [`LogCapture`]
//! - what must not happen: [`Canary`] (secrets in texts), [`Leaks`], [`Watchdog`] (hangs), [`alloc`]
//! - where: [`alone`] (a test in a process of its own), or not at all: [`skipped`], [`netns`] (in a network of its own)

pub mod alloc;
pub mod alone;
mod ca;
mod canary;
mod facts;
mod fake_replicas;
mod git_server;
mod leaks;
mod logs;
pub mod netns;
mod nobody;
mod plan;
mod program;
mod proxy;
mod script;
mod skipped;
mod watchdog;

pub use ca::{LeafBuilder, TestCa, TestIdentity, Usage, pem_of_certificates};
pub use canary::Canary;
pub use facts::Facts;
pub use fake_replicas::{Answer, FakeReplicas, Fault, Reply, RequestHead, Seen, Step};
pub use git_server::{GitClient, GitServer, Ran};
pub use leaks::Leaks;
pub use logs::LogCapture;
pub use nobody::{BlackHole, Refuser};
pub use plan::{Cut, Direction, Pace, Plan, Pump, cut_points};
pub use program::script;
pub use proxy::{FaultProxy, ProxyEvent};
pub use script::{ScriptedServer, ServerConn, ServerEvent};
pub use skipped::skipped;
pub use watchdog::Watchdog;
