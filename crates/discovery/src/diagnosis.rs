//! What a look into discovery found, for people.

use std::fmt::{self, Display, Formatter};

use crate::{escape::escape, service_type::ServiceType, snapshot::Snapshot, status::Status};

/// The report of [`Discovery::diagnose`](crate::Discovery::diagnose); its `Display` is what `doctor`
/// prints.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Diagnosis {
    /// What was looked for.
    pub service: ServiceType,
    /// What was found, in the order in which it was looked at.
    pub findings: Vec<Finding>,
    /// What to do about it, if there is something.
    pub hints: Vec<String>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// How good it is.
    pub grade: Grade,
    /// What was looked at: `interface eth0`, `sockets`.
    pub subject: String,
    /// What was seen. Foreign text is escaped when it is shown.
    pub text: String,
}

/// How good a finding is; the worst of a report is its verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Grade {
    /// As it should be, or only a fact.
    Good,
    /// Works, and may not be what was meant.
    Warning,
    /// Does not work.
    Bad,
}

impl Grade {
    /// A name that never changes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Warning => "warning",
            Self::Bad => "bad",
        }
    }
}

impl Display for Grade {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Diagnosis {
    /// A report without findings.
    pub fn new(service: &ServiceType) -> Self {
        Self { service: service.clone(), findings: Vec::new(), hints: Vec::new() }
    }

    /// What every source can tell: its status, its peers, and why there are not more.
    pub fn of(service: &ServiceType, snapshot: &Snapshot, explained: &str) -> Self {
        let grade = match snapshot.status() {
            Status::Ready => Grade::Good,
            Status::Starting | Status::Degraded { .. } => Grade::Warning,
            Status::Idle | Status::NoInterface | Status::Stopped => Grade::Bad,
        };
        let mut diagnosis = Self::new(service);
        diagnosis.find(grade, "status", snapshot.status().to_string());
        let (up, suspects) = (snapshot.peer_count(), snapshot.suspect_count());
        let (grade, text) = match (up, suspects) {
            (0, 0) => (Grade::Warning, format!("none: {explained}")),
            (0, _) => (Grade::Warning, format!("none up, {suspects} in doubt")),
            (_, 0) => (Grade::Good, format!("{up} up")),
            _ => (Grade::Good, format!("{up} up, {suspects} in doubt")),
        };
        diagnosis.find(grade, "peers", text);
        diagnosis
    }

    /// Adds a finding.
    pub fn find(&mut self, grade: Grade, subject: impl Into<String>, text: impl Into<String>) {
        self.findings.push(Finding { grade, subject: subject.into(), text: text.into() });
    }

    /// Adds a piece of advice, once.
    pub fn hint(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.hints.contains(&text) {
            self.hints.push(text);
        }
    }

    /// Adds the report of a part, its subjects headed by `name`.
    pub fn include(&mut self, name: &str, part: Self) {
        let Self { service: _, findings, hints } = part;
        for Finding { grade, subject, text } in findings {
            self.find(grade, format!("{name}: {subject}"), text);
        }
        for hint in hints {
            self.hint(hint);
        }
    }

    /// The worst grade of all findings.
    pub fn verdict(&self) -> Grade {
        self.findings.iter().map(|finding| finding.grade).max().unwrap_or(Grade::Good)
    }
}

impl Display for Diagnosis {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "discovery of {}: {}", self.service, self.verdict())?;
        for Finding { grade, subject, text } in &self.findings {
            writeln!(f, "{grade:>9}  {}: {}", escape(subject), escape(text))?;
        }
        for hint in &self.hints {
            writeln!(f, "     hint  {}", escape(hint))?;
        }
        Ok(())
    }
}
