//! Peers and callers in virtual time: one seed makes one run, whatever machine it runs on.

use std::{collections::BTreeMap, env};

use peerage_balance::{Announced, Balancer, Generator, Lease, Outcome, PickInput, Settings, hash64, unit};

pub(crate) const MS: u64 = 1_000_000;
pub(crate) const SECOND: u64 = 1_000 * MS;

/// The seeds that each property is tried with (B-10.2): `PEERAGE_SEEDS` of them, or 20.
pub(crate) fn seeds() -> std::ops::Range<u64> {
    0..env::var("PEERAGE_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(20)
}

/// What a peer does with a call.
#[derive(Clone, Copy)]
pub(crate) struct Reply {
    /// Until its answer; `None` for never.
    pub(crate) took: Option<u64>,
    pub(crate) outcome: Outcome,
}

pub(crate) fn ok(took: u64) -> Reply {
    Reply { took: Some(took), outcome: Outcome::Success }
}

pub(crate) fn fails(took: u64) -> Reply {
    Reply { took: Some(took), outcome: Outcome::Hard }
}

pub(crate) const SILENT: Reply = Reply { took: None, outcome: Outcome::Hard };

/// Service time around `mean`: log-normal with sigma 0.3.
pub(crate) fn usual(mean: f64, random: &Generator) -> u64 {
    const SIGMA: f64 = 0.3;
    let (u, v) = (unit(random.next_u64()), unit(random.next_u64()));
    let normal = (-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos();
    (mean * (SIGMA * normal - SIGMA * SIGMA / 2.0).exp()) as u64
}

pub(crate) fn exponential(mean: f64, random: &Generator) -> u64 {
    (-mean * unit(random.next_u64()).ln()) as u64
}

/// First come, first served, by so many workers. Says when a call that arrives now will be done.
pub(crate) struct Queue(Vec<u64>);

impl Queue {
    pub(crate) fn new(workers: usize) -> Self {
        Self(vec![0; workers])
    }

    pub(crate) fn takes(&mut self, now: u64, service: u64) -> u64 {
        let worker = self.0.iter_mut().min().unwrap();
        *worker = now.max(*worker) + service;
        *worker - now
    }
}

/// One client with its peers.
pub(crate) struct Model {
    pub(crate) balancer: Balancer<usize>,
    pub(crate) now: u64,
    /// Random numbers of the world, apart from those of the client.
    pub(crate) world: Generator,
    /// Calls that will be answered, by when.
    running: BTreeMap<(u64, u64), (Lease<usize>, Outcome)>,
    /// Calls that never will be.
    pub(crate) stuck: Vec<Lease<usize>>,
    pub(crate) refused: u64,
    count: u64,
    /// A hash over all that happened.
    pub(crate) log: u64,
}

pub(crate) fn peer(index: usize) -> Announced<usize> {
    Announced::new(index, &format!("peer-{index}"), format!("192.0.2.1:{index}"), ())
}

impl Model {
    pub(crate) fn new(n: usize, seed: u64, settings: Settings) -> Self {
        let balancer = Balancer::new(Settings { seed: Some(seed), ..settings });
        // Not at 0, and not all at full seconds.
        let now = 1_234_567_890;
        balancer.update(now, (0..n).map(peer));
        Self {
            balancer,
            now,
            world: Generator::seeded(!seed),
            running: BTreeMap::new(),
            stuck: Vec::new(),
            refused: 0,
            count: 0,
            log: 0,
        }
    }

    fn note(&mut self, what: &[u64]) {
        let bytes: Vec<u8> = [self.log].iter().chain(what).flat_map(|word| word.to_le_bytes()).collect();
        self.log = hash64(&bytes);
    }

    /// Time passes up to `now`: answers arrive.
    pub(crate) fn until(&mut self, now: u64) {
        while let Some(entry) = self.running.first_entry()
            && entry.key().0 <= now
        {
            let ((at, number), (mut lease, outcome)) = entry.remove_entry();
            self.now = at;
            self.balancer.head(&mut lease, outcome, at);
            self.note(&[at, number, outcome as u64]);
        }
        self.now = now;
    }

    /// One call now; who got it.
    pub(crate) fn call(
        &mut self,
        repeatable: bool,
        world: &mut impl FnMut(usize, u64, &Generator) -> Reply,
    ) -> Option<usize> {
        let Ok(mut lease) = self.balancer.pick(&PickInput::new(self.now).repeatable(repeatable)) else {
            self.refused += 1;
            return None;
        };
        let peer = *lease.peer();
        lease.sent(self.now);
        self.count += 1;
        self.note(&[self.now, self.count, peer as u64]);
        let reply = world(peer, self.now, &self.world);
        match reply.took {
            Some(took) => {
                self.running.insert((self.now + took, self.count), (lease, reply.outcome));
            }
            None => self.stuck.push(lease),
        }
        Some(peer)
    }

    /// `calls` calls at `rate` a second, at random times; how many each of `n` peers got.
    pub(crate) fn calls(
        &mut self,
        calls: usize,
        rate: f64,
        n: usize,
        mut world: impl FnMut(usize, u64, &Generator) -> Reply,
    ) -> Vec<u64> {
        let mut counts = vec![0; n];
        for _ in 0..calls {
            let next = self.now + exponential(SECOND as f64 / rate, &self.world);
            self.until(next);
            if let Some(peer) = self.call(true, &mut world) {
                counts[peer] += 1;
            }
        }
        counts
    }
}
