//! How often each operation of the codec allocates, a number a line; started by the bench.
//!
//! A program of its own: what counts allocations makes them slower, and grows large ones by copying.
#![expect(clippy::print_stdout, reason = "the numbers are what this program is for")]

#[path = "../codec.rs"]
mod codec;

fn main() {
    codec::operations(&mut |_, _, run| {
        // Buffers grow once.
        run();
        println!("{}", allocation_counter::measure(run).count_total);
    });
}
