//! Follows the peers of a service, from whatever sources are named.
//!
//! `cargo run -p peerage-discovery --example watch -- billing mdns: static:10.0.0.1:9999`
//!
//! Without arguments it shows itself on a list that changes, and ends.

use std::{error::Error, sync::Arc, time::Duration};

use peerage_discovery::{
    Change, Discovery, OpenOptions, Report, ServiceType, StaticDiscovery, StaticPeer, Subscription, escape,
    open,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    match arguments.next() {
        Some(service) => {
            let service: ServiceType = service.parse()?;
            let sources: Vec<String> = arguments.collect();
            let sources = if sources.is_empty() { "mdns:".to_owned() } else { sources.join(" ") };
            let discovery = open(&sources, Some(&service), OpenOptions::default())?;
            discovery.start()?;
            follow(discovery.subscribe()).await;
        }
        None => show().await?,
    }
    Ok(())
}

/// A list that changes, watched from its start to its end.
async fn show() -> Result<(), Box<dyn Error>> {
    let entry = |at: u8| StaticPeer::new(format!("10.0.0.{at}:9999")).node_id(format!("billing-{at}"));
    let billing =
        Arc::new(StaticDiscovery::builder("billing")?.doubt(Duration::from_millis(50)).build([entry(1)])?);
    let watcher = tokio::spawn(follow(billing.subscribe()));

    billing.start()?;
    billing.set([entry(1), entry(2)])?;
    billing.report("billing-1", Report::Unreachable);
    let mut versions = billing.subscribe();
    while billing.peer_count() == 2 {
        versions.changed().await;
    }
    // Nobody reports it again, so the doubt ends by itself.
    while billing.peer_count() == 1 {
        versions.changed().await;
    }
    billing.set([entry(2).pair("zone", "eu-1")])?;
    billing.stop().await;
    watcher.await?;
    Ok(())
}

#[expect(clippy::print_stdout, reason = "showing it is what this is for")]
async fn follow(mut changes: Subscription) {
    while let Some((version, change)) = changes.next().await {
        let text = match change {
            Change::Resync(snapshot) => format!("{} peers, {}", snapshot.peers().len(), snapshot.status()),
            Change::Joined(peer) => format!("+ {peer}"),
            Change::Updated { new, .. } => format!("~ {new} ({})", new.metadata()),
            Change::Suspected(peer) => format!("? {peer}"),
            Change::Cleared(peer) => format!("! {peer}"),
            Change::Left { peer, reason } => format!("- {peer}: {reason}"),
            Change::Conflict { node_id, kept, refused } => {
                format!("# {} is claimed by {kept} and by {refused}", escape(&node_id))
            }
            Change::Status(status) => status.to_string(),
            other => format!("{other:?}"),
        };
        println!("{version:>4}  {text}");
    }
}
