//! A connection that idles while its server closes it, and nobody here has been told.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};

use peerage_transport::{Proxy, Service};
use tokio::time::Instant;

use crate::failover::recorded;
use crate::kit::{LONG, config, no_headers, nodes, text};

const COMMANDS: &str = "commands";

/// A server that does one thing after the other, when it is told to: nothing of it needs the runtime.
struct Server {
    url: String,
    addr: SocketAddr,
    close: Sender<()>,
    /// Whose connection was closed.
    closed: Receiver<SocketAddr>,
}

impl Server {
    /// Answers a request and keeps the connection, until it is to be closed; then answers on the next.
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let (close, told) = channel();
        let (tell, closed) = channel();
        std::thread::spawn(move || {
            let (mut first, peer) = listener.accept().unwrap();
            answer(&mut first, 0, "refs");
            told.recv().unwrap();
            drop(first);
            tell.send(peer).unwrap();
            let (mut second, _) = listener.accept().unwrap();
            answer(&mut second, COMMANDS.len(), "done");
            // Until the client goes.
            let _ = second.read(&mut [0]);
        });
        Self { url: format!("http://{addr}"), addr, close, closed }
    }
}

/// Reads a request with so long a body, and answers it.
fn answer(stream: &mut TcpStream, body: usize, with: &str) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        request.extend(byte);
    }
    stream.read_exact(&mut vec![0; body]).unwrap();
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{with}", with.len()).unwrap();
}

/// Whether the system has been told, on the side of `ours`, that `theirs` is closed.
fn is_half_closed(ours: SocketAddr, theirs: SocketAddr) -> bool {
    let shown = |addr: SocketAddr| {
        let SocketAddr::V4(addr) = addr else { panic!("{addr} is no IPv4 address") };
        format!("{:08X}:{:04X}", u32::from_ne_bytes(addr.ip().octets()), addr.port())
    };
    // proc_net(5): number, both addresses, and the state, of which 08 is CLOSE_WAIT.
    let wanted = [shown(ours), shown(theirs), "08".to_owned()];
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().any(|line| line.split_whitespace().skip(1).take(3).eq(wanted.iter()))
}

#[tokio::test]
async fn gb06_a_connection_is_looked_at_before_it_is_used_again() {
    let server = Server::start();
    let (settings, recorder) = recorded(config(nodes(&[&server.url])));
    let proxy = Proxy::new(settings).unwrap();
    assert_eq!(text(proxy.info_refs(Service::ReceivePack).await).await.unwrap(), "refs");
    // Nothing is awaited from here to the push, so that no other task can have seen the connection's end.
    server.close.send(()).unwrap();
    let ours = server.closed.recv_timeout(LONG).unwrap();
    let begun = Instant::now();
    while !is_half_closed(ours, server.addr) {
        assert!(begun.elapsed() < LONG, "the system is never told");
        std::thread::yield_now();
    }
    let pushed = proxy.service_rpc(Service::ReceivePack, COMMANDS, no_headers()).await;
    assert_eq!(text(pushed).await.unwrap(), "done");
    assert_eq!(recorder.count(), 0);
}
