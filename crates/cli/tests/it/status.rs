//! `peerage status` and `peerage proxy --status`: the page, its JSON, its stream, its metrics, and who may see them.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::gateway::{body, event};
use crate::kit::{Listening, dead_address, get, http, lines, ok, peerage, signal, text, upstream, wait};

fn service() -> Listening {
    let upstream = format!("http://{}", upstream(|_, _| ok("here")));
    Listening::start(&["expose", "billing", "--listen", "127.0.0.1:0", "--upstream", &upstream])
}

fn status(from: &str, more: &[&str]) -> Listening {
    Listening::start(&[&["--from", from, "status", "--listen", "127.0.0.1:0"], more].concat())
}

/// A proxy, its address, and that of its page.
struct Proxied {
    process: Child,
    address: SocketAddr,
    page: SocketAddr,
}

impl Proxied {
    fn start(from: &str) -> Self {
        let args = ["--json", "--from", from, "proxy", "--listen", "127.0.0.1:0", "--status", "127.0.0.1:0"];
        let mut process =
            peerage(&args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the command starts");
        let ready = event(&lines(process.stdout.take().expect("stdout is piped")));
        let told = |key: &str| {
            ready.get(key).and_then(Value::as_str).and_then(|text| text.parse().ok()).expect("an address")
        };
        Self { address: told("address"), page: told("status"), process }
    }

    fn calls(&self) -> Vec<Value> {
        let shown = body(&get(self.page, "localhost", "/api/v1/calls"));
        shown.get("calls").and_then(Value::as_array).expect("a list").clone()
    }
}

impl Drop for Proxied {
    fn drop(&mut self) {
        // Both fail when it has ended already.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// What the page is told, as it comes.
fn pushed(page: SocketAddr) -> impl FnMut() -> Value {
    let mut next = crate::kit::pushed(page);
    move || serde_json::from_str(&next()).expect("it is JSON")
}

#[test]
fn the_page_shows_the_peers_of_a_list_without_calling_them() {
    let (service, dead) = (service(), dead_address());
    let status = status(&format!("static:{},{dead}", service.address), &["billing"]);
    let shown = body(&get(status.address, "localhost", "/api/v1/services"));
    let shown = &shown["services"][0];
    assert_eq!((&shown["service"], &shown["discovery"]), (&"_billing._tcp".into(), &"ready".into()));
    let peers = shown["peers"].as_array().expect("a list");
    let mut there: Vec<&str> = peers.iter().filter_map(|peer| peer["node_id"].as_str()).collect();
    there.sort_unstable();
    let mut expected = [service.address.to_string(), dead.to_string()];
    expected.sort_unstable();
    assert_eq!(there, expected);
    assert!(peers.iter().all(|peer| peer["state"] == "up" && peer["source"] == "static"), "{shown}");

    let metrics = get(status.address, "localhost", "/metrics");
    assert!(metrics.contains("content-type: application/openmetrics-text"), "{metrics}");
    assert!(metrics.contains("\npeerage_peers{service=\"_billing._tcp\",state=\"up\"} 2\n"), "{metrics}");
    assert!(metrics.contains("# TYPE peerage_discovery_joined counter\n"), "{metrics}");
    assert!(metrics.contains("\npeerage_discovery_joined_total{service=\"_billing._tcp\"} 2\n"), "{metrics}");
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");
    assert!(get(status.address, "localhost", "/api/v1/nothing").starts_with("HTTP/1.1 404"));
    status.interrupt();
    assert_eq!(status.wait(), Some(0));
}

#[test]
fn the_page_runs_nothing_but_its_own_script() {
    let status = status("static:127.0.0.1:9", &["billing"]);
    let page = get(status.address, "localhost", "/");
    assert!(page.contains("<title>Peerage</title>") && page.contains("<main>"), "{page}");
    let policy =
        page.lines().find_map(|line| line.strip_prefix("content-security-policy: ")).expect("a policy");
    assert!(
        policy.starts_with("default-src 'none'; style-src 'sha256-") && !policy.contains("unsafe"),
        "{policy}"
    );
    for header in
        ["x-content-type-options: nosniff", "cache-control: no-store", "referrer-policy: no-referrer"]
    {
        assert!(page.contains(header), "{header}: {page}");
    }
}

#[test]
fn the_page_answers_for_this_host_alone() {
    let mine = status("static:127.0.0.1:9", &["billing"]);
    for host in ["evil.example", "evil.example:80", "", "127.0.0.1.evil.example", "10.0.0.1", "0.0.0.0"] {
        for path in ["/", "/api/v1/services", "/api/v1/events", "/metrics"] {
            let answer = get(mine.address, host, path);
            assert!(answer.starts_with("HTTP/1.1 421"), "{host}{path}: {answer}");
        }
    }
    for host in ["localhost:8090", "127.0.0.1", "[::1]:80"] {
        assert!(get(mine.address, host, "/").starts_with("HTTP/1.1 200"), "{host}");
    }
    let two = "GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    assert!(!http(mine.address, two).starts_with("HTTP/1.1 200"), "which of them is meant?");
    let target = "GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert!(http(mine.address, target).starts_with("HTTP/1.1 421"), "the target says where it goes");

    let everybody = ["--from", "static:127.0.0.1:9", "status", "billing", "--listen", "0.0.0.0:0"];
    let shared = Listening::start(&[&everybody[..], &["--danger-listen"]].concat());
    let address = SocketAddr::from(([127, 0, 0, 1], shared.address.port()));
    assert!(get(address, "10.0.0.1:8090", "/").starts_with("HTTP/1.1 200"), "an address names no other site");
    assert!(get(address, "evil.example", "/").starts_with("HTTP/1.1 421"), "a name may");
}

#[test]
fn the_page_is_told_of_changes_and_does_not_keep_it_from_ending() {
    let directory = tempfile::tempdir().expect("a directory");
    let list = directory.path().join("peers.json");
    let peers = |nodes: &[&str]| {
        let peers: Vec<String> = nodes
            .iter()
            .map(|node| format!(r#"{{"node_id":"{node}","addresses":["127.0.0.1:9"]}}"#))
            .collect();
        // Replaced as a whole: half a list is none.
        let new = directory.path().join("new.json");
        fs::write(&new, format!(r#"{{"version":1,"peers":[{}]}}"#, peers.join(","))).expect("a file");
        fs::rename(&new, &list).expect("it can be renamed");
    };
    peers(&["one"]);
    let mut status = status(&format!("file:{}", list.display()), &["billing"]);
    let mut next = pushed(status.address);
    let mut nodes = || {
        let shown = next();
        let peers = shown["services"]["services"][0]["peers"].as_array().cloned().unwrap_or_default();
        peers.iter().filter_map(|peer| peer["node_id"].as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    while nodes() != ["one"] {}
    peers(&["one", "two"]);
    while nodes() != ["one", "two"] {}
    status.interrupt();
    assert_eq!(wait(&mut status.process).code(), Some(0), "an open page does not keep it");
}

#[test]
fn a_proxy_shows_its_calls_and_why_they_went_where_they_went() {
    let (service, dead) = (service(), dead_address());
    let mut proxy = Proxied::start(&format!("static:{}", service.address));
    assert_eq!(proxy.calls(), [] as [Value; 0]);
    let mut next = pushed(proxy.page);
    let secret = "CANARY-nnqkzvxhbpfmtrys";
    let request = format!(
        "GET /v1/x?token={secret} HTTP/1.1\r\nHost: billing.localhost\r\nAuthorization: Bearer {secret}\r\n\
         Cookie: a={secret}\r\nConnection: close\r\n\r\n"
    );
    assert!(http(proxy.address, &request).starts_with("HTTP/1.1 200"));

    // The peers are looked at before the calls; and the last byte of a body may be on its way while its head is told.
    let shown = loop {
        let shown = next();
        let peer = &shown["services"]["services"][0]["peers"][0];
        let is_told = shown["calls"]["calls"].as_array().is_some_and(|calls| !calls.is_empty());
        if is_told && peer["in_flight"] == 0 && !peer["estimate_ms"].is_null() {
            break shown;
        }
    };
    let call = &shown["calls"]["calls"][0];
    assert_eq!(
        (&call["service"], &call["method"], &call["path"]),
        (&"billing".into(), &"GET".into(), &"/v1/x".into())
    );
    assert_eq!(call["status"], 200, "{call}");
    let attempt = &call["attempts"][0];
    assert_eq!(attempt["peer"], service.address.to_string());
    let why = attempt["why"][0].as_str().expect("a reason");
    assert!(why.starts_with(&format!("picked {} by peak_ewma", service.address)), "{call}");
    let known = &shown["services"]["services"][0];
    assert_eq!((&known["service"], &known["policy"]), (&"_billing._tcp".into(), &"peak_ewma".into()));
    assert!(known["peers"][0]["estimate_ms"].as_f64().is_some_and(|estimate| estimate > 0.0), "{known}");
    assert_eq!(known["peers"][0]["state"], "up", "{known}");
    assert!(!shown.to_string().contains(secret), "{shown}");
    let metrics = get(proxy.page, "localhost", "/metrics");
    assert!(metrics.contains("peerage_calls_total{outcome=\"answered\"} 1\n"), "{metrics}");
    assert!(metrics.contains("# TYPE peerage_peer_estimate_seconds gauge\n"), "{metrics}");
    assert!(!metrics.contains(secret), "{metrics}");

    let answer = get(proxy.page, "billing.localhost", "/v1/x");
    assert!(answer.starts_with("HTTP/1.1 421"), "the page is no way to a peer: {answer}");
    signal(&proxy.process, "INT");
    assert_eq!(wait(&mut proxy.process).code(), Some(0), "an open page does not keep it");

    let failing = Proxied::start(&format!("static:{dead}"));
    assert!(get(failing.address, "billing.localhost", "/").starts_with("HTTP/1.1 502"));
    let calls = failing.calls();
    let attempt = &calls[0]["attempts"][0];
    assert_eq!(
        (&attempt["outcome"], &attempt["address"]),
        (&"dial".into(), &dead.to_string().into()),
        "{calls:?}"
    );
    assert!(calls[0]["error"].as_str().is_some_and(|error| error.contains(&dead.to_string())), "{calls:?}");
}

#[test]
fn a_proxy_without_a_page_and_one_that_ends_before_its_calls_are_as_ever() {
    let output =
        peerage(&["proxy", "--listen", "127.0.0.1:0", "--status", "0.0.0.0:0"]).output().expect("it starts");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--danger-listen"), "{}", text(&output.stderr));
    assert!(output.stdout.is_empty(), "nothing is ready");

    // Told while it runs, and at the end as one that nobody waits for any more.
    let upstream = upstream(|_, _| {
        std::thread::park_timeout(Duration::from_secs(600));
        ok("late")
    });
    let upstream = format!("http://{upstream}");
    let slow = Listening::start(&["expose", "billing", "--listen", "127.0.0.1:0", "--upstream", &upstream]);
    let proxy = Proxied::start(&format!("static:{}", slow.address));
    let mut next = pushed(proxy.page);
    let mut stream = TcpStream::connect(proxy.address).expect("it listens");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: billing.localhost\r\n\r\n").expect("it reads");
    while next()["services"]["services"][0]["peers"][0]["in_flight"] != 1 {}
    drop(stream);
    let given_up = loop {
        let shown = next();
        if let Some(call) = shown["calls"]["calls"].get(0) {
            break call.clone();
        }
    };
    assert_eq!(given_up["error"], "given up: the caller went away, or its time was over");
}
