//! The push model (RG-02, RG-03): pushes through replicas that fail in every way they can, judged by what
//! the servers applied.
//!
//! Servers are honest and unlucky: they apply a push only when they have all of it, and say "not applied"
//! only when it was not; apart from that they lose connections, answers and bodies at any byte.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body::Body as _;
use http_body_util::{BodyExt as _, Full, StreamBody};
use peerage_transport::wire::{Connect, Connection, RawBody, Upload};
use peerage_transport::{BoxError, Config, Proxy, ProxyError, ReplayBody, Service, push_outcome_unknown};
use url::Url;

use crate::kit::no_headers;
use crate::world::of_cluster;

/// How many pushes a plain `cargo test` makes; an optimised one makes 20,000.
const PUSHES: u64 = if cfg!(debug_assertions) { 2_000 } else { 20_000 };

const REPORT: &str = "000eunpack ok\n0000";
const REPLICAS: [&str; 3] =
    ["https://n1.cluster.example", "https://n2.cluster.example", "https://n3.cluster.example"];

/// What happened, in order.
#[derive(Clone, Debug)]
#[expect(dead_code, reason = "shown when a push is judged wrong")]
enum Event {
    /// `taken` is what the client's side gave away, of which the server saw `bytes`.
    Received {
        push: u64,
        at: String,
        bytes: usize,
        taken: usize,
        of: usize,
    },
    Applied {
        push: u64,
    },
    Answered {
        push: u64,
        status: u16,
        marker: &'static str,
    },
    Ended {
        push: u64,
        outcome: Outcome,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Success,
    NotApplied,
    Unknown,
}

struct Servers {
    random: Mutex<fastrand::Rng>,
    push: Mutex<u64>,
    healthy: Mutex<bool>,
    history: Mutex<Vec<Event>>,
}

impl Servers {
    fn note(&self, event: Event) {
        self.history.lock().unwrap().push(event);
    }

    fn pick<T: Copy>(&self, among: &[T]) -> T {
        among[self.random.lock().unwrap().usize(..among.len())]
    }

    fn is_healthy(&self) -> bool {
        *self.healthy.lock().unwrap()
    }
}

#[derive(Clone)]
struct Net(Arc<Servers>);

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Net")
    }
}

#[async_trait]
impl Connect for Net {
    async fn connect(&self, url: &Url, _: Duration) -> Result<Box<dyn Connection>, BoxError> {
        if !self.0.is_healthy() {
            match self.0.pick(&[0, 0, 0, 0, 0, 0, 1, 2, 3]) {
                1 => return Err("refused".into()),
                2 => std::future::pending().await,
                3 => tokio::time::sleep(Duration::from_millis(400)).await,
                _ => {}
            }
        }
        Ok(Box::new(Open(self.0.clone(), url.origin().ascii_serialization())))
    }
}

struct Open(Arc<Servers>, String);

/// How much of the body a server takes before something happens: every class of cut point.
fn cuts(len: usize) -> Vec<usize> {
    let mut cuts: Vec<usize> = [0, 1, 3, 4, 15, 16, 63, 64, len / 2, len.saturating_sub(1), len].to_vec();
    cuts.retain(|cut| *cut <= len);
    cuts
}

#[async_trait]
impl Connection for Open {
    async fn send(
        self: Box<Self>,
        request: http::Request<Upload>,
    ) -> Result<http::Response<RawBody>, BoxError> {
        let Self(servers, at) = *self;
        let (head, mut upload) = request.into_parts();
        if head.method == http::Method::GET {
            let refs = http::Response::builder().header("x-entire-replicas", REPLICAS.join(","));
            return Ok(refs.body(Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync())?);
        }
        let push = *servers.push.lock().unwrap();
        let len: usize = head.headers["content-length"].to_str()?.parse()?;
        let healthy = servers.is_healthy();
        // Half of the time everything is taken.
        let cut = if healthy || servers.pick(&[true, false]) { len } else { servers.pick(&cuts(len)) };
        let mut taken = 0;
        // A reader that stops inside a piece has had no more of it than a socket would hold.
        while taken < cut && !upload.is_end_stream() {
            match upload.frame().await {
                Some(frame) => taken += frame?.into_data().unwrap().len(),
                None => break,
            }
        }
        let whole = taken >= len && cut == len;
        servers.note(Event::Received { push, at, bytes: taken.min(cut), taken, of: len });
        if !healthy && servers.pick(&[0, 0, 0, 0, 0, 1]) == 1 {
            tokio::time::sleep(Duration::from_millis(servers.pick(&[1, 900, 1100]))).await;
        }
        let apply = || servers.note(Event::Applied { push });
        let answer = |status: u16, marker: &'static str, body: &'static str, broken: bool| {
            servers.note(Event::Answered { push, status, marker });
            let mut answer = http::Response::builder().status(status);
            if !marker.is_empty() {
                answer = answer.header("x-entire-push-outcome", marker);
            }
            if (300..400).contains(&status) {
                answer = answer.header("location", "https://n1.cluster.example/elsewhere");
            }
            let body = if broken {
                let half = Bytes::from_static(&body.as_bytes()[..body.len() / 2]);
                let frames = [Ok(http_body::Frame::data(half)), Err("cut".into())];
                StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()
            } else {
                Full::new(Bytes::from_static(body.as_bytes())).map_err(|never| match never {}).boxed_unsync()
            };
            Ok(answer.body(body)?)
        };
        if healthy {
            apply();
            return answer(200, "", REPORT, false);
        }
        let fate = servers.pick(&(0..18).collect::<Vec<u8>>());
        match fate {
            // Whatever a server says before it has everything, it did not apply it.
            0 => Err("reset".into()),
            1 => answer(401, "", "", false),
            2 => answer(servers.pick(&[301, 302, 303, 307, 308, 304]), "", "", false),
            3 => answer(507, "", "full", false),
            4 => answer(servers.pick(&[403, 404, 413, 422]), "", "no", false),
            5 => answer(servers.pick(&[500, 502, 503, 504]), "not-applied", "no primary", false),
            6 => answer(servers.pick(&[500, 502, 503, 504]), "", "busy", false),
            7 => std::future::pending().await,
            8 => {
                if whole && servers.pick(&[true, false]) {
                    apply();
                }
                answer(servers.pick(&[200, 401, 500, 502, 503, 507]), "indeterminate", "lost it", false)
            }
            _ if !whole => Err("reset".into()),
            9 => {
                apply();
                Err("reset after the primary had it".into())
            }
            10 => {
                apply();
                answer(servers.pick(&[500, 502, 503, 504]), "", "no answer of the primary", false)
            }
            11 => {
                apply();
                answer(200, "", REPORT, true)
            }
            12 => {
                apply();
                std::future::pending().await
            }
            _ => {
                apply();
                answer(200, "", REPORT, false)
            }
        }
    }
}

/// One push as the helper makes it: the report is read to its end, and a cut in it is unknown.
async fn push(proxy: &Proxy, body: &ReplayBody) -> Result<Bytes, ProxyError> {
    let report = proxy.service_rpc(Service::ReceivePack, body.clone(), no_headers()).await?;
    report.collect(1 << 20).await.map_err(|error| push_outcome_unknown(error).into())
}

fn judge(history: &[Event], push: u64) {
    let of = |event: &&Event| match event {
        Event::Received { push: of, .. }
        | Event::Applied { push: of }
        | Event::Answered { push: of, .. }
        | Event::Ended { push: of, .. } => *of == push,
    };
    let mine: Vec<&Event> = history.iter().filter(of).collect();
    let applied = mine.iter().filter(|event| matches!(event, Event::Applied { .. })).count();
    let outcome = mine.iter().find_map(|event| match event {
        Event::Ended { outcome, .. } => Some(*outcome),
        _ => None,
    });
    let told = format!("push {push}: {mine:#?}");
    assert!(applied <= 1, "applied twice: {told}");
    match outcome.expect("every push ends") {
        Outcome::Success => assert_eq!(applied, 1, "success that is none: {told}"),
        Outcome::NotApplied => assert_eq!(applied, 0, "applied all the same: {told}"),
        Outcome::Unknown => assert!(
            mine.iter().any(|event| match event {
                Event::Received { taken, of, .. } => taken >= of,
                Event::Answered { marker, .. } => *marker == "indeterminate",
                _ => false,
            }),
            "unknown without a reason: {told}"
        ),
    }
}

#[tokio::test(start_paused = true)]
async fn s189_no_push_is_applied_twice_or_reported_wrongly() {
    let seed: u64 = option_env!("PEERAGE_SEED").map_or(0x5eed, |seed| seed.parse().unwrap());
    println!("PEERAGE_SEED={seed}");
    let servers = Arc::new(Servers {
        random: Mutex::new(fastrand::Rng::with_seed(seed)),
        push: Mutex::new(0),
        healthy: Mutex::new(false),
        history: Mutex::default(),
    });
    let mut outcomes: HashMap<&str, u64> = HashMap::new();
    for number in 0..PUSHES {
        *servers.push.lock().unwrap() = number;
        servers.history.lock().unwrap().clear();
        *servers.healthy.lock().unwrap() = false;
        let known = of_cluster("cluster.example", "https://cluster.example", &REPLICAS);
        let proxy =
            Proxy::new(Config::new(known, crate::kit::PATH).connector(Arc::new(Net(servers.clone()))))
                .unwrap();
        let len = servers.pick(&[0_usize, 1, 5, 100, 70_000, 200_000, 1_100_000]);
        let body = ReplayBody::from(vec![b'x'; len]);
        // Somebody presses Ctrl-C after a minute.
        let pushed = tokio::time::timeout(Duration::from_secs(60), push(&proxy, &body)).await;
        let outcome = match pushed {
            Ok(Ok(report)) if report == REPORT => Outcome::Success,
            Ok(Ok(_)) => Outcome::NotApplied,
            Ok(Err(ProxyError::PushOutcomeUnknown(_))) => Outcome::Unknown,
            Ok(Err(_)) => Outcome::NotApplied,
            Err(_) if body.is_handed_out() => Outcome::Unknown,
            Err(_) => Outcome::NotApplied,
        };
        servers.note(Event::Ended { push: number, outcome });
        judge(&servers.history.lock().unwrap(), number);
        *outcomes
            .entry(match outcome {
                Outcome::Success => "success",
                Outcome::NotApplied => "not applied",
                Outcome::Unknown => "unknown",
            })
            .or_default() += 1;
        // When everybody is well again, the next push works.
        if number % 10 == 0 {
            let next = PUSHES + number;
            *servers.push.lock().unwrap() = next;
            *servers.healthy.lock().unwrap() = true;
            proxy.info_refs(Service::ReceivePack).await.unwrap();
            assert_eq!(push(&proxy, &body).await.unwrap(), REPORT);
            servers.note(Event::Ended { push: next, outcome: Outcome::Success });
            judge(&servers.history.lock().unwrap(), next);
        }
    }
    println!("{PUSHES} pushes: {outcomes:?}");
    assert!(outcomes.values().all(|count| *count > PUSHES / 20) && outcomes.len() == 3, "{outcomes:?}");
}
