//! The network faults N01 to N18 between our client and our server, for a plain answer (W1) and a streamed
//! one (W2). Each cell says how it ends; each ends in time.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use peerage_tests::{BlackHole, Direction, FaultProxy, Pace, Plan, Pump, Refuser, cut_points};
use peerage_zaphttp::{Body, BodyError, Client, SendErrorKind, Server, ServerHandle, Stage};

use crate::kit::serve;

/// What every wait of the client comes to an end after, where only the clock ends it; and elsewhere, where
/// a slow machine is no fault.
const TIMEOUT: Duration = Duration::from_secs(1);
const PATIENT: Duration = Duration::from_secs(20);
/// What a cell may take: more than that hangs.
const CELL: Duration = Duration::from_secs(45);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    W1,
    W2,
}

/// How a cell came out.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The right answer, all of it.
    Answer,
    /// Something else that looks like an answer.
    Wrong,
    Send(SendErrorKind, Stage),
    /// Of the body, with the name of the error.
    Body(&'static str),
}

struct Cell {
    end: End,
    /// How often the handler was called.
    calls: usize,
    /// How often the client connected.
    connections: usize,
    idle: usize,
}

impl fmt::Debug for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { end, calls, connections, idle } = self;
        write!(f, "{end:?}, {calls} calls, {connections} connections, {idle} idle")
    }
}

/// Counts its calls. `/w1` is answered with the body, `/w2` with a stream of the body's halves.
async fn counted() -> (ServerHandle, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let server = serve(Server::builder().write_timeout(TIMEOUT), move |request: Request<Body>| {
        count.fetch_add(1, Ordering::SeqCst);
        async move {
            let streamed = request.uri().path() == "/w2";
            let body = request.into_body().collect().await.unwrap().to_bytes();
            if !streamed {
                return Response::new(Body::from(body));
            }
            let halves = [body.slice(..body.len() / 2), body.slice(body.len() / 2..)];
            let halves = halves.map(|half| Ok::<_, Infallible>(Frame::data(half)));
            Response::new(Body::new(StreamBody::new(futures_util::stream::iter(halves))))
        }
    })
    .await;
    (server, calls)
}

fn request(flow: Flow, method: &Method, len: usize) -> Request<Body> {
    let path = if flow == Flow::W1 { "/w1" } else { "/w2" };
    Request::builder().method(method).uri(path).body(Body::from(vec![b'x'; len])).unwrap()
}

async fn exchange(client: &Client, flow: Flow, method: &Method, len: usize) -> End {
    let response = match client.send(request(flow, method, len)).await {
        Ok(response) => response,
        Err(error) => {
            let back = error.stage() == Stage::NotSent;
            assert_eq!(error.has_request(), back, "what was not sent is given back");
            return End::Send(error.kind(), error.stage());
        }
    };
    let status = response.status();
    match response.into_body().collect().await.map(http_body_util::Collected::to_bytes) {
        Ok(body) if status == StatusCode::OK && body == vec![b'x'; len] => End::Answer,
        Ok(_) => End::Wrong,
        Err(BodyError::Cut) => End::Body("cut"),
        Err(BodyError::Idle) => End::Body("idle"),
        Err(BodyError::Protocol(_)) => End::Body("protocol"),
        Err(BodyError::Io(_)) => End::Body("io"),
        Err(other) => panic!("{other:?}"),
    }
}

fn client_with(target: std::net::SocketAddr, limit: Duration) -> Client {
    Client::builder(target)
        .connect_timeout(PATIENT)
        .response_timeout(limit)
        .stream_idle_timeout(limit)
        .build()
}

/// One exchange through a proxy with this plan, on a fresh connection.
async fn cell(limit: Duration, flow: Flow, method: Method, len: usize, plan: Plan) -> Cell {
    let (server, calls) = counted().await;
    let proxy = FaultProxy::start(server.local_addr().unwrap()).await;
    proxy.plan(plan);
    let client = client_with(proxy.addr(), limit);
    let end = tokio::time::timeout(CELL, exchange(&client, flow, &method, len)).await.expect("a cell hangs");
    let (connections, idle) = (proxy.connection_count(), client.idle_count());
    assert_eq!(client.connection_count(), idle, "what failed is closed");
    Cell { end, calls: calls.load(Ordering::SeqCst), connections, idle }
}

/// The lengths of a request and its answer on the wire, told by a proxy without faults.
async fn lengths(flow: Flow, method: &Method) -> (u64, u64) {
    let (server, _) = counted().await;
    let proxy = FaultProxy::start(server.local_addr().unwrap()).await;
    let client = client_of_addr(&proxy);
    assert_eq!(exchange(&client, flow, method, BODY).await, End::Answer);
    drop(client);
    // The answer may be here before the proxy has noted that it passed.
    proxy.wait_ended(0, CELL).await;
    (proxy.passed(0, Direction::Up), proxy.passed(0, Direction::Down))
}

fn client_of_addr(proxy: &FaultProxy) -> Client {
    Client::builder(proxy.addr()).build()
}

const BODY: usize = 100;
const FLOWS: [Flow; 2] = [Flow::W1, Flow::W2];

/// Runs the cells, some at a time, and judges each.
async fn matrix(
    name: &str,
    cells: impl IntoIterator<Item = (Flow, Method, usize, Plan, u64)>,
    judge: impl Fn(Flow, u64, &Cell) -> bool,
) {
    // These leave the client waiting. (A flipped bit may do so, too, in a length.)
    let limit = if ["N03", "N08", "N11", "N13", "N15"].contains(&name) { TIMEOUT } else { PATIENT };
    let running = cells.into_iter().map(async |(flow, method, len, plan, k)| {
        (flow, method.clone(), k, cell(limit, flow, method, len, plan).await)
    });
    let mut running = futures_util::stream::iter(running).buffer_unordered(32);
    let mut count = 0;
    while let Some((flow, method, k, cell)) = running.next().await {
        assert!(judge(flow, k, &cell), "{name} x {flow:?} {method} at {k}: {cell:?}");
        assert!(cell.calls <= 1 && cell.connections <= 1, "{name} x {flow:?} at {k}: sent twice: {cell:?}");
        count += 1;
    }
    assert!(count > 0);
}

/// Both flows, an idempotent and another method, cut at each interesting byte of the request or the answer.
async fn at_each_byte(
    direction: Direction,
    plan: impl Fn(u64) -> Plan,
) -> Vec<(Flow, Method, usize, Plan, u64)> {
    let mut cells = Vec::new();
    for flow in FLOWS {
        for method in [Method::PUT, Method::POST] {
            let (up, down) = lengths(flow, &method).await;
            let len = if direction == Direction::Up { up } else { down };
            for k in cut_points(len) {
                // Far from the others, so that a judge need not know the lengths.
                let at = if k == len { u64::MAX } else { k };
                cells.push((flow, method.clone(), BODY, plan(k), at));
            }
        }
    }
    cells
}

fn everywhere(plan: &Plan) -> Vec<(Flow, Method, usize, Plan, u64)> {
    FLOWS
        .into_iter()
        .flat_map(|flow| [Method::PUT, Method::POST].map(|method| (flow, method, BODY, plan.clone(), 0)))
        .collect()
}

/// Whether the connection was lost, however that showed.
fn lost(end: &End) -> bool {
    matches!(end, End::Send(SendErrorKind::Closed | SendErrorKind::Io, _))
}

#[tokio::test]
async fn n01_refused() {
    for flow in FLOWS {
        let refuser = Refuser::new();
        let end = exchange(&client_with(refuser.addr(), PATIENT), flow, &Method::POST, BODY).await;
        assert_eq!(end, End::Send(SendErrorKind::Connect, Stage::NotSent));
    }
}

#[tokio::test]
async fn n02_black_hole() {
    let hole = tokio::task::spawn_blocking(BlackHole::new).await.unwrap();
    for flow in FLOWS {
        let client = Client::builder(hole.addr()).connect_timeout(TIMEOUT).build();
        let end = exchange(&client, flow, &Method::POST, BODY).await;
        assert_eq!(end, End::Send(SendErrorKind::Timeout, Stage::NotSent));
    }
}

#[tokio::test]
async fn n03_silence() {
    matrix("N03", everywhere(&Plan::n03_silence()), |_, _, cell| {
        cell.end == End::Send(SendErrorKind::Timeout, Stage::Ambiguous) && cell.calls == 0
    })
    .await;
}

#[tokio::test]
async fn n04_n05_closed_or_reset_at_once() {
    for (name, plan) in [("N04", Plan::n04_close()), ("N05", Plan::n05_reset())] {
        matrix(name, everywhere(&plan), |_, _, cell| lost(&cell.end) && cell.calls == 0).await;
    }
}

#[tokio::test]
async fn n06_reset_inside_the_request() {
    let cells = at_each_byte(Direction::Up, Plan::n06_reset_up).await;
    matrix("N06", cells, |_, k, cell| lost(&cell.end) && (k == u64::MAX || cell.calls == 0)).await;
}

#[tokio::test]
async fn n07_half_close_inside_the_request() {
    let cells = at_each_byte(Direction::Up, Plan::n07_half_close_up).await;
    matrix("N07", cells, |_, k, cell| match k {
        u64::MAX => cell.end == End::Answer && cell.calls == 1,
        _ => lost(&cell.end) && cell.calls == 0,
    })
    .await;
}

#[tokio::test]
async fn n08_no_answer() {
    matrix("N08", everywhere(&Plan::n08_no_answer()), |_, _, cell| {
        cell.end == End::Send(SendErrorKind::Timeout, Stage::Ambiguous)
    })
    .await;
}

/// The first byte of the body of a streamed answer: its head is a frame of its own.
const HEAD_LEN: u64 = 4 + 16 + 48 + 2 + 8;

#[tokio::test]
async fn n09_n10_reset_or_close_inside_the_answer() {
    for (name, plan) in [("N09", Plan::n09_reset_down as fn(u64) -> Plan), ("N10", Plan::n10_close_down)] {
        let cells = at_each_byte(Direction::Down, plan).await;
        matrix(name, cells, |flow, k, cell| match (flow, k) {
            // A reset may overtake the last bytes, a close does not.
            (_, u64::MAX) if cell.end == End::Answer => true,
            (_, u64::MAX) => name == "N09" && (lost(&cell.end) || cell.end == End::Body("io")),
            (Flow::W2, HEAD_LEN..) => {
                cell.end == End::Body("cut")
                    || name == "N09" && (lost(&cell.end) || cell.end == End::Body("io"))
            }
            _ => lost(&cell.end),
        })
        .await;
    }
}

#[tokio::test]
async fn n11_stall_inside_the_answer() {
    let cells = at_each_byte(Direction::Down, Plan::n11_stall_down).await;
    matrix("N11", cells, |flow, k, cell| match (flow, k) {
        (_, u64::MAX) => cell.end == End::Answer,
        (Flow::W2, HEAD_LEN..) => cell.end == End::Body("idle"),
        _ => cell.end == End::Send(SendErrorKind::Timeout, Stage::Ambiguous),
    })
    .await;
}

#[tokio::test]
async fn n12_slow_drip() {
    // A byte a millisecond, and timeouts that such a slow network needs.
    for flow in FLOWS {
        let (server, calls) = counted().await;
        let proxy = FaultProxy::start(server.local_addr().unwrap()).await;
        let drip = || Pump::new().pace(Pace::Drip(Duration::from_millis(1)));
        proxy.plan(Plan::of(drip(), drip()));
        assert_eq!(exchange(&client_of_addr(&proxy), flow, &Method::POST, BODY).await, End::Answer);
        assert_eq!(calls.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn n13_stops_reading() {
    // More than the sockets hold.
    let len = 16 << 20;
    let cells = FLOWS.map(|flow| (flow, Method::POST, len, Plan::n13_stop_reading(1000), 0));
    matrix("N13", cells, |_, _, cell| {
        cell.end == End::Send(SendErrorKind::Timeout, Stage::NotSent) && cell.calls == 0
    })
    .await;
}

#[tokio::test]
async fn n14_latency() {
    let jitter = Plan::n14_latency(Duration::from_millis(5), Duration::from_millis(50));
    matrix("N14", everywhere(&jitter), |_, _, cell| cell.end == End::Answer && cell.idle == 1).await;
}

#[tokio::test]
async fn n15_one_bit_flipped() {
    // Plaintext has no checksum of its own: whatever looks like an answer is for the caller to check.
    // That every cell ends, and that nothing is sent twice, is checked for all of them.
    for direction in [Direction::Up, Direction::Down] {
        let cells = at_each_byte(direction, |k| Plan::n15_flip(direction, k)).await;
        matrix("N15", cells, |_, k, cell| k != u64::MAX || cell.end == End::Answer).await;
    }
}

#[tokio::test]
async fn n16_extra_bytes_after_the_answer() {
    for flow in FLOWS {
        let (_, down) = lengths(flow, &Method::POST).await;
        for extra in [b"x".to_vec(), crate::kit::ok(b"poison")] {
            let (server, _) = counted().await;
            let proxy = FaultProxy::start(server.local_addr().unwrap()).await;
            proxy.plans([Plan::n16_extra(down, extra.clone())]);
            let client = client_with(proxy.addr(), PATIENT);
            assert_eq!(exchange(&client, flow, &Method::POST, BODY).await, End::Answer, "N16 {flow:?}");
            // The second answer goes to nobody, whether it has arrived by now or not.
            assert_eq!(exchange(&client, flow, &Method::POST, BODY).await, End::Answer, "N16 {flow:?}");
        }
    }
}

#[tokio::test]
async fn n17_in_pieces_and_all_at_once() {
    matrix("N17", everywhere(&Plan::n17_every_byte()), |_, _, cell| {
        cell.end == End::Answer && cell.idle == 1
    })
    .await;
    for flow in FLOWS {
        let (up, down) = lengths(flow, &Method::POST).await;
        let together = Plan::n17_together(usize::try_from(up).unwrap(), usize::try_from(down).unwrap());
        let cells = [(flow, Method::POST, BODY, together, 0)];
        matrix("N17", cells, |_, _, cell| cell.end == End::Answer && cell.idle == 1).await;
    }
}

#[tokio::test]
async fn n18_the_first_connection_is_held_until_the_second_is_done() {
    for flow in FLOWS {
        let (server, calls) = counted().await;
        let proxy = FaultProxy::start(server.local_addr().unwrap()).await;
        proxy.plans([Plan::n18_after_the_next()]);
        let held = Client::builder(proxy.addr()).build();
        let first = exchange(&held, flow, &Method::POST, BODY);
        let second = async {
            proxy.wait_connections(1, CELL).await;
            // Its connection ends with its client.
            exchange(&Client::builder(proxy.addr()).max_idle(0).build(), flow, &Method::POST, BODY).await
        };
        assert_eq!(tokio::join!(first, second), (End::Answer, End::Answer), "N18 {flow:?}");
        assert_eq!(calls.load(Ordering::SeqCst), 2, "each was sent once");
    }
}
