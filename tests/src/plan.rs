//! What a [`FaultProxy`](crate::FaultProxy) does to one connection: the network faults N01 to N18.

use std::time::Duration;

/// The faults of one connection. The constructors are named after the rows of the fault table; N01 and
/// N02 need no proxy: see [`Refuser`](crate::Refuser) and [`BlackHole`](crate::BlackHole).
#[derive(Clone, Debug, Default)]
#[must_use = "a plan does nothing until a proxy has it"]
pub struct Plan {
    pub(crate) greeting: Greeting,
    pub(crate) up: Pump,
    pub(crate) down: Pump,
}

/// What happens to a connection before any byte is passed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Greeting {
    #[default]
    Forward,
    Silence,
    Close,
    Reset,
    /// Forward only after the next connection has come and gone.
    AfterTheNext,
}

impl Plan {
    /// No fault.
    pub fn clean() -> Self {
        Self::default()
    }

    /// Faults in each direction.
    pub fn of(up: Pump, down: Pump) -> Self {
        Self { greeting: Greeting::Forward, up, down }
    }

    /// N03: accepts, then silence.
    pub fn n03_silence() -> Self {
        Self { greeting: Greeting::Silence, ..Self::default() }
    }

    /// N04: accepts, closes at once.
    pub fn n04_close() -> Self {
        Self { greeting: Greeting::Close, ..Self::default() }
    }

    /// N05: accepts, resets at once.
    pub fn n05_reset() -> Self {
        Self { greeting: Greeting::Reset, ..Self::default() }
    }

    /// N06: reset after `k` request bytes.
    pub fn n06_reset_up(k: u64) -> Self {
        Self::of(Pump::new().cut(k, Cut::Reset), Pump::new())
    }

    /// N07: half-close after `k` request bytes: the server sees the end, its answer still comes back.
    pub fn n07_half_close_up(k: u64) -> Self {
        Self::of(Pump::new().cut(k, Cut::HalfClose), Pump::new())
    }

    /// N08: takes the whole request, never answers.
    pub fn n08_no_answer() -> Self {
        Self::n11_stall_down(0)
    }

    /// N09: reset after `k` answer bytes.
    pub fn n09_reset_down(k: u64) -> Self {
        Self::of(Pump::new(), Pump::new().cut(k, Cut::Reset))
    }

    /// N10: FIN after `k` answer bytes.
    pub fn n10_close_down(k: u64) -> Self {
        Self::of(Pump::new(), Pump::new().cut(k, Cut::Close))
    }

    /// N11: stalls after `k` answer bytes for ever.
    pub fn n11_stall_down(k: u64) -> Self {
        Self::of(Pump::new(), Pump::new().cut(k, Cut::Stall))
    }

    /// N12: one byte per 20 ms, both ways.
    pub fn n12_drip() -> Self {
        Self::paced(Pace::Drip(Duration::from_millis(20)))
    }

    /// N13: stops reading after `k` request bytes (zero window).
    pub fn n13_stop_reading(k: u64) -> Self {
        Self::of(Pump::new().cut(k, Cut::Stall), Pump::new())
    }

    /// N14: each piece is late by a time in this range, both ways.
    pub fn n14_latency(from: Duration, to: Duration) -> Self {
        Self::paced(Pace::Late { from, to })
    }

    /// N15: the lowest bit of byte `k` is flipped.
    pub fn n15_flip(direction: Direction, k: u64) -> Self {
        match direction {
            Direction::Up => Self::of(Pump::new().flip(k), Pump::new()),
            Direction::Down => Self::of(Pump::new(), Pump::new().flip(k)),
        }
    }

    /// N16: extra bytes after `k` answer bytes, `k` being the length of the answer.
    pub fn n16_extra(k: u64, extra: impl Into<Vec<u8>>) -> Self {
        Self::of(Pump::new(), Pump::new().insert(k, extra))
    }

    /// N17: every byte its own segment, both ways.
    pub fn n17_every_byte() -> Self {
        Self::paced(Pace::EveryByte)
    }

    /// N17: `up` request bytes, and then `down` answer bytes, in one write each.
    pub fn n17_together(up: usize, down: usize) -> Self {
        Self::of(Pump::new().pace(Pace::Together(up)), Pump::new().pace(Pace::Together(down)))
    }

    /// N18: this connection is held until the next one is done.
    pub fn n18_after_the_next() -> Self {
        Self { greeting: Greeting::AfterTheNext, ..Self::default() }
    }

    /// At most this many bytes a second, both ways.
    pub fn bandwidth(bytes_per_second: u32) -> Self {
        Self::paced(Pace::Rate(bytes_per_second))
    }

    fn paced(pace: Pace) -> Self {
        Self::of(Pump::new().pace(pace), Pump::new().pace(pace))
    }
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "there is no third way")]
pub enum Direction {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// How bytes of one direction are passed on.
#[derive(Clone, Debug, Default)]
#[must_use = "a pump does nothing until a plan has it"]
pub struct Pump {
    pub(crate) cut: Option<(u64, Cut)>,
    pub(crate) flip: Option<u64>,
    pub(crate) insert: Option<(u64, Vec<u8>)>,
    pub(crate) pace: Pace,
}

impl Pump {
    /// As they come.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends after `k` bytes.
    pub fn cut(mut self, k: u64, how: Cut) -> Self {
        self.cut = Some((k, how));
        self
    }

    /// Flips the lowest bit of byte `k`, from 0.
    pub fn flip(mut self, k: u64) -> Self {
        self.flip = Some(k);
        self
    }

    /// Sends `extra` after `k` bytes.
    pub fn insert(mut self, k: u64, extra: impl Into<Vec<u8>>) -> Self {
        self.insert = Some((k, extra.into()));
        self
    }

    /// At this pace.
    pub fn pace(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }
}

/// How a direction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "these are all ways a stream can end")]
pub enum Cut {
    /// Both sides get RST.
    Reset,
    /// The reader of this direction gets FIN; what the other one still sends is taken and dropped.
    Close,
    /// The reader of this direction gets FIN; the other direction goes on.
    HalfClose,
    /// Nothing more is read; the other direction goes on.
    Stall,
}

/// In which pieces and how fast bytes are passed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "tests choose, they do not match")]
pub enum Pace {
    /// As they come.
    #[default]
    AsTheyCome,
    /// Each byte in a write of its own.
    EveryByte,
    /// The first so many bytes in one write; then as they come.
    Together(usize),
    /// Each byte after a pause.
    Drip(Duration),
    /// Each piece after a pause of random length in this range.
    Late {
        /// Shortest pause.
        from: Duration,
        /// Longest pause.
        to: Duration,
    },
    /// So many bytes a second.
    Rate(u32),
}

/// Where to cut a message of `len` bytes: both sides of each border in the formats, and of its ends.
pub fn cut_points(len: u64) -> Vec<u64> {
    let mut points = vec![0, 1, 3, 4, 15, 16, 63, 64, len / 2, len.saturating_sub(1), len];
    points.retain(|&k| k <= len);
    points.sort_unstable();
    points.dedup();
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_points_stay_inside_and_come_once() {
        assert_eq!(cut_points(100), [0, 1, 3, 4, 15, 16, 50, 63, 64, 99, 100]);
        assert_eq!(cut_points(4), [0, 1, 2, 3, 4]);
        assert_eq!(cut_points(0), [0]);
    }
}
