//! A test that cannot run here says so, where `cargo xtask test` finds it.

use std::fs::OpenOptions;
use std::io::Write;

/// The file that `cargo xtask test` collects skipped tests in.
const FILE: &str = "PEERAGE_SKIPPED";

/// Says that `test` was skipped and why: in a line of output, and in the file of this run if there is one.
pub fn skipped(test: &str, reason: &str) {
    let line = format!("SKIPPED {test}: {reason}\n");
    eprint!("{line}");
    if let Some(path) = std::env::var_os(FILE)
        && let Ok(mut file) = OpenOptions::new().append(true).create(true).open(path)
    {
        // One write a line, so that tests that run at the same time do not mix theirs.
        let _ = file.write_all(line.trim_start_matches("SKIPPED ").as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skipped_test_is_a_line_in_the_file_of_the_run() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let environment = [(FILE, file.path().to_str().unwrap())];
        let test = "skipped::tests::a_skipped_test_is_a_line_in_the_file_of_the_run";
        let output = crate::alone::output(test, &environment, || {
            skipped("one", "no openssl");
            skipped("two", "no root");
        });
        if output.is_some() {
            let text = std::fs::read_to_string(file.path()).unwrap();
            assert_eq!(text, "one: no openssl\ntwo: no root\n");
        }
    }
}
