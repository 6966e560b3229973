//! The kit: scripted peers, faults, certificates and namespaces for the tests of every crate.
