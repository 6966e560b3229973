//! `balance`: what a pick, its beginning and its end cost beside the limits (B-1.5) and beside tower.
//!
//! Each thread measures short pieces, so that some are not disturbed by other programs. The fastest piece of
//! one thread is shown, and the median of sixteen, which have more to do than there are cores.

use std::thread;

use tokio::time::Instant;

use crate::balance_subjects::{SIZES, Subject, subjects};
use crate::machine::Machine;
use crate::{BoxError, figures};

/// Calls in a piece, and pieces of a thread.
const CALLS: u32 = 500;
const PIECES: u32 = 400;
const THREADS: u64 = 16;
/// What a call may take where that many share a set.
const SHARED_LIMIT: u32 = 1_000;

/// Prints the table.
///
/// # Errors
///
/// When a limit was missed, beside what cannot be started.
pub(crate) fn run() -> Result<(), BoxError> {
    let Machine { cpu, cores, kernel, commit } = Machine::here();
    println!("{cpu}, {cores} cores, Linux {kernel}; commit {commit}");
    println!("ns for pick, begin and end; ours reads the clock twice");
    println!(
        "{:<22}{:>6}{:>10}{:>7}{:>12}{:>8}{:>13}  met",
        "policy", "peers", "1 thread", "limit", "16 threads", "limit", "allocations"
    );
    let mut allocations = figures::allocations("balance")?.into_iter();
    let mut missed = 0;
    for size in SIZES {
        for (name, limit, subject) in subjects(size) {
            let one = pieces(&*subject, 0).first().copied().unwrap_or_default();
            let many = together(&*subject);
            let allocated = allocations.next().ok_or("the counts are fewer than the subjects")?;
            let met = limit.map(|limit| one <= limit && many <= SHARED_LIMIT && allocated == 0);
            missed += u32::from(met == Some(false));
            println!(
                "{name:<22}{size:>6}{one:>10}{:>7}{many:>12}{:>8}{allocated:>13}  {}",
                limit.map_or_else(|| "-".to_owned(), |limit| limit.to_string()),
                limit.map_or_else(|| "-".to_owned(), |_| SHARED_LIMIT.to_string()),
                met.map_or("-", |met| if met { "yes" } else { "NO" }),
            );
        }
    }
    if missed == 0 { Ok(()) } else { Err(format!("{missed} limits were missed").into()) }
}

/// The median of the pieces of all threads.
fn together(subject: &dyn Subject) -> u32 {
    thread::scope(|scope| {
        let threads: Vec<_> =
            (0..THREADS).map(|thread| scope.spawn(move || pieces(subject, thread))).collect();
        let mut all: Vec<_> = threads.into_iter().filter_map(|thread| thread.join().ok()).flatten().collect();
        all.sort_unstable();
        all.get(all.len() / 2).copied().unwrap_or_default()
    })
}

/// Nanoseconds per call of each piece, sorted.
fn pieces(subject: &dyn Subject, thread: u64) -> Vec<u32> {
    let mut key = thread;
    let mut each: Vec<_> = (0..PIECES)
        .map(|_| {
            let began = Instant::now();
            for _ in 0..CALLS {
                key += THREADS;
                subject.call(key);
            }
            began.elapsed().as_nanos() as u32 / CALLS
        })
        .collect();
    each.sort_unstable();
    each
}
