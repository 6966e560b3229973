//! The least that can be done: epoll, fixed bytes, and nothing looked at but the length prefix.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::BytesMut;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use peerage_zaphttp::wire::{self, Limits, Payload};
use tokio::time::Instant;

use crate::load::{Recorder, Window};
use crate::{BoxError, sides};

const LISTENER: Token = Token(usize::MAX);
const STOP: Token = Token(usize::MAX - 1);
const SCRATCH: usize = 16 << 10;

/// What our client writes, byte for byte.
fn request_bytes() -> BytesMut {
    let (head, _) = sides::request(sides::TARGET).into_parts();
    let mut out = BytesMut::new();
    wire::put_request(&mut out, &head, Payload::Inline(b""), None, &Limits::default())
        .expect("a request within the limits");
    out
}

/// What our server answers, byte for byte.
fn response_bytes() -> BytesMut {
    let (head, _) = sides::greeting().into_parts();
    let mut out = BytesMut::new();
    let body = Payload::Inline(sides::GREETING);
    wire::put_response(&mut out, head.status, &head.headers, body, None, &Limits::default())
        .expect("a response within the limits");
    out
}

/// How much of the frame that arrives is still to come.
#[derive(Default)]
struct Progress {
    prefix: [u8; wire::PREFIX_LEN],
    prefix_len: usize,
    missing: usize,
}

impl Progress {
    /// Takes bytes; how many frames ended in them.
    fn take(&mut self, mut bytes: &[u8]) -> usize {
        let mut ended = 0;
        while !bytes.is_empty() {
            if self.missing > 0 {
                let step = self.missing.min(bytes.len());
                bytes = bytes.split_at(step).1;
                self.missing -= step;
                ended += usize::from(self.missing == 0);
                continue;
            }
            // Nearly always the whole prefix is here.
            if let (0, Some((prefix, rest))) = (self.prefix_len, bytes.split_first_chunk()) {
                self.missing = u32::from_be_bytes(*prefix) as usize;
                bytes = rest;
                continue;
            }
            let step = (self.prefix.len() - self.prefix_len).min(bytes.len());
            let (now, rest) = bytes.split_at(step);
            if let Some(place) = self.prefix.get_mut(self.prefix_len..self.prefix_len + step) {
                place.copy_from_slice(now);
            }
            bytes = rest;
            self.prefix_len += step;
            if self.prefix_len == self.prefix.len() {
                self.missing = u32::from_be_bytes(self.prefix) as usize;
                self.prefix_len = 0;
            }
        }
        ended
    }
}

struct Conn {
    stream: TcpStream,
    progress: Progress,
    started: Instant,
}

/// One read. `None` when the peer is gone.
fn read_frames(conn: &mut Conn, scratch: &mut [u8]) -> io::Result<Option<usize>> {
    match conn.stream.read(scratch) {
        Ok(0) => Ok(None),
        // Less than the scratch holds: the socket is empty, and epoll tells when it is not.
        Ok(read) => Ok(Some(conn.progress.take(scratch.get(..read).unwrap_or_default()))),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Some(0)),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(None),
        Err(error) => Err(error),
    }
}

/// An epoll loop in a thread of its own.
pub(crate) struct Server {
    addr: SocketAddr,
    waker: Waker,
    thread: JoinHandle<io::Result<()>>,
}

impl Server {
    pub(crate) fn start() -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), STOP)?;
        let mut listener = TcpListener::bind(([127, 0, 0, 1], 0).into())?;
        let addr = listener.local_addr()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let thread = std::thread::spawn(move || serve(poll, &listener));
        Ok(Self { addr, waker, thread })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn stop(self) -> Result<(), BoxError> {
        self.waker.wake()?;
        self.thread.join().map_err(|_| "the raw server panicked")??;
        Ok(())
    }
}

fn serve(mut poll: Poll, listener: &TcpListener) -> io::Result<()> {
    let answer = response_bytes();
    let mut conns: Vec<Option<Conn>> = Vec::new();
    let mut scratch = vec![0; SCRATCH];
    let mut events = Events::with_capacity(1024);
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            match event.token() {
                STOP => return Ok(()),
                LISTENER => accept(&poll, listener, &mut conns)?,
                Token(index) => {
                    let Some(place) = conns.get_mut(index) else { continue };
                    let Some(conn) = place else { continue };
                    match read_frames(conn, &mut scratch)? {
                        None => *place = None,
                        Some(frames) => {
                            for _ in 0..frames {
                                conn.stream.write_all(&answer)?;
                            }
                        }
                    }
                }
            }
        }
    }
}

fn accept(poll: &Poll, listener: &TcpListener, conns: &mut Vec<Option<Conn>>) -> io::Result<()> {
    loop {
        match listener.accept() {
            Ok((mut stream, _)) => {
                stream.set_nodelay(true)?;
                poll.registry().register(&mut stream, Token(conns.len()), Interest::READABLE)?;
                conns.push(Some(Conn { stream, progress: Progress::default(), started: Instant::now() }));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Asks on so many connections at once, one request after the other on each.
pub(crate) fn load(addr: SocketAddr, connections: usize, window: Window) -> Result<Recorder, BoxError> {
    let question = request_bytes();
    let mut poll = Poll::new()?;
    let mut conns = Vec::with_capacity(connections);
    for index in 0..connections {
        let stream = std::net::TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        poll.registry().register(&mut stream, Token(index), Interest::READABLE)?;
        conns.push(Conn { stream, progress: Progress::default(), started: Instant::now() });
    }
    let mut recorder = Recorder::new(window);
    for conn in &mut conns {
        conn.started = Instant::now();
        conn.stream.write_all(&question)?;
    }
    let mut scratch = vec![0; SCRATCH];
    let mut events = Events::with_capacity(1024);
    loop {
        poll.poll(&mut events, Some(Duration::from_secs(10)))?;
        if events.is_empty() {
            return Err("no answer for 10 s".into());
        }
        for event in &events {
            let Some(conn) = conns.get_mut(event.token().0) else { continue };
            match read_frames(conn, &mut scratch)? {
                None => return Err("the server closed a connection".into()),
                Some(0) => {}
                Some(_) => {
                    let now = Instant::now();
                    if !recorder.record(conn.started, now) {
                        return Ok(recorder);
                    }
                    conn.started = now;
                    conn.stream.write_all(&question)?;
                }
            }
        }
    }
}
