//! From options to the parts that a subcommand needs.

use std::error::Error;
use std::io::{self, IsTerminal};
use std::sync::Arc;

use peerage::clienthttp::{ClientError, HedgePolicy};
use peerage::discovery::{self, Discovery, DiscoveryError, OpenOptions, ServiceType};
use peerage::zaphttp::tls::{ClusterTls, TlsFiles};
use peerage::{Mesh, MeshBuilder, MeshError};
use tracing_subscriber::EnvFilter;

use crate::args::{CallLimits, Color, Global};
use crate::output::{Chain, Failure};

/// Logs to stderr: what --log says, else RUST_LOG, else warnings.
pub(crate) fn logging(global: &Global) -> Result<(), Failure> {
    let filter = match &global.log {
        Some(level) => EnvFilter::try_new(level).map_err(|error| {
            Failure::usage(format!("--log {level}: {error}; write info, debug or peerage=debug"))
        })?,
        None => EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn")),
    };
    let color = match global.color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => {
            io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        }
    };
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(color).init();
    Ok(())
}

/// The mesh for a subcommand that calls.
pub(crate) fn mesh(
    global: &Global,
    limits: CallLimits,
    plaintext_credentials: bool,
) -> Result<Mesh, Failure> {
    let (policy, hedge) = (limits.balance.policy(), limits.hedge.then(HedgePolicy::default));
    let mut builder = builder(global)?
        .request_timeout(limits.timeout)
        .clients(move |client| client.balance(policy).hedge(hedge));
    if let Some(limit) = limits.try_timeout {
        builder = builder.per_try_timeout(limit);
    }
    if plaintext_credentials {
        builder = builder.danger_plaintext_credentials();
    }
    builder.build().map_err(mesh_failure)
}

/// The mesh for a subcommand that serves.
pub(crate) fn serving_mesh(global: &Global, node_id: &str) -> Result<Mesh, Failure> {
    builder(global)?.node_id(node_id).build().map_err(mesh_failure)
}

/// The mesh of a subcommand, to be configured: where peers come from, and who we are.
pub(crate) fn builder(global: &Global) -> Result<MeshBuilder, Failure> {
    let builder = Mesh::builder().source(&global.from);
    Ok(match identity(global)? {
        Some(identity) => builder.identity(identity),
        None => builder,
    })
}

/// The certificates, which are read again when their files change.
fn identity(global: &Global) -> Result<Option<ClusterTls>, Failure> {
    let load = |files| ClusterTls::load(files).map_err(|error| Failure::failed(Chain(&error)));
    tls_files(global)?.map(load).transpose()
}

/// Where the certificates are: all of them, or none.
pub(crate) fn tls_files(global: &Global) -> Result<Option<TlsFiles>, Failure> {
    match (&global.ca, &global.cert, &global.key) {
        (None, None, None) => Ok(None),
        (Some(ca), Some(cert), Some(key)) => Ok(Some(TlsFiles::new(ca).identity(cert, key))),
        _ => Err(Failure::usage(
            "--ca, --cert and --key belong together: both ends of a connection show who they are",
        )),
    }
}

/// The source of one service.
pub(crate) fn source(global: &Global, name: &str) -> Result<Arc<dyn Discovery>, Failure> {
    // Nobody is dialled, but options that make no sense are refused all the same.
    identity(global)?;
    let service: ServiceType = name.parse().map_err(|error: DiscoveryError| Failure::usage(Chain(&error)))?;
    discovery::open(&global.from, Some(&service), OpenOptions::default())
        .map_err(|error| Failure::usage(Chain(&error)))
}

/// Wrong names and sources are the caller's to mend; all else failed.
pub(crate) fn mesh_failure(error: MeshError) -> Failure {
    match &error {
        MeshError::Discovery(inner) if is_usage(inner) => Failure::usage(Chain(inner)),
        MeshError::Discovery(inner) => Failure::failed(Chain(inner)),
        _ => Failure::failed(Chain(&error)),
    }
}

fn is_usage(error: &DiscoveryError) -> bool {
    matches!(
        error.code(),
        "invalid_service_type"
            | "invalid_node_id"
            | "invalid_metadata"
            | "metadata_too_large"
            | "secret_in_metadata"
            | "invalid_source"
            | "invalid_peer"
            | "feature_disabled"
    )
}

/// A call that found nobody has an exit code of its own.
pub(crate) fn client_failure(error: &ClientError) -> Failure {
    match error {
        ClientError::NoPeers { .. } => Failure::Nobody(Chain(error).to_string()),
        _ => Failure::failed(Chain(error)),
    }
}

/// An error with its sources, on one line.
pub(crate) fn text(error: &(dyn Error + 'static)) -> String {
    Chain(error).to_string()
}

/// `key=value`.
pub(crate) fn pair(text: &str) -> Result<(&str, &str), Failure> {
    text.split_once('=').ok_or_else(|| Failure::usage(format!("--meta {text}: write key=value")))
}

/// Service, host and process number.
pub(crate) fn node_id(service: &str) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    let host = if host.is_empty() { "host" } else { host };
    format!("{service}-{host}-{}", std::process::id())
}
