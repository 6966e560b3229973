//! What the threat model wants of the repository itself (threats M), and what only a look at all sources tells.

use std::fs;
use std::path::Path;

use crate::run::root;

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// Every Rust source below `crates`, with its path.
fn sources(look: &mut dyn FnMut(&Path, &str)) {
    fn visit(directory: &Path, look: &mut dyn FnMut(&Path, &str)) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !["target", "fuzz"].iter().any(|name| path.ends_with(name)) {
                visit(&path, look);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                look(&path, &fs::read_to_string(&path).unwrap());
            }
        }
    }
    visit(&root().join("crates"), look);
}

#[test]
fn s270_what_is_known_to_be_weak_is_refused() {
    let deny = text("deny.toml");
    assert!(deny.contains("yanked = \"deny\"") && deny.contains("[licenses]"));
    assert!(deny.contains("unknown-registry = \"deny\"") && deny.contains("unknown-git = \"deny\""));
    let ignored = deny.lines().find(|line| line.starts_with("ignore = [")).unwrap();
    assert!(ignored.starts_with("ignore = []") || ignored.contains("reason"), "{ignored}");
    assert!(text("xtask/src/ci.rs").contains("\"deny\""), "cargo xtask lint runs cargo deny");
}

#[test]
fn s271_no_crate_has_unsafe_code() {
    assert!(text("Cargo.toml").contains("unsafe_code = \"forbid\""));
    let mut manifests = vec![root().join("xtask/Cargo.toml"), root().join("tests/Cargo.toml")];
    for directory in fs::read_dir(root().join("crates")).unwrap() {
        manifests.push(directory.unwrap().path().join("Cargo.toml"));
    }
    for manifest in manifests {
        let text = fs::read_to_string(&manifest).unwrap();
        assert!(text.contains("[lints]\nworkspace = true"), "{}", manifest.display());
    }
}

#[test]
fn s272_nothing_is_built_that_decodes_what_nobody_sends() {
    let lock = text("Cargo.lock");
    for package in
        ["brotli", "brotli-decompressor", "zstd", "zstd-sys", "cookie", "cookie_store", "async-compression"]
    {
        assert!(!lock.contains(&format!("name = \"{package}\"\n")), "{package}");
    }
    let manifest = text("Cargo.toml");
    let dependencies = manifest.split("[workspace.dependencies]").nth(1).unwrap();
    let dependencies = dependencies.split("\n[").next().unwrap();
    for line in dependencies.lines().filter(|line| line.contains("version = \"") && !line.contains("path = "))
    {
        assert!(line.contains("default-features = false"), "features are chosen one by one: {line}");
    }
}

#[test]
fn s273_the_versions_are_locked_and_old_ones_refused() {
    assert!(root().join("Cargo.lock").is_file());
    let deny = text("deny.toml");
    for floor in [
        "h2:<0.4.18",
        "hyper:<1.0",
        "rustls:<0.23.18",
        "rustls-webpki:<0.103.13",
        "tokio:<1.44.2",
        "bytes:<1.11.1",
        "tonic:<0.12.3",
        "url:<2.5.4",
        "idna:<1.0.3",
        "tracing-subscriber:<0.3.20",
        "mdns-sd:<0.21.7",
        "hickory-proto:<0.26.1",
        "hickory-resolver:<0.26.1",
        "time:<0.3.47",
    ] {
        assert!(deny.contains(&format!("crate = \"{floor}\"")), "{floor}");
    }
}

#[test]
fn s274_build_scripts_write_nothing_of_their_own() {
    sources(&mut |path, text| {
        if path.ends_with("build.rs") && path.with_file_name("Cargo.toml").is_file() {
            for call in ["fs::write", "File::create", "create_dir", "TcpStream", "curl", "http"] {
                assert!(!text.contains(call), "{}: {call}", path.display());
            }
        }
    });
}

#[test]
fn s275_how_to_report_a_weakness_is_told() {
    let security = text("SECURITY.md");
    for what in ["private", "90 days", "supported"] {
        assert!(security.contains(what), "{what}");
    }
}

#[test]
fn s207_no_library_touches_the_panic_hook() {
    sources(&mut |path, text| {
        let is_library =
            !path.ends_with("main.rs") && !path.components().any(|part| part.as_os_str() == "tests");
        assert!(!is_library || !text.contains("set_hook("), "{}", path.display());
    });
}

#[test]
fn s209_secrets_are_compared_in_constant_time() {
    for path in ["crates/devgateway/src/sign.rs", "crates/controlclient/src/token.rs"] {
        let text = text(path);
        assert!(text.contains("constant_time") || text.contains("hmac::verify"), "{path}");
    }
}
