//! Running calls and what happens to their peers meanwhile (B-1.1, B-9.5).

use std::collections::HashMap;

use peerage_balance::{
    Announced, Balancer, Flags, Generator, Lease, Outcome, PeerKey, PickInput, Policy, Settings, Weight,
    index_below,
};

use crate::model::{MS, SECOND, peer, seeds};

const PEERS: usize = 6;

/// Each call ends when its caller says so, and `pending` is what really runs, also of a peer that left and of
/// one that came back.
#[test]
fn b_9_5_a_running_call_survives_whatever_happens_to_its_peer() {
    for seed in seeds() {
        let random = Generator::seeded(seed);
        let settings = Settings { policy: Policy::PeakEwma, seed: Some(seed), ..Settings::default() };
        let balancer: Balancer<usize> = Balancer::new(settings);
        balancer.update(0, (0..PEERS).map(peer));
        let (mut now, mut held): (u64, Vec<Lease<usize>>) = (0, Vec::new());
        let mut happened = [0; 5];
        for step in 0..2_000 {
            let z = random.next_u64();
            now += z % (20 * MS);
            let what = (z >> 16) as usize % 48;
            match what {
                // Absent, at another address, of weight 0: a bit for each of the six.
                0 => {
                    let bit = |shift: usize, index: usize| (z >> (shift + index)) & 1 == 1;
                    let announced = |index: usize| Announced {
                        address: format!("192.0.2.{}:{index}", u8::from(bit(40, index))).into(),
                        weight: Weight::new(u32::from(bit(46, index))),
                        ..peer(index)
                    };
                    let changes =
                        balancer.update(now, (0..PEERS).filter(|index| bit(34, *index)).map(announced));
                    happened[0] += changes.left.len();
                    happened[1] += changes.moved.len();
                    happened[2] += (0..PEERS).filter(|index| bit(34, *index) && !bit(46, *index)).count();
                }
                1 => {
                    let set = balancer.set();
                    if let Some(member) = set.members().get(index_below(z, PEERS)) {
                        balancer.throttled(member, None, now);
                    }
                }
                2..=20 => held.extend(balancer.pick(&PickInput::new(now).repeatable(z & 1 == 1)).ok()),
                21..=24 => held.iter_mut().for_each(|lease| lease.sent(now)),
                25..=44 => {
                    // One at a time cannot be reached, until it is out.
                    let index = index_below(z, held.len());
                    if let Some(lease) = held.get_mut(index) {
                        let is_bad = *lease.peer() == step / 100 % PEERS;
                        let outcome = if is_bad { Outcome::Dial } else { Outcome::Success };
                        balancer.head(lease, outcome, now);
                    }
                }
                _ => held.truncate(index_below(z, held.len() + 1)),
            }
            let mut running: HashMap<PeerKey, u32> = HashMap::new();
            held.iter().for_each(|lease| *running.entry(lease.member().key().clone()).or_default() += 1);
            let (set, leaving) = (balancer.set(), balancer.leaving());
            for member in set.members() {
                let counted = running.remove(member.key()).unwrap_or(0);
                assert_eq!(member.state().pending(), counted, "{} in step {step}, seed {seed}", member.key());
                happened[3] += usize::from(member.state().flags(now).contains(Flags::EJECTED) && counted > 0);
            }
            happened[4] += running.len();
            let mut gone: Vec<_> = running.into_iter().collect();
            gone.sort_unstable();
            let seen: Vec<_> = leaving.iter().map(|m| (m.key().clone(), m.state().pending())).collect();
            assert_eq!(seen, gone, "those that left while calls run, in step {step}, seed {seed}");
        }
        assert!(happened.iter().all(|count| *count > 0), "all of it was tried: {happened:?}");
        now += SECOND;
        held.iter_mut().for_each(|lease| lease.sent(now));
        held.clear();
        let set = balancer.set();
        assert!(set.members().iter().all(|m| (m.state().pending(), m.state().awaiting()) == (0, 0)));
        assert!(balancer.leaving().is_empty());
    }
}
