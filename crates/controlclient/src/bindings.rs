//! What a service becomes on the wire, and what is checked of it before anything is sent (controlplane §4.2–4.4).

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use prost::Message as _;

use crate::error::{ConfigError, ServiceError};
use crate::pb;
use crate::service::{Schema, Service};
use crate::text::escaped;
use crate::{imports, proto_dir};

/// What a gateway takes (controlplane §1).
const MAX_REQUEST: usize = 4 << 20;
/// What a clustered gateway can store of one binding.
const MAX_CLUSTERED_BINDING: usize = 780_000;

/// Namespaces that a gateway uses itself (controlplane §3.5).
const TAKEN: &[&str] = &[
    "admin",
    "admin_events",
    "ps",
    "_admin_auth",
    "_caller_auth",
    "_quota_auth",
    "_pubsub_auth",
    "_events_auth",
];

/// A binding and what its checks need.
pub(crate) struct Bound {
    pub(crate) binding: pb::ServiceBinding,
    label: String,
    /// The entry's name, for messages.
    entry: String,
    /// Whether a missing import can be said here: the gateway may know more only of its own files.
    is_proto: bool,
}

/// Reads a service's files and makes its binding: fields of its own form only (controlplane §4.3).
pub(crate) fn binding(service: Service) -> Result<Bound, ConfigError> {
    let label = service.label();
    let failed = |source| ConfigError::Service { service: label.clone(), source };
    let unreadable = |error| failed(ServiceError::Source(error));
    let Service { mut namespace, version, schema, max_concurrency, max_concurrency_per_instance } = service;
    let mut binding = pb::ServiceBinding {
        version,
        max_concurrency,
        max_concurrency_per_instance,
        ..pb::ServiceBinding::default()
    };
    let mut entry = "its source".to_owned();
    let mut is_proto = true;
    match schema {
        Schema::Proto { source, imports } => {
            binding.proto_source = source;
            binding.proto_imports = imports;
        }
        Schema::ProtoFile { path } => {
            binding.proto_source = proto_dir::read_file(&path).map_err(unreadable)?;
            entry = path.display().to_string();
            if namespace.is_empty() {
                namespace = stem(&path);
            }
        }
        Schema::ProtoDir { root, entry: given, prune } => {
            let read = proto_dir::read(&root, &given).map_err(unreadable)?;
            binding.proto_source = read.source;
            binding.proto_imports = read.imports;
            if prune {
                let source = String::from_utf8_lossy(&binding.proto_source).into_owned();
                let (reached, _) = imports::reached(&source, &binding.proto_imports);
                let reached: BTreeSet<String> = reached.into_iter().map(str::to_owned).collect();
                binding.proto_imports.retain(|name, _| reached.contains(name));
            }
            if namespace.is_empty() {
                namespace = stem(Path::new(&read.entry));
            }
            entry = read.entry;
        }
        Schema::OpenApi { document } => {
            binding.openapi_spec = document;
            is_proto = false;
        }
        Schema::OpenApiFile { path } => {
            binding.openapi_spec = proto_dir::read_file(&path).map_err(unreadable)?;
            is_proto = false;
        }
        Schema::GraphQl { endpoint } => {
            binding.graphql_endpoint = endpoint;
            is_proto = false;
        }
    }
    let has_schema = !binding.proto_source.is_empty()
        || !binding.openapi_spec.is_empty()
        || !binding.graphql_endpoint.is_empty();
    if !has_schema {
        return Err(failed(ServiceError::NoSchema));
    }
    let texts = binding.proto_imports.values().chain([&binding.proto_source, &binding.openapi_spec]);
    if texts.into_iter().any(|text| std::str::from_utf8(text).is_err()) {
        return Err(failed(ServiceError::NotUtf8));
    }
    // A gateway names an OpenAPI service after its title; a proto source it would call `entry`.
    if namespace.is_empty() && binding.openapi_spec.is_empty() {
        return Err(failed(ServiceError::NoNamespace));
    }
    binding.namespace = namespace;
    Ok(Bound { binding, label, entry: escaped(&entry), is_proto })
}

/// `svc/user.proto` is `user`.
fn stem(path: &Path) -> String {
    path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Namespaces, versions and slots.
pub(crate) fn check_slots(services: &[Bound]) -> Result<Arc<[String]>, ConfigError> {
    let failed = |bound: &Bound, source| ConfigError::Service { service: bound.label.clone(), source };
    for bound in services {
        let namespace = &bound.binding.namespace;
        if !namespace.is_empty() && !is_name(namespace) {
            return Err(failed(bound, ServiceError::Namespace { namespace: escaped(namespace) }));
        }
        if TAKEN.contains(&namespace.as_str()) {
            tracing::warn!(namespace, "a gateway may use this namespace itself");
        }
    }
    for bound in services {
        let version = &bound.binding.version;
        if !is_version(version) {
            return Err(failed(bound, ServiceError::Version { version: escaped(version) }));
        }
    }
    let mut slots: Vec<String> = Vec::new();
    for bound in services {
        let pb::ServiceBinding { namespace, version, .. } = &bound.binding;
        let version = if version.is_empty() { "v1" } else { version };
        let slot = format!("{namespace}/{version}");
        // Two documents may have different titles.
        if !namespace.is_empty() && slots.contains(&slot) {
            return Err(failed(bound, ServiceError::Duplicate { slot }));
        }
        slots.push(slot);
    }
    Ok(slots.into())
}

/// What the gateway would compile differently from what was meant.
pub(crate) fn check_imports(services: &[Bound]) -> Result<(), ConfigError> {
    for bound in services.iter().filter(|bound| bound.is_proto) {
        let failed = |source| ConfigError::Service { service: bound.label.clone(), source };
        let binding = &bound.binding;
        let name = format!("{}.proto", binding.namespace);
        if binding.proto_imports.contains_key(&name) {
            return Err(failed(ServiceError::Shadowed { name }));
        }
        let source = String::from_utf8_lossy(&binding.proto_source);
        if let (_, Some((name, importer))) = imports::reached(&source, &binding.proto_imports) {
            let importer = importer.map_or_else(|| bound.entry.clone(), escaped);
            return Err(failed(ServiceError::MissingImport { name: escaped(&name), importer }));
        }
    }
    Ok(())
}

pub(crate) fn check_size(request: &pb::RegisterRequest) -> Result<(), ConfigError> {
    let len = request.encoded_len();
    if len > MAX_REQUEST {
        return Err(ConfigError::TooLarge { len, limit: MAX_REQUEST });
    }
    for binding in &request.services {
        let len = binding.encoded_len();
        if len > MAX_CLUSTERED_BINDING {
            let namespace = &binding.namespace;
            tracing::warn!(namespace, len, "a clustered gateway may not be able to store this service");
        }
    }
    Ok(())
}

/// A GraphQL name: what a gateway can build a schema with (controlplane §3.5).
fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Empty, `unstable`, or `v` and a number from 1 without a sign or leading zeros (controlplane §3.6).
fn is_version(text: &str) -> bool {
    if text.is_empty() || text == "unstable" {
        return true;
    }
    text.strip_prefix('v').is_some_and(|number| {
        number.bytes().all(|b| b.is_ascii_digit())
            && !number.starts_with('0')
            && number.parse::<i64>().is_ok()
    })
}
