//! Counts through the `metrics` facade.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use metrics::{Counter, Gauge, Histogram, Label, SharedString, Unit};
use peerage_balance::{Event, Notice, Outcome, Policy, Rule, StopReason, What};
use peerage_discovery::ServiceType;
use tokio::time::Instant;

use super::{Hedge, Levels};
use crate::{Condition, PeerView, error::Phase};

/// How often gauges are set.
pub(crate) const OBSERVED_EVERY: Option<Duration> = Some(Duration::from_secs(5));

const PICKS: &str = "peerage.client.picks";
const OUTCOMES: &str = "peerage.client.outcomes";
const EJECTIONS: &str = "peerage.client.ejections";
const EJECTIONS_SKIPPED: &str = "peerage.client.ejections_skipped";
const PROBES: &str = "peerage.client.probes";
const RESENDS: &str = "peerage.client.resends";
const RESENDS_REFUSED: &str = "peerage.client.resends_refused";
const HEDGES: &str = "peerage.client.hedges";
const DEADLINE_EXCEEDED: &str = "peerage.client.deadline_exceeded";
const PANIC_PICKS: &str = "peerage.client.panic_picks";
const GUARDED_REMOVALS: &str = "peerage.client.guarded_removals";
const PEERS: &str = "peerage.client.peers";
const PENDING: &str = "peerage.client.pending";
const ESTIMATE: &str = "peerage.client.estimate";
const SUCCESS_RATIO: &str = "peerage.client.success_ratio";
const BUDGET_BALANCE: &str = "peerage.client.budget_balance";
const RESPONSE: &str = "peerage.client.response.duration";
const PICK: &str = "peerage.client.pick.duration";
const ATTEMPTS: &str = "peerage.client.attempts_per_call";

/// One pick in two to the power of so much is timed: two readings of the clock cost as much as a pick.
const PICKS_TIMED_LOG: u32 = 6;

const SERVICE: &str = "peerage.service_type";
const NODE: &str = "peerage.node_id";

/// What is counted for a client.
pub(crate) struct Meters {
    service: SharedString,
    policy: &'static str,
    own_zone: Option<Arc<str>>,
    /// Without zones, in the own one, in another one.
    picks: [OnceLock<Counter>; 3],
    /// By [`RESENT`].
    resends: [OnceLock<Counter>; RESENT.len()],
    refusals: [OnceLock<Counter>; REFUSED.len()],
    hedges: [OnceLock<Counter>; 3],
    lates: [OnceLock<Counter>; WHERE.len()],
    response: OnceLock<Histogram>,
    pick: OnceLock<Histogram>,
    attempts: OnceLock<Histogram>,
}

/// Why a call was sent again: how far it had come, and the status if it was answered.
const RESENT: [(&str, &str); 12] = [
    ("answered", "200"),
    ("not_sent", ""),
    ("stale", ""),
    ("ambiguous", ""),
    ("answered", "408"),
    ("answered", "421"),
    ("answered", "425"),
    ("answered", "429"),
    ("answered", "500"),
    ("answered", "502"),
    ("answered", "503"),
    ("answered", "504"),
];
const REFUSED: [&str; 5] = ["budget", "deadline", "body", "method", "told"];
const ZONES: [&str; 3] = ["none", "own", "other"];
const WHERE: [&str; 4] = ["connect", "head", "body", "request_body"];
const HEDGED: [&str; 3] = ["won", "lost", "refused"];

impl Meters {
    pub(crate) fn new(service: &ServiceType, policy: Option<Policy>, own_zone: Option<Arc<str>>) -> Self {
        describe();
        Self {
            service: service.to_string().into(),
            policy: policy.map_or("picker", Policy::as_str),
            own_zone,
            picks: Default::default(),
            resends: Default::default(),
            refusals: Default::default(),
            hedges: Default::default(),
            lates: Default::default(),
            response: OnceLock::new(),
            pick: OnceLock::new(),
            attempts: OnceLock::new(),
        }
    }

    pub(crate) fn of_peer(&self, node_id: &str) -> PeerMeters {
        PeerMeters { node_id: node_id.to_owned().into(), outcomes: Default::default() }
    }

    /// Begins to time one pick in 64, by what the clock said: that is chance enough and writes nothing down.
    pub(crate) fn time_pick(&self, now: u64) -> Option<Instant> {
        const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
        (now.wrapping_mul(GOLDEN) >> (u64::BITS - PICKS_TIMED_LOG)).eq(&0).then(Instant::now)
    }

    pub(crate) fn timed_pick(&self, began: Option<Instant>) {
        if let Some(began) = began {
            let histogram = self.pick.get_or_init(|| metrics::histogram!(PICK, self.labels(&[])));
            histogram.record(began.elapsed().as_secs_f64());
        }
    }

    pub(crate) fn picked(&self, zone: Option<&str>) {
        let place = match &self.own_zone {
            None => 0,
            Some(own) if zone == Some(own) => 1,
            Some(_) => 2,
        };
        self.count(
            &self.picks,
            place,
            PICKS,
            &[("peerage.policy", self.policy), ("peerage.zone", at(&ZONES, place))],
        );
    }

    pub(crate) fn resent(&self, event: Event) {
        let (stage, status) = match event {
            Event::NotSent => ("not_sent", None),
            Event::Stale => ("stale", None),
            Event::Answered { status, .. } => ("answered", Some(status)),
            Event::AnsweredGrpc { .. } => ("answered", Some(200)),
            _ => ("ambiguous", None),
        };
        let is_it = |(its_stage, its_status): &(&str, &str)| {
            *its_stage == stage && status.is_none_or(|status| its_status.parse() == Ok(status))
        };
        let Some(place) = RESENT.iter().position(is_it) else { return };
        let status = RESENT.get(place).map_or("", |(_, status)| status);
        self.count(
            &self.resends,
            place,
            RESENDS,
            &[("peerage.stage", stage), ("http.response.status_code", status)],
        );
    }

    /// A call is not sent again though there was something left to try.
    pub(crate) fn refused(&self, reason: StopReason, is_idempotent: bool) {
        let place = match reason {
            StopReason::BudgetUsedUp => 0,
            StopReason::DeadlineTooClose | StopReason::RetryAfterTooLong => 1,
            StopReason::NotRepeatable if is_idempotent => 2,
            StopReason::NotRepeatable => 3,
            StopReason::ToldNotTo => 4,
            _ => return,
        };
        self.count(&self.refusals, place, RESENDS_REFUSED, &[("reason", at(&REFUSED, place))]);
    }

    pub(crate) fn hedged(&self, what: Hedge) {
        let place = what as usize;
        self.count(&self.hedges, place, HEDGES, &[("result", at(&HEDGED, place))]);
    }

    pub(crate) fn late(&self, phase: Phase) {
        let place = match phase {
            Phase::Connect => 0,
            Phase::Head => 1,
            Phase::Body => 2,
            Phase::RequestBody => 3,
        };
        self.count(&self.lates, place, DEADLINE_EXCEEDED, &[("where", at(&WHERE, place))]);
    }

    /// A call ended after so many attempts.
    pub(crate) fn ended(&self, attempts: usize) {
        let histogram = self.attempts.get_or_init(|| metrics::histogram!(ATTEMPTS, self.labels(&[])));
        histogram.record(attempts as f64);
    }

    /// So many peers are kept though the source lost them.
    pub(crate) fn guarded(&self, peers: usize) {
        metrics::counter!(GUARDED_REMOVALS, self.labels(&[])).increment(peers as u64);
    }

    /// Something happened to a peer: rare, so nothing is kept for it.
    pub(crate) fn noticed(&self, notice: &Notice) {
        let node = || notice.key.as_ref().map_or("", |key| key.as_str()).to_owned();
        match notice.what {
            What::Ejected { rule, .. } => {
                let mut labels = self.labels(&[("rule", rule.as_str())]);
                labels.push(Label::new(NODE, node()));
                metrics::counter!(EJECTIONS, labels).increment(1);
                if rule == Rule::Probe {
                    metrics::counter!(PROBES, self.labels(&[("result", "failed")])).increment(1);
                }
            }
            What::SparedByGuard => self.skipped("guard"),
            What::SparedByCap => self.skipped("cap"),
            What::Back => metrics::counter!(PROBES, self.labels(&[("result", "succeeded")])).increment(1),
            _ => {}
        }
    }

    fn skipped(&self, reason: &'static str) {
        metrics::counter!(EJECTIONS_SKIPPED, self.labels(&[("reason", reason)])).increment(1);
    }

    /// Sets the gauges. Not on the path of a call: the client does it every few seconds.
    pub(crate) fn observe(&self, peers: &[PeerView], levels: &Levels) {
        metrics::counter!(PANIC_PICKS, self.labels(&[])).absolute(levels.panic_picks);
        if let Some(left) = levels.resends_left {
            metrics::gauge!(BUDGET_BALANCE, self.labels(&[])).set(left);
        }
        for condition in Condition::ALL {
            let count = peers.iter().filter(|peer| peer.condition == condition).count();
            metrics::gauge!(PEERS, self.labels(&[("state", condition.as_str())])).set(count as f64);
        }
        for peer in peers {
            self.observe_peer(peer);
        }
    }

    fn observe_peer(&self, view: &PeerView) {
        let gauge = |name: &'static str| -> Gauge {
            let mut labels = self.labels(&[]);
            labels.push(Label::new(NODE, view.peer.node_id().to_owned()));
            metrics::gauge!(name, labels)
        };
        gauge(PENDING).set(f64::from(view.in_flight));
        gauge(ESTIMATE).set(view.estimate.as_secs_f64());
        gauge(SUCCESS_RATIO).set(view.success_ratio);
    }

    fn count(
        &self,
        counters: &[OnceLock<Counter>],
        place: usize,
        name: &'static str,
        labels: &[(&'static str, &'static str)],
    ) {
        if let Some(counter) = counters.get(place) {
            counter.get_or_init(|| metrics::counter!(name, self.labels(labels))).increment(1);
        }
    }

    fn labels(&self, more: &[(&'static str, &'static str)]) -> Vec<Label> {
        let own = Label::new(SERVICE, self.service.clone());
        let more = more.iter().filter(|(_, value)| !value.is_empty());
        std::iter::once(own).chain(more.map(|(name, value)| Label::from_static_parts(name, value))).collect()
    }
}

/// What is counted for a peer.
pub(crate) struct PeerMeters {
    node_id: SharedString,
    /// By class, in the order of [`class`].
    outcomes: [OnceLock<Counter>; 8],
}

impl PeerMeters {
    /// An attempt ended; `took` from the request to the head of the answer, in nanoseconds.
    pub(crate) fn ended(&self, meters: &Meters, outcome: Outcome, took: Option<u64>) {
        if let Some(counter) = self.outcomes.get(class(outcome)) {
            let counter = counter.get_or_init(|| {
                let mut labels = meters.labels(&[("peerage.outcome", outcome.as_str())]);
                labels.push(Label::new(NODE, self.node_id.clone()));
                metrics::counter!(OUTCOMES, labels)
            });
            counter.increment(1);
        }
        if let Some(took) = took {
            let histogram = meters.response.get_or_init(|| metrics::histogram!(RESPONSE, meters.labels(&[])));
            histogram.record(took as f64 / 1e9);
        }
    }
}

const fn class(outcome: Outcome) -> usize {
    match outcome {
        Outcome::Success => 0,
        Outcome::Ignored => 1,
        Outcome::Soft => 2,
        Outcome::Hard => 3,
        Outcome::Dial => 4,
        Outcome::Throttled => 5,
        Outcome::Identity => 6,
        _ => 7,
    }
}

fn at(words: &[&'static str], place: usize) -> &'static str {
    words.get(place).copied().unwrap_or_default()
}

/// What each name means, for recorders that keep that.
fn describe() {
    metrics::describe_counter!(PICKS, "picks of a peer, one per attempt");
    metrics::describe_counter!(OUTCOMES, "attempts by how they ended, one peer at a time");
    metrics::describe_counter!(EJECTIONS, "peers taken out after failures");
    metrics::describe_counter!(
        EJECTIONS_SKIPPED,
        "peers not taken out, because all fail or too many are out"
    );
    metrics::describe_counter!(PROBES, "calls that found out whether a peer works again");
    metrics::describe_counter!(RESENDS, "attempts after the first, by why");
    metrics::describe_counter!(RESENDS_REFUSED, "attempts that were not made, by why");
    metrics::describe_counter!(HEDGES, "second copies of late calls");
    metrics::describe_counter!(DEADLINE_EXCEEDED, "calls whose time was over");
    metrics::describe_counter!(PANIC_PICKS, "picks while most peers were out");
    metrics::describe_counter!(GUARDED_REMOVALS, "peers that are kept though most were lost at once");
    metrics::describe_gauge!(PEERS, "peers by what is going on with them");
    metrics::describe_gauge!(PENDING, "calls of a peer that run");
    metrics::describe_gauge!(ESTIMATE, Unit::Seconds, "how long a peer is expected to take to answer");
    metrics::describe_gauge!(SUCCESS_RATIO, "the part of the calls of a peer that succeed lately");
    metrics::describe_gauge!(BUDGET_BALANCE, "calls that could be sent again now");
    metrics::describe_histogram!(RESPONSE, Unit::Seconds, "from a request to the head of its answer");
    metrics::describe_histogram!(PICK, Unit::Seconds, "to pick a peer; one pick in 64 is timed");
    metrics::describe_histogram!(ATTEMPTS, "attempts of a call");
}

impl fmt::Debug for Meters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meters").field("service", &self.service).finish_non_exhaustive()
    }
}

impl fmt::Debug for PeerMeters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerMeters")
    }
}
