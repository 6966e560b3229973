//! The tasks of this repository: `cargo xtask help` lists them.
//!
//! Plain Rust on the standard library, so that it builds in a second on a bare machine.
#![expect(clippy::print_stdout, reason = "a task talks to the person who runs it")]
#![expect(
    clippy::disallowed_types,
    reason = "tasks time themselves with the real clock; nothing here runs under a paused one"
)]

mod ci;
mod codegen;
mod fuzz;
mod interop;
mod rows;
mod run;
#[cfg(test)]
mod supply;
mod tidy;

use std::process::ExitCode;

const HELP: &str = "\
usage: cargo xtask TASK

  lint             format, generated code, clippy, docs, each feature alone, tidy, deny
  test             every test that needs no root; ends with what was skipped and why
  ci               lint, then test: what .ci/run does
  tidy             dependency arrows, inherited lints, conformance rows no test names
  codegen [--check]
                   proto/ to crates/controlclient/src/gen, or whether that is up to date
  netns            the long tests that need network namespaces (minutes)
  interop          our programs beside OpenSSL, Go, python-zeroconf, avahi, curl (4 min)
  bench balance    what a pick costs, beside tower's (1 min, release build)
  bench clienthttp what the whole client adds to a call (2 min, release build)
  bench control    what a registration costs, and how soon it is back (1 min, release build)
  bench git [--quick]
                   the Git helper beside stock Git, and the transport alone (5 min, release build)
  bench zaphttp    client and server beside hyper and a raw epoll loop (release build)
  soak [--minutes N]
                   calls at a fixed rate while peers are killed, stopped, black-holed, reset;
                   fails if a target is missed (2 min, release build)
  fuzz TARGET [--seconds N]
                   one fuzz target (needs cargo-fuzz); without TARGET: the list
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match args.as_slice() {
        ["lint"] => ci::lint(),
        ["test", rest @ ..] => ci::test(rest),
        ["ci"] => ci::lint().and_then(|()| ci::test(&[])),
        ["tidy"] => tidy::run(),
        ["codegen", rest @ ..] => codegen::run(rest),
        ["netns", rest @ ..] => ci::netns(rest),
        ["bench", rest @ ..] => ci::bench(rest),
        ["soak", rest @ ..] => ci::soak(rest),
        ["interop"] => interop::run(),
        ["fuzz", rest @ ..] => fuzz::run(rest),
        [] | ["help" | "--help" | "-h"] => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprint!("unknown task: {}\n\n{HELP}", args.join(" "));
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            ExitCode::FAILURE
        }
    }
}
