//! Faults between a real client and a real server, on real sockets.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::plan::Greeting;
use crate::script::reset;
use crate::{Cut, Direction, Facts, Pace, Plan, Pump};

/// A TCP proxy on loopback that does to each connection what its [`Plan`] says, and records it.
#[derive(Debug)]
pub struct FaultProxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    target: Mutex<SocketAddr>,
    plans: Mutex<Plans>,
    events: Facts<ProxyEvent>,
    /// Counts up to cut all live connections.
    cut: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Plans {
    /// For the next connections, one each.
    next: VecDeque<Plan>,
    /// For all after them.
    then: Plan,
}

/// What a [`FaultProxy`] saw or did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "tests match on all of them")]
pub enum ProxyEvent {
    /// Connection number `conn`, from 0, came from the client.
    Accepted {
        /// Which one.
        conn: usize,
        /// When.
        at: Instant,
    },
    /// Bytes were passed on; `total` of this direction so far.
    Passed {
        /// On which connection.
        conn: usize,
        /// Which way.
        direction: Direction,
        /// How many in all.
        total: u64,
    },
    /// The planned end of a direction was reached.
    Fired {
        /// On which connection.
        conn: usize,
        /// In which direction.
        direction: Direction,
        /// What was done.
        cut: Cut,
    },
    /// The sender of this direction closed its side.
    Closed {
        /// On which connection.
        conn: usize,
        /// Whose bytes ended.
        direction: Direction,
    },
    /// The connection is gone.
    Ended {
        /// Which one.
        conn: usize,
    },
}

impl FaultProxy {
    /// Starts one before `target`, without faults.
    ///
    /// # Panics
    ///
    /// If loopback has no free port.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("loopback has a free port");
        let addr = listener.local_addr().expect("a bound listener has an address");
        let shared = Arc::new(Shared {
            target: Mutex::new(target),
            plans: Mutex::default(),
            events: Facts::new(),
            cut: watch::Sender::new(0),
        });
        let accepting = tokio::spawn(accept(listener, shared.clone())).abort_handle();
        Self { addr, shared, accepting }
    }

    /// Where clients connect to.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The plan for all connections from now on.
    pub fn plan(&self, plan: Plan) {
        let mut plans = lock(&self.shared.plans);
        plans.next.clear();
        plans.then = plan;
    }

    /// A plan for each of the next connections; those after them have the general one.
    pub fn plans(&self, next: impl IntoIterator<Item = Plan>) {
        lock(&self.shared.plans).next = next.into_iter().collect();
    }

    /// Another server for connections from now on.
    pub fn retarget(&self, target: SocketAddr) {
        *lock(&self.shared.target) = target;
    }

    /// Resets all live connections.
    pub fn reset_all(&self) {
        self.shared.cut.send_modify(|count| *count += 1);
    }

    /// Everything that happened, in order.
    pub fn events(&self) -> &Facts<ProxyEvent> {
        &self.shared.events
    }

    /// How many connections came.
    pub fn connection_count(&self) -> usize {
        self.events().look(|events| events.iter().filter(|event| is_accepted(event)).count())
    }

    /// Waits until `count` connections came.
    ///
    /// # Panics
    ///
    /// After `limit`.
    pub async fn wait_connections(&self, count: usize, limit: Duration) {
        self.events()
            .eventually(limit, &format!("{count} connections"), |events| {
                events.iter().filter(|event| is_accepted(event)).count() >= count
            })
            .await;
    }

    /// Waits until connection `number` is gone.
    ///
    /// # Panics
    ///
    /// After `limit`.
    pub async fn wait_ended(&self, number: usize, limit: Duration) {
        let end = ProxyEvent::Ended { conn: number };
        self.events()
            .eventually(limit, &format!("the end of connection {number}"), |events| events.contains(&end))
            .await;
    }

    /// How many bytes of connection `number` were passed on in a direction.
    pub fn passed(&self, number: usize, way: Direction) -> u64 {
        self.events()
            .look(|events| {
                events.iter().rev().find_map(|event| match event {
                    ProxyEvent::Passed { conn, direction, total } if (*conn, *direction) == (number, way) => {
                        Some(*total)
                    }
                    _ => None,
                })
            })
            .unwrap_or(0)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn is_accepted(event: &ProxyEvent) -> bool {
    matches!(event, ProxyEvent::Accepted { .. })
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // The connections end with the proxy: dropping the set aborts them.
    let mut connections = JoinSet::new();
    for conn in 0.. {
        let Ok((client, _)) = listener.accept().await else { break };
        while connections.try_join_next().is_some() {}
        let plan = {
            let mut plans = lock(&shared.plans);
            plans.next.pop_front().unwrap_or_else(|| plans.then.clone())
        };
        shared.events.push(ProxyEvent::Accepted { conn, at: Instant::now() });
        let shared = shared.clone();
        connections.spawn(async move {
            carry(client, conn, plan, &shared).await;
            shared.events.push(ProxyEvent::Ended { conn });
        });
    }
}

async fn carry(mut client: TcpStream, conn: usize, plan: Plan, shared: &Shared) {
    let mut cut = shared.cut.subscribe();
    let carried = async {
        match plan.greeting {
            Greeting::Forward => {}
            Greeting::Silence => {
                // Reading nothing, so the client's bytes wait in the socket.
                std::future::pending::<()>().await;
            }
            Greeting::Close => {
                let _ = client.shutdown().await;
                drain(&mut client).await;
                return End::Quiet;
            }
            Greeting::Reset => return End::Reset,
            Greeting::AfterTheNext => {
                let next_ended = ProxyEvent::Ended { conn: conn + 1 };
                let _ =
                    shared.events.eventually(HOLD, "the next connection", |e| e.contains(&next_ended)).await;
            }
        }
        let target = *lock(&shared.target);
        let Ok(mut server) = TcpStream::connect(target).await else { return End::Reset };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let end = {
            let (client_read, client_write) = client.split();
            let (server_read, server_write) = server.split();
            let asked = Notify::new();
            let up = pump(client_read, server_write, plan.up, conn, Direction::Up, &asked, &shared.events);
            let down =
                pump(server_read, client_write, plan.down, conn, Direction::Down, &asked, &shared.events);
            tokio::pin!(up, down);
            let (first, up_ended) = tokio::select! {
                end = &mut up => (end, true),
                end = &mut down => (end, false),
            };
            match first {
                // One direction came to its end; the other goes on.
                End::Quiet if up_ended => down.await,
                End::Quiet => up.await,
                end => end,
            }
        };
        match end {
            End::Reset => reset(server),
            End::Close(Direction::Down) => {
                drop(server);
                drain(&mut client).await;
                return End::Quiet;
            }
            End::Close(Direction::Up) => drain(&mut server).await,
            End::Quiet => {}
        }
        end
    };
    let end = tokio::select! {
        end = carried => end,
        _ = cut.changed() => End::Reset,
    };
    if end == End::Reset {
        reset(client);
    }
}

/// How long a held connection waits for the next one; far above any limit of a test.
const HOLD: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The sender is done and the receiver knows; or nobody needs to know.
    Quiet,
    Reset,
    /// The receiver of this direction was told that it is over.
    Close(Direction),
}

async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    plan: Pump,
    conn: usize,
    direction: Direction,
    asked: &Notify,
    events: &Facts<ProxyEvent>,
) -> End {
    let Pump { cut, flip, mut insert, pace } = plan;
    // An answer can only break off, be it at its first byte, once there was something to answer.
    if direction == Direction::Down && matches!(cut, Some((0, Cut::Reset | Cut::Close))) {
        asked.notified().await;
    }
    let mut writer = Paced { pace, held: Vec::new(), jitter: 0x9e37_79b9 ^ conn as u64 };
    let mut total = 0_u64;
    let mut buffer = vec![0; 16 << 10];
    loop {
        if let Some((_, extra)) = insert.take_if(|(at, _)| *at == total)
            && to.write_all(&extra).await.is_err()
        {
            return End::Reset;
        }
        if let Some((_, how)) = cut.filter(|(at, _)| *at == total) {
            if writer.flush(&mut to).await.is_err() {
                return End::Reset;
            }
            events.push(ProxyEvent::Fired { conn, direction, cut: how });
            match how {
                Cut::Reset => return End::Reset,
                Cut::Stall => std::future::pending().await,
                Cut::Close | Cut::HalfClose => {
                    let _ = to.shutdown().await;
                }
            }
            if how == Cut::Close {
                return End::Close(direction);
            }
            while matches!(from.read(&mut buffer).await, Ok(1..)) {}
            return End::Quiet;
        }
        // Reads stop where something is to be done.
        let stops = [cut.as_ref().map(|(at, _)| *at), insert.as_ref().map(|(at, _)| *at)];
        let room = stops.into_iter().flatten().filter(|&at| at > total).map(|at| at - total).min();
        let room = room.map_or(buffer.len(), |room| room.min(buffer.len() as u64) as usize);
        let piece = buffer.get_mut(..room).unwrap_or_default();
        let len = match from.read(piece).await {
            Ok(0) => {
                if direction == Direction::Up {
                    asked.notify_one();
                }
                events.push(ProxyEvent::Closed { conn, direction });
                let _ = writer.flush(&mut to).await;
                let _ = to.shutdown().await;
                return End::Quiet;
            }
            Ok(len) => len,
            Err(_) => return End::Reset,
        };
        let piece = piece.get_mut(..len).unwrap_or_default();
        if let Some(at) = flip.and_then(|at| at.checked_sub(total))
            && let Some(byte) = piece.get_mut(at as usize)
        {
            *byte ^= 1;
        }
        if writer.write(&mut to, piece).await.is_err() {
            return End::Reset;
        }
        total += len as u64;
        if direction == Direction::Up {
            asked.notify_one();
        }
        events.push(ProxyEvent::Passed { conn, direction, total });
    }
}

struct Paced {
    pace: Pace,
    held: Vec<u8>,
    jitter: u64,
}

impl Paced {
    async fn write(&mut self, to: &mut WriteHalf<'_>, bytes: &[u8]) -> io::Result<()> {
        match self.pace {
            Pace::AsTheyCome => to.write_all(bytes).await,
            Pace::EveryByte => {
                for byte in bytes {
                    to.write_all(&[*byte]).await?;
                    // Lets the reader take it before the next one comes.
                    tokio::task::yield_now().await;
                }
                Ok(())
            }
            Pace::Together(count) => {
                self.held.extend_from_slice(bytes);
                if self.held.len() < count {
                    return Ok(());
                }
                self.pace = Pace::AsTheyCome;
                self.flush(to).await
            }
            Pace::Drip(pause) => {
                for byte in bytes {
                    tokio::time::sleep(pause).await;
                    to.write_all(&[*byte]).await?;
                }
                Ok(())
            }
            Pace::Late { from, to: longest } => {
                let spread = longest.saturating_sub(from).as_micros() as u64;
                tokio::time::sleep(from + Duration::from_micros(self.random() % (spread + 1))).await;
                to.write_all(bytes).await
            }
            Pace::Rate(per_second) => {
                for piece in bytes.chunks((per_second as usize / 50).max(1)) {
                    tokio::time::sleep(Duration::from_secs(1) * piece.len() as u32 / per_second).await;
                    to.write_all(piece).await?;
                }
                Ok(())
            }
        }
    }

    async fn flush(&mut self, to: &mut WriteHalf<'_>) -> io::Result<()> {
        to.write_all(&std::mem::take(&mut self.held)).await
    }

    /// The same run has the same jitter (xorshift).
    fn random(&mut self) -> u64 {
        self.jitter ^= self.jitter << 13;
        self.jitter ^= self.jitter >> 7;
        self.jitter ^= self.jitter << 17;
        self.jitter
    }
}

async fn drain(stream: &mut TcpStream) {
    let mut buffer = vec![0; 16 << 10];
    while matches!(stream.read(&mut buffer).await, Ok(1..)) {}
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ScriptedServer, ServerEvent};
    use std::io::ErrorKind;

    const LIMIT: Duration = Duration::from_secs(60);
    const REQUEST: &[u8] = b"request!";
    const ANSWER: &[u8] = b"the answer";

    /// Answers once it has the whole request.
    async fn server() -> ScriptedServer {
        ScriptedServer::start(|mut conn| async move {
            if conn.read(REQUEST.len()).await.len() == REQUEST.len() {
                conn.send(ANSWER).await;
            }
            conn.close().await;
        })
        .await
    }

    struct Exchange {
        proxy: FaultProxy,
        server: ScriptedServer,
        answer: Vec<u8>,
        end: Result<(), ErrorKind>,
    }

    /// One request through the proxy; reads until the connection ends.
    async fn exchange(plan: Plan) -> Exchange {
        let server = server().await;
        let proxy = FaultProxy::start(server.addr()).await;
        proxy.plan(plan);
        let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
        let mut answer = Vec::new();
        let end = async {
            client.write_all(REQUEST).await?;
            client.read_to_end(&mut answer).await
        };
        let end = tokio::time::timeout(LIMIT, end).await.expect("the exchange ends");
        Exchange { end: end.map(|_| ()).map_err(|error| error.kind()), answer, proxy, server }
    }

    #[tokio::test]
    async fn without_a_fault_nothing_is_changed() {
        for plan in [Plan::clean(), Plan::n17_every_byte(), Plan::n17_together(8, 10)] {
            let Exchange { answer, end, proxy, .. } = exchange(plan).await;
            assert_eq!((answer.as_slice(), end), (ANSWER, Ok(())));
            proxy.wait_ended(0, LIMIT).await;
            assert_eq!((proxy.passed(0, Direction::Up), proxy.passed(0, Direction::Down)), (8, 10));
        }
    }

    #[tokio::test]
    async fn together_is_one_write_and_every_byte_is_many() {
        for (plan, pieces) in [(Plan::n17_together(8, 0), 1), (Plan::n17_every_byte(), 2)] {
            let Exchange { server, .. } = exchange(plan).await;
            let received = server.events().look(|events| {
                events.iter().filter(|event| matches!(event, ServerEvent::Received { .. })).count()
            });
            assert!(received >= pieces, "{received} pieces");
            assert!(pieces > 1 || received == 1, "{received} pieces");
        }
    }

    #[tokio::test]
    async fn n04_n05_end_at_once() {
        let closed = exchange(Plan::n04_close()).await;
        assert_eq!((closed.answer.as_slice(), closed.end), (&[][..], Ok(())));
        let reset = exchange(Plan::n05_reset()).await;
        assert_eq!(reset.end, Err(ErrorKind::ConnectionReset));
        assert_eq!(reset.server.connection_count(), 0, "nothing reached the server");
    }

    #[tokio::test]
    async fn n06_n07_cut_the_request_after_k_bytes() {
        for k in [0, 1, 7] {
            let reset = exchange(Plan::n06_reset_up(k)).await;
            assert_eq!(reset.end, Err(ErrorKind::ConnectionReset), "k = {k}");
            reset.server.wait_closed(0, LIMIT).await;
            let half = exchange(Plan::n07_half_close_up(k)).await;
            half.server.wait_closed(0, LIMIT).await;
            assert_eq!(half.server.received(0), &REQUEST[..k as usize]);
            assert_eq!(half.end, Ok(()), "the other direction goes on");
        }
    }

    #[tokio::test]
    async fn n08_n11_n13_stall_until_the_client_gives_up() {
        for (plan, up, down) in [
            (Plan::n08_no_answer(), 8, 0),
            (Plan::n11_stall_down(4), 8, 4),
            (Plan::n13_stop_reading(3), 3, 0),
        ] {
            let server = server().await;
            let proxy = FaultProxy::start(server.addr()).await;
            proxy.plan(plan);
            let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
            client.write_all(REQUEST).await.unwrap();
            let mut answer = vec![0; down];
            client.read_exact(&mut answer).await.unwrap();
            proxy
                .events()
                .eventually(LIMIT, "the stall", |events| {
                    events.iter().any(|event| matches!(event, ProxyEvent::Fired { cut: Cut::Stall, .. }))
                })
                .await;
            proxy
                .events()
                .eventually(LIMIT, "the request", |_| proxy_passed(&proxy, Direction::Up) == up)
                .await;
            proxy.reset_all();
            assert_eq!(client.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        }
    }

    fn proxy_passed(proxy: &FaultProxy, way: Direction) -> u64 {
        proxy.passed(0, way)
    }

    #[tokio::test]
    async fn n09_n10_cut_the_answer_after_k_bytes() {
        for k in [0, 1, 9] {
            let reset = exchange(Plan::n09_reset_down(k)).await;
            assert_eq!(reset.end, Err(ErrorKind::ConnectionReset), "k = {k}");
            let closed = exchange(Plan::n10_close_down(k)).await;
            assert_eq!((closed.answer.as_slice(), closed.end), (&ANSWER[..k as usize], Ok(())));
        }
    }

    #[tokio::test]
    async fn n12_n14_are_slow_but_whole() {
        for plan in [
            Plan::n12_drip(),
            Plan::n14_latency(Duration::from_millis(5), Duration::from_millis(9)),
            Plan::bandwidth(1000),
        ] {
            let Exchange { answer, end, .. } = exchange(plan).await;
            assert_eq!((answer.as_slice(), end), (ANSWER, Ok(())));
        }
    }

    #[tokio::test]
    async fn n15_n16_change_what_they_say() {
        let up = exchange(Plan::n15_flip(Direction::Up, 7)).await;
        assert_eq!(up.server.received(0), b"request\x20");
        let down = exchange(Plan::n15_flip(Direction::Down, 0)).await;
        assert_eq!(down.answer, b"uhe answer");
        let extra = exchange(Plan::n16_extra(10, *b", and more")).await;
        assert_eq!(extra.answer, b"the answer, and more");
    }

    #[tokio::test]
    async fn n18_the_first_connection_waits_for_the_second() {
        let server = server().await;
        let proxy = FaultProxy::start(server.addr()).await;
        proxy.plans([Plan::n18_after_the_next()]);
        let mut first = TcpStream::connect(proxy.addr()).await.unwrap();
        first.write_all(REQUEST).await.unwrap();
        proxy.wait_connections(1, LIMIT).await;
        let mut second = TcpStream::connect(proxy.addr()).await.unwrap();
        second.write_all(REQUEST).await.unwrap();
        let mut answer = Vec::new();
        second.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, ANSWER);
        assert_eq!(server.connection_count(), 1, "the first has not reached the server");
        drop(second);
        let mut answer = Vec::new();
        first.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, ANSWER);
    }
}
