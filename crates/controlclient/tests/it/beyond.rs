//! Where it goes beyond the reference (controlplane §7), as far as no row of its own says so.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use peerage_controlclient::{Gateway, Registration, Service, State};
use peerage_devgateway::{BlackHole, Code, Rpc};
use peerage_tests::LogCapture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::kit::{
    ADDR, History, O, TICK, at, gateway, greeter, id_of, ms, only_id, reaches, reaches_where, registering,
    secs, times,
};

#[tokio::test(start_paused = true)]
async fn cb10_each_change_shows_within_10_ms_of_its_cause() {
    let gateway = gateway().await;
    // The gateway's log counts from its start, which is now.
    let zero = Instant::now();
    let registration = registering(&gateway)
        .ttl(secs(9))
        .heartbeat_interval(secs(1))
        .spread(Duration::ZERO)
        .rejected_pause(secs(1))
        .start()
        .await
        .unwrap();
    let history = History::of(&registration);
    // The call that is the cause, the latest of its kind, and the state that it brings about.
    let mut causes = Vec::new();
    let last = |rpc| zero + *times(&gateway, rpc).last().unwrap();
    causes.push((last(Rpc::Register), "live"));

    gateway.fail_next(Rpc::Heartbeat, 1, Code::Unavailable, "busy");
    gateway.wait_for_calls(Rpc::Heartbeat, 1).await.unwrap();
    causes.push((last(Rpc::Heartbeat), "suspect"));
    gateway.wait_for_calls(Rpc::Heartbeat, 2).await.unwrap();
    causes.push((last(Rpc::Heartbeat), "live"));

    // The answer to the next Register is held back, so that what comes before it shows.
    gateway.evict(&only_id(&gateway));
    gateway.delay(Rpc::Register, ms(300));
    gateway.wait_for_calls(Rpc::Register, 2).await.unwrap();
    causes.push((last(Rpc::Heartbeat), "lost"));
    causes.push((last(Rpc::Register) + ms(300), "live"));
    reaches(&registration, "live").await;

    gateway.evict(&only_id(&gateway));
    gateway.fail_next(Rpc::Register, 1, Code::Unknown, "different schema hash");
    gateway.wait_for_calls(Rpc::Register, 3).await.unwrap();
    causes.push((last(Rpc::Heartbeat), "lost"));
    causes.push((last(Rpc::Register) + ms(300), "rejected"));
    reaches(&registration, "rejected").await;
    gateway.wait_for_calls(Rpc::Register, 4).await.unwrap();
    causes.push((last(Rpc::Register) + ms(300), "live"));
    reaches(&registration, "live").await;

    // Silence: the end of the lease.
    gateway.wait_for_beats(&only_id(&gateway), 1).await.unwrap();
    gateway.black_hole(BlackHole::All);
    let State::Suspect { lease_ends, .. } = reaches(&registration, "suspect").await else { unreachable!() };
    causes.push((lease_ends, "lost"));
    reaches(&registration, "lost").await;
    gateway.lift_black_hole();
    reaches(&registration, "live").await;

    gateway.delay(Rpc::Deregister, ms(300));
    let asked = Instant::now();
    registration.shutdown(secs(5)).await;
    causes.push((asked, "draining"));
    causes.push((asked + ms(300), "closed"));
    // The clock is paused: this lets every task run that can.
    tokio::time::sleep(TICK).await;

    let mut shown = history.times().into_iter();
    for (cause, state) in causes {
        let (_, at) = shown.find(|(name, _)| *name == state).unwrap_or_else(|| panic!("{state} never came"));
        let late = at.saturating_duration_since(cause);
        assert!(at >= cause && late <= ms(10), "{state} shows {late:?} after its cause");
    }
}

/// A stream that keeps a copy of what is written to it.
struct Copied<S> {
    stream: S,
    written: Arc<Mutex<Vec<u8>>>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Copied<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Copied<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(len)) = written {
            self.written.lock().unwrap().extend_from_slice(&bytes[..len]);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// How often each type of frame was written to a connection of HTTP/2 (RFC 9113 §4.1); acknowledgements are
/// nobody's idea but the other end's.
fn frames(written: &[u8]) -> BTreeMap<u8, usize> {
    let mut left = written.strip_prefix(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("it begins so");
    let mut counts = BTreeMap::new();
    while let [a, b, c, kind, flags, _, _, _, _, rest @ ..] = left {
        let is_ack = [PING, SETTINGS].contains(kind) && flags & 1 == 1;
        *counts.entry(*kind).or_default() += usize::from(!is_ack);
        left = &rest[u32::from_be_bytes([0, *a, *b, *c]) as usize..];
    }
    counts
}

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;

#[tokio::test(start_paused = true)]
async fn cb11_ten_minutes_of_beats_without_a_ping() {
    let gateway = gateway().await;
    let written = Arc::new(Mutex::new(Vec::new()));
    let (connector, copy) = (gateway.connector(), written.clone());
    let at = Gateway::new(gateway.addr().to_string()).dialed_by(move || {
        let (connector, written) = (connector.clone(), copy.clone());
        async move { Ok(Copied { stream: connector.connect().await?, written }) }
    });
    let registration = Registration::builder(at, ADDR).service(greeter()).start().await.unwrap();
    // The ten minutes of the row, on a paused clock.
    tokio::time::sleep(secs(600)).await;
    let beats = registration.snapshot().counters.beats_ok;
    registration.shutdown(secs(5)).await;
    let frames = frames(&written.lock().unwrap());
    // A Register, the beats every 10 s, a Deregister, over one connection.
    assert!((54..=67).contains(&beats), "{beats}");
    assert_eq!(frames[&HEADERS] as u64, beats + 2, "{frames:?}");
    assert_eq!(frames.get(&PING).copied().unwrap_or_default(), 0, "{frames:?}");
    assert_eq!(frames[&SETTINGS], 1, "{frames:?}");
}

#[tokio::test(start_paused = true)]
async fn cb21_ten_minutes_without_a_gateway_are_a_few_lines() {
    let gateway = gateway().await;
    let registration = registering(&gateway).ttl(secs(6)).start().await.unwrap();
    gateway.wait_for_calls(Rpc::Heartbeat, 1).await.unwrap();
    let logs = LogCapture::start();
    gateway.stop().await.unwrap();
    // Ten minutes of an outage, on a paused clock.
    tokio::time::sleep(secs(600)).await;
    assert_eq!(registration.state().name(), "lost");
    let failed = registration.snapshot().counters.beats_failed;
    assert!(failed > 100, "{failed} beats: it goes on");
    let text = logs.text();
    let ours = text.lines().filter(|line| line.contains("peerage_controlclient"));
    let loud: Vec<_> = ours.filter(|line| line.contains("WARN") || line.contains("ERROR")).collect();
    assert!((2..=20).contains(&loud.len()), "{} lines: {loud:#?}", loud.len());
    registration.shutdown(secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn cb18_an_unstable_slot_that_was_taken_over_is_seen_when_asked_for() {
    let gateway = gateway().await;
    let other_document = O.replace("\"version\":\"1\"", "\"version\":\"2\"");
    let register = |document: String| {
        Registration::builder(at(&gateway), ADDR)
            .service(Service::openapi("billing", document).version("unstable"))
            .ttl(secs(6))
            .heartbeat_interval(ms(300))
            .check_served(1)
    };
    let registration = register(O.to_owned()).start().await.unwrap();
    gateway.wait_for_calls(Rpc::ListServices, 1).await.unwrap();
    assert!(matches!(registration.state(), State::Live { not_served: false, .. }));
    let other = register(other_document).start().await.unwrap();
    let swapped = times(&gateway, Rpc::Register)[1];
    reaches_where(&registration, "live", |state| matches!(state, State::Live { not_served: true, .. })).await;
    let id = id_of(&registration);
    let beats = gateway.log().into_iter().filter(|call| {
        call.rpc == Rpc::Heartbeat && call.at > swapped && call.registration_id.as_deref() == Some(&id)
    });
    assert!(beats.count() <= 3, "within two beats, and one that came meanwhile");
    assert!(registration.snapshot().counters.not_served >= 1);
    other.shutdown(secs(5)).await;
    registration.shutdown(secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn cb24_registrations_with_one_gateway_share_its_connection() {
    let server = gateway().await;
    let shared = at(&server);
    let mut registrations = Vec::new();
    for number in 0..20 {
        let builder = Registration::builder(shared.clone(), format!("127.0.0.1:{}", 41_000 + number));
        registrations.push(builder.service(greeter()).start().await.unwrap());
    }
    assert_eq!(server.registrations().len(), 20);
    assert_eq!(server.connections(), 1);
    assert_eq!(shared.connections_made(), 1);
    for registration in &registrations {
        registration.shutdown(secs(5)).await;
    }
    assert!(server.registrations().is_empty());
}
