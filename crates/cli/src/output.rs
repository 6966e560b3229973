//! What the command prints: results on stdout, messages on stderr, exit codes.

use std::fmt::{self, Display};
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

use crate::args::{Color, Global};

/// Where and how results are printed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) json: bool,
    pub(crate) color: bool,
}

impl Output {
    pub(crate) fn new(global: &Global) -> Self {
        let color = match global.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                io::stdout().is_terminal()
                    && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            }
        };
        Self { json: global.json, color }
    }

    /// One line of JSON.
    pub(crate) fn event(self, value: &Value) -> Result<(), Failure> {
        self.line(format_args!("{value}"))
    }

    /// One line of text.
    pub(crate) fn line(self, text: impl Display) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        writeln!(out, "{text}").and_then(|()| out.flush()).map_err(Failure::stdout)
    }

    /// Text as it is, such as what moves the cursor.
    pub(crate) fn raw(self, text: impl Display) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        write!(out, "{text}").and_then(|()| out.flush()).map_err(Failure::stdout)
    }

    /// The line that tells a script where a listener can be reached.
    pub(crate) fn ready(self, address: &dyn Display, more: &[(&str, Value)]) -> Result<(), Failure> {
        if !self.json {
            return self.line(format_args!("ready {address}"));
        }
        let mut event = serde_json::json!({ "event": "ready", "address": address.to_string() });
        if let Some(object) = event.as_object_mut() {
            object.extend(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        }
        self.event(&event)
    }

    /// Bold, where colours are on.
    pub(crate) fn strong(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub(crate) fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(crate) fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.color { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// A table without frames, as wide as the terminal.
pub(crate) fn table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_header(head);
    table
}

/// Why the command ends, and with which exit code.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The thing failed: 1.
    Failed(String),
    /// The options make no sense: 2.
    Usage(String),
    /// Nobody was found: 3.
    Nobody(String),
    /// The person stopped it: 130.
    Interrupted,
    /// The reader of stdout went away, as `head` does: 0, and nothing is said.
    Hangup,
}

impl Failure {
    pub(crate) fn failed(text: impl Display) -> Self {
        Self::Failed(text.to_string())
    }

    pub(crate) fn usage(text: impl Display) -> Self {
        Self::Usage(text.to_string())
    }

    /// `context`, then the error and everything below it on one line.
    pub(crate) fn chain(context: impl Display, error: &(dyn std::error::Error + 'static)) -> Self {
        Self::Failed(format!("{context}: {}", Chain(error)))
    }

    pub(crate) fn stdout(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::Hangup
        } else {
            Self::Failed(format!("cannot write to stdout: {error}"))
        }
    }

    /// What went wrong, on one line.
    pub(crate) fn text(self) -> String {
        match self {
            Self::Failed(text) | Self::Usage(text) | Self::Nobody(text) => text,
            Self::Interrupted => "interrupted".into(),
            Self::Hangup => "stdout was closed".into(),
        }
    }

    /// Prints the one line and gives the exit code.
    pub(crate) fn report(self) -> ExitCode {
        let (code, text) = match self {
            Self::Failed(text) => (1, text),
            Self::Usage(text) => (2, text),
            Self::Nobody(text) => (3, text),
            Self::Interrupted => return ExitCode::from(130),
            Self::Hangup => return ExitCode::SUCCESS,
        };
        eprintln!("peerage: {text}");
        ExitCode::from(code)
    }
}

/// An error and its sources on one line; a source that only repeats what stands before it is left out.
pub(crate) struct Chain<'e>(pub(crate) &'e (dyn std::error::Error + 'static));

impl Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.0.to_string();
        let mut next = self.0.source();
        while let Some(error) = next {
            let level = error.to_string();
            if !text.contains(&level) {
                text = format!("{text}: {level}");
            }
            next = error.source();
        }
        f.write_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_says_each_level_once() {
        let inner = io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused");
        let outer = io::Error::other(inner);
        assert_eq!(Chain(&outer).to_string(), "connection refused");
    }
}
