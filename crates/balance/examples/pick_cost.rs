//! Prints what a pick costs: `cargo run --release -p peerage-balance --example pick_cost`.
#![expect(clippy::print_stdout, reason = "printing the figures is what it is for")]
#![expect(clippy::disallowed_types, reason = "measures real time")]

use std::{hint::black_box, time::Instant};

use peerage_balance::{Announced, Balancer, Outcome, PickInput, Policy, Settings};

const ROUNDS: u32 = 2_000_000;

fn main() {
    for policy in [Policy::RoundRobin, Policy::Random] {
        for n in [1, 3, 100, 1_024] {
            let balancer = Balancer::new(Settings { policy, ..Settings::default() });
            let peers = (0..n).map(|i| Announced::new(i, &format!("peer-{i}"), format!("192.0.2.1:{i}"), ()));
            balancer.update(0, peers);
            let started = Instant::now();
            for now in 0..ROUNDS {
                let mut lease = black_box(balancer.pick(&PickInput::new(now.into())).expect("a peer"));
                lease.sent(now.into());
                balancer.head(&mut lease, Outcome::Success, now.into());
            }
            let each = started.elapsed() / ROUNDS;
            println!("{policy:?}, {n} peers: {each:?} for pick, sent, head and finish");
        }
    }
}
