//! Gateways that go: restarted empty, swallowing everything, left in time.

use std::time::Duration;

use peerage_controlclient::Outcome;
use peerage_devgateway::{BlackHole, DevGateway, Rpc};
use tokio::time::Instant;

use super::{builder, print, reaches};
use crate::BoxError;

const RUNS: usize = 20;

/// A gateway that restarts empty: until it lists the client again.
pub(super) async fn restart() -> Result<(), BoxError> {
    for (spread, name) in [(None, "default spread"), (Some(Duration::ZERO), "spread 0")] {
        let mut took = Vec::new();
        for _ in 0..RUNS {
            let gateway = DevGateway::builder().start().await?;
            let mut builder = builder(gateway.addr().to_string(), 41_001).ttl(Duration::from_secs(3));
            if let Some(spread) = spread {
                builder = builder.spread(spread);
            }
            let registration = builder.start().await?;
            gateway.restart(Duration::from_millis(300)).await?;
            let back = Instant::now();
            gateway.wait_for("greeter/v1").await?;
            took.push(back.elapsed());
            registration.shutdown(Duration::from_secs(2)).await;
        }
        print(&format!("restart, TTL 3 s (interval 1 s), {name}"), &mut took);
    }
    Ok(())
}

/// A gateway that swallows everything, from any point of the interval on: until the client says `Suspect`.
pub(super) async fn suspect() -> Result<(), BoxError> {
    for (ttl, interval) in [(3_u32, Duration::from_secs(1)), (30, Duration::from_secs(10))] {
        let ttl_time = Duration::from_secs(ttl.into());
        let runs = (0..RUNS).map(async |run| {
            let gateway = DevGateway::builder().start().await?;
            let registration = builder(gateway.addr().to_string(), 41_001).ttl(ttl_time).start().await?;
            gateway.wait_for_calls(Rpc::Heartbeat, 1).await?;
            // The point of the interval.
            tokio::time::sleep(interval.mul_f64(run as f64 / RUNS as f64)).await;
            gateway.black_hole(BlackHole::All);
            let fell = Instant::now();
            reaches(&mut registration.states(), "suspect").await?;
            let took = fell.elapsed();
            registration.shutdown(Duration::from_millis(100)).await;
            Ok::<_, BoxError>(took)
        });
        let mut took = futures_util::future::try_join_all(runs).await?;
        // An interval has a jitter of a tenth.
        let most = ttl_time / 10 + interval.mul_f64(1.1);
        print(&format!("black hole, TTL {ttl} s: suspect (target {most:.1?})"), &mut took);
    }
    Ok(())
}

/// A gateway that swallows everything: until `shutdown(2 s)` is back.
pub(super) async fn shutdown() -> Result<(), BoxError> {
    for (which, name) in [(BlackHole::Existing, "open connections"), (BlackHole::All, "everything")] {
        let mut took = Vec::new();
        let mut deregistered = 0;
        for _ in 0..RUNS / 2 {
            let gateway = DevGateway::builder().start().await?;
            let registration = builder(gateway.addr().to_string(), 41_001).start().await?;
            gateway.black_hole(which);
            let began = Instant::now();
            let outcome = registration.shutdown(Duration::from_secs(2)).await;
            took.push(began.elapsed());
            deregistered += usize::from(outcome == Outcome::Deregistered);
        }
        print(&format!("shutdown(2 s), black hole for {name}"), &mut took);
        println!("    deregistered all the same: {deregistered} of {}", RUNS / 2);
    }
    Ok(())
}
