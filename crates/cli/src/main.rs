//! The command `peerage`.

fn main() {}
