//! Who the peers of a service are: mDNS, static lists and files in one consistent table.

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
