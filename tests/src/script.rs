//! Servers that send and take raw bytes: what no real server would do, done on purpose.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::Facts;

/// A TCP server on loopback that runs an async script for each connection and records everything.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use peerage_tests::ScriptedServer;
///
/// let server = ScriptedServer::start(|mut conn| async move {
///     conn.read_until(b"\r\n\r\n").await;
///     conn.send(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel").await;
///     conn.reset();
/// })
/// .await;
/// # let _ = server.addr();
/// # }
/// ```
#[derive(Debug)]
pub struct ScriptedServer {
    addr: SocketAddr,
    events: Facts<ServerEvent>,
    accepting: AbortHandle,
}

/// What a [`ScriptedServer`] saw or did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "tests match on all of them")]
pub enum ServerEvent {
    /// Connection number `conn`, from 0, was accepted.
    Accepted {
        /// Which one.
        conn: usize,
        /// When.
        at: Instant,
    },
    /// Bytes came.
    Received {
        /// On which connection.
        conn: usize,
        /// What.
        bytes: Vec<u8>,
    },
    /// Bytes were sent.
    Sent {
        /// On which connection.
        conn: usize,
        /// How many.
        len: usize,
    },
    /// The client closed its side.
    ClientClosed {
        /// On which connection.
        conn: usize,
    },
    /// The client reset the connection, or writing to it failed.
    ClientReset {
        /// On which connection.
        conn: usize,
    },
    /// The script of this connection came to its end.
    Done {
        /// On which connection.
        conn: usize,
    },
}

impl ScriptedServer {
    /// Starts one that runs `script` for each connection, all at the same time.
    ///
    /// # Panics
    ///
    /// If loopback has no free port.
    pub async fn start<S, F>(script: S) -> Self
    where
        S: Fn(ServerConn) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("loopback has a free port");
        let addr = listener.local_addr().expect("a bound listener has an address");
        let events = Facts::new();
        let record = events.clone();
        let accepting = tokio::spawn(async move {
            // The scripts end with the server: dropping the set aborts them.
            let mut scripts = JoinSet::new();
            for number in 0.. {
                let Ok((stream, _)) = listener.accept().await else { break };
                while scripts.try_join_next().is_some() {}
                let _ = stream.set_nodelay(true);
                record.push(ServerEvent::Accepted { conn: number, at: Instant::now() });
                let running =
                    script(ServerConn { stream, number, events: record.clone(), unread: Vec::new() });
                let record = record.clone();
                scripts.spawn(async move {
                    running.await;
                    record.push(ServerEvent::Done { conn: number });
                });
            }
        })
        .abort_handle();
        Self { addr, events, accepting }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Everything that happened, in order.
    pub fn events(&self) -> &Facts<ServerEvent> {
        &self.events
    }

    /// How many connections were accepted.
    pub fn connection_count(&self) -> usize {
        self.events.look(|events| {
            events.iter().filter(|event| matches!(event, ServerEvent::Accepted { .. })).count()
        })
    }

    /// All bytes that came on connection `number`.
    pub fn received(&self, number: usize) -> Vec<u8> {
        self.events.look(|events| {
            events
                .iter()
                .filter_map(|event| match event {
                    ServerEvent::Received { conn, bytes } if *conn == number => Some(bytes.as_slice()),
                    _ => None,
                })
                .collect::<Vec<_>>()
                .concat()
        })
    }

    /// Waits until `count` connections were accepted.
    ///
    /// # Panics
    ///
    /// After `limit`.
    pub async fn wait_connections(&self, count: usize, limit: Duration) {
        self.events
            .eventually(limit, &format!("{count} connections"), |events| {
                events.iter().filter(|event| matches!(event, ServerEvent::Accepted { .. })).count() >= count
            })
            .await;
    }

    /// Waits until the client closed or reset connection `number`.
    ///
    /// # Panics
    ///
    /// After `limit`.
    pub async fn wait_closed(&self, number: usize, limit: Duration) {
        self.events
            .eventually(limit, &format!("the end of connection {number}"), |events| {
                events.iter().any(|event| {
                    matches!(event, ServerEvent::ClientClosed { conn } | ServerEvent::ClientReset { conn } if *conn == number)
                })
            })
            .await;
    }
}

impl Drop for ScriptedServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// One accepted connection, seen from the server. Dropping it closes the socket; with unread bytes that
/// is a reset on Linux, so read what was sent before a clean close.
#[derive(Debug)]
pub struct ServerConn {
    stream: TcpStream,
    number: usize,
    events: Facts<ServerEvent>,
    /// Bytes that came with those of an earlier read, not handed out yet.
    unread: Vec<u8>,
}

impl ServerConn {
    /// Which connection this is, from 0.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Reads until at least `len` bytes are there, and gives out exactly those; fewer if the client closes.
    pub async fn read(&mut self, len: usize) -> Vec<u8> {
        while self.unread.len() < len && self.fill().await {}
        self.take(len)
    }

    /// Reads up to and with `mark`; whatever came if the client closes before.
    pub async fn read_until(&mut self, mark: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = self.unread.windows(mark.len()).position(|window| window == mark) {
                return self.take(at + mark.len());
            }
            if !self.fill().await {
                return self.take(usize::MAX);
            }
        }
    }

    /// Reads one ZAP frame, without its length prefix; `None` if the client closes before it is whole.
    pub async fn read_frame(&mut self) -> Option<Vec<u8>> {
        let prefix: [u8; 4] = self.read(4).await.try_into().ok()?;
        let len = u32::from_be_bytes(prefix) as usize;
        let frame = self.read(len).await;
        (frame.len() == len).then_some(frame)
    }

    /// Reads until the client closes or resets.
    pub async fn read_to_end(&mut self) -> Vec<u8> {
        while self.fill().await {}
        self.take(usize::MAX)
    }

    /// Sends bytes in one write. Whether the client took them is in the events.
    pub async fn send(&mut self, bytes: &[u8]) {
        match self.stream.write_all(bytes).await {
            Ok(()) => self.events.push(ServerEvent::Sent { conn: self.number, len: bytes.len() }),
            Err(_) => self.events.push(ServerEvent::ClientReset { conn: self.number }),
        }
    }

    /// Sends one ZAP frame behind its length prefix, both in one write.
    pub async fn send_frame(&mut self, frame: &[u8]) {
        let len = u32::try_from(frame.len()).expect("test frames are small");
        self.send(&[&len.to_be_bytes(), frame].concat()).await;
    }

    /// Sends bytes one by one, each after `pause`.
    pub async fn drip(&mut self, bytes: &[u8], pause: Duration) {
        for byte in bytes {
            tokio::time::sleep(pause).await;
            self.send(&[*byte]).await;
        }
    }

    /// Closes the server's side only (FIN).
    pub async fn half_close(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Reads what the client still has to say, after closing our side: a close without a reset.
    pub async fn close(mut self) {
        self.half_close().await;
        self.read_to_end().await;
    }

    /// Resets the connection (RST).
    pub fn reset(self) {
        reset(self.stream);
    }

    /// Keeps the connection open, reading nothing, until the server is dropped.
    pub async fn stall(self) {
        std::future::pending::<()>().await;
    }

    /// The socket, for servers that go on in another protocol. Nothing is recorded from here on.
    ///
    /// # Panics
    ///
    /// If bytes were read ahead.
    pub fn into_stream(self) -> TcpStream {
        assert!(self.unread.is_empty(), "bytes were read ahead");
        self.stream
    }

    async fn fill(&mut self) -> bool {
        let mut bytes = vec![0; 64 << 10];
        let event = match self.stream.read(&mut bytes).await {
            Ok(0) => ServerEvent::ClientClosed { conn: self.number },
            Ok(len) => {
                bytes.truncate(len);
                self.unread.extend_from_slice(&bytes);
                ServerEvent::Received { conn: self.number, bytes }
            }
            Err(_) => ServerEvent::ClientReset { conn: self.number },
        };
        let goes_on = matches!(event, ServerEvent::Received { .. });
        self.events.push(event);
        goes_on
    }

    fn take(&mut self, len: usize) -> Vec<u8> {
        let rest = self.unread.split_off(len.min(self.unread.len()));
        std::mem::replace(&mut self.unread, rest)
    }
}

/// Closes with RST.
pub(crate) fn reset(stream: TcpStream) {
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    drop(stream);
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::Notify;

    const LIMIT: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_script_reads_and_sends_exact_bytes() {
        let server = ScriptedServer::start(|mut conn| async move {
            assert_eq!(conn.read_until(b"\r\n").await, b"hello\r\n");
            assert_eq!(conn.read(3).await, b"abc");
            assert_eq!(conn.read_frame().await.as_deref(), Some(&b"frame"[..]));
            conn.send_frame(b"ok").await;
            conn.close().await;
        })
        .await;
        let mut client = TcpStream::connect(server.addr()).await.unwrap();
        client.write_all(b"hello\r\nabc\0\0\0\x05frame").await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"\0\0\0\x02ok");
        drop(client);
        server.wait_closed(0, LIMIT).await;
        assert_eq!(server.received(0), b"hello\r\nabc\0\0\0\x05frame");
        assert_eq!(server.connection_count(), 1);
    }

    #[tokio::test]
    async fn a_reset_is_a_reset_and_the_next_connection_is_its_own() {
        let server = ScriptedServer::start(|mut conn| async move {
            match conn.number() {
                0 => conn.reset(),
                _ => conn.send(b"second").await,
            }
        })
        .await;
        let mut client = TcpStream::connect(server.addr()).await.unwrap();
        let error = client.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        let mut client = TcpStream::connect(server.addr()).await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"second");
        server.wait_connections(2, LIMIT).await;
    }

    #[tokio::test]
    async fn a_frame_that_is_cut_is_none_and_what_came_is_recorded() {
        let done = std::sync::Arc::new(Notify::new());
        let script_done = done.clone();
        let server = ScriptedServer::start(move |mut conn| {
            let done = script_done.clone();
            async move {
                assert_eq!(conn.read_frame().await, None);
                done.notify_one();
            }
        })
        .await;
        let mut client = TcpStream::connect(server.addr()).await.unwrap();
        client.write_all(&[0, 0, 0, 9, 1, 2]).await.unwrap();
        client.shutdown().await.unwrap();
        tokio::time::timeout(LIMIT, done.notified()).await.unwrap();
        assert_eq!(server.received(0), [0, 0, 0, 9, 1, 2]);
    }
}
