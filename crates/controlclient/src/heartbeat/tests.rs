//! The machine by hand-computed values: every random number is one half.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use peerage_balance::{Generator, unit};

use super::{Action, Event, Leaving, Machine, Phase, Settings, Start};
use crate::channel::{CallError, How};
use crate::failure::{Failure, FailureKind};

pub(super) fn settings() -> Settings {
    Settings {
        targets: 1,
        ttl_asked: None,
        interval: None,
        spread: None,
        heartbeat_deadline: None,
        register_deadline: Duration::from_secs(15),
        deregister_deadline: Duration::from_secs(2),
        rejected_pause: Duration::from_secs(30),
        start: Start { limit: Duration::from_secs(30), retries: true },
        check_served: None,
    }
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub(super) fn error(kind: FailureKind, how: How) -> CallError {
    CallError { failure: Failure::local(kind, "a test"), how }
}

fn refused() -> CallError {
    error(FailureKind::Unreachable, How::NotSent)
}

/// A machine, its clock, and its last actions.
struct Bed {
    machine: Machine,
    attempt: u64,
}

impl Bed {
    fn new(settings: Settings) -> Self {
        Self { machine: Machine::new(settings), attempt: 0 }
    }

    /// Registered at 0 s with the id `a`; the first beat is due at half the interval.
    fn live(settings: Settings, ttl_seconds: u32) -> Self {
        let mut bed = Self::new(settings);
        assert!(matches!(bed.on(0, Event::Start)[..], [Action::Register { .. }]));
        assert!(bed.registered(0, "a", ttl_seconds).is_empty());
        assert_eq!(bed.machine.phase(), Phase::Live);
        bed
    }

    fn on(&mut self, at: u64, event: Event) -> Vec<Action> {
        self.exactly(ms(at), event)
    }

    /// The pauses that grow have parts of milliseconds.
    fn exactly(&mut self, at: Duration, event: Event) -> Vec<Action> {
        let actions = self.machine.on(event, at, &mut || 0.5);
        for action in &actions {
            if let Action::Beat { attempt, .. }
            | Action::Register { attempt, .. }
            | Action::Deregister { attempt, .. }
            | Action::Sweep { attempt, .. } = action
            {
                self.attempt = *attempt;
            }
        }
        actions
    }

    /// Lets time pass; it must be the time that the machine wants to be woken at.
    fn wake(&mut self, at: u64) -> Vec<Action> {
        assert_eq!(self.machine.wakes_at(), Some(ms(at)), "when the machine wants to be woken");
        self.on(at, Event::Tick)
    }

    fn registered(&mut self, at: u64, id: &str, ttl_seconds: u32) -> Vec<Action> {
        let event = Event::Registered { attempt: self.attempt, target: 0, id: id.into(), ttl_seconds };
        self.on(at, event)
    }

    fn beaten(&mut self, at: u64, ok: bool) -> Vec<Action> {
        self.on(at, Event::Beaten { attempt: self.attempt, ok })
    }

    fn failed(&mut self, at: u64, error: CallError) -> Vec<Action> {
        self.on(at, Event::Failed { attempt: self.attempt, error })
    }

    fn lease_ends(&self) -> Duration {
        self.machine.lease().map(|(_, ends)| ends).expect("something is held")
    }
}

fn beat(attempt: u64, id: &str, until: u64, fresh: bool) -> Action {
    Action::Beat { attempt, target: 0, id: id.into(), until: ms(until), fresh }
}

fn register(attempt: u64, until: u64, fresh: bool) -> Action {
    Action::Register { attempt, target: 0, until: ms(until), fresh }
}

#[test]
fn a_registration_beats_in_its_interval_and_each_answer_renews_the_lease() {
    let mut bed = Bed::new(settings());
    assert_eq!(bed.on(1_000, Event::Start), [register(1, 16_000, false)]);
    assert_eq!(bed.machine.phase(), Phase::Registering);
    assert!(bed.registered(1_400, "a", 30).is_empty());
    assert_eq!(bed.machine.phase(), Phase::Live);
    assert_eq!(bed.lease_ends(), ms(31_000), "30 s from when Register was sent");
    // Half of the first interval of 10 s after the answer; a tenth of the TTL to answer.
    assert_eq!(bed.wake(6_400), [beat(2, "a", 9_400, false)]);
    assert!(bed.beaten(6_500, true).is_empty());
    assert_eq!(bed.lease_ends(), ms(36_400));
    assert_eq!(bed.machine.round_trip(), Some(ms(100)));
    // 10 s ± 10 %, from when the last one was sent.
    assert_eq!(bed.wake(16_400), [beat(3, "a", 19_400, false)]);
}

#[test]
fn c147_cb17_a_long_ttl_is_beaten_for_every_10_s_all_the_same() {
    for (random, first, then) in [(0.0, 0, 9_000), (0.5, 5_000, 10_000), (1.0, 9_900, 10_900)] {
        let mut machine = Machine::new(settings());
        machine.on(Event::Start, ms(0), &mut || random);
        let event = Event::Registered { attempt: 1, target: 0, id: "a".into(), ttl_seconds: 300 };
        let actions = machine.on(event, ms(0), &mut || random);
        let actions = if first == 0 { actions } else { machine.on(Event::Tick, ms(first), &mut || random) };
        assert!(matches!(actions[..], [Action::Beat { .. }]), "{random}: {actions:?}");
        machine.on(Event::Beaten { attempt: 2, ok: true }, ms(first), &mut || random);
        assert_eq!(machine.wakes_at(), Some(ms(first + then)), "{random}");
    }
}

#[test]
fn a_failed_beat_is_suspect_and_repeated_soon_without_a_register() {
    let mut bed = Bed::live(settings(), 30);
    assert_eq!(bed.wake(5_000), [beat(2, "a", 8_000, false)]);
    assert!(bed.failed(5_010, error(FailureKind::Unavailable, How::Doubtful)).is_empty());
    assert_eq!(bed.machine.phase(), Phase::Suspect);
    // Between 100 and 200 ms later, then between 150 and 300 ms.
    assert_eq!(bed.wake(5_160), [beat(3, "a", 8_160, false)]);
    assert!(bed.failed(5_160, error(FailureKind::Unavailable, How::Doubtful)).is_empty());
    assert_eq!(bed.wake(5_385), [beat(4, "a", 8_385, false)]);
    bed.beaten(5_400, true);
    assert_eq!(bed.machine.phase(), Phase::Live);
    assert_eq!(bed.machine.counters().beats_failed, 2);
    assert_eq!(bed.machine.counters().registers, 1);
}

#[test]
fn after_a_deadline_the_next_attempt_is_on_another_connection() {
    let mut bed = Bed::live(settings(), 6);
    assert_eq!(bed.wake(1_000), [beat(2, "a", 1_600, false)]);
    // The machine keeps the deadline itself.
    assert!(bed.wake(1_600).is_empty());
    assert_eq!(bed.machine.phase(), Phase::Suspect);
    assert_eq!(bed.wake(1_750), [beat(3, "a", 2_350, true)]);
    bed.on(1_800, Event::Beaten { attempt: 2, ok: false });
    assert_eq!(bed.machine.phase(), Phase::Suspect, "an answer that was given up does not count");
    bed.beaten(1_800, true);
    // 1.75 s and an interval, less half of the 20 ms of the grid.
    assert_eq!(bed.wake(3_740), [beat(4, "a", 4_340, false)]);
}

#[test]
fn a_lease_that_ends_in_silence_is_beaten_for_and_not_registered_over() {
    let mut bed = Bed::live(settings(), 1);
    let mut beats = 0;
    while let Some(at) = bed.machine.wakes_at().filter(|at| *at < ms(5_000)) {
        for action in bed.exactly(at, Event::Tick) {
            assert!(matches!(action, Action::Beat { .. }), "{action:?}");
            beats += 1;
        }
        match bed.machine.phase() {
            Phase::Live | Phase::Suspect => assert!(at < ms(1_000), "{at:?}"),
            phase => assert!(phase == Phase::Lost && at >= ms(1_000), "{at:?}: {phase:?}"),
        }
    }
    assert!(beats > 5, "{beats}");
    // The first answer decides.
    let now = bed.machine.wakes_at().unwrap_or_default();
    if bed.exactly(now, Event::Tick).is_empty() {
        // That was a deadline; a beat follows.
        let now = bed.machine.wakes_at().unwrap_or_default();
        assert_eq!(bed.exactly(now, Event::Tick).len(), 1);
    }
    let attempt = bed.attempt;
    bed.exactly(now, Event::Beaten { attempt, ok: true });
    assert_eq!(bed.machine.phase(), Phase::Live);
    assert_eq!(bed.machine.counters().registers, 1);
}

#[test]
fn a_lone_eviction_registers_at_once_and_a_restarted_gateway_after_the_spread() {
    let mut bed = Bed::live(settings(), 30);
    bed.wake(5_000);
    bed.beaten(5_001, true);
    bed.wake(15_000);
    assert_eq!(bed.beaten(15_001, false), [register(4, 30_001, false)]);
    assert_eq!(bed.machine.phase(), Phase::Lost);
    bed.registered(15_010, "b", 30);
    // 15.01 s and half of the interval, on the grid of 100 ms.
    assert_eq!(bed.wake(20_000), [beat(5, "b", 23_000, false)]);
    bed.beaten(20_011, true);

    // The connection is lost: a beat within 100 ms, which finds nobody, then somebody who knows nothing.
    assert!(bed.on(22_000, Event::ConnectionLost { target: 0 }).is_empty());
    assert_eq!(bed.wake(22_050), [beat(6, "b", 25_050, false)]);
    bed.failed(22_050, refused());
    assert_eq!(bed.machine.phase(), Phase::Suspect);
    assert_eq!(bed.wake(22_200), [beat(7, "b", 25_200, false)]);
    assert!(bed.beaten(22_210, false).is_empty());
    // Half of the spread, which is the interval of 10 s.
    assert_eq!(bed.wake(27_210), [register(8, 42_210, false)]);
}

#[test]
fn a_gateway_that_says_no_is_lost_for_that_and_not_for_what_failed_before() {
    let kind = |bed: &Bed| bed.machine.failure().map(Failure::kind);
    let mut bed = Bed::live(settings(), 30);
    bed.wake(5_000);
    bed.beaten(5_001, true);
    bed.wake(15_000);
    bed.failed(15_010, error(FailureKind::Unavailable, How::Doubtful));
    assert_eq!((bed.machine.phase(), kind(&bed)), (Phase::Suspect, Some(FailureKind::Unavailable)));
    bed.wake(15_160);
    assert_eq!(bed.beaten(15_161, false).len(), 1, "registered again at once");
    assert_eq!((bed.machine.phase(), kind(&bed)), (Phase::Lost, Some(FailureKind::Evicted)));
    // Then it is what that Register failed with, until one succeeds.
    bed.failed(15_170, error(FailureKind::Timeout, How::Doubtful));
    assert_eq!((bed.machine.phase(), kind(&bed)), (Phase::Lost, Some(FailureKind::Timeout)));
    let at = bed.machine.wakes_at().unwrap_or_default();
    bed.exactly(at, Event::Tick);
    bed.registered(15_500, "b", 30);
    assert_eq!((bed.machine.phase(), kind(&bed)), (Phase::Live, None));
}

#[test]
fn registrations_of_one_connection_beat_together_and_a_fleet_does_not() {
    let mut beats = BTreeMap::<Duration, u32>::new();
    for seed in 0..1_000 {
        let random = Generator::seeded(seed);
        let mut random = || unit(random.next_u64());
        let mut machine = Machine::new(settings());
        machine.on(Event::Start, ms(7), &mut random);
        let event = Event::Registered { attempt: 1, target: 0, id: "a".into(), ttl_seconds: 30 };
        machine.on(event, ms(13), &mut random);
        let first = machine.wakes_at().unwrap_or_default();
        assert!(first <= ms(13) + secs(10), "{first:?}: within the first interval");
        let actions = machine.on(Event::Tick, first, &mut random);
        assert!(matches!(actions[..], [Action::Beat { .. }]), "{actions:?}");
        machine.on(Event::Beaten { attempt: 2, ok: true }, first + ms(2), &mut random);
        let second = machine.wakes_at().unwrap_or_default();
        assert!(second >= first + secs(9) && second <= first + secs(11), "{first:?} {second:?}: ± 10 %");
        *beats.entry(second).or_default() += 1;
    }
    // The second beats come from 9 s to 21 s: 120 times to beat at, ten beats at each in the middle.
    assert!(beats.keys().all(|at| at.as_millis() % 100 == 0), "{beats:?}");
    assert!(beats.len() > 100 && beats.values().all(|count| *count <= 25), "{beats:?}");
}

#[test]
fn cb08_a_permanent_refusal_slows_to_30_s_and_never_stops() {
    let mut bed = Bed::live(settings(), 30);
    bed.wake(5_000);
    bed.beaten(5_000, true);
    bed.wake(15_000);
    assert_eq!(bed.beaten(15_000, false).len(), 1);
    for round in 0..5_u64 {
        bed.failed(15_000 + round * 30_000, error(FailureKind::SchemaConflict, How::Refused));
        assert_eq!(bed.machine.phase(), Phase::Rejected);
        assert!(matches!(bed.wake(45_000 + round * 30_000)[..], [Action::Register { .. }]));
    }
    bed.registered(165_001, "b", 30);
    assert_eq!(bed.machine.phase(), Phase::Live);
}

#[test]
fn at_the_start_a_permanent_refusal_ends_it_and_a_transient_one_does_as_the_policy_says() {
    let mut bed = Bed::new(settings());
    bed.on(0, Event::Start);
    let actions = bed.failed(10, error(FailureKind::BadSchema, How::Refused));
    assert!(
        matches!(actions[..], [Action::GiveUp { .. }, Action::Closed(Leaving::NotRegistered)]),
        "{actions:?}"
    );
    assert_eq!(bed.machine.wakes_at(), None);

    let mut bed = Bed::new(settings());
    bed.on(0, Event::Start);
    assert!(bed.failed(10, refused()).is_empty());
    assert_eq!(bed.wake(160), [register(2, 15_160, false)]);

    let fail_fast = Start { limit: Duration::from_secs(3), retries: false };
    let mut bed = Bed::new(Settings { start: fail_fast, ..settings() });
    bed.on(0, Event::Start);
    assert!(matches!(bed.failed(10, refused())[..], [Action::GiveUp { .. }, Action::Closed(_)]));

    // Time runs out while the answer is awaited: the caller is told, and the answer, should it come, is
    // taken back.
    let mut bed = Bed::new(Settings { start: fail_fast, ..settings() });
    bed.on(0, Event::Start);
    let actions = bed.wake(3_000);
    assert!(matches!(actions[..], [Action::GiveUp { .. }]), "{actions:?}");
    let actions = bed.registered(4_000, "late", 30);
    assert!(matches!(&actions[..], [Action::Deregister { id, .. }] if &**id == "late"), "{actions:?}");
    let actions = bed.on(4_010, Event::Deregistered { attempt: bed.attempt });
    assert_eq!(actions, [Action::Closed(Leaving::Deregistered)]);
}

#[test]
fn after_a_registers_deadline_a_short_call_asks_whether_anybody_answers() {
    let mut bed = Bed::live(settings(), 30);
    bed.wake(5_000);
    bed.beaten(5_000, true);
    bed.wake(15_000);
    assert_eq!(bed.beaten(15_000, false), [register(4, 30_000, false)]);
    assert!(bed.wake(30_000).is_empty());
    assert_eq!(bed.machine.phase(), Phase::Lost);
    assert_eq!(bed.wake(30_150), [beat(5, "a", 33_150, true)], "on another connection");
    assert_eq!(bed.beaten(30_160, false), [register(6, 45_160, false)]);
    // The Register that got no answer may have been carried out: what it left is looked for, twice.
    let sweep = |attempt, at: u64| Action::Sweep {
        attempt,
        target: 0,
        keep: Some("b".into()),
        until: ms(at + 2_000),
        fresh: false,
    };
    assert_eq!(bed.registered(30_200, "b", 30), [sweep(7, 30_200)]);
    bed.on(30_300, Event::Swept { attempt: 7, done: true });
    assert!(matches!(bed.wake(35_200)[..], [Action::Beat { .. }]));
    assert_eq!(
        bed.beaten(35_210, true),
        [sweep(9, 35_210)],
        "5 s after the deadline it cannot appear any more"
    );
    bed.on(35_220, Event::Swept { attempt: 9, done: true });
    assert!(matches!(bed.wake(45_200)[..], [Action::Beat { .. }]));
    assert!(bed.beaten(45_210, true).is_empty());
}

#[test]
fn s153_an_answer_of_no_for_ever_is_no_tight_loop() {
    let mut bed = Bed::new(settings());
    bed.on(0, Event::Start);
    bed.registered(0, "a", 30);
    let mut calls = 1;
    while let Some(now) = bed.machine.wakes_at().filter(|now| *now < secs(600)) {
        let mut actions = bed.exactly(now, Event::Tick);
        while let Some(action) = actions.pop() {
            calls += 1;
            let attempt = bed.attempt;
            actions = match action {
                Action::Beat { .. } => bed.exactly(now, Event::Beaten { attempt, ok: false }),
                Action::Register { .. } => {
                    let event = Event::Registered { attempt, target: 0, id: "a".into(), ttl_seconds: 30 };
                    bed.exactly(now, event)
                }
                other => panic!("{other:?}"),
            };
        }
    }
    assert!(calls <= 200, "{calls} calls in 10 minutes");
    assert!(calls >= 100, "{calls} calls: it goes on");
}

#[test]
fn sv_h07_a_gateway_that_closes_after_each_answer_is_not_stormed() {
    let mut bed = Bed::live(settings(), 30);
    let mut beats = 0;
    while let Some(now) = bed.machine.wakes_at().filter(|now| *now < secs(600)) {
        for action in bed.exactly(now, Event::Tick) {
            assert!(matches!(action, Action::Beat { .. }), "{action:?}");
            beats += 1;
            let attempt = bed.attempt;
            bed.exactly(now, Event::Beaten { attempt, ok: true });
            bed.exactly(now, Event::ConnectionLost { target: 0 });
        }
    }
    assert!((60..=125).contains(&beats), "{beats} beats in 10 minutes");
}

#[test]
fn failover_takes_the_next_target_after_three_refusals_and_stays_there() {
    let target_of = |actions: &[Action]| match actions {
        [Action::Beat { target, .. } | Action::Register { target, .. }] => Some(*target),
        _ => None,
    };
    let mut bed = Bed::live(Settings { targets: 2, ..settings() }, 6);
    let mut asked = vec![target_of(&bed.wake(1_000))];
    for _ in 0..3 {
        bed.failed(1_000, refused());
        let at = bed.machine.wakes_at().unwrap_or_default();
        asked.push(target_of(&bed.exactly(at, Event::Tick)));
    }
    assert_eq!(asked, [Some(0), Some(0), Some(0), Some(1)]);
    assert_eq!(bed.machine.phase(), Phase::Suspect, "the lease runs");
    // The other one does not know the id; half of the spread of 2 s later it is registered there.
    assert!(bed.beaten(1_700, false).is_empty());
    assert_eq!(target_of(&bed.wake(2_700)), Some(1));
    let event = Event::Registered { attempt: bed.attempt, target: 1, id: "b".into(), ttl_seconds: 6 };
    bed.on(2_700, event);
    assert_eq!(bed.machine.target(), 1);
    for at in [3_700, 5_700, 7_700] {
        assert_eq!(target_of(&bed.wake(at)), Some(1), "it stays while that one answers");
        bed.beaten(at, true);
    }
}

#[test]
fn leaving_tries_twice_within_its_time_and_says_what_became_of_it() {
    let deregister = |attempt, until: u64, fresh| Action::Deregister {
        attempt,
        target: 0,
        id: Arc::from("a"),
        until: ms(until),
        fresh,
    };
    let mut bed = Bed::live(settings(), 30);
    assert_eq!(bed.on(1_000, Event::Shutdown { until: ms(3_000) }), [deregister(2, 2_000, false)]);
    assert_eq!(bed.machine.phase(), Phase::Draining);
    // No answer: again on another connection, to the end of the time.
    assert_eq!(bed.wake(2_000), [deregister(3, 3_000, true)]);
    let held_until = ms(35_000);
    assert_eq!(bed.wake(3_000), [Action::Closed(Leaving::Unreachable { held_until })], "0 s + 30 s + 5 s");

    let mut bed = Bed::live(settings(), 30);
    bed.on(1_000, Event::Shutdown { until: ms(3_000) });
    let actions = bed.on(1_001, Event::Deregistered { attempt: 2 });
    assert_eq!(actions, [Action::Closed(Leaving::Deregistered)]);
    assert!(bed.on(1_002, Event::Shutdown { until: ms(9_000) }).is_empty(), "twice is once");

    // Nobody listens: no second try.
    let mut bed = Bed::live(settings(), 30);
    bed.on(1_000, Event::Shutdown { until: ms(3_000) });
    assert!(matches!(bed.failed(1_001, refused())[..], [Action::Closed(Leaving::Unreachable { .. })]));

    // No time at all.
    let mut bed = Bed::live(settings(), 30);
    let actions = bed.on(1_000, Event::Shutdown { until: ms(1_000) });
    assert!(matches!(actions[..], [Action::Closed(Leaving::Unreachable { .. })]));

    let mut bed = Bed::new(settings());
    let actions = bed.on(1_000, Event::Shutdown { until: ms(3_000) });
    assert_eq!(actions, [Action::Closed(Leaving::NotRegistered)]);
}

#[test]
fn leaving_waits_for_a_register_in_flight_and_gives_a_beat_up() {
    let mut bed = Bed::live(settings(), 30);
    bed.wake(5_000);
    let actions = bed.on(5_100, Event::Shutdown { until: ms(7_100) });
    assert!(matches!(actions[..], [Action::Deregister { .. }]), "{actions:?}");
    assert!(bed.on(5_200, Event::Beaten { attempt: 2, ok: true }).is_empty());

    let mut bed = Bed::new(settings());
    bed.on(0, Event::Start);
    assert!(bed.on(100, Event::Shutdown { until: ms(2_100) }).is_empty());
    let actions = bed.registered(1_000, "a", 30);
    assert!(matches!(&actions[..], [Action::Deregister { id, .. }] if &**id == "a"), "{actions:?}");

    // Answered after everything was over: taken back all the same.
    let mut bed = Bed::new(settings());
    bed.on(0, Event::Start);
    bed.on(100, Event::Shutdown { until: ms(200) });
    assert!(matches!(bed.wake(200)[..], [Action::Closed(Leaving::Unreachable { .. })]));
    let event = Event::Registered { attempt: 1, target: 0, id: "late".into(), ttl_seconds: 30 };
    assert!(matches!(&bed.on(300, event)[..], [Action::Discard { id, .. }] if &**id == "late"));

    // Its end is unknown: what has our name is looked for before the end.
    let mut bed = Bed::new(settings());
    bed.on(0, Event::Start);
    bed.on(100, Event::Shutdown { until: ms(20_000) });
    let actions = bed.failed(500, error(FailureKind::Unavailable, How::Broken));
    assert!(matches!(actions[..], [Action::Sweep { keep: None, .. }]), "{actions:?}");
    let actions = bed.on(600, Event::Swept { attempt: bed.attempt, done: true });
    assert_eq!(actions, [Action::Closed(Leaving::Deregistered)]);
}

#[test]
fn a_registration_answered_after_its_lease_is_beaten_for_at_once() {
    let mut bed = Bed::new(settings());
    bed.on(0, Event::Start);
    let actions = bed.registered(2_000, "a", 1);
    assert_eq!(actions, [beat(2, "a", 2_250, false)]);
    assert_eq!(bed.machine.phase(), Phase::Lost, "1 s from 0 s is over");
}
