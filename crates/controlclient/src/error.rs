//! What a start can fail with.

use std::time::Duration;

use crate::channel::TlsConfigError;
use crate::failure::Failure;
use crate::proto_dir::SourceError;
use crate::registration::Outcome;

/// Why a registration cannot be started as it is described. Nothing was sent, nothing was connected to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// No gateway's address was given.
    #[error("the gateway's address is missing")]
    NoGateway,
    /// A gateway's address is not `host:port`.
    #[error("the gateway's address {given} is not host:port")]
    GatewayAddress {
        /// As it was given, escaped.
        given: String,
    },
    /// The host is not this one, and nothing was said about TLS.
    #[error("the gateway {gateway} is on another host: say how to trust it, or allow plaintext by name")]
    Plaintext {
        /// `host:port`.
        gateway: String,
    },
    /// A bearer would leave this host unencrypted (C-172).
    #[error("the bearer would go to {gateway} in plaintext: use TLS, or allow it by name")]
    BearerOverPlaintext {
        /// `host:port`.
        gateway: String,
    },
    /// Certificates or keys cannot be used.
    #[error("the TLS settings for the gateway cannot be used")]
    Tls(#[source] TlsConfigError),
    /// The bearer cannot be a header value, or its file cannot be read.
    #[error("the bearer token cannot be used: {reason}")]
    Bearer {
        /// Never holds the token.
        reason: String,
    },
    /// No address to be called at was given.
    #[error("the service's address is missing")]
    NoServiceAddress,
    /// There is nothing to register.
    #[error("at least one service is needed")]
    NoServices,
    /// A release binary registers a version that anybody may replace (controlplane §4.7).
    #[error("build_tag is set, and {service}/unstable is no version for a release: use a numbered vN")]
    BuildTag {
        /// The namespace.
        service: String,
    },
    /// A service cannot be registered as it is described.
    #[error("the service {service}")]
    Service {
        /// The namespace, or what the schema is called.
        service: String,
        /// What is wrong with it.
        source: ServiceError,
    },
    /// The whole request is larger than what a gateway takes.
    #[error("the request has {len} bytes, and a gateway takes {limit}")]
    TooLarge {
        /// Its encoded length.
        len: usize,
        /// 4 MiB.
        limit: usize,
    },
    /// A TTL of zero, or of more than `u32::MAX` seconds.
    #[error("a TTL of {ttl:?} cannot be asked for: 1 s to 4294967295 s, or none for the gateway's default")]
    Ttl {
        /// As it was given.
        ttl: Duration,
    },
    /// A heartbeat interval below 100 ms, or not below the TTL.
    #[error("a heartbeat interval of {interval:?} does not fit: at least 100 ms, and less than the TTL")]
    Interval {
        /// As it was given.
        interval: Duration,
    },
}

/// What is wrong with one service.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// Its files cannot be read.
    #[error("has files that cannot be read")]
    Source(#[source] SourceError),
    /// The source, the document or the endpoint is empty.
    #[error("has no schema: the proto source, OpenAPI document or GraphQL endpoint is empty")]
    NoSchema,
    /// The source or the document is not UTF-8.
    #[error("has a schema that is not UTF-8")]
    NotUtf8,
    /// There is no namespace, and nothing to take one from.
    #[error("needs a namespace")]
    NoNamespace,
    /// The namespace is no GraphQL name.
    #[error("has the namespace {namespace}, and only letters, digits and _ are allowed, no digit first")]
    Namespace {
        /// Escaped.
        namespace: String,
    },
    /// The version is neither `unstable` nor `vN`.
    #[error("has the version {version}, which is neither unstable nor v1, v2, …")]
    Version {
        /// Escaped.
        version: String,
    },
    /// Another service of this registration has the same namespace and version.
    #[error("has the slot {slot} that another service of this registration has")]
    Duplicate {
        /// `<namespace>/<version>`.
        slot: String,
    },
    /// An import has the name under which the gateway compiles the entry, and would silently replace it.
    #[error(
        "has an import {name} that would replace its entry at the gateway: rename the file or the namespace"
    )]
    Shadowed {
        /// `<namespace>.proto`.
        name: String,
    },
    /// A file imports what is not there.
    #[error("imports {name} in {importer}, which is not among its files")]
    MissingImport {
        /// The text of the import statement, escaped.
        name: String,
        /// The file that has the statement.
        importer: String,
    },
}

/// Why there is no registration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The settings cannot be honoured; nothing was sent.
    #[error("the registration cannot be started")]
    Config(#[source] ConfigError),
    /// The gateway refuses, or cannot be reached in the time the start policy gives.
    #[error("cannot register at {gateway}")]
    Failed {
        /// `host:port`.
        gateway: String,
        /// The last failure.
        source: Failure,
    },
    /// The service was not ready in the time the start policy gives.
    #[error("the service was not ready in time to register it")]
    NotReady,
    /// It was stopped: [`start_unless`](crate::RegistrationBuilder::start_unless).
    #[error("stopped while the registration started")]
    Stopped {
        /// How what was begun ended.
        outcome: Outcome,
    },
}

impl StartError {
    /// Whether the same start would fail again until somebody changes something.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Config(_) => true,
            Self::Failed { source, .. } => source.is_permanent(),
            Self::NotReady | Self::Stopped { .. } => false,
        }
    }

    /// The gateway's refusal, or what was in the way.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Failed { source, .. } => Some(source),
            Self::Config(_) | Self::NotReady | Self::Stopped { .. } => None,
        }
    }
}

impl From<ConfigError> for StartError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}
