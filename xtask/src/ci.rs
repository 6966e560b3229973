//! `lint`, `test`, `netns`, `bench` and `soak`.

use std::fs;
use std::process::Command;

use crate::run::{Outcome, answers, cargo, in_ci, root, step};
use crate::{codegen, rows, tidy};

/// The features that each crate must build with alone, beside none at all.
const FEATURES: &[(&str, &[&str])] = &[
    ("peerage-balance", &[]),
    ("peerage-discovery", &["mdns"]),
    ("peerage-zaphttp", &["tls"]),
    ("peerage-controlclient", &["server", "test-util"]),
    ("peerage-transport", &["reqwest"]),
    ("peerage-clienthttp", &["zap", "http", "grpc", "mdns", "json", "metrics", "test-util"]),
];

/// Everything that can be said of the code without running it.
pub(crate) fn lint() -> Outcome {
    step("format", &mut cargo(&["fmt", "--all", "--check"]))?;
    tidy::run()?;
    codegen::run(&["--check"])?;
    step(
        "clippy",
        &mut cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--all-features",
            "--locked",
            "--",
            "-D",
            "warnings",
        ]),
    )?;
    step(
        "docs",
        cargo(&["doc", "--workspace", "--no-deps", "--all-features", "--locked"])
            .env("RUSTDOCFLAGS", "-D warnings"),
    )?;
    for (package, features) in FEATURES {
        let alone = |feature: Option<&str>| {
            let mut command =
                cargo(&["check", "--quiet", "--locked", "-p", package, "--no-default-features"]);
            if let Some(feature) = feature {
                command.args(["--features", feature]);
            }
            step(&format!("{package} with {}", feature.unwrap_or("no feature")), &mut command)
        };
        alone(None)?;
        for feature in *features {
            alone(Some(feature))?;
        }
    }
    deny()
}

/// Licences, sources, bans and floors always; advisories where their database can be reached.
fn deny() -> Outcome {
    if !answers("cargo", &["deny", "--version"]) {
        return if in_ci() {
            Err("cargo-deny is missing: cargo install cargo-deny --locked".into())
        } else {
            println!("== deny: SKIPPED, cargo-deny is not installed (cargo install cargo-deny --locked)");
            Ok(())
        };
    }
    step(
        "deny",
        &mut cargo(&[
            "deny",
            "--all-features",
            "check",
            "--hide-inclusion-graph",
            "bans",
            "licenses",
            "sources",
        ]),
    )?;
    let fetched = cargo(&["deny", "fetch", "db"]).output().is_ok_and(|output| output.status.success());
    if fetched {
        step("deny advisories", &mut cargo(&["deny", "--all-features", "check", "advisories"]))
    } else {
        println!("== deny advisories: SKIPPED, the advisory database cannot be fetched from here");
        Ok(())
    }
}

/// `cargo test` over the whole workspace, then what was skipped. `rest` goes to `cargo test`.
pub(crate) fn test(rest: &[&str]) -> Outcome {
    let skips = root().join("target").join("skipped-tests.txt");
    if let Some(directory) = skips.parent() {
        fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    }
    fs::write(&skips, "").map_err(|error| format!("{}: {error}", skips.display()))?;

    let mut command = cargo(&["test", "--workspace", "--all-features", "--locked"]);
    command.args(rest).env("PEERAGE_SKIPPED", &skips);
    let outcome = step("test", &mut command);

    let skipped = fs::read_to_string(&skips).unwrap_or_default();
    let mut skipped: Vec<&str> = skipped.lines().filter(|line| !line.is_empty()).collect();
    skipped.sort_unstable();
    skipped.dedup();
    println!("== skipped: {} tests that this machine or this run cannot do", skipped.len());
    for line in skipped {
        println!("   {line}");
    }
    println!("== skipped: {} conformance rows (tests/skipped-rows.toml)", rows::skipped()?.len());
    outcome
}

/// The tests that need namespaces and real minutes.
pub(crate) fn netns(rest: &[&str]) -> Outcome {
    step(
        "netns",
        cargo(&["test", "--locked", "-p", "peerage-discovery", "--all-features", "--test", "it", "netns_"])
            .args(["--", "--nocapture", "--test-threads", "1"])
            .args(rest)
            .env("PEERAGE_NETNS", "1"),
    )
}

/// A benchmark of the package `peerage-bench`, in a release build.
pub(crate) fn bench(rest: &[&str]) -> Outcome {
    step("bench", measured().args(rest))
}

/// Peers that fail one after the other, under load.
pub(crate) fn soak(rest: &[&str]) -> Outcome {
    step("soak", measured().arg("soak").args(rest))
}

fn measured() -> Command {
    cargo(&["run", "--release", "--locked", "--quiet", "-p", "peerage-bench", "--"])
}
