//! Starting the command, and talking plain HTTP to what it opens.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

/// More than anything here takes; a hang ends as a failure.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

pub(crate) fn peerage(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_peerage"));
    command.args(args).env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// Runs to the end.
pub(crate) fn run(args: &[&str]) -> Output {
    peerage(args).output().expect("the command starts")
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A command that listens; killed when dropped.
pub(crate) struct Listening {
    pub(crate) process: Child,
    pub(crate) address: SocketAddr,
    lines: mpsc::Receiver<String>,
}

impl Listening {
    /// Starts it and waits for its ready line.
    pub(crate) fn start(args: &[&str]) -> Self {
        let mut process =
            peerage(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command starts");
        let lines = lines(process.stdout.take().expect("stdout is piped"));
        let first = lines.recv_timeout(LIMIT);
        let Some(address) = first.ok().and_then(|line| line.strip_prefix("ready ")?.parse().ok()) else {
            process.kill().expect("it can be killed");
            let mut said = String::new();
            process
                .stderr
                .take()
                .expect("stderr is piped")
                .read_to_string(&mut said)
                .expect("stderr is text");
            panic!("{args:?} was not ready: {said}");
        };
        Self { process, address, lines }
    }

    /// Ctrl-C.
    pub(crate) fn interrupt(&self) {
        signal(&self.process, "INT");
    }

    /// Waits for the end and gives the exit code.
    pub(crate) fn wait(mut self) -> Option<i32> {
        drop(self.lines.recv_timeout(Duration::ZERO));
        let code = wait(&mut self.process);
        code.code()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        // Both fail when it has ended already.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

pub(crate) fn signal(process: &Child, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &process.id().to_string()]).status();
    assert!(status.is_ok_and(|status| status.success()), "kill -{name} reaches the process");
}

/// Waits for the end of a process; kills it at the limit.
pub(crate) fn wait(process: &mut Child) -> std::process::ExitStatus {
    let id = process.id();
    let (done, ended) = mpsc::channel::<()>();
    let watchdog = thread::spawn(move || {
        if ended.recv_timeout(LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
            Command::new("kill").args(["-KILL", &id.to_string()]).status().ok();
        }
    });
    let status = process.wait().expect("it is our child");
    drop(done);
    watchdog.join().expect("the watchdog does not panic");
    status
}

/// The lines of a process, as they come.
pub(crate) fn lines(stdout: ChildStdout) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// One HTTP/1.1 exchange on a connection of its own: the whole answer as text.
pub(crate) fn http(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a timeout can be set");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("it answers and closes");
    text(&answer)
}

pub(crate) fn get(address: SocketAddr, host: &str, path: &str) -> String {
    http(address, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
}

/// The data of the events that a status page is told, in a minute at most.
pub(crate) fn pushed(page: SocketAddr) -> impl FnMut() -> String {
    let mut stream = TcpStream::connect(page).expect("it listens");
    stream.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it reads");
    let (sender, events) = mpsc::channel();
    thread::spawn(move || {
        let lines = BufReader::new(stream).lines().map_while(Result::ok);
        let mut data = lines.filter_map(|line| line.strip_prefix("data: ").map(str::to_owned));
        data.try_for_each(|data| sender.send(data))
    });
    let until = Instant::now() + 2 * LIMIT;
    move || {
        events
            .recv_timeout(until.saturating_duration_since(Instant::now()))
            .expect("what is waited for comes")
    }
}

/// An address where nothing listens but what is told to: as long as these tests run, the system gives its port to
/// nobody who asks for a free one.
pub(crate) fn dead_address() -> SocketAddr {
    let kept = tokio::net::TcpSocket::new_v4().expect("a socket");
    kept.bind(([127, 0, 0, 1], 0).into()).expect("loopback has a free port");
    // Who asks for this very port may have it beside a socket that does not listen.
    kept.set_reuseaddr(true).expect("a socket has this setting");
    let address = kept.local_addr().expect("it is bound");
    std::mem::forget(kept);
    address
}

/// An HTTP server of few words: `answer` makes the whole answer from the head of a request and its body.
pub(crate) fn upstream(answer: impl Fn(&str, &[u8]) -> Vec<u8> + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound");
    let answer = std::sync::Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let answer = answer.clone();
            thread::spawn(move || serve(stream, &*answer));
        }
    });
    address
}

fn serve(mut stream: TcpStream, answer: &dyn Fn(&str, &[u8]) -> Vec<u8>) {
    let mut reader = BufReader::new(stream.try_clone().expect("a socket can be shared"));
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if !reader.read_line(&mut head).is_ok_and(|read| read > 0) {
            return;
        }
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let mut body = vec![0; length.unwrap_or_default()];
    if reader.read_exact(&mut body).is_ok() {
        stream.write_all(&answer(&head, &body)).ok();
    }
}

/// `200 OK` with a text.
pub(crate) fn ok(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
        .into_bytes()
}
