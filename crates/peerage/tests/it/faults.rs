//! The fault matrix: the network faults N01 to N18 under a plain exchange (W1), one with a streamed answer
//! (W2), and a call through discovery with retries, where one of two peers has the fault (W3).
//!
//! One table, one test. What a fault does at *every* byte is tested in the crates (`zaphttp`, `clienthttp`:
//! `tests/it/faults.rs`); here each cell is tried at the beginning, in the middle and at the last byte.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use peerage::clienthttp::{self, ClientError, PickContext};
use peerage::discovery::{Peer, StaticDiscovery, StaticPeer};
use peerage::zaphttp::{self, Body, Listener, SendErrorKind, Server, ServerHandle};
use peerage_tests::{BlackHole, Direction, FaultProxy, Plan, Refuser, Watchdog};
use tokio::time::{Instant, timeout};

use self::Direction::{Down, Up};
use self::End::{Answer, Cut, Late, Lost, Moved, NotSent, Protocol};

/// What an attempt and connecting may take where their time is to run out; and elsewhere, where a slow
/// machine is no fault.
const TRY: Duration = Duration::from_secs(1);
const PATIENT: Duration = Duration::from_secs(20);
/// What a call through discovery may take.
const CALL: Duration = Duration::from_secs(40);
/// What a cell may take: more than that hangs.
const CELL: Duration = Duration::from_secs(60);
const AT_ONCE: usize = 24;
const BODY: usize = 100;

/// How an exchange ends for its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The right answer, all of it, from the peer with the fault.
    Answer,
    /// The right answer, all of it, from the other peer.
    Moved,
    /// An error that says that nothing was sent, and gives the request back.
    NotSent,
    /// An error that says that the connection was lost and the outcome is unknown.
    Lost,
    /// An error that says that time ran out.
    Late,
    /// The head of the right answer, and an error of its body.
    Cut,
    /// An error that says what the peer did wrong.
    Protocol,
}

/// Where in the bytes of a direction the fault is.
#[derive(Clone, Copy)]
enum At {
    /// It has no place.
    Nowhere,
    /// At the first byte, in the middle, and before the last.
    Inside(Direction),
    /// After the last.
    After(Direction),
}

/// How a line makes its fault.
#[derive(Clone, Copy)]
enum Way {
    Refused,
    BlackHole,
    Proxy(At, fn(u64) -> Plan),
    /// In one piece each.
    Together,
    /// The first connection waits until a second one, of another caller, is done.
    Held,
}

struct Line {
    fault: &'static str,
    way: Way,
    /// What may come out. W1 and W2 send once, whatever the method.
    w1: &'static [End],
    w2: Cell,
    /// By whether the method may be repeated.
    w3: [&'static [End]; 2],
}

enum Cell {
    May(&'static [End]),
    /// There is nothing to try, and why.
    Senseless(&'static str),
}
use Cell::{May, Senseless};

/// N × W. A reset may overtake the bytes before it, so what it cuts may be seen as lost, too.
const TABLE: &[Line] = &[
    Line { fault: "N01", way: Way::Refused, w1: &[NotSent], w2: May(&[NotSent]), w3: [&[Moved], &[Moved]] },
    Line { fault: "N02", way: Way::BlackHole, w1: &[NotSent], w2: May(&[NotSent]), w3: [&[Moved], &[Moved]] },
    Line {
        fault: "N03",
        way: Way::Proxy(At::Nowhere, |_| Plan::n03_silence()),
        w1: &[Late],
        w2: May(&[Late]),
        w3: [&[Moved], &[Late]],
    },
    // Whether anything was written before the end was seen is a matter of microseconds.
    Line {
        fault: "N04",
        way: Way::Proxy(At::Nowhere, |_| Plan::n04_close()),
        w1: &[NotSent, Lost],
        w2: May(&[NotSent, Lost]),
        w3: [&[Moved], &[Moved, Lost]],
    },
    Line {
        fault: "N05",
        way: Way::Proxy(At::Nowhere, |_| Plan::n05_reset()),
        w1: &[NotSent, Lost],
        w2: May(&[NotSent, Lost]),
        w3: [&[Moved], &[Moved, Lost]],
    },
    Line {
        fault: "N06",
        way: Way::Proxy(At::Inside(Up), Plan::n06_reset_up),
        w1: &[NotSent, Lost],
        w2: May(&[NotSent, Lost]),
        w3: [&[Moved], &[Moved, Lost]],
    },
    Line {
        fault: "N07",
        way: Way::Proxy(At::Inside(Up), Plan::n07_half_close_up),
        w1: &[NotSent, Lost],
        w2: May(&[NotSent, Lost]),
        w3: [&[Moved], &[Moved, Lost]],
    },
    // The early answer of a server that has all it needs.
    Line {
        fault: "N07",
        way: Way::Proxy(At::After(Up), Plan::n07_half_close_up),
        w1: &[Answer],
        w2: May(&[Answer]),
        w3: [&[Answer], &[Answer]],
    },
    Line {
        fault: "N08",
        way: Way::Proxy(At::Nowhere, |_| Plan::n08_no_answer()),
        w1: &[Late],
        w2: May(&[Late]),
        w3: [&[Moved], &[Late]],
    },
    Line {
        fault: "N09",
        way: Way::Proxy(At::Inside(Down), Plan::n09_reset_down),
        w1: &[Lost],
        w2: May(&[Lost, Cut]),
        w3: [&[Moved], &[Lost]],
    },
    Line {
        fault: "N10",
        way: Way::Proxy(At::Inside(Down), Plan::n10_close_down),
        w1: &[Lost],
        w2: May(&[Lost, Cut]),
        w3: [&[Moved], &[Lost]],
    },
    Line {
        fault: "N10",
        way: Way::Proxy(At::After(Down), Plan::n10_close_down),
        w1: &[Answer],
        w2: May(&[Answer]),
        w3: [&[Answer], &[Answer]],
    },
    Line {
        fault: "N11",
        way: Way::Proxy(At::Inside(Down), Plan::n11_stall_down),
        w1: &[Late],
        w2: May(&[Late, Cut]),
        w3: [&[Moved], &[Late]],
    },
    // 20 ms a byte: longer than an attempt may take.
    Line {
        fault: "N12",
        way: Way::Proxy(At::Nowhere, |_| Plan::n12_drip()),
        w1: &[Late],
        w2: May(&[Late]),
        w3: [&[Moved], &[Late]],
    },
    // What fits into the sockets counts as sent: a request that does not is in zaphttp's own tests.
    Line {
        fault: "N13",
        way: Way::Proxy(At::Inside(Up), Plan::n13_stop_reading),
        w1: &[Late],
        w2: May(&[Late]),
        w3: [&[Moved], &[Late]],
    },
    Line {
        fault: "N14",
        way: Way::Proxy(At::Nowhere, |_| Plan::n14_latency(ms(5), ms(50))),
        w1: &[Answer],
        w2: May(&[Answer]),
        w3: [&[Answer], &[Answer]],
    },
    Line {
        fault: "N14",
        way: Way::Proxy(At::Nowhere, |_| Plan::n14_latency(ms(1_000), ms(1_000))),
        w1: &[Late],
        w2: May(&[Late]),
        w3: [&[Moved], &[Late]],
    },
    // The magic is checked; a flip in it is not taken for an answer.
    Line {
        fault: "N15",
        way: Way::Proxy(At::Nowhere, |_| Plan::n15_flip(Down, 4)),
        w1: &[Protocol],
        w2: May(&[Protocol]),
        w3: [&[Moved], &[Protocol, Lost]],
    },
    Line {
        fault: "N16",
        way: Way::Proxy(At::After(Down), |k| Plan::n16_extra(k, *b"another answer")),
        w1: &[Answer],
        w2: May(&[Answer]),
        w3: [&[Answer], &[Answer]],
    },
    Line {
        fault: "N17",
        way: Way::Proxy(At::Nowhere, |_| Plan::n17_every_byte()),
        w1: &[Answer],
        w2: May(&[Answer]),
        w3: [&[Answer], &[Answer]],
    },
    Line { fault: "N17", way: Way::Together, w1: &[Answer], w2: May(&[Answer]), w3: [&[Answer], &[Answer]] },
    Line {
        fault: "N18",
        way: Way::Held,
        w1: &[Answer],
        w2: Senseless("the connection is held before either flow begins to differ: it is W1's cell"),
        // The call has no second connection to that peer in hand: to it the peer is silent.
        w3: [&[Moved], &[Late]],
    },
];

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    W1,
    W2,
    W3,
}

/// One exchange of a cell.
#[derive(Clone)]
struct Try {
    fault: &'static str,
    way: Way,
    flow: Flow,
    method: Method,
    /// What the direction of the fault carries.
    len: u64,
    k: u64,
    may: &'static [End],
    /// Whether the fault is one that only the clock ends.
    runs_out: bool,
}

impl fmt::Display for Try {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fault, flow, method, len, k, .. } = self;
        write!(f, "{fault} x {flow:?}, {method}, at {k} of {len}")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fault_matrix_n01_to_n18_by_w1_to_w3() {
    let _dog = Watchdog::new("the_fault_matrix", CELL * 4);
    let hole = tokio::task::spawn_blocking(BlackHole::new).await.expect("no panic");
    let mut tries = Vec::new();
    for flow in [Flow::W1, Flow::W2, Flow::W3] {
        for method in [Method::PUT, Method::POST] {
            let lengths = lengths(flow, &method).await;
            tries.extend(TABLE.iter().flat_map(|line| line.tries(flow, &method, lengths)));
        }
    }
    let began = Instant::now();
    let running = tries.iter().map(|one| {
        let hole = hole.addr();
        let one = one.clone();
        tokio::spawn(async move {
            let began = Instant::now();
            let seen = timeout(CELL, one.run(hole)).await;
            (one, seen, began.elapsed())
        })
    });
    let mut running = stream::iter(running).buffer_unordered(AT_ONCE);
    let (mut faults, mut longest) = (Vec::new(), Duration::ZERO);
    while let Some(done) = running.next().await {
        let (one, seen, took) = done.expect("no panic");
        longest = longest.max(took);
        match seen {
            Err(_) => faults.push(format!("{one}: hangs")),
            Ok(seen) => faults.extend(one.judge(&seen)),
        }
    }
    println!("{} tries in {:.1?}, the longest {longest:.1?}", tries.len(), began.elapsed());
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), tries.len(), faults.join("\n"));
}

#[test]
fn the_fault_matrix_has_every_cell() {
    for number in 1..=18 {
        let fault = format!("N{number:02}");
        let lines: Vec<_> = TABLE.iter().filter(|line| line.fault == fault).collect();
        assert!(!lines.is_empty(), "{fault} is not in the table");
        for line in lines {
            let w2 = match line.w2 {
                May(ends) => !ends.is_empty(),
                Senseless(why) => !why.is_empty(),
            };
            assert!(w2 && !line.w1.is_empty() && line.w3.iter().all(|ends| !ends.is_empty()), "{fault}");
        }
    }
}

impl Line {
    fn tries(&self, flow: Flow, method: &Method, (up, down): (u64, u64)) -> Vec<Try> {
        let may = match (flow, &self.w2) {
            (Flow::W1, _) => self.w1,
            (Flow::W2, May(ends)) => ends,
            (Flow::W2, Senseless(_)) => return Vec::new(),
            (Flow::W3, _) => {
                let [repeatable, other] = self.w3;
                if *method == Method::PUT { repeatable } else { other }
            }
        };
        let len = |direction| if direction == Up { up } else { down };
        let (len, places) = match self.way {
            Way::Proxy(At::Inside(direction), _) => {
                let len = len(direction);
                (len, vec![0, len / 2, len - 1])
            }
            Way::Proxy(At::After(direction), _) => (len(direction), vec![len(direction)]),
            // Both lengths in one.
            Way::Together => (up, vec![down]),
            _ => (0, vec![0]),
        };
        let one = |k| {
            let Self { fault, way, .. } = *self;
            // Where a call that may not be repeated ends late, one that may be moves for the same reason.
            let runs_out = may.contains(&Late) || flow == Flow::W3 && self.w3[1].contains(&Late);
            Try { fault, way, flow, method: method.clone(), len, k, may, runs_out }
        };
        places.into_iter().map(one).collect()
    }
}

/// What came of a try.
struct Seen {
    end: End,
    /// How often a handler began.
    handled: usize,
    /// How often the peer with the fault was connected to; `None` where nobody counts.
    connections: Option<usize>,
}

impl Try {
    async fn run(&self, hole: SocketAddr) -> Seen {
        let server = Counted::start().await;
        let proxy = FaultProxy::start(server.addr()).await;
        let refuser = Refuser::new();
        let target = match self.way {
            Way::Refused => refuser.addr(),
            Way::BlackHole => hole,
            Way::Proxy(_, plan) => {
                proxy.plan(plan(self.k));
                proxy.addr()
            }
            Way::Together => {
                let [up, down] = [self.len, self.k].map(|len| usize::try_from(len).expect("it is short"));
                proxy.plan(Plan::n17_together(up, down));
                proxy.addr()
            }
            Way::Held => {
                proxy.plans([Plan::n18_after_the_next()]);
                proxy.addr()
            }
        };
        let end = match (self.flow, self.way) {
            (Flow::W3, _) => return self.through_discovery(target, &server, &proxy).await,
            (_, Way::Held) => {
                let second = async {
                    proxy.wait_connections(1, CELL).await;
                    let client = zaphttp::Client::builder(target).max_idle(0).build();
                    assert_eq!(exchange(&client, self.flow, &self.method).await, Answer);
                };
                let client = client_of(target, self.patience());
                tokio::join!(exchange(&client, self.flow, &self.method), second).0
            }
            _ => exchange(&client_of(target, self.patience()), self.flow, &self.method).await,
        };
        let others = usize::from(matches!(self.way, Way::Held));
        Seen {
            end,
            handled: server.handled() - others,
            connections: self.is_proxied().then(|| proxy.connection_count() - others),
        }
    }

    /// What an attempt may take, and what connecting may.
    fn patience(&self) -> (Duration, Duration) {
        let attempt = if self.runs_out { TRY } else { PATIENT };
        (attempt, if matches!(self.way, Way::BlackHole) { TRY } else { PATIENT })
    }

    const fn is_proxied(&self) -> bool {
        !matches!(self.way, Way::Refused | Way::BlackHole)
    }

    /// The peer with the fault is tried first; the other one is well.
    async fn through_discovery(&self, faulty: SocketAddr, behind: &Counted, proxy: &FaultProxy) -> Seen {
        let well = Counted::start().await;
        let (attempt, connect) = self.patience();
        let peers = [("billing-1", faulty), ("billing-2", well.addr())];
        let peers = peers.map(|(id, addr)| StaticPeer::new(addr).node_id(id));
        let source = StaticDiscovery::new("billing", peers).expect("a good list");
        let client = clienthttp::Client::builder_with(source)
            .picker(first)
            .request_timeout(CALL)
            .per_try_timeout(attempt)
            .connect_timeout(connect)
            .build()
            .await
            .expect("consistent settings");
        let end = match client.request(self.method.clone(), "/plain").body(vec![b'x'; BODY]).send().await {
            Ok(answer) => {
                let moved = answer.peer().is_some_and(|peer| peer.node_id() == "billing-2");
                match answer.bytes().await {
                    Ok(body) => {
                        assert_eq!(body, vec![b'x'; BODY], "{self}: never a wrong answer");
                        if moved { Moved } else { Answer }
                    }
                    Err(_) => Cut,
                }
            }
            Err(error) => match error {
                ClientError::OutcomeUnknown { .. } => Lost,
                ClientError::Timeout { .. } => Late,
                ClientError::Protocol { .. } => Protocol,
                ClientError::Connect { .. } => NotSent,
                other => panic!("{self}: {other:?}"),
            },
        };
        let connections = self.is_proxied().then(|| proxy.connection_count());
        Seen { end, handled: behind.handled() + well.handled(), connections }
    }

    /// What is wrong with that.
    fn judge(&self, seen: &Seen) -> Option<String> {
        let Seen { end, handled, connections } = seen;
        let most = if self.flow == Flow::W3 && self.method == Method::PUT { 2 } else { 1 };
        let fault = if !self.may.contains(end) {
            format!("{end:?}, expected of {:?}", self.may)
        } else if *handled > most {
            format!("{end:?}, and handled {handled} times")
        } else if matches!(end, Answer | Moved | Cut) && *handled == 0 {
            "an answer that nobody gave".to_owned()
        } else if connections.is_some_and(|count| count > 1) {
            format!("{end:?} after {connections:?} connections")
        } else {
            return None;
        };
        Some(format!("{self}: {fault}"))
    }
}

/// The peer with the fault, as long as it was not tried.
fn first<'p>(peers: &'p [Peer], _: &PickContext<'_>) -> Option<&'p Peer> {
    peers.iter().find(|peer| peer.node_id() == "billing-1").or_else(|| peers.first())
}

/// A server that echoes: `/plain` in one frame, `/streamed` in two pieces.
struct Counted {
    server: ServerHandle,
    handled: Arc<AtomicUsize>,
}

impl Counted {
    async fn start() -> Self {
        let handled = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&handled);
        let echo = tower::service_fn(move |request: Request<Body>| {
            count.fetch_add(1, Ordering::SeqCst);
            async move {
                let streamed = request.uri().path() == "/streamed";
                let body = request.into_body().collect().await?.to_bytes();
                if !streamed {
                    return Ok::<_, zaphttp::BodyError>(Response::new(Body::from(body)));
                }
                let halves = [body.slice(..body.len() / 2), body.slice(body.len() / 2..)];
                let halves = halves.map(|half| Ok::<_, Infallible>(Frame::data(half)));
                Ok(Response::new(Body::new(StreamBody::new(stream::iter(halves)))))
            }
        });
        let listener = Listener::tcp("127.0.0.1:0").await.expect("loopback has a free port");
        Self { server: Server::builder().serve(listener, echo), handled }
    }

    fn addr(&self) -> SocketAddr {
        self.server.local_addr().expect("it is TCP")
    }

    fn handled(&self) -> usize {
        self.handled.load(Ordering::SeqCst)
    }
}

fn client_of(target: SocketAddr, (attempt, connect): (Duration, Duration)) -> zaphttp::Client {
    zaphttp::Client::builder(target)
        .connect_timeout(connect)
        .response_timeout(attempt)
        .stream_idle_timeout(attempt)
        .build()
}

async fn exchange(client: &zaphttp::Client, flow: Flow, method: &Method) -> End {
    let path = if flow == Flow::W2 { "/streamed" } else { "/plain" };
    let request = Request::builder().method(method).uri(path).body(Body::from(vec![b'x'; BODY]));
    let response = match client.send(request.expect("a valid request")).await {
        Ok(response) => response,
        Err(error) => {
            let nothing_sent = error.stage() == zaphttp::Stage::NotSent;
            assert_eq!(error.has_request(), nothing_sent, "what was not sent is given back");
            return match error.kind() {
                _ if nothing_sent => NotSent,
                SendErrorKind::Timeout => Late,
                SendErrorKind::Protocol(_) => Protocol,
                SendErrorKind::Closed | SendErrorKind::Io => Lost,
                other => panic!("{other:?}"),
            };
        }
    };
    assert_eq!(response.status(), 200);
    match response.into_body().collect().await {
        Ok(body) => {
            assert_eq!(body.to_bytes(), vec![b'x'; BODY], "never a wrong answer, never a short one");
            Answer
        }
        Err(_) => Cut,
    }
}

/// What a request and its answer are long on the wire.
async fn lengths(flow: Flow, method: &Method) -> (u64, u64) {
    let server = Counted::start().await;
    let proxy = FaultProxy::start(server.addr()).await;
    let one = Try {
        fault: "none",
        way: Way::Proxy(At::Nowhere, |_| Plan::clean()),
        flow,
        method: method.clone(),
        len: 0,
        k: 0,
        may: &[Answer],
        runs_out: false,
    };
    let end = match flow {
        Flow::W3 => one.through_discovery(proxy.addr(), &server, &proxy).await.end,
        _ => exchange(&client_of(proxy.addr(), one.patience()), flow, method).await,
    };
    assert_eq!(end, Answer, "{one}");
    // The answer may be here before the proxy has noted that it passed.
    proxy.wait_ended(0, CELL).await;
    (proxy.passed(0, Up), proxy.passed(0, Down))
}
