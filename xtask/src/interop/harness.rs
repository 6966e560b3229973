//! Running a program that prints a line per check, and no longer than it may.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use super::table::Row;

/// Runs `command` for at most `limit`. A row of `expected` that it says nothing about has failed.
pub(super) fn check(peer: &str, command: &mut Command, limit: Duration, expected: &[&str]) -> Vec<Row> {
    let (lines, ended) = match Running::start(command) {
        Ok(running) => running.lines_until_end(limit),
        Err(error) => return vec![Row::failed(peer, "-", "start", &format!("{command:?}: {error}"))],
    };
    let mut rows: Vec<_> = lines.iter().filter_map(|line| Row::read(peer, line)).collect();
    let was_skipped = lines.iter().any(|line| line.starts_with("skip "));
    let last = lines.get(lines.len().saturating_sub(5)..).unwrap_or_default().join(" | ");
    if let Err(why) = ended {
        rows.push(Row::failed(peer, "-", "its end", &format!("{why}: {last}")));
    }
    let silent: Vec<_> =
        expected.iter().filter(|id| !was_skipped && !rows.iter().any(|row| row.is(id))).collect();
    rows.extend(silent.into_iter().map(|id| Row::failed(peer, id, "a result", &format!("none: {last}"))));
    rows
}

/// A program whose output, errors included, is read line by line. It ends with its owner.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    pub(super) fn start(command: &mut Command) -> std::io::Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .env("RUST_BACKTRACE", "0")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .spawn()?;
        let (send, lines) = sync_channel(1024);
        if let (Some(output), Some(errors)) = (child.stdout.take(), child.stderr.take()) {
            forward(output, send.clone());
            forward(errors, send);
        }
        Ok(Self { child, lines })
    }

    /// The first line from now on that begins so, without that beginning.
    pub(super) fn wait_for(&self, beginning: &str, limit: Duration) -> Option<String> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).ok()?;
            if let Some(rest) = line.strip_prefix(beginning) {
                return Some(rest.to_owned());
            }
        }
    }

    /// All lines until it ends, and how it ended.
    fn lines_until_end(mut self, limit: Duration) -> (Vec<String>, Result<(), String>) {
        let deadline = Instant::now() + limit;
        let mut lines = Vec::new();
        // It gets no input: what waits for the end of it must not wait for us.
        drop(self.child.stdin.take());
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => lines.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    return (lines, Err(format!("it did not end within {} s", limit.as_secs())));
                }
            }
        }
        let ended = match self.child.wait() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(status.to_string()),
            Err(error) => Err(error.to_string()),
        };
        (lines, ended)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Ours end with their input; the others, and those that hang, are told so.
        drop(self.child.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn forward(from: impl Read + Send + 'static, to: SyncSender<String>) {
    thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n') {
            let Ok(line) = line else { break };
            if to.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });
}
