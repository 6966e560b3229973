//! Prints what a pick costs beside its limits (B-1.5):
//! `cargo run --release -p peerage-balance --example pick_cost`.
//!
//! Each thread measures short pieces, so that some are not disturbed by other programs: the least of one
//! thread and the median of several are shown.
#![expect(clippy::print_stdout, reason = "printing the figures is what it is for")]
#![expect(clippy::disallowed_types, reason = "measures real time")]

use std::{hint::black_box, thread, time::Instant};

use peerage_balance::{Announced, Balancer, Outcome, PickInput, Policy, Settings, mix};

/// Calls in a piece, and pieces of a thread.
const CALLS: u32 = 500;
const PIECES: u32 = 400;

fn main() {
    let started = Instant::now();
    let clock = least(|| {
        black_box(started.elapsed());
    });
    println!("ns for pick, begin and end with two clock reads, which take {clock} ns each");
    println!(
        "{:<22}{:>5}  {:>8}{:>6}{:>12}{:>12}",
        "policy", "peers", "1 thread", "limit", "2 threads", "16 threads"
    );
    let policies = [
        (Policy::RoundRobin, 100),
        (Policy::WeightedRoundRobin, 100),
        (Policy::Random, 250),
        (Policy::LeastLoaded, 250),
        (Policy::PeakEwma, 250),
        (Policy::Sticky, 100),
    ];
    for (policy, limit) in policies {
        for n in [3, 10, 100, 1_000] {
            let balancer = Balancer::new(Settings { policy, seed: Some(1), ..Settings::default() });
            let peers = (0..n).map(|i| Announced::new(i, &format!("peer-{i}"), format!("192.0.2.1:{i}"), ()));
            balancer.update(0, peers);
            // Rendezvous looks at each peer.
            let limit = if policy == Policy::Sticky && n <= 256 { limit + 3 * n } else { limit };
            let one = pieces(&balancer, started, 0).first().copied().unwrap_or_default();
            let [two, many] = [2, 16].map(|threads| together(&balancer, started, threads));
            println!("{:<22}{n:>5}  {one:>8}{limit:>6}{two:>12}{many:>12}", policy.as_str());
        }
    }
}

/// The median of so many threads that pick from one set.
fn together(balancer: &Balancer<usize>, started: Instant, threads: u64) -> u32 {
    thread::scope(|scope| {
        let threads: Vec<_> =
            (0..threads).map(|thread| scope.spawn(move || pieces(balancer, started, thread))).collect();
        let mut all: Vec<_> = threads.into_iter().filter_map(|thread| thread.join().ok()).flatten().collect();
        all.sort_unstable();
        all.get(all.len() / 2).copied().unwrap_or_default()
    })
}

/// Nanoseconds per call of each piece, sorted.
fn pieces(balancer: &Balancer<usize>, started: Instant, thread: u64) -> Vec<u32> {
    let now = || started.elapsed().as_nanos() as u64;
    let mut keys = thread;
    let mut each: Vec<_> = (0..PIECES)
        .map(|_| {
            timed(|| {
                keys += 16;
                let input = PickInput::new(now()).key(Some(mix(keys))).repeatable(true);
                let mut lease = black_box(balancer.pick(&input).expect("a peer"));
                let sent = now();
                lease.sent(sent);
                balancer.head(&mut lease, Outcome::Success, sent + 1_000);
            })
        })
        .collect();
    each.sort_unstable();
    each
}

fn least(mut call: impl FnMut()) -> u32 {
    (0..PIECES).map(|_| timed(&mut call)).min().unwrap_or_default()
}

fn timed(mut call: impl FnMut()) -> u32 {
    let began = Instant::now();
    (0..CALLS).for_each(|_| call());
    began.elapsed().as_nanos() as u32 / CALLS
}
