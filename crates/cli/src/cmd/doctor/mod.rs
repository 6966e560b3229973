//! `peerage doctor`: what is wrong here, and what to do about it. Calls nobody, and leaves nothing behind.

mod certificate;
mod discovery;
mod peers;
mod tools;

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::FuturesOrdered;
use peerage::discovery::escape;
use serde_json::{Map, Value, json};

use crate::args::{Doctor, Global};
use crate::output::{Failure, Output};
use crate::setup;
use crate::stop::Stop;

/// How long things may take.
#[derive(Clone, Copy, Debug)]
struct Times {
    /// To be heard of.
    wait: Duration,
    /// One look: a connection, an answer, a program.
    limit: Duration,
}

/// How good a thing is that was looked at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Grade {
    Ok,
    Warning,
    Failed,
}

impl Grade {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug)]
struct Check {
    grade: Grade,
    subject: String,
    text: String,
    /// What to do, if there is something.
    hint: Option<String>,
    /// For scripts alone.
    more: Map<String, Value>,
}

impl Check {
    fn new(grade: Grade, subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self { grade, subject: subject.into(), text: text.into(), hint: None, more: Map::new() }
    }

    fn ok(subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(Grade::Ok, subject, text)
    }

    fn warning(subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(Grade::Warning, subject, text)
    }

    fn failed(subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(Grade::Failed, subject, text)
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.more.insert(key.into(), value.into());
        self
    }
}

/// What some looks found.
#[derive(Default)]
struct Found {
    checks: Vec<Check>,
    /// The service that was asked for and has no peer.
    nobody: Option<String>,
}

impl From<Vec<Check>> for Found {
    fn from(checks: Vec<Check>) -> Self {
        Self { checks, nobody: None }
    }
}

pub(crate) async fn run(global: &Global, output: Output, args: Doctor) -> Result<(), Failure> {
    let mut stop = Stop::listen().map_err(|error| Failure::chain("cannot listen for signals", &error))?;
    // What makes no sense is told before anything is looked at.
    let gateways = tools::Gateways::new(global, args.gateway)?;
    let files = match global.ca {
        // Enough to know a gateway by.
        Some(_) if global.cert.is_none() && global.key.is_none() && !gateways.is_empty() => None,
        _ => setup::tls_files(global)?,
    };
    let (certificate, identity) = certificate::own(files);
    let source = discovery::open(global, args.name.as_deref())?;
    let times = Times { wait: args.wait, limit: args.limit };

    let looks: FuturesOrdered<BoxFuture<'_, Found>> = [
        async { certificate.into() }.boxed(),
        tools::git(times.limit).map(Found::from).boxed(),
        gateways.ask(times.limit).map(Found::from).boxed(),
        discovery::look(global, &source, identity, times).boxed(),
    ]
    .into_iter()
    .collect();
    let mut report = Report { output, ok: 0, warnings: 0, failed: 0, nobody: None };
    let outcome = tokio::select! {
        outcome = report.print(looks) => outcome,
        () = stop.asked() => Err(Failure::Interrupted),
    };
    source.stop().await;
    outcome?;
    report.verdict()
}

struct Report {
    output: Output,
    ok: usize,
    warnings: usize,
    failed: usize,
    nobody: Option<String>,
}

impl Report {
    /// Each look as soon as it is over and those before it are.
    async fn print(&mut self, mut looks: FuturesOrdered<BoxFuture<'_, Found>>) -> Result<(), Failure> {
        while let Some(found) = looks.next().await {
            for check in &found.checks {
                self.tell(check)?;
            }
            self.nobody = self.nobody.take().or(found.nobody);
        }
        Ok(())
    }

    fn tell(&mut self, check: &Check) -> Result<(), Failure> {
        let Check { grade, subject, text, hint, more } = check;
        let word = format!("{:<7}", grade.as_str());
        let word = match grade {
            Grade::Ok => {
                self.ok += 1;
                self.output.good(&word)
            }
            Grade::Warning => {
                self.warnings += 1;
                self.output.strong(&word)
            }
            Grade::Failed => {
                self.failed += 1;
                self.output.bad(&word)
            }
        };
        if self.output.json {
            let mut event = json!({
                "event": "check", "subject": subject, "result": grade.as_str(), "text": text, "hint": hint,
            });
            if let Some(object) = event.as_object_mut() {
                object.extend(more.clone());
            }
            return self.output.event(&event);
        }
        self.output.line(format_args!("{word}  {}: {}", escape(subject), escape(text)))?;
        match hint {
            Some(hint) => self.output.line(format_args!("         {}", escape(hint))),
            None => Ok(()),
        }
    }

    fn verdict(self) -> Result<(), Failure> {
        let Self { output, ok, warnings, failed, nobody } = self;
        if output.json {
            output.event(&json!({ "event": "summary", "ok": ok, "warnings": warnings, "failed": failed }))?;
        }
        match (failed, nobody) {
            (0, Some(service)) => Err(Failure::Nobody(format!("no peers of {service}"))),
            (0, None) => Ok(()),
            _ => Err(Failure::failed(format!("{failed} of {} checks failed", ok + warnings + failed))),
        }
    }
}
