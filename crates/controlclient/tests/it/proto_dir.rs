//! A directory of `.proto` files becomes a source and its imports.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use peerage_controlclient::{ConfigError, Registration, Service, ServiceError, SourceError, StartError};
use peerage_devgateway::{BindingView, DevGateway, Rpc};

use crate::kit::{ADDR, P, at, gateway, only_id, secs};

const EMPTY: &str = "syntax = \"proto3\";";

/// Files with their contents; folders are made.
fn files(contents: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (name, content) in contents {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    root
}

async fn register(gateway: &DevGateway, service: Service) -> Result<BindingView, SourceError> {
    let builder = Registration::builder(at(gateway), ADDR).service(service.version("unstable"));
    match builder.start().await {
        Ok(registration) => {
            let seen = gateway.registrations().pop().unwrap();
            registration.shutdown(secs(5)).await;
            Ok(seen.bindings[0].clone())
        }
        Err(StartError::Config(ConfigError::Service { source: ServiceError::Source(error), .. })) => {
            Err(error)
        }
        Err(other) => panic!("{other:?}"),
    }
}

async fn imports(root: &Path, entry: &str) -> Vec<String> {
    let gateway = gateway().await;
    register(&gateway, Service::proto_dir("t", root, entry)).await.unwrap().imports
}

#[tokio::test(start_paused = true)]
async fn c136_proto_files_beside_the_entry_are_its_imports() {
    let root = files(&[("user.proto", P), ("auth.proto", EMPTY), ("notes.txt", "x")]);
    assert_eq!(imports(root.path(), "user.proto").await, ["auth.proto"]);
}

#[tokio::test(start_paused = true)]
async fn c137_keys_are_paths_with_slashes() {
    let root = files(&[("user.proto", P), ("a/b/c.proto", EMPTY), (".hidden/d.proto", EMPTY)]);
    assert_eq!(imports(root.path(), "user.proto").await, [".hidden/d.proto", "a/b/c.proto"]);
}

#[tokio::test(start_paused = true)]
async fn c138_the_ending_is_lower_case_and_a_folder_may_have_it() {
    let root = files(&[("user.proto", P), ("X.PROTO", EMPTY), ("d.proto/e.proto", EMPTY)]);
    assert_eq!(imports(root.path(), "user.proto").await, ["d.proto/e.proto"]);
}

#[tokio::test(start_paused = true)]
async fn c139_a_single_file_has_no_imports() {
    let root = files(&[("user.proto", P)]);
    assert!(imports(root.path(), "user.proto").await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn c140_an_entry_further_down_is_left_out_under_its_key() {
    let root = files(&[("svc/user.proto", P), ("svc/auth.proto", EMPTY), ("user.proto", EMPTY)]);
    assert_eq!(imports(root.path(), "svc/user.proto").await, ["svc/auth.proto", "user.proto"]);
}

#[tokio::test(start_paused = true)]
async fn c141_an_entry_stays_in_the_directory() {
    let root = files(&[("svc/user.proto", P), ("user.proto", P)]);
    for entry in ["./user.proto", "svc/../user.proto", ".//user.proto"] {
        assert_eq!(imports(root.path(), entry).await, ["svc/user.proto"], "{entry}");
    }
    let gateway = gateway().await;
    for entry in ["/etc/x.proto", "../x.proto", "svc/../../x.proto"] {
        let error =
            register(&gateway, Service::proto_dir("t", root.path().join("svc"), entry)).await.unwrap_err();
        assert!(matches!(error, SourceError::EntryOutside { .. }), "{entry}: {error:?}");
    }
    assert!(gateway.log().is_empty());
}

#[tokio::test(start_paused = true)]
async fn c142_links_to_folders_are_not_entered_and_links_to_files_are_read() {
    let root = files(&[("user.proto", P), ("real/a.proto", "syntax = \"proto3\"; package a;")]);
    symlink("real", root.path().join("linked")).unwrap();
    symlink("real/a.proto", root.path().join("b.proto")).unwrap();
    assert_eq!(imports(root.path(), "user.proto").await, ["b.proto", "real/a.proto"]);
}

#[tokio::test(start_paused = true)]
async fn c143_a_file_that_cannot_be_read_is_named() {
    let root = files(&[("user.proto", P)]);
    // Nobody, root included, can read what is not there.
    symlink("nowhere", root.path().join("gone.proto")).unwrap();
    let gateway = gateway().await;
    let error = register(&gateway, Service::proto_dir("t", root.path(), "user.proto")).await.unwrap_err();
    assert!(matches!(&error, SourceError::Read { path, .. } if path.ends_with("gone.proto")), "{error:?}");
    fs::remove_file(root.path().join("gone.proto")).unwrap();
    if !rustix::process::geteuid().is_root() {
        fs::write(root.path().join("mine.proto"), EMPTY).unwrap();
        fs::set_permissions(root.path().join("mine.proto"), fs::Permissions::from_mode(0o000)).unwrap();
        let error = register(&gateway, Service::proto_dir("t", root.path(), "user.proto")).await.unwrap_err();
        assert!(
            matches!(&error, SourceError::Read { path, .. } if path.ends_with("mine.proto")),
            "{error:?}"
        );
        fs::remove_file(root.path().join("mine.proto")).unwrap();
    }
    fs::write(root.path().join("latin.proto"), b"// \xff").unwrap();
    let error = register(&gateway, Service::proto_dir("t", root.path(), "user.proto")).await.unwrap_err();
    assert!(matches!(&error, SourceError::NotUtf8 { path } if path.ends_with("latin.proto")), "{error:?}");
    assert!(gateway.log().is_empty());
}

#[tokio::test(start_paused = true)]
async fn c144_cb19_files_are_read_once() {
    let root = files(&[("user.proto", P), ("auth.proto", EMPTY)]);
    let gateway = gateway().await;
    let registration = Registration::builder(at(&gateway), ADDR)
        .service(Service::proto_dir("t", root.path(), "user.proto"))
        .ttl(secs(3))
        .heartbeat_interval(secs(1))
        .start()
        .await
        .unwrap();
    let first = gateway.registrations().pop().unwrap();
    fs::write(root.path().join("user.proto"), format!("{P}// changed")).unwrap();
    fs::remove_file(root.path().join("auth.proto")).unwrap();
    assert!(gateway.evict(&only_id(&gateway)));
    gateway.wait_for_calls(Rpc::Register, 2).await.unwrap();
    gateway.wait_for("t/v1").await.unwrap();
    let second = gateway.registrations().pop().unwrap();
    assert_ne!(first.id, second.id);
    assert_eq!(first.bindings, second.bindings, "the hash included");
    registration.shutdown(secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn c145_pruning_sends_less_of_the_same_schema() {
    let entry = format!("{P}import \"a.proto\";\nimport \"google/protobuf/any.proto\";");
    let root = files(&[("user.proto", &entry), ("a.proto", EMPTY), ("b.proto", EMPTY), ("c.proto", EMPTY)]);
    let gateway = gateway().await;
    let service = Service::proto_dir("t", root.path(), "user.proto");
    let whole = register(&gateway, service.clone()).await.unwrap();
    let pruned = register(&gateway, service.pruned()).await.unwrap();
    assert_eq!(whole.imports, ["a.proto", "b.proto", "c.proto"]);
    assert_eq!(pruned.imports, ["a.proto"]);
    assert_eq!(whole.hash, pruned.hash);
}

#[tokio::test(start_paused = true)]
async fn s158_sv_h15_a_directory_with_traps_in_it_is_refused_and_named() {
    let outside = files(&[("secret.proto", EMPTY)]);
    type Trap = (&'static str, fn(&Path, &Path));
    let traps: &[Trap] = &[
        ("outside.proto", |path, outside| symlink(outside.join("secret.proto"), path).unwrap()),
        ("etc.proto", |path, _| symlink("/etc", path).unwrap()),
        ("null.proto", |path, _| symlink("/dev/null", path).unwrap()),
        ("cycle.proto", |path, _| symlink("cycle.proto", path).unwrap()),
        // Names that are no file's.
        ("etc", |path, _| symlink("/etc", path).unwrap()),
        ("outside", |path, outside| symlink(outside, path).unwrap()),
        ("cycle", |path, _| symlink("cycle", path).unwrap()),
        ("fifo.proto", |path, _| {
            let made = std::process::Command::new("mkfifo").arg(path).status().unwrap();
            assert!(made.success());
        }),
    ];
    let gateway = gateway().await;
    for (name, plant) in traps {
        let root = files(&[("user.proto", P)]);
        plant(&root.path().join(name), outside.path());
        for entry in ["user.proto", name].into_iter().filter(|entry| entry.ends_with(".proto")) {
            // Opening a pipe that nobody writes to would hang.
            let error = register(&gateway, Service::proto_dir("t", root.path(), entry)).await.unwrap_err();
            let path = match &error {
                SourceError::Read { path, .. }
                | SourceError::NotAFile { path }
                | SourceError::Outside { path } => path,
                other => panic!("{other:?}"),
            };
            assert!(path.ends_with(name), "{name}: {error:?}");
        }
    }
    // A cycle of folders is not entered, and what is no folder is nobody's import.
    let root = files(&[("user.proto", P), ("a/b.proto", EMPTY)]);
    symlink("..", root.path().join("a/up")).unwrap();
    symlink("user@host.42:7", root.path().join(".#user")).unwrap();
    symlink("/etc/passwd", root.path().join("passwd")).unwrap();
    assert_eq!(imports(root.path(), "user.proto").await, ["a/b.proto"]);
    assert!(gateway.log().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_directory_has_limits() {
    let gateway = gateway().await;
    let many: Vec<(String, &str)> = (0..1_000).map(|n| (format!("f{n}.proto"), "")).collect();
    let mut contents: Vec<(&str, &str)> =
        many.iter().map(|(name, content)| (name.as_str(), *content)).collect();
    contents.push(("user.proto", P));
    let root = files(&contents);
    let error = register(&gateway, Service::proto_dir("t", root.path(), "user.proto")).await.unwrap_err();
    assert!(matches!(error, SourceError::TooMuch { .. }), "1,001 files: {error:?}");
    fs::remove_file(root.path().join("f0.proto")).unwrap();
    let keys: BTreeSet<String> = imports(root.path(), "user.proto").await.into_iter().collect();
    assert_eq!(keys.len(), 999, "1,000 files");

    let deep = |levels: usize| format!("{}x.proto", "d/".repeat(levels));
    let root = files(&[("user.proto", P), (&deep(16), "")]);
    assert_eq!(imports(root.path(), "user.proto").await.len(), 1, "16 levels");
    let root = files(&[("user.proto", P), (&deep(17), "")]);
    let error = register(&gateway, Service::proto_dir("t", root.path(), "user.proto")).await.unwrap_err();
    assert!(matches!(error, SourceError::TooMuch { .. }), "17 levels: {error:?}");

    let root = files(&[("user.proto", P)]);
    // Sparse: it takes no space on the disk.
    fs::File::create(root.path().join("huge.proto")).unwrap().set_len(10 << 30).unwrap();
    let error = register(&gateway, Service::proto_dir("t", root.path(), "user.proto")).await.unwrap_err();
    assert!(matches!(error, SourceError::TooMuch { .. }), "10 GiB: {error:?}");
}
