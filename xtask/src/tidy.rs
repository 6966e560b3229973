//! `tidy`: what neither rustc nor clippy can hold.

use std::fs;
use std::path::Path;

use crate::rows;
use crate::run::{Outcome, root};

/// Which crates of ours each crate may use, tests aside. Dependencies point one way.
const ARROWS: &[(&str, &[&str])] = &[
    ("balance", &[]),
    ("discovery", &[]),
    ("zaphttp", &[]),
    ("transport", &[]),
    ("controlclient", &["balance"]),
    ("devgateway", &["controlclient"]),
    ("clienthttp", &["balance", "discovery", "zaphttp"]),
    ("peerage", &["balance", "discovery", "zaphttp", "clienthttp", "controlclient"]),
    ("cli", &["peerage", "devgateway", "git-remote-entire"]),
    ("git-remote-entire", &["transport"]),
];

/// Texts that no library source may hold, with what to do instead. Binaries are exempt from the first.
const BANNED: &[(&str, &str)] = &[
    ("std::env::", "libraries read no environment: take it as a setting"),
    ("unbounded_channel", "every queue has a bound and a rule for when it is full"),
    ("mpsc::channel::<", "std's channel has no bound: sync_channel, or a bounded queue"),
    ("#[ignore]", "a test that is not run needs a reason: #[ignore = \"…\"]"),
    ("todo!(", "nothing half-done lands"),
    ("unimplemented!(", "nothing half-done lands"),
];

pub(crate) fn run() -> Outcome {
    let mut faults = Vec::new();
    arrows(&mut faults)?;
    banned(&mut faults)?;
    conformance(&mut faults)?;
    if faults.is_empty() {
        return Ok(());
    }
    for fault in &faults {
        println!("   {fault}");
    }
    Err(format!("tidy: {} faults", faults.len()))
}

fn arrows(faults: &mut Vec<String>) -> Outcome {
    for (name, allowed) in ARROWS {
        let text = manifest(&root().join("crates").join(name))?;
        if !text.contains("[lints]\nworkspace = true") {
            faults.push(format!("crates/{name}: does not inherit the lints of the workspace"));
        }
        for line in section(&text, "[dependencies]") {
            let dependency = line.split(['.', ' ', '=']).next().unwrap_or_default();
            let Some(short) = dependency.strip_prefix("peerage").map(|rest| rest.trim_start_matches('-'))
            else {
                continue;
            };
            let short = if short.is_empty() { "peerage" } else { short };
            if !allowed.contains(&short) {
                faults.push(format!("crates/{name}: depends on {dependency}, which lies above or beside it"));
            }
        }
    }
    for directory in
        fs::read_dir(root().join("crates")).map_err(|error| format!("crates: {error}"))?.flatten()
    {
        let name = directory.file_name().to_string_lossy().into_owned();
        if !ARROWS.iter().any(|(known, _)| *known == name) {
            faults.push(format!("crates/{name}: not in the table of arrows (xtask/src/tidy.rs)"));
        }
    }
    Ok(())
}

fn manifest(directory: &Path) -> Result<String, String> {
    let path = directory.join("Cargo.toml");
    fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
}

fn section<'t>(text: &'t str, head: &'t str) -> impl Iterator<Item = &'t str> {
    text.lines().skip_while(move |line| *line != head).skip(1).take_while(|line| !line.starts_with('['))
}

fn banned(faults: &mut Vec<String>) -> Outcome {
    for (name, _) in ARROWS.iter().filter(|(name, _)| *name != "cli") {
        sources(&root().join("crates").join(name).join("src"), &mut |path, text| {
            if path.ends_with("main.rs")
                || path.ends_with("tests.rs")
                || path.components().any(|part| part.as_os_str() == "tests")
            {
                return;
            }
            // What follows the test module at the end of a file is not library code.
            let library = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
            for (number, line) in library.lines().enumerate() {
                let code = line.split("//").next().unwrap_or_default();
                for (text, instead) in BANNED {
                    if code.contains(text) {
                        faults.push(format!("{}:{}: {text}: {instead}", path.display(), number + 1));
                    }
                }
            }
        })?;
    }
    Ok(())
}

fn sources(directory: &Path, look: &mut dyn FnMut(&Path, &str)) -> Outcome {
    for entry in
        fs::read_dir(directory).map_err(|error| format!("{}: {error}", directory.display()))?.flatten()
    {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, look)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            look(&path, &text);
        }
    }
    Ok(())
}

fn conformance(faults: &mut Vec<String>) -> Outcome {
    let known = rows::known()?;
    let skipped = rows::skipped()?;
    let named = rows::named()?;
    for (id, reason) in &skipped {
        if !known.contains(id) {
            faults.push(format!("tests/skipped-rows.toml: there is no row {id}"));
        } else if named.contains(id) {
            faults.push(format!("tests/skipped-rows.toml: a test names {id}: delete the line"));
        } else {
            println!("   row {id} has no test: {reason}");
        }
    }
    for id in known.iter().filter(|id| !named.contains(*id) && !skipped.contains_key(*id)) {
        faults.push(format!("row {id}: no test names it"));
    }
    println!(
        "== tidy: {} rows, {} of them without a test, for the reasons above",
        known.len(),
        skipped.len()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cb23_every_row_of_the_control_planes_table_has_a_test_or_a_reason() {
        let (known, named, skipped) =
            (rows::known().unwrap(), rows::named().unwrap(), rows::skipped().unwrap());
        for number in 1..=172 {
            let id = format!("C-{number:03}");
            assert!(known.contains(&id) && (named.contains(&id) || skipped.contains_key(&id)), "{id}");
        }
    }

    #[test]
    fn s228_decoders_keep_overflow_checks_in_release() {
        let text = fs::read_to_string(root().join("Cargo.toml")).unwrap();
        for package in ["peerage-zaphttp", "peerage-discovery"] {
            let head = format!("[profile.release.package.{package}]");
            let settings: Vec<&str> = section(&text, &head).collect();
            assert!(settings.contains(&"overflow-checks = true"), "{package}: {settings:?}");
        }
    }

    #[test]
    fn s225_no_map_gives_up_the_randomised_hasher() {
        let hashers = ["FxHash", "AHash", "ahash::", "fxhash::", "BuildHasherDefault", "with_hasher"];
        for (name, _) in ARROWS {
            sources(&root().join("crates").join(name).join("src"), &mut |path, text| {
                for hasher in hashers {
                    assert!(!text.contains(hasher), "{}: {hasher}", path.display());
                }
            })
            .unwrap();
        }
    }
}
