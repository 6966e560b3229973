//! Writes down which commit the benchmark is built from: a figure belongs to the code that made it, not to
//! what is checked out when it runs.

use std::path::Path;
use std::process::Command;

/// What the figures depend on.
const SOURCES: &[&str] = &["Cargo.toml", "build.rs", "src", "../Cargo.toml", "../Cargo.lock", "../crates"];

fn main() {
    // What moves when something else is checked out, or committed: the branch, and the file that it may be
    // packed into.
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    let heads = ["HEAD", "packed-refs"].into_iter().chain(branch.as_deref());
    for path in heads.filter_map(|name| git(&["rev-parse", "--git-path", name])) {
        // One that does not exist would count as changed in every build.
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    for path in SOURCES {
        println!("cargo::rerun-if-changed={path}");
    }
    let mut commit = git(&["rev-parse", "--short", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    let status = ["--no-optional-locks", "status", "--porcelain", "--untracked-files=no", "--"];
    if git(&[&status, SOURCES].concat()).is_some() {
        commit.push_str(" and changes");
    }
    println!("cargo::rustc-env=PEERAGE_BENCH_COMMIT={commit}");
}

/// What git says, if it says anything.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Some(text).filter(|text| !text.is_empty())
}
