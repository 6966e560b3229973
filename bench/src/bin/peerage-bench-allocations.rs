//! How often things allocate, a number a line; started by the bench, which says what.
//!
//! A program of its own: what counts allocations makes them slower, and grows large ones by copying.
#![expect(clippy::print_stdout, reason = "the numbers are what this program is for")]

#[path = "../balance_subjects.rs"]
mod balance_subjects;
#[path = "../clienthttp_calls.rs"]
mod clienthttp_calls;
#[path = "../codec.rs"]
mod codec;

use crate::balance_subjects::{SIZES, subjects};
use crate::clienthttp_calls::Calls;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), BoxError> {
    match std::env::args().nth(1).as_deref() {
        Some("codec") => codec::operations(&mut |_, _, run| print(run)),
        Some("balance") => {
            for (_, _, subject) in SIZES.into_iter().flat_map(subjects) {
                print(&mut || subject.call(7, None));
            }
        }
        Some("clienthttp") => return clienthttp(),
        _ => return Err("usage: peerage-bench-allocations codec|balance|clienthttp".into()),
    }
    Ok(())
}

/// Of one run, when buffers have grown.
fn print(run: &mut dyn FnMut()) {
    run();
    println!("{}", allocation_counter::measure(run).count_total);
}

/// Of a thousand calls by hand, and by the whole client, with everything on this thread.
fn clienthttp() -> Result<(), BoxError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let calls = runtime.block_on(Calls::new(1))?;
    for whole in [false, true] {
        let mut outcome: Result<(), BoxError> = Ok(());
        let mut thousand = || {
            outcome = runtime.block_on(async {
                for _ in 0..1_000 {
                    if whole { calls.whole().await? } else { calls.by_hand(false).await? }
                }
                Ok(())
            });
        };
        print(&mut thousand);
        outcome?;
    }
    Ok(())
}
