//! `fuzz`: one libFuzzer target for a while.

use std::fs;

use crate::run::{Outcome, answers, cargo, root, step};

const CRATES: &[&str] = &["zaphttp", "discovery", "transport"];

pub(crate) fn run(args: &[&str]) -> Outcome {
    let (target, seconds) = match args {
        [] => return list(),
        [target] => (*target, "60"),
        [target, "--seconds", seconds] => (*target, *seconds),
        _ => return Err("usage: cargo xtask fuzz TARGET [--seconds N]".into()),
    };
    if !answers("cargo", &["fuzz", "--version"]) {
        return Err("cargo-fuzz is missing: cargo install cargo-fuzz --locked".into());
    }
    let owner = CRATES
        .iter()
        .find(|name| root().join(format!("crates/{name}/fuzz/fuzz_targets/{target}.rs")).is_file())
        .ok_or_else(|| format!("no fuzz target {target}; cargo xtask fuzz lists them"))?;
    step(
        target,
        cargo(&["fuzz", "run", target, "--"])
            .args(["-rss_limit_mb=512", "-timeout=1", "-max_len=65536"])
            .arg(format!("-max_total_time={seconds}"))
            .current_dir(root().join("crates").join(owner))
            // libFuzzer needs compiler flags that stable refuses by default.
            .env("RUSTC_BOOTSTRAP", "1"),
    )
}

fn list() -> Outcome {
    for name in CRATES {
        let directory = root().join("crates").join(name).join("fuzz/fuzz_targets");
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        let mut targets: Vec<String> =
            entries.filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_str()?.to_owned())).collect();
        targets.sort_unstable();
        println!("{name}: {}", targets.join(" "));
    }
    Ok(())
}
