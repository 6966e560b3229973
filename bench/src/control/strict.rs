//! CB-11: ten minutes beside somebody who counts our PINGs as gRPC-Go does (controlplane §3.1).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use peerage_controlclient::Gateway;
use peerage_devgateway::{DevGateway, Rpc};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::builder;
use crate::BoxError;

const TIME: Duration = Duration::from_secs(600);
/// PINGs closer together than this, with a call open, are strikes; and so many strikes are forgiven.
const LEAST_GAP: Duration = Duration::from_secs(300);
const FORGIVEN: u32 = 2;

const PREFACE: usize = 24;
const HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;

#[derive(Default)]
struct Counts {
    connections: AtomicU64,
    pings: AtomicU64,
    goaways: AtomicU64,
    /// Grows with each HEADERS or DATA of the gateway, which forgives all strikes.
    answers: AtomicU64,
}

pub(super) async fn cb11() -> Result<(), BoxError> {
    let gateway = DevGateway::builder().start().await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    let counts = Arc::new(Counts::default());
    let (counted, behind) = (counts.clone(), gateway.addr());
    let relay = tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = TcpStream::connect(behind).await else { return };
            tokio::spawn(relayed(client, server, counted.clone()));
        }
    });
    let mut registrations = Vec::new();
    // Alone on its connection, and twenty on one.
    for ttl in [3, 6, 30, 300] {
        let alone = builder(addr.to_string(), 41_000 + registrations.len()).ttl(Duration::from_secs(ttl));
        registrations.push(alone.start().await?);
    }
    let shared = Gateway::new(addr.to_string());
    for number in 0..20 {
        let together = builder(shared.clone(), 42_000 + number).ttl(Duration::from_secs(30));
        registrations.push(together.start().await?);
    }
    let began = Instant::now();
    // The row is about what a server sees in so long.
    tokio::time::sleep(TIME).await;
    let all_live = registrations.iter().filter(|registration| registration.state().is_live()).count();
    let lost: u64 =
        registrations.iter().map(|registration| registration.snapshot().counters.connections_lost).sum();
    println!(
        "CB-11 {} registrations for {:.0?} beside a strict server: {} GOAWAY (target 0), {} PING, {} beats; \
         {} connections, {lost} lost; {all_live} live at the end",
        registrations.len(),
        began.elapsed(),
        counts.goaways.load(Ordering::Relaxed),
        counts.pings.load(Ordering::Relaxed),
        gateway.count(Rpc::Heartbeat),
        counts.connections.load(Ordering::Relaxed),
    );
    for registration in &registrations {
        registration.shutdown(Duration::from_secs(5)).await;
    }
    relay.abort();
    Ok(())
}

/// Passes bytes both ways, until the client pings so much that a strict server would say GOAWAY.
async fn relayed(client: TcpStream, server: TcpStream, counts: Arc<Counts>) {
    counts.connections.fetch_add(1, Ordering::Relaxed);
    drop((client.set_nodelay(true), server.set_nodelay(true)));
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = async {
        let mut frames = Frames::after(PREFACE);
        let (mut strikes, mut seen, mut last) = (0, 0, None::<Instant>);
        let mut buffer = [0; 16 << 10];
        while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
            let bytes = buffer.get(..count).unwrap_or_default();
            for _ in frames.take(bytes).filter(|(kind, flags)| *kind == PING && flags & ACK == 0) {
                counts.pings.fetch_add(1, Ordering::Relaxed);
                let answers = counts.answers.load(Ordering::Relaxed);
                if std::mem::replace(&mut seen, answers) != answers {
                    strikes = 0;
                }
                if last.replace(Instant::now()).is_some_and(|last| last.elapsed() < LEAST_GAP) {
                    strikes += 1;
                }
            }
            if strikes > FORGIVEN {
                counts.goaways.fetch_add(1, Ordering::Relaxed);
                return;
            }
            if to_server.write_all(bytes).await.is_err() {
                return;
            }
        }
    };
    let down = async {
        let mut frames = Frames::after(0);
        let mut buffer = [0; 16 << 10];
        while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
            let bytes = buffer.get(..count).unwrap_or_default();
            for (kind, _) in frames.take(bytes) {
                match kind {
                    DATA | HEADERS => counts.answers.fetch_add(1, Ordering::Relaxed),
                    GOAWAY => counts.goaways.fetch_add(1, Ordering::Relaxed),
                    _ => continue,
                };
            }
            if to_client.write_all(bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}

/// The heads of HTTP/2 frames in a stream of bytes.
struct Frames {
    /// Bytes to pass over before the next head.
    skip: usize,
    head: Vec<u8>,
}

impl Frames {
    fn after(skip: usize) -> Self {
        Self { skip, head: Vec::with_capacity(HEAD) }
    }

    /// Kind and flags of each frame whose head ends in `bytes`.
    fn take(&mut self, mut bytes: &[u8]) -> impl Iterator<Item = (u8, u8)> + use<> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let wanted = (HEAD - self.head.len()).min(bytes.len());
            self.head.extend(bytes.get(..wanted).unwrap_or_default());
            bytes = bytes.get(wanted..).unwrap_or_default();
            if let [a, b, c, kind, flags, ..] = *self.head.as_slice()
                && self.head.len() == HEAD
            {
                self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                self.head.clear();
                found.push((kind, flags));
            }
        }
        found.into_iter()
    }
}
