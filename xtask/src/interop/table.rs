//! The table of all checks.

use crate::run::{Outcome, in_ci};

/// Peers that must not be skipped under `CI`.
const REQUIRED: &[&str] = &["OpenSSL", "curl", "python-zeroconf"];

/// One check.
#[derive(Debug)]
pub(super) struct Row {
    peer: String,
    /// The conformance row, or a dash.
    id: String,
    what: String,
    verdict: Verdict,
}

#[derive(Debug)]
enum Verdict {
    Passed,
    Failed(String),
    Skipped(String),
}

impl Row {
    pub(super) fn passed(peer: &str, id: &str, what: &str) -> Self {
        Self::new(peer, id, what, Verdict::Passed)
    }

    pub(super) fn failed(peer: &str, id: &str, what: &str, why: &str) -> Self {
        Self::new(peer, id, what, Verdict::Failed(why.to_owned()))
    }

    pub(super) fn skipped(peer: &str, id: &str, what: &str, why: &str) -> Self {
        Self::new(peer, id, what, Verdict::Skipped(why.to_owned()))
    }

    pub(super) fn is(&self, id: &str) -> bool {
        self.id == id
    }

    /// From a line that a check printed: `ok ROW what`, `FAIL ROW what: why`, `skip ROW why`.
    pub(super) fn read(peer: &str, line: &str) -> Option<Self> {
        let (word, rest) = line.split_once(' ')?;
        let (id, text) = rest.split_once(' ')?;
        match word {
            "ok" => Some(Self::passed(peer, id, text)),
            "FAIL" => {
                let (what, why) = text.split_once(": ").unwrap_or((text, "it did not say why"));
                Some(Self::failed(peer, id, what, why))
            }
            "skip" => Some(Self::skipped(peer, id, "-", text)),
            _ => None,
        }
    }

    fn new(peer: &str, id: &str, what: &str, verdict: Verdict) -> Self {
        Self { peer: peer.to_owned(), id: id.to_owned(), what: what.to_owned(), verdict }
    }
}

/// All checks.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Vec<Row>,
}

impl Table {
    pub(super) fn add(&mut self, rows: Vec<Row>) {
        self.rows.extend(rows);
    }

    /// Prints it.
    pub(super) fn finish(&self) -> Outcome {
        let width = |column: fn(&Row) -> &str| {
            self.rows.iter().map(|row| column(row).chars().count()).max().unwrap_or_default()
        };
        let (peers, ids) = (width(|row| &row.peer), width(|row| &row.id));
        println!("\n== interop");
        let (mut failed, mut skipped) = (0, Vec::new());
        for Row { peer, id, what, verdict } in &self.rows {
            let (word, why) = match verdict {
                Verdict::Passed => ("passed", String::new()),
                Verdict::Failed(why) => {
                    failed += 1;
                    ("FAILED", format!(": {why}"))
                }
                Verdict::Skipped(why) => {
                    skipped.push((peer, why));
                    ("SKIPPED", format!(": {why}"))
                }
            };
            println!("   {word:<7}  {peer:<peers$}  {id:<ids$}  {what}{why}");
        }
        for (peer, why) in &skipped {
            println!("!! SKIPPED {peer}: {why}");
        }
        let passed = self.rows.len() - failed - skipped.len();
        println!("== interop: {passed} passed; {failed} failed; {} skipped", skipped.len());
        let missing: Vec<_> = skipped
            .iter()
            .filter(|(peer, _)| REQUIRED.iter().any(|required| peer.starts_with(required)))
            .map(|(peer, _)| peer.as_str())
            .collect();
        if failed > 0 {
            Err(format!("interop: {failed} checks failed"))
        } else if in_ci() && !missing.is_empty() {
            Err(format!("interop: required peers were skipped: {}", missing.join(", ")))
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_checks_become_rows() {
        let row = Row::read("p", "FAIL D-063 it is seen: not: within 5 s").unwrap();
        assert_eq!((row.id.as_str(), row.what.as_str()), ("D-063", "it is seen"));
        assert!(matches!(row.verdict, Verdict::Failed(why) if why == "not: within 5 s"));
        let row = Row::read("p", "ok Z-001 a POST").unwrap();
        assert!(row.is("Z-001") && matches!(row.verdict, Verdict::Passed));
        assert!(Row::read("p", "Traceback (most recent call last):").is_none());
    }

    #[test]
    fn a_failure_fails_and_a_skip_does_not() {
        let table = |row| Table { rows: vec![Row::passed("a", "-", "x"), row] };
        assert!(table(Row::failed("b", "-", "y", "z")).finish().is_err());
        assert!(table(Row::skipped("Go reference", "-", "y", "z")).finish().is_ok());
    }
}
