//! The helper, against remotes in memory and real Git.
