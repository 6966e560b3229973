//! Servers that are not there.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

/// N01: an address of loopback that refuses connections, and stays refusing as long as this lives.
#[derive(Debug)]
pub struct Refuser {
    addr: SocketAddr,
    /// Bound, so that nobody else gets the port, but not listening.
    _socket: Socket,
}

impl Refuser {
    /// Takes a free port.
    ///
    /// # Panics
    ///
    /// If loopback has none.
    pub fn new() -> Self {
        let (socket, addr) = bound();
        Self { addr, _socket: socket }
    }

    /// The address.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Default for Refuser {
    fn default() -> Self {
        Self::new()
    }
}

/// N02: an address of loopback where a connect never ends: its queue is full and nobody accepts.
#[derive(Debug)]
pub struct BlackHole {
    addr: SocketAddr,
    _listener: Socket,
    _queued: Vec<TcpStream>,
}

impl BlackHole {
    /// Makes one; takes 100 ms.
    ///
    /// # Panics
    ///
    /// If loopback has no free port, or the kernel's queue does not fill.
    pub fn new() -> Self {
        let (listener, addr) = bound();
        listener.listen(0).expect("a bound socket can listen");
        let mut queued = Vec::new();
        // A queue of length 0 still completes one handshake, or two.
        while let Ok(stream) = TcpStream::connect_timeout(&addr, Duration::from_millis(100)) {
            queued.push(stream);
            assert!(queued.len() < 8, "the queue of a listener with backlog 0 does not fill");
        }
        Self { addr, _listener: listener, _queued: queued }
    }

    /// The address.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Default for BlackHole {
    fn default() -> Self {
        Self::new()
    }
}

fn bound() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("the system gives sockets");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("loopback has a free port");
    let addr = socket.local_addr().ok().and_then(|addr| addr.as_socket()).expect("it was bound to IPv4");
    (socket, addr)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;
    use tokio::net::TcpStream;

    #[tokio::test]
    async fn n01_n02_nobody_is_there() {
        let refuser = Refuser::new();
        let error = TcpStream::connect(refuser.addr()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        let hole = tokio::task::spawn_blocking(BlackHole::new).await.unwrap();
        let connect = TcpStream::connect(hole.addr());
        assert!(tokio::time::timeout(Duration::from_millis(300), connect).await.is_err(), "it never ends");
    }
}
