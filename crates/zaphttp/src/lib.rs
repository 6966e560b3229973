//! HTTP semantics in ZAP frames over TCP, Unix sockets and post-quantum TLS 1.3: client and server

mod body;
mod client;
mod error;
mod framing;
mod outbox;
mod pieces;
mod server;
mod timer;
#[cfg(feature = "tls")]
pub mod tls;
mod transport;
pub mod wire;

pub use body::Body;
pub use client::{Client, ClientBuilder};
pub use error::{BodyError, BoxError, ConnectError, ListenError, SendError, SendErrorKind, Stage};
pub use server::{Drained, Listener, MemoryConnector, Server, ServerBuilder, ServerHandle};
pub use transport::{Connect, Connection, ConnectionInfo, InvalidTarget, Target};
