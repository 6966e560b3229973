//! `interop`: our programs beside those of others, each check a line of the table at the end.
//!
//! What the others are: OpenSSL (the command, and the newer one inside pyOpenSSL), Go (a second ZAP-HTTP
//! written from the same description, on Go's own TLS, and the reference module where it can be fetched),
//! python-zeroconf, avahi, curl, grpcio. Multicast stays in network namespaces, everything else on loopback.

mod grpc;
mod harness;
mod peers;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use self::table::{Row, Table};
use crate::run::{Outcome, answers, cargo, root, step};

/// Where everything of this task is: built programs, scripts, certificates, the virtual environment.
#[derive(Debug)]
struct Place {
    directory: PathBuf,
    /// Where cargo puts what it builds in the `dev` profile.
    built: PathBuf,
}

impl Place {
    fn at(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn zap_peer(&self) -> PathBuf {
        self.built.join("examples/zap_peer")
    }

    fn mdns_peer(&self) -> PathBuf {
        self.built.join("examples/mdns_peer")
    }

    fn script(&self, name: &str) -> PathBuf {
        self.at("python").join(name)
    }

    fn python(&self) -> PathBuf {
        self.at("venv/bin/python")
    }
}

/// Runs all checks and prints the table.
///
/// # Errors
///
/// A check failed; or, under `CI`, one of a required peer was skipped.
pub(crate) fn run() -> Outcome {
    let place = prepare()?;
    let environment = peers::python_environment(&place);
    let environment = environment.as_ref();
    // Side by side: most of them wait, one for more than two minutes.
    let jobs: [&(dyn Fn() -> Vec<Row> + Sync); 9] = [
        &|| peers::openssl_command(),
        &|| peers::openssl_in_python(&place, environment),
        &|| peers::go(&place),
        &|| peers::go_reference(&place),
        &|| peers::go_mdns(&place),
        &|| peers::zeroconf(&place, environment),
        &|| peers::avahi(&place),
        &|| peers::curl(&place),
        &|| grpc::grpcio(&place, environment),
    ];
    let mut table = Table::default();
    thread::scope(|scope| {
        let running = jobs.map(|job| scope.spawn(job));
        for job in running {
            table.add(job.join().unwrap_or_else(|_| vec![Row::failed("xtask", "-", "a check", "panicked")]));
        }
    });
    table.finish()
}

fn prepare() -> Result<Place, String> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let place = Place { directory: root().join("target").join("interop"), built: target.join("debug") };
    for (name, text) in FILES {
        write(&place.at(name), text)?;
    }
    step("build", &mut cargo(&["build", "--locked", "-p", "peerage-tests", "--examples"]))?;
    step("build", &mut cargo(&["build", "--locked", "-p", "peerage-cli", "--bins"]))?;
    step("build", &mut cargo(&["test", "--locked", "-p", "peerage-zaphttp", "--test", "it", "--no-run"]))?;
    let certificates = place.at("certificates");
    fs::create_dir_all(&certificates).map_err(|error| format!("{}: {error}", certificates.display()))?;
    let zap_peer = place.zap_peer();
    if !zap_peer.exists() {
        return Err(format!("{} was not built", zap_peer.display()));
    }
    let words = ["certs", &certificates.to_string_lossy()];
    if !answers(&zap_peer.to_string_lossy(), &words) {
        return Err("zap_peer makes no certificates".into());
    }
    Ok(place)
}

const FILES: &[(&str, &str)] = &[
    ("network.sh", include_str!("network.sh")),
    ("python/harness.py", include_str!("python/harness.py")),
    ("python/zeroconf_peer.py", include_str!("python/zeroconf_peer.py")),
    ("python/avahi_peer.py", include_str!("python/avahi_peer.py")),
    ("python/openssl_peer.py", include_str!("python/openssl_peer.py")),
    ("python/curl_peer.py", include_str!("python/curl_peer.py")),
    ("python/grpc_peer.py", include_str!("python/grpc_peer.py")),
    ("go/main.go", include_str!("go/main.go")),
    ("go/own.go", include_str!("go/own.go")),
    ("go/reference.go", include_str!("go/reference.go")),
    ("go/go.mod", "module peerage.invalid/interop\n\ngo 1.24\n"),
];

fn write(path: &Path, text: &str) -> Outcome {
    let failed = |error| format!("{}: {error}", path.display());
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(failed)?;
    }
    fs::write(path, text).map_err(failed)
}
