//! `codegen`: Rust from `proto/`, with a compiler in Rust, so that nobody needs `protoc`.
//!
//! The generators are behind the feature `codegen`, since every other task should build in a second: a
//! plain xtask runs itself again with the feature on.

#[cfg(not(feature = "codegen"))]
use crate::run::{cargo, step};

use crate::run::Outcome;

/// Writes the generated code, or with `--check` compares it to what is committed.
#[cfg(not(feature = "codegen"))]
pub(crate) fn run(args: &[&str]) -> Outcome {
    step(
        "codegen",
        cargo(&["run", "--quiet", "--locked", "-p", "xtask", "--features", "codegen", "--", "codegen"])
            .args(args),
    )
}

#[cfg(feature = "codegen")]
pub(crate) use generate::run;

#[cfg(feature = "codegen")]
mod generate {
    use std::fs;
    use std::path::Path;

    use super::Outcome;
    use crate::run::root;

    const PROTO: &str = "gateway/controlplane/v1/control.proto";
    /// What the generator calls its file: the package.
    const FILE: &str = "gateway.controlplane.v1.rs";
    const HEAD: &str =
        "// Made by `cargo xtask codegen` from proto/gateway/controlplane/v1/control.proto: change that.\n";

    pub(crate) fn run(args: &[&str]) -> Outcome {
        let check = match args {
            [] => false,
            ["--check"] => true,
            _ => return Err("usage: cargo xtask codegen [--check]".into()),
        };
        let wanted = generate()?;
        let path = root().join("crates/controlclient/src/gen").join(FILE);
        if !check {
            return fs::write(&path, wanted).map_err(|error| format!("{}: {error}", path.display()));
        }
        let found = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        if found == wanted {
            return Ok(());
        }
        let line =
            found.lines().zip(wanted.lines()).take_while(|(found, wanted)| found == wanted).count() + 1;
        Err(format!("{}:{line}: differs from what proto/{PROTO} gives: cargo xtask codegen", path.display()))
    }

    fn generate() -> Result<String, String> {
        let out = root().join("target").join("codegen");
        fs::create_dir_all(&out).map_err(|error| format!("{}: {error}", out.display()))?;
        let files = protox::compile([PROTO], [root().join("proto")])
            .map_err(|error| format!("proto/{PROTO}: {error}"))?;
        tonic_prost_build::configure()
            .build_transport(false)
            .server_mod_attribute(".", "#[cfg(feature = \"server\")]")
            // In the order of the keys, so that equal messages have equal bytes.
            .btree_map(".")
            // A request is sent again and again: its schemas are shared, not copied.
            .bytes(".")
            // Holds a credential: its `Debug` is written by hand.
            .skip_debug([".gateway.controlplane.v1.SignSubscriptionTokenResponse"])
            .emit_rerun_if_changed(false)
            .out_dir(&out)
            .compile_fds(files)
            .map_err(|error| format!("proto/{PROTO}: {error}"))?;
        read(&out.join(FILE)).map(|text| format!("{HEAD}{text}"))
    }

    fn read(path: &Path) -> Result<String, String> {
        fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
    }
}
