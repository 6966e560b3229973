//! Prints what a pick costs beside its limits (B-1.5):
//! `cargo run --release -p peerage-balance --example pick_cost`.
#![expect(clippy::print_stdout, reason = "printing the figures is what it is for")]
#![expect(clippy::disallowed_types, reason = "measures real time")]

use std::{hint::black_box, thread, time::Instant};

use peerage_balance::{Announced, Balancer, Outcome, PickInput, Policy, Settings, mix};

const ROUNDS: u32 = 1_000_000;

fn main() {
    println!("ns for pick, sent, head and finish with a clock read each; 1, 2 and 16 threads");
    let policies = [
        (Policy::RoundRobin, 100),
        (Policy::WeightedRoundRobin, 100),
        (Policy::Random, 250),
        (Policy::LeastLoaded, 250),
        (Policy::PeakEwma, 250),
        (Policy::Sticky, 250),
    ];
    for (policy, limit) in policies {
        for n in [3, 10, 100, 1_000] {
            let settings = Settings { policy, seed: Some(1), ..Settings::default() };
            let balancer = Balancer::new(settings);
            let peers = (0..n).map(|i| Announced::new(i, &format!("peer-{i}"), format!("192.0.2.1:{i}"), ()));
            balancer.update(0, peers);
            // Rendezvous looks at each peer.
            let limit = if policy == Policy::Sticky && n <= 256 { 250 + 3 * n } else { limit };
            let [one, two, many] = [1, 2, 16].map(|threads| measure(&balancer, threads));
            println!("{:<22}{n:>5} peers: {one:>4} (limit {limit}), {two:>4}, {many:>4}", policy.as_str());
        }
    }
}

/// Nanoseconds per call and thread, the best of five runs.
fn measure(balancer: &Balancer<usize>, threads: u32) -> u128 {
    (0..5).map(|_| run(balancer, threads)).min().unwrap_or_default()
}

fn run(balancer: &Balancer<usize>, threads: u32) -> u128 {
    let rounds = ROUNDS / 5 / threads;
    let started = Instant::now();
    thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                let now = || started.elapsed().as_nanos() as u64;
                for round in 0..rounds {
                    let key = mix(u64::from(round) << 8 | u64::from(thread));
                    let input = PickInput::new(now()).key(Some(key)).repeatable(true);
                    let mut lease = black_box(balancer.pick(&input).expect("a peer"));
                    let sent = now();
                    lease.sent(sent);
                    balancer.head(&mut lease, Outcome::Success, sent + 1_000);
                }
            });
        }
    });
    // Threads of a machine with fewer cores share them: what each call costs is time by calls.
    started.elapsed().as_nanos() / u128::from(rounds * threads)
}
