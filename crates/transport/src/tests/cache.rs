//! The file that remembers replicas: its text, its lock, and what may be wrong with it.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use tempfile::TempDir;

use crate::cache::{CacheError, CacheFile, NodeCache};
use crate::{NodeConfig, cache_directory};

const HOST: &str = "eu.cluster.example";
const DAY: Duration = Duration::from_secs(24 * 3600);

fn list(nodes: &[&str]) -> Vec<String> {
    nodes.iter().map(|node| (*node).to_owned()).collect()
}

fn cache() -> (TempDir, NodeCache) {
    let directory = TempDir::new().unwrap();
    let cache = NodeCache::new(directory.path().join("entire"));
    (directory, cache)
}

/// A file as the reference writes it (transport §5.2).
const WRITTEN: &str = r#"{
  "eu.cluster.example": {
    "nodes": null,
    "nodes_expires_at": "0001-01-01T00:00:00Z",
    "repos": {
      "et/project/repo": {
        "nodes": [
          "https://n1.eu.cluster.example",
          "https://n2.eu.cluster.example"
        ],
        "expires_at": "2026-01-02T15:04:05.123456789Z"
      }
    }
  }
}"#;

/// A moment at which that file is fresh.
fn back_then() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_366_245 - 3600)
}

#[test]
fn a_file_of_the_reference_is_read_and_written_back_byte_for_byte() {
    let file = CacheFile::parse(WRITTEN.as_bytes());
    let nodes = file.nodes(HOST, "et/project/repo", back_then()).unwrap();
    assert_eq!(nodes, ["https://n1.eu.cluster.example", "https://n2.eu.cluster.example"]);
    assert_eq!(String::from_utf8(file.to_json()).unwrap(), WRITTEN);
    assert_eq!(file.nodes(HOST, "et/project/repo", SystemTime::now()), None, "it expired");
    assert_eq!(file.nodes("EU.cluster.example", "et/project/repo", back_then()), None, "byte for byte");
}

#[test]
fn html_characters_are_escaped_as_other_writers_do() {
    let mut file = CacheFile::default();
    file.set_repo("a", "<&>\u{2028}\"", &list(&["x"]), SystemTime::UNIX_EPOCH);
    let text = String::from_utf8(file.to_json()).unwrap();
    assert!(text.contains(r#""\u003c\u0026\u003e\u2028\"""#), "{text}");
    assert_eq!(CacheFile::parse(text.as_bytes()).to_json(), file.to_json());
}

#[tokio::test]
async fn t261_what_others_keep_in_the_file_stays() {
    let (_directory, cache) = cache();
    let text = WRITTEN
        .replace(r#""nodes": null,"#, r#""nodes": null, "theirs": {"deep": [1, {"a": null}]},"#)
        .replace(r#""expires_at": "2026"#, r#""weight": 7, "expires_at": "2099"#);
    fs::create_dir_all(dir_of(&cache)).unwrap();
    fs::set_permissions(dir_of(&cache), fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(dir_of(&cache).join("nodes.json"), &text).unwrap();
    fs::set_permissions(dir_of(&cache).join("nodes.json"), fs::Permissions::from_mode(0o600)).unwrap();
    cache.persist(HOST, "et/other", &list(&["https://n3.eu.cluster.example"])).await;
    let written = fs::read(dir_of(&cache).join("nodes.json")).unwrap();
    let value: serde_json::Value = serde_json::from_slice(&written).unwrap();
    let cluster = &value[HOST];
    assert_eq!(cluster["theirs"]["deep"][1]["a"], serde_json::Value::Null);
    assert_eq!(cluster["repos"]["et/project/repo"]["weight"], 7);
    assert_eq!(cluster["repos"]["et/project/repo"]["nodes"][1], "https://n2.eu.cluster.example");
    assert_eq!(cluster["repos"]["et/other"]["nodes"][0], "https://n3.eu.cluster.example");
}

fn dir_of(cache: &NodeCache) -> &Path {
    cache.directory()
}

#[tokio::test]
async fn t171_a_change_that_fails_writes_nothing() {
    let (_directory, cache) = cache();
    for (repo, node) in [("/r1", "n1"), ("/r2", "n2")] {
        cache
            .modify(move |file| {
                file.set_repo("host", repo, &list(&[node]), SystemTime::now() + Duration::from_secs(3600));
                Ok(())
            })
            .await
            .unwrap();
    }
    let failed = cache
        .modify(|file| {
            file.set_repo("host", "/r3", &list(&["n3"]), SystemTime::now() + DAY);
            Err("no".into())
        })
        .await
        .unwrap_err();
    assert!(matches!(&failed, CacheError::Change(why) if why.to_string() == "no"));
    assert_eq!(cache.lookup("host", "/r1"), Some(list(&["n1"])));
    assert_eq!(cache.lookup("host", "/r2"), Some(list(&["n2"])));
    assert_eq!(cache.lookup("host", "/r3"), None);
}

#[test]
fn t172_t173_t174_t175_entries_are_fresh_expired_and_forgotten() {
    let now = SystemTime::now();
    let mut file = CacheFile::default();
    assert_eq!((file.cluster_nodes("h", now), file.nodes("h", "r", now)), (None, None), "T-174");
    file.set_cluster_nodes("h", &list(&["a", "b"]), now + DAY);
    file.set_repo("h", "r", &list(&["a"]), now + DAY);
    let mut file = CacheFile::parse(&file.to_json());
    assert_eq!(file.cluster_nodes("h", now), Some(list(&["a", "b"])), "T-172");
    assert_eq!(file.nodes("h", "r", now), Some(list(&["a"])), "T-172");
    file.remove_repo("h", "r");
    assert_eq!(file.nodes("h", "r", now), None, "T-175");
    assert!(file.cluster_nodes("h", now).is_some(), "T-175");
    file.remove_cluster("h");
    assert_eq!(file.cluster_nodes("h", now), None, "T-175");
    let past = now - Duration::from_secs(1);
    file.set_cluster_nodes("h", &list(&["a"]), past);
    file.set_repo("h", "r", &list(&["a"]), past);
    assert_eq!((file.cluster_nodes("h", now), file.nodes("h", "r", now)), (None, None), "T-173");
}

#[test]
fn t176_a_missing_directory_is_an_empty_cache() {
    let cache = NodeCache::new("/no/such/directory");
    assert_eq!(cache.read().unwrap().to_json(), b"{}");
    assert_eq!(cache.lookup("h", "r"), None);
}

#[test]
fn s243_what_is_no_cache_is_an_empty_one() {
    let deep = "[".repeat(100_000);
    let blanks = " ".repeat(17 * 1024 * 1024);
    let bom = format!("\u{feff}{WRITTEN}");
    let nested = format!("{{\"c\":{{\"x\":{}1{}}}}}", "[".repeat(31), "]".repeat(31));
    let (open, close) = ("[".repeat(29), "]".repeat(29));
    let in_repo = format!("{{\"c\":{{\"repos\":{{\"r\":{{\"x\":{open}1{close}}}}}}}}}");
    let down = in_repo.replace("\"x\"", "\"down_until\"");
    // (row, text)
    let table: Vec<(&str, &[u8])> = vec![
        ("T-177", b"not json"),
        ("SV-N03", b"null"),
        ("SV-N03", b"[]"),
        ("SV-N03", b"\"x\""),
        ("SV-N03", b"{\"a\":1}"),
        ("SV-N03", b"{\"c\":null}"),
        ("SV-N03", b"{\"c\":{\"repos\":[]}}"),
        ("SV-N05", deep.as_bytes()),
        ("SV-N05", blanks.as_bytes()),
        ("SV-N05", b"{\"\xff\":{}}"),
        ("SV-N05", bom.as_bytes()),
        ("SV-N05", nested.as_bytes()),
        ("SV-N05", in_repo.as_bytes()),
        ("SV-N05", down.as_bytes()),
    ];
    for (row, text) in table {
        assert_eq!(CacheFile::parse(text).to_json(), b"{}", "{row}");
    }
    // One level less is what others may keep there.
    for text in [&nested, &in_repo, &down] {
        let text = text.replacen('[', "", 1).replacen(']', "", 1);
        assert_ne!(CacheFile::parse(text.as_bytes()).to_json(), b"{}", "{text}");
    }
}

#[test]
fn s244_sv_n02_times_that_are_none_are_expired() {
    for time in [
        r#""9999-12-31T23:59:59Z""#,
        r#""9999-12-31T23:59:59.999999999-23:59""#,
        r#""0001-01-01T00:00:00+23:59""#,
        r#""NaN""#,
        "1e400",
        "17",
        "null",
    ] {
        let text = WRITTEN.replace(r#""2026-01-02T15:04:05.123456789Z""#, time);
        let file = CacheFile::parse(text.as_bytes());
        assert_eq!(file.nodes(HOST, "et/project/repo", back_then()), None, "{time}");
        let mut file = file;
        file.prune(SystemTime::now());
    }
    let missing = WRITTEN.replace(r#""expires_at""#, r#""expired_at""#);
    assert_eq!(CacheFile::parse(missing.as_bytes()).nodes(HOST, "et/project/repo", back_then()), None);
    for offset in ["2026-01-02T16:04:05+01:00", "2026-01-02T15:04:05Z", "2026-01-02T10:04:05.1-05:00"] {
        let text = WRITTEN.replace("2026-01-02T15:04:05.123456789Z", offset);
        assert!(CacheFile::parse(text.as_bytes()).nodes(HOST, "et/project/repo", back_then()).is_some());
    }
}

#[test]
fn sv_n04_a_truncated_file_is_empty_or_the_good_one() {
    for end in 0..=WRITTEN.len() {
        let json = CacheFile::parse(&WRITTEN.as_bytes()[..end]).to_json();
        assert!(json == b"{}" || json == WRITTEN.as_bytes(), "cut at {end}");
    }
}

#[test]
fn sv_n06_sv_n07_too_many_nodes_and_odd_keys() {
    let now = SystemTime::now();
    let mut file = CacheFile::default();
    let many: Vec<String> = (0..10_000).map(|n| format!("https://n{n}")).collect();
    file.set_cluster_nodes("../../x", &many, now + DAY);
    file.set_repo("\x1b[2J\n", "r", &many, now + DAY);
    let file = CacheFile::parse(&file.to_json());
    assert_eq!(file.cluster_nodes("../../x", now).unwrap().len(), 32);
    assert_eq!(file.nodes("\x1b[2J\n", "r", now).unwrap().len(), 32);
}

#[test]
fn the_last_of_equal_keys_wins() {
    let text = br#"{"a":{"nodes":["x"]},"a":{"nodes":["y"],"nodes":["z"],"nodes_expires_at":"2026-01-02T15:04:05Z"}}"#;
    assert_eq!(CacheFile::parse(text).cluster_nodes("a", back_then()), Some(list(&["z"])));
}

#[test]
fn a_cooling_replica_is_left_out_and_comes_back() {
    let now = SystemTime::now();
    let mut file = CacheFile::default();
    file.set_repo("h", "r", &list(&["a", "b"]), now + DAY);
    file.cool_down("h", "r", "a", now, now + Duration::from_secs(60));
    file.cool_down("h", "r", "unknown", now, now + Duration::from_secs(60));
    file.cool_down("h", "elsewhere", "a", now, now + Duration::from_secs(60));
    let file = CacheFile::parse(&file.to_json());
    assert_eq!(file.usable_nodes("h", "r", now), Some(list(&["b"])));
    assert_eq!(file.nodes("h", "r", now), Some(list(&["a", "b"])), "the list itself is as it was");
    assert_eq!(file.usable_nodes("h", "r", now + Duration::from_secs(61)), Some(list(&["a", "b"])));
    assert!(!String::from_utf8(file.to_json()).unwrap().contains("unknown"));
    let mut all = file.clone();
    all.cool_down("h", "r", "b", now, now + Duration::from_secs(60));
    assert_eq!(all.usable_nodes("h", "r", now), None, "nobody left is as good as nothing known");
    all.prune(now + Duration::from_secs(61));
    assert!(!String::from_utf8(all.to_json()).unwrap().contains("down_until"));
    // A shape that is not ours is nobody's error.
    let odd = WRITTEN.replace(r#""expires_at""#, r#""down_until": [1], "expires_at""#);
    assert!(CacheFile::parse(odd.as_bytes()).usable_nodes(HOST, "et/project/repo", back_then()).is_some());
}

#[test]
fn what_expired_a_week_ago_is_pruned() {
    let now = SystemTime::now();
    let mut file = CacheFile::default();
    file.set_repo("h", "old", &list(&["a"]), now - 8 * DAY);
    file.set_repo("h", "recent", &list(&["a"]), now - 6 * DAY);
    file.prune(now);
    let text = String::from_utf8(file.to_json()).unwrap();
    assert!(!text.contains("old") && text.contains("recent"), "{text}");
}

#[tokio::test]
async fn t188_replicas_are_remembered_and_forgotten() {
    let (_directory, cache) = cache();
    let nodes = list(&["https://n1.c", "https://n2.c"]);
    cache.persist("c", "r", &nodes).await;
    assert_eq!(cache.lookup("c", "r"), Some(nodes.clone()));
    let mode = |name: &str| fs::metadata(dir_of(&cache).join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("."), mode("nodes.json")), (0o700, 0o600));
    assert!(!dir_of(&cache).join("nodes.json.tmp").exists());
    cache.invalidate("c", "r").await;
    assert_eq!(cache.lookup("c", "r"), None);
    for (cluster, repo, nodes) in [("", "r", &nodes[..]), ("c", "", &nodes), ("c", "r", &[])] {
        cache.persist(cluster, repo, nodes).await;
    }
    assert_eq!(cache.lookup("c", "r"), None, "nothing is remembered for nobody");
}

#[tokio::test]
async fn t187_the_remote_url_says_what_is_known() {
    let (_directory, cache) = cache();
    let url = url::Url::parse("entire://eu.cluster.example/et/alice/repo").unwrap();
    let nodes = NodeConfig::resolve(&url, Some(&cache)).unwrap();
    assert_eq!(nodes.entry_url.as_deref(), Some("https://eu.cluster.example"));
    assert_eq!(nodes.cluster_host.as_deref(), Some("eu.cluster.example"));
    assert_eq!(nodes.repo_path, "et/alice/repo");
    assert!(nodes.initial_nodes.is_empty() && nodes.caching());
    cache.persist(HOST, "et/alice/repo", &list(&["https://n1.eu.cluster.example"])).await;
    let nodes = NodeConfig::resolve(&url, Some(&cache)).unwrap();
    assert_eq!(nodes.initial_nodes, ["https://n1.eu.cluster.example"]);
    let with_port = url::Url::parse("entire://127.0.0.1:9443/et/r").unwrap();
    let nodes = NodeConfig::resolve(&with_port, None).unwrap();
    assert_eq!(nodes.cluster_host.as_deref(), Some("127.0.0.1:9443"));
    assert_eq!(nodes.entry_url.as_deref(), Some("https://127.0.0.1:9443"));
}

#[tokio::test]
async fn s241_sv_n08_a_link_is_neither_read_nor_written() {
    let (directory, cache) = cache();
    cache.persist("c", "r", &list(&["https://n1.c"])).await;
    let elsewhere = directory.path().join("elsewhere.json");
    fs::rename(dir_of(&cache).join("nodes.json"), &elsewhere).unwrap();
    symlink(&elsewhere, dir_of(&cache).join("nodes.json")).unwrap();
    let before = fs::read(&elsewhere).unwrap();
    assert_eq!(cache.lookup("c", "r"), None);
    cache.persist("c", "r2", &list(&["https://n1.c"])).await;
    assert_eq!(fs::read(&elsewhere).unwrap(), before);
    assert!(fs::symlink_metadata(dir_of(&cache).join("nodes.json")).unwrap().is_symlink(), "left alone");
    fs::remove_file(dir_of(&cache).join("nodes.json")).unwrap();
    fs::hard_link(&elsewhere, dir_of(&cache).join("nodes.json")).unwrap();
    assert_eq!(cache.lookup("c", "r"), None, "nor a second name of another file");
}

#[tokio::test]
async fn sv_n09_what_is_no_file_is_absent() {
    let (_directory, cache) = cache();
    fs::create_dir_all(dir_of(&cache).join("nodes.json")).unwrap();
    fs::set_permissions(dir_of(&cache), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(cache.lookup("c", "r"), None, "a directory");
    fs::remove_dir(dir_of(&cache).join("nodes.json")).unwrap();
    let status =
        std::process::Command::new("mkfifo").arg(dir_of(&cache).join("nodes.json")).status().unwrap();
    assert!(status.success());
    assert_eq!(cache.lookup("c", "r"), None, "a fifo, without waiting for its other end");
    cache.persist("c", "r", &list(&["https://n1.c"])).await;
    assert_eq!(cache.lookup("c", "r"), None);
    fs::remove_file(dir_of(&cache).join("nodes.json")).unwrap();
    symlink("/dev/zero", dir_of(&cache).join("nodes.json")).unwrap();
    assert_eq!(cache.lookup("c", "r"), None, "/dev/zero");
}

#[tokio::test]
async fn s240_sv_n10_what_others_may_write_is_not_believed() {
    let (_directory, cache) = cache();
    cache.persist("c", "r", &list(&["https://n1.c"])).await;
    let file = dir_of(&cache).join("nodes.json");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(cache.lookup("c", "r"), None, "ignored");
    cache.persist("c", "r2", &list(&["https://n2.c"])).await;
    assert_eq!(cache.lookup("c", "r2"), Some(list(&["https://n2.c"])), "and replaced");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    fs::set_permissions(dir_of(&cache), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(cache.read(), Err(CacheError::Unsafe { .. })));
    assert_eq!(cache.lookup("c", "r2"), None);
    let before = fs::read(&file).unwrap();
    cache.persist("c", "r3", &list(&["https://n3.c"])).await;
    assert_eq!(fs::read(&file).unwrap(), before, "nor is it written to");
}

#[tokio::test]
async fn sv_n10_s240_what_belongs_to_somebody_else_is_not_used() {
    if !rustix::process::geteuid().is_root() {
        peerage_tests::skipped(
            "sv_n10_s240_what_belongs_to_somebody_else_is_not_used",
            "only root gives files away",
        );
        return;
    }
    let (_directory, cache) = cache();
    cache.persist("c", "r", &list(&["https://n1.c"])).await;
    let file = dir_of(&cache).join("nodes.json");
    chown(&file, Some(12_345), None).unwrap();
    assert_eq!(cache.lookup("c", "r"), None, "ignored");
    cache.persist("c", "r2", &list(&["https://n2.c"])).await;
    assert_eq!(cache.lookup("c", "r2"), Some(list(&["https://n2.c"])), "and replaced");
    chown(dir_of(&cache), Some(12_345), None).unwrap();
    assert!(matches!(cache.read(), Err(CacheError::Unsafe { .. })));
    let before = fs::read(&file).unwrap();
    cache.persist("c", "r3", &list(&["https://n3.c"])).await;
    assert_eq!((cache.lookup("c", "r2"), fs::read(&file).unwrap()), (None, before));
}

#[tokio::test]
async fn s242_sv_n11_a_planted_temporary_file_is_not_followed() {
    let (directory, cache) = cache();
    let victim = directory.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    fs::create_dir_all(dir_of(&cache)).unwrap();
    fs::set_permissions(dir_of(&cache), fs::Permissions::from_mode(0o700)).unwrap();
    symlink(&victim, dir_of(&cache).join("nodes.json.tmp")).unwrap();
    cache.persist("c", "r", &list(&["https://n1.c"])).await;
    assert_eq!(fs::read(&victim).unwrap(), b"precious");
    assert_eq!(cache.lookup("c", "r"), Some(list(&["https://n1.c"])));
}

#[tokio::test]
async fn sv_n13_a_file_swapped_for_a_link_meanwhile_is_never_followed() {
    let (directory, cache) = cache();
    cache.persist("c", "r", &list(&["https://good.c"])).await;
    let file = dir_of(&cache).join("nodes.json");
    let good = fs::read(&file).unwrap();
    let bait = directory.path().join("bait.json");
    fs::write(&bait, String::from_utf8(good.clone()).unwrap().replace("good", "evil")).unwrap();
    let (path, at) = (file.clone(), bait.clone());
    let swapper = std::thread::spawn(move || {
        for _ in 0..1000 {
            fs::remove_file(&path).unwrap();
            symlink(&at, &path).unwrap();
            fs::remove_file(&path).unwrap();
            fs::write(&path, &good).unwrap();
        }
    });
    while !swapper.is_finished() {
        let found = cache.lookup("c", "r");
        assert!(found.is_none() || found == Some(list(&["https://good.c"])), "{found:?}");
    }
    swapper.join().unwrap();
}

#[tokio::test]
async fn s246_sv_n14_no_cache_is_no_error() {
    let blocked = TempDir::new().unwrap();
    let not_a_directory = blocked.path().join("file");
    fs::write(&not_a_directory, "").unwrap();
    for place in [not_a_directory.join("entire"), "/dev/null/x/entire".into(), "/proc/entire".into()] {
        let cache = NodeCache::new(place);
        cache.persist("c", "r", &list(&["https://n1.c"])).await;
        assert_eq!(cache.lookup("c", "r"), None);
    }
    let directory = |xdg: Option<&str>, home: Option<&str>| {
        cache_directory(xdg.map(Into::into), home.map(Into::into)).map(|path| path.display().to_string())
    };
    assert_eq!(directory(Some("/x"), Some("/h")).as_deref(), Some("/x/entire"));
    assert_eq!(directory(Some(""), Some("/h")).as_deref(), Some("/h/.cache/entire"));
    assert_eq!(directory(Some("rel/ative"), Some("/h")).as_deref(), Some("/h/.cache/entire"));
    assert_eq!(directory(None, None), None);
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_stays_held_times_out() {
    let (_directory, cache) = cache();
    cache.persist("c", "r", &list(&["https://n1.c"])).await;
    let lock = fs::File::options().write(true).open(dir_of(&cache).join("nodes.json.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let error = cache.modify(|_| Ok(())).await.unwrap_err();
    assert!(
        matches!(error, CacheError::LockTimedOut { .. }) && error.to_string().contains("lock"),
        "{error}"
    );
    assert_eq!(cache.lookup("c", "r"), Some(list(&["https://n1.c"])), "reading takes no lock");
    drop(lock);
    cache.modify(|_| Ok(())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_never_sees_half_a_file() {
    let (_directory, cache) = cache();
    cache.persist("c", "first", &list(&["https://n1.c"])).await;
    let writer = cache.clone();
    let writing = tokio::spawn(async move {
        for n in 0..200 {
            writer.persist("c", &format!("r{n}"), &list(&["https://n1.c"])).await;
        }
    });
    while !writing.is_finished() {
        assert!(cache.lookup("c", "first").is_some());
        tokio::task::yield_now().await;
    }
    writing.await.unwrap();
    assert!((0..200).all(|n| cache.lookup("c", &format!("r{n}")).is_some()));
}

#[test]
fn gb12_loading_grows_with_the_file_and_no_faster() {
    let now = SystemTime::now();
    let allocated = |repos: usize| {
        let mut file = CacheFile::default();
        for n in 0..repos {
            let nodes = list(&["https://n1.c", "https://n2.c"]);
            file.set_repo(&format!("c{}", n % 10), &format!("et/p/{n}"), &nodes, now + DAY);
        }
        let text = file.to_json();
        let mut found = None;
        let used =
            peerage_tests::alloc::measure(|| found = CacheFile::parse(&text).nodes("c0", "et/p/0", now));
        assert!(found.is_some());
        used.count_total
    };
    let (few, many) = (allocated(100), allocated(1_000));
    assert!(many <= few * 11, "{many} allocations against {few}");
}

proptest! {
    #[test]
    fn any_text_is_some_cache_and_writes_back_the_same(text in any::<Vec<u8>>()) {
        let json = CacheFile::parse(&text).to_json();
        prop_assert_eq!(CacheFile::parse(&json).to_json(), json);
    }

    #[test]
    fn any_json_is_some_cache(text in r#"[{}\[\]",:a-c0-9 nul]{0,60}"#) {
        let json = CacheFile::parse(text.as_bytes()).to_json();
        prop_assert_eq!(CacheFile::parse(&json).to_json(), json);
    }
}
