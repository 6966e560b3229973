//! Options: help with examples, and sentences that say what to write instead.

use crate::kit::{dead_address, run, text};

const COMMANDS: [&str; 11] = [
    "expose",
    "proxy",
    "call",
    "peers",
    "register",
    "gateway",
    "status",
    "doctor",
    "demo",
    "completions",
    "man",
];

#[test]
fn every_subcommand_shows_an_example() {
    for command in COMMANDS {
        let output = run(&[command, "--help"]);
        assert!(output.status.success(), "{command} --help ends with 0");
        let help = text(&output.stdout);
        assert!(help.contains("Examples:\n  "), "{command} --help shows an example:\n{help}");
    }
}

#[test]
fn bad_options_end_with_2_and_a_sentence() {
    let cases: &[(&[&str], &str)] = &[
        (&["expose", "billing"], "--upstream"),
        (&["expose", "a b", "--upstream", "http://127.0.0.1:1"], "a b"),
        (&["expose", "sixteen-letters-", "--upstream", "http://127.0.0.1:1"], "15"),
        (&["expose", "billing", "--upstream", "https://127.0.0.1:1"], "http://"),
        (&["expose", "billing", "--upstream", "http://127.0.0.1:1/path"], "http://host:port"),
        (&["expose", "billing", "--upstream", "/no/such/directory"], "no such directory"),
        (&["expose", "billing", "--upstream", "unix:relative"], "unix:/absolute"),
        (&["expose", "billing", "--upstream", "http://127.0.0.1:1", "--meta", "nothing"], "key=value"),
        (&["expose", "billing", "--upstream", "http://127.0.0.1:1", "--meta", "api_token=x"], "secret"),
        (&["expose", "billing", "--upstream", "http://127.0.0.1:1", "--health", "healthz"], "/healthz"),
        (&["proxy", "--listen", "0.0.0.0:0"], "--danger-listen"),
        (&["proxy", "--listen", "somewhere"], "--listen"),
        (&["proxy", "--timeout", "5"], "3s"),
        (&["call", "billing", "no-path"], "/v1"),
        (&["call", "billing", "/", "-H", "no colon"], "name:value"),
        (&["call", "billing", "/", "-n", "0"], "0"),
        (&["call", "billing", "/", "--balance", "fair"], "peak-ewma"),
        (&["peers", "billing", "--probe", "/"], "--watch"),
        (&["peers", "billing", "--watch", "--probe", "healthz"], "/healthz"),
        (&["peers", "billing", "--from", "carrier-pigeon:coop"], "carrier-pigeon"),
        (&["peers", "billing", "--from", "static:10.0.0.1:0"], "10.0.0.1:0"),
        (&["peers", "billing", "--from", "etcd://h1:2379/p"], "etcd"),
        (&["--ca", "ca.pem", "peers", "billing"], "--cert"),
        (&["status", "--listen", "0.0.0.0:0"], "--danger-listen"),
        (&["status", "a b", "--listen", "127.0.0.1:0"], "a b"),
        (&["status", "--from", "static:127.0.0.1:9", "--listen", "127.0.0.1:0"], "peerage status NAME"),
        (&["status", "--from", "carrier-pigeon:coop", "--listen", "127.0.0.1:0"], "carrier-pigeon"),
        (&["proxy", "--listen", "127.0.0.1:0", "--status", "0.0.0.0:0"], "--danger-listen"),
        (&["doctor", "a b"], "a b"),
        (&["doctor", "--from", "carrier-pigeon:coop"], "carrier-pigeon"),
        (&["--ca", "ca.pem", "doctor", "billing"], "--cert"),
        (&["--ca", "ca.pem", "--key", "me.key", "doctor", "--gateway", "127.0.0.1:1"], "--cert"),
        (&["--log", "=[", "peers", "billing"], "--log"),
        (&["unknown"], "unknown"),
    ];
    for (args, word) in cases {
        let output = run(args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?} is bad usage: {said}");
        assert!(said.contains(word), "{args:?} names {word:?}: {said}");
        assert!(output.stdout.is_empty(), "{args:?} prints no result");
    }
}

#[test]
fn a_certificate_that_cannot_be_read_is_named() {
    let output = run(&[
        "--ca",
        "/no/such/ca.pem",
        "--cert",
        "/no/such/me.pem",
        "--key",
        "/no/such/me.key",
        "call",
        "billing",
        "/",
    ]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("/no/such/"), "the file is named: {said}");
    assert_eq!(said.lines().count(), 1, "one line: {said}");
}

#[test]
fn a_peer_that_refuses_is_named_and_a_missing_one_has_its_own_exit_code() {
    let dead = dead_address();
    let output = run(&["--from", &format!("static:{dead}"), "call", "billing", "/"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains(&dead.to_string()), "{}", text(&output.stderr));

    let directory = tempfile::tempdir().expect("a directory");
    let list = directory.path().join("peers.json");
    std::fs::write(&list, r#"{"version":1,"peers":[]}"#).expect("a file");
    let from = format!("file:{}", list.display());
    for args in [&["call", "billing", "/", "--wait", "200ms"][..], &["peers", "billing", "--wait", "200ms"]] {
        let output = run(&[&["--from", &from][..], args].concat());
        assert_eq!(output.status.code(), Some(3), "{args:?}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains("_billing._tcp"), "{args:?}: {}", text(&output.stderr));
    }
}

#[test]
fn completions_and_the_man_page_come_from_the_same_source() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["completions", shell]);
        assert!(output.status.success() && text(&output.stdout).contains("expose"), "{shell}");
    }
    let page = text(&run(&["man"]).stdout);
    assert!(page.contains(".TH peerage 1") && page.contains("expose"), "{page}");
}

#[test]
fn by_the_name_of_gits_helper_it_is_that_helper() {
    let directory = tempfile::tempdir().expect("a directory");
    let link = directory.path().join("git-remote-entire");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_peerage"), &link).expect("a link");
    let output = std::process::Command::new(&link).arg("--version").output().expect("it starts");
    assert!(text(&output.stdout).starts_with("git-remote-entire "), "{}", text(&output.stdout));
    let output = std::process::Command::new(&link).args(["origin", "entire://"]).output().expect("it starts");
    assert_eq!(output.status.code(), Some(128), "Git's exit code, and not clap's");
}
