//! What can be seen of the gateway from outside.

use std::time::{Duration, SystemTime};

use crate::names::SlotKey;
use crate::request::{Binding, Checked};
use crate::schema::{Kind, hex};
use crate::slots::Slot;

/// A live registration.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct RegistrationView {
    /// 24 lower-case hexadecimal digits.
    pub id: String,
    /// As it was sent.
    pub addr: String,
    /// As it was sent.
    pub instance_id: String,
    /// In force; whole seconds.
    pub ttl: Duration,
    /// As it was sent: 0 asks for the gateway's default.
    pub asked_ttl: Duration,
    /// Of the last heartbeat, or of the Register, since the Unix epoch on the gateway's clock.
    pub last_heartbeat: Duration,
    /// Heartbeats accepted so far.
    pub beats: u64,
    /// `namespace/version`, in the order of the request.
    pub slots: Vec<String>,
    /// In the order of the request.
    pub bindings: Vec<BindingView>,
}

impl RegistrationView {
    /// When the last heartbeat came.
    #[must_use]
    pub fn heard(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.last_heartbeat
    }
}

/// What one binding of a registration asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct BindingView {
    /// As it was sent, possibly empty.
    pub namespace: String,
    /// As it was sent, possibly empty.
    pub version: String,
    /// The form it came in.
    pub kind: Kind,
    /// As it was sent.
    pub max_concurrency: u32,
    /// As it was sent.
    pub max_concurrency_per_instance: u32,
    /// Length of the source or document; 0 for an endpoint.
    pub schema_len: usize,
    /// Keys of the imports that were sent, sorted.
    pub imports: Vec<String>,
    /// 64 hexadecimal digits, as in [`ServiceView::hash`].
    pub hash: String,
}

impl BindingView {
    pub(crate) fn new(sent: &Binding, checked: &Checked) -> Self {
        Self {
            namespace: sent.namespace.clone(),
            version: sent.version.clone(),
            kind: checked.schema.kind(),
            max_concurrency: sent.caps.total,
            max_concurrency_per_instance: sent.caps.per_instance,
            schema_len: sent.proto_source.len() + sent.openapi_spec.len(),
            imports: sent.proto_imports.keys().cloned().collect(),
            hash: hex(checked.schema.hash()),
        }
    }
}

/// A slot.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct ServiceView {
    /// Such as `greeter`.
    pub namespace: String,
    /// `unstable` or `vN`.
    pub version: String,
    /// The form of its schema.
    pub kind: Kind,
    /// SHA-256 as 64 hexadecimal digits: of the bytes of an OpenAPI document, of the `data` of a GraphQL
    /// introspection, and for protobuf of names and bytes of all files. The last differs in value from what a
    /// real gateway shows, which hashes compiled descriptors.
    pub hash: String,
    /// At least 1.
    pub replica_count: usize,
    /// Why it is deprecated; empty when it is not.
    pub deprecation: String,
}

impl ServiceView {
    pub(crate) fn new(key: &SlotKey, slot: &Slot) -> Self {
        Self {
            namespace: key.namespace.clone(),
            version: key.version.clone(),
            kind: slot.kind,
            hash: hex(&slot.hash),
            replica_count: slot.replica_count(),
            deprecation: slot.reason.clone(),
        }
    }
}
