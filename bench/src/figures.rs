//! The codec's figures: nanoseconds measured here, allocations counted by a program of their own.

use std::process::{Command, Stdio};

use tokio::time::Instant;

use crate::{BoxError, codec};

/// One operation.
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) nanos: f64,
    pub(crate) allocations: u64,
    /// What zaphttp §7 asks for, where it does.
    pub(crate) target: Option<u32>,
}

pub(crate) fn run() -> Result<Vec<Figure>, BoxError> {
    let mut figures = Vec::new();
    codec::operations(&mut |name, target, run| {
        figures.push(Figure { name, nanos: nanos(run), allocations: 0, target });
    });
    for (figure, count) in figures.iter_mut().zip(allocations("codec")?) {
        figure.allocations = count;
    }
    Ok(figures)
}

/// The fastest of many batches: what disturbs a batch only makes it slower.
fn nanos(run: &mut dyn FnMut()) -> f64 {
    const BATCH: u32 = 1_000;
    const BATCHES: usize = 1_000;
    (0..BATCHES)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..BATCH {
                run();
            }
            start.elapsed().as_secs_f64() * 1e9 / f64::from(BATCH)
        })
        .fold(f64::INFINITY, f64::min)
}

/// One number per operation, from the binary next to this one; `cargo run` has built only this one.
pub(crate) fn allocations(what: &str) -> Result<Vec<u64>, BoxError> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "run",
            "--release",
            "--quiet",
            "--package",
            "peerage-bench",
            "--bin",
            "peerage-bench-allocations",
            "--",
            what,
        ])
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err("allocations could not be counted".into());
    }
    Ok(String::from_utf8(output.stdout)?.lines().map(str::parse).collect::<Result<_, _>>()?)
}
