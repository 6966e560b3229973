//! `peerage expose`: an HTTP server becomes a peer.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use http::uri::PathAndQuery;
use peerage::{Announcement, Served};
use serde_json::json;
use tokio::net::TcpListener;

use crate::args::{Expose, Global};
use crate::output::{Failure, Output};
use crate::setup;
use crate::stop::Stop;
use crate::upstream::{Forward, Upstream};

/// How often the health path is asked.
const HEALTH_EVERY: Duration = Duration::from_secs(2);

pub(crate) async fn run(global: &Global, output: Output, args: Expose) -> Result<(), Failure> {
    let upstream = Upstream::parse(&args.upstream, args.h2, args.upstream_timeout)?;
    let health = args
        .health
        .as_deref()
        .map(|path| {
            path.parse::<PathAndQuery>()
                .ok()
                .filter(|path| path.as_str().starts_with('/'))
                .ok_or_else(|| Failure::usage(format!("--health {path}: write a path, such as /healthz")))
        })
        .transpose()?;
    let metadata = args.meta.iter().map(|pair| setup::pair(pair)).collect::<Result<Vec<_>, _>>()?;
    let node_id = args.node_id.unwrap_or_else(|| setup::node_id(&args.name));
    let mut stop = Stop::listen().map_err(|error| Failure::chain("cannot listen for signals", &error))?;

    let mesh = setup::serving_mesh(global, &node_id)?;
    let mut announcement = Announcement::new(&args.name).map_err(setup::mesh_failure)?;
    for (key, value) in metadata {
        announcement = announcement.pair(key, value);
    }
    announcement.check(&node_id).map_err(setup::mesh_failure)?;
    let listener = listen(args.listen).await?;
    let served = mesh.listen(listener, Forward(upstream.clone())).map_err(setup::mesh_failure)?;
    let address = served.local_addr();
    if !mesh.is_encrypted() && !address.ip().is_loopback() {
        eprintln!(
            "peerage: calls are not encrypted and anyone who reaches {address} can make them; \
             --ca, --cert and --key switch on mutual TLS"
        );
    }
    output.ready(&address, &[("service", json!(args.name)), ("node_id", json!(node_id))])?;
    if !output.json {
        eprintln!("peerage: {node_id} serves {} from {}; Ctrl-C ends", args.name, args.upstream);
    }

    let outcome = tokio::select! {
        outcome = announce(&served, &announcement, &upstream, health.as_ref(), output) => outcome,
        () = stop.asked() => Ok(()),
    };
    // The goodbye goes out while calls are still served: peers stop coming before the door closes.
    served.close(args.drain).await;
    mesh.close(args.drain).await;
    outcome
}

/// Announces the service, and withdraws it while its health path fails. Ends only with an error.
async fn announce(
    served: &Served,
    announcement: &Announcement,
    upstream: &Upstream,
    health: Option<&PathAndQuery>,
    output: Output,
) -> Result<(), Failure> {
    let Some(path) = health else {
        served.announce(announcement).map_err(setup::mesh_failure)?;
        return Err(Failure::chain("not announced any more", &served.refused().await));
    };
    let mut was_well = None;
    let mut tick = tokio::time::interval(HEALTH_EVERY);
    loop {
        tick.tick().await;
        let checked = upstream.healthy(path).await;
        if was_well == Some(checked.is_ok()) {
            continue;
        }
        was_well = Some(checked.is_ok());
        match &checked {
            Ok(()) => served.announce(announcement).map_err(setup::mesh_failure)?,
            Err(_) => served.withdraw().await,
        }
        if output.json {
            output.event(&json!({ "event": "health", "well": checked.is_ok(), "why": checked.err() }))?;
        } else {
            match checked {
                Ok(()) => eprintln!("peerage: {path} answers: announced"),
                Err(why) => eprintln!("peerage: {path}: {why}: withdrawn until it answers"),
            }
        }
    }
}

/// The address asked for, or a free port on every interface, IPv6 and IPv4 alike.
async fn listen(asked: Option<SocketAddr>) -> Result<TcpListener, Failure> {
    let failed = |address: SocketAddr, error: io::Error| {
        Failure::chain(format_args!("cannot listen on {address}"), &error)
    };
    if let Some(address) = asked {
        return TcpListener::bind(address).await.map_err(|error| failed(address, error));
    }
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).await {
        Ok(listener) => Ok(listener),
        // A host without IPv6.
        Err(_) => {
            let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
            TcpListener::bind(address).await.map_err(|error| failed(address, error))
        }
    }
}
