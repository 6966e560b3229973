//! `soak`: what callers notice while peers die, freeze, vanish from the network and refuse.
//!
//! Three peers, each a process of its own, and a client that sends them a fixed number of calls a second,
//! whatever becomes of these. One peer after the other has a fault for some seconds and is healed. All calls
//! are GET: the client may send them again, so that none has to fail.
//!
//! The client has its defaults, and 250 ms for an attempt, without which the few calls that are on a peer when
//! it falls silent wait until it goes on. `--per-try none` is with nothing configured at all.
//!
//! The p99 during a fault is compared with that of all time before faults in the run: a scheduler that loses
//! 10 ms now and then makes that of eight seconds differ from that of the next eight by more than a fault does.
//!
//! A call's time counts from when it was due, so that a client that falls behind cannot hide it.

mod load;
mod peer;

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use hdrhistogram::Histogram;
use peerage_clienthttp::{Client, HedgePolicy, Policy};
use peerage_discovery::{StaticDiscovery, StaticPeer};
use tokio::time::{Instant, sleep_until};

use self::load::{Call, Load, quantile};
pub(crate) use self::peer::serve as peer;
use self::peer::{Fault, Peer};
use crate::machine::{Machine, memory};
use crate::{BoxError, USAGE};

const NAMES: [&str; 3] = ["billing-1", "billing-2", "billing-3"];
/// One fault in a soak of two minutes: as it was before, with the fault, and healed. Peers that are out stay
/// out longer with each probe that fails, so how soon one is back depends on how long it was gone.
const BEFORE: Duration = Duration::from_secs(8);
const DURING: Duration = Duration::from_secs(6);
const AFTER: Duration = Duration::from_secs(16);
/// Connections come up and the client learns how fast its peers are.
const WARM_UP: Duration = Duration::from_secs(2);

/// In µs; a call takes at most its 30 s.
const MOST_TOOK: u64 = 60_000_000;
/// During a fault the slowest percent may be so many times slower than before.
const MOST_SLOWER: f64 = 3.0;
/// A healed peer has half of its share again by then.
const BACK_IN: Duration = Duration::from_secs(10);
/// Its share is looked at over so long, every tenth of that.
const LOOK: Duration = Duration::from_millis(500);

struct Plan {
    rounds: u32,
    /// What the times above are multiplied by.
    scale: f64,
    rate: u32,
    settings: Settings,
}

/// How the client is configured, beside its defaults.
struct Settings {
    policy: Option<Policy>,
    per_try: Option<Duration>,
    hedge: bool,
}

impl Plan {
    fn parse(args: &[String]) -> Result<Self, BoxError> {
        let mut minutes = 2.0_f64;
        let mut plan = Self {
            rounds: 1,
            scale: 1.0,
            rate: 2_000,
            settings: Settings { policy: None, per_try: Some(Duration::from_millis(250)), hedge: false },
        };
        let mut args = args.iter().map(String::as_str);
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(USAGE);
            match arg {
                "--minutes" => minutes = value()?.parse()?,
                "--rate" => plan.rate = value()?.parse::<u32>()?.clamp(1, 1_000_000),
                "--per-try" => {
                    plan.settings.per_try = match value()? {
                        "none" => None,
                        millis => Some(Duration::from_millis(millis.parse()?)),
                    };
                }
                "--hedge" => plan.settings.hedge = true,
                "--policy" => {
                    plan.settings.policy = match value()? {
                        "default" => None,
                        "peak_ewma" => Some(Policy::PeakEwma),
                        "least_loaded" => Some(Policy::LeastLoaded),
                        "round_robin" => Some(Policy::RoundRobin),
                        _ => return Err(USAGE.into()),
                    };
                }
                _ => return Err(USAGE.into()),
            }
        }
        if !(0.1..=1_440.0).contains(&minutes) {
            return Err("--minutes: 0.1 to 1440".into());
        }
        // Longer soaks have more faults, not longer ones.
        plan.rounds = ((minutes / 2.0) as u32).max(1);
        plan.scale = minutes / 2.0 / f64::from(plan.rounds);
        Ok(plan)
    }
}

/// Prints the table.
///
/// # Errors
///
/// When a target was missed, beside what cannot be started.
pub(crate) fn run(args: &[String]) -> Result<(), BoxError> {
    let plan = Plan::parse(args)?;
    let Machine { cpu, cores, kernel, commit } = Machine::here();
    println!("{cpu}, {cores} cores, Linux {kernel}; commit {commit}");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(soak(&plan))
}

async fn soak(plan: &Plan) -> Result<(), BoxError> {
    let mut peers = NAMES.iter().map(|name| Peer::start(name)).collect::<Result<Vec<_>, _>>()?;
    let list = peers.iter().map(|peer| StaticPeer::new(peer.addr).node_id(peer.name.as_str()));
    let mut client = Client::builder_with(StaticDiscovery::new("billing", list)?);
    if let Some(policy) = plan.settings.policy {
        client = client.balance(policy);
    }
    if let Some(limit) = plan.settings.per_try {
        client = client.per_try_timeout(limit);
    }
    if plan.settings.hedge {
        client = client.hedge(HedgePolicy::default());
    }
    let client = client.build().await?;
    let policy = plan.settings.policy.map_or("the default policy", Policy::as_str);
    let per_try = plan.settings.per_try.map_or_else(|| "no limit".to_owned(), |limit| format!("{limit:?}"));
    println!(
        "{} calls/s over {} peers for {:.1} min; {policy}, {per_try} for an attempt, {}",
        plan.rate,
        peers.len(),
        2.0 * plan.scale * f64::from(plan.rounds),
        if plan.settings.hedge { "hedged" } else { "not hedged" },
    );
    let load = Load::start(client.clone(), NAMES.map(str::to_owned).into(), plan.rate);
    let (mut trials, mut spans) = (Vec::new(), VecDeque::new());
    let mut calm = Histogram::<u32>::new_with_max(MOST_TOOK, 3)?;
    let mut watch = Watch { load: &load, client: &client, seen: Duration::ZERO, now: String::new() };
    watch.until(WARM_UP).await;
    for _ in 0..plan.rounds {
        for (fault, victim) in Fault::ALL.into_iter().zip((0..peers.len()).cycle()) {
            let peer = peers.get_mut(victim).ok_or("three peers")?;
            spans.push_back(one(plan.scale, peer, (fault, victim), &mut watch).await?);
            // A call of the one before may run until now, but not longer.
            if spans.len() > 1 {
                trials.extend(spans.pop_front().map(|span| Trial::of(&span, &load, &mut calm)));
            }
        }
    }
    load.stop();
    let begun = load.now();
    while load.running() > 0 && load.now() < begun + Duration::from_secs(35) {
        watch.until(load.now() + Duration::from_millis(100)).await;
    }
    let unfinished = load.running();
    trials.extend(spans.iter().map(|span| Trial::of(span, &load, &mut calm)));
    load.join()?;
    report(&trials, Duration::from_micros(calm.value_at_quantile(0.99).max(1)), unfinished)
}

/// When one fault was, after the start of the load.
struct Span {
    fault: Fault,
    victim: usize,
    from: Duration,
    struck: Duration,
    healed: Duration,
    until: Duration,
}

async fn one(
    scale: f64,
    peer: &mut Peer,
    (fault, victim): (Fault, usize),
    watch: &mut Watch<'_>,
) -> Result<Span, BoxError> {
    let [before, during, after] = [BEFORE, DURING, AFTER].map(|time| time.mul_f64(scale));
    let from = watch.load.now();
    watch.now = "all well".to_owned();
    watch.until(from + before).await;
    let struck = watch.load.now();
    peer.strike(fault)?;
    watch.now = format!("{} {}", peer.name, fault.as_str());
    watch.until(struck + during).await;
    peer.heal(fault)?;
    let healed = watch.load.now();
    watch.now = format!("{} healed", peer.name);
    watch.until(healed + after).await;
    Ok(Span { fault, victim, from, struck, healed, until: watch.load.now() })
}

/// What callers noticed of one fault.
struct Trial {
    fault: Fault,
    peer: &'static str,
    calls: usize,
    failed: usize,
    resent: usize,
    /// Before, during and after.
    p99: [Duration; 3],
    worst: Duration,
    /// After healing: the first answer, and half of a peer's share.
    answers: Option<Duration>,
    back: Option<Duration>,
}

impl Trial {
    /// The times of the calls before the fault also go to `calm`, in µs.
    fn of(span: &Span, load: &Load, calm: &mut Histogram<u32>) -> Self {
        let &Span { fault, victim, from, struck, healed, until } = span;
        let parts = [(from, struck), (struck, healed), (healed, until)].map(|(a, b)| load.calls(a, b));
        load.forget(until);
        let [before, ..] = &parts;
        for call in before {
            calm.saturating_record(call.took.as_micros().try_into().unwrap_or(u64::MAX));
        }
        let all: Vec<Call> = parts.iter().flatten().copied().collect();
        let [.., after] = &parts;
        let answers = after.iter().filter(|call| call.is_from(victim)).map(|call| call.due + call.took).min();
        Self {
            fault,
            peer: NAMES.get(victim).copied().unwrap_or_default(),
            calls: all.len(),
            failed: all.iter().filter(|call| call.failed()).count(),
            resent: all.iter().filter(|call| call.was_resent()).count(),
            p99: parts.each_ref().map(|calls| quantile(calls, 0.99)),
            worst: all.iter().map(|call| call.took).max().unwrap_or_default(),
            answers: answers.map(|at| at.saturating_sub(healed)),
            back: back(after, victim, healed, until).map(|at| at.saturating_sub(healed)),
        }
    }

    /// How much slower the slowest percent was than that of all time before faults.
    fn ratio(&self, calm: Duration) -> f64 {
        let [_, during, _] = self.p99;
        during.as_secs_f64() / calm.as_secs_f64()
    }
}

/// When the peer had half of its share again, looked at over [`LOOK`].
fn back(calls: &[Call], peer: usize, healed: Duration, until: Duration) -> Option<Duration> {
    let ends = (0_u32..).map(|step| healed + LOOK + LOOK / 10 * step).take_while(|end| *end <= until);
    ends.into_iter().find(|&end| {
        let seen = calls.iter().filter(|call| (end - LOOK..end).contains(&call.due));
        let (ours, all) =
            seen.fold((0, 0), |(ours, all), call| (ours + usize::from(call.is_from(peer)), all + 1));
        all > 0 && ours * 2 * NAMES.len() >= all
    })
}

/// Shows each second what happened in it.
struct Watch<'l> {
    load: &'l Load,
    client: &'l Client,
    seen: Duration,
    now: String,
}

impl Watch<'_> {
    async fn until(&mut self, end: Duration) {
        loop {
            let next = self.seen + Duration::from_secs(1);
            let wake = next.min(end);
            sleep_until(Instant::now() + wake.saturating_sub(self.load.now())).await;
            if next > end {
                return;
            }
            self.show(next);
            self.seen = next;
        }
    }

    fn show(&self, until: Duration) {
        let calls = self.load.calls(self.seen, until);
        let failed = calls.iter().filter(|call| call.failed()).count();
        let resent = calls.iter().filter(|call| call.was_resent()).count();
        let shares = (0..NAMES.len()).map(|peer| calls.iter().filter(|call| call.is_from(peer)).count());
        let shares: Vec<_> = shares.map(|count| count.to_string()).collect();
        let mut line = format!(
            "{:>5} s  {:<22} {:>5} calls ({}), p99 {:>8.2?}, {resent} resent, {failed} failed, {} running, {} MiB, {} files",
            until.as_secs(),
            self.now,
            calls.len(),
            shares.join("+"),
            quantile(&calls, 0.99),
            self.load.running(),
            memory().0 / 1024,
            fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
        );
        for (due, text) in self.load.texts() {
            let _ = write!(line, "\n         failed, due at {:.3} s: {text}", due.as_secs_f64());
        }
        if failed > 0 {
            let _ = write!(line, "\n{}", self.client.explain());
        }
        eprintln!("{line}");
    }
}

fn report(trials: &[Trial], calm: Duration, unfinished: usize) -> Result<(), BoxError> {
    println!(
        "\n{:<24}{:>8}{:>8}{:>8}{:>11}{:>11}{:>8}{:>11}{:>11}{:>10}{:>9}",
        "fault",
        "calls",
        "failed",
        "resent",
        "p99 before",
        "during",
        "ratio",
        "after",
        "worst",
        "answers",
        "back"
    );
    let seconds = |time: Option<Duration>| {
        time.map_or_else(|| "never".to_owned(), |time| format!("{:.1} s", time.as_secs_f64()))
    };
    for trial in trials {
        let [before, during, after] = trial.p99;
        println!(
            "{:<24}{:>8}{:>8}{:>8}{:>11}{:>11}{:>8.2}{:>11}{:>11}{:>10}{:>9}",
            format!("{} {}", trial.peer, trial.fault.as_str()),
            trial.calls,
            trial.failed,
            trial.resent,
            format!("{before:.2?}"),
            format!("{during:.2?}"),
            trial.ratio(calm),
            format!("{after:.2?}"),
            format!("{:.1?}", trial.worst),
            seconds(trial.answers),
            seconds(trial.back),
        );
    }
    let failed: usize = trials.iter().map(|trial| trial.failed).sum::<usize>() + unfinished;
    let slower = trials.iter().map(|trial| trial.ratio(calm)).fold(0.0, f64::max);
    // Never is longer than any time.
    let back = trials.iter().map(|trial| trial.back.unwrap_or(Duration::MAX)).max().unwrap_or_default();
    let rows = [
        ("idempotent calls that failed", failed.to_string(), "0".to_owned(), failed == 0),
        (
            "p99 during a fault / before all",
            format!("{slower:.2}"),
            format!("≤ {MOST_SLOWER}"),
            slower <= MOST_SLOWER,
        ),
        (
            "half of its traffic back after",
            seconds(Some(back).filter(|back| *back < Duration::MAX)),
            format!("≤ {BACK_IN:?}"),
            back <= BACK_IN,
        ),
    ];
    println!("p99 of all time before faults: {calm:.2?}");
    println!("\n{:<34}{:>12}{:>10}{:>6}", "worst of all", "measured", "target", "met");
    for (what, measured, target, met) in &rows {
        println!("{what:<34}{measured:>12}{target:>10}{:>6}", if *met { "yes" } else { "NO" });
    }
    if rows.iter().all(|(.., met)| *met) { Ok(()) } else { Err("a target was missed".into()) }
}
