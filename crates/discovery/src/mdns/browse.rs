//! One browse of one type on one library daemon: when it is asked afresh, and what happens when it is lost.
//!
//! The library keys a browse by its type and forgets everything when the browse stops; that makes a *fresh browse*
//! the cheapest way to ask "who is really there" (discovery §6.6). The order matters and is held here: stop, go on
//! reading the old events until the library says it has stopped, browse again, only then let the old events go.
//! A value without I/O: the caller passes `now` and does what comes out.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// At most one fresh browse of a type in this time; requests in between are one.
const FRESH_EVERY: Duration = Duration::from_secs(1);
/// How long the library may take to say that a browse has stopped.
const STOP_LIMIT: Duration = Duration::from_millis(500);
/// Pauses before a lost daemon is replaced: quick for an overflow, then slower.
const REPLACE_AFTER: [Duration; 4] =
    [Duration::from_millis(5), Duration::from_millis(50), Duration::from_millis(500), Duration::from_secs(1)];
/// Losses older than this no longer slow the next replacement.
const LOSS_MEMORY: Duration = Duration::from_secs(60);

/// What the caller has to do, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Tell the library to stop; keep reading.
    Stop,
    /// Browse again: `generation` is the number of the new browse. Drop the old events only after that.
    Browse {
        /// Grows by one with every browse.
        generation: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No daemon, or not yet asked.
    Idle,
    /// Listening.
    Running,
    /// Stopped by us; waiting for the library's word.
    Stopping { until: Instant },
}

/// The life of one browse.
#[derive(Debug)]
pub(crate) struct Browse {
    phase: Phase,
    generation: u64,
    began: Option<Instant>,
    /// A fresh browse was asked for and waits for its second to pass.
    wanted: bool,
}

impl Browse {
    pub(crate) fn new() -> Self {
        Self { phase: Phase::Idle, generation: 0, began: None, wanted: false }
    }

    /// A daemon is there (again).
    pub(crate) fn daemon_up(&mut self, now: Instant) -> Action {
        self.begin(now)
    }

    /// The daemon is gone; nothing to stop.
    pub(crate) fn daemon_down(&mut self) {
        self.phase = Phase::Idle;
        self.wanted = false;
    }

    /// Somebody wants to know who is really there.
    pub(crate) fn request(&mut self, now: Instant) -> Option<Action> {
        match self.phase {
            // The browse that is about to begin answers this request too.
            Phase::Idle | Phase::Stopping { .. } => None,
            Phase::Running => {
                self.wanted = true;
                self.tick(now)
            }
        }
    }

    /// The library has stopped the browse, because we asked.
    pub(crate) fn stopped(&mut self, now: Instant) -> Option<Action> {
        match self.phase {
            Phase::Stopping { .. } => Some(self.begin(now)),
            Phase::Idle | Phase::Running => None,
        }
    }

    /// Whether it listens.
    pub(crate) fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    /// Whether the end of the events was asked for by us.
    pub(crate) fn is_stopping(&self) -> bool {
        matches!(self.phase, Phase::Stopping { .. })
    }

    /// What is due by time alone.
    pub(crate) fn tick(&mut self, now: Instant) -> Option<Action> {
        match self.phase {
            Phase::Running if self.wanted && self.next_fresh() <= Some(now) => {
                self.wanted = false;
                self.phase = Phase::Stopping { until: now + STOP_LIMIT };
                Some(Action::Stop)
            }
            Phase::Stopping { until } if until <= now => Some(self.begin(now)),
            Phase::Idle | Phase::Running | Phase::Stopping { .. } => None,
        }
    }

    /// When [`tick`](Self::tick) has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Running if self.wanted => self.next_fresh(),
            Phase::Stopping { until } => Some(until),
            Phase::Idle | Phase::Running => None,
        }
    }

    fn next_fresh(&self) -> Option<Instant> {
        self.began.map(|t| t + FRESH_EVERY)
    }

    // (Idle | Stopping) -> Running
    fn begin(&mut self, now: Instant) -> Action {
        self.phase = Phase::Running;
        self.generation += 1;
        self.began = Some(now);
        self.wanted = false;
        Action::Browse { generation: self.generation }
    }
}

/// How long to wait before a lost browse daemon is replaced.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    recent: VecDeque<Instant>,
}

impl Losses {
    /// Notes a loss and says how long to wait (6.6: 5 ms, 50 ms, 500 ms, 1 s).
    pub(crate) fn note(&mut self, now: Instant) -> Duration {
        while self.recent.front().is_some_and(|t| now.duration_since(*t) >= LOSS_MEMORY) {
            self.recent.pop_front();
        }
        let pause =
            REPLACE_AFTER.get(self.recent.len()).or(REPLACE_AFTER.last()).copied().unwrap_or_default();
        if self.recent.len() >= REPLACE_AFTER.len() {
            self.recent.pop_front();
        }
        self.recent.push_back(now);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn d076_the_next_browse_waits_for_the_word_of_the_library_or_half_a_second() {
        let t0 = Instant::now();
        let mut browse = Browse::new();
        assert_eq!(browse.daemon_up(t0), Action::Browse { generation: 1 });

        let t1 = t0 + ms(2000);
        assert_eq!(browse.request(t1), Some(Action::Stop));
        assert_eq!(browse.tick(t1 + ms(499)), None, "still reading the old one");
        assert_eq!(browse.stopped(t1 + ms(499)), Some(Action::Browse { generation: 2 }));

        let t2 = t1 + ms(2000);
        assert_eq!(browse.request(t2), Some(Action::Stop));
        assert_eq!(browse.deadline(), Some(t2 + ms(500)));
        assert_eq!(
            browse.tick(t2 + ms(500)),
            Some(Action::Browse { generation: 3 }),
            "a library that says nothing does not hold us"
        );
        assert_eq!(browse.stopped(t2 + ms(501)), None, "its late word starts nothing");
    }

    #[test]
    fn d074_requests_within_a_second_are_one_fresh_browse() {
        let t0 = Instant::now();
        let mut browse = Browse::new();
        browse.daemon_up(t0);
        for i in 0..100 {
            assert_eq!(browse.request(t0 + ms(100 + i)), None);
        }
        assert_eq!(browse.deadline(), Some(t0 + ms(1000)));
        assert_eq!(browse.tick(t0 + ms(1000)), Some(Action::Stop));
        assert_eq!(browse.request(t0 + ms(1001)), None, "one is under way already");
        assert_eq!(browse.stopped(t0 + ms(1002)), Some(Action::Browse { generation: 2 }));
        assert_eq!(browse.deadline(), None, "and nothing is left to do");
    }

    #[test]
    fn d075_a_lost_daemon_is_replaced_after_5_50_500_and_then_every_1000_ms() {
        let mut losses = Losses::default();
        let mut now = Instant::now();
        let mut waits = Vec::new();
        for _ in 0..20 {
            let wait = losses.note(now);
            waits.push(wait.as_millis());
            now += wait + ms(1);
        }
        assert_eq!(waits.get(..5), Some([5, 50, 500, 1000, 1000].as_slice()));
        assert_eq!(waits.last(), Some(&1000));
        assert_eq!(losses.note(now + Duration::from_secs(60)).as_millis(), 5, "a quiet minute forgives");
    }
}
