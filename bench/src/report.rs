//! The table, for people and for programs.

use std::fmt;

use crate::figures::Figure;
use crate::large::{Direction, Figures};
use crate::load::{COLUMNS, Cell, Row};
use crate::machine::Machine;
use crate::{Plan, sides};

pub(crate) struct Report {
    machine: Machine,
    settings: String,
    pub(crate) exchanges: Vec<Row>,
    pub(crate) codec: Vec<Figure>,
    pub(crate) body: Option<Figures>,
}

/// What is divided by what, by the names of columns; more is better in each.
const RATIOS: [(&str, &str); 5] =
    [("pair", "raw"), ("server", "raw"), ("client", "raw"), ("pair", "hyper1"), ("pair", "h2")];

impl Report {
    pub(crate) fn new(plan: &Plan) -> Self {
        let runtime = match plan.runtime {
            sides::RuntimeKind::Split => "a current-thread runtime per side",
            sides::RuntimeKind::Shared => "one runtime for both sides, a worker per core",
        };
        let settings = format!(
            "{:.1} s a cell, median of {} rounds, columns in turn; {runtime}",
            plan.time.as_secs_f64(),
            plan.rounds
        );
        Self { machine: Machine::here(), settings, exchanges: Vec::new(), codec: Vec::new(), body: None }
    }

    pub(crate) fn json(&self) -> String {
        let Machine { cpu, cores, kernel, commit } = &self.machine;
        let rows = self.exchanges.iter().map(|row| {
            let cells = COLUMNS.iter().zip(&row.cells).filter_map(|(column, cell)| {
                let Cell { per_second, p50, p99 } = (*cell)?;
                Some(format!(
                    "\"{}\":{{\"per_second\":{per_second:.0},\"p50_ns\":{p50},\"p99_ns\":{p99}}}",
                    column.name
                ))
            });
            format!("{{\"connections\":{},{}}}", row.connections, joined(cells))
        });
        let codec = self.codec.iter().map(|figure| {
            let Figure { name, nanos, allocations, target } = figure;
            let target = target.map_or_else(|| "null".to_owned(), |target| target.to_string());
            format!(
                "{{\"name\":{name:?},\"ns\":{nanos:.1},\"allocations\":{allocations},\"target_ns\":{target}}}"
            )
        });
        let body = self.body.as_ref().map_or_else(|| "null".to_owned(), |figures| {
            let direction = |direction: &Direction| {
                let Direction { rate, client_growth, server_growth } = direction;
                format!(
                    "{{\"bytes_per_second\":{rate:.0},\"client_growth_kib\":{client_growth},\"server_growth_kib\":{server_growth}}}"
                )
            };
            format!(
                "{{\"upload\":{},\"download\":{},\"raw_bytes_per_second\":{:.0}}}",
                direction(&figures.upload),
                direction(&figures.download),
                figures.raw_rate
            )
        });
        format!(
            "{{\"machine\":{{\"cpu\":{cpu:?},\"cores\":{cores},\"kernel\":{kernel:?}}},\"commit\":{commit:?},\
             \"settings\":{:?},\"exchanges\":[{}],\"codec\":[{}],\"body_64_mib\":{body}}}",
            self.settings,
            joined(rows),
            joined(codec),
        )
    }
}

fn joined(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(",")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { cpu, cores, kernel, commit } = &self.machine;
        writeln!(f, "{cpu}, {cores} cores, Linux {kernel}; commit {commit}")?;
        writeln!(f, "{}", self.settings)?;
        if !self.exchanges.is_empty() {
            exchanges(f, &self.exchanges)?;
        }
        if !self.codec.is_empty() {
            codec(f, &self.codec)?;
        }
        match &self.body {
            Some(figures) => body(f, figures),
            None => Ok(()),
        }
    }
}

fn exchanges(f: &mut fmt::Formatter<'_>, rows: &[Row]) -> fmt::Result {
    type Line = (&'static str, fn(&Cell) -> String);
    let lines: [Line; 3] = [
        ("requests/s", |cell| format!("{:.0}", cell.per_second)),
        ("p50 µs", |cell| micros(cell.p50)),
        ("p99 µs", |cell| micros(cell.p99)),
    ];
    write!(f, "\n{:>5} {:<11}", "conns", "")?;
    for column in &COLUMNS {
        write!(f, "{:>11}", column.title)?;
    }
    writeln!(f)?;
    for row in rows {
        for (index, (name, show)) in lines.iter().enumerate() {
            let connections = if index == 0 { row.connections.to_string() } else { String::new() };
            write!(f, "{connections:>5} {name:<11}")?;
            for cell in &row.cells {
                write!(f, "{:>11}", cell.as_ref().map_or_else(|| "-".to_owned(), show))?;
            }
            writeln!(f)?;
        }
    }
    write!(f, "\n{:>5} ", "conns")?;
    for (ours, theirs) in RATIOS {
        write!(f, "{:>15}", format!("{ours}/{theirs}"))?;
    }
    writeln!(f)?;
    for row in rows {
        write!(f, "{:>5} ", row.connections)?;
        for (ours, theirs) in RATIOS {
            let ratio = rate(row, ours).zip(rate(row, theirs)).map(|(ours, theirs)| ours / theirs);
            write!(f, "{:>15}", ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")))?;
        }
        writeln!(f)?;
    }
    Ok(())
}

fn rate(row: &Row, name: &str) -> Option<f64> {
    let (_, cell) = COLUMNS.iter().zip(&row.cells).find(|(column, _)| column.name == name)?;
    cell.map(|cell| cell.per_second)
}

fn micros(nanos: u64) -> String {
    format!("{:.1}", nanos as f64 / 1e3)
}

fn codec(f: &mut fmt::Formatter<'_>, figures: &[Figure]) -> fmt::Result {
    writeln!(f, "\n{:<34}{:>9}{:>9}{:>13}", "codec", "ns", "target", "allocations")?;
    for Figure { name, nanos, allocations, target } in figures {
        let target = target.map_or_else(|| "-".to_owned(), |target| format!("≤ {target}"));
        writeln!(f, "{name:<34}{nanos:>9.1}{target:>9}{allocations:>13}")?;
    }
    Ok(())
}

fn body(f: &mut fmt::Formatter<'_>, figures: &Figures) -> fmt::Result {
    writeln!(
        f,
        "\n{:<16}{:>9}{:>12}{:>22}{:>22}",
        "64 MiB body", "MiB/s", "of raw", "client peak +MiB", "server peak +MiB"
    )?;
    for (name, direction) in [("upload", &figures.upload), ("download", &figures.download)] {
        writeln!(
            f,
            "{name:<16}{:>9.0}{:>11.0}%{:>22.1}{:>22.1}",
            direction.rate / f64::from(1 << 20),
            100.0 * direction.rate / figures.raw_rate,
            direction.client_growth as f64 / 1024.0,
            direction.server_growth as f64 / 1024.0,
        )?;
    }
    writeln!(f, "{:<16}{:>9.0}", "raw socket", figures.raw_rate / f64::from(1 << 20))
}
