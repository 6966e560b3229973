//! Starting other programs, and saying which one failed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a task ends with; the text is for the person who started it.
pub(crate) type Outcome = Result<(), String>;

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the root of the repository")
        .to_path_buf()
}

/// The cargo that runs this task, started in the root of the repository.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root());
    command
}

/// Runs `command` to its end and prints how long it took.
///
/// # Errors
///
/// What the step was, when it could not start or did not succeed.
pub(crate) fn step(name: &str, command: &mut Command) -> Outcome {
    println!("== {name}");
    let started = std::time::Instant::now();
    let status = command.status().map_err(|error| format!("{name}: cannot start: {error}"))?;
    if !status.success() {
        return Err(format!("{name} failed ({status}): {command:?}"));
    }
    println!("== {name}: {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// Whether a program answers to `args`.
pub(crate) fn answers(program: &str, args: &[&str]) -> bool {
    Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Whether this is a machine that must not skip.
pub(crate) fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false" && value != "0")
}
