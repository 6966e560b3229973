//! The README: what it says is run.
