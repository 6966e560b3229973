//! `peerage peers`: who is there.

use std::collections::BTreeSet;
use std::time::Duration;

use peerage::discovery::mdns::{self, Interfaces};
use peerage::discovery::{Discovery, DiscoveryError, Peer, PeerState, Snapshot, escape};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::watch;
use crate::args::{Global, Peers};
use crate::output::{Failure, Output, table};
use crate::setup;
use crate::stop::Stop;

pub(crate) async fn run(global: &Global, output: Output, args: Peers) -> Result<(), Failure> {
    let mut stop = Stop::listen().map_err(|error| Failure::chain("cannot listen for signals", &error))?;
    let Some(name) = &args.name else {
        return types(output, &args, &mut stop).await;
    };
    if args.watch {
        return tokio::select! {
            outcome = watch::run(global, output, &args, name) => outcome,
            () = stop.asked() => Ok(()),
        };
    }
    let source = setup::source(global, name)?;
    source.start().map_err(|error| Failure::chain("cannot look for peers", &error))?;
    let outcome = tokio::select! {
        outcome = once(output, &*source, args.wait) => outcome,
        () = stop.asked() => Err(Failure::Interrupted),
    };
    source.stop().await;
    outcome
}

/// Listens for `wait`, then prints the table.
async fn once(output: Output, source: &dyn Discovery, wait: Duration) -> Result<(), Failure> {
    // More than anybody has: every answer that comes within the time is in the table.
    match source.wait_ready(usize::MAX, Instant::now() + wait).await {
        Ok(_) | Err(DiscoveryError::NotReady { .. }) => {}
        Err(error) => return Err(Failure::chain("cannot look for peers", &error)),
    }
    let snapshot = source.snapshot();
    if snapshot.peers().is_empty() {
        return Err(Failure::Nobody(format!(
            "no peers of {}\n{}",
            source.service_type(),
            source.diagnose().await
        )));
    }
    print(output, &snapshot)
}

fn print(output: Output, snapshot: &Snapshot) -> Result<(), Failure> {
    if output.json {
        return snapshot.peers().iter().try_for_each(|peer| output.event(&as_json(peer)));
    }
    let mut rows = table(&["NODE", "ADDRESS", "STATE", "SEEN", "METADATA", "SOURCE"]);
    for peer in snapshot.peers() {
        rows.add_row([
            escape(peer.node_id()).to_string(),
            addresses(peer),
            state(peer),
            format!("{:.1?} ago", Duration::from_millis(age(peer))),
            metadata(peer),
            peer.source().to_string(),
        ]);
    }
    output.line(rows)
}

/// Every service type that is announced on the network; with `--watch` each new one as it comes.
async fn types(output: Output, args: &Peers, stop: &mut Stop) -> Result<(), Failure> {
    let mut seen = BTreeSet::new();
    loop {
        let found = tokio::select! {
            found = mdns::browse_types(Interfaces::Auto, args.wait) => found,
            () = stop.asked() => return if args.watch { Ok(()) } else { Err(Failure::Interrupted) },
        };
        for service in found.map_err(|error| Failure::chain("cannot look for services", &error))? {
            if !seen.contains(&service) {
                if output.json {
                    output.event(&json!({ "service": service.to_string() }))?;
                } else {
                    output.line(&service)?;
                }
                seen.insert(service);
            }
        }
        if !args.watch {
            break;
        }
    }
    if seen.is_empty() {
        return Err(Failure::Nobody(
            "no service is announced on this network; try `peerage peers NAME`".into(),
        ));
    }
    Ok(())
}

pub(super) fn addresses(peer: &Peer) -> String {
    peer.addresses().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

pub(super) fn state(peer: &Peer) -> String {
    match peer.state() {
        PeerState::Up => "up".into(),
        PeerState::Suspect { why, .. } => format!("suspect: {}", format!("{why:?}").to_lowercase()),
    }
}

/// Milliseconds since the last evidence.
fn age(peer: &Peer) -> u64 {
    u64::try_from(peer.last_seen().elapsed().as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn metadata(peer: &Peer) -> String {
    // The node id has a column of its own.
    let own = |key: &str, value: Option<&[u8]>| key == "id" && value == Some(peer.node_id().as_bytes());
    let pairs =
        peer.metadata().iter().filter(|(key, value)| !own(key, *value)).map(|(key, value)| match value {
            Some(value) => format!("{key}={}", String::from_utf8_lossy(value)),
            None => key.to_owned(),
        });
    escape(&pairs.collect::<Vec<_>>().join(" ")).to_string()
}

pub(crate) fn as_json(peer: &Peer) -> Value {
    let metadata: serde_json::Map<String, Value> = peer
        .metadata()
        .iter()
        .map(|(key, value)| {
            (key.to_owned(), value.map_or(Value::Bool(true), |value| String::from_utf8_lossy(value).into()))
        })
        .collect();
    json!({
        "service": peer.service_type().to_string(),
        "node_id": peer.node_id(),
        "addresses": peer.addresses().iter().map(ToString::to_string).collect::<Vec<_>>(),
        "state": state(peer),
        "age_ms": age(peer),
        "metadata": metadata,
        "source": peer.source().to_string(),
    })
}
