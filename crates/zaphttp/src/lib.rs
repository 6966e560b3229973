//! HTTP semantics in ZAP frames over TCP, Unix sockets and post-quantum TLS 1.3: client and server.
//!
//! Services of a cluster that call each other all day need HTTP's meaning, not its text: methods, status,
//! headers, bodies and trailers, but no chunked coding, no case folding, no ambiguity where a message
//! ends. Here each message is a binary frame behind its length. Handlers and callers see `http` types, so
//! an `axum::Router` is served as it is and every [`tower`](tower_service) layer fits around the client.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//!
//! use axum::{Router, routing::get};
//! use http::Request;
//! use http_body_util::BodyExt;
//! use peerage_zaphttp::{Body, Client, Listener, Server};
//!
//! let app = Router::new().route("/hello", get(|| async { "hello" }));
//! let server = Server::builder().serve(Listener::tcp("127.0.0.1:0").await?, app);
//!
//! let client = Client::builder(server.local_addr().expect("it is TCP")).build();
//! let response = client.send(Request::get("/hello").body(Body::empty())?).await?;
//! assert_eq!(response.status(), 200);
//! assert_eq!(response.into_body().collect().await?.to_bytes(), "hello");
//!
//! server.shutdown(Duration::from_secs(5)).await;
//! # Ok(()) }
//! ```
//!
//! # The wire in one page
//! A connection carries one exchange at a time. A request is one frame. Its answer is one frame too, or a
//! *head*, *data* frames and an *end*: then the body arrives while it is being made, as server-sent events
//! do. In front of a frame stands its length, four bytes big-endian, at most 64 MiB; inside, every integer
//! is little-endian:
//!
//! ```text
//! 0   "ZAP" NUL | version | type << 8 | root | size        16 bytes
//! 16  the object: a slot (offset from itself, length) for each field
//!       request   method, target, protocol, headers, body, trailers
//!       answer    status, reason, protocol, headers, body, trailers      head: no body, no trailers
//!       data      the piece                                              end: trailers
//!     the fields, back to back
//! ```
//!
//! Headers and trailers are counted name-value pairs. There is no length field besides the slots, so there
//! are no two to disagree. What a peer gets wrong is refused with a [`WireError`](wire::WireError) of its
//! own and ends the connection, never a request that was read otherwise than it was written.
//!
//! # What to rely on
//! - An error says how far the request came, in its [`Stage`]; what cannot have reached the server comes
//!   back whole. A request is repeated by the client in one case only: a reused connection was gone.
//! - A body that is cut short is an error, never a short success.
//! - Memory follows what has arrived, not what was announced; a large body is in memory once.
//! - Dropping a future or a body closes that connection and nothing else. Nothing runs in the background:
//!   a client has no tasks, the tasks of a server end with its handle.
//! - A timeout starts over with each request; see the tables at [`ClientBuilder`] and [`ServerBuilder`].
//!
//! # Map
//! [`Client`] takes a connection from its pool or dials one (`client/dial.rs`), writes the request and
//! reads the answer (`client/conn.rs`); a streamed [`Body`] keeps the connection until its end
//! (`client/stream.rs`). [`Server`] accepts from a [`Listener`], runs the service for one request after the
//! other (`server/conn.rs`) and turns responses into frames (`server/respond.rs`). Both share the framing
//! of a byte stream (`framing.rs`), what is still to be written (`outbox.rs`) and what a connection is
//! (`transport.rs`). The bytes themselves are the business of [`wire`], which does no I/O. Nothing here
//! knows peers or discovery.
//!
//! # Features
//! `tls` (default): module `tls`; TLS 1.3 with X25519MLKEM768, mutual authentication, reload from disk.

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
pub use client::{Client, ClientBuilder, Opened, Reuse};
pub use error::{BodyError, BoxError, ConnectError, ListenError, SendError, SendErrorKind, Stage};
pub use server::{Drained, Listener, MemoryConnector, Server, ServerBuilder, ServerHandle};
pub use transport::{Connect, Connection, ConnectionInfo, InvalidTarget, Target};
