//! A budget for resends, so that an outage is not made worse by repeating (B-5.3).

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::{InvalidPolicy, SECOND};

/// What one resend costs; a call pays in a part of it.
const SCALE: i64 = 1_000;
const SLOTS: u64 = 10;

/// What a [`Budget`] allows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BudgetPolicy {
    /// In thousandths of a resend per call.
    per_call: i64,
    per_second: u32,
    ttl: Duration,
}

impl Default for BudgetPolicy {
    fn default() -> Self {
        Self { per_call: 200, per_second: 1, ttl: Duration::from_secs(10) }
    }
}

impl BudgetPolicy {
    /// Resends per call: 0 to 1, in thousandths. Default 0.2.
    ///
    /// # Errors
    ///
    /// [`InvalidPolicy`] outside that range.
    pub fn per_call(self, ratio: f64) -> Result<Self, InvalidPolicy> {
        if !(0.0..=1.0).contains(&ratio) {
            return Err(InvalidPolicy("resends per call: 0 to 1"));
        }
        // At most 1,000.
        Ok(Self { per_call: (ratio * SCALE as f64).round() as i64, ..self })
    }

    /// Resends per second that are allowed however few calls there are: 0 to 1,000. Default 1.
    ///
    /// # Errors
    ///
    /// [`InvalidPolicy`] outside that range.
    pub fn per_second(self, least: u32) -> Result<Self, InvalidPolicy> {
        let fits = least <= 1_000;
        fits.then_some(Self { per_second: least, ..self })
            .ok_or(InvalidPolicy("resends per second: 0 to 1,000"))
    }

    /// How long what a call paid in can be used: 1 s to 60 s. Default 10 s.
    ///
    /// # Errors
    ///
    /// [`InvalidPolicy`] outside that range.
    pub fn ttl(self, ttl: Duration) -> Result<Self, InvalidPolicy> {
        let fits = (Duration::from_secs(1)..=Duration::from_secs(60)).contains(&ttl);
        fits.then_some(Self { ttl, ..self }).ok_or(InvalidPolicy("ttl of the budget: 1 s to 60 s"))
    }
}

/// The budget of one service: shared by the resends and hedges of all its calls.
///
/// Calls pay in, resends draw; both are forgotten after a while. A lock guards it: it is not on the path of
/// a pick, and held for a few instructions.
#[derive(Debug)]
pub struct Budget {
    reserve: i64,
    per_call: i64,
    /// Nanoseconds.
    slot: u64,
    slots: Mutex<Slots>,
}

#[derive(Debug)]
struct Slots {
    balance: [i64; SLOTS as usize],
    /// Of all slots.
    sum: i64,
    /// The number of the slot that is being filled, counted from time 0.
    current: u64,
}

impl Budget {
    /// A budget with its reserve and nothing paid in.
    #[must_use]
    pub fn new(policy: &BudgetPolicy) -> Self {
        let BudgetPolicy { per_call, per_second, ttl } = policy;
        // A minute at most.
        let ttl = ttl.as_nanos() as u64;
        let reserve = i64::from(*per_second) * (u128::from(ttl) * SCALE as u128 / u128::from(SECOND)) as i64;
        let slots = Slots { balance: [0; SLOTS as usize], sum: 0, current: 0 };
        Self { reserve, per_call: *per_call, slot: ttl / SLOTS, slots: Mutex::new(slots) }
    }

    /// A call that is no resend pays in.
    pub fn deposit(&self, now: u64) {
        self.with(now, |slots| slots.add(self.per_call));
    }

    /// Draws for a resend or a hedge. `false` if there is not enough: then nothing was drawn.
    #[must_use]
    pub fn withdraw(&self, now: u64) -> bool {
        self.with(now, |slots| {
            let allowed = self.reserve + slots.sum >= SCALE;
            if allowed {
                slots.add(-SCALE);
            }
            allowed
        })
    }

    /// Resends that could be drawn now, in thousandths; below 0 while more was drawn than is left of it.
    pub fn balance(&self, now: u64) -> i64 {
        self.with(now, |slots| self.reserve + slots.sum)
    }

    fn with<T>(&self, now: u64, then: impl FnOnce(&mut Slots) -> T) -> T {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.advance(now / self.slot);
        then(&mut slots)
    }
}

impl Slots {
    /// Clears the slots whose time has come round. Time that runs backwards changes nothing.
    fn advance(&mut self, to: u64) {
        if to <= self.current {
            return;
        }
        for number in (self.current + 1..=to).take(SLOTS as usize) {
            if let Some(slot) = self.balance.get_mut((number % SLOTS) as usize) {
                self.sum -= std::mem::take(slot);
            }
        }
        self.current = to;
    }

    fn add(&mut self, amount: i64) {
        if let Some(slot) = self.balance.get_mut((self.current % SLOTS) as usize) {
            *slot += amount;
            self.sum += amount;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(ratio: f64, per_second: u32) -> Budget {
        let policy = BudgetPolicy::default().per_call(ratio).and_then(|policy| policy.per_second(per_second));
        Budget::new(&policy.expect("valid"))
    }

    /// How many of `tries` are allowed.
    fn allowed(budget: &Budget, tries: u32, now: u64) -> usize {
        (0..tries).filter(|_| budget.withdraw(now)).count()
    }

    #[test]
    fn b_5_3_the_reserve_is_there_from_the_start_and_comes_back_after_a_ttl() {
        let budget = budget(0.2, 1);
        assert_eq!(budget.balance(0), 10_000);
        assert_eq!(allowed(&budget, 50, 0), 10);
        assert_eq!(allowed(&budget, 50, 9 * SECOND), 0, "a debt lasts as long as a credit");
        assert_eq!(allowed(&budget, 50, 10 * SECOND), 10);
        (0..1_000).for_each(|_| budget.deposit(11 * SECOND));
        assert_eq!(budget.balance(40 * SECOND), 10_000, "a pause restores exactly the reserve");
    }

    #[test]
    fn b_5_3_shares_are_exact() {
        for (ratio, calls, resends) in [(0.2, 5, 1), (0.3, 1_000, 300), (0.15, 1_000, 150), (1.0, 7, 7)] {
            let budget = budget(ratio, 0);
            (0..calls).for_each(|_| budget.deposit(0));
            assert_eq!(allowed(&budget, 2_000, 0), resends, "{ratio}");
        }
        let never = budget(0.0, 0);
        (0..1_000).for_each(|_| never.deposit(0));
        assert_eq!(allowed(&never, 10, 0), 0);
    }

    #[test]
    fn b_5_3_credit_expires_slot_by_slot() {
        let budget = budget(0.2, 0);
        (0..5).for_each(|_| budget.deposit(0));
        (0..10).for_each(|_| budget.deposit(SECOND));
        assert_eq!(budget.balance(9 * SECOND), 3_000);
        assert_eq!(budget.balance(10 * SECOND), 2_000, "the first second is gone");
        assert_eq!(budget.balance(11 * SECOND), 0);
    }

    #[test]
    fn b_5_3_a_clock_that_runs_backwards_changes_nothing() {
        let budget = budget(0.2, 0);
        (0..5).for_each(|_| budget.deposit(100 * SECOND));
        assert_eq!(budget.balance(3 * SECOND), 1_000);
        assert!(budget.withdraw(0));
        assert_eq!(budget.balance(100 * SECOND), 0);
        assert_eq!(budget.balance(u64::MAX), 0);
    }

    #[test]
    fn b_5_3_a_short_ttl_has_a_small_reserve() {
        let policy = BudgetPolicy::default().ttl(Duration::from_millis(1_500)).expect("valid");
        assert_eq!(Budget::new(&policy).balance(0), 1_500);
    }

    #[test]
    fn b_0_4_bad_budgets_are_refused() {
        let policy = BudgetPolicy::default();
        for ratio in [-0.1, 1.01, f64::NAN, f64::INFINITY] {
            assert!(policy.per_call(ratio).is_err(), "{ratio}");
        }
        assert!(policy.per_second(1_001).is_err());
        assert!(policy.ttl(Duration::from_millis(999)).is_err() && policy.ttl(Duration::MAX).is_err());
    }
}
