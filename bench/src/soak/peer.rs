//! A peer of the soak: a process of its own that serves ZAP-HTTP and can be made to misbehave.
//!
//! Being killed and stopped happens to it from outside. The network faults it plays itself, where the
//! client's kernel cannot tell the difference: a black hole completes no connection and lets the open ones
//! fall silent, a reset sends RST on each.

use std::convert::Infallible;
use std::io::{BufRead, BufReader, Lines, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use peerage_zaphttp::{Connection, Server};
use rustix::process::{Pid, Signal, kill_process};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream as Stream};
use tokio::sync::watch;

use crate::BoxError;

/// Connections that may wait to be accepted while all is well.
const QUEUE: i32 = 1024;

/// What can happen to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Killed,
    Stopped,
    BlackHoled,
    Reset,
}

impl Fault {
    pub(crate) const ALL: [Self; 4] = [Self::Killed, Self::Stopped, Self::BlackHoled, Self::Reset];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::Stopped => "stopped",
            Self::BlackHoled => "black-holed",
            Self::Reset => "reset",
        }
    }
}

/// A peer's process, ended with this.
pub(crate) struct Peer {
    pub(crate) name: String,
    pub(crate) addr: SocketAddr,
    process: Process,
}

struct Process {
    child: Child,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Peer {
    pub(crate) fn start(name: &str) -> Result<Self, BoxError> {
        let (process, addr) = Process::start(name, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        Ok(Self { name: name.to_owned(), addr, process })
    }

    pub(crate) fn strike(&mut self, fault: Fault) -> Result<(), BoxError> {
        match fault {
            Fault::Killed => {
                self.process.child.kill()?;
                self.process.child.wait()?;
            }
            Fault::Stopped => kill_process(self.process.pid(), Signal::STOP)?,
            Fault::BlackHoled => self.process.tell("hole")?,
            Fault::Reset => self.process.tell("reset")?,
        }
        Ok(())
    }

    pub(crate) fn heal(&mut self, fault: Fault) -> Result<(), BoxError> {
        match fault {
            Fault::Killed => self.process = Process::start(&self.name, self.addr)?.0,
            Fault::Stopped => kill_process(self.process.pid(), Signal::CONT)?,
            Fault::BlackHoled | Fault::Reset => self.process.tell("heal")?,
        }
        Ok(())
    }
}

impl Process {
    fn start(name: &str, addr: SocketAddr) -> Result<(Self, SocketAddr), BoxError> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["soak-peer", name, &addr.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let commands = child.stdin.take().ok_or("no input")?;
        let answers = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
        let mut process = Self { child, commands, answers };
        let addr = process.answer()?.parse()?;
        Ok((process, addr))
    }

    /// Returns when it is done.
    fn tell(&mut self, command: &str) -> Result<(), BoxError> {
        writeln!(self.commands, "{command}")?;
        self.answer().map(drop)
    }

    fn answer(&mut self) -> Result<String, BoxError> {
        Ok(self.answers.next().ok_or("a peer ended")??)
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What the network around a peer is like.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weather {
    Fair,
    Hole,
    Reset,
}

/// The peer's process: ends with its input.
pub(crate) fn serve(args: &[String]) -> Result<(), BoxError> {
    let [name, addr] = args else { return Err(crate::USAGE.into()) };
    let body = Bytes::from(name.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = listen(addr.parse()?)?;
        let addr = listener.local_addr()?;
        // The kernel's end of the queue, for while nobody accepts.
        let queue = listener.as_fd().try_clone_to_owned()?;
        let weather = watch::Sender::new(Weather::Fair);
        tokio::spawn(accept(listener, body, weather.subscribe()));
        println!("{addr}");
        tokio::task::spawn_blocking(move || obey(&weather, &queue, addr)).await?
    })
}

fn listen(addr: SocketAddr) -> Result<TcpListener, BoxError> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    // A peer that was killed comes back at its address.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(QUEUE)?;
    Ok(TcpListener::from_std(socket.into())?)
}

fn obey(weather: &watch::Sender<Weather>, queue: &OwnedFd, addr: SocketAddr) -> Result<(), BoxError> {
    let mut waiting = Vec::new();
    for command in std::io::stdin().lines() {
        match command?.as_str() {
            "hole" => {
                weather.send_replace(Weather::Hole);
                SockRef::from(queue).listen(0)?;
                // Even a queue of length 0 completes a handshake or two. The next SYN is not answered.
                while let Ok(stream) = TcpStream::connect_timeout(&addr, Duration::from_millis(20)) {
                    waiting.push(stream);
                }
            }
            "reset" => {
                weather.send_replace(Weather::Reset);
            }
            "heal" => {
                SockRef::from(queue).listen(QUEUE)?;
                waiting.clear();
                weather.send_replace(Weather::Fair);
            }
            other => return Err(format!("{other}: no such command").into()),
        }
        println!("done");
    }
    Ok(())
}

async fn accept(listener: TcpListener, body: Bytes, weather: watch::Receiver<Weather>) {
    let server = Server::builder().build();
    loop {
        let mut now = weather.clone();
        if now.wait_for(|weather| *weather != Weather::Hole).await.is_err() {
            return;
        }
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = now.changed() => continue,
        };
        let Ok((stream, _)) = accepted else { continue };
        tokio::spawn(carry(server.clone(), stream, body.clone(), now));
    }
}

/// Serves a connection as long as the weather lets it.
async fn carry(server: Server, stream: Stream, body: Bytes, mut weather: watch::Receiver<Weather>) {
    let Ok(handle) = stream.as_fd().try_clone_to_owned() else { return };
    let Ok(connection) = Connection::tcp(stream) else { return };
    let answer = tower::service_fn(move |_: Request<peerage_zaphttp::Body>| {
        let body = body.clone();
        async move { Ok::<_, Infallible>(Response::new(Full::new(body))) }
    });
    let mut serving = Box::pin(server.serve_connection(connection, answer));
    loop {
        let now = *weather.borrow_and_update();
        match now {
            Weather::Fair => {
                let mut changed = pin!(weather.changed());
                tokio::select! {
                    biased;
                    outcome = &mut changed => if outcome.is_err() { return },
                    () = &mut serving => return,
                }
            }
            // What is not polled reads and writes nothing.
            Weather::Hole => {
                if weather.changed().await.is_err() {
                    return;
                }
            }
            Weather::Reset => {
                // Closing sends RST then, whatever there is to read.
                drop(SockRef::from(&handle).set_linger(Some(Duration::ZERO)));
                return;
            }
        }
    }
}
