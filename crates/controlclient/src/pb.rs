//! The control plane's messages and its generated client, as on the wire (controlplane §2).
//!
//! The server side is behind the feature `server`. Map fields are ordered, so that equal messages have
//! equal bytes; byte fields are [`Bytes`](bytes::Bytes), so that cloning a request copies no schema.

#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    unused_qualifications,
    clippy::pedantic,
    clippy::exhaustive_enums,
    clippy::missing_errors_doc,
    clippy::use_self,
    clippy::or_fun_call,
    clippy::indexing_slicing,
    clippy::allow_attributes_without_reason,
    clippy::disallowed_types,
    reason = "generated code"
)]

include!("gen/gateway.controlplane.v1.rs");

impl std::fmt::Debug for SignSubscriptionTokenResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { code, hmac: _, timestamp_unix, reason, kid } = self;
        f.debug_struct("SignSubscriptionTokenResponse")
            .field("code", code)
            .field("hmac", &"[redacted]")
            .field("timestamp_unix", timestamp_unix)
            .field("reason", reason)
            .field("kid", kid)
            .finish()
    }
}
