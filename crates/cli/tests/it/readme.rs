//! The README: its commands and its code are what is run here and in the tests it is compared with.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use peerage_tests::skipped;

use crate::kit::text;

/// Where a command of the README is run, if not in [`the_commands_of_the_readme_do_what_it_says`].
const ELSEWHERE: [(&str, &str); 4] = [
    (
        "cargo run --release -p peerage-cli -- demo",
        "demo::the_demo_ends_well_with_one_peer_killed_and_one_hung",
    ),
    ("cargo xtask test", "what runs this"),
    (
        "cargo install --path crates/git-remote-entire",
        "the binary that crates/git-remote-entire/tests starts",
    ),
    ("git clone entire://eu.cluster.example/et/project/repo", "crates/git-remote-entire/tests/it/real.rs"),
];

const SERVERS: &str = "python3 -m http.server 9000\n\
    peerage expose files --upstream http://127.0.0.1:9000\n\
    peerage proxy\n";
const CALLS: &str = "curl http://files.localhost:8080/\n\
    peerage peers files\n\
    peerage call files / -n 1000 -c 16\n";
const PAGES: &str = "peerage status\n\
    peerage proxy --listen 127.0.0.1:0 --status 127.0.0.1:8091\n";
const DOCTOR: &str = "peerage doctor files\n";
const EXPLAIN: &str = "peerage call files / --explain\n";
const REGISTRATION: &str = "peerage gateway\n\
    peerage register --gateway 127.0.0.1:50090 --addr 127.0.0.1:41001 --namespace greeter --proto greeter.proto\n";

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn readme() -> String {
    fs::read_to_string(root().join("README.md")).expect("the README")
}

/// The code blocks of one language.
fn blocks(language: &str) -> Vec<String> {
    let readme = readme();
    let fence = format!("```{language}\n");
    readme.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn the_ten_lines_are_the_example() {
    let example = fs::read_to_string(root().join("crates/peerage/examples/call.rs")).expect("the example");
    let (_, code) = example.split_once("\n\n").expect("a line of documentation, then code");
    assert_eq!(blocks("rust"), [code], "the facade's tests run the example");
}

#[test]
fn every_command_of_the_readme_is_run_by_a_test() {
    let known: BTreeSet<&str> = ELSEWHERE
        .iter()
        .map(|(command, _)| *command)
        .chain([SERVERS, CALLS, PAGES, DOCTOR, EXPLAIN, REGISTRATION].into_iter().flat_map(str::lines))
        .collect();
    let told = blocks("sh").concat();
    let told: BTreeSet<&str> = told.lines().collect();
    assert_eq!(told, known);
}

/// In a network of its own, so that the ports of the README are free and nobody else is heard.
#[test]
fn the_commands_of_the_readme_do_what_it_says() {
    const TEST: &str = "the_commands_of_the_readme_do_what_it_says";
    if !has_namespaces() {
        return skipped(TEST, "unprivileged network namespaces are not allowed here");
    }
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("a file to list.txt"), "hello").expect("a file");

    // Each server says on stdout when it is ready; a fifo hands that line over.
    let mut script =
        String::from("set -eu\nexport PYTHONUNBUFFERED=1\nip link set lo up\ntrap 'kill $(jobs -p)' EXIT\n");
    for (number, server) in SERVERS.lines().chain(PAGES.lines()).enumerate() {
        script.push_str(&format!(
            "mkfifo ready{number}\n{server} >ready{number} 2>>log &\nread -r line <ready{number}\n"
        ));
    }
    script.push_str(CALLS);
    // It tells of whom it hears in its time; on a busy machine that may be nobody yet.
    let well = "^ok       peer files-.* answers in ";
    script.push_str(&format!(
        "until {} >told; grep -q '{well}' told; do :; done\ncat told\n",
        DOCTOR.trim_end()
    ));
    // Until the announcement was heard; no longer than the whole may take.
    script.push_str(
        "until curl -s http://127.0.0.1:8090/api/v1/services | grep '\"node_id\":\"files-'; do sleep 0.2; done\n\
         curl -s http://127.0.0.1:8091/\n",
    );
    script.push_str(&EXPLAIN.replace('\n', " 2>&1\n"));
    let output = isolated(directory.path(), &script);
    let said = text(&output.stdout);
    let log = fs::read_to_string(directory.path().join("log")).unwrap_or_default();
    assert!(output.status.success(), "{said}\n{}\n{log}", text(&output.stderr));
    assert!(said.contains("a%20file%20to%20list.txt"), "curl lists the directory: {said}");
    assert!(said.contains("NODE") && said.contains("files-"), "the peer is listed: {said}");
    assert!(said.contains("1000 calls, 0 failed"), "the calls succeed: {said}");
    assert!(said.contains("ok       peer files-"), "its peer is well: {said}");
    assert!(
        said.contains("\"service\":\"_files._tcp\""),
        "the page has the service that is announced: {said}"
    );
    assert!(said.contains("<title>Peerage proxy</title>"), "the proxy has a page: {said}");
    assert!(said.contains("picked files-") && said.contains("by peak_ewma"), "it is explained: {said}");
}

#[test]
fn the_registration_of_the_readme_is_live_and_leaves() {
    const TEST: &str = "the_registration_of_the_readme_is_live_and_leaves";
    if !has_namespaces() {
        return skipped(TEST, "unprivileged network namespaces are not allowed here");
    }
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("greeter.proto"), crate::register::GREETER).expect("a file");
    let (gateway, register) = REGISTRATION.trim_end().split_once('\n').expect("two commands");
    let script = format!(
        "set -eu\nip link set lo up\ntrap 'kill $(jobs -p)' EXIT\nmkfifo ready states\n\
         {gateway} >ready 2>>log &\nread -r line <ready\n\
         {register} >states 2>>log &\nexec 3<states\n\
         read -r first <&3; read -r second <&3\necho \"$first\"; echo \"$second\"\n\
         kill $!; cat <&3; wait $!\n"
    );
    let output = isolated(directory.path(), &script);
    let said = text(&output.stdout);
    let log = fs::read_to_string(directory.path().join("log")).unwrap_or_default();
    assert!(output.status.success(), "{said}\n{}\n{log}", text(&output.stderr));
    let states: Vec<&str> = said.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(states, ["registering", "live", "draining", "closed"], "{said}");
    let told = blocks("text").concat();
    let told = told.lines().filter_map(|line| line.split_whitespace().next());
    assert!(told.clone().any(|word| word == "registering") && told.clone().any(|word| word == "live"));
}

const ISOLATED: [&str; 3] = ["--user", "--map-root-user", "--net"];

fn has_namespaces() -> bool {
    let possible = Command::new("unshare").args(ISOLATED).arg("true").stderr(Stdio::null()).status();
    possible.is_ok_and(|status| status.success())
}

/// Runs a script in a network of its own, at most for a minute.
fn isolated(directory: &Path, script: &str) -> Output {
    let bin = Path::new(env!("CARGO_BIN_EXE_peerage")).parent().expect("the command lies in a directory");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").expect("a PATH"));
    Command::new("timeout")
        .args(["60", "unshare"])
        .args(ISOLATED)
        .args(["bash", "-c", script])
        .env("PATH", path)
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .expect("unshare was there before")
}
