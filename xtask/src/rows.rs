//! Conformance rows: which there are, which a test names, which are left out and why.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::run::root;

/// Every id of `tests/rows.txt`, ranges written out.
pub(crate) fn known() -> Result<BTreeSet<String>, String> {
    let text = read(&root().join("tests/rows.txt"))?;
    let mut ids = BTreeSet::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.split_once("..") {
            None => drop(ids.insert(line.to_owned())),
            Some((first, last)) => {
                let (stem, from) = split(first).ok_or_else(|| format!("tests/rows.txt: {line}"))?;
                let (_, to) = split(last).ok_or_else(|| format!("tests/rows.txt: {line}"))?;
                let width = first.len() - stem.len();
                ids.extend((from..=to).map(|number| format!("{stem}{number:0width$}")));
            }
        }
    }
    Ok(ids)
}

/// `SV-F07` is `("SV-F", 7)`.
fn split(id: &str) -> Option<(&str, u32)> {
    let stem = id.trim_end_matches(|c: char| c.is_ascii_digit());
    Some((stem, id.strip_prefix(stem)?.parse().ok()?))
}

/// Row -> reason, from `tests/skipped-rows.toml`.
///
/// # Errors
///
/// A line that is neither blank, comment, `[[row]]`, `id = "…"` nor `reason = "…"`.
pub(crate) fn skipped() -> Result<BTreeMap<String, String>, String> {
    let path = root().join("tests/skipped-rows.toml");
    let mut rows = BTreeMap::new();
    let mut id = None;
    for (number, line) in read(&path)?.lines().map(str::trim).enumerate() {
        let broken = || format!("tests/skipped-rows.toml:{}: cannot read: {line}", number + 1);
        if line.is_empty() || line.starts_with('#') || line == "[[row]]" {
            continue;
        }
        let (key, value) = line.split_once('=').ok_or_else(broken)?;
        let value =
            value.trim().strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).ok_or_else(broken)?;
        match key.trim() {
            "id" => id = Some(value.to_owned()),
            "reason" if !value.is_empty() => {
                rows.insert(id.take().ok_or_else(broken)?, value.to_owned());
            }
            _ => return Err(broken()),
        }
    }
    Ok(rows)
}

/// The rows that tests name, or that a bench prints beside their target: `fn z010_…`, `fn d026_d031_…`, `fn sv_f60_…`, or `"SV-F01"` in a table.
pub(crate) fn named() -> Result<BTreeSet<String>, String> {
    let mut found = BTreeSet::new();
    for directory in ["bench/src", "crates", "tests", "xtask/src"] {
        visit(&root().join(directory), &mut |path, text| {
            let rust = path.extension().is_some_and(|extension| extension == "rs");
            if rust {
                for (at, _) in text.match_indices("fn ") {
                    names_in(text.get(at + 3..).unwrap_or_default(), &mut found);
                }
            }
            if rust || path.components().any(|part| part.as_os_str() == "vectors") {
                for quoted in text.split('"').skip(1) {
                    if quoted.len() <= 7 && quoted.contains('-') {
                        found.insert(quoted.to_owned());
                    }
                }
            }
        })?;
    }
    Ok(found)
}

/// Rows that go beyond a reference: of the transport, of the control plane's client.
const BEYOND: [&str; 2] = ["gb", "cb"];

/// The ids at the start of a function's name; it may begin with `netns_`.
fn names_in(name: &str, found: &mut BTreeSet<String>) {
    let end = name.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(name.len());
    let name = name.get(..end).unwrap_or_default();
    let mut words = name.strip_prefix("netns_").unwrap_or(name).split('_');
    while let Some(word) = words.next() {
        let id = if word == "sv" {
            // `sv_f60` is the row SV-F60.
            words.next().and_then(row_id).map(|id| format!("SV-{}", id.replace('-', "")))
        } else if let Some((beyond, number)) =
            word.split_at_checked(2).filter(|(word, _)| BEYOND.contains(word))
        {
            // `gb02` is the row GB-02.
            (number.len() == 2 && number.bytes().all(|byte| byte.is_ascii_digit()))
                .then(|| format!("{}-{number}", beyond.to_ascii_uppercase()))
        } else {
            row_id(word)
        };
        match id {
            Some(id) => drop(found.insert(id)),
            None => return,
        }
    }
}

/// `d055b` is the row `D-055b`.
fn row_id(word: &str) -> Option<String> {
    let letter = word.chars().next().filter(char::is_ascii_lowercase)?;
    let rest = word.get(1..)?;
    let digits = rest.chars().take_while(char::is_ascii_digit).count();
    let suffix = rest.get(digits..)?;
    (digits >= 2 && suffix.len() <= 1).then(|| format!("{}-{rest}", letter.to_ascii_uppercase()))
}

fn visit(directory: &Path, look: &mut dyn FnMut(&Path, &str)) -> Result<(), String> {
    let entries = fs::read_dir(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    for entry in entries {
        let path = entry.map_err(|error| format!("{}: {error}", directory.display()))?.path();
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "target") {
                visit(&path, look)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "json")
            && let Ok(text) = fs::read_to_string(&path)
        {
            look(&path, &text);
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(name: &str) -> Vec<String> {
        let mut found = BTreeSet::new();
        names_in(name, &mut found);
        found.into_iter().collect()
    }

    #[test]
    fn the_rows_of_a_test_are_the_words_before_its_sentence() {
        assert_eq!(ids("z010_a_slot_outside_is_refused()"), ["Z-010"]);
        assert_eq!(ids("d026_d055b_both_rows() {"), ["D-026", "D-055b"]);
        assert_eq!(ids("netns_d052_a_killed_peer_leaves"), ["D-052"]);
        assert_eq!(ids("sv_f60_every_byte"), ["SV-F60"]);
        assert_eq!(ids("gb02_t252_black_holes"), ["GB-02", "T-252"]);
        assert_eq!(ids("c157_cb13_no_ghost"), ["C-157", "CB-13"]);
        assert_eq!(ids("cb7_is_none"), [""; 0]);
        assert!(ids("a_sentence_with_z010_inside").is_empty());
    }
}
