//! Numbers as OpenMetrics text.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Samples by family: those of one stand together, whatever the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Metrics(BTreeMap<String, Family>);

#[derive(Debug)]
struct Family {
    is_counter: bool,
    /// By labels.
    samples: BTreeMap<String, f64>,
}

impl Metrics {
    /// A number that may fall. The first sample of a name decides of what kind it is.
    pub(crate) fn gauge(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.add(name, false, labels, value);
    }

    /// A number that only grows; its name without `_total`.
    pub(crate) fn counter(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.add(name, true, labels, value);
    }

    fn add(&mut self, name: &str, is_counter: bool, labels: &[(&str, &str)], value: f64) {
        let family =
            self.0.entry(name.to_owned()).or_insert_with(|| Family { is_counter, samples: BTreeMap::new() });
        let labels: Vec<String> =
            labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        family.samples.insert(labels, value);
    }
}

impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, Family { is_counter, samples }) in &self.0 {
            let (kind, suffix) = if *is_counter { ("counter", "_total") } else { ("gauge", "") };
            writeln!(f, "# TYPE {name} {kind}")?;
            for (labels, value) in samples {
                writeln!(f, "{name}{suffix}{labels} {value}")?;
            }
        }
        f.write_str("# EOF\n")
    }
}

/// A label's value; what cannot be seen is no part of it.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c if c.is_control() => {
                // Writing to a string does not fail.
                let _ = write!(text, "\\\\u{{{:x}}}", u32::from(c));
            }
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_stand_together_and_labels_cannot_break_out() {
        let mut metrics = Metrics::default();
        metrics.gauge("peers", &[("peer", "a\"b\\c\n\u{1b}")], 1.5);
        metrics.counter("calls", &[], 3.0);
        metrics.gauge("peers", &[("peer", "d"), ("state", "up")], 0.0);
        assert_eq!(
            metrics.to_string(),
            "# TYPE calls counter\ncalls_total 3\n# TYPE peers gauge\n\
             peers{peer=\"a\\\"b\\\\c\\n\\\\u{1b}\"} 1.5\npeers{peer=\"d\",state=\"up\"} 0\n# EOF\n"
        );
    }
}
