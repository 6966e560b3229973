//! The retry loop as a truth table (B-4, B-5.1, B-8).

use std::{sync::Arc, time::Duration};

use peerage_balance::{
    Action, Backoff, Budget, BudgetPolicy, Event, Generator, RetryPolicy, RetryState, Situation, StopReason,
    repeat::Pushback,
};
use proptest::prelude::*;

const MS: u64 = 1_000_000;
/// A random number that makes every pause half of its limit.
const HALF: u64 = 1 << 63;

const CALM: Situation =
    Situation { now: 0, deadline: None, other_peer: true, replayable: true, estimate: 0, was_probe: false };

fn answered(status: u16) -> Event {
    Event::Answered { status, retry_after: None, no_retry: false }
}

fn after(status: u16, seconds: u64) -> Event {
    Event::Answered { status, retry_after: Some(Duration::from_secs(seconds)), no_retry: false }
}

const fn stop(reason: StopReason) -> Action {
    Action::Return(reason)
}

const fn again(pause: u64, leave_out: bool, fresh: bool, needs_budget: bool) -> Action {
    Action::Again { pause, leave_out, fresh, needs_budget }
}

/// What follows the first attempt of a call.
fn first(idempotent: bool, event: Event, situation: Situation) -> Action {
    let mut state = RetryState::new(&RetryPolicy::default(), idempotent, None);
    assert_eq!(state.begin(), 1);
    state.ended(event, &situation, HALF)
}

#[test]
fn b_what_follows_a_first_attempt() {
    use StopReason::{Final, NotRepeatable, RetryAfterTooLong};
    let alone = Situation { other_peer: false, ..CALM };
    let gone = Situation { replayable: false, ..CALM };
    let half = 25 * MS / 2;
    for (name, idempotent, event, situation, action) in [
        ("not sent", true, Event::NotSent, CALM, again(0, true, false, false)),
        ("not sent, POST", false, Event::NotSent, CALM, again(0, true, false, false)),
        ("not sent, one peer", false, Event::NotSent, alone, again(half, true, false, false)),
        ("not sent, body gone", true, Event::NotSent, gone, stop(NotRepeatable)),
        ("stale", true, Event::Stale, CALM, again(0, true, false, false)),
        ("stale, POST", false, Event::Stale, CALM, stop(NotRepeatable)),
        ("stale, body gone", true, Event::Stale, gone, stop(NotRepeatable)),
        ("ambiguous", true, Event::Ambiguous, CALM, again(half, true, false, true)),
        ("ambiguous, POST", false, Event::Ambiguous, CALM, stop(NotRepeatable)),
        ("ambiguous, body gone", true, Event::Ambiguous, gone, stop(NotRepeatable)),
        ("200", true, answered(200), CALM, stop(Final)),
        ("404", true, answered(404), CALM, stop(Final)),
        ("302", true, after(302, 1), CALM, stop(Final)),
        ("408", true, answered(408), CALM, again(half, false, true, true)),
        ("408, POST", false, answered(408), CALM, stop(NotRepeatable)),
        ("421, POST", false, answered(421), CALM, again(half, true, false, true)),
        ("421, body gone", true, answered(421), gone, stop(NotRepeatable)),
        ("425, POST", false, answered(425), CALM, again(half, true, false, true)),
        ("429", true, answered(429), CALM, stop(Final)),
        ("429 with a wait", true, after(429, 2), CALM, again(2_000 * MS, false, true, true)),
        ("429 with the longest wait", true, after(429, 30), CALM, again(30_000 * MS, false, true, true)),
        ("429 with too long a wait", true, after(429, 31), CALM, stop(RetryAfterTooLong)),
        ("429 with a wait, POST", false, after(429, 2), CALM, stop(NotRepeatable)),
        ("500", true, answered(500), CALM, stop(Final)),
        ("501", true, answered(501), CALM, stop(Final)),
        ("502", true, answered(502), CALM, again(half, true, false, true)),
        ("502, POST", false, answered(502), CALM, stop(NotRepeatable)),
        ("503", true, answered(503), CALM, again(half, true, false, true)),
        ("503 with a wait", true, after(503, 5), CALM, again(0, true, false, true)),
        ("503 with a wait, one peer", true, after(503, 5), alone, again(5_000 * MS, true, false, true)),
        ("503 with too long a wait, one peer", true, after(503, 31), alone, stop(RetryAfterTooLong)),
        ("503, POST", false, answered(503), CALM, stop(NotRepeatable)),
        ("504", true, answered(504), CALM, again(half, true, false, true)),
        ("505", true, answered(505), CALM, stop(Final)),
        ("511", true, answered(511), CALM, stop(Final)),
    ] {
        assert_eq!(first(idempotent, event, situation), action, "{name}");
    }
}

#[test]
fn b_one_resend_by_default_and_five_sends_at_most() {
    for sends in 1..=5 {
        let policy = RetryPolicy::default().sends(sends).unwrap();
        let mut state = RetryState::new(&policy, true, None);
        for send in 1..=sends {
            assert_eq!(state.begin(), u32::from(send), "the number that the request carries");
            let action = state.ended(answered(503), &CALM, 0);
            if send == sends {
                assert_eq!(action, stop(StopReason::SendsUsedUp));
            } else {
                assert_eq!(action, again(0, true, false, true), "send {send} of {sends}");
            }
            assert_eq!(state.has_resent(), send > 1);
        }
    }
    assert!(RetryPolicy::default().sends(0).is_err() && RetryPolicy::default().sends(6).is_err());
}

#[test]
fn b_not_sent_failures_are_counted_apart() {
    let mut state = RetryState::new(&RetryPolicy::default(), false, None);
    for _ in 0..4 {
        state.begin();
        assert_eq!(state.ended(Event::NotSent, &CALM, HALF), again(0, true, false, false));
    }
    state.begin();
    assert_eq!(state.ended(Event::NotSent, &CALM, HALF), stop(StopReason::NotSentUsedUp), "the fifth");
    assert_eq!(state.attempts(), 5);
    assert!(!state.has_resent(), "nothing was sent");

    let mut state = RetryState::new(&RetryPolicy::default(), true, None);
    assert_eq!(state.ended(Event::NotSent, &CALM, HALF), again(0, true, false, false));
    assert_eq!(
        state.ended(Event::Ambiguous, &CALM, 0),
        again(0, true, false, true),
        "the one resend is left"
    );
    assert_eq!(state.ended(Event::NotSent, &CALM, HALF), again(0, true, false, false));
    assert_eq!(state.ended(Event::Ambiguous, &CALM, 0), stop(StopReason::SendsUsedUp));
}

#[test]
fn b_5_1_so_many_peers_may_be_out_of_reach_as_was_set() {
    for (policy, most) in (1..=8)
        .map(|most| (RetryPolicy::default().not_sent(most).unwrap(), most))
        .chain([(RetryPolicy::default(), 5), (RetryPolicy::never(), 5)])
    {
        let mut state = RetryState::new(&policy, false, None);
        for _ in 1..most {
            assert_eq!(state.ended(Event::NotSent, &CALM, HALF), again(0, true, false, false), "of {most}");
        }
        assert_eq!(state.ended(Event::NotSent, &CALM, HALF), stop(StopReason::NotSentUsedUp), "of {most}");
    }
}

#[test]
fn b_5_1_never_means_that_what_was_sent_is_not_sent_again() {
    for event in [Event::Ambiguous, Event::Stale, answered(503), answered(421), after(429, 1)] {
        let mut state = RetryState::new(&RetryPolicy::never(), true, None);
        assert_eq!(state.ended(event, &CALM, HALF), stop(StopReason::SendsUsedUp), "{event:?}");
    }
}

#[test]
fn b_5_3_a_resend_draws_one_from_the_budget_as_long_as_there_is_one() {
    let policy = BudgetPolicy::default().per_call(0.0).and_then(|policy| policy.ttl(Duration::from_secs(2)));
    let budget = Arc::new(Budget::new(&policy.unwrap()));
    let failed = |budget| {
        let mut state = RetryState::new(&RetryPolicy::default(), true, None).with_budget(budget, 0);
        state.ended(Event::Ambiguous, &CALM, HALF)
    };
    for left in [1_000, 0] {
        assert_eq!(failed(Arc::clone(&budget)), again(25 * MS / 2, true, false, true));
        assert_eq!(budget.balance(0), left);
    }
    assert_eq!(failed(Arc::clone(&budget)), stop(StopReason::BudgetUsedUp));
    assert_eq!(budget.balance(0), 0, "nothing is drawn for what is not sent again");
}

#[test]
fn b_stale_is_repeated_once() {
    let policy = RetryPolicy::default().sends(5).unwrap();
    let mut state = RetryState::new(&policy, true, None);
    assert_eq!(state.ended(Event::Stale, &CALM, HALF), again(0, true, false, false));
    assert_eq!(state.ended(Event::Stale, &CALM, HALF), stop(StopReason::SendsUsedUp));
    let mut state = RetryState::new(&RetryPolicy::default(), true, None);
    assert_eq!(state.ended(Event::Stale, &CALM, HALF), again(0, true, false, false));
    assert_eq!(
        state.ended(answered(503), &CALM, HALF),
        stop(StopReason::SendsUsedUp),
        "it was the call's resend"
    );
}

#[test]
fn b_421_is_sent_elsewhere_once() {
    let policy = RetryPolicy::default().sends(5).unwrap();
    let mut state = RetryState::new(&policy, false, None);
    assert_eq!(state.ended(answered(421), &CALM, 0), again(0, true, false, true));
    assert_eq!(state.ended(answered(425), &CALM, 0), stop(StopReason::SendsUsedUp));
}

#[test]
fn b_500_is_repeated_only_by_choice() {
    let policy = RetryPolicy::default().repeat_500(true);
    let ended = |idempotent| RetryState::new(&policy, idempotent, None).ended(answered(500), &CALM, 0);
    assert_eq!(ended(true), again(0, true, false, true));
    assert_eq!(ended(false), stop(StopReason::NotRepeatable));
}

#[test]
fn b_marks_keep_repeats_from_multiplying() {
    let marked = |status| Event::Answered { status, retry_after: None, no_retry: true };
    for status in [408, 421, 502, 503, 504] {
        assert_eq!(first(true, marked(status), CALM), stop(StopReason::ToldNotTo), "{status}");
    }
    assert_eq!(first(true, marked(200), CALM), stop(StopReason::Final));

    let mut serving = RetryState::new(&RetryPolicy::default(), true, Some(3));
    assert_eq!(serving.begin(), 3, "the number is passed on");
    assert_eq!(serving.ended(Event::NotSent, &CALM, HALF), again(0, true, false, false));
    assert_eq!(serving.begin(), 3);
    assert_eq!(serving.ended(Event::Stale, &CALM, HALF), again(0, true, false, false));
    assert_eq!(serving.begin(), 3);
    assert_eq!(serving.ended(answered(503), &CALM, HALF), stop(StopReason::ToldNotTo));
    for first_attempt in [None, Some(0), Some(1)] {
        let mut state = RetryState::new(&RetryPolicy::default(), true, first_attempt);
        assert_eq!((state.begin(), state.begin()), (1, 2));
    }
}

#[test]
fn b_no_attempt_that_cannot_end_in_time() {
    let left =
        |left, estimate| Situation { deadline: Some(1_000 * MS + left), now: 1_000 * MS, estimate, ..CALM };
    let pause = 25 * MS / 2;
    let late = stop(StopReason::DeadlineTooClose);
    assert_eq!(first(true, answered(503), left(pause + MS, 0)), again(pause, true, false, true));
    assert_eq!(first(true, answered(503), left(pause + MS - 1, 0)), late, "less than 1 ms would be left");
    assert_eq!(first(true, answered(503), left(pause + 9 * MS, 10 * MS)), late, "less than a peer needs");
    assert_eq!(first(true, answered(503), left(pause + 10 * MS, 10 * MS)), again(pause, true, false, true));
    assert_eq!(first(true, Event::NotSent, left(MS, 10 * MS)), again(0, true, false, false));
    assert_eq!(first(true, Event::NotSent, left(MS - 1, 0)), late);
    assert_eq!(first(true, after(429, 2), left(2_000 * MS, 0)), late, "the wait does not fit");
    assert_eq!(first(true, answered(503), Situation { deadline: Some(0), now: 5, ..CALM }), late);
    assert_eq!(
        first(true, after(503, u64::MAX), Situation { other_peer: false, ..CALM }),
        stop(StopReason::RetryAfterTooLong),
        "an absurd number is no arithmetic"
    );
}

#[test]
fn b_backoff_grows_to_its_limit() {
    let backoff = Backoff::default();
    // HALF makes the random part one half, give or take 2^-54.
    let halves: Vec<_> =
        (1..=8).map(|i| (backoff.pause(i, HALF) as f64 / MS as f64 * 2.0).round() as u64).collect();
    assert_eq!(halves, [25, 50, 100, 200, 400, 800, 1_000, 1_000]);
    assert_eq!(backoff.pause(u32::MAX, u64::MAX), 1_000 * MS - 1);
    assert_eq!(backoff.pause(1, 0), 0);
    let ms = Duration::from_millis;
    assert!(Backoff::new(ms(2), ms(1)).is_err() && Backoff::new(ms(1), Duration::MAX).is_err());
    assert_eq!(Backoff::new(ms(0), ms(0)).unwrap().pause(3, HALF), 0);
    assert!(RetryPolicy::default().per_try(Some(Duration::from_micros(999))).is_err());
    assert!(RetryPolicy::default().not_sent(0).is_err() && RetryPolicy::default().not_sent(9).is_err());
}

#[test]
fn b_5_1_each_resend_of_a_call_waits_longer() {
    let policy = RetryPolicy::default().sends(5).unwrap();
    let mut state = RetryState::new(&policy, true, None);
    for half in [25 * MS / 2, 25 * MS, 50 * MS, 100 * MS] {
        assert_eq!(state.ended(Event::Ambiguous, &CALM, HALF), again(half, true, false, true));
    }
    // One that could not be sent, with nobody else to ask, waits as well and counts.
    let alone = Situation { other_peer: false, ..CALM };
    let mut state = RetryState::new(&policy, true, None);
    assert_eq!(state.ended(Event::NotSent, &alone, HALF), again(25 * MS / 2, true, false, false));
    assert_eq!(state.ended(Event::NotSent, &alone, HALF), again(25 * MS, true, false, false));
    assert_eq!(state.ended(Event::Stale, &alone, HALF), again(50 * MS, true, false, false));
}

#[test]
fn b_0_4_each_setting_is_kept_and_those_at_the_edge_are_valid() {
    let ms = Duration::from_millis;
    let policy = RetryPolicy::default();
    assert_eq!(policy.per_try_limit(), None);
    assert_eq!(policy.ready_wait_limit(), Duration::from_secs(3));
    assert_eq!(policy.replay_bytes(), 65_536);
    assert!(!policy.honours_idempotency_key());

    assert_eq!(policy.per_try(Some(ms(1))).unwrap().per_try_limit(), Some(ms(1)));
    assert_eq!(policy.ready_wait(ms(7)).ready_wait_limit(), ms(7));
    assert_eq!(policy.replay_limit(9).replay_bytes(), 9);
    assert!(policy.idempotency_key(true).honours_idempotency_key());
    let slow = policy.backoff(Backoff::new(ms(100), Duration::from_secs(3_600)).unwrap());
    let action = RetryState::new(&slow, true, None).ended(Event::Ambiguous, &CALM, HALF);
    assert_eq!(action, again(50 * MS, true, false, true));

    let reserve = |policy: BudgetPolicy| Budget::new(&policy).balance(0);
    assert_eq!(reserve(BudgetPolicy::default().per_second(1_000).unwrap()), 10_000_000, "10 s of 1,000 each");
    assert_eq!(reserve(BudgetPolicy::default().ttl(Duration::from_secs(60)).unwrap()), 60_000);
    assert_eq!(reserve(BudgetPolicy::default().ttl(Duration::from_secs(1)).unwrap()), 1_000);
}

#[test]
fn b_pauses_are_spread_over_their_whole_range() {
    let (backoff, random) = (Backoff::default(), Generator::seeded(1));
    let mut tenths = [0_u32; 10];
    for _ in 0..10_000 {
        tenths[(backoff.pause(1, random.next_u64()) * 10 / (25 * MS)) as usize] += 1;
    }
    assert!(tenths.iter().all(|count| (850..1_150).contains(count)), "{tenths:?}");
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::NotSent),
        Just(Event::Stale),
        Just(Event::Ambiguous),
        (100_u16..600, proptest::option::of(0_u64..60), any::<bool>()).prop_map(
            |(status, wait, no_retry)| {
                Event::Answered { status, retry_after: wait.map(Duration::from_secs), no_retry }
            }
        ),
    ]
}

proptest! {
    /// However attempts end, the loop is bounded, in time, and sends what must not be doubled once.
    #[test]
    fn b_every_loop_is_bounded(
        events in proptest::collection::vec((events(), any::<bool>(), any::<u64>()), 40),
        idempotent: bool,
        sends in 1_u8..=5,
        deadline in 0_u64..5_000,
    ) {
        let policy = RetryPolicy::default().sends(sends).unwrap();
        let mut state = RetryState::new(&policy, idempotent, None);
        let (mut now, mut sent, mut not_sent) = (0, 0, 0);
        let deadline = deadline * MS;
        for (event, other_peer, z) in events {
            state.begin();
            match event {
                Event::NotSent => not_sent += 1,
                _ => sent += 1,
            }
            let situation = Situation { now, deadline: Some(deadline), other_peer, ..CALM };
            match state.ended(event, &situation, z) {
                Action::Again { pause, .. } => {
                    now += pause;
                    prop_assert!(now + MS <= deadline, "an attempt begins with less than 1 ms left");
                    let elsewhere = matches!(event, Event::Answered { status: 421 | 425, .. });
                    prop_assert!(idempotent || elsewhere || event == Event::NotSent);
                }
                _ => break,
            }
        }
        prop_assert!(sent <= u32::from(sends), "{sent} sends of {sends}");
        prop_assert!(not_sent <= 5, "{not_sent}");
    }
}

#[test]
fn b_4_3_what_follows_a_grpc_status() {
    use StopReason::{Final, NotRepeatable, RetryAfterTooLong, ToldNotTo};
    let of = |code, pushback: Option<&str>| Event::AnsweredGrpc {
        code,
        pushback: pushback.map(|text| Pushback::read(text.as_bytes())),
        no_retry: false,
    };
    let half = 25 * MS / 2;
    for (event, idempotent, action) in [
        (of(14, None), true, again(half, true, false, true)),
        (of(14, None), false, stop(NotRepeatable)),
        (of(14, Some("0")), true, again(0, true, false, true)),
        (of(14, Some("700")), true, again(700 * MS, true, false, true)),
        (of(14, Some("-1")), true, stop(ToldNotTo)),
        (of(14, Some("soon")), true, stop(ToldNotTo)),
        (of(14, Some("2147483647")), true, stop(RetryAfterTooLong)),
        (Event::AnsweredGrpc { code: 14, pushback: None, no_retry: true }, true, stop(ToldNotTo)),
        (of(8, None), true, stop(Final)),
        (of(8, Some("250")), true, again(250 * MS, true, false, true)),
        (of(8, Some("-1")), true, stop(ToldNotTo)),
        (of(13, Some("5")), true, stop(Final)),
        (of(4, None), true, stop(Final)),
        (of(0, None), true, stop(Final)),
        (of(99, None), true, stop(Final)),
    ] {
        assert_eq!(first(idempotent, event, CALM), action, "{event:?}");
    }
}

#[test]
fn b_4_3_pauses_begin_anew_behind_a_pushback() {
    let policy = RetryPolicy::default().sends(5).unwrap();
    let mut state = RetryState::new(&policy, true, None);
    let unavailable = |pushback| Event::AnsweredGrpc { code: 14, pushback, no_retry: false };
    let pushback = Some(Pushback::After(Duration::from_millis(300)));
    let pauses: Vec<_> = [None, None, pushback, None]
        .into_iter()
        .map(|pushback| {
            state.begin();
            state.ended(unavailable(pushback), &CALM, HALF)
        })
        .collect();
    let expected = [25 * MS / 2, 50 * MS / 2, 300 * MS, 25 * MS / 2];
    assert_eq!(pauses, expected.map(|pause| again(pause, true, false, true)));
}

#[test]
fn b_5_1_an_answer_of_grpc_uses_up_a_send() {
    let mut state = RetryState::new(&RetryPolicy::default(), true, None);
    let unavailable = Event::AnsweredGrpc { code: 14, pushback: None, no_retry: false };
    assert_eq!(state.ended(unavailable, &CALM, 0), again(0, true, false, true));
    assert_eq!(state.ended(unavailable, &CALM, 0), stop(StopReason::SendsUsedUp));
    assert!(state.has_resent());
}
