//! Python's grpcio as the other end of the control plane.

use std::process::Command;
use std::time::Duration;

use super::Place;
use super::harness::check;
use super::peers::{quiet, said};
use super::table::Row;
use crate::run::root;

/// Seven seconds of it are the transcript's own.
const LIMIT: Duration = Duration::from_secs(120);

/// Its client drives `peerage gateway` through the recorded transcript; `peerage register` registers with its
/// server.
pub(super) fn grpcio(place: &Place, environment: Result<&(), &String>) -> Vec<Row> {
    let peer = "grpcio";
    if let Err(why) = environment {
        return vec![Row::skipped(peer, "transcript", "-", why)];
    }
    let version = "import grpc, grpc_tools; print(grpc.__version__)";
    let asked = || said(Command::new(place.python()).args(["-c", version]));
    let version = asked().or_else(|| {
        let mut pip = Command::new(place.python());
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "grpcio",
            "grpcio-tools",
        ]);
        quiet(&mut pip).then(asked).flatten()
    });
    let Some(version) = version else {
        return vec![Row::skipped(peer, "transcript", "-", "pip install grpcio grpcio-tools fails")];
    };
    let mut command = Command::new(place.python());
    command
        .arg(place.script("grpc_peer.py"))
        .arg(place.built.join("peerage"))
        .arg(root().join("proto"))
        .arg(root().join("crates/devgateway/tests/vectors/controlplane.json"))
        .arg(place.at("grpc"));
    let rows =
        ["C-005", "transcript", "C-007", "C-008", "C-009", "C-127", "C-146", "C-148", "C-161", "C-135"];
    check(&format!("{peer} {}", version.trim()), &mut command, LIMIT, &rows)
}
