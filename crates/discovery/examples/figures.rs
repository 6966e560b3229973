//! What reading and publishing cost, against the limits of discovery §18.
//!
//! `cargo run --release -p peerage-discovery --no-default-features --example figures`

use std::{
    error::Error,
    hint::black_box,
    sync::{Arc, Barrier},
    thread,
    time::Duration,
};

use peerage_discovery::{Discovery, Peer, Publisher, ServiceType, StaticDiscovery, StaticPeer, Table};
use tokio::time::Instant;

const PEERS: u16 = 1000;
const READS: u32 = 2_000_000;

#[expect(clippy::print_stdout, reason = "figures are what this is for")]
fn main() -> Result<(), Box<dyn Error>> {
    let empty = memory();
    let list = (0..PEERS).map(|at| StaticPeer::new(format!("10.0.{}.{}:9999", at / 250, at % 250)));
    let discovery = Arc::new(StaticDiscovery::new("figures", list)?);
    discovery.start()?;
    println!("T-12  {PEERS} static peers: + {} KiB (limit 2,048)", memory().saturating_sub(empty));

    println!("T-08  snapshot(), 1 thread: {:.1} ns (limit 50)", per_read(&discovery, 1));
    let cores = thread::available_parallelism().map_or(1, usize::from);
    for threads in [2, 8] {
        let wall = per_read(&discovery, threads);
        // Threads that wait for a core read nothing.
        let each = wall * cores.min(threads) as f64 / threads as f64;
        println!(
            "T-08  snapshot(), {threads} threads on {cores} cores: {each:.1} ns, {wall:.1} with waiting (limit 200)"
        );
    }
    let each = timed(READS, || {
        black_box(discovery.peer_count());
    });
    println!("      peer_count(): {each:.1} ns");
    let each = timed(READS, || {
        black_box(discovery.get(black_box("10.0.2.100:9999")));
    });
    println!("      get() among {PEERS}: {each:.1} ns");

    publishing()?;
    latency()?;
    Ok(())
}

/// Nanoseconds of one `snapshot()` as each of `threads` sees them.
fn per_read(discovery: &Arc<StaticDiscovery>, threads: usize) -> f64 {
    let barrier = Arc::new(Barrier::new(threads));
    let readers: Vec<_> = (0..threads)
        .map(|_| {
            let (discovery, barrier) = (discovery.clone(), barrier.clone());
            thread::spawn(move || {
                barrier.wait();
                timed(READS, || drop(black_box(discovery.snapshot())))
            })
        })
        .collect();
    let each: Vec<f64> = readers.into_iter().filter_map(|reader| reader.join().ok()).collect();
    each.iter().sum::<f64>() / each.len() as f64
}

fn timed(times: u32, mut call: impl FnMut()) -> f64 {
    let start = Instant::now();
    for _ in 0..times {
        call();
    }
    start.elapsed().as_nanos() as f64 / f64::from(times)
}

#[expect(clippy::print_stdout, reason = "figures are what this is for")]
fn publishing() -> Result<(), Box<dyn Error>> {
    let service: ServiceType = "figures".parse()?;
    let peers = (0..PEERS).map(|at| {
        let builder = Peer::builder(format!("n{at:04}"), &service).priority(at % 2);
        builder.endpoint(format!("10.0.{}.{}:9999", at / 250, at % 250)).build()
    });
    let peers: Vec<Peer> = peers.collect::<Result<_, _>>()?;
    let now = Instant::now();
    let mut times = Vec::new();
    let mut publisher = Publisher::new(&service);
    for _ in 0..21 {
        publisher = Publisher::new(&service);
        publisher.edit(now, |table, now| put_all(table, &peers, now));
        let start = Instant::now();
        publisher.publish();
        times.push(start.elapsed());
    }
    println!("T-11  publish {PEERS} joins: {} (limit 300 µs)", half_and_most(times));

    let mut times = Vec::new();
    for _ in 0..2001 {
        let start = Instant::now();
        publisher.edit(now, |table, now| {
            let Some(peer) = table.get("n0500").cloned() else { return };
            let moved = peer.to_builder().priority(peer.priority() ^ 1).build().ok();
            put_all(table, moved.as_slice(), now);
        });
        publisher.publish();
        times.push(start.elapsed());
    }
    println!("T-11  change one of {PEERS} and publish: {} (limit 300 µs)", half_and_most(times));
    Ok(())
}

/// From an event to the subscriber that was asleep, the window of 5 ms included.
#[expect(clippy::print_stdout, reason = "figures are what this is for")]
fn latency() -> Result<(), Box<dyn Error>> {
    let service: ServiceType = "figures".parse()?;
    let publisher = Publisher::new(&service);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let times: Vec<Duration> = runtime.block_on(async {
        let mut subscription = publisher.subscribe();
        let mut times = Vec::new();
        for port in 1..=200u16 {
            let peer = Peer::builder("a", &service).endpoint(format!("10.0.0.1:{port}")).build().ok();
            let start = Instant::now();
            publisher.edit_soon(start, |table, now| put_all(table, peer.as_slice(), now));
            subscription.changed().await;
            times.push(start.elapsed());
        }
        times
    });
    println!("T-10  change to subscriber: {} (limit 8 ms)", half_and_most(times));
    Ok(())
}

fn half_and_most(mut times: Vec<Duration>) -> String {
    times.sort();
    let (half, most) = (times.get(times.len() / 2), times.last());
    let [half, most] = [half, most].map(|time| time.copied().unwrap_or_default());
    format!("p50 {half:.1?}, slowest of {} {most:.1?}", times.len())
}

fn put_all(table: &mut Table, peers: &[Peer], now: Instant) {
    for peer in peers {
        table.put(peer.clone(), now);
    }
}

/// Resident memory in KiB; 0 where the system does not tell.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    resident.and_then(|text| text.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
