//! Benchmarks side by side with peers; run by `cargo xtask bench`.

fn main() {}
