//! Requests for a while, and how long each took.

use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

use crate::sides::{self, ClientKind, ServerKind};
use crate::{BoxError, Plan, raw};

/// Requests before the clock starts: connections come up, caches and buffers get warm.
const WARM_UP: Duration = Duration::from_millis(200);

/// From when until when finished requests count.
#[derive(Clone, Copy)]
pub(crate) struct Window {
    pub(crate) from: Instant,
    pub(crate) until: Instant,
}

impl Window {
    fn ahead(time: Duration) -> Self {
        let from = Instant::now() + WARM_UP;
        Self { from, until: from + time }
    }
}

/// Counts what finishes in the window.
pub(crate) struct Recorder {
    window: Window,
    latencies: Histogram<u64>,
}

impl Recorder {
    pub(crate) fn new(window: Window) -> Self {
        let latencies = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds that are in order");
        Self { window, latencies }
    }

    /// Takes one exchange; whether there is time for another.
    pub(crate) fn record(&mut self, started: Instant, ended: Instant) -> bool {
        if ended >= self.window.from && ended < self.window.until {
            let nanos = u64::try_from((ended - started).as_nanos()).unwrap_or(u64::MAX);
            self.latencies.saturating_record(nanos);
        }
        ended < self.window.until
    }

    pub(crate) fn merge(mut self, other: Self) -> Self {
        self.latencies.add(other.latencies).expect("both have the same bounds");
        self
    }

    fn cell(&self) -> Cell {
        let time = self.window.until - self.window.from;
        Cell {
            per_second: self.latencies.len() as f64 / time.as_secs_f64(),
            p50: self.latencies.value_at_quantile(0.5),
            p99: self.latencies.value_at_quantile(0.99),
        }
    }
}

/// One figure of the table; times in nanoseconds.
#[derive(Clone, Copy)]
pub(crate) struct Cell {
    pub(crate) per_second: f64,
    pub(crate) p50: u64,
    pub(crate) p99: u64,
}

/// A column: who asks whom.
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    client: ClientKind,
    server: ServerKind,
}

pub(crate) const COLUMNS: [Column; 6] = [
    Column { name: "pair", title: "our pair", client: ClientKind::Zap, server: ServerKind::Zap },
    Column { name: "server", title: "our server", client: ClientKind::Raw, server: ServerKind::Zap },
    Column { name: "client", title: "our client", client: ClientKind::Zap, server: ServerKind::Raw },
    Column { name: "raw", title: "raw pair", client: ClientKind::Raw, server: ServerKind::Raw },
    Column { name: "hyper1", title: "hyper 1.1", client: ClientKind::Hyper1, server: ServerKind::Hyper1 },
    Column { name: "h2", title: "hyper h2", client: ClientKind::Hyper2, server: ServerKind::Hyper2 },
];

/// A row: a number of connections, and a cell per column that was asked for.
pub(crate) struct Row {
    pub(crate) connections: usize,
    pub(crate) cells: [Option<Cell>; COLUMNS.len()],
}

pub(crate) fn run(plan: &Plan) -> Result<Vec<Row>, BoxError> {
    let mut rows = Vec::new();
    for &connections in &plan.connections {
        let mut rounds: [Vec<Cell>; COLUMNS.len()] = Default::default();
        for _ in 0..plan.rounds {
            for (column, cells) in COLUMNS.iter().zip(&mut rounds) {
                if plan.wants(column.name) {
                    cells.push(measure(plan, column, connections)?);
                }
            }
        }
        let cells = rounds.map(|mut cells| {
            cells.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
            cells.get(cells.len() / 2).copied()
        });
        if cells.iter().any(Option::is_some) {
            rows.push(Row { connections, cells });
        }
    }
    Ok(rows)
}

fn measure(plan: &Plan, column: &Column, connections: usize) -> Result<Cell, BoxError> {
    let runtime = sides::Runtimes::new(plan.runtime)?;
    let server = match column.server {
        ServerKind::Raw => sides::Running::Raw(raw::Server::start()?),
        kind => runtime.serve(kind)?,
    };
    let window = Window::ahead(plan.time / plan.rounds);
    let recorder = match column.client {
        ClientKind::Raw => raw::load(server.addr(), connections, window)?,
        kind => runtime.load(kind, server.addr(), connections, window)?,
    };
    server.stop()?;
    Ok(recorder.cell())
}
