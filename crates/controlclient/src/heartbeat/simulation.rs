//! Whole fleets and hostile schedules in virtual time, from seeds.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use peerage_balance::{Generator, unit};

use super::tests::{error, settings};
use super::{Action, Event, Leaving, Machine, Phase, Settings, Start};
use crate::channel::How;
use crate::failure::FailureKind;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// What the network and the gateway do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weather {
    Fine,
    /// Nobody listens.
    Down,
    /// Bytes are taken and never answered.
    BlackHole,
}

/// A registration at the gateway.
struct Entry {
    client: usize,
    noted: Duration,
    ttl: Duration,
}

#[derive(Debug)]
enum Step {
    Tick,
    /// Reaches the gateway.
    Arrive(Action),
    /// Reaches the client.
    Deliver(Event),
}

struct Client {
    machine: Machine,
    /// The earliest tick that is in the queue.
    tick: Option<Duration>,
    /// Not scheduled by its system until then.
    asleep_until: Duration,
    live_at: Option<Duration>,
}

struct World {
    now: Duration,
    random: Generator,
    weather: Weather,
    latency: Duration,
    /// Of a request, and of an answer, that it gets lost.
    loss: f64,
    ttl: u32,
    entries: BTreeMap<String, Entry>,
    ids: u64,
    clients: Vec<Client>,
    queue: BinaryHeap<Reverse<(Duration, u64, usize)>>,
    steps: BTreeMap<u64, Step>,
    sequence: u64,
    beats: Vec<Duration>,
    registers: Vec<Duration>,
    ended: Vec<(usize, Leaving)>,
}

impl World {
    fn new(seed: u64, count: usize, settings: &Settings, ttl: u32) -> Self {
        let clients = (0..count)
            .map(|_| Client {
                machine: Machine::new(settings.clone()),
                tick: None,
                asleep_until: Duration::ZERO,
                live_at: None,
            })
            .collect();
        let mut world = Self {
            now: Duration::ZERO,
            random: Generator::seeded(seed),
            weather: Weather::Fine,
            latency: ms(2),
            loss: 0.0,
            ttl,
            entries: BTreeMap::new(),
            ids: 0,
            clients,
            queue: BinaryHeap::new(),
            steps: BTreeMap::new(),
            sequence: 0,
            beats: Vec::new(),
            registers: Vec::new(),
            ended: Vec::new(),
        };
        for client in 0..count {
            world.tell(client, Event::Start);
        }
        world
    }

    fn chance(&self) -> f64 {
        unit(self.random.next_u64())
    }

    fn travel(&self) -> Duration {
        self.latency.mul_f64(self.chance())
    }

    fn push(&mut self, at: Duration, client: usize, step: Step) {
        self.sequence += 1;
        self.steps.insert(self.sequence, step);
        self.queue.push(Reverse((at, self.sequence, client)));
    }

    fn tell(&mut self, index: usize, event: Event) {
        let now = self.now;
        let random = &self.random;
        let client = &mut self.clients[index];
        let actions = client.machine.on(event, now, &mut || unit(random.next_u64()));
        if client.machine.phase() == Phase::Live {
            client.live_at.get_or_insert(now);
        } else {
            client.live_at = None;
        }
        for action in actions {
            self.send(index, action);
        }
        let client = &mut self.clients[index];
        if let Some(wake) = client.machine.wakes_at()
            && client.tick.is_none_or(|tick| wake < tick || tick <= now)
        {
            client.tick = Some(wake);
            self.push(wake.max(now), index, Step::Tick);
        }
    }

    fn send(&mut self, index: usize, action: Action) {
        match &action {
            Action::Beat { .. } => self.beats.push(self.now),
            Action::Register { .. } => self.registers.push(self.now),
            Action::Closed(leaving) => return self.ended.push((index, *leaving)),
            Action::GiveUp { .. } | Action::CheckServed { .. } => return,
            _ => {}
        }
        if self.weather == Weather::Down {
            let at = self.now + ms(1);
            if let Some(event) = failed(&action, How::NotSent) {
                self.push(at, index, Step::Deliver(event));
            }
        } else if self.chance() >= self.loss {
            let at = self.now + self.travel();
            self.push(at, index, Step::Arrive(action));
        } else if let Action::Sweep { attempt, until, .. } = action {
            self.push(until, index, Step::Deliver(Event::Swept { attempt, done: false }));
        }
    }

    /// The gateway carries a request out and answers.
    fn arrive(&mut self, index: usize, action: Action) {
        let now = self.now;
        let until = match &action {
            Action::Beat { until, .. }
            | Action::Register { until, .. }
            | Action::Deregister { until, .. }
            | Action::Discard { until, .. }
            | Action::Sweep { until, .. } => *until,
            _ => return,
        };
        let mut event = match self.weather {
            Weather::BlackHole => None,
            Weather::Down => failed(&action, How::Broken),
            Weather::Fine => self.carry_out(index, &action),
        };
        if self.weather == Weather::Fine && self.chance() < self.loss {
            event = None;
        }
        let at = now + self.travel();
        let event = event.filter(|_| at < until);
        match (event, action) {
            (Some(event), _) => self.push(at, index, Step::Deliver(event)),
            (None, Action::Sweep { attempt, .. }) => {
                self.push(until.max(now), index, Step::Deliver(Event::Swept { attempt, done: false }));
            }
            // The machine keeps the deadline.
            (None, _) => {}
        }
    }

    fn carry_out(&mut self, client: usize, action: &Action) -> Option<Event> {
        let now = self.now;
        Some(match action {
            Action::Beat { attempt, id, .. } => {
                let entry = self.entries.get_mut(&**id);
                let ok = entry.is_some();
                if let Some(entry) = entry {
                    entry.noted = now;
                }
                Event::Beaten { attempt: *attempt, ok }
            }
            Action::Register { attempt, target, .. } => {
                self.ids += 1;
                let id = format!("id-{}", self.ids);
                let ttl = secs(self.ttl.into());
                self.entries.insert(id.clone(), Entry { client, noted: now, ttl });
                Event::Registered { attempt: *attempt, target: *target, id, ttl_seconds: self.ttl }
            }
            Action::Deregister { attempt, id, .. } => {
                self.entries.remove(&**id);
                Event::Deregistered { attempt: *attempt }
            }
            Action::Discard { id, .. } => {
                self.entries.remove(&**id);
                return None;
            }
            Action::Sweep { attempt, keep, .. } => {
                self.entries.retain(|id, entry| entry.client != client || keep.as_deref() == Some(id));
                Event::Swept { attempt: *attempt, done: true }
            }
            _ => return None,
        })
    }

    fn janitor(&mut self) {
        let now = self.now;
        self.entries.retain(|_, entry| now - entry.noted <= entry.ttl);
    }

    /// Runs until `end`; `look` sees the world after each step.
    fn run(&mut self, end: Duration, look: &mut dyn FnMut(&Self, usize)) {
        while let Some(&Reverse((at, sequence, client))) = self.queue.peek() {
            if at > end {
                break;
            }
            self.queue.pop();
            if self.now.as_secs() / 5 != at.as_secs() / 5 {
                self.janitor();
            }
            self.now = self.now.max(at);
            let Some(step) = self.steps.remove(&sequence) else { continue };
            let asleep = self.clients[client].asleep_until;
            match step {
                Step::Arrive(action) => self.arrive(client, action),
                // A suspended process sees everything when it wakes up.
                step if asleep > self.now => self.push(asleep, client, step),
                Step::Deliver(event) => self.tell(client, event),
                Step::Tick => {
                    if self.clients[client].tick.is_some_and(|tick| tick <= self.now) {
                        self.clients[client].tick = None;
                    }
                    self.tell(client, Event::Tick);
                }
            }
            look(self, client);
        }
        self.now = end;
    }

    /// The gateway stops and forgets; who is connected notices.
    fn stop(&mut self) {
        self.weather = Weather::Down;
        self.entries.clear();
        for client in 0..self.clients.len() {
            self.tell(client, Event::ConnectionLost { target: 0 });
        }
    }
}

fn failed(action: &Action, how: How) -> Option<Event> {
    let kind = if how == How::NotSent { FailureKind::Unreachable } else { FailureKind::Unavailable };
    match action {
        Action::Beat { attempt, .. }
        | Action::Register { attempt, .. }
        | Action::Deregister { attempt, .. } => {
            Some(Event::Failed { attempt: *attempt, error: error(kind, how) })
        }
        Action::Sweep { attempt, .. } => Some(Event::Swept { attempt: *attempt, done: false }),
        _ => None,
    }
}

/// The fullest slice of 100 ms from `from` on.
fn fullest(times: &[Duration], from: Duration) -> usize {
    let mut slices = BTreeMap::new();
    for time in times.iter().filter(|time| **time >= from) {
        *slices.entry(time.as_millis() / 100).or_insert(0) += 1;
    }
    slices.into_values().max().unwrap_or(0)
}

const FLEET: usize = 10_000;

/// Of the fleet tests: more in a release build, which is twenty times as fast.
const SEEDS: std::ops::Range<u64> = if cfg!(debug_assertions) { 0..1 } else { 0..20 };

#[test]
fn cb04_a_fleet_started_at_once_beats_evenly_after_its_first_interval() {
    for seed in SEEDS {
        let mut world = World::new(seed, FLEET, &settings(), 30);
        world.run(secs(40), &mut |_, _| {});
        let fullest = fullest(&world.beats, secs(10));
        println!(
            "seed {seed}: {FLEET} clients, interval 10 s: the fullest 100 ms has {fullest} beats, the mean 100"
        );
        assert!(fullest <= 150, "seed {seed}: {fullest} beats in 100 ms");
    }
}

#[test]
fn cb07_a_fleet_comes_back_evenly_after_the_gateway_was_restarted() {
    for seed in SEEDS {
        let spread = Settings { spread: Some(secs(10)), ..settings() };
        let mut world = World::new(seed, FLEET, &spread, 30);
        world.run(secs(15), &mut |_, _| {});
        assert_eq!(world.entries.len(), FLEET, "seed {seed}");
        world.registers.clear();
        world.stop();
        world.run(secs(17), &mut |_, _| {});
        world.weather = Weather::Fine;
        world.run(secs(35), &mut |_, _| {});
        let fullest = fullest(&world.registers, Duration::ZERO);
        let last = world.registers.iter().max().copied().unwrap_or_default().saturating_sub(secs(17));
        println!(
            "seed {seed}: {FLEET} clients after a restart: the fullest 100 ms has {fullest} Registers, the last one comes after {last:?}"
        );
        assert_eq!(world.registers.len(), FLEET, "seed {seed}: each registers once");
        assert!(fullest <= 150, "seed {seed}: {fullest} Registers in 100 ms");
        assert!(last <= secs(14), "seed {seed}: the last one comes after {last:?}");
        assert_eq!(world.entries.len(), FLEET, "seed {seed}");
    }
}

#[test]
fn cb06_a_lone_client_is_live_again_soon_after_an_outage() {
    let at_once = Settings { spread: Some(Duration::ZERO), ..settings() };
    for (outage, most) in [(secs(2), ms(1_500)), (secs(600), secs(6))] {
        let mut took = Vec::new();
        for seed in 0..200 {
            let mut world = World::new(seed, 1, &at_once, 30);
            world.run(secs(30), &mut |_, _| {});
            world.stop();
            world.run(secs(30) + outage, &mut |_, _| {});
            let back = world.now;
            world.weather = Weather::Fine;
            world.run(back + secs(30), &mut |_, _| {});
            took.push(world.clients[0].live_at.expect("live again").saturating_sub(back));
        }
        took.sort_unstable();
        println!(
            "after {outage:?} without a gateway: live again within {:?} (median), {:?} (p99)",
            took[100], took[198]
        );
        assert!(took[198] <= most, "after {outage:?}: p99 {:?}", took[198]);
    }
}

#[test]
fn the_lease_that_is_claimed_never_outlasts_the_gateways() {
    for seed in 0..1_000 {
        let dice = Generator::seeded(seed);
        let draw = |most: u64| ms(dice.next_u64() % most);
        let ttl = 1 + (draw(30).as_millis() as u32);
        let patient = Settings { start: Start { limit: secs(3600), retries: true }, ..settings() };
        let mut world = World::new(seed, 1, &patient, ttl);
        world.latency = draw(1_500);
        world.loss = draw(400).as_secs_f64();
        let mut check = |world: &World, client: usize| {
            let machine = &world.clients[client].machine;
            let claims = matches!(machine.phase(), Phase::Live | Phase::Suspect);
            if let Some((id, ends)) = machine.lease().filter(|_| claims) {
                // Who sleeps shows nothing.
                let awake = world.clients[client].asleep_until < world.now;
                assert!(
                    !awake || world.now < ends,
                    "seed {seed}: live at {:?} with a lease to {ends:?}",
                    world.now
                );
                if let Some(entry) = world.entries.get(&**id) {
                    assert!(
                        ends <= entry.noted + entry.ttl,
                        "seed {seed}: {ends:?}, the gateway {:?}",
                        entry.noted + entry.ttl
                    );
                }
            }
        };
        let mut at = Duration::ZERO;
        for _ in 0..6 {
            at += draw(20_000);
            world.run(at, &mut check);
            match dice.next_u64() % 4 {
                0 => world.stop(),
                1 => world.weather = Weather::BlackHole,
                2 => world.clients[0].asleep_until = at + draw(60_000),
                _ => {}
            }
            at += draw(20_000);
            world.run(at, &mut check);
            world.weather = Weather::Fine;
        }
        // At rest: live, and one entry.
        world.loss = 0.0;
        world.latency = ms(10);
        at += secs(180);
        world.run(at, &mut check);
        assert_eq!(world.clients[0].machine.phase(), Phase::Live, "seed {seed}");
        assert_eq!(world.entries.len(), 1, "seed {seed}: one entry at rest");
        // After leaving: none, or the result says so.
        if seed % 2 == 0 {
            world.weather = Weather::BlackHole;
        }
        world.tell(0, Event::Shutdown { until: at + secs(2) });
        world.run(at + secs(3), &mut |_, _| {});
        match world.ended[..] {
            [(0, Leaving::Deregistered)] => assert!(world.entries.is_empty(), "seed {seed}"),
            [(0, Leaving::Unreachable { held_until })] => {
                let held = world.entries.values().map(|entry| entry.noted + entry.ttl + secs(5)).max();
                assert!(held.is_none_or(|held| held <= held_until), "seed {seed}: {held:?} {held_until:?}");
            }
            ref other => panic!("seed {seed}: {other:?}"),
        }
    }
}
