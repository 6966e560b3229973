//! Who the peers of a service are: mDNS, static lists and files in one consistent table.
//!
//! A service that calls others must know, cheaply and at any moment, which instances can be called now.
//! This crate watches one source or several, keeps one list that is the same for all readers, and tells
//! of each change. It also announces the own process. It never dials a peer and decides nothing about
//! trust: what is announced is a hint, and the handshake shows who answers.
//!
//! ```
//! use peerage_discovery::{Change, Discovery, StaticDiscovery, StaticPeer};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let billing = StaticDiscovery::new("billing", [StaticPeer::new("10.0.0.1:9999").node_id("billing-1")])?;
//! billing.start()?;
//! // What a request asks: one atomic load, no lock, no allocation.
//! assert_eq!(billing.snapshot().peers()[0].address().to_string(), "10.0.0.1:9999");
//!
//! // What a balancer or a log follows. The first item is always all there is.
//! let mut changes = billing.subscribe();
//! assert!(matches!(changes.next().await, Some((1, Change::Resync(_)))));
//! billing.set([
//!     StaticPeer::new("10.0.0.1:9999").node_id("billing-1"),
//!     StaticPeer::new("10.0.0.2:9999").node_id("billing-2"),
//! ])?;
//! let Some((2, Change::Joined(peer))) = changes.next().await else { panic!("a join") };
//! assert_eq!(peer.node_id(), "billing-2");
//! # Ok(()) }
//! ```
//!
//! With [`open`] the source is a text from the settings: `mdns:billing`, `static:10.0.0.1:9999`, or several.
//!
//! # Map
//! Start reading at [`Discovery`], the trait of every source, and [`Peer`], what it is about. Sources are
//! `MdnsDiscovery` (and `advertise`, its other half), [`StaticDiscovery`] and [`FileDiscovery`]; [`Merge`]
//! makes one of several, [`Filtered`] shows a part of one.
//!
//! A source puts what it hears past the [`AddressPolicy`] into a [`Table`], which is pure and knows what
//! changed since the last version. A [`Publisher`] makes versions of it: it coalesces what happens within
//! 5 ms, swaps the [`Snapshot`] that readers load, and fills the bounded queue of each [`Subscription`].
//! What has to happen later runs on one thread of the crate (`driver`), which is there only while it is
//! needed; nothing here needs the caller's runtime.
//!
//! Trouble is a [`Status`], not an error, and never empties a list. Text that comes from others is shown
//! through [`escape`](escape()).
//!
//! # Features
//! `mdns` (default): browse and advertise by multicast DNS. Lists, files and merges are always there.

mod addresses;
mod change;
mod clock;
mod counters;
mod diagnosis;
mod discovery;
mod driver;
mod endpoint;
mod error;
mod escape;
mod file;
mod filtered;
mod fixed;
mod listed;
mod merge;
mod mesh_info;
mod metadata;
mod peer;
mod publisher;
mod service_type;
mod snapshot;
mod source;
mod status;
mod subscription;
mod table;

#[cfg(feature = "mdns")]
pub mod mdns;

#[cfg(feature = "mdns")]
pub use self::mdns::{
    Advertisement, AdvertisementState, Interfaces, MdnsDiscovery, OnConflict, Registration, Resync,
    advertise, browse_types, shutdown,
};
pub use self::{
    addresses::{
        AddressPolicy, Former, Heard, Link, OnLink, Prefer, Refusal, STICKY, Selection, SourceClass, links,
    },
    change::{Change, Claim, LeaveReason},
    counters::{Counters, FreshBrowse, Ignored, Metric},
    diagnosis::{Diagnosis, Finding, Grade},
    discovery::{Discovery, Report, Stopping},
    endpoint::Endpoint,
    error::DiscoveryError,
    escape::{escape, escape_bytes},
    file::{FileBuilder, FileDiscovery, MAX_FILE},
    filtered::Filtered,
    fixed::{StaticBuilder, StaticDiscovery, StaticPeer},
    merge::Merge,
    mesh_info::{AuthHint, MeshInfo, Role},
    metadata::{MAX_ANNOUNCED, MAX_KEY, MAX_PAIRS, MAX_VALUE, Metadata, MetadataBuilder},
    peer::{MAX_ENDPOINTS, MAX_NODE_ID, Peer, PeerBuilder, PeerState, SourceId, SuspectWhy, check_node_id},
    publisher::Publisher,
    service_type::ServiceType,
    snapshot::Snapshot,
    source::{OpenOptions, open},
    status::{SourceReport, Status, Trouble},
    subscription::{QUEUE, Subscription},
    table::{MAX_PEERS, Put, Table, WINDOW},
};
