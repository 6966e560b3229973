//! `peerage register` beside `peerage gateway`: real processes, killed and restarted.

use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::gateway::event;
use crate::kit::{Listening, dead_address, lines, peerage, run, signal, text, wait};

/// What takes a second or two when the machine is idle; less than what any wait here ends with.
const SOON: Duration = Duration::from_secs(10);

pub(crate) const GREETER: &str = "syntax = \"proto3\";\npackage greeter.v1;\n\
    service Greeter { rpc Hello(Req) returns (Res); }\n\
    message Req { string name = 1; }\nmessage Res { string greeting = 1; }\n";

pub(crate) fn file(directory: &TempDir, name: &str, text: &str) -> String {
    let path: PathBuf = directory.path().join(name);
    std::fs::write(&path, text).expect("a file");
    path.to_str().expect("a path of ASCII").to_owned()
}

pub(crate) fn register_args<'a>(gateway: &'a str, proto: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let args = [
        "register",
        "--json",
        "--gateway",
        gateway,
        "--addr",
        "127.0.0.1:41001",
        "--namespace",
        "greeter",
        "--proto",
        proto,
    ];
    [&args[..], more].concat()
}

/// A `peerage register` that runs.
pub(crate) struct Registered {
    process: Child,
    lines: mpsc::Receiver<String>,
}

impl Registered {
    pub(crate) fn start(args: &[&str]) -> Self {
        let mut process =
            peerage(args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the command starts");
        let lines = lines(process.stdout.take().expect("stdout is piped"));
        Self { process, lines }
    }

    /// The event of the first such state from now on; the states before it are as good as any.
    pub(crate) fn until(&self, state: &str) -> Value {
        loop {
            let event = event(&self.lines);
            assert_eq!(event.get("event"), Some(&"state".into()), "{event}");
            if event.get("state") == Some(&state.into()) {
                return event;
            }
        }
    }

    /// Ctrl-C; the exit code.
    pub(crate) fn stop(mut self) -> Option<i32> {
        signal(&self.process, "INT");
        wait(&mut self.process).code()
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // Both fail when it has ended already.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

#[test]
fn a_service_is_live_at_once_and_again_after_the_gateway_was_killed() {
    let directory = tempfile::tempdir().expect("a directory");
    let proto = file(&directory, "greeter.proto", GREETER);
    // A port that nobody else gets while no gateway listens on it.
    let address = dead_address().to_string();
    let mut gateway = Listening::start(&["gateway", "--listen", &address]);
    let started = Instant::now();
    let mut service = Registered::start(&register_args(&address, &proto, &["--ttl", "3s"]));
    assert_eq!(event(&service.lines)["state"], "registering");
    let first = service.until("live");
    assert!(started.elapsed() < SOON, "live after {:?}", started.elapsed());
    assert!(first["lease_ms"].as_u64().is_some_and(|lease| lease <= 3_000), "{first}");
    assert_eq!(first["registration_id"].as_str().map(str::len), Some(24));

    gateway.process.kill().expect("it runs");
    gateway.process.wait().expect("it is our child");
    service.until("suspect");
    let gateway = Listening::start(&["gateway", "--listen", &address]);
    let back = Instant::now();
    service.until("lost");
    let second = service.until("live");
    assert!(back.elapsed() < SOON, "live again after {:?}", back.elapsed());
    assert_ne!(first["registration_id"], second["registration_id"]);

    signal(&service.process, "INT");
    service.until("draining");
    assert_eq!(service.until("closed")["outcome"], "deregistered");
    assert_eq!(wait(&mut service.process).code(), Some(0));
    gateway.interrupt();
    assert_eq!(gateway.wait(), Some(0));
}

#[test]
fn a_person_reads_a_line_a_state() {
    let directory = tempfile::tempdir().expect("a directory");
    let proto = file(&directory, "greeter.proto", GREETER);
    let gateway = Listening::start(&["gateway", "--listen", "127.0.0.1:0"]);
    let address = gateway.address.to_string();
    let mut args = register_args(&address, &proto, &[]);
    args.retain(|arg| *arg != "--json");
    let mut service = Registered::start(&args);
    let next = || service.lines.recv_timeout(crate::kit::LIMIT).expect("a line");
    assert_eq!(next(), "registering");
    assert!(next().starts_with("live        "), "the id follows");
    signal(&service.process, "TERM");
    assert_eq!(next(), "draining");
    assert_eq!(next(), "closed      deregistered");
    assert_eq!(wait(&mut service.process).code(), Some(0));
}

#[test]
fn a_gateway_that_is_gone_does_not_keep_a_service_from_ending() {
    let directory = tempfile::tempdir().expect("a directory");
    let proto = file(&directory, "greeter.proto", GREETER);
    let gateway = Listening::start(&["gateway", "--listen", "127.0.0.1:0"]);
    let address = gateway.address.to_string();
    let mut service = Registered::start(&register_args(&address, &proto, &[]));
    service.until("live");
    drop(gateway);
    signal(&service.process, "INT");
    let asked = Instant::now();
    let closed = service.until("closed");
    assert_eq!(closed["outcome"], "gateway_unreachable");
    assert!(closed["held_ms"].as_u64().is_some_and(|left| left <= 35_000), "{closed}");
    assert_eq!(wait(&mut service.process).code(), Some(0));
    assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
}

#[test]
fn a_refusal_at_the_start_says_what_to_do_and_ends_with_1() {
    let directory = tempfile::tempdir().expect("a directory");
    let proto = file(&directory, "greeter.proto", GREETER);
    let other = file(&directory, "other.proto", &GREETER.replace("name", "nick"));
    let gateway = Listening::start(&["gateway", "--listen", "127.0.0.1:0", "--allow-tier", "vN"]);
    let address = gateway.address.to_string();
    let service = Registered::start(&register_args(&address, &proto, &[]));
    service.until("live");
    for (args, words) in [
        (
            register_args(&address, &other, &[]),
            &["greeter/v1 differs from the registered one", "v2", "different schema hash"],
        ),
        (
            register_args(&address, &proto, &["--version", "unstable"]),
            &["--allow-tier", "greeter", "unstable"],
        ),
    ] {
        let started = Instant::now();
        let output = run(&args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(started.elapsed() < SOON, "a permanent refusal is not waited on");
        for word in words {
            assert!(said.contains(word), "it says {word:?}: {said}");
        }
    }
    let v2 = Registered::start(&register_args(&address, &other, &["--version", "v2"]));
    v2.until("live");
}

#[test]
fn what_is_wrong_here_is_said_before_any_connection() {
    let directory = tempfile::tempdir().expect("a directory");
    let proto = file(&directory, "greeter.proto", GREETER);
    let importing =
        file(&directory, "importing.proto", "syntax = \"proto3\"; import \"gone.proto\"; package p;");
    std::fs::write(directory.path().join("latin1.proto"), b"// \xe9\nsyntax = \"proto3\";").expect("a file");
    let latin1 = directory.path().join("latin1.proto").to_str().expect("ASCII").to_owned();
    let folder = directory.path().to_str().expect("a path of ASCII");
    let at = "127.0.0.1:1";
    let cases: &[(Vec<&str>, i32, &str)] = &[
        (register_args(at, folder, &[]), 2, "--entry"),
        (register_args(at, folder, &["--entry", "none.proto"]), 1, "none.proto"),
        (register_args(at, "/no/such.proto", &[]), 1, "/no/such.proto"),
        (register_args(at, &importing, &[]), 1, "gone.proto"),
        (register_args(at, &latin1, &[]), 1, "UTF-8"),
        (register_args(at, &proto, &["--version", "latest"]), 2, "latest"),
        (register_args(at, &proto, &["--version", "unstable", "--build-tag", "r1"]), 2, "unstable"),
        (register_args(at, &proto, &["--openapi", &proto]), 2, "--openapi"),
        (register_args(at, &proto, &["--ttl", "0s"]), 2, "--ttl"),
        (register_args("nowhere", &proto, &[]), 2, "nowhere"),
        (register_args("192.0.2.1:50090", &proto, &[]), 2, "--danger-plaintext"),
        (register_args(at, &proto, &["--bearer-file", "/no/such/token"]), 1, "/no/such/token"),
        (register_args(at, &proto, &["--cert", "c.pem", "--ca", "ca.pem"]), 2, "--key"),
        (register_args(at, &proto, &["--ca", "/no/such/ca.pem"]), 1, "/no/such/ca.pem"),
        (vec!["register", "--gateway", at, "--addr", "h:1", "--namespace", "a"], 2, "--proto"),
        (vec!["register", "--addr", "h:1", "--proto", &proto], 2, "--gateway"),
    ];
    for (args, code, word) in cases {
        let output = run(args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(*code), "{args:?}: {said}");
        assert!(said.contains(word), "{args:?} names {word:?}: {said}");
    }
}

#[test]
fn a_gateway_that_does_not_come_up_is_an_error_and_ctrl_c_before_that_is_130() {
    let directory = tempfile::tempdir().expect("a directory");
    let proto = file(&directory, "greeter.proto", GREETER);
    let dead = dead_address().to_string();
    let output = run(&register_args(&dead, &proto, &["--wait", "300ms"]));
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains(&dead), "{}", text(&output.stderr));
    let waiting = Registered::start(&register_args(&dead, &proto, &[]));
    waiting.until("registering");
    assert_eq!(waiting.stop(), Some(130));
}

#[test]
fn mutual_tls_joins_service_and_gateway_and_keeps_strangers_out() {
    let directory = tempfile::tempdir().expect("a directory");
    let proto = file(&directory, "greeter.proto", GREETER);
    let ca = peerage_tests::TestCa::new();
    let ca_file = ca.write(directory.path());
    let (cert, key) = ca.node(&["localhost", "127.0.0.1"]).write(directory.path(), "node");
    let [ca_file, cert, key] = [&ca_file, &cert, &key].map(|path| path.to_str().expect("a path of ASCII"));
    let identity = ["--ca", ca_file, "--cert", cert, "--key", key];
    let gateway = Listening::start(&[&identity[..], &["gateway", "--listen", "127.0.0.1:0"]].concat());
    let address = gateway.address.to_string();

    let service = Registered::start(&register_args(&address, &proto, &identity));
    service.until("live");
    assert_eq!(service.stop(), Some(0));
    for (stranger, why) in [(&["--ca", ca_file][..], "no certificate"), (&[], "no TLS")] {
        let output = run(&register_args(&address, &proto, &[stranger, &["--wait", "500ms"]].concat()));
        assert_eq!(output.status.code(), Some(1), "{why}: {}", text(&output.stderr));
    }
}

#[test]
fn a_bearer_is_written_nowhere() {
    let directory = tempfile::tempdir().expect("a directory");
    let proto = file(&directory, "greeter.proto", GREETER);
    let canary = "CANARY-jwqkzvxhbpfmtrys";
    let token = file(&directory, "token", &format!("{canary}\n"));
    let log = std::fs::File::create(directory.path().join("log")).expect("a file");
    let gateway = Listening::start(&["gateway", "--listen", "127.0.0.1:0", "--log", "trace"]);
    let address = gateway.address.to_string();
    let args = register_args(&address, &proto, &["--bearer-file", &token, "--log", "trace"]);
    let mut process = peerage(&args).stdout(Stdio::piped()).stderr(log).spawn().expect("the command starts");
    let lines = lines(process.stdout.take().expect("stdout is piped"));
    let service = Registered { process, lines };
    let live = service.until("live");
    assert_eq!(service.stop(), Some(0));
    let said = std::fs::read_to_string(directory.path().join("log")).expect("a file");
    assert!(said.lines().count() > 10, "everything is logged: {said}");
    assert!(!said.contains(canary) && !live.to_string().contains(canary), "{said}");
}
