//! `peerage doctor`: what is well, what is not, and what to do.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use peerage_tests::{TestCa, TestIdentity};
use serde_json::Value;

use crate::kit::{Listening, dead_address, ok, peerage, run, text, upstream};

/// What one run printed, and how it ended.
struct Told {
    events: Vec<Value>,
    stderr: String,
    code: Option<i32>,
}

impl Told {
    fn by(args: &[&str]) -> Self {
        // A busy machine is no reason to fail.
        Self::of(&mut peerage(&[&["--json"][..], args, &["--limit", "8s"]].concat()))
    }

    fn of(command: &mut std::process::Command) -> Self {
        let output = command.output().expect("the command starts");
        let events =
            text(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        Self { events, stderr: text(&output.stderr), code: output.status.code() }
    }

    fn check(&self, subject: &str) -> &Value {
        let found = self.events.iter().find(|event| event["subject"] == subject);
        found.unwrap_or_else(|| panic!("nothing of {subject} in {:#?}", self.events))
    }

    /// Result and text.
    fn words(&self, subject: &str) -> (&str, &str) {
        let check = self.check(subject);
        let word = |key: &str| check[key].as_str().expect("a text");
        (word("result"), word("text"))
    }
}

fn service(more: &[&str]) -> Listening {
    let upstream = format!("http://{}", upstream(|_, _| ok("here")));
    let args = ["expose", "billing", "--listen", "127.0.0.1:0", "--upstream", &upstream];
    Listening::start(&[more, &args[..]].concat())
}

fn from(peers: &[SocketAddr]) -> String {
    let peers: Vec<String> = peers.iter().map(SocketAddr::to_string).collect();
    format!("static:{}", peers.join(","))
}

/// `--ca`, `--cert` and `--key` of a certificate, in files.
fn tls(directory: &Path, ca: &TestCa, name: &str, identity: &TestIdentity) -> [String; 6] {
    let own = directory.join(name);
    fs::create_dir_all(&own).expect("a directory");
    let ca = ca.write(&own);
    let (cert, key) = identity.write(&own, name);
    let path = |path: PathBuf| path.to_str().expect("a path of ASCII").to_owned();
    ["--ca".into(), path(ca), "--cert".into(), path(cert), "--key".into(), path(key)]
}

#[test]
fn a_peer_that_answers_is_well_and_one_that_refuses_is_not() {
    let (service, dead) = (service(&[]), dead_address());
    let told = Told::by(&["--from", &from(&[service.address]), "doctor", "billing", "--wait", "100ms"]);
    let (result, said) = told.words(&format!("peer {}", service.address));
    assert_eq!(result, "ok");
    assert!(said.starts_with(&format!("{} answers in ", service.address)), "{said}");
    assert_eq!(told.words("peers of _billing._tcp"), ("ok", "1 up"));
    assert_eq!((told.code, told.stderr.as_str()), (Some(0), ""), "nothing failed");
    let summary = told.events.last().expect("a summary");
    assert_eq!((&summary["event"], &summary["failed"]), (&"summary".into(), &0.into()));

    let told = Told::by(&["--from", &from(&[service.address, dead]), "doctor", "--wait", "100ms"]);
    assert_eq!(told.words(&format!("peer {}", service.address)).0, "ok", "a list needs no name");
    let refused = told.check(&format!("peer {dead}"));
    assert_eq!(refused["result"], "failed");
    assert!(refused["text"].as_str().is_some_and(|said| said.contains("refused")), "{refused}");
    assert!(
        refused["hint"].as_str().is_some_and(|said| said.contains("is the service running")),
        "{refused}"
    );
    assert_eq!(told.code, Some(1));
    assert!(told.stderr.contains("1 of ") && told.stderr.lines().count() == 1, "{}", told.stderr);
}

#[test]
fn people_read_a_line_for_each_and_what_to_do() {
    let dead = dead_address();
    let output = run(&["--from", &from(&[dead]), "doctor", "billing", "--wait", "100ms"]);
    let said = text(&output.stdout);
    let lines: Vec<&str> = said.lines().collect();
    let at = lines.iter().position(|line| line.starts_with(&format!("failed   peer {dead}: "))).expect(&said);
    assert!(
        lines.get(at + 1).is_some_and(|line| line.starts_with("         nobody listens there")),
        "{said}"
    );
    assert!(lines.iter().any(|line| line.starts_with("ok       own certificate: none")), "{said}");
}

#[test]
fn nobody_there_has_an_exit_code_of_its_own() {
    let directory = tempfile::tempdir().expect("a directory");
    let list = directory.path().join("peers.json");
    fs::write(&list, r#"{"version":1,"peers":[]}"#).expect("a file");
    let from = format!("file:{}", list.display());
    let told = Told::by(&["--from", &from, "doctor", "billing", "--wait", "100ms"]);
    assert_eq!(told.code, Some(3), "{:#?}", told.events);
    assert!(told.stderr.contains("no peers of _billing._tcp"), "{}", told.stderr);
    let told = Told::by(&["--from", &from, "doctor", "--wait", "100ms"]);
    assert_eq!(told.code, Some(0), "nobody was asked for: {:#?}", told.events);
}

#[test]
fn foreign_text_is_escaped_for_people() {
    let (directory, dead) = (tempfile::tempdir().expect("a directory"), dead_address());
    let list = directory.path().join("peers.json");
    let peers = format!(r#"{{"version":1,"peers":[{{"node_id":"a\u202eb","addresses":["{dead}"]}}]}}"#);
    fs::write(&list, peers).expect("a file");
    let from = format!("file:{}", list.display());
    let output = run(&["--from", &from, "doctor", "billing", "--wait", "100ms"]);
    let said = text(&output.stdout);
    assert!(said.contains(r"peer a\u{202e}b: ") && !said.contains('\u{202e}'), "{said}");
}

#[test]
fn a_certificate_is_good_or_the_reason_why_not_is_told() {
    let (directory, ca) = (tempfile::tempdir().expect("a directory"), TestCa::new());
    let own = tls(directory.path(), &ca, "own", &ca.node(&["doctor"]));
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    let serving = |name: &str, ca: &TestCa, identity: &TestIdentity| {
        let files = tls(directory.path(), ca, name, identity);
        service(&files.each_ref().map(String::as_str))
    };
    let good = serving("good", &ca, &ca.node(&["127.0.0.1"]));
    let misnamed = serving("misnamed", &ca, &ca.node(&["somebody-else"]));
    let other = TestCa::named("another");
    let stranger = serving("stranger", &other, &other.node(&["127.0.0.1"]));
    let plain = service(&[]);

    let from = from(&[good.address, misnamed.address, stranger.address, plain.address]);
    let told = Told::by(&[&own[..], &["--from", &from, "doctor", "billing", "--wait", "100ms"]].concat());
    assert_eq!(told.code, Some(1));
    // The certificates of these tests hold from yesterday until tomorrow.
    let check = told.check("own certificate");
    assert_eq!((&check["result"], &check["days_left"]), (&"ok".into(), &0.into()), "{check}");
    let (result, said) = told.words(&format!("peer {}", good.address));
    assert!(result == "ok" && said.contains("the certificate holds for another 23 hours"), "{said}");
    for (service, text, hint) in [
        (&misnamed, "another node", "must hold the name 127.0.0.1"),
        (&stranger, "trusted CA", "from the CA of --ca"),
        (&plain, "TLS", "--ca, --cert and --key"),
    ] {
        let check = told.check(&format!("peer {}", service.address));
        let has = |key: &str, part: &str| check[key].as_str().is_some_and(|said| said.contains(part));
        assert!(check["result"] == "failed" && has("text", text) && has("hint", hint), "{check}");
    }
}

#[test]
fn a_peer_that_refuses_our_certificate_is_told_from_one_that_cannot_be_reached() {
    let (directory, theirs, ours) =
        (tempfile::tempdir().expect("a directory"), TestCa::new(), TestCa::named("ours"));
    let files = tls(directory.path(), &theirs, "theirs", &theirs.node(&["127.0.0.1"]));
    let service = service(&files.each_ref().map(String::as_str));
    let own = tls(directory.path(), &ours, "own", &ours.node(&["doctor"]));
    // We trust both CAs, and they trust one.
    fs::write(&own[1], ours.pem() + &theirs.pem()).expect("a file");
    let args = ["--from", &from(&[service.address]), "doctor", "--wait", "1ms"];
    let told = Told::by(&[&own.each_ref().map(String::as_str)[..], &args].concat());
    let check = told.check(&format!("peer {}", service.address));
    let has = |key: &str, part: &str| check[key].as_str().is_some_and(|said| said.contains(part));
    assert!(check["result"] == "failed" && has("text", "it ended the TLS handshake"), "{check}");
    assert!(has("hint", "it refuses what we show"), "{check}");
}

#[test]
fn a_certificate_that_soon_ends_is_a_warning_and_one_that_ended_a_failure() {
    use std::time::{Duration, SystemTime};

    const DAY: Duration = Duration::from_secs(86_400);
    let (directory, ca) = (tempfile::tempdir().expect("a directory"), TestCa::new());
    let now = SystemTime::now();
    let soon = ca.leaf().names(&["me"]).valid(now - 99 * DAY, now + 3 * DAY + DAY / 2).issue();
    let ended = ca.leaf().names(&["me"]).expired().issue();
    let doctor = |name: &str, identity: &TestIdentity| {
        let files = tls(directory.path(), &ca, name, identity);
        let args = ["--from", "static:127.0.0.1:9", "doctor", "--wait", "1ms"];
        Told::by(&[&files.each_ref().map(String::as_str)[..], &args].concat())
    };
    let told = doctor("soon", &soon);
    let check = told.check("own certificate");
    assert_eq!((&check["result"], &check["days_left"]), (&"warning".into(), &3.into()), "{check}");
    assert!(check["hint"].as_str().is_some_and(|hint| hint.contains("renew")), "{check}");
    let told = doctor("ended", &ended);
    let (result, said) = told.words("own certificate");
    assert!(result == "failed" && said.contains("expired"), "{said}");
    let all = format!("{:?}{}", told.events, told.stderr);
    assert!(!all.contains("PRIVATE KEY"), "{all}");
}

#[test]
fn a_gateway_answers_or_is_named() {
    let gateway = Listening::start(&["gateway", "--listen", "127.0.0.1:0"]);
    let (well, dead) = (gateway.address.to_string(), dead_address().to_string());
    // Nobody speaks there, and it is no gateway that hangs, either.
    let other = upstream(|_, _| ok("no gateway")).to_string();
    let gateways = [well.as_str(), &dead, &other, "10.9.9.9:50090"].join(",");
    let told = Told::by(&["--from", "static:127.0.0.1:9", "doctor", "--wait", "1ms", "--gateway", &gateways]);
    let check = told.check(&format!("gateway {well}"));
    assert_eq!((&check["result"], &check["services"]), (&"ok".into(), &0.into()), "{check}");
    assert_eq!(told.words(&format!("gateway {dead}")).0, "failed");
    assert_eq!(told.words(&format!("gateway {other}")).0, "failed");
    let check = told.check("gateway 10.9.9.9:50090");
    assert!(check["hint"].as_str().is_some_and(|hint| hint.contains("--ca")), "{check}");
    assert_eq!(told.code, Some(1));
}

#[test]
fn a_peer_that_accepts_and_says_nothing_ends_the_wait() {
    let (directory, ca) = (tempfile::tempdir().expect("a directory"), TestCa::new());
    let own = tls(directory.path(), &ca, "own", &ca.node(&["doctor"]));
    let silent = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = silent.local_addr().expect("it is bound");
    let args = ["--from", &from(&[address]), "doctor", "--wait", "1ms"];
    let mut command = peerage(&[&["--json"], &own.each_ref().map(String::as_str)[..], &args].concat());
    let told = Told::of(command.args(["--limit", "300ms"]));
    let (result, said) = told.words(&format!("peer {address}"));
    assert!(result == "failed" && said.contains("took too long"), "{said}");
}

#[test]
fn which_git_is_there_and_whether_it_finds_its_helper() {
    let directory = tempfile::tempdir().expect("a directory");
    let program = |name: &str, script: &str| {
        let file = directory.path().join(name);
        fs::write(&file, script).expect("a file");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("its mode can be set");
    };
    let doctor = || {
        let mut command = peerage(&["--json", "--from", "static:127.0.0.1:9", "doctor", "--wait", "1ms"]);
        command.args(["--limit", "20s"]);
        Told::of(command.env("PATH", directory.path()))
    };
    let told = doctor();
    assert_eq!(told.words("git").0, "warning", "there is none on this PATH");
    assert_eq!(told.words("git-remote-entire").0, "warning");

    program("git", "#!/bin/sh\necho git version 9.8.7\n");
    let helper = directory.path().join("git-remote-entire");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_peerage"), &helper).expect("a link");
    let told = doctor();
    assert_eq!(told.words("git"), ("ok", "git version 9.8.7"));
    let (result, said) = told.words("git-remote-entire");
    assert!(result == "ok" && said.contains("git-remote-entire 0."), "{said}");

    fs::remove_file(&helper).expect("it is there");
    program("git-remote-entire", "#!/bin/sh\nexit 7\n");
    let (result, said) = (doctor().words("git-remote-entire").0.to_owned(), doctor().stderr);
    assert_eq!(result, "warning", "{said}");
}
