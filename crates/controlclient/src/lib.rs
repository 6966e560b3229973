//! A registration at a gwag gateway that never gets lost.

pub mod pb;
