//! Whole connections against a peer that says anything, in any cuts: they end, they hold no more memory
//! than was sent, and nobody gets the answer of somebody else.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use peerage_zaphttp::wire::{self, Answer, Chunk, Limits};
use peerage_zaphttp::{Body, Client, Connect, ConnectError, Connection, ConnectionInfo, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::script::{End, Input, LABEL, Script, Step, UNASKED, answer, answer_to, settle, write_some};

/// Longer than all timeouts together; time is paused, so it costs nothing.
const EVER: Duration = Duration::from_secs(3_600);
/// What every connection may take besides what is proportional to its bytes: the windows of both
/// directions, the first read of a long frame, the runtime.
const SLACK: u64 = 1 << 20;
/// Those of [`Limits::default`], spelled out for a constant.
const LIMITS: Limits = Limits { max_frame_len: wire::MAX_FRAME_LEN, max_pairs: 256, max_block_len: 64 << 10 };
const NUMBER: &str = "x-number";
const WINDOWS: [usize; 4] = [16, 300, 5_000, 64 << 10];

/// Runs a future where time stands still; how much memory it held at a time at the most.
fn paused(future: impl Future<Output = ()>) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without sockets");
    allocation_counter::measure(|| runtime.block_on(future)).bytes_max
}

/// A server, and a caller that says what the input says.
pub fn zap_conn_server(data: &[u8]) {
    let mut input = Input::new(data);
    let settings = input.byte();
    let script = input.script();
    let mut seen = Seen::default();
    let used = paused(async {
        let (near, far) = tokio::io::duplex(WINDOWS[usize::from(settings % 4)]);
        let server = Server::builder()
            .limits(LIMITS)
            .idle_timeout(Duration::from_secs(60))
            .write_timeout(Duration::from_secs(10))
            .max_inline_body(1 << 10)
            .build();
        let connection = Connection::new(near, ConnectionInfo::default());
        let calls = Arc::new(AtomicUsize::new(0));
        let service = tower::service_fn(move |request: Request<Body>| {
            let number = calls.fetch_add(1, Ordering::Relaxed);
            async move { Ok::<_, Infallible>(echo(number, request).await) }
        });
        let serving = server.serve_connection(connection, service);
        let both = async { tokio::join!(serving, call(far, &script, settings & 4 != 0, &mut seen)) };
        timeout(EVER, both).await.expect("a connection ends");
    });
    let moved = (seen.sent.len() + seen.received.len()) as u64;
    assert!(used <= SLACK + 8 * moved, "{used} bytes at a time for {moved} that moved");
    seen.judge(&script, settings & 4 != 0);
}

/// Answers with the body: whole, in pieces, or in pieces that come one by one.
async fn echo(number: usize, request: Request<Body>) -> Response<Body> {
    let body = request.into_body().collect().await.expect("a request is whole").to_bytes();
    if body.len() % 3 == 0 {
        // What was answered before leaves meanwhile.
        tokio::task::yield_now().await;
    }
    let pieces: Vec<Bytes> = body.chunks(7).map(|piece| body.slice_ref(piece)).collect();
    let later = comes_one_by_one(&body);
    let pieces = futures_util::stream::iter(pieces).then(move |piece| async move {
        if later {
            tokio::task::yield_now().await;
        }
        Ok::<_, Infallible>(http_body::Frame::data(piece))
    });
    let is_streamed = body.len() % 2 == 1;
    let mut response =
        Response::new(if is_streamed { Body::new(StreamBody::new(Box::pin(pieces))) } else { body.into() });
    response.headers_mut().insert(NUMBER, HeaderValue::from(number));
    response
}

fn comes_one_by_one(body: &[u8]) -> bool {
    body.len() % 4 == 1
}

/// What a caller said and heard.
#[derive(Default)]
struct Seen {
    sent: Vec<u8>,
    received: Vec<u8>,
}

/// Plays the part of a caller; one that is lazy reads nothing before it has said all.
async fn call(io: DuplexStream, script: &Script, lazy: bool, seen: &mut Seen) {
    let (mut reader, mut writer) = tokio::io::split(io);
    let (said, wait) = tokio::sync::oneshot::channel::<()>();
    let Seen { sent, received } = seen;
    let speaking = async move {
        for step in &script.steps {
            let alive = match step {
                Step::Bytes(bytes) => write_some(&mut writer, bytes, sent).await,
                Step::Answer { kind, body } => write_some(&mut writer, &answer(*kind, "/", body), sent).await,
                Step::Yield => {
                    tokio::task::yield_now().await;
                    true
                }
                Step::Settle => {
                    settle().await;
                    true
                }
            };
            if !alive {
                break;
            }
        }
        if script.end == End::HalfClose {
            let _ = writer.shutdown().await;
        }
        let _ = said.send(());
        writer
    };
    let listening = async move {
        if lazy && wait.await.is_err() {
            return;
        }
        let _ = reader.read_to_end(received).await;
    };
    if script.end == End::Close {
        // Whatever is under way, it is cut when all is said.
        tokio::select! { biased; _ = speaking => {}, () = listening => {} }
    } else {
        tokio::join!(speaking, listening);
    }
}

impl Seen {
    /// Each answer belongs to its request, and where the caller waited for them there are all.
    fn judge(&self, script: &Script, lazy: bool) {
        let mut frames = Frames { rest: &self.sent, is_broken: false };
        let mut asked = Vec::new();
        let is_refused = loop {
            let Some(frame) = frames.next() else { break frames.is_broken };
            match wire::read_request(frame, &LIMITS) {
                Ok((request, _)) => asked.push(request),
                Err(_) => break true,
            }
        };
        let mut answers = Frames { rest: &self.received, is_broken: false };
        let mut answered = 0;
        let mut was_refused = false;
        while let Some((head, body)) = answers.answer() {
            let Some(number) = head.get(NUMBER) else {
                assert!(is_refused && answered == asked.len(), "a refusal of what is fine");
                assert!(!was_refused, "one refusal is enough");
                was_refused = true;
                continue;
            };
            assert!(!was_refused, "nothing follows a refusal");
            let request = asked.get(answered).expect("an answer without a request");
            assert_eq!(number, &HeaderValue::from(answered), "answers come in order");
            let expected = if request.method() == Method::HEAD { &[] } else { &request.body()[..] };
            assert!(body == expected, "answer {answered} is another's");
            answered += 1;
        }
        let cut_short =
            script.end == End::HalfClose && asked.iter().any(|request| comes_one_by_one(request.body()));
        if script.end != End::Close && !lazy && !cut_short {
            assert_eq!((answered, was_refused), (asked.len(), is_refused), "all are answered");
            assert!(answers.rest.is_empty(), "nothing is left over");
        }
    }
}

/// Takes a stream of frames apart.
struct Frames<'a> {
    rest: &'a [u8],
    /// Where no frame can begin.
    is_broken: bool,
}

impl Frames<'_> {
    fn answer(&mut self) -> Option<(HeaderMap, Vec<u8>)> {
        let answer = wire::read_response(self.next()?, &Limits::default(), &Method::GET);
        match answer.expect("a server sends answers") {
            Answer::Whole(response, _) => {
                let (head, body) = response.into_parts();
                Some((head.headers, body.to_vec()))
            }
            Answer::Head(head) => {
                let mut body = Vec::new();
                loop {
                    match wire::read_chunk(self.next()?, &Limits::default()).expect("the rest of an answer") {
                        Chunk::Data(data) => body.extend_from_slice(&data),
                        Chunk::End(_) => return Some((head.into_parts().0.headers, body)),
                    }
                }
            }
        }
    }
}

impl Iterator for Frames<'_> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let (prefix, rest) = self.rest.split_first_chunk()?;
        let Ok(len) = wire::frame_len(*prefix, &LIMITS) else {
            self.is_broken = true;
            return None;
        };
        let frame = rest.get(..len)?;
        self.rest = &rest[len..];
        Some(Bytes::copy_from_slice(frame))
    }
}

/// Peers that answer as the input says, each connection with a script of its own.
struct Peers {
    scripts: Mutex<VecDeque<Script>>,
    window: usize,
    playing: Mutex<JoinSet<()>>,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Peers")
    }
}

#[async_trait::async_trait]
impl Connect for Peers {
    async fn connect(&self) -> Result<Connection, ConnectError> {
        let script = self.scripts.lock().expect("no thread but one").pop_front();
        let Some(script) = script else {
            return Err(ConnectError::Io(std::io::ErrorKind::ConnectionRefused.into()));
        };
        let (near, far) = tokio::io::duplex(self.window);
        self.playing.lock().expect("no thread but one").spawn(answer_to(far, script));
        // Some speak before they are spoken to.
        tokio::task::yield_now().await;
        Ok(Connection::new(near, ConnectionInfo::default()))
    }
}

/// A client, and peers that say what the input says.
pub fn zap_conn_client(data: &[u8]) {
    let mut input = Input::new(data);
    let (settings, choices) = (input.byte(), input.byte());
    let mut scripts = VecDeque::new();
    while !input.rest.is_empty() && scripts.len() < 8 {
        scripts.push_back(input.script());
    }
    let said: usize = scripts.iter().flat_map(|script| &script.steps).map(Step::size).sum();
    let window = WINDOWS[usize::from(settings % 4)];
    // The peers are remembered until the runtime is gone; so are their windows.
    let slack = SLACK + 8 * 3 * window as u64;
    let used = paused(async {
        let peers = Peers { scripts: Mutex::new(scripts), window, playing: Mutex::default() };
        let client = Client::builder(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))
            .connector(Arc::new(peers))
            .limits(LIMITS)
            .response_timeout(Duration::from_secs(5))
            .stream_idle_timeout(Duration::from_secs(5))
            .build();
        for number in 0..4_u8 {
            let choice = choices.rotate_right(u32::from(number) * 2);
            timeout(EVER, ask(&client, number, choice)).await.expect("an exchange ends");
            // What the peer says without being asked comes while the connection is idle.
            settle().await;
            assert_eq!(client.connection_count(), client.idle_count(), "nothing runs");
        }
        client.close();
        assert_eq!(client.connection_count(), 0, "nothing is left");
    });
    assert!(used <= slack + 8 * said as u64, "{used} bytes at a time for {said} that were said");
}

/// One exchange; its answer is for it, whether it is read to its end or not.
async fn ask(client: &Client, number: u8, choice: u8) {
    let target = format!("/{number}");
    let body = vec![number; if choice & 4 == 0 { 3 } else { 3_000 }];
    let method = if choice & 1 == 0 { Method::GET } else { Method::POST };
    let request = Request::builder().method(method).uri(&target).body(Body::from(body));
    let Ok(response) = client.send(request.expect("a request")).await else { return };
    if let Some(label) = response.headers().get(LABEL) {
        assert!(label == &target || label == UNASKED, "{target} got the answer of {label:?}");
    }
    let mut body = response.into_body();
    while let Some(Ok(_)) = body.frame().await {
        if choice & 2 != 0 {
            break;
        }
    }
}
