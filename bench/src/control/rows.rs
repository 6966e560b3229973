//! Rows of controlplane §7 at their counts, on real connections.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use peerage_controlclient::{Gateway, Outcome, Registration};
use peerage_devgateway::{BlackHole, Code, DevGateway, Rpc};
use tokio::time::Instant;

use super::{builder, print, reaches};
use crate::BoxError;

/// TTL 6 s, open connections swallowed for good: no eviction, no gap between beats over 0.6 of the TTL.
pub(super) async fn cb01() -> Result<(), BoxError> {
    const RUNS: usize = 50;
    const TTL: Duration = Duration::from_secs(6);
    /// Two leases, and the janitor's time.
    const TIME: Duration = Duration::from_secs(20);
    let runs = (0..RUNS).map(async |run| {
        let gateway = DevGateway::builder().start().await?;
        let registration = builder(gateway.addr().to_string(), 41_001).ttl(TTL).start().await?;
        gateway.wait_for_calls(Rpc::Heartbeat, 1).await?;
        // Each run is struck at a point of the interval of its own.
        tokio::time::sleep(Duration::from_secs(2).mul_f64(run as f64 / RUNS as f64)).await;
        gateway.black_hole(BlackHole::Existing);
        // The row asks what happens in that time, whatever comes first.
        tokio::time::sleep(TIME).await;
        let accepted: Vec<Duration> =
            gateway.log().iter().filter(|call| call.rpc == Rpc::Heartbeat).map(|call| call.at).collect();
        let longest = accepted.iter().zip(accepted.iter().skip(1)).map(|(one, next)| *next - *one).max();
        let evictions = registration.snapshot().counters.evictions + gateway.count(Rpc::Register) - 1;
        registration.shutdown(Duration::from_secs(1)).await;
        Ok::<_, BoxError>((evictions, longest.unwrap_or(TIME)))
    });
    let runs = try_join_all(runs).await?;
    let evictions: u64 = runs.iter().map(|(evictions, _)| evictions).sum();
    println!(
        "CB-01 black_hole(existing), TTL 6 s, {RUNS} runs of {TIME:?}: {evictions} evictions (target 0)"
    );
    let mut longest: Vec<Duration> = runs.into_iter().map(|(_, longest)| longest).collect();
    print("    longest gap between accepted beats (target 3.6 s)", &mut longest);
    Ok(())
}

type Fault = (&'static str, fn(&DevGateway));

/// The faults of controlplane §5 that are switched on; restarting and stopping take time and come extra.
const FAULTS: &[Fault] = &[
    ("evict", |gateway| {
        for held in gateway.registrations() {
            gateway.evict(&held.id);
        }
    }),
    ("black_hole(existing)", |gateway| gateway.black_hole(BlackHole::Existing)),
    ("black_hole(all)", |gateway| gateway.black_hole(BlackHole::All)),
    ("delay(all, 10 s)", |gateway| {
        Rpc::ALL.iter().for_each(|rpc| gateway.delay(*rpc, Duration::from_secs(10)));
    }),
    ("lose_answer(all)", |gateway| Rpc::ALL.iter().for_each(|rpc| gateway.lose_answer(*rpc, 9))),
    ("fail_next(all)", |gateway| {
        Rpc::ALL.iter().for_each(|rpc| gateway.fail_next(*rpc, 9, Code::Unavailable, "no"));
    }),
    ("goaway", DevGateway::goaway),
    ("ttl_override(1)", |gateway| gateway.ttl_override(Some(1))),
];

/// `shutdown` is back within its deadline and 100 ms, in each of 200 runs with each fault.
pub(super) async fn cb02() -> Result<(), BoxError> {
    const DEADLINE: Duration = Duration::from_millis(400);
    let within = DEADLINE + Duration::from_millis(100);
    for (name, fault) in FAULTS {
        let took = cb02_runs(DEADLINE, async |gateway| {
            fault(gateway);
            Ok(())
        });
        report(name, within, took.await?);
    }
    report("stop", within, cb02_runs(DEADLINE, async |gateway| Ok(gateway.stop().await?)).await?);
    let restarted = async |gateway: &DevGateway| Ok(gateway.restart(Duration::from_millis(50)).await?);
    report("restart", within, cb02_runs(DEADLINE, restarted).await?);
    Ok(())
}

fn report(name: &str, within: Duration, mut took: Vec<Duration>) {
    let (runs, good) = (took.len(), took.iter().filter(|took| **took <= within).count());
    print(&format!("CB-02 {name}: {good} of {runs} within {within:?}"), &mut took);
}

/// 200 runs, some at a time: the fault comes with a beat in flight, or about to be.
async fn cb02_runs(
    deadline: Duration,
    fault: impl AsyncFn(&DevGateway) -> Result<(), BoxError>,
) -> Result<Vec<Duration>, BoxError> {
    const ROUNDS: usize = 20;
    const AT_ONCE: usize = 10;
    let mut took = Vec::new();
    for _ in 0..ROUNDS {
        let runs = (0..AT_ONCE).map(async |run| {
            let gateway = DevGateway::builder().start().await?;
            let builder = builder(gateway.addr().to_string(), 41_001).ttl(Duration::from_secs(6));
            let registration = builder.heartbeat_interval(Duration::from_millis(100)).start().await?;
            gateway.wait_for_calls(Rpc::Heartbeat, 1).await?;
            fault(&gateway).await?;
            // The closing meets each state that the fault leads to.
            tokio::time::sleep(Duration::from_millis(15) * run as u32).await;
            let began = Instant::now();
            registration.shutdown(deadline).await;
            Ok::<_, BoxError>(began.elapsed())
        });
        took.extend(try_join_all(runs).await?);
    }
    Ok(took)
}

/// Eight shutdowns at once are one deregistration and one outcome, 10,000 times on two threads.
pub(super) fn cb03() -> Result<(), BoxError> {
    const ROUNDS: u64 = 10_000;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let gateway = DevGateway::builder().start().await?;
        let shared = Gateway::new(gateway.addr().to_string());
        let began = Instant::now();
        let mut failures = 0;
        for round in 1..=ROUNDS {
            let registration: Arc<Registration> = Arc::new(builder(shared.clone(), 41_001).start().await?);
            let calls: Vec<_> = (0..8)
                .map(|_| {
                    let registration = registration.clone();
                    tokio::spawn(async move { registration.shutdown(Duration::from_secs(5)).await })
                })
                .collect();
            let mut equal = true;
            for call in calls {
                equal &= call.await? == Outcome::Deregistered;
            }
            failures += u64::from(!equal || gateway.count(Rpc::Deregister) != round);
        }
        println!(
            "CB-03 eight shutdowns at once, {ROUNDS} rounds on two threads in {:.1?}: {failures} failures",
            began.elapsed()
        );
        Ok(())
    })
}

/// 500 clients with a connection each at a gateway that came back empty. Without a spread all come at once,
/// and the time until the last one is back is more than any of them waited for its Register.
pub(super) async fn cb07() -> Result<(), BoxError> {
    const CLIENTS: usize = 500;
    for (spread, name) in [(Some(Duration::ZERO), "spread 0"), (None, "default spread")] {
        let gateway = DevGateway::builder().start().await?;
        let addr = gateway.addr().to_string();
        let starts = (0..CLIENTS).map(async |number| {
            let mut builder = builder(addr.as_str(), 30_000 + number).ttl(Duration::from_secs(9));
            if let Some(spread) = spread {
                builder = builder.spread(spread);
            }
            Ok::<_, BoxError>(builder.start().await?)
        });
        let registrations = try_join_all(starts).await?;
        let connections = gateway.connections();
        let already = gateway.log().len();
        gateway.restart(Duration::from_millis(500)).await?;
        let back = Instant::now();
        gateway.wait_until(|gateway| gateway.registrations().len() == CLIENTS).await?;
        let last = back.elapsed();
        try_join_all(
            registrations.iter().map(async |registration| reaches(&mut registration.states(), "live").await),
        )
        .await?;
        let mut waits: Vec<Duration> = gateway
            .log()
            .iter()
            .skip(already)
            .filter(|call| call.rpc == Rpc::Register)
            .map(|call| call.took)
            .collect();
        println!(
            "CB-07 {CLIENTS} clients on {connections} connections, gateway restarted empty, {name}: all back after {last:.2?} (target without spread: 3 s)"
        );
        print("    a Register in the gateway's hands", &mut waits);
        let ends = registrations.iter().map(|registration| registration.shutdown(Duration::from_secs(5)));
        let outcomes = futures_util::future::join_all(ends).await;
        let odd: Vec<&dyn Debug> = outcomes
            .iter()
            .filter(|outcome| **outcome != Outcome::Deregistered)
            .map(|outcome| outcome as &dyn Debug)
            .collect();
        if !odd.is_empty() {
            return Err(format!("not deregistered: {odd:?}").into());
        }
    }
    Ok(())
}
