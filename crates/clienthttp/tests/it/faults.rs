//! The network faults N01 to N18 under a call through discovery with retries (W3): one peer of two has the
//! fault, the other is well. Each cell says how it ends; each ends in time.

use std::{net::SocketAddr, time::Duration};

use axum::Router;
use bytes::Bytes;
use futures_util::StreamExt;
use http::Method;
use peerage_clienthttp::{Client, ClientError, Policy};
use peerage_tests::{BlackHole, Direction, FaultProxy, Plan, Refuser, cut_points};
use tokio::time::{Instant, timeout};

use crate::kit::{Peer, at, fixed};

/// What an attempt may take, and so what each cell with a silent peer does take. The other peer needs next to
/// nothing of it, on any machine.
const PER_TRY: Duration = Duration::from_secs(5);
/// What a call may take.
const CALL: Duration = Duration::from_secs(30);
/// What a cell may take: its two calls, and slack.
const CELL: Duration = Duration::from_secs(90);
/// Cells at once: nearly all of their time they wait.
const AT_ONCE: usize = 64;

/// How the call through the faulty peer ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    /// The right answer, from the peer with the fault.
    Answer,
    /// The right answer, from the other one.
    Moved,
    /// An error that says that the outcome is unknown.
    Unknown,
    /// An error of time.
    Timeout,
    /// The peer broke the protocol.
    Protocol,
    /// The body of the answer was cut.
    Body,
}

struct Cell {
    end: End,
    /// Requests that reached the handlers of both peers.
    handled: usize,
}

async fn echo(id: &str) -> Peer {
    Peer::serve(id, Router::new().fallback(async |body: Bytes| body)).await
}

/// Calls until one went to the faulty peer first, and tells how that one ended.
async fn cell(method: Method, faulty: SocketAddr, behind: &Peer) -> Cell {
    let good = echo("billing-2").await;
    let list = [at("billing-1", faulty), at("billing-2", good.addr())];
    let client = Client::builder_with(fixed(list))
        .balance(Policy::RoundRobin)
        .request_timeout(CALL)
        .per_try_timeout(PER_TRY)
        .connect_timeout(PER_TRY)
        .rng_seed(1)
        .build()
        .await
        .unwrap();
    for _ in 0..2 {
        let before = behind.seen.count() + good.seen.count();
        let sent = client.request(method.clone(), "/").body(vec![b'x'; 100]).send();
        let (first, end) = match timeout(CELL, sent).await.expect("a call ends") {
            Ok(answer) => {
                let first = answer.attempts().unwrap().iter().next().unwrap().peer.node_id().to_owned();
                let moved = answer.peer().unwrap().node_id() == "billing-2";
                let body = timeout(CELL, answer.bytes()).await.expect("a body ends");
                match body {
                    Ok(body) => {
                        assert_eq!(body, vec![b'x'; 100], "never a wrong answer");
                        (first, if moved { End::Moved } else { End::Answer })
                    }
                    Err(_) => (first, End::Body),
                }
            }
            Err(error) => {
                let first = error.attempts().unwrap().iter().next().unwrap().peer.node_id().to_owned();
                let end = match error {
                    ClientError::OutcomeUnknown { .. } => End::Unknown,
                    ClientError::Timeout { .. } => End::Timeout,
                    ClientError::Protocol { .. } => End::Protocol,
                    other => panic!("{other:?}"),
                };
                (first, end)
            }
        };
        if first == "billing-1" {
            return Cell { end, handled: behind.seen.count() + good.seen.count() - before };
        }
    }
    panic!("two calls in turn, and none went to the faulty peer first");
}

/// One cell with the fault of a plan.
async fn planned(method: Method, plan: Plan) -> Cell {
    let behind = echo("billing-1").await;
    let proxy = FaultProxy::start(behind.addr()).await;
    proxy.plan(plan);
    cell(method, proxy.addr(), &behind).await
}

/// The lengths of the request and the answer of a call, as a proxy without faults tells them.
async fn lengths(method: Method) -> (u64, u64) {
    let behind = echo("billing-1").await;
    let proxy = FaultProxy::start(behind.addr()).await;
    assert_eq!(cell(method, proxy.addr(), &behind).await.end, End::Answer);
    // The answer may be here before the proxy has noted that it passed.
    proxy.wait_ended(0, CELL).await;
    (proxy.passed(0, Direction::Up), proxy.passed(0, Direction::Down))
}

/// Runs the plans, many at a time, for a method that may be repeated and for one that may not.
async fn row(name: &str, plans: Vec<(u64, Plan)>, judge: impl Fn(bool, u64, &Cell) -> bool) {
    let cells =
        plans.into_iter().flat_map(|(k, plan)| [(Method::GET, k, plan.clone()), (Method::POST, k, plan)]);
    let mut running = futures_util::stream::iter(cells)
        .map(async |(method, k, plan)| {
            let began = Instant::now();
            let cell = planned(method.clone(), plan).await;
            assert!(began.elapsed() < CELL, "{name}, k = {k}: {:?}", began.elapsed());
            (method == Method::GET, k, cell)
        })
        .buffer_unordered(AT_ONCE);
    while let Some((repeatable, k, cell)) = running.next().await {
        assert!(
            judge(repeatable, k, &cell),
            "{name}, k = {k}, repeatable {repeatable}: {:?} after {} requests",
            cell.end,
            cell.handled
        );
        if !repeatable {
            assert!(cell.handled <= 1, "{name}, k = {k}: what must not be doubled was");
        }
    }
}

#[tokio::test]
async fn w3_n01_n02_a_peer_that_cannot_be_connected_to_costs_no_call() {
    for method in [Method::GET, Method::POST] {
        let nobody = echo("nobody").await;
        let refused = cell(method.clone(), Refuser::new().addr(), &nobody).await;
        assert_eq!((refused.end, refused.handled), (End::Moved, 1), "N01");
        let hole = BlackHole::new();
        let lost = cell(method, hole.addr(), &nobody).await;
        assert_eq!((lost.end, lost.handled), (End::Moved, 1), "N02");
    }
}

#[tokio::test]
async fn w3_n03_to_n05_a_peer_that_takes_connections_and_nothing_else() {
    row("N03", vec![(0, Plan::n03_silence())], |repeatable, _, cell| {
        cell.end == if repeatable { End::Moved } else { End::Timeout }
    })
    .await;
    // What was written before the close was seen is in the dark, what was not moves on.
    for (name, plan) in [("N04", Plan::n04_close()), ("N05", Plan::n05_reset())] {
        row(name, vec![(0, plan)], |repeatable, _, cell| match cell.end {
            End::Moved => true,
            End::Unknown => !repeatable,
            _ => false,
        })
        .await;
    }
}

#[tokio::test]
async fn w3_n06_to_n08_a_request_that_is_cut() {
    let (up, _) = lengths(Method::GET).await;
    let moved_or_unknown = |repeatable: bool, _: u64, cell: &Cell| match cell.end {
        End::Moved => true,
        End::Unknown => !repeatable,
        // The whole request was through before the cut.
        End::Answer => cell.handled == 1,
        _ => false,
    };
    row("N06", cut_points(up).into_iter().map(|k| (k, Plan::n06_reset_up(k))).collect(), moved_or_unknown)
        .await;
    row(
        "N07",
        cut_points(up).into_iter().map(|k| (k, Plan::n07_half_close_up(k))).collect(),
        moved_or_unknown,
    )
    .await;
    row("N08", vec![(0, Plan::n08_no_answer())], |repeatable, _, cell| {
        cell.end == if repeatable { End::Moved } else { End::Timeout }
    })
    .await;
}

#[tokio::test]
async fn w3_n09_to_n11_an_answer_that_is_cut() {
    let (_, down) = lengths(Method::GET).await;
    let cuts =
        |plan: fn(u64) -> Plan| cut_points(down).into_iter().map(move |k| (k, plan(k))).collect::<Vec<_>>();
    let cut = |repeatable: bool, k: u64, cell: &Cell| match cell.end {
        End::Moved => repeatable && k < down,
        End::Unknown => !repeatable && k < down,
        End::Answer => k == down,
        _ => false,
    };
    row("N09", cuts(Plan::n09_reset_down), |repeatable, k, cell| {
        // A reset may overtake the last bytes.
        cut(repeatable, k, cell) || (k == down && matches!(cell.end, End::Moved | End::Unknown))
    })
    .await;
    row("N10", cuts(Plan::n10_close_down), cut).await;
    row("N11", cuts(Plan::n11_stall_down), |repeatable, k, cell| match cell.end {
        End::Moved => repeatable && k < down,
        End::Timeout => !repeatable && k < down,
        End::Answer => k == down,
        _ => false,
    })
    .await;
}

#[tokio::test]
async fn w3_n12_to_n14_a_slow_network() {
    // 20 ms a byte takes seconds: more than an attempt has.
    let silent = |repeatable: bool, _: u64, cell: &Cell| {
        cell.end == if repeatable { End::Moved } else { End::Timeout }
    };
    let drip = row("N12", vec![(0, Plan::n12_drip())], silent);
    let stop = row("N13", vec![(0, Plan::n13_stop_reading(0))], silent);
    let quick = Plan::n14_latency(Duration::from_millis(5), Duration::from_millis(30));
    let quick = row("N14", vec![(0, quick)], |_, _, cell| cell.end == End::Answer && cell.handled == 1);
    let slow = Plan::n14_latency(2 * PER_TRY, 2 * PER_TRY);
    let slow = row("N14, slow", vec![(0, slow)], silent);
    tokio::join!(drip, stop, quick, slow);
}

#[tokio::test]
async fn w3_n15_to_n18_bytes_that_are_not_as_they_were() {
    let (up, down) = lengths(Method::GET).await;
    // Plaintext has no checksum: lengths and magic are checked, and the fields are what they look like.
    let flips = [0, 3, 4, 8, 12].into_iter().map(|k| (k, Plan::n15_flip(Direction::Down, k))).collect();
    row("N15", flips, |_, _, cell| {
        matches!(cell.end, End::Moved | End::Protocol | End::Unknown | End::Timeout | End::Answer)
    })
    .await;
    let extra = vec![(down, Plan::n16_extra(down, b"extra".to_vec()))];
    row("N16", extra, |_, _, cell| cell.end == End::Answer && cell.handled == 1).await;
    row("N17", vec![(0, Plan::n17_every_byte())], |_, _, cell| cell.end == End::Answer && cell.handled == 1)
        .await;
    let (up, down) = (usize::try_from(up).unwrap(), usize::try_from(down).unwrap());
    row("N17, together", vec![(0, Plan::n17_together(up, down))], |_, _, cell| cell.handled >= 1).await;
    // The first connection is held until a second one is done, which nobody makes: it is a silent peer.
    row("N18", vec![(0, Plan::n18_after_the_next())], |repeatable, _, cell| {
        cell.end == if repeatable { End::Moved } else { End::Timeout }
    })
    .await;
}
