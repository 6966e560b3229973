//! `clienthttp`: what finding, picking and retrying cost beside the exchange itself.
//!
//! Three servers, a client that knows them by discovery, and by hand the client of the wire with one
//! connection pool for each, all in this process. The two take turns in short rounds and the median of the
//! ratios of the rounds is shown, so that a noisy neighbour hits both.
//!
//! By hand nobody tells the server who calls and how much time is left, which it has to read. The last row has
//! the same headers on both sides: what is left there is the client alone. The target is that of the others.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::clienthttp_calls::Calls;
use crate::machine::Machine;
use crate::{BoxError, figures};

const CONNECTIONS: [usize; 3] = [1, 16, 64];
const ROUND: Duration = Duration::from_millis(500);
const ROUNDS: usize = 21;
/// What the whole client may add at 64 connections.
const MOST_ADDED: f64 = 0.05;

/// Prints the table.
///
/// # Errors
///
/// When the target was missed, beside what cannot be started.
pub(crate) fn run() -> Result<(), BoxError> {
    let Machine { cpu, cores, kernel, commit } = Machine::here();
    println!("{cpu}, {cores} cores, Linux {kernel}; commit {commit}");
    println!("{ROUNDS} pairs of rounds of {ROUND:?}; medians");
    println!(
        "{:>5}{:>12}{:>12}{:>10}{:>14}{:>14}{:>10}",
        "conns", "by hand/s", "whole/s", "ratio", "by hand µs", "whole µs", "ratio"
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut at_most = f64::INFINITY;
    for connections in CONNECTIONS {
        let by_hand = |calls: Calls| async move { calls.by_hand(false).await };
        let [rates, costs] = runtime.block_on(compare(connections, by_hand))?;
        print_row(&connections.to_string(), &rates, &costs);
        at_most = rates.ratio;
    }
    if let Some(&most) = CONNECTIONS.last() {
        let telling = |calls: Calls| async move { calls.by_hand(true).await };
        let [rates, costs] = runtime.block_on(compare(most, telling))?;
        print_row(&format!("{most} ="), &rates, &costs);
    }
    if let [by_hand, whole] = *figures::allocations("clienthttp")?.as_slice() {
        println!(
            "allocations of a call, client and server: by hand {:.1}, whole {:.1}",
            by_hand as f64 / 1e3,
            whole as f64 / 1e3
        );
    }
    let met = at_most >= 1.0 - MOST_ADDED;
    println!(
        "calls a second at 64 connections: {:.1} % fewer, target ≤ {:.0} %: {}",
        (1.0 - at_most) * 100.0,
        MOST_ADDED * 100.0,
        if met { "met" } else { "MISSED" }
    );
    if met { Ok(()) } else { Err("a target was missed".into()) }
}

fn print_row(name: &str, rates: &Compared, costs: &Compared) {
    println!(
        "{name:>5}{:>12.0}{:>12.0}{:>10.3}{:>14.1}{:>14.1}{:>10.3}",
        rates.by_hand, rates.whole, rates.ratio, costs.by_hand, costs.whole, costs.ratio
    );
}

struct Compared {
    by_hand: f64,
    whole: f64,
    /// The median of the ratios, which is not the ratio of the medians.
    ratio: f64,
}

impl Compared {
    fn of(pairs: &[(f64, f64)]) -> Self {
        Self {
            by_hand: median(pairs.iter().map(|pair| pair.0)),
            whole: median(pairs.iter().map(|pair| pair.1)),
            ratio: median(pairs.iter().map(|(by_hand, whole)| whole / by_hand)),
        }
    }
}

/// Calls a second, and microseconds of all processors for a call.
async fn compare<F>(
    connections: usize,
    by_hand: impl Fn(Calls) -> F + Copy + Send + 'static,
) -> Result<[Compared; 2], BoxError>
where
    F: Future<Output = Result<(), BoxError>> + Send,
{
    let calls = Calls::new(connections).await?;
    let whole = |calls: Calls| async move { calls.whole().await };
    // Connections come up.
    round(connections, &calls, by_hand).await?;
    round(connections, &calls, whole).await?;
    let (mut rates, mut costs) = (Vec::new(), Vec::new());
    for number in 0..ROUNDS {
        // Who comes second may find the machine warmer.
        let (a, b) = if number % 2 == 0 {
            let a = round(connections, &calls, by_hand).await?;
            (a, round(connections, &calls, whole).await?)
        } else {
            let b = round(connections, &calls, whole).await?;
            (round(connections, &calls, by_hand).await?, b)
        };
        rates.push((a.rate, b.rate));
        costs.push((a.cost, b.cost));
    }
    Ok([Compared::of(&rates), Compared::of(&costs)])
}

struct Figures {
    rate: f64,
    cost: f64,
}

/// Calls from as many tasks as connections.
async fn round<F>(
    connections: usize,
    calls: &Calls,
    call: impl Fn(Calls) -> F + Copy + Send + 'static,
) -> Result<Figures, BoxError>
where
    F: Future<Output = Result<(), BoxError>> + Send,
{
    let (began, cpu_before) = (Instant::now(), cpu());
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let calls = calls.clone();
        tasks.spawn(async move {
            let mut count = 0_u64;
            while began.elapsed() < ROUND {
                call(calls.clone()).await?;
                count += 1;
            }
            Ok::<_, BoxError>(count)
        });
    }
    let mut count = 0;
    while let Some(done) = tasks.join_next().await {
        count += done??;
    }
    let count = count as f64;
    Ok(Figures { rate: count / began.elapsed().as_secs_f64(), cost: (cpu() - cpu_before) / count })
}

/// The processor time of this process in microseconds, in steps of 10 ms.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the name, which may hold blanks: fields 14 and 15.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().skip(11).take(2);
    fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() * 10_000.0
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
