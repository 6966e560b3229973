//! `expose`, `proxy`, `call` and `peers` together.

use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;

use crate::kit::{LIMIT, Listening, dead_address, get, http, lines, ok, peerage, run, text, upstream};

/// A service on loopback whose answers name method, path and body.
fn echo() -> Listening {
    let upstream = upstream(|head, body| {
        let line = head.lines().next().unwrap_or_default();
        ok(&format!("{line} {}", String::from_utf8_lossy(body)))
    });
    expose(&format!("http://{upstream}"), &[])
}

fn expose(upstream: &str, more: &[&str]) -> Listening {
    let args = ["expose", "billing", "--listen", "127.0.0.1:0", "--upstream", upstream];
    Listening::start(&[&args[..], more].concat())
}

fn proxy_to(service: &Listening, more: &[&str]) -> Listening {
    let from = format!("static:{}", service.address);
    Listening::start(&[&["--from", &from, "proxy", "--listen", "127.0.0.1:0"][..], more].concat())
}

#[test]
fn a_call_by_name_reaches_the_upstream() {
    let service = echo();
    let from = format!("static:{}", service.address);
    let output = run(&["--from", &from, "call", "billing", "/v1/invoices/7?full=1"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "GET /v1/invoices/7?full=1 HTTP/1.1 ");

    let output = run(&["--from", &from, "--json", "call", "billing", "/", "-d", "three"]);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(answer["status"], 200);
    assert_eq!(answer["body"], "POST / HTTP/1.1 three");
    assert_eq!(answer["peer"], service.address.to_string());

    let output = run(&["--from", &from, "--json", "call", "billing", "/", "-n", "200", "-c", "8"]);
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(summary["answered"], 200);
    assert_eq!(summary["failed"], 0);
}

#[test]
fn the_proxy_chooses_the_service_by_the_first_word_of_the_host() {
    let service = echo();
    let proxy = proxy_to(&service, &[]);
    for host in ["billing.localhost:8080", "BILLING.localhost", "billing"] {
        let answer = get(proxy.address, host, "/v1/x");
        assert!(answer.starts_with("HTTP/1.1 200"), "{host}: {answer}");
        assert!(answer.ends_with("GET /v1/x HTTP/1.1 "), "{host}: {answer}");
        assert!(answer.contains(&format!("peerage-peer: {}", service.address)), "{host}: {answer}");
    }
    for host in ["localhost:8080", "127.0.0.1", "billing.example.com", "[::1]:80"] {
        let answer = get(proxy.address, host, "/");
        assert!(answer.starts_with("HTTP/1.1 404"), "{host} names no service: {answer}");
        assert!(answer.contains("http://NAME.localhost"), "{host}: it says what to write: {answer}");
    }
    let everything = proxy_to(&service, &["--service", "billing"]);
    assert!(
        get(everything.address, "127.0.0.1", "/y").ends_with("GET /y HTTP/1.1 "),
        "--service takes every host"
    );
}

#[test]
fn the_proxy_carries_bodies_and_refuses_websockets() {
    let service = echo();
    let proxy = proxy_to(&service, &[]);
    let answer = http(
        proxy.address,
        "POST /p HTTP/1.1\r\nHost: billing.localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
         4\r\nabcd\r\n2\r\nef\r\n0\r\n\r\n",
    );
    assert!(answer.contains("POST /p HTTP/1.1 abcdef"), "{answer}");
    let answer = http(
        proxy.address,
        "GET / HTTP/1.1\r\nHost: billing.localhost\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 501"), "{answer}");
    let output = Command::new("curl")
        .args(["-s", "--http2-prior-knowledge", "-H", "Host: billing.localhost"])
        .arg(format!("http://{}/h2", proxy.address))
        .output();
    if let Ok(output) = output {
        assert_eq!(text(&output.stdout), "GET /h2 HTTP/1.1 ", "curl speaks HTTP/2 to the proxy");
    }
}

/// The value of a header field that is passed on, as the upstream got it.
fn field(answer: &str, name: &str) -> Option<String> {
    let start = format!("{name}: ");
    answer.lines().find_map(|line| line.strip_prefix(&start)).map(|value| value.trim().to_owned())
}

#[test]
fn b_8_the_proxy_gives_a_call_no_more_time_than_its_caller_did() {
    let upstream = upstream(|head, _| ok(&head.to_ascii_lowercase()));
    let service = expose(&format!("http://{upstream}"), &[]);
    let proxy = proxy_to(&service, &[]);
    for (given, most) in [("peerage-timeout-ms: 20000", 19_995), ("grpc-timeout: 15S", 14_995)] {
        let answer = http(
            proxy.address,
            &format!("GET / HTTP/1.1\r\nHost: billing.localhost\r\nConnection: close\r\n{given}\r\n\r\n"),
        );
        let left = field(&answer, "peerage-timeout-ms").and_then(|left| left.parse::<u64>().ok());
        assert!(left.is_some_and(|left| (1..=most).contains(&left)), "{given}: {answer}");
    }
    let absurd = "peerage-timeout-ms: -1\r\nx-envoy-expected-rq-timeout-ms: 99999999999999999999";
    let answer = http(
        proxy.address,
        &format!("GET / HTTP/1.1\r\nHost: billing.localhost\r\nConnection: close\r\n{absurd}\r\n\r\n"),
    );
    let left = field(&answer, "peerage-timeout-ms").and_then(|left| left.parse::<u64>().ok());
    assert!(left.is_some_and(|left| (1..=30_000).contains(&left)), "its own limit is left: {answer}");
}

#[test]
fn b_5_1_the_proxy_repeats_no_repeat_and_marks_the_error_of_a_call_that_it_repeated() {
    let upstream = upstream(|head, _| {
        let answer = format!("{}\r\n", head.to_ascii_lowercase());
        format!("HTTP/1.1 503 no\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{answer}", answer.len())
            .into_bytes()
    });
    let service = expose(&format!("http://{upstream}"), &[]);
    let proxy = proxy_to(&service, &[]);
    let ask = |more: &str| {
        let head = "GET / HTTP/1.1\r\nHost: billing.localhost\r\nConnection: close\r\n";
        http(proxy.address, &format!("{head}{more}\r\n"))
    };
    let answer = ask("");
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert_eq!(field(&answer, "peerage-attempt").as_deref(), Some("2"), "it was sent again: {answer}");
    assert_eq!(field(&answer, "peerage-no-retry").as_deref(), Some("1"), "{answer}");
    let answer = ask("peerage-attempt: 7\r\n");
    assert_eq!(field(&answer, "peerage-attempt").as_deref(), Some("7"), "a repeat is not repeated: {answer}");
    assert_eq!(field(&answer, "peerage-no-retry").as_deref(), Some("1"), "{answer}");
}

#[test]
fn a_dead_upstream_is_a_502_that_names_it() {
    let dead = dead_address();
    let service = expose(&format!("http://{dead}"), &[]);
    let answer = get(proxy_to(&service, &[]).address, "billing.localhost", "/");
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    assert!(answer.contains(&dead.to_string()), "{answer}");
}

#[test]
fn a_directory_and_a_plain_python_server_are_upstreams() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("hello.txt"), "hello from a file").expect("a file");
    let path = directory.path().to_str().expect("a path of ASCII");
    let service = expose(path, &[]);
    let proxy = proxy_to(&service, &[]);
    let answer = get(proxy.address, "billing.localhost", "/hello.txt");
    assert!(answer.contains("hello from a file"), "{answer}");
    let answer = get(proxy.address, "billing.localhost", "/../../../../etc/passwd");
    assert!(!answer.contains("root:"), "nothing outside of the directory is served: {answer}");

    let python = Command::new("python3")
        .args(["-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", path])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut python) = python else { return };
    let said = lines(python.stdout.take().expect("stdout is piped")).recv_timeout(LIMIT).unwrap_or_default();
    let port = said.split_whitespace().skip_while(|word| *word != "port").nth(1).map(str::to_owned);
    let service = expose(&format!("http://127.0.0.1:{}", port.expect("python says its port")), &[]);
    let answer = get(proxy_to(&service, &[]).address, "billing.localhost", "/");
    python.kill().ok();
    python.wait().ok();
    assert!(answer.contains("hello.txt"), "python lists the directory: {answer}");
}

#[test]
fn a_port_in_use_is_one_line_that_names_it() {
    let service = echo();
    let address = service.address.to_string();
    for args in [
        &["expose", "other", "--upstream", "http://127.0.0.1:1", "--listen", &address][..],
        &["proxy", "--listen", &address],
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let said = text(&output.stderr);
        assert!(said.contains(&address) && said.lines().count() == 1, "{args:?}: {said}");
    }
}

#[test]
fn ctrl_c_lets_running_calls_finish() {
    let (started, running) = mpsc::channel();
    let (release, held) = mpsc::channel::<()>();
    let gate = std::sync::Mutex::new((started, held));
    let upstream = upstream(move |_, _| {
        let gate = gate.lock().expect("no other call panicked");
        gate.0.send(()).expect("the test waits");
        gate.1.recv_timeout(LIMIT).expect("the test lets go");
        ok("late but whole")
    });
    let service = expose(&format!("http://{upstream}"), &[]);
    let proxy = proxy_to(&service, &[]);
    let address = proxy.address;
    let call = thread::spawn(move || get(address, "billing.localhost", "/"));
    running.recv_timeout(LIMIT).expect("the call reaches the upstream");
    proxy.interrupt();
    service.interrupt();
    // Both stopped accepting before the call is let go.
    until_refused(proxy.address);
    release.send(()).expect("the upstream waits");
    let answer = call.join().expect("the caller does not panic");
    assert!(answer.ends_with("late but whole"), "{answer}");
    assert_eq!(proxy.wait(), Some(0), "a drained proxy ends with 0");
    assert_eq!(service.wait(), Some(0), "a drained service ends with 0");
}

/// How long a process takes to close its listener is its affair; that it does must show within the limit.
fn until_refused(address: SocketAddr) {
    let (refused, seen) = mpsc::channel();
    thread::spawn(move || {
        while TcpStream::connect(address).is_ok() && refused.send(false).is_ok() {
            thread::yield_now();
        }
        refused.send(true).ok();
    });
    let mut accepted = 0_u64;
    while !seen.recv_timeout(LIMIT).expect("a connection is accepted or refused") {
        accepted += 1;
        assert!(accepted < 1_000_000, "{address} still accepts");
    }
}

#[test]
fn a_watcher_sees_a_service_come_and_go() {
    let mut watch = peerage(&["--json", "peers", "billing-watch", "--watch"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the command starts");
    let events = lines(watch.stdout.take().expect("stdout is piped"));
    let upstream = upstream(|_, _| ok("hello"));
    let service = Listening::start(&[
        "expose",
        "billing-watch",
        "--node-id",
        "seen-1",
        "--meta",
        "version=1.2",
        "--upstream",
        &format!("http://{upstream}"),
    ]);
    let next = |what: &str| loop {
        match events.recv_timeout(LIMIT) {
            Ok(line) => {
                let event: serde_json::Value = serde_json::from_str(&line).expect("an event is JSON");
                if event["event"] == what {
                    return event;
                }
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => panic!("no event {what}"),
        }
    };
    let joined = next("joined");
    assert_eq!(joined["node_id"], "seen-1");
    assert_eq!(joined["metadata"]["version"], "1.2");
    let output = run(&["call", "billing-watch", "/"]);
    assert_eq!(text(&output.stdout), "hello", "found by name: {}", text(&output.stderr));

    service.interrupt();
    let left = next("left");
    assert_eq!(left["node_id"], "seen-1");
    assert_eq!(left["why"], "goodbye");
    assert_eq!(service.wait(), Some(0));
    watch.kill().expect("it runs");
    watch.wait().expect("it ends");
}

#[test]
fn an_unhealthy_upstream_is_withdrawn() {
    let healthy = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let state = healthy.clone();
    let upstream = upstream(move |_, _| {
        if state.load(std::sync::atomic::Ordering::SeqCst) {
            ok("fine")
        } else {
            b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec()
        }
    });
    let mut service = peerage(&[
        "--json",
        "expose",
        "billing-health",
        "--upstream",
        &format!("http://{upstream}"),
        "--health",
        "/healthz",
    ])
    .stdout(Stdio::piped())
    .spawn()
    .expect("the command starts");
    let events = lines(service.stdout.take().expect("stdout is piped"));
    let next = || -> serde_json::Value {
        let line = events.recv_timeout(LIMIT).expect("an event comes");
        serde_json::from_str(&line).expect("an event is JSON")
    };
    // A look that a busy machine does not answer in its second finds the upstream unwell, until the next one.
    let until = |holds: &dyn Fn(&serde_json::Value) -> bool| while !holds(&next()) {};
    assert_eq!(next()["event"], "ready");
    until(&|event| event["well"] == true);
    healthy.store(false, std::sync::atomic::Ordering::SeqCst);
    until(&|event| event["well"] == false && event["why"].as_str().is_some_and(|why| why.contains("500")));
    service.kill().expect("it runs");
    service.wait().expect("it ends");
}
