//! What lies beside the mesh: gateways, Git, and its helper.

use std::env;
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use futures_util::future::join_all;
use peerage::controlclient::{ConfigError, FailureKind, Gateway, GatewayTls, StartError};
use tokio::process::Command;
use tokio::time::{Instant, timeout};

use super::Check;
use crate::GIT_HELPER;
use crate::args::Global;
use crate::cmd::register;
use crate::output::Failure;
use crate::setup;

/// The gateways of --gateway, and how to reach them.
pub(super) struct Gateways {
    addresses: Vec<String>,
    /// As `register` would; or why that cannot be.
    tls: Result<Option<GatewayTls>, String>,
}

impl Gateways {
    pub(super) fn new(global: &Global, addresses: Vec<String>) -> Result<Self, Failure> {
        let tls = match register::tls(global) {
            _ if addresses.is_empty() => Ok(None),
            Err(failure @ Failure::Usage(_)) => return Err(failure),
            loaded => loaded.map_err(Failure::text),
        };
        Ok(Self { addresses, tls })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    /// Asks each what is registered.
    pub(super) async fn ask(self, limit: Duration) -> Vec<Check> {
        let tls = &self.tls;
        join_all(self.addresses.iter().map(|address| async move {
            let subject = format!("gateway {address}");
            match tls {
                Ok(Some(tls)) => ask(subject, Gateway::new(address).tls(tls.clone()), limit).await,
                Ok(None) => ask(subject, Gateway::new(address), limit).await,
                Err(why) => Check::failed(subject, why),
            }
        }))
        .await
    }
}

async fn ask(subject: String, gateway: Gateway, limit: Duration) -> Check {
    let began = Instant::now();
    let error = match gateway.services(limit).await {
        Ok(services) => {
            let text = format!("answers in {:.1?}, with {} services", began.elapsed(), services.len());
            return Check::ok(subject, text).with("services", services.len());
        }
        Err(error) => error,
    };
    match &error {
        StartError::Config(ConfigError::Plaintext { .. }) => {
            Check::failed(subject, "it is on another host, and nothing says how to trust it")
                .hint("say --ca FILE: the CA of its certificate")
        }
        StartError::Config(error) => {
            Check::failed(subject, setup::text(error)).hint("write host:port, such as 127.0.0.1:50090")
        }
        _ => match error.failure() {
            Some(failure) if failure.kind() == FailureKind::Unreachable => {
                Check::failed(subject, failure.words())
                    .hint("see that it runs, and the address: `peerage gateway` is one for this host")
            }
            Some(failure) => Check::failed(subject, failure.words()).hint(failure.hint()),
            None => Check::failed(subject, setup::text(&error)),
        },
    }
}

/// Which Git is there, and whether it finds its helper.
pub(super) async fn git(limit: Duration) -> Vec<Check> {
    let path = env::var_os("PATH").unwrap_or_default();
    let (git, helper) = tokio::join!(version(OsStr::new("git"), limit), helper(&path, limit));
    let git = match git {
        Ok(version) => Check::ok("git", version),
        Err(why) => Check::warning("git", why).hint("install git, for `git clone entire://…`"),
    };
    vec![git, helper]
}

async fn helper(path: &OsStr, limit: Duration) -> Check {
    let Some(found) = find(path) else {
        return Check::warning(GIT_HELPER, "not on the PATH: git cannot clone entire:// URLs")
            .hint("cargo install --path crates/git-remote-entire, or make a link of that name to `peerage`");
    };
    match version(found.as_os_str(), limit).await {
        Ok(version) => Check::ok(GIT_HELPER, format!("{}: {version}", found.display())),
        Err(why) => Check::warning(GIT_HELPER, format!("{}: {why}", found.display()))
            .hint("install it again: cargo install --path crates/git-remote-entire"),
    }
}

/// The first program of that name, as Git looks for it.
fn find(path: &OsStr) -> Option<PathBuf> {
    env::split_paths(path).map(|directory| directory.join(GIT_HELPER)).find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    file.metadata().is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
}

/// What the program answers to `--version`, in time; else why it does not.
async fn version(program: &OsStr, limit: Duration) -> Result<String, String> {
    let asked = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    match timeout(limit, asked).await {
        Err(_) => Err(format!("no answer to --version within {limit:?}")),
        Ok(Err(error)) => Err(format!("it cannot be started: {}", error.to_string().to_lowercase())),
        Ok(Ok(output)) if !output.status.success() => Err(format!("--version ended with {}", output.status)),
        Ok(Ok(output)) => {
            let text = String::from_utf8_lossy(&output.stdout);
            Ok(text.lines().next().unwrap_or_default().trim().to_owned())
        }
    }
}
