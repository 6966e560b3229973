//! One call's retry loop as a state machine (B-5.1).

use std::{sync::Arc, time::Duration};

use crate::{
    Budget, MILLISECOND, deadline,
    repeat::{Pushback, StatusRule},
    unit,
};

/// When a call is sent again. Every setting is checked when it is made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryPolicy {
    sends: u8,
    not_sent: u8,
    per_try: Option<Duration>,
    backoff: Backoff,
    repeat_500: bool,
    idempotency_key: bool,
    replay_limit: usize,
    retry_after_cap: Duration,
    ready_wait: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            sends: 2,
            not_sent: 5,
            per_try: None,
            backoff: Backoff::default(),
            repeat_500: false,
            idempotency_key: false,
            replay_limit: 64 * 1024,
            retry_after_cap: Duration::from_secs(30),
            ready_wait: Duration::from_secs(3),
        }
    }
}

impl RetryPolicy {
    /// Sends each call once; peers that cannot be reached are still passed over.
    #[must_use]
    pub fn never() -> Self {
        Self { sends: 1, ..Self::default() }
    }

    /// How often a call may be sent, the first time included: 1 to 5. Default 2.
    ///
    /// # Errors
    ///
    /// [`InvalidPolicy`] outside that range.
    pub fn sends(self, count: u8) -> Result<Self, InvalidPolicy> {
        (1..=5)
            .contains(&count)
            .then_some(Self { sends: count, ..self })
            .ok_or(InvalidPolicy("sends: 1 to 5"))
    }

    /// How many attempts may fail before anything was sent: 1 to 8. Default 5.
    ///
    /// # Errors
    ///
    /// [`InvalidPolicy`] outside that range.
    pub fn not_sent(self, count: u8) -> Result<Self, InvalidPolicy> {
        (1..=8)
            .contains(&count)
            .then_some(Self { not_sent: count, ..self })
            .ok_or(InvalidPolicy("not_sent: 1 to 8"))
    }

    /// The most time one attempt gets. Default none: all that is left.
    ///
    /// # Errors
    ///
    /// [`InvalidPolicy`] below 1 ms: no attempt starts with less.
    pub fn per_try(self, limit: Option<Duration>) -> Result<Self, InvalidPolicy> {
        let fits = limit.is_none_or(|limit| limit >= deadline::LEAST);
        fits.then_some(Self { per_try: limit, ..self }).ok_or(InvalidPolicy("per_try: at least 1 ms"))
    }

    /// The pause before each resend.
    #[must_use]
    pub const fn backoff(self, backoff: Backoff) -> Self {
        Self { backoff, ..self }
    }

    /// Whether repeatable calls are sent again after a 500. Default no: most 500s happen again.
    #[must_use]
    pub const fn repeat_500(self, on: bool) -> Self {
        Self { repeat_500: on, ..self }
    }

    /// Whether an `Idempotency-Key` header makes a call repeatable. Default no: the peer must honour it.
    #[must_use]
    pub const fn idempotency_key(self, on: bool) -> Self {
        Self { idempotency_key: on, ..self }
    }

    /// How much of a streamed body is kept to send it again. Default 64 KiB.
    #[must_use]
    pub const fn replay_limit(self, bytes: usize) -> Self {
        Self { replay_limit: bytes, ..self }
    }

    /// How long a call waits for the first peer to appear. Default 3 s.
    #[must_use]
    pub const fn ready_wait(self, limit: Duration) -> Self {
        Self { ready_wait: limit, ..self }
    }

    /// Whether an answer of this status is never followed by another attempt, whatever else it says.
    #[must_use]
    pub const fn ends_with(&self, status: u16) -> bool {
        match StatusRule::of(status) {
            StatusRule::Final => true,
            StatusRule::OptIn => !self.repeat_500,
            _ => false,
        }
    }

    /// See [`per_try`](Self::per_try).
    #[must_use]
    pub const fn per_try_limit(&self) -> Option<Duration> {
        self.per_try
    }
    /// See [`ready_wait`](Self::ready_wait).
    #[must_use]
    pub const fn ready_wait_limit(&self) -> Duration {
        self.ready_wait
    }
    /// See [`replay_limit`](Self::replay_limit).
    #[must_use]
    pub const fn replay_bytes(&self) -> usize {
        self.replay_limit
    }
    /// See [`idempotency_key`](Self::idempotency_key).
    #[must_use]
    pub const fn honours_idempotency_key(&self) -> bool {
        self.idempotency_key
    }
}

/// A setting that cannot be honoured; says which and what it may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidPolicy(pub(crate) &'static str);

/// Pauses that grow, with full jitter: the i-th is a random part of `base · 2^(i−1)`, at most of `most`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Backoff {
    base: u64,
    most: u64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { base: 25 * MILLISECOND, most: 1_000 * MILLISECOND }
    }
}

impl Backoff {
    /// Pauses that start below `base` and stay below `most`.
    ///
    /// # Errors
    ///
    /// [`InvalidPolicy`] if `most` is below `base` or above an hour.
    pub fn new(base: Duration, most: Duration) -> Result<Self, InvalidPolicy> {
        if base > most || most > Duration::from_secs(3_600) {
            return Err(InvalidPolicy("backoff: base up to most, most up to an hour"));
        }
        // An hour in nanoseconds fits.
        Ok(Self { base: base.as_nanos() as u64, most: most.as_nanos() as u64 })
    }

    /// The pause before resend `i` (from 1), by the random number `z`.
    #[must_use]
    pub fn pause(&self, i: u32, z: u64) -> u64 {
        let doublings = i.saturating_sub(1).min(40);
        let most =
            u128::from(self.base).checked_shl(doublings).unwrap_or(u128::MAX).min(u128::from(self.most));
        // Below `most`, an hour at the longest.
        (unit(z) * most as f64) as u64
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// The peer cannot have acted on it.
    NotSent,
    /// A reused connection ended before any byte of the answer.
    Stale,
    /// It may have been acted on.
    Ambiguous,
    /// A full head arrived.
    Answered {
        /// Its status.
        status: u16,
        /// Its `Retry-After`, if it is usable.
        retry_after: Option<Duration>,
        /// Whether it carries `peerage-no-retry`.
        no_retry: bool,
    },
    /// The head of a gRPC answer told how the call ended.
    AnsweredGrpc {
        /// Its status code.
        code: u32,
        /// Its `grpc-retry-pushback-ms`.
        pushback: Option<Pushback>,
        /// Whether it carries `peerage-no-retry`.
        no_retry: bool,
    },
}

/// gRPC's RESOURCE_EXHAUSTED.
const EXHAUSTED: u32 = 8;
/// gRPC's UNAVAILABLE.
const UNAVAILABLE: u32 = 14;

/// What else the decision depends on.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::exhaustive_structs,
    reason = "an input: a field more is a decision that the caller must supply"
)]
pub struct Situation {
    /// The time.
    pub now: u64,
    /// When the call must be over.
    pub deadline: Option<u64>,
    /// Whether a usable peer is left that was not tried.
    pub other_peer: bool,
    /// Whether the body can be sent again whole.
    pub replayable: bool,
    /// How long the best peer is expected to take; 0 if unknown.
    pub estimate: u64,
    /// Whether the attempt was a probe of an ejected peer: no budget pays for what follows (B-3.3).
    pub was_probe: bool,
}

/// What to do next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Action {
    /// Hand the answer or the error to the caller.
    Return(StopReason),
    /// Try again.
    Again {
        /// After this long.
        pause: u64,
        /// Without the peer that was just tried, if there is another.
        leave_out: bool,
        /// Not on a connection that was used before.
        fresh: bool,
        /// It is load that the peers see again, so a budget of resends pays for it: it has, if the call
        /// has one.
        needs_budget: bool,
    },
}

/// Why a call is not tried again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum StopReason {
    /// It is the answer.
    Final,
    /// Sending it twice could do it twice, or its body is gone.
    NotRepeatable,
    /// All sends are used up.
    SendsUsedUp,
    /// Too many peers could not be reached.
    NotSentUsedUp,
    /// The next attempt could not end in time.
    DeadlineTooClose,
    /// The peer asks for a longer wait than a call may take.
    RetryAfterTooLong,
    /// Somebody further down has repeated it already.
    ToldNotTo,
    /// Too many calls were sent again lately.
    BudgetUsedUp,
}

/// One call's retry loop: told how each attempt ended, it says what to do.
#[derive(Clone, Debug)]
pub struct RetryState {
    policy: RetryPolicy,
    /// The method, or the caller, says that sending it twice does no harm.
    idempotent: bool,
    /// The number of the attempt of the call being served; 1 if none is.
    serving: u32,
    attempts: u32,
    sends: u8,
    not_sent: u8,
    pauses: u32,
    went_stale: bool,
    sent_elsewhere: bool,
    budget: Option<Arc<Budget>>,
}

impl RetryState {
    /// A call that was not tried yet. `serving` is the number that came with the call being served, if any.
    #[must_use]
    pub const fn new(policy: &RetryPolicy, idempotent: bool, serving: Option<u32>) -> Self {
        let serving = match serving {
            Some(number) if number > 1 => number,
            _ => 1,
        };
        Self {
            policy: *policy,
            idempotent,
            serving,
            attempts: 0,
            sends: 0,
            not_sent: 0,
            pauses: 0,
            went_stale: false,
            sent_elsewhere: false,
            budget: None,
        }
    }

    /// The call pays into the budget of its service now, and its resends draw from it (B-5.3).
    #[must_use]
    pub fn with_budget(mut self, budget: Arc<Budget>, now: u64) -> Self {
        budget.deposit(now);
        self.budget = Some(budget);
        self
    }

    /// Begins an attempt and returns its number, which the request carries if it is above 1.
    pub fn begin(&mut self) -> u32 {
        self.attempts += 1;
        self.attempts.max(self.serving)
    }

    /// Attempts begun so far.
    #[must_use]
    pub const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Whether an attempt that reached a peer was followed by another: what follows must not be repeated
    /// further up.
    #[must_use]
    pub const fn has_resent(&self) -> bool {
        self.sends > 1
    }

    /// Decides what follows an attempt that ended with `event`; `z` is a random number for the pause.
    pub fn ended(&mut self, event: Event, situation: &Situation, z: u64) -> Action {
        let action = match event {
            Event::NotSent => self.not_sent(situation, z),
            Event::Stale => self.stale(situation, z),
            Event::Ambiguous => {
                self.sends += 1;
                self.resend(Target::Other, Who::Repeatable, Wait::Backoff, situation, z)
            }
            Event::AnsweredGrpc { code, pushback, no_retry } => {
                self.sends += 1;
                self.answered_grpc(code, pushback, no_retry, situation, z)
            }
            Event::Answered { status, retry_after, no_retry } => {
                self.sends += 1;
                self.answered(status, retry_after, no_retry, situation, z)
            }
        };
        self.pay(action, situation)
    }

    /// Last, so that nothing is drawn for a resend that is not made.
    fn pay(&self, action: Action, situation: &Situation) -> Action {
        match action {
            Action::Again { pause, leave_out, fresh, needs_budget: true } if situation.was_probe => {
                Action::Again { pause, leave_out, fresh, needs_budget: false }
            }
            Action::Again { needs_budget: true, .. } => match &self.budget {
                Some(budget) if !budget.withdraw(situation.now) => Action::Return(StopReason::BudgetUsedUp),
                _ => action,
            },
            _ => action,
        }
    }

    fn not_sent(&mut self, situation: &Situation, z: u64) -> Action {
        self.not_sent += 1;
        if self.not_sent >= self.policy.not_sent {
            return Action::Return(StopReason::NotSentUsedUp);
        }
        if !situation.replayable {
            return Action::Return(StopReason::NotRepeatable);
        }
        let pause = if situation.other_peer { 0 } else { self.pause(z) };
        let least = deadline::LEAST.as_nanos() as u64;
        again_in_time(situation, pause, least, Target::Other, false)
    }

    fn stale(&mut self, situation: &Situation, z: u64) -> Action {
        self.sends += 1;
        if !(self.idempotent && situation.replayable) {
            return Action::Return(StopReason::NotRepeatable);
        }
        if self.went_stale || self.sends >= self.policy.sends {
            return Action::Return(StopReason::SendsUsedUp);
        }
        self.went_stale = true;
        let pause = if situation.other_peer { 0 } else { self.pause(z) };
        again_in_time(situation, pause, situation.estimate, Target::Other, false)
    }

    fn answered(
        &mut self,
        status: u16,
        retry_after: Option<Duration>,
        no_retry: bool,
        situation: &Situation,
        z: u64,
    ) -> Action {
        let rule = StatusRule::of(status);
        if self.policy.ends_with(status) {
            return Action::Return(StopReason::Final);
        }
        if no_retry {
            return Action::Return(StopReason::ToldNotTo);
        }
        let asked = retry_after.map_or(Wait::Backoff, Wait::AtLeast);
        match rule {
            StatusRule::Final => Action::Return(StopReason::Final),
            StatusRule::FreshConnection => {
                self.resend(Target::Any, Who::Repeatable, Wait::Backoff, situation, z)
            }
            StatusRule::AnyMethodOnce if self.sent_elsewhere => Action::Return(StopReason::SendsUsedUp),
            StatusRule::AnyMethodOnce => {
                self.sent_elsewhere = true;
                self.resend(Target::Other, Who::Anybody, Wait::Backoff, situation, z)
            }
            StatusRule::AfterWait if retry_after.is_none() => Action::Return(StopReason::Final),
            StatusRule::AfterWait => self.resend(Target::Any, Who::Repeatable, asked, situation, z),
            StatusRule::OptIn | StatusRule::OtherPeer => {
                self.resend(Target::Other, Who::Repeatable, Wait::Backoff, situation, z)
            }
            StatusRule::OtherPeerOrWait if situation.other_peer && retry_after.is_some() => {
                self.resend(Target::OtherAtOnce, Who::Repeatable, Wait::Backoff, situation, z)
            }
            StatusRule::OtherPeerOrWait => self.resend(Target::Other, Who::Repeatable, asked, situation, z),
        }
    }

    fn answered_grpc(
        &mut self,
        code: u32,
        pushback: Option<Pushback>,
        no_retry: bool,
        situation: &Situation,
        z: u64,
    ) -> Action {
        let wait = match (code, pushback) {
            (UNAVAILABLE, None) => Wait::Backoff,
            (UNAVAILABLE | EXHAUSTED, Some(Pushback::After(wait))) => Wait::Exactly(wait),
            (UNAVAILABLE | EXHAUSTED, Some(Pushback::Never)) => return Action::Return(StopReason::ToldNotTo),
            _ => return Action::Return(StopReason::Final),
        };
        if no_retry {
            return Action::Return(StopReason::ToldNotTo);
        }
        self.resend(Target::Other, Who::Repeatable, wait, situation, z)
    }

    /// Sends again what may have been acted on, if `who` may.
    fn resend(&mut self, target: Target, who: Who, wait: Wait, situation: &Situation, z: u64) -> Action {
        let may = situation.replayable && (who == Who::Anybody || self.idempotent);
        if !may {
            return Action::Return(StopReason::NotRepeatable);
        }
        if self.serving > 1 {
            return Action::Return(StopReason::ToldNotTo);
        }
        if self.sends >= self.policy.sends {
            return Action::Return(StopReason::SendsUsedUp);
        }
        if matches!(wait, Wait::AtLeast(wait) | Wait::Exactly(wait) if wait > self.policy.retry_after_cap) {
            return Action::Return(StopReason::RetryAfterTooLong);
        }
        // What is asked for is at most the cap.
        let pause = match wait {
            _ if target == Target::OtherAtOnce => 0,
            Wait::Backoff => self.pause(z),
            Wait::AtLeast(asked) => self.pause(z).max(asked.as_nanos() as u64),
            Wait::Exactly(asked) => {
                // Pauses begin anew behind it (B-4.3).
                self.pauses = 0;
                asked.as_nanos() as u64
            }
        };
        again_in_time(situation, pause, situation.estimate, target, true)
    }

    fn pause(&mut self, z: u64) -> u64 {
        self.pauses += 1;
        self.policy.backoff.pause(self.pauses, z)
    }
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Target {
    Any,
    Other,
    OtherAtOnce,
}

/// How long to wait before a resend.
#[derive(Clone, Copy)]
enum Wait {
    Backoff,
    /// But no less than this.
    AtLeast(Duration),
    Exactly(Duration),
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Who {
    Repeatable,
    Anybody,
}

/// Another attempt after `pause`, if then at least `needed` (and a millisecond) is left.
fn again_in_time(
    situation: &Situation,
    pause: u64,
    needed: u64,
    target: Target,
    needs_budget: bool,
) -> Action {
    let needed = pause.saturating_add(needed.max(deadline::LEAST.as_nanos() as u64));
    if situation.deadline.is_some_and(|deadline| deadline.saturating_sub(situation.now) < needed) {
        return Action::Return(StopReason::DeadlineTooClose);
    }
    Action::Again { pause, leave_out: target != Target::Any, fresh: target == Target::Any, needs_budget }
}
