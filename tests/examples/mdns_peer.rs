//! Our side of `cargo xtask interop` for mDNS: an announcer and a browser that foreign stacks meet.
//!
//! The announcer obeys lines of its input (`update KEY=VALUE…`, `close`); the browser prints a line for
//! each change. Both end with their input.
#![expect(clippy::print_stdout, reason = "its output is read by the task that runs it")]

use std::error::Error;

use peerage_discovery::{
    Change, Discovery, MdnsDiscovery, Metadata, Peer, Registration, ServiceType, advertise,
};
use tokio::io::{AsyncBufReadExt, BufReader};

type BoxError = Box<dyn Error + Send + Sync>;

const HELP: &str = "\
usage: mdns_peer announce SERVICE ID PORT [KEY=VALUE]…
       mdns_peer browse SERVICE
";

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match *arguments.as_slice() {
        ["announce", service, id, port, ref pairs @ ..] => {
            announce(&service.parse()?, id, port.parse()?, pairs).await
        }
        ["browse", service] => browse(&service.parse()?).await,
        _ => Err(HELP.into()),
    }
}

fn metadata(pairs: &[&str]) -> Result<Metadata, BoxError> {
    let pairs = pairs.iter().map(|pair| pair.split_once('=').ok_or("not KEY=VALUE"));
    Ok(Metadata::new(pairs.collect::<Result<Vec<_>, _>>()?)?)
}

async fn announce(service: &ServiceType, id: &str, port: u16, pairs: &[&str]) -> Result<(), BoxError> {
    let registration = Registration::new(service, id, port)?.metadata(metadata(pairs)?);
    let advertisement = advertise(registration)?;
    println!("announcing");
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let words: Vec<_> = line.split_whitespace().collect();
        match *words.as_slice() {
            ["update", ref pairs @ ..] => advertisement.update(metadata(pairs)?)?,
            ["close"] => break,
            _ => return Err(format!("unknown command: {line}").into()),
        }
    }
    advertisement.close().await;
    println!("closed");
    Ok(())
}

async fn browse(service: &ServiceType) -> Result<(), BoxError> {
    let discovery = MdnsDiscovery::builder(service).build();
    let mut changes = discovery.subscribe();
    discovery.start()?;
    println!("browsing");
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    loop {
        tokio::select! {
            line = lines.next_line() => if line?.is_none() { break },
            change = changes.next() => match change {
                Some((_, change)) => show(&change),
                None => break,
            },
        }
    }
    discovery.stop().await;
    Ok(())
}

fn show(change: &Change) {
    match change {
        Change::Joined(peer) => println!("joined {}", line(peer)),
        Change::Updated { new, .. } => println!("updated {}", line(new)),
        Change::Suspected(peer) => println!("suspected {:?}", peer.node_id()),
        Change::Cleared(peer) => println!("cleared {:?}", peer.node_id()),
        Change::Left { peer, reason } => println!("left {:?} {reason:?}", peer.node_id()),
        Change::Conflict { .. } => println!("conflict"),
        _ => {}
    }
}

fn line(peer: &Peer) -> String {
    let pairs: Vec<_> = peer
        .metadata()
        .iter()
        .map(|(key, value)| format!("{key}={}", String::from_utf8_lossy(value.unwrap_or_default())))
        .collect();
    format!("{:?} {} {}", peer.node_id(), peer.address(), pairs.join(" "))
}
