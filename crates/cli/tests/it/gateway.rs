//! `peerage gateway`: what it prints, and its status page.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;

use serde_json::Value;

use crate::kit::{LIMIT, Listening, get, lines, peerage, pushed, run, signal, text, wait};
use crate::register::{GREETER, Registered, file, register_args};

/// The status page's address: it is told on the ready line of `--json`.
pub(crate) fn with_status() -> (std::process::Child, mpsc::Receiver<String>, String, std::net::SocketAddr) {
    let args = ["--json", "gateway", "--listen", "127.0.0.1:0", "--status", "127.0.0.1:0"];
    let mut process =
        peerage(&args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the command starts");
    let lines = lines(process.stdout.take().expect("stdout is piped"));
    let ready: Value = event(&lines);
    assert_eq!(ready.get("event"), Some(&"ready".into()));
    let told = |key: &str| ready.get(key).and_then(Value::as_str).expect("an address");
    let address = told("address").to_owned();
    let status = told("status").parse().expect("an address");
    (process, lines, address, status)
}

pub(crate) fn event(lines: &mpsc::Receiver<String>) -> Value {
    let line = lines.recv_timeout(LIMIT).expect("a line comes");
    serde_json::from_str(&line).expect("it is JSON")
}

pub(crate) fn body(answer: &str) -> Value {
    let body = answer.split_once("\r\n\r\n").expect("an answer has a body").1;
    serde_json::from_str(body).expect("it is JSON")
}

#[test]
fn what_happens_is_told_and_shown() {
    let directory = tempfile::tempdir().expect("a directory");
    let proto = file(&directory, "greeter.proto", GREETER);
    let (mut gateway, events, address, status) = with_status();
    let service = Registered::start(&register_args(&address, &proto, &["--instance", "greeter@one"]));
    let live = service.until("live");

    let registered = event(&events);
    assert_eq!(registered["event"], "registered");
    assert_eq!(registered["registration_id"], live["registration_id"]);
    assert_eq!(registered["slots"], serde_json::json!(["greeter/v1"]));

    let shown = body(&get(status, "localhost", "/api/v1/registrations"));
    let shown = &shown["registrations"][0];
    assert_eq!(shown["instance_id"], "greeter@one");
    assert_eq!(shown["registration_id"], live["registration_id"]);
    assert!(shown["lease_left_ms"].as_u64().is_some_and(|left| left > 0 && left <= 30_000), "{shown}");
    let services = body(&get(status, "127.0.0.1", "/api/v1/services"));
    assert_eq!(services["services"][0]["kind"], "proto");
    assert_eq!(services["stable"]["greeter"], 1);
    let page = get(status, "localhost", "/");
    assert!(
        page.contains("<title>Peerage gateway</title>") && page.contains("content-security-policy"),
        "{page}"
    );
    let metrics = get(status, "localhost", "/metrics");
    assert!(
        metrics.contains("peerage_gateway_registrations 1\n") && metrics.ends_with("# EOF\n"),
        "{metrics}"
    );

    let refused = run(&register_args(
        &address,
        &file(&directory, "other.proto", &GREETER.replace("name", "nick")),
        &[],
    ));
    assert_eq!(refused.status.code(), Some(1));
    let told = event(&events);
    assert_eq!((told["event"].as_str(), told["rpc"].as_str()), (Some("refused"), Some("Register")));

    assert_eq!(service.stop(), Some(0));
    let gone = event(&events);
    assert_eq!((gone["event"].as_str(), gone["why"].as_str()), (Some("gone"), Some("deregistered")));
    let shown = body(&get(status, "localhost", "/api/v1/registrations"));
    assert_eq!(shown["registrations"], serde_json::json!([]));

    signal(&gateway, "INT");
    assert_eq!(wait(&mut gateway).code(), Some(0), "Ctrl-C ends it in order");
}

#[test]
fn the_status_page_answers_for_this_host_alone() {
    let (mut gateway, _events, _, status) = with_status();
    for host in ["evil.example", "evil.example:80", "", "127.0.0.1.evil.example"] {
        let answer = get(status, host, "/api/v1/registrations");
        assert!(answer.starts_with("HTTP/1.1 421"), "{host}: {answer}");
    }
    for host in ["localhost:8090", "127.0.0.1", "[::1]:80"] {
        assert!(get(status, host, "/").starts_with("HTTP/1.1 200"), "{host}");
    }
    signal(&gateway, "TERM");
    assert_eq!(wait(&mut gateway).code(), Some(0));
}

#[test]
fn the_status_page_is_told_of_changes() {
    let directory = tempfile::tempdir().expect("a directory");
    let proto = file(&directory, "greeter.proto", GREETER);
    let (mut gateway, _events, address, status) = with_status();
    let mut data = pushed(status);
    assert!(!data().contains("greeter"), "nobody is there at first");
    let service = Registered::start(&register_args(&address, &proto, &[]));
    while !data().contains("greeter/v1") {}
    // Before it knows that itself it would end as one that never was registered.
    service.until("live");
    assert_eq!(service.stop(), Some(0));
    while data().contains("greeter/v1") {}
    signal(&gateway, "INT");
    assert_eq!(wait(&mut gateway).code(), Some(0), "an open page does not keep it");
}

#[test]
fn a_person_reads_on_stderr_what_happens() {
    let directory = tempfile::tempdir().expect("a directory");
    let proto = file(&directory, "greeter.proto", GREETER);
    let mut gateway = Listening::start(&["gateway", "--listen", "127.0.0.1:0"]);
    let errors = gateway.process.stderr.take().expect("stderr is piped");
    let (send, said) = mpsc::sync_channel(100);
    thread::spawn(move || {
        BufReader::new(errors).lines().map_while(Result::ok).try_for_each(|line| send.send(line))
    });
    let until = |word: &str| {
        std::iter::from_fn(|| said.recv_timeout(LIMIT).ok()).find(|line| line.contains(word)).expect(word)
    };
    let address = gateway.address.to_string();
    let service = Registered::start(&register_args(&address, &proto, &["--instance", "a\u{1b}[31m"]));
    let line = until(" + ");
    assert!(line.contains("greeter/v1 at 127.0.0.1:41001") && line.contains("\\u{1b}"), "{line}");
    service.until("live");
    assert_eq!(service.stop(), Some(0));
    assert!(until(" - ").contains("deregistered"));
    gateway.interrupt();
    assert_eq!(gateway.wait(), Some(0));
}

#[test]
fn bad_options_end_with_2_and_taken_ports_with_1() {
    for (args, word) in [
        (&["gateway", "--listen", "0.0.0.0:0"][..], "--danger-listen"),
        (&["gateway", "--listen", "127.0.0.1:0", "--status", "0.0.0.0:0"], "--status"),
        (&["gateway", "--ttl", "5"], "3s"),
        (&["gateway", "--allow-tier", "v1"], "vN"),
        (&["--ca", "ca.pem", "gateway"], "--cert"),
    ] {
        let output = run(args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(word), "{args:?} names {word}: {said}");
    }
    let gateway = Listening::start(&["gateway", "--listen", "127.0.0.1:0"]);
    let taken = gateway.address.to_string();
    for args in
        [&["gateway", "--listen", &taken][..], &["gateway", "--listen", "127.0.0.1:0", "--status", &taken]]
    {
        let output = run(args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains(&taken) && said.lines().count() == 1, "{args:?}: {said}");
    }
}
