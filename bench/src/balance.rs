//! `balance`: what a pick, its beginning and its end cost beside the limits (B-1.5) and beside tower.
//!
//! Each thread measures short pieces, so that some are not disturbed by other programs. The fastest piece of
//! one thread is shown, and the median of sixteen, which have more to do than there are cores. One thread is
//! measured with the times given, as by a client that has read them for its own sake, and with two reads of
//! the clock in each call.

use std::thread;

use tokio::time::Instant;

use crate::balance_subjects::{SIZES, Subject, subjects};
use crate::machine::Machine;
use crate::{BoxError, figures};

/// Calls in a piece, and pieces of a thread.
const CALLS: u32 = 500;
const PIECES: u32 = 1_000;
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
    println!(
        "ns for pick, begin and end: fastest of {PIECES} pieces of {CALLS} calls, with the times given and"
    );
    println!("with two clock reads; median piece of {THREADS} threads with two clock reads");
    println!(
        "{:<22}{:>6}{:>8}{:>7}{:>9}{:>7}{:>12}{:>7}{:>13}  met",
        "policy", "peers", "given", "limit", "clocked", "limit", "16 threads", "limit", "allocations"
    );
    let mut allocations = figures::allocations("balance")?.into_iter();
    let mut missed = 0;
    let show = |limit: Option<u32>| limit.map_or_else(|| "-".to_owned(), |limit| limit.to_string());
    for size in SIZES {
        for (name, limits, subject) in subjects(size) {
            let [of_given, of_clocked] = limits;
            let fastest = |is_given| pieces(&*subject, 0, is_given).first().copied().unwrap_or_default();
            let is_ours = limits != [None, None];
            // In this order: the given times begin at zero, like the clock.
            let given = is_ours.then(|| fastest(true));
            let clocked = fastest(false);
            let many = together(&*subject);
            let allocated = allocations.next().ok_or("the counts are fewer than the subjects")?;
            let met = given.unwrap_or_default() <= of_given.unwrap_or(u32::MAX)
                && clocked <= of_clocked.unwrap_or(u32::MAX)
                && many <= SHARED_LIMIT
                && allocated == 0;
            missed += u32::from(is_ours && !met);
            println!(
                "{name:<22}{size:>6}{:>8}{:>7}{clocked:>9}{:>7}{many:>12}{:>7}{allocated:>13}  {}",
                show(given),
                show(of_given),
                show(of_clocked),
                show(is_ours.then_some(SHARED_LIMIT)),
                if !is_ours {
                    "-"
                } else if met {
                    "yes"
                } else {
                    "NO"
                },
            );
        }
    }
    if missed == 0 { Ok(()) } else { Err(format!("{missed} limits were missed").into()) }
}

/// The median of the pieces of all threads.
fn together(subject: &dyn Subject) -> u32 {
    thread::scope(|scope| {
        let threads: Vec<_> =
            (0..THREADS).map(|thread| scope.spawn(move || pieces(subject, thread, false))).collect();
        let mut all: Vec<_> = threads.into_iter().filter_map(|thread| thread.join().ok()).flatten().collect();
        all.sort_unstable();
        all.get(all.len() / 2).copied().unwrap_or_default()
    })
}

/// Nanoseconds per call of each piece, sorted.
fn pieces(subject: &dyn Subject, thread: u64, is_given: bool) -> Vec<u32> {
    /// Of one call to the next, about as much as it takes.
    const STEP: u64 = 64;
    let (mut key, mut now) = (thread, u64::from(CALLS));
    let mut each: Vec<_> = (0..PIECES)
        .map(|_| {
            let began = Instant::now();
            for _ in 0..CALLS {
                key += THREADS;
                now += STEP;
                subject.call(key, is_given.then_some(now));
            }
            began.elapsed().as_nanos() as u32 / CALLS
        })
        .collect();
    each.sort_unstable();
    each
}
