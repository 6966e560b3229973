//! `call --explain` and `peers --watch --probe`: what a client makes of its peers.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::kit::{LIMIT, Listening, dead_address, lines, ok, peerage, run, text, upstream};

fn service(answer: impl Fn() -> Vec<u8> + Send + Sync + 'static) -> Listening {
    let upstream = upstream(move |_, _| answer());
    let upstream = format!("http://{upstream}");
    Listening::start(&["expose", "billing", "--listen", "127.0.0.1:0", "--upstream", &upstream])
}

fn from(peers: &[SocketAddr]) -> String {
    let peers: Vec<String> = peers.iter().map(SocketAddr::to_string).collect();
    format!("static:{}", peers.join(","))
}

#[test]
fn a_call_tells_what_was_compared_and_what_it_cost() {
    let (one, two) = (service(|| ok("one")), service(|| ok("two")));
    let from = from(&[one.address, two.address]);
    let output = run(&["--from", &from, "--json", "call", "billing", "/", "--explain"]);
    let answer: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    let pick = &answer["attempts"][0]["pick"];
    assert_eq!(pick["policy"], "peak_ewma", "the command's default: {answer}");
    assert_eq!(pick["chosen"], answer["peer"]);
    let candidates = pick["candidates"].as_array().expect("candidates");
    let mut compared: Vec<&str> = candidates.iter().filter_map(|one| one["peer"].as_str()).collect();
    compared.sort_unstable();
    let mut there = [one.address.to_string(), two.address.to_string()];
    there.sort_unstable();
    assert_eq!(compared, there, "both were compared");
    assert!(candidates.iter().all(|one| one["cost_ms"].as_f64().is_some_and(|cost| cost > 0.0)), "{pick}");

    let output = run(&["--from", &from, "call", "billing", "/", "--explain"]);
    let said = text(&output.stderr);
    assert!(said.contains("attempt 1: ") && said.contains("answered 200"), "{said}");
    assert_eq!(said.lines().filter(|line| line.contains(", cost ")).count(), 2, "two candidates: {said}");
    assert!(["one", "two"].contains(&text(&output.stdout).as_str()), "stdout has the body and nothing else");

    let turns = ["--from", &from, "--json", "call", "billing", "/", "--explain", "--balance", "round-robin"];
    let answer: Value = serde_json::from_slice(&run(&turns).stdout).expect("one JSON object");
    assert_eq!(answer["attempts"][0]["pick"]["policy"], "round_robin");
}

#[test]
fn after_many_calls_it_tells_what_keeps_a_peer_out() {
    let (service, dead) = (service(|| ok("here")), dead_address());
    let from = from(&[service.address, dead]);
    let output = run(&["--from", &from, "call", "billing", "/", "-n", "40", "--explain"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let kept_out = said.lines().find(|line| line.starts_with(&format!("peerage:   {dead} ")));
    // With two peers the first failed dial is enough: discovery doubts it as well.
    let is_why = |line: &str| line.contains("cannot be reached") || line.contains("is ejected for another");
    assert!(kept_out.is_some_and(is_why), "{said}");
    assert!(said.contains(&format!("picked {} by peak_ewma", service.address)), "{said}");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a server that is late, on a thread of its own")]
fn late_answers_get_a_copy_elsewhere_if_asked_for() {
    let number = AtomicUsize::new(0);
    // One answer in 40 is late: what the delay is learned from says so.
    let slow = service(move || {
        if number.fetch_add(1, Ordering::Relaxed) % 40 == 39 {
            // What the test is about: a server that is slow, far beyond what others take.
            thread::sleep(Duration::from_millis(400));
        }
        ok("one")
    });
    let other = service(|| ok("two"));
    let from = from(&[slow.address, other.address]);
    let args = ["--from", &from, "--json", "call", "billing", "/", "-n", "500", "--balance", "round-robin"];
    let summary = |more: &[&str]| -> Value {
        let output = run(&[&args[..], more].concat());
        serde_json::from_slice(&output.stdout).expect("one JSON object")
    };
    let (plain, hedged) = (summary(&[]), summary(&["--hedge"]));
    assert_eq!((&plain["failed"], &hedged["failed"]), (&Value::from(0), &Value::from(0)));
    assert_eq!(plain["repeats"], 0);
    let copies = hedged["repeats"].as_u64().expect("a number");
    assert!((1..=25).contains(&copies), "at most 5 of 100: {hedged}");
}

#[test]
fn a_call_that_finds_nobody_tells_what_keeps_each_out() {
    let busy = service(|| {
        b"HTTP/1.1 429 Busy\r\nRetry-After: 60\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec()
    });
    let output = run(&["--from", &from(&[busy.address]), "call", "billing", "/", "-n", "2"]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("1 × status 429"), "the first call is told by the peer: {said}");
    let failure = said.lines().find(|line| line.starts_with("1 × no peers")).expect("the second is not sent");
    assert!(failure.contains(&format!("{} asked for a pause", busy.address)), "{failure}");
}

#[test]
fn a_watcher_that_asks_sees_latency_and_ejection() {
    let (service, dead) = (service(|| ok("well")), dead_address());
    let mut watch = peerage(&[
        "--json",
        "--from",
        &from(&[service.address, dead]),
        "peers",
        "billing",
        "--watch",
        "--probe",
        "/",
        "--every",
        "100ms",
    ])
    .stdout(Stdio::piped())
    .spawn()
    .expect("the command starts");
    let events = lines(watch.stdout.take().expect("stdout is piped"));
    let (mut measured, mut ejected) = (false, false);
    while !(measured && ejected) {
        let line = events.recv_timeout(LIMIT).expect("events keep coming");
        let event: Value = serde_json::from_str(&line).expect("an event is JSON");
        if event["event"] != "state" {
            continue;
        }
        if event["node_id"] == dead.to_string() {
            ejected |= event["state"] == "ejected" && event["out_for_ms"].is_number();
            assert!(event["estimate_ms"].is_null(), "nobody ever answered: {event}");
        } else {
            let is_known = event["estimate_ms"].as_f64().is_some_and(|estimate| estimate > 0.0);
            // A probe that a busy machine does not answer in its second is held against the peer, for a while.
            measured |= is_known && event["state"] == "up";
        }
    }
    watch.kill().expect("it runs");
    watch.wait().expect("it ends");
}
