//! What repeating costs: budget (B-5.3), hedging (B-6), limits (B-7.2), in virtual time.

use std::{collections::BTreeMap, sync::Arc};

use peerage_balance::{
    Action, Budget, BudgetPolicy, Event, Generator, Hedging, LeaveOut, Outcome, PickInput, Policy,
    RetryPolicy, RetryState, Settings, Situation, StopReason, unit,
};

use crate::model::{MS, Model, Queue, SECOND, exponential, ok, seeds};

const SITUATION: Situation =
    Situation { now: 0, deadline: None, other_peer: true, replayable: true, estimate: 0, was_probe: false };

/// Calls at `rate` a second for 60 s, of which all fail if sent; sent over asked.
fn amplification(rate: u64, policy: &BudgetPolicy, sends: u8) -> f64 {
    let budget = Arc::new(Budget::new(policy));
    let retries = RetryPolicy::default().sends(sends).unwrap();
    let mut sent = 0;
    let calls = rate * 60;
    for call in 0..calls {
        let now = call * SECOND / rate;
        sent += send(&retries, &budget, now, |_| 503);
    }
    sent as f64 / calls as f64
}

/// How often a call is sent whose attempts are answered by `answer`.
fn send(policy: &RetryPolicy, budget: &Arc<Budget>, now: u64, mut answer: impl FnMut(u32) -> u16) -> u64 {
    let mut retry = RetryState::new(policy, true, None).with_budget(Arc::clone(budget), now);
    loop {
        let status = answer(retry.begin());
        let event = Event::Answered { status, retry_after: None, no_retry: false };
        match retry.ended(event, &Situation { now, ..SITUATION }, 0) {
            Action::Again { .. } => {}
            _ => return u64::from(retry.attempts()),
        }
    }
}

#[test]
fn b_5_3_a_total_outage_is_not_made_worse() {
    let default = BudgetPolicy::default();
    let no_reserve = default.per_second(0).unwrap();
    for sends in [2, 3] {
        let figures = [1_000, 100, 10].map(|rate| amplification(rate, &default, sends));
        println!("all fail for 60 s, {sends} sends: {figures:.3?} at 1,000, 100, 10 calls a second");
        assert!(figures[0] <= 1.205 && figures[1] <= 1.22, "{figures:?}");
        assert!(amplification(1_000, &no_reserve, sends) <= 1.2);
        assert!(amplification(100, &no_reserve, sends) <= 1.2);
    }
}

#[test]
fn b_5_3_few_failures_are_all_repeated() {
    let policy = RetryPolicy::default();
    for seed in seeds() {
        let budget = Arc::new(Budget::new(&BudgetPolicy::default()));
        let random = Generator::seeded(seed);
        for call in 0..60_000 {
            let mut first = None;
            let sent = send(&policy, &budget, call * MS, |_| {
                let status = if unit(random.next_u64()) < 0.01 { 503 } else { 200 };
                *first.get_or_insert(status)
            });
            assert_eq!(sent, if first == Some(200) { 1 } else { 2 }, "none is refused, seed {seed}");
        }
    }
}

#[test]
fn b_5_3_the_last_of_three_services_is_asked_little_more() {
    // Each service repeats by its own budget, unless told that somebody further down has.
    fn serve(hop: usize, budgets: &[Arc<Budget>], now: u64, reached: &mut u64) -> (u16, bool) {
        let Some(budget) = budgets.get(hop) else {
            *reached += 1;
            return (503, false);
        };
        let mut retry =
            RetryState::new(&RetryPolicy::default(), true, None).with_budget(Arc::clone(budget), now);
        loop {
            retry.begin();
            let (status, no_retry) = serve(hop + 1, budgets, now, reached);
            let event = Event::Answered { status, retry_after: None, no_retry };
            match retry.ended(event, &Situation { now, ..SITUATION }, 0) {
                Action::Again { .. } => {}
                Action::Return(reason) => {
                    let spent = retry.has_resent()
                        || matches!(reason, StopReason::ToldNotTo | StopReason::BudgetUsedUp);
                    return (503, spent);
                }
                _ => return (503, true),
            }
        }
    }
    let budgets: Vec<_> = (0..2).map(|_| Arc::new(Budget::new(&BudgetPolicy::default()))).collect();
    let mut reached = 0;
    let calls = 60_000;
    (0..calls).for_each(|call| {
        serve(0, &budgets, call * MS, &mut reached);
    });
    let figure = reached as f64 / calls as f64;
    println!("chain of three, the last one dead: {figure:.3} times the originals");
    assert!(figure <= 1.25, "{figure}");
}

#[test]
fn b_5_3_only_what_loads_a_peer_again_is_paid_for() {
    let empty = || {
        let policy = BudgetPolicy::default().per_second(0).and_then(|policy| policy.per_call(0.0)).unwrap();
        Arc::new(Budget::new(&policy))
    };
    let first = |event, situation: Situation| {
        let mut retry = RetryState::new(&RetryPolicy::default(), true, None).with_budget(empty(), 0);
        retry.begin();
        retry.ended(event, &situation, 0)
    };
    let failed = Event::Answered { status: 503, retry_after: None, no_retry: false };
    assert!(matches!(first(Event::NotSent, SITUATION), Action::Again { needs_budget: false, .. }));
    assert!(matches!(first(Event::Stale, SITUATION), Action::Again { needs_budget: false, .. }));
    for event in [failed, Event::Ambiguous] {
        assert_eq!(first(event, SITUATION), Action::Return(StopReason::BudgetUsedUp));
        let probed = first(event, Situation { was_probe: true, ..SITUATION });
        assert!(matches!(probed, Action::Again { needs_budget: false, .. }), "a probe is not paid for");
    }
    let budget = Arc::new(Budget::new(&BudgetPolicy::default()));
    let mut retry = RetryState::new(&RetryPolicy::default(), false, None).with_budget(Arc::clone(&budget), 0);
    retry.begin();
    assert_eq!(retry.ended(failed, &SITUATION, 0), Action::Return(StopReason::NotRepeatable));
    assert_eq!(budget.balance(0), 10_200, "nothing is drawn for what is not sent again");
}

struct Hedged {
    p99: u64,
    extra: f64,
    shared: usize,
}

/// 10 peers, 1,000 calls a second; a call whose head is late is sent to a second peer.
fn hedged(seed: u64, calls: usize, n: usize, took: impl Fn(usize, &Generator) -> u64, hedge: bool) -> Hedged {
    enum What {
        Answer { call: usize, copy: usize },
        Late { call: usize },
    }
    let settings = Settings { policy: Policy::LeastLoaded, health: None, ..Settings::default() };
    let model = Model::new(n, seed, settings);
    let (hedging, budget) = (Hedging::default(), Budget::new(&BudgetPolicy::default()));
    let mut events = BTreeMap::new();
    let mut running: Vec<(u64, Vec<_>)> = Vec::new();
    let (mut times, mut extra, mut shared) = (Vec::new(), 0, 0);
    let mut next = model.now;
    let mut number = 0;
    while running.len() < calls || !events.is_empty() {
        let at = events.first_key_value().map(|((at, _), _)| *at);
        if running.len() < calls && at.is_none_or(|at| next <= at) {
            let (now, call) = (next, running.len());
            next += exponential(SECOND as f64 / 1_000.0, &model.world);
            let delay = hedging.begin(now);
            budget.deposit(now);
            let mut lease = model.balancer.pick(&PickInput::new(now)).unwrap();
            lease.sent(now);
            number += 2;
            events.insert((now + took(call, &model.world), number), What::Answer { call, copy: 0 });
            if let Some(delay) = delay.filter(|_| hedge) {
                events.insert((now + delay, number + 1), What::Late { call });
            }
            running.push((now, vec![Some((now, lease))]));
            continue;
        }
        let Some(((now, _), what)) = events.pop_first() else { break };
        match what {
            What::Late { call } => {
                let (_, copies) = &mut running[call];
                let [Some((_, first))] = &copies[..] else { continue };
                let mut tried = LeaveOut::default();
                tried.add(first.member().key());
                if !model.balancer.has_other(&tried, now) || !hedging.try_hedge(&budget, now) {
                    continue;
                }
                let mut lease = model.balancer.pick(&PickInput::new(now).without(&tried)).unwrap();
                shared += usize::from(lease.peer() == first.peer());
                lease.sent(now);
                copies.push(Some((now, lease)));
                extra += 1;
                number += 2;
                events.insert((now + took(call, &model.world), number), What::Answer { call, copy: 1 });
            }
            What::Answer { call, copy } => {
                let (began, copies) = &mut running[call];
                if copies[copy].is_none() {
                    continue;
                }
                times.push(now - *began);
                for (index, slot) in copies.iter_mut().enumerate() {
                    if let Some((sent, mut lease)) = slot.take() {
                        let outcome = if index == copy { Outcome::Success } else { Outcome::Cancelled };
                        model.balancer.head(&mut lease, outcome, now);
                        hedging.record(outcome, now - sent, now);
                    }
                }
            }
        }
    }
    times.sort_unstable();
    Hedged { p99: times[times.len() * 99 / 100], extra: f64::from(extra) / calls as f64, shared }
}

fn one_in_a_hundred(_: usize, random: &Generator) -> u64 {
    if random.next_u64().is_multiple_of(100) { SECOND } else { crate::model::usual(10.0 * MS as f64, random) }
}

#[test]
fn b_6_hedging_cuts_the_tail_for_few_calls_more() {
    for seed in seeds() {
        let without = hedged(seed, 20_000, 10, one_in_a_hundred, false);
        let with = hedged(seed, 20_000, 10, one_in_a_hundred, true);
        println!(
            "hedging, seed {seed}: p99 {:.0} -> {:.0} ms, {:.2} % more calls",
            without.p99 as f64 / MS as f64,
            with.p99 as f64 / MS as f64,
            with.extra * 100.0
        );
        assert!(with.p99 <= 50 * MS && with.extra <= 0.051);
        assert_eq!(with.shared, 0, "the copies never share a peer");
    }
}

#[test]
fn b_6_when_all_calls_become_slow_hedges_stay_few() {
    for seed in seeds() {
        let slow = |call: usize, random: &Generator| {
            crate::model::usual(if call < 5_000 { 10.0 } else { 100.0 } * MS as f64, random)
        };
        let run = hedged(seed, 15_000, 10, slow, true);
        assert!(run.extra * 15_000.0 <= 0.05 * 15_000.0 + 20.0, "{}", run.extra);
        let alone = hedged(seed, 3_000, 1, one_in_a_hundred, true);
        assert_eq!(alone.extra, 0.0, "nobody to send a copy to");
    }
}

#[test]
fn b_7_2_an_adaptive_limit_keeps_goodput_and_time() {
    const SERVICE: f64 = 10.0 * MS as f64;
    for seed in seeds() {
        for (load, rate) in [(3.0, 6_000.0), (0.5, 1_000.0)] {
            let settings =
                Settings { adaptive_limit: true, health: None, warmup: None, ..Settings::default() };
            let mut model = Model::new(1, seed, settings);
            let mut workers = Queue::new(20);
            let (mut done, mut sum) = (0_u64, 0.0);
            let began = model.now;
            let calls = (rate * 20.0) as usize;
            model.calls(calls, rate, 1, |_, now, random| {
                let took = workers.takes(now, crate::model::usual(SERVICE, random));
                done += 1;
                sum += took as f64;
                ok(took)
            });
            let seconds = (model.now - began) as f64 / SECOND as f64;
            let (goodput, mean) = (done as f64 / seconds / 2_000.0, sum / done as f64 / SERVICE);
            println!(
                "adaptive limit at {load} x capacity, seed {seed}: goodput {goodput:.2}, time {mean:.2} x idle, {} refused",
                model.refused
            );
            if load > 1.0 {
                assert!(goodput >= 0.95 && mean <= 3.0, "{goodput} {mean}");
            } else {
                // At the start, by chance: the limit of 20 is twice what is in flight on average.
                assert!(model.refused as f64 <= 0.001 * calls as f64, "{}", model.refused);
            }
        }
    }
}
