//! What a peer does, and when.

use std::fmt;
use std::time::Duration;

use http::StatusCode;
use peerage_balance::{Generator, unit};

/// How long something takes. The virtual clock goes in steps of a millisecond: times end at the next one,
/// and no time at all stays none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latency(Kind);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Fixed(Duration),
    Uniform(Duration, Duration),
    /// The median in seconds, and sigma.
    LogNormal(f64, f64),
}

impl Latency {
    /// No time at all.
    pub const NONE: Self = Self::fixed(Duration::ZERO);

    /// Always as long.
    pub const fn fixed(time: Duration) -> Self {
        Self(Kind::Fixed(time))
    }

    /// Anything between the two, all equally often.
    pub const fn uniform(from: Duration, to: Duration) -> Self {
        Self(Kind::Uniform(from, to))
    }

    /// Log-normal, as times of real services are: most a little below `mean`, a few far above. `sigma` is
    /// the standard deviation of the logarithm; 0.3 is a calm service, 1 a restless one. It is taken as 0
    /// where it is no number or below that.
    pub fn log_normal(mean: Duration, sigma: f64) -> Self {
        let sigma = if sigma.is_finite() { sigma.clamp(0.0, 5.0) } else { 0.0 };
        Self(Kind::LogNormal(mean.as_secs_f64() * (-sigma * sigma / 2.0).exp(), sigma))
    }

    pub(super) fn draw(self, random: &Generator) -> Duration {
        match self.0 {
            Kind::Fixed(time) => time,
            Kind::Uniform(from, to) => from + to.saturating_sub(from).mul_f64(unit(random.next_u64())),
            Kind::LogNormal(median, sigma) => {
                // Box and Muller's normal of two uniform numbers.
                let (a, b) = (unit(random.next_u64()), unit(random.next_u64()));
                let normal = (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos();
                Duration::try_from_secs_f64(median * (sigma * normal).exp()).unwrap_or(Duration::MAX)
            }
        }
    }
}

/// Always as long.
impl From<Duration> for Latency {
    fn from(time: Duration) -> Self {
        Self::fixed(time)
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Kind::Fixed(Duration::ZERO) => f.write_str("at once"),
            Kind::Fixed(time) => write!(f, "in {time:?}"),
            Kind::Uniform(from, to) => write!(f, "in {from:?} to {to:?}"),
            Kind::LogNormal(median, _) => write!(f, "in {:.1?} mostly", Duration::from_secs_f64(median)),
        }
    }
}

/// What a peer does with requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Behavior(pub(super) Does);

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Does {
    Answer(StatusCode, Latency),
    Reset(Latency),
    Hang,
    Refuse,
    BlackHole,
    Either { part: f64, this: Box<Behavior>, that: Box<Behavior> },
}

impl Behavior {
    /// Answers 200.
    pub fn answers(after: impl Into<Latency>) -> Self {
        Self(Does::Answer(StatusCode::OK, after.into()))
    }

    /// Answers with that status, mostly one that says that it failed.
    pub fn fails(status: StatusCode, after: impl Into<Latency>) -> Self {
        Self(Does::Answer(status, after.into()))
    }

    /// Takes requests and closes the connection without an answer.
    pub fn resets(after: impl Into<Latency>) -> Self {
        Self(Does::Reset(after.into()))
    }

    /// Takes requests and connections, and says nothing: its process is stopped, or in a deadlock. What it
    /// took is answered when it does something else again.
    pub const fn hangs() -> Self {
        Self(Does::Hang)
    }

    /// Its process is gone: connections are refused, running requests are cut off.
    pub const fn refuses() -> Self {
        Self(Does::Refuse)
    }

    /// The network swallows what is sent to it: no connection comes up, and those that are open fall silent.
    pub const fn black_hole() -> Self {
        Self(Does::BlackHole)
    }

    /// Does `other` for that part of the requests, from 0 to 1, drawn at random.
    #[must_use]
    pub fn or(self, part: f64, other: Self) -> Self {
        Self(Does::Either { part, this: Box::new(other), that: Box::new(self) })
    }

    /// What is done with one request.
    pub(super) fn draw(&self, random: &Generator) -> &Self {
        match &self.0 {
            Does::Either { part, this, that } => {
                let chosen = if unit(random.next_u64()) < *part { this } else { that };
                chosen.draw(random)
            }
            _ => self,
        }
    }
}

impl fmt::Display for Behavior {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Does::Answer(status, after) => write!(f, "answers {} {after}", status.as_u16()),
            Does::Reset(after) => write!(f, "resets connections {after}"),
            Does::Hang => f.write_str("hangs"),
            Does::Refuse => f.write_str("refuses connections"),
            Does::BlackHole => f.write_str("cannot be reached"),
            Does::Either { part, this, that } => write!(f, "{that}, for {} % {this}", part * 100.0),
        }
    }
}

/// A peer and its script.
#[derive(Clone, Debug)]
#[must_use = "a peer does nothing before a simulation has it"]
pub struct SimPeer {
    pub(super) name: String,
    pub(super) pairs: Vec<(String, String)>,
    pub(super) workers: Option<usize>,
    pub(super) script: Vec<(Duration, Step)>,
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    Does(Behavior),
    Joins,
    Leaves,
}

impl SimPeer {
    /// A peer with that node id. It is there from the start and answers 200 in 10 ms on average
    /// (log-normal, sigma 0.3), until its script says otherwise.
    pub fn new(node_id: impl Into<String>) -> Self {
        let usual = Behavior::answers(Latency::log_normal(Duration::from_millis(10), 0.3));
        let script = vec![(Duration::ZERO, Step::Does(usual))];
        Self { name: node_id.into(), pairs: Vec::new(), workers: None, script }
    }

    /// Does that from the start.
    pub fn does(self, behavior: Behavior) -> Self {
        self.then(Duration::ZERO, behavior)
    }

    /// Does that from `at` on. What is running goes on as it began, unless the peer hangs, is gone or cannot
    /// be reached any more.
    pub fn then(mut self, at: Duration, behavior: Behavior) -> Self {
        self.script.push((at, Step::Does(behavior)));
        self
    }

    /// Discovery finds it at `at`; without this from the start.
    pub fn joins(mut self, at: Duration) -> Self {
        self.script.push((at, Step::Joins));
        self
    }

    /// Discovery hears at `at` that it leaves. What it took it still answers.
    pub fn leaves(mut self, at: Duration) -> Self {
        self.script.push((at, Step::Leaves));
        self
    }

    /// The most requests that it works on at once; the others wait, first come first served. Default no limit.
    pub fn workers(self, count: usize) -> Self {
        Self { workers: Some(count.max(1)), ..self }
    }

    /// Metadata that it announces, such as `weight` or `zone`.
    pub fn pair(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.pairs.push((key.into(), value.into()));
        self
    }

    /// Whether discovery knows it from the start.
    pub(super) fn is_there_at_first(&self) -> bool {
        let first =
            self.script.iter().filter(|(_, step)| !matches!(step, Step::Does(_))).min_by_key(|(at, _)| *at);
        !first.is_some_and(|(at, step)| matches!(step, Step::Joins) && !at.is_zero())
    }
}
