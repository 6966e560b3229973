//! Tests that change the environment or count descriptors run in a process of their own.

use std::path::PathBuf;
use std::process::{Command, Output};

const MARK: &str = "PEERAGE_TEST_ALONE";

/// Runs `body` in a new process of this test binary, with `environment` set, and nothing else running.
///
/// `test` is the full name of the calling test, as `cargo test -- --list` prints it. The call starts the
/// binary again with this one test, and there `body` is run.
///
/// # Panics
///
/// If the test fails there, with everything it printed.
pub fn run(test: &str, environment: &[(&str, &str)], body: impl FnOnce()) {
    if is_here(test) {
        body();
        return;
    }
    judge(test, start(test, environment));
}

/// As [`run`], in a process that may have so many descriptors open and no more.
///
/// # Panics
///
/// As [`run`].
pub fn run_with_descriptors(test: &str, count: usize, body: impl FnOnce()) {
    if is_here(test) {
        body();
        return;
    }
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -n \"$0\" && exec \"$@\""]).arg(count.to_string()).arg(this_binary());
    judge(test, finish(shell, test, &[]));
}

fn judge(test: &str, output: Output) {
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success(), "{test} fails alone ({}):\n{text}", output.status);
    assert!(text.contains("1 passed"), "{test} is not the name of a test:\n{text}");
}

/// As [`run`], for a body that is expected to end its process; gives back what it printed and how it
/// ended, or runs `body` when this is that process.
pub fn output(test: &str, environment: &[(&str, &str)], body: impl FnOnce()) -> Option<Output> {
    if is_here(test) {
        body();
        return None;
    }
    Some(start(test, environment))
}

fn is_here(test: &str) -> bool {
    std::env::var_os(MARK).is_some_and(|mark| mark == test)
}

fn start(test: &str, environment: &[(&str, &str)]) -> Output {
    finish(Command::new(this_binary()), test, environment)
}

fn this_binary() -> PathBuf {
    std::env::current_exe().expect("a test binary knows its path")
}

/// Runs a command that is the test binary, or becomes it, with this one test.
fn finish(mut command: Command, test: &str, environment: &[(&str, &str)]) -> Output {
    command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(MARK, test)
        .envs(environment.iter().copied())
        .output()
        .expect("a test binary can be started again")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Watchdog;
    use std::time::Duration;

    #[test]
    fn a_test_alone_has_its_own_environment() {
        run("alone::tests::a_test_alone_has_its_own_environment", &[("PEERAGE_ONLY_HERE", "yes")], || {
            assert_eq!(std::env::var("PEERAGE_ONLY_HERE").as_deref(), Ok("yes"));
        });
        assert!(
            is_here("alone::tests::a_test_alone_has_its_own_environment")
                || std::env::var_os("PEERAGE_ONLY_HERE").is_none()
        );
    }

    #[test]
    fn a_hang_aborts_the_process_and_says_where() {
        let output = output("alone::tests::a_hang_aborts_the_process_and_says_where", &[], || {
            let dog = Watchdog::new("the hanging one", Duration::from_millis(50));
            dog.note("seed 42");
            let (_keep, never) = std::sync::mpsc::channel::<()>();
            never.recv().unwrap();
        });
        let Some(output) = output else { return };
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "an aborted process does not succeed");
        assert!(text.contains("test: the hanging one") && text.contains("seed 42"), "{text}");
    }
}
